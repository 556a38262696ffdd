"""The long crash matrix: every step many times, drains, PostgreSQL killed, the supervisor killed.

Not collected by `make test`; `make soak` runs it. SOAK_ROUNDS is the number of rounds (20).
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from dicom_node.config_destinations import DestinationConfig
from dicom_node.failpoint import STEPS
from dicom_node.store.database import open_database
from tests.e2e.harness import Node, wait_for
from tests.faults.crash import CrashMatrix, films, study_uids
from tests.faults.postgres import KillablePostgres
from tests.faults.stages import STAGES, StageKeeper, radiograph_routes
from tests.faults.tally import (
    Archive,
    Row,
    left_in_inbox,
    print_matrix,
    send_until_acknowledged,
    settled,
    tally,
)

ROUNDS = int(os.environ.get("SOAK_ROUNDS", "20"))
SEED = int(os.environ.get("SOAK_SEED", "1"))
OUTAGE_SECONDS = 3.0
# A stage works within this time of an image; a fault at a random moment of it hits anything.
WORK_SECONDS = 1.5

pytestmark = [pytest.mark.dcmtk, pytest.mark.slow, pytest.mark.timeout(0)]


def check(title: str, rows: list[Row], inbox: Path) -> None:
    print_matrix(title, rows)
    assert [row for row in rows if not row.clean] == []
    wait_for(lambda: not left_in_inbox(inbox), 30, "the inbox is empty")


def test_every_step_is_killed(crash_matrix: CrashMatrix) -> None:
    rows = [crash_matrix.kill([step], ROUNDS) for step in STEPS]
    keeper = crash_matrix.keeper
    check("SIGKILL at every step (SQLite)", rows, keeper.config.inbox_dir)
    killed = len(STEPS) * ROUNDS
    wait_for(lambda: len(keeper.deaths) == killed, 10, f"{killed} deaths")


def later(act: Callable[[], None], generator: random.Random) -> Callable[[], threading.Thread]:
    """Do something at a random moment of the work that follows."""

    def start() -> threading.Thread:
        timer = threading.Timer(generator.uniform(0, WORK_SECONDS), act)
        timer.start()
        return timer

    return start


def test_every_stage_is_drained_and_killed_at_random_moments(crash_matrix: CrashMatrix) -> None:
    keeper, generator = crash_matrix.keeper, random.Random(SEED)
    rows = []
    for name, number in (("SIGTERM", signal.SIGTERM), ("SIGKILL", signal.SIGKILL)):
        for stage in STAGES:

            def end(stage: str = stage, number: int = number) -> None:
                keeper.signal(stage, number)

            rows.append(crash_matrix.fault(f"{name} {stage}", ROUNDS, later(end, generator)))

    def end_all() -> None:
        for stage in STAGES:
            keeper.signal(stage, signal.SIGKILL)

    rows.append(crash_matrix.fault("SIGKILL all", ROUNDS, later(end_all, generator)))
    check("Ended at random moments (SQLite)", rows, keeper.config.inbox_dir)


@pytest.fixture
def postgres() -> Iterator[KillablePostgres]:
    server = KillablePostgres()
    yield server
    server.close()


@pytest.mark.postgres
def test_postgresql_is_killed_and_comes_back(
    postgres: KillablePostgres,
    keep_stages: Callable[..., StageKeeper],
    counting_archive: Archive,
    tmp_path: Path,
) -> None:
    keeper = keep_stages(send_to=[counting_archive.scp.peer], database_url=postgres.url)
    matrix = CrashMatrix(keeper, counting_archive, tmp_path / "sent")
    generator = random.Random(SEED)

    def outage() -> None:
        postgres.kill()
        time.sleep(OUTAGE_SECONDS)
        postgres.start()

    rows = [
        matrix.fault("PostgreSQL killed", ROUNDS, later(outage, generator), seconds=90),
    ]
    # The steps whose work an outage cuts in two, with the server killed in the middle.
    for step in ("score.after_claim", "score.after_store", "report.after_store"):

        def pause_and_kill(step: str = step) -> threading.Thread:
            keeper.arm(step, "sleep:1")

            def wait_and_kill() -> None:
                wait_for(lambda: keeper.fired(step), 60, step)
                outage()

            thread = threading.Thread(target=wait_and_kill)
            thread.start()
            return thread

        rows.append(
            matrix.fault(f"PostgreSQL killed at {step}", ROUNDS, pause_and_kill, seconds=90)
        )
    check("PostgreSQL killed for 3 s", rows, keeper.config.inbox_dir)
    assert keeper.quarantined() == 0


def test_the_supervisor_is_killed(counting_archive: Archive, tmp_path: Path) -> None:
    """`serve` itself, with its stages: they end by themselves and the next `serve` goes on."""
    generator = random.Random(SEED)
    home = tmp_path / "node"
    routes = radiograph_routes(home / "routes.yaml")
    node = Node(home, {"send_to": [counting_archive.scp.peer], "routes_file": str(routes)})
    rounds = max(1, ROUNDS // 4)
    sent: list[Path] = []
    node.start()
    try:
        for number in range(rounds):
            files = films(tmp_path / "sent", f"supervisor-{number}")
            peer = DestinationConfig(ae_title="DICOM_NODE", host="127.0.0.1", port=node.port)
            send_until_acknowledged(peer, files)
            time.sleep(generator.uniform(0, WORK_SECONDS))
            if number % 2:
                node.kill_all()
            else:
                assert node.process is not None
                node.process.kill()
                node.process.wait()
            node.start()
            sent += files
            uids = study_uids(files)
            wait_for(partial(settled_at, node, uids), 150, "studies delivered")
        database = open_database(node.config.sqlalchemy_url)
        try:
            row = tally(
                "serve killed", rounds, database, node.config.store_dir, counting_archive, sent
            )
        finally:
            database.close()
        check("Supervisor killed", [row], node.config.inbox_dir)
    finally:
        node.stop()


def settled_at(node: Node, uids: list[str]) -> bool:
    database = open_database(node.config.sqlalchemy_url)
    try:
        return settled(database, uids)
    finally:
        database.close()
