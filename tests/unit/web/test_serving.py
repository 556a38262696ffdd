"""The real server on a free port: where it listens and how it stops."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from dicom_node.config import NodeConfig, load_config
from dicom_node.store.database import open_database
from dicom_node.web.server import DRAIN_SECONDS, serve_web

PATIENCE = 20.0


@contextmanager
def serving(config: NodeConfig) -> Iterator[tuple[int, threading.Event, threading.Thread]]:
    database = open_database(config.sqlalchemy_url)
    database.upgrade()
    stop, ports = threading.Event(), queue.Queue[int]()
    thread = threading.Thread(
        target=serve_web, args=(config, database, stop), kwargs={"on_bound": ports.put}
    )
    thread.start()
    try:
        yield ports.get(timeout=PATIENCE), stop, thread
    finally:
        stop.set()
        thread.join(PATIENCE)
        database.close()


def settings(home: Path, host: str) -> NodeConfig:
    web = {"host": host, "port": 0}
    return load_config(None, {"home": home, "web": web, "dicom": {"minimum_free_bytes": 0}})


def has_ipv6_loopback() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize(("host", "name"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
def test_port_0_takes_a_free_port_and_says_which(tmp_path: Path, host: str, name: str) -> None:
    if ":" in host and not has_ipv6_loopback():
        pytest.skip("this machine has no IPv6 loopback address")
    with serving(settings(tmp_path, host)) as (port, _, _):
        answer = httpx.get(f"http://{name}:{port}/readyz", timeout=PATIENCE)
        assert answer.json() == {"problems": []}
        assert "server" not in answer.headers


def test_a_stop_ends_the_server_though_a_client_holds_its_connection(tmp_path: Path) -> None:
    with (
        serving(settings(tmp_path, "127.0.0.1")) as (port, stop, thread),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE) as held,
    ):
        held.get("/healthz").raise_for_status()
        before = time.monotonic()
        stop.set()
        thread.join(PATIENCE)
        assert not thread.is_alive()
        assert time.monotonic() - before < DRAIN_SECONDS
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=PATIENCE)


def test_a_port_that_is_taken_is_an_error(tmp_path: Path) -> None:
    config = load_config(None, {"home": tmp_path})
    database = open_database(config.sqlalchemy_url)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        web = {"host": "127.0.0.1", "port": taken.getsockname()[1]}
        blocked = load_config(None, {"home": tmp_path, "web": web})
        with pytest.raises(OSError, match="in use"):
            serve_web(blocked, database, threading.Event(), on_bound=lambda _: None)
    database.close()
