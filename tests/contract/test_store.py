"""What the store promises, on SQLite and on PostgreSQL alike."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from dicom_node.domain.jobs import InvalidTransition, JobStage, JobState
from dicom_node.domain.study import Role
from dicom_node.store import (
    deliveries,
    jobs,
    outcomes,
    overview,
    recovery,
    routing,
    settlements,
    studies,
)
from dicom_node.store.database import Connection, Database
from dicom_node.store.models import known_models, offered_version, record_model
from dicom_node.store.tables import metadata
from tests.builders import (
    IMAGE,
    LEASE,
    NOW,
    PREDICTION,
    claim,
    complete_study,
    new_job,
    record,
    route,
    scored_job,
)


def job(database: Database, job_id: int) -> dict[str, object]:
    with database.read() as connection:
        return overview.job_rows(connection, store_dir=Path("/s"), job_id=job_id)[0]


def test_the_migrations_build_exactly_the_tables_of_the_code(database: Database) -> None:
    found, head = database.schema_state()
    assert found == head
    with database.read() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, metadata) == []


def test_upgrading_twice_changes_nothing(database: Database) -> None:
    scored_job(database)
    database.upgrade()
    assert job(database, 1)["state"] == "scored"


def test_the_same_bytes_again_change_nothing(database: Database) -> None:
    assert record(database, IMAGE) == "stored"
    route(database)
    again = replace(IMAGE, received_at=NOW + LEASE, association="assoc-2")
    assert record(database, again) == "duplicate"
    with database.read() as connection:
        assert studies.open_studies(connection) == []
        assert overview.study_rows(connection)[0]["instances"] == 1


def test_the_same_uid_with_other_bytes_is_kept_and_flagged_but_not_scored(
    database: Database,
) -> None:
    record(database, IMAGE)
    assert record(database, replace(IMAGE, digest="9" * 64, path="x")) == "conflict"
    route(database)
    held = claim(database)
    assert held is not None
    assert [item.path for item in held.inputs] == [IMAGE.path]
    with database.read() as connection:
        detail = overview.study_detail(connection, "1.2.3")
    assert detail is not None
    assert detail["series_list"][0]["conflicts"] == 1
    assert any(event["action"] == "instance_conflict" for event in detail["events"])


def test_a_late_image_opens_a_new_revision_whose_job_names_the_one_before(
    database: Database,
) -> None:
    first = scored_job(database)
    late = replace(
        IMAGE, sop_instance_uid="1.2.3.1.2", digest="8" * 64, received_at=NOW + timedelta(hours=1)
    )
    assert record(database, late) == "stored"
    second = route(database, now=NOW + timedelta(hours=2), digest="2" * 64)
    assert second is not None
    assert job(database, second)["revision"] == 2
    held = claim(database, now=NOW + timedelta(hours=2))
    assert held is not None
    assert held.predecessor_id == first
    with database.read() as connection:
        assert outcomes.predecessor_results(connection, held) == {"SR": "r/1"}


def test_a_result_coming_back_opens_no_revision(database: Database) -> None:
    scored_job(database)
    ours = replace(IMAGE, sop_instance_uid="2.25.1", digest="7" * 64, role=Role.RESULT)
    assert record(database, ours) == "result"
    with database.read() as connection:
        assert studies.open_studies(connection) == []


def test_a_study_is_not_completed_behind_the_back_of_a_new_image(database: Database) -> None:
    record(database, IMAGE)
    with database.read() as connection:
        (before,) = studies.open_studies(connection)
    record(
        database,
        replace(
            IMAGE,
            sop_instance_uid="1.2.3.1.9",
            digest="6" * 64,
            received_at=NOW + timedelta(seconds=1),
        ),
    )
    with database.begin() as connection:
        assert not studies.complete_study(connection, before, because="test", now=NOW)


def test_the_same_study_input_and_model_give_one_job_only(database: Database) -> None:
    record(database, IMAGE)
    assert route(database) is not None
    with database.begin() as connection:
        connection.execute(text("UPDATE studies SET state = 'complete'"))
    assert route(database) is None


def test_many_workers_never_hold_one_job_together(database: Database) -> None:
    for number in range(20):
        uid = f"1.9.{number}"
        record(
            database,
            replace(
                IMAGE,
                study_instance_uid=uid,
                sop_instance_uid=uid + ".1",
                digest=f"{number:064x}",
            ),
        )
        route(database, digest=f"{number:064x}")
    taken: list[int] = []
    failures: list[BaseException] = []

    def work(name: str) -> None:
        try:
            while (held := claim(database, token=name)) is not None:
                taken.append(held.id)
        except BaseException as error:  # noqa: BLE001 - carried to the test's thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(f"t{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert len(taken) == 20
    assert len(set(taken)) == 20


def test_the_urgent_job_goes_first(database: Database) -> None:
    for number, priority in enumerate((50, 10)):
        record(
            database,
            replace(
                IMAGE,
                study_instance_uid=f"1.8.{number}",
                sop_instance_uid=f"1.8.{number}.1",
                digest=f"{number:064x}",
            ),
        )
        job_id = route(database, digest=f"{number:064x}")
        with database.begin() as connection:
            connection.execute(
                text("UPDATE jobs SET priority = :p WHERE id = :i"), {"p": priority, "i": job_id}
            )
    held = claim(database)
    assert held is not None
    assert held.study_instance_uid == "1.8.1"


def test_an_expired_lease_returns_the_job_and_the_old_worker_cannot_write(
    database: Database,
) -> None:
    record(database, IMAGE)
    route(database)
    stale = claim(database, token="old")
    assert stale is not None
    later = NOW + LEASE * 2
    with database.begin() as connection:
        assert recovery.return_expired(connection, max_attempts=2, now=later) == [stale.id]
    fresh = claim(database, token="new", now=later)
    assert fresh is not None
    with pytest.raises(jobs.LeaseLost), database.begin() as connection:
        outcomes.settle_predicted(connection, stale, PREDICTION, prediction_path="p", now=later)
    with pytest.raises(jobs.LeaseLost), database.begin() as connection:
        jobs.extend_lease(connection, stale, lease=LEASE, now=later)
    with database.begin() as connection:
        outcomes.settle_predicted(connection, fresh, PREDICTION, prediction_path="p", now=later)
    assert len(job(database, fresh.id)["findings"]) == 1  # type: ignore[arg-type]


def test_a_job_that_kills_its_worker_twice_is_quarantined_and_can_be_brought_back(
    database: Database,
) -> None:
    record(database, IMAGE)
    job_id = route(database)
    assert job_id is not None
    later = NOW
    for _ in range(2):
        assert claim(database, now=later) is not None
        later += LEASE * 2
        with database.begin() as connection:
            recovery.return_expired(connection, max_attempts=2, now=later)
    assert job(database, job_id)["state"] == "parked"
    assert "quarantined" in str(job(database, job_id)["reason"])
    assert claim(database, now=later) is None
    with database.begin() as connection:
        assert recovery.retry_job(connection, job_id, now=later) is JobState.QUEUED
    assert claim(database, now=later) is not None


def test_a_dead_workers_jobs_go_back_at_once_and_count_as_attempts(database: Database) -> None:
    record(database, IMAGE)
    route(database)
    assert claim(database) is not None
    with database.begin() as connection:
        recovery.expire_worker(connection, worker="w", now=NOW)
        assert recovery.return_expired(connection, max_attempts=2, now=NOW) != []
    held = claim(database)
    assert held is not None
    assert held.attempts == 2


def offer(connection: Connection, version: str = "2.0.0") -> None:
    record_model(
        connection,
        name="cxr",
        version=version,
        weights_sha256=None,
        description={},
        reason=None,
        now=NOW,
    )


def job_without_model(database: Database) -> int:
    """A job whose model no scorer has offered yet."""
    record(database, IMAGE)
    with database.begin() as connection:
        complete = complete_study(connection, now=NOW)
        job_id = routing.add_job(
            connection,
            replace(new_job(complete, "1" * 64), model_version=""),
            now=NOW,
            stage=JobStage.WAIT_FOR_MODEL,
            reason="model cxr is not offered",
        )
        routing.mark_routed(connection, complete, [])
    assert job_id is not None
    assert claim(database) is None
    return job_id


def test_a_job_waits_for_its_model_until_a_scorer_offers_it(database: Database) -> None:
    job_without_model(database)
    with database.begin() as connection:
        offer(connection)
    held = claim(database)
    assert held is not None
    assert held.model_version == "2.0.0"


@pytest.mark.parametrize("first", ["retry", "offer"])
def test_a_job_that_was_parked_while_it_waited_for_its_model_still_gets_it(
    database: Database, first: str
) -> None:
    job_id = job_without_model(database)
    record(
        database, replace(IMAGE, sop_instance_uid="1.2.3.9", digest="7" * 64, identity_digest="8")
    )
    assert job(database, job_id)["state"] == "parked"
    with database.begin() as connection:
        if first == "offer":
            offer(connection)
        recovery.retry_job(connection, job_id, now=NOW)
    if first == "retry":
        assert claim(database) is None
        assert job(database, job_id)["reason"] == "model cxr is not offered by any scorer yet"
        with database.begin() as connection:
            offer(connection)
    held = claim(database)
    assert held is not None
    assert held.model_version == "2.0.0"


def test_a_job_that_waited_for_the_work_of_another_ends(database: Database) -> None:
    record(database, IMAGE)
    with database.begin() as connection:
        complete = complete_study(connection, now=NOW)
        known = new_job(complete, "1" * 64)
        twin = routing.add_job(connection, replace(known, model_version="2.0.0"), now=NOW)
        waiting = routing.add_job(
            connection,
            replace(known, model_version=""),
            now=NOW,
            stage=JobStage.WAIT_FOR_MODEL,
        )
        routing.mark_routed(connection, complete, [])
        offer(connection)
    assert waiting is not None
    assert job(database, waiting)["state"] == "refused"
    assert str(job(database, waiting)["reason"]).startswith(f"job {twin} ")
    held = claim(database)
    assert held is not None
    assert held.id == twin
    assert claim(database) is None


def test_scorers_that_start_together_offer_a_model_once(database: Database) -> None:
    failed: list[Exception] = []

    def second() -> None:
        try:
            with database.begin() as connection:
                offer(connection)
        except Exception as error:  # noqa: BLE001 - told to the test's own thread
            failed.append(error)

    thread = threading.Thread(target=second)
    with database.begin() as connection:
        offer(connection)
        thread.start()
        thread.join(0.5)  # it waits for our transaction
    thread.join(30)
    assert failed == []
    with database.read() as connection:
        assert [model.version for model in known_models(connection)] == ["2.0.0"]


def test_a_job_is_delivered_once_every_destination_has_every_object(database: Database) -> None:
    job_id = scored_job(database)
    for destination, state in (("PACS", "scored"), ("ARCHIVE", "delivered")):
        with database.begin() as connection:
            (delivery,) = deliveries.claim_deliveries(
                connection, destination=destination, token="d", lease=LEASE, limit=9, now=NOW
            )
            again = deliveries.claim_deliveries(
                connection, destination=destination, token="e", lease=LEASE, limit=9, now=NOW
            )
            assert again == []
            settlements.settle_delivered(connection, delivery, remark=None, now=NOW)
        assert job(database, job_id)["state"] == state


def test_a_parked_delivery_parks_the_job_until_a_person_retries_it(database: Database) -> None:
    job_id = scored_job(database)
    with database.begin() as connection:
        (sent,) = deliveries.claim_deliveries(
            connection, destination="PACS", token="d", lease=LEASE, limit=9, now=NOW
        )
        settlements.settle_delivered(connection, sent, remark=None, now=NOW)
        (refused,) = deliveries.claim_deliveries(
            connection, destination="ARCHIVE", token="d", lease=LEASE, limit=9, now=NOW
        )
        settlements.settle_parked(connection, refused, error="no such SOP class", now=NOW)
    assert job(database, job_id)["state"] == "parked"
    assert job(database, job_id)["reason"] == "delivery to ARCHIVE: no such SOP class"
    with database.begin() as connection:
        assert recovery.retry_job(connection, job_id, now=NOW) is JobState.SCORED
        assert deliveries.due_destinations(connection, now=NOW) == ["ARCHIVE"]
    with pytest.raises(InvalidTransition), database.begin() as connection:
        recovery.retry_job(connection, job_id, now=NOW)


def test_a_study_that_no_route_took_is_put_before_the_rules_again(database: Database) -> None:
    record(database, IMAGE)
    with database.begin() as connection:
        complete = complete_study(connection, now=NOW)
        routing.mark_routed(connection, complete, [])
        nobody = replace(new_job(complete, "1" * 64), model="", model_version="")
        job_id = routing.add_job(
            connection, nobody, now=NOW, state=JobState.REFUSED, stage=JobStage.DONE
        )
        assert job_id is not None
        assert routing.next_complete_study(connection) is None
    with database.begin() as connection:
        assert recovery.retry_job(connection, job_id, now=NOW) is JobState.REFUSED
        assert routing.next_complete_study(connection) is not None


def test_the_newest_offered_version_of_a_model_is_chosen(database: Database) -> None:
    with database.begin() as connection:
        for version, reason, seen in (
            ("1", None, NOW),
            ("2", None, NOW + LEASE),
            ("3", "bad", NOW),
        ):
            record_model(
                connection,
                name="m",
                version=version,
                weights_sha256=None,
                description={},
                reason=reason,
                now=seen,
            )
        assert offered_version(connection, "m", None) == "2"
        assert offered_version(connection, "m", "1") == "1"
        assert offered_version(connection, "m", "3") is None


def test_job_overview_gives_one_line_a_job(database: Database) -> None:
    scored_job(database)
    with database.read() as connection:
        (row,) = connection.execute(text("SELECT * FROM job_overview")).mappings()
    assert (row["finding"], row["images"], row["results"], row["pending"]) == ("Pneumonia", 1, 1, 2)
