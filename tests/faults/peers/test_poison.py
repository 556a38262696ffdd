"""Objects that are wrong inside, through every stage: none of them stops one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydicom import dcmread

from dicom_node.deliver.dimse import send_files
from dicom_node.store.overview import job_rows, quarantined_files
from tests.e2e.harness import ENDED, wait_for
from tests.e2e.studies import radiograph
from tests.faults.peers.attacks import POISON
from tests.faults.stages import StageKeeper

_SECONDS = 60.0


def test_a_poisonous_object_is_quarantined_or_refused_and_the_next_study_is_scored(
    keep_stages: Callable[..., StageKeeper], tmp_path: Path
) -> None:
    keeper = keep_stages()
    answers = {attack.name: attack.run(keeper.node.port) for attack in POISON}
    assert answers == {attack.name: "status 0x0000" for attack in POISON}
    path = radiograph(tmp_path, "honest")
    outcomes: list[Any] = []
    send_files(keeper.node, "HONEST", [path], lambda _, outcome: outcomes.append(outcome.status))
    assert outcomes == [0]
    honest = str(dcmread(path).StudyInstanceUID)

    def settled() -> tuple[list[dict[str, Any]], list[dict[str, Any]]] | None:
        with keeper.database.read() as connection:
            jobs = job_rows(connection, store_dir=keeper.config.store_dir)
            files = quarantined_files(connection)
        ended = [job for job in jobs if job["state"] in ENDED]
        return (
            (jobs, files)
            if len(jobs) + len(files) == len(POISON) + 1 == len(ended) + len(files)
            else None
        )

    jobs, files = wait_for(settled, _SECONDS, "every object is settled")
    states = {job["study_instance_uid"]: job["state"] for job in jobs}
    assert states.pop(honest) == "scored"
    assert all(file["reason"] for file in files)
    assert all(job["reason"] for job in jobs if job["state"] in {"refused", "parked", "failed"})
    assert keeper.deaths == []
