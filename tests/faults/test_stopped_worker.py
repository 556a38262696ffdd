"""A scorer that is told to stop while PostgreSQL is away: its job is not blamed."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from dicom_node.store.tables import attempts
from dicom_node.store.unsettled import FOLDER
from tests.e2e.harness import wait_for
from tests.faults.crash import films, study_uids
from tests.faults.postgres import KillablePostgres
from tests.faults.stages import StageKeeper
from tests.faults.tally import Archive, send_until_acknowledged, settled

pytestmark = [pytest.mark.slow, pytest.mark.dcmtk, pytest.mark.postgres]


@pytest.fixture
def postgres() -> Iterator[KillablePostgres]:
    server = KillablePostgres()
    yield server
    server.close()


def stop_scorer(keeper: StageKeeper) -> None:
    """SIGTERM, and wait for its end; another is started, which needs the database."""
    pid = keeper.pid("score-worker")
    keeper.signal("score-worker", signal.SIGTERM)
    wait_for(lambda: keeper.pid("score-worker") != pid, 30, "the scorer ends")


def test_a_job_survives_any_number_of_scorers_that_stop_while_the_database_is_away(
    postgres: KillablePostgres,
    keep_stages: Callable[..., StageKeeper],
    counting_archive: Archive,
    tmp_path: Path,
) -> None:
    keeper = keep_stages(send_to=[counting_archive.scp.peer], database_url=postgres.url)
    notes = keeper.home / FOLDER
    (film,) = files = films(tmp_path, "stopped", 1)
    keeper.arm("score.after_predict", "sleep:3")
    send_until_acknowledged(keeper.node, files)
    for round_ in range(3):  # more than `scoring.max_attempts`
        wait_for(lambda: keeper.fired("score.after_predict"), 60, "the job is worked on")
        postgres.kill()
        stop_scorer(keeper)
        assert list(notes.iterdir())
        if round_ < 2:
            keeper.arm("score.after_predict", "sleep:3")
        postgres.start()
    wait_for(lambda: settled(keeper.database, study_uids([film])), 60, "delivered")
    assert list(notes.iterdir()) == []
    with keeper.database.read() as connection:
        outcomes = list(connection.execute(select(attempts.c.outcome)).scalars())
    assert "lease_expired" not in outcomes
    assert outcomes.count("retry_later") == 3
