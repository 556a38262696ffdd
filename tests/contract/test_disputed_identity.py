"""Another patient's image in a study: nothing goes on that is not sent yet."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from dicom_node.domain.jobs import JobState
from dicom_node.domain.study import InstanceRecord, Role
from dicom_node.store import deliveries, identity, jobs, recovery, settlements
from dicom_node.store.database import Database
from tests.builders import IMAGE, LEASE, NOW, claim, record, route, scored_job
from tests.contract.test_store import job

DOE, ROE = "aaaa - -", "bbbb - -"
NAMED = replace(IMAGE, name_digests=DOE)
SECOND = replace(
    NAMED, sop_instance_uid="1.2.3.2.1", series_instance_uid="1.2.3.2", digest="2" * 64
)
RESENT = replace(NAMED, digest="3" * 64, received_at=NOW + timedelta(hours=1))


def conflict(database: Database, *records: InstanceRecord) -> str | None:
    for item in records:
        record(database, item)
    with database.read() as connection:
        return identity.identity_conflict(connection, 1)


def states(database: Database) -> set[str]:
    with database.read() as connection:
        return set(connection.execute(text("SELECT state FROM deliveries")).scalars())


# What the second series of a study says otherwise than the first, and what is told of it.
SECOND_SERIES: tuple[tuple[dict[str, Any], str], ...] = (
    ({"identity_digest": "e" * 64}, "2 different identities"),
    ({"name_digests": ROE}, "different names"),
    ({"name_digests": "aaaa cccc dddd"}, ""),
    ({"name_digests": "- cccc -"}, ""),
    ({"name_digests": "- - -"}, ""),
    ({"identity_digest": "e" * 64, "role": Role.RESULT}, ""),
)


def test_series_of_one_study_must_be_one_persons(database: Database) -> None:
    for number, (other, told) in enumerate(SECOND_SERIES, 1):
        uid = f"1.2.{number}"
        own = {"study_instance_uid": uid, "digest": f"{number:064x}", "sop_instance_uid": uid}
        record(database, replace(NAMED, **own))
        own |= {"digest": f"{number:063x}f", "sop_instance_uid": uid + ".2"}
        record(database, replace(SECOND, **own, **other))
        with database.read() as connection:
            found = identity.identity_conflict(connection, number) or ""
        assert told in found
        assert bool(told) == bool(found)


def test_names_in_another_script_are_compared_with_their_like(database: Database) -> None:
    third = replace(SECOND, sop_instance_uid="1.2.3.2.2", digest="4" * 64)
    assert conflict(database, NAMED, replace(SECOND, name_digests="- cccc -")) is None
    assert "names" in str(conflict(database, replace(third, name_digests="- dddd -")))


def test_a_study_of_an_older_release_has_no_names_to_compare(database: Database) -> None:
    record(database, NAMED)
    with database.begin() as connection:
        connection.execute(text("UPDATE instances SET name_digests = NULL"))
    assert conflict(database, replace(SECOND, name_digests=ROE)) is None


def test_changed_demographics_on_resend_park_what_waits(database: Database) -> None:
    record(database, NAMED)
    job_id = route(database)
    assert job_id is not None
    assert record(database, replace(RESENT, name_digests=ROE)) == "conflict"
    assert job(database, job_id)["state"] == "parked"
    assert claim(database) is None
    with database.begin() as connection:
        assert recovery.retry_job(connection, job_id, now=NOW) is JobState.QUEUED
    assert claim(database) is not None


def test_a_job_that_runs_loses_its_lease_and_can_write_nothing(database: Database) -> None:
    record(database, NAMED)
    route(database)
    held = claim(database)
    assert held is not None
    record(database, replace(RESENT, name_digests=ROE))
    with pytest.raises(jobs.LeaseLost), database.begin() as connection:
        jobs.extend_lease(connection, held, lease=LEASE, now=NOW)
    assert job(database, held.id)["state"] == "parked"


def test_results_that_wait_for_their_destination_are_held_back_until_a_person_decides(
    database: Database,
) -> None:
    job_id = scored_job(database)
    with database.begin() as connection:
        (sent,) = deliveries.claim_deliveries(
            connection, destination="PACS", token="d", lease=LEASE, limit=9, now=NOW
        )
        settlements.settle_delivered(connection, sent, remark=None, now=NOW)
    record(database, replace(RESENT, identity_digest="e" * 64))
    assert job(database, job_id)["state"] == "parked"
    assert states(database) == {"delivered", "parked"}
    with database.begin() as connection:
        assert recovery.retry_job(connection, job_id, now=NOW) is JobState.SCORED
    assert states(database) == {"delivered", "pending"}


def test_other_bytes_of_the_same_patient_stop_nothing(database: Database) -> None:
    record(database, NAMED)
    job_id = route(database)
    assert job_id is not None
    assert record(database, RESENT) == "conflict"
    assert job(database, job_id)["state"] == "queued"
