"""The node starts before its database server does, as after a power cut."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_node.config_destinations import DestinationConfig
from tests.e2e.harness import RESULT_SECONDS, Node, StoreScp, wait_for
from tests.e2e.studies import radiograph
from tests.faults.postgres import KillablePostgres
from tests.faults.tally import send_until_acknowledged

pytestmark = [pytest.mark.postgres, pytest.mark.dcmtk, pytest.mark.slow]


@pytest.fixture
def postgres() -> Iterator[KillablePostgres]:
    server = KillablePostgres()
    yield server
    server.close()


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[StoreScp]:
    scp = StoreScp(tmp_path / "archive")
    scp.start()
    yield scp
    scp.stop()


def test_images_are_taken_before_the_database_is_there_and_reported_once_it_is(
    postgres: KillablePostgres, archive: StoreScp, tmp_path: Path
) -> None:
    settings = {"database_url": postgres.url, "send_to": [archive.peer], "web": {"port": None}}
    node = Node(tmp_path / "node", settings)
    postgres.kill()
    node.start()
    try:
        film = radiograph(tmp_path / "sent", "early")
        peer = DestinationConfig(ae_title="DICOM_NODE", host="127.0.0.1", port=node.port)
        assert send_until_acknowledged(peer, [film]) == 0
        assert "started_without_database" in node.log.read_text()
        postgres.start()
        wait_for(lambda: len(archive.files()) == 2, RESULT_SECONDS, "SR and SC in the archive")
        node.wait_for_jobs(1, frozenset({"delivered"}))
    finally:
        node.stop()
