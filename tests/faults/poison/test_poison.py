"""A study that kills its scorer or never ends is parked with its evidence; the others go on.

So is one whose report does. A film that fills the memory takes long to make: `soak/soak_greedy.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dicom_node.guard import EXIT_STATUS
from dicom_node.process import memory_of
from tests.e2e.harness import storescu, wait_for
from tests.e2e.studies import radiograph
from tests.faults.poison.evidence import quarantined
from tests.faults.stages import StageKeeper

pytestmark = [pytest.mark.dcmtk, pytest.mark.slow]

TIME_LIMIT = 5
MEMORY_LIMIT = 2_000_000_000


def test_poison_is_parked_after_two_attempts_with_its_evidence(
    keep_stages: Callable[..., StageKeeper], tmp_path: Path
) -> None:
    keeper = keep_stages(scoring={"job_timeout": TIME_LIMIT, "lease": 60})
    port = keeper.config.dicom.port
    assert port is not None

    # Its scorer dies.
    keeper.arm("score.after_claim", "kill")
    storescu(port, [radiograph(tmp_path, "deadly")])
    wait_for(lambda: len(keeper.deaths) == 1, 60, "the first death")
    keeper.arm("score.after_claim", "kill")
    storescu(port, [radiograph(tmp_path, "good-1")])
    deadly = quarantined(keeper, 2)
    assert deadly["job_id"] == 1
    assert "killed by signal 9 (SIGKILL)" in deadly["reason"]
    assert all("SIGKILL" in item["error"] for item in deadly["attempt_log"])

    # It never ends.
    with keeper.database.begin() as connection:
        connection.exec_driver_sql("UPDATE jobs SET state = 'scored' WHERE state = 'parked'")
    keeper.arm("score.after_predict", "sleep:300")
    storescu(port, [radiograph(tmp_path, "endless")])
    wait_for(lambda: len(keeper.deaths) == 3, 60, "the third death")
    keeper.arm("score.after_predict", "sleep:300")
    storescu(port, [radiograph(tmp_path, "good-2")])
    endless = quarantined(keeper, 4)
    assert f"time limit of {TIME_LIMIT} s" in endless["reason"]
    for item in endless["attempt_log"]:
        assert TIME_LIMIT <= item["seconds"] < TIME_LIMIT + 4
        assert item["peak_memory_bytes"] > 100_000_000

    assert len(keeper.deaths) == 4
    assert {stage for stage, _ in keeper.deaths} == {"score-worker"}


@pytest.mark.parametrize(
    ("limits", "action", "reason"),
    [
        ({"job_timeout": TIME_LIMIT}, "sleep:300", f"time limit of {TIME_LIMIT} s"),
        (
            {"job_memory_bytes": MEMORY_LIMIT},
            f"fill:{3 * MEMORY_LIMIT}",
            f"memory limit of {MEMORY_LIMIT} bytes",
        ),
    ],
    ids=["hangs", "fills the memory"],
)
def test_a_report_that_does_harm_is_parked_and_the_others_go_on(
    keep_stages: Callable[..., StageKeeper],
    tmp_path: Path,
    limits: dict[str, int],
    action: str,
    reason: str,
) -> None:
    # A lease that ends by itself would be the reason on a machine too busy for heartbeats.
    keeper = keep_stages(scoring=limits | {"lease": 60})
    assert (memory_of(keeper.pid("score-worker")) or 0) < MEMORY_LIMIT - 300_000_000
    port = keeper.config.dicom.port
    assert port is not None

    keeper.arm("report.after_build", action)
    storescu(port, [radiograph(tmp_path, "poison")])
    wait_for(lambda: len(keeper.deaths) == 1, 60, "the first death")
    keeper.arm("report.after_build", action)
    storescu(port, [radiograph(tmp_path, "good")])

    poison = quarantined(keeper, 2, stage="report")
    assert poison["job_id"] == 1
    assert poison["stage"] == "report"
    assert reason in poison["reason"]
    for item in poison["attempt_log"][1:]:
        assert reason in item["error"]
        assert item["peak_memory_bytes"] < 2 * MEMORY_LIMIT
    assert keeper.deaths == [("score-worker", EXIT_STATUS)] * 2
