"""What a quarantined job shows."""

from __future__ import annotations

from typing import Any

from dicom_node.store.overview import job_detail, job_rows
from tests.e2e.harness import wait_for
from tests.faults.stages import StageKeeper


def jobs_of(keeper: StageKeeper) -> list[dict[str, Any]]:
    """Every job with its attempts, oldest first."""
    with keeper.database.read() as connection:
        ids = [row["job_id"] for row in job_rows(connection, store_dir=keeper.config.store_dir)]
        found = [job_detail(connection, i, store_dir=keeper.config.store_dir) for i in sorted(ids)]
    return [job for job in found if job is not None]


def quarantined(keeper: StageKeeper, count: int, *, stage: str = "score") -> dict[str, Any]:
    """The job that is parked, once `count` jobs exist and all others are scored.

    Parameters
    ----------
    stage
        Where it did harm.
    """

    def ended() -> list[dict[str, Any]] | None:
        jobs = jobs_of(keeper)
        done = [job for job in jobs if job["state"] in {"scored", "parked"}]
        return jobs if len(jobs) == len(done) == count else None

    jobs = wait_for(ended, 90, f"{count} jobs end, see {keeper.home}")
    (parked,) = (job for job in jobs if job["state"] == "parked")
    assert "quarantined" in parked["reason"]
    assert parked["results"] == []
    tried = [item for item in parked["attempt_log"] if item["stage"] == stage]
    assert len(tried) == 2
    assert all(item["worker"] and item["seconds"] is not None for item in tried)
    return dict(parked)
