"""Faults of our own side: killed, out of power, out of disk, overloaded.

Nothing acknowledged is lost, nothing comes twice, nothing is stuck. The long form, every step many
times over, is `make soak`. One file, so that the processes behind it are made ready once.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dicom_node.failpoint import STEPS
from tests.e2e.harness import wait_for
from tests.e2e.studies import radiograph
from tests.faults.crash import CrashMatrix, films, study_uids
from tests.faults.overload import STATION, URGENT_RULE, Pressure, scored_after
from tests.faults.powercut import replay, traced
from tests.faults.stages import STAGES, StageKeeper, radiograph_routes
from tests.faults.tally import (
    Archive,
    left_in_inbox,
    print_matrix,
    send_until_acknowledged,
    settled,
    tally,
)

pytestmark = [pytest.mark.dcmtk, pytest.mark.slow]

# The boundaries where most could go wrong, several in one round; the others are reached without a
# kill.
ROUNDS = (
    ("receive.before_answer", "assemble.after_link", "score.after_claim", "deliver.after_send"),
    ("receive.after_rename", "assemble.after_commit", "score.after_store", "deliver.after_claim"),
    ("route.before_commit", "report.after_store", "deliver.after_commit"),
)


def test_killed_at_its_commit_boundaries_the_node_loses_and_doubles_nothing(
    crash_matrix: CrashMatrix,
) -> None:
    keeper = crash_matrix.keeper
    for step in STEPS:
        keeper.arm(step, "sleep:0")
    files = films(crash_matrix.folder, "untouched")
    send_until_acknowledged(keeper.node, files)
    crash_matrix.wait(files)
    wait_for(lambda: all(map(keeper.fired, STEPS)), 10, "every step is reached")

    rows = [crash_matrix.kill(steps, 1) for steps in ROUNDS]

    print_matrix("Crash matrix, quick part", rows)
    assert [row for row in rows if not row.clean] == []
    killed = sum(map(len, ROUNDS))
    wait_for(lambda: len(keeper.deaths) == killed, 10, f"{killed} deaths")
    wait_for(lambda: not left_in_inbox(keeper.config.inbox_dir), 10, "the inbox is empty")


# Each write of the four stages that keep something, as it fails on a disk that is full.
FULL = ("receive.before_fsync", "assemble.before_link", "score.after_predict", "report.after_build")


def test_a_disk_that_is_full_for_a_moment_delays_and_that_is_all(
    crash_matrix: CrashMatrix,
) -> None:
    keeper = crash_matrix.keeper

    def fill() -> None:
        for step in FULL:
            keeper.arm(step, "error:ENOSPC")

    row = crash_matrix.fault("disk full at every write", 1, fill)

    print_matrix("Disk", [row])
    assert all(map(keeper.fired, FULL))
    assert row.clean
    assert keeper.deaths == []
    assert keeper.attempts() == {"score": 1, "report": 1}


ASSOCIATIONS = (1, 2)  # objects in each


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_a_power_cut_after_any_system_call_takes_nothing_that_was_promised(
    keep_stages: Callable[..., StageKeeper], counting_archive: Archive, tmp_path: Path
) -> None:
    # A long lease: no heartbeat commits while the reporter is writing, so that every commit must
    # find every file finished.
    keeper = keep_stages(send_to=[counting_archive.scp.peer], scoring={"lease": 300})
    matrix = CrashMatrix(keeper, counting_archive, tmp_path / "sent")
    log = tmp_path / "trace"
    with traced([keeper.pid(stage) for stage in STAGES], log):
        for count in ASSOCIATIONS:  # one after the other, for the same reason
            files = films(tmp_path / "sent", f"cut-{count}", count)
            send_until_acknowledged(keeper.node, files)
            matrix.wait(files)

    found = replay(log.read_text(errors="replace"), keeper.home, keeper.port)

    print(
        f"\npower cut after each of {found.moments} system calls: {found.acknowledged} objects "
        f"acknowledged, {len(found.lost)} lost; {found.commits} commits, "
        f"{len(found.named_before_durable)} named a file that was not durable; {found.taken} inbox "
        f"names removed, {len(found.taken_before_committed)} before the commit was durable"
    )
    assert found.acknowledged == found.taken == sum(ASSOCIATIONS)
    assert found.commits > found.acknowledged
    assert found.lost == []
    assert found.named_before_durable == []
    assert found.taken_before_committed == []


BACKLOG = 8
SENDERS = 6


def test_senders_are_told_to_wait_and_what_is_urgent_overtakes(
    keep_stages: Callable[..., StageKeeper], counting_archive: Archive, tmp_path: Path
) -> None:
    keeper = keep_stages(
        send_to=[counting_archive.scp.peer],
        routes_file=str(radiograph_routes(tmp_path / "routes.yaml", urgent=URGENT_RULE)),
        dicom={"max_associations": 2},
    )
    backlog = films(tmp_path / "sent", "overload", BACKLOG)
    urgent = radiograph(tmp_path / "sent", "urgent", StationName=STATION)

    pressure = Pressure(keeper)
    deadline = time.monotonic() + 60
    pressure.send(backlog, senders=SENDERS, deadline=deadline)
    pressure.send([urgent], senders=1, deadline=deadline)
    files = [*backlog, urgent]
    wait_for(lambda: settled(keeper.database, study_uids(files)), 60, "all delivered")

    row = tally("overload", 1, keeper.database, keeper.config.store_dir, counting_archive, files)
    print_matrix("Overload, quick part", [row])
    print(f"answers: {pressure.answers}")
    assert row.clean
    assert pressure.answers["0x0000"] == len(files)
    refused = set(pressure.answers) - {"0x0000"}
    assert refused, "six senders and two associations: some must have been refused"
    assert all("takes no more associations" in answer for answer in refused)
    (urgent_uid,) = study_uids([urgent])
    assert scored_after(keeper, urgent_uid) >= BACKLOG // 4
