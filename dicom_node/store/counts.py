"""How many there are of what: the numbers for health pages and metrics."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection, func, select

from dicom_node.store.commitments import requests_by_state
from dicom_node.store.deliveries import undelivered_since
from dicom_node.store.tables import deliveries, events, instances, jobs, models, quarantine, studies


@dataclass(frozen=True, slots=True)
class Counts:
    """What `counts` read, in one transaction."""

    jobs_by_state: dict[str, int]
    deliveries: dict[tuple[str, str], int]  # (destination, state)
    instances: int
    studies_receiving: int
    quarantined: int
    models_offered: int
    pruned_bytes: int
    oldest_queued_at: datetime | None
    undelivered_since: dict[str, datetime] = field(default_factory=dict)  # by destination
    commitment_requests: dict[str, int] = field(default_factory=dict)  # of senders, by state
    damaged_results: int = 0  # times that stored bytes were found changed before they were sent
    conflicting_instances: int = 0  # other bytes under a SOP Instance UID that was known
    oldest_lease_until: datetime | None = None  # of the running jobs
    unrouted_since: datetime | None = None  # newest image of the study that waits longest


def counts(connection: Connection) -> Counts:
    """Read every number of `Counts`."""
    by_state = select(jobs.c.state, func.count()).group_by(jobs.c.state)
    sent = select(deliveries.c.destination, deliveries.c.state, func.count()).group_by(
        deliveries.c.destination, deliveries.c.state
    )
    number = connection.execute(
        select(
            select(func.count()).select_from(instances).scalar_subquery(),
            select(func.count()).where(studies.c.state == "receiving").scalar_subquery(),
            select(func.count()).select_from(quarantine).scalar_subquery(),
            select(func.count()).where(models.c.state == "offered").scalar_subquery(),
            *(
                select(func.coalesce(func.sum(table.c.pruned_bytes), 0)).scalar_subquery()
                for table in (instances, jobs, quarantine)
            ),
            select(func.count()).where(events.c.action == "result_damaged").scalar_subquery(),
            select(func.count(instances.c.conflicts_with)).scalar_subquery(),
        )
    ).one()
    lease = connection.execute(
        select(func.min(jobs.c.lease_until)).where(jobs.c.state == "running")
    ).scalar_one()
    unrouted = connection.execute(
        select(func.min(studies.c.last_received_at)).where(studies.c.state != "routed")
    ).scalar_one()
    oldest = connection.execute(
        select(jobs.c.created_at)
        .where(jobs.c.state == "queued")
        .order_by(jobs.c.created_at)
        .limit(1)
    ).scalar_one_or_none()
    return Counts(
        jobs_by_state=dict(connection.execute(by_state).tuples().all()),
        deliveries={
            (destination, state): count
            for destination, state, count in connection.execute(sent).tuples()
        },
        instances=number[0],
        studies_receiving=number[1],
        quarantined=number[2],
        models_offered=number[3],
        pruned_bytes=int(sum(number[4:7])),
        oldest_queued_at=oldest,
        undelivered_since=undelivered_since(connection),
        commitment_requests=requests_by_state(connection),
        damaged_results=number[7],
        conflicting_instances=number[8],
        oldest_lease_until=lease,
        unrouted_since=unrouted,
    )
