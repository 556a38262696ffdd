"""A worker that ends itself blames one job and gives the others back."""

from __future__ import annotations

from dataclasses import replace

from dicom_node.domain.jobs import JobStage
from dicom_node.store import jobs, recovery
from dicom_node.store.database import Database
from dicom_node.store.evidence import condemn
from tests.builders import IMAGE, LEASE, NOW, record, route
from tests.contract.test_store import job


def test_only_the_job_that_broke_a_limit_has_an_attempt_counted(database: Database) -> None:
    held = []
    for number in (1, 2):
        uid = f"1.9.{number}"
        image = replace(
            IMAGE, study_instance_uid=uid, sop_instance_uid=uid, digest=f"{number:064x}"
        )
        record(database, image)
        route(database, digest=image.digest)
        with database.begin() as connection:
            claimed = jobs.claim_job(
                connection,
                stages=[JobStage.SCORE],
                worker="w",
                token=f"t{number}",
                lease=LEASE,
                now=NOW,
            )
        assert claimed is not None
        held.append(claimed)
    greedy, neighbour = held
    with database.begin() as connection:
        condemn(connection, greedy, worker="w", how="memory limit", peak_memory_bytes=9, now=NOW)
        recovery.expire_worker(connection, worker="w", now=NOW, how="ended with status 71")
        recovery.return_expired(connection, max_attempts=1, now=NOW)
    assert "memory limit" in str(job(database, greedy.id)["reason"])
    assert job(database, greedy.id)["state"] == "parked"
    assert job(database, neighbour.id)["state"] == "queued"
    assert job(database, neighbour.id)["attempts"] == 0
