"""A study that kills its scorer or never ends is parked with its evidence; the others go on.

One that fills the memory takes long to make: `soak/soak_greedy.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.harness import storescu, wait_for
from tests.e2e.studies import radiograph
from tests.faults.poison.evidence import quarantined
from tests.faults.stages import StageKeeper

pytestmark = [pytest.mark.dcmtk, pytest.mark.slow]

TIME_LIMIT = 5


def test_poison_is_parked_after_two_attempts_with_its_evidence(
    keep_stages: Callable[..., StageKeeper], tmp_path: Path
) -> None:
    keeper = keep_stages(scoring={"job_timeout": TIME_LIMIT})
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
