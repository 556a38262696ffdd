"""A result that the disk changes before it is sent is built again, to the very same bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from dicom_node.store.tables import deliveries, events, results
from tests.e2e.harness import wait_for
from tests.faults.crash import films, study_uids
from tests.faults.stages import StageKeeper
from tests.faults.tally import Archive, send_until_acknowledged, settled

pytestmark = [pytest.mark.slow, pytest.mark.dcmtk]


@pytest.fixture
def keeper(tmp_path: Path, counting_archive: Archive) -> Iterator[StageKeeper]:
    """Every stage but the courier."""
    found = StageKeeper(tmp_path / "node", {"send_to": [counting_archive.scp.peer]})
    found.start(("receive", "assemble", "score-worker"))
    yield found
    found.stop()


def result_files(keeper: StageKeeper) -> dict[str, str]:
    """Digest of each stored result by its path."""
    with keeper.database.read() as connection:
        rows = connection.execute(select(results.c.path, results.c.sha256)).all()
    return {row.path: row.sha256 for row in rows}


def test_a_result_that_changed_on_disk_arrives_as_it_was_built(
    keeper: StageKeeper, counting_archive: Archive, tmp_path: Path
) -> None:
    (film,) = files = films(tmp_path, "changed", 1)
    send_until_acknowledged(keeper.node, files)
    built = wait_for(lambda: result_files(keeper), 60, "results are built")
    damaged = keeper.config.store_dir / sorted(built)[0]
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)

    keeper.start_stage("deliver")
    wait_for(lambda: settled(keeper.database, study_uids([film])), 60, "delivered")

    assert result_files(keeper) == built
    assert len(counting_archive.receipts()) == len(built)  # each once, and no other bytes
    with keeper.database.read() as connection:
        actions = list(connection.execute(select(events.c.action)).scalars())
        attempts = list(connection.execute(select(deliveries.c.attempts)).scalars())
    assert actions.count("result_damaged") == actions.count("job_rebuild") == 1
    assert attempts == [1] * len(built)
    (kept,) = (keeper.home / "lost+found").rglob(damaged.name)
    assert kept.read_bytes() == bytes(content)
