"""What alarms are made of: each thing that stands still has an age."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from sqlalchemy import text

from dicom_node.store import deliveries
from dicom_node.store.counts import Counts, counts
from dicom_node.store.database import Database
from tests.builders import IMAGE, LEASE, NOW, claim, record, route, scored_job


def counted(database: Database) -> Counts:
    with database.read() as connection:
        return counts(connection)


def test_an_empty_node_waits_for_nothing(database: Database) -> None:
    empty = counted(database)
    assert empty.oldest_queued_at is None
    assert empty.oldest_lease_until is None
    assert empty.unrouted_since is None
    assert empty.undelivered_since == {}
    assert empty.conflicting_instances == 0


def test_a_study_that_nobody_routes_has_an_age_until_it_is_routed(database: Database) -> None:
    record(database, IMAGE)
    later = replace(IMAGE, sop_instance_uid="1.2.3.1.2", digest="c" * 64)
    record(database, replace(later, received_at=NOW + timedelta(seconds=5)))
    assert counted(database).unrouted_since == NOW + timedelta(seconds=5)
    assert route(database) is not None
    assert counted(database).unrouted_since is None


def test_a_job_that_runs_has_the_end_of_its_lease(database: Database) -> None:
    record(database, IMAGE)
    route(database)
    assert counted(database).oldest_lease_until is None
    assert claim(database) is not None
    assert counted(database).oldest_lease_until == NOW + LEASE


def test_other_bytes_under_a_known_uid_are_counted(database: Database) -> None:
    record(database, IMAGE)
    record(database, IMAGE)
    assert counted(database).conflicting_instances == 0
    record(database, replace(IMAGE, digest="c" * 64, path="instances/cc/cc/c.dcm"))
    assert counted(database).conflicting_instances == 1


def test_what_a_dead_courier_never_tried_to_send_has_an_age_too(database: Database) -> None:
    scored_job(database)
    waiting = counted(database)
    assert waiting.undelivered_since == {"PACS": NOW, "ARCHIVE": NOW}
    assert waiting.deliveries == {("PACS", "pending"): 1, ("ARCHIVE", "pending"): 1}
    with database.begin() as connection:
        deliveries.claim_deliveries(
            connection,
            destination="PACS",
            token="t",
            lease=LEASE,
            limit=9,
            now=NOW + timedelta(hours=1),
        )
        connection.execute(
            text("UPDATE deliveries SET state = 'parked' WHERE destination = 'ARCHIVE'")
        )
    assert counted(database).undelivered_since == {"PACS": NOW + timedelta(hours=1)}
