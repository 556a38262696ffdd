"""How long the database may keep its callers waiting, and what they are told then."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable

import pytest
from sqlalchemy import create_engine, text

from dicom_node.store.database import UPGRADE_LOCK, Database, DatabaseUnavailable, open_database


def test_a_lock_that_somebody_keeps_is_waited_for_a_while_only(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicom_node.store.database.LOCK_TIMEOUT_MS", 300)
    database = open_database(database_url)
    database.upgrade()
    rename = text("UPDATE models SET reason = 'x'")
    with database.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO models (name, version, state, description, seen_at)"
                " VALUES ('m', '1', 'offered', '{}', '2026-01-01 00:00:00')"
            )
        )
    started = time.monotonic()
    with database.begin() as holder:
        holder.execute(rename)
        with pytest.raises(DatabaseUnavailable), database.begin() as connection:
            connection.execute(rename)
    assert 0.2 < time.monotonic() - started < 5
    with database.begin() as connection:
        assert connection.execute(rename).rowcount == 1
    database.close()


@pytest.mark.postgres
def test_an_upgrade_waits_for_another_one_however_long(
    new_postgres_url: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicom_node.store.database.LOCK_TIMEOUT_MS", 100)
    database = open_database(new_postgres_url())
    upgrading = threading.Thread(target=database.upgrade)
    with database.begin() as other:
        other.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": UPGRADE_LOCK})
        upgrading.start()
        upgrading.join(1)
        assert upgrading.is_alive()
    upgrading.join(60)
    found, head = database.schema_state()
    assert found == head
    database.close()


@pytest.mark.postgres
def test_a_connection_notices_a_server_whose_host_is_gone(
    new_postgres_url: Callable[[], str],
) -> None:
    url = new_postgres_url()
    database = open_database(f"{url}{'&' if '?' in url else '?'}keepalives_idle=7")
    with database.read() as connection:
        driver = connection.connection.dbapi_connection
        assert driver is not None
        told = driver.info.get_parameters()
    assert told["connect_timeout"] == "10"
    assert told["keepalives_idle"] == "7"  # the URL has its say
    assert int(told["keepalives_interval"]) * int(told["keepalives_count"]) == 30
    assert told["tcp_user_timeout"] == "50000"
    database.close()


def test_a_server_that_never_answers_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        database = open_database(f"postgresql://node@127.0.0.1:{port}/node?connect_timeout=2")
        started = time.monotonic()
        with pytest.raises(DatabaseUnavailable), database.read():
            pass
        assert time.monotonic() - started < 8
        database.close()


def test_a_process_that_uses_all_its_connections_hears_that_it_may_try_again(
    database_url: str,
) -> None:
    database = Database(create_engine(database_url, pool_size=1, max_overflow=0, pool_timeout=0.1))
    with (
        database.read(),
        pytest.raises(DatabaseUnavailable, match="in use"),
        database.begin(),
    ):
        pass
    with database.read() as connection:
        assert connection.execute(text("SELECT 1")).scalar_one() == 1
    database.close()
