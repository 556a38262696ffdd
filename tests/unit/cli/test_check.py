"""`check` finds what would go wrong: each fault is made, and must be told with its remedy."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from pydicom.uid import Comprehensive3DSRStorage, SecondaryCaptureImageStorage
from pynetdicom.ae import ApplicationEntity as AE
from pynetdicom.sop_class import Verification
from sqlalchemy import text

from dicom_node.cli.check import _database
from dicom_node.cli.check_door import ports
from dicom_node.cli.check_home import disk
from dicom_node.cli.check_tls import door, syslog
from dicom_node.cli.verdict import Verdict
from dicom_node.config import NodeConfig
from dicom_node.config_destinations import DestinationConfig
from dicom_node.deliver.probe import refused_results
from dicom_node.errors import ConfigError
from dicom_node.node import prepare
from dicom_node.process import utc_now
from dicom_node.receive.scp import Receiver
from tests.e2e.harness import StoreScp, free_port


def settings(home: Path, **sections: Any) -> NodeConfig:
    values = {"dicom": {"minimum_free_bytes": 0, "port": free_port()}, "web": {"port": None}}
    for name, section in sections.items():
        values[name] = values.get(name, {}) | section
    return NodeConfig.model_validate({"home": home, **values})


def troubles(examine: Callable[[NodeConfig], Iterator[Verdict]], config: NodeConfig) -> set[str]:
    """What it found, each with a remedy."""
    found = [verdict for verdict in examine(config) if verdict.state != "ok"]
    assert all(verdict.mend for verdict in found)
    return {verdict.found for verdict in found}


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[StoreScp]:
    """A running `storescp`."""
    scp = StoreScp(tmp_path / "archive")
    scp.start()
    yield scp
    scp.stop()


@pytest.fixture
def listen() -> Iterator[Callable[[bytes], int]]:
    """Start a server that answers everything with the same bytes; returns its port."""
    with ExitStack() as stack:

        def start(answer: bytes) -> int:
            server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

            def serve() -> None:
                while True:
                    try:
                        connection, _ = server.accept()
                    except OSError:
                        return
                    with connection:
                        connection.settimeout(2)
                        if connection.recv(4096):
                            connection.sendall(answer)

            thread = threading.Thread(target=serve)
            thread.start()
            stack.callback(thread.join, 10)
            stack.callback(server.shutdown, socket.SHUT_RDWR)
            return int(server.getsockname()[1])

        yield start


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Callable[..., int]]:
    """Start a receiver; returns its port."""
    with ExitStack() as stack:

        def start(**dicom: Any) -> int:
            started = Receiver(settings(tmp_path / "node", dicom={"port": 0, **dicom}))
            stack.callback(started.stop)
            return started.start()

        yield start


def test_a_free_port_is_fine_and_so_is_one_with_the_node_behind_it(
    receiver: Callable[..., int], tmp_path: Path
) -> None:
    assert troubles(ports, settings(tmp_path)) == set()
    peers: Any = [{"calling_ae_title": "CT1"}]
    for rules in ({}, {"peers": peers}):
        port = receiver(**rules)
        (found,) = ports(settings(tmp_path, dicom={"port": port, **rules}))
        assert (found.state, found.found) == ("ok", f"127.0.0.1:{port}: the node answers")


@pytest.mark.dcmtk
def test_another_dicom_program_on_the_port_is_no_node(archive: StoreScp, tmp_path: Path) -> None:
    (told,) = troubles(ports, settings(tmp_path, dicom={"port": archive.port}))
    assert "something else answers" in told


@pytest.mark.parametrize("part", ["dicom", "web"])
def test_a_port_that_another_program_has_is_told(
    part: str, listen: Callable[[bytes], int], tmp_path: Path
) -> None:
    port = listen(b"HTTP/1.0 200 OK\r\n\r\nhello")
    (told,) = troubles(ports, settings(tmp_path, **{part: {"port": port}}))
    assert told.startswith(f"127.0.0.1:{port}: something else answers than this node")


def test_a_port_that_is_bound_and_silent_or_of_another_machine_is_told(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        (told,) = troubles(ports, settings(tmp_path, dicom={"port": port}))
        assert told == f"127.0.0.1:{port}: taken by another program"
    (told, _) = sorted(troubles(ports, settings(tmp_path, dicom={"host": "192.0.2.1"})))
    assert told.endswith("no address of this machine")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "pacs.example.org"])
def test_doors_that_stand_open_are_told(host: str, tmp_path: Path) -> None:
    config = settings(tmp_path, dicom={"host": host}, web={"host": host, "port": free_port()})
    told = " ".join(troubles(ports, config))
    assert "may send images" in told
    assert "there is no login" in told
    listed = config.dicom.model_copy(update={"calling_ae_titles": ("CT1",)})
    assert not listed.takes_anybody


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "::1", "localhost"])
def test_loopback_needs_no_warning(host: str, tmp_path: Path) -> None:
    config = settings(tmp_path, dicom={"host": host}, web={"host": host, "port": 8080})
    assert not config.dicom.takes_anybody
    assert not config.web.is_open


def test_a_home_that_others_may_read_is_told(tmp_path: Path) -> None:
    config = settings(tmp_path / "home")
    prepare(config).close()
    assert troubles(disk, config) == set()
    config.home.chmod(0o755)
    assert troubles(disk, config) == set()  # what lies in it is closed
    (config.home / "node.db").chmod(0o644)
    config.store_dir.chmod(0o755)
    (told,) = troubles(disk, config)
    assert "may read node.db, store in" in told


def test_a_disk_that_is_full_or_nearly_so_is_told(tmp_path: Path) -> None:
    disk_now = os.statvfs(tmp_path)
    free = disk_now.f_bavail * disk_now.f_frsize
    for floor, state in ((free * 2, "failed"), (free * 3 // 4, "warning")):
        found = list(disk(settings(tmp_path, dicom={"minimum_free_bytes": floor})))
        assert [verdict.state for verdict in found] == [state]


def test_a_users_file_that_others_may_read_is_told(tmp_path: Path) -> None:
    users = tmp_path / "users.yaml"
    users.write_text("viewer:\n")
    users.chmod(0o644)
    config = settings(tmp_path, dicom={"users_file": users})
    (told,) = troubles(door, config)
    assert "may use" in told
    users.chmod(0o600)
    assert troubles(door, config) == set()


def test_a_syslog_server_that_is_away_is_told(tmp_path: Path) -> None:
    server = {"host": "127.0.0.1", "port": free_port(), "tls": {"ca_file": tmp_path / "absent"}}
    (told,) = troubles(syslog, settings(tmp_path, audit={"syslog": server}))
    assert "absent cannot be read" in told
    (told,) = troubles(syslog, settings(tmp_path, audit={"syslog": server | {"tls": {}}}))
    assert told.endswith("Connection refused")


def test_a_database_of_a_newer_version_is_told_and_not_touched(tmp_path: Path) -> None:
    config = settings(tmp_path)
    database = prepare(config)

    def pretend(revision: str) -> None:
        with database.begin() as connection:
            connection.execute(text(f"UPDATE alembic_version SET version_num = '{revision}'"))

    pretend("9999_later")
    (found,) = _database(config)
    assert (found.state, "newer version" in found.mend) == ("failed", True)
    with pytest.raises(ConfigError, match="9999_later is of a newer version"):
        prepare(config)
    pretend("0001")
    (found,) = _database(config)
    database.close()
    assert found.mend == "run `dicom-node db upgrade`"


def test_a_database_that_does_not_answer_is_told_without_its_password(tmp_path: Path) -> None:
    url = "postgresql+psycopg://node:secret47@127.0.0.1:1/node"
    (found,) = _database(settings(tmp_path).model_copy(update={"database_url": SecretStr(url)}))
    assert found.state == "failed"
    assert "127.0.0.1:1" in found.found
    assert "secret47" not in found.found + found.mend


def test_the_clock_of_the_database_server_is_compared(
    new_postgres_url: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(tmp_path).model_copy(update={"database_url": SecretStr(new_postgres_url())})
    prepare(config).close()
    assert troubles(_database, config) == set()
    now = utc_now() + timedelta(seconds=30)
    monkeypatch.setattr("dicom_node.cli.check.utc_now", lambda: now)
    (told,) = troubles(_database, config)
    assert "has another time than this machine" in told


@pytest.mark.dcmtk
def test_an_archive_that_takes_no_results_is_told(archive: StoreScp) -> None:
    storescp = DestinationConfig(ae_title="ARCHIVE", host="127.0.0.1", port=archive.port)
    assert refused_results(storescp, "NODE") == []
    both = [Comprehensive3DSRStorage, SecondaryCaptureImageStorage]
    for taken, refused in ((both[1], both[:1]), (Verification, both)):
        entity = AE()
        entity.add_supported_context(taken)
        server = entity.start_server(("127.0.0.1", 0), block=False)
        try:
            peer = storescp.model_copy(update={"port": server.server_address[1]})
            assert refused_results(peer, "NODE") == refused
        finally:
            server.shutdown()
