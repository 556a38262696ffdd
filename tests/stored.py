"""A database with files behind its rows, for what looks at both."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path

from sqlalchemy import text

from dicom_node.domain.retention import RetentionPolicy
from dicom_node.domain.study import InstanceRecord
from dicom_node.store.database import Database
from dicom_node.store.files import instance_path, write_durably
from dicom_node.store.pruning import Pruner
from tests.builders import IMAGE, NOW, record, route

DAY = timedelta(days=1)
POLICY = RetentionPolicy(delivered=DAY, refused=DAY, waived=DAY, quarantined=DAY)
LATER = NOW + 2 * DAY


@dataclass
class Store:
    """A database with files behind its rows."""

    database: Database
    folder: Path
    free_bytes: int = 10**12

    def pruner(self, policy: RetentionPolicy = POLICY, now: datetime = LATER) -> Pruner:
        return Pruner(self.database, self.folder, policy, lambda: now, lambda: self.free_bytes)

    def study(self, number: int = 1, state: str = "delivered") -> int:
        """A study with an image, a prediction and a result, in this state; returns its job."""
        image = image_of(number)
        write_durably(self.folder / image.path, b"image" * 100)
        record(self.database, image)
        job_id = route(self.database, digest=f"{number:064x}")
        assert job_id is not None
        paths = (f"predictions/{job_id}-t.npz", f"results/{job_id}/2.25.{job_id}.dcm")
        for path in paths:
            write_durably(self.folder / path, path.encode())
        with self.database.begin() as connection:
            connection.execute(
                text(
                    "INSERT INTO results (job_id, kind, sop_class_uid, sop_instance_uid,"
                    " series_instance_uid, path, sha256, created_at)"
                    " SELECT :job, 'SR', '1.2', :uid, '1.3', :path, :sha, created_at"
                    " FROM jobs WHERE id = :job"
                ),
                {
                    "job": job_id,
                    "uid": f"2.25.{job_id}",
                    "path": paths[1],
                    "sha": sha256(paths[1].encode()).hexdigest(),
                },
            )
            connection.execute(
                text(
                    "UPDATE jobs SET state = :state, stage = 'done', prediction_path = :path,"
                    " destinations = '[]', delivered_at = created_at WHERE id = :job"
                ),
                {"state": state, "path": paths[0], "job": job_id},
            )
        return job_id

    def delivery(self, job_id: int, state: str) -> None:
        with self.database.begin() as connection:
            connection.execute(
                text("UPDATE jobs SET destinations = '[\"PACS\"]' WHERE id = :job"), {"job": job_id}
            )
            connection.execute(
                text(
                    "INSERT INTO deliveries (job_id, result_id, destination, state, attempts,"
                    " run_after, asked, denials) SELECT job_id, id, 'PACS', :state, 0, created_at,"
                    " 0, 0 FROM results WHERE job_id = :job"
                ),
                {"job": job_id, "state": state},
            )

    def files(self) -> set[str]:
        found = (path for path in self.folder.rglob("*") if path.is_file())
        return {path.relative_to(self.folder).as_posix() for path in found}


def image_of(number: int) -> InstanceRecord:
    digest = f"{number:x}" * 64
    return replace(
        IMAGE,
        study_instance_uid=f"1.2.{number}",
        sop_instance_uid=f"1.2.{number}.1",
        digest=digest[:64],
        path=instance_path(digest[:64]),
        size=500,
        received_at=NOW + timedelta(minutes=number),
    )
