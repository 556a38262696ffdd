"""The event log: appended in the transaction of the change it tells of."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, insert

from dicom_node.store.tables import events


def add_event(
    connection: Connection,
    *,
    at: datetime,
    action: str,
    study_id: int | None = None,
    job_id: int | None = None,
    detail: str | None = None,
) -> None:
    """Append one event; `detail` holds no patient data."""
    connection.execute(
        insert(events).values(at=at, action=action, study_id=study_id, job_id=job_id, detail=detail)
    )
