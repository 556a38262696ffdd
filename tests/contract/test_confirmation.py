"""What the store promises about confirmation, on SQLite and on PostgreSQL alike."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import text

from dicom_node.domain.commitment import CommitmentReport, CommitmentRequest, Reference
from dicom_node.store import commitments, deliveries, overview, recovery, settlements
from dicom_node.store.commitment_box import ReceivedRequest
from dicom_node.store.database import Database, _alembic_config, open_database
from dicom_node.store.deliveries import PENDING, SENT, Delivery
from tests.builders import LEASE, NOW, scored_job

RESULT_UID = "2.25.1"
LATER = NOW + timedelta(minutes=5)


def taken(
    database: Database, destination: str, *, state: str = PENDING, token: str = "d"
) -> Delivery:
    with database.begin() as connection:
        (delivery,) = deliveries.claim_deliveries(
            connection,
            destination=destination,
            token=token,
            lease=LEASE,
            limit=9,
            now=NOW,
            state=state,
        )
    return delivery


def sent(database: Database, destination: str) -> None:
    delivery = taken(database, destination)
    with database.begin() as connection:
        settlements.settle_sent(connection, delivery, remark=None, now=NOW, run_after=NOW)


def job(database: Database) -> dict[str, object]:
    with database.read() as connection:
        return overview.job_rows(connection, store_dir=Path("/s"))[0]


def test_a_job_is_not_delivered_while_a_destination_has_not_confirmed(database: Database) -> None:
    scored_job(database)
    sent(database, "PACS")
    archive = taken(database, "ARCHIVE")
    with database.begin() as connection:
        settlements.settle_delivered(connection, archive, remark=None, now=NOW)
    assert job(database)["state"] == "scored"
    with database.read() as connection:
        assert deliveries.undelivered_since(connection) == {"PACS": NOW}
        line = connection.execute(text("SELECT delivered, pending, sent FROM job_overview")).one()
    assert tuple(line) == (1, 0, 1)
    asked = taken(database, "PACS", state=SENT)
    assert (asked.attempts, asked.asked, asked.study_instance_uid) == (1, 1, "1.2.3")
    with database.begin() as connection:
        settlements.settle_delivered(connection, asked, remark="confirmed", now=NOW)
    assert job(database)["state"] == "delivered"


def test_a_report_settles_what_another_worker_holds_and_that_worker_cannot_write_any_more(
    database: Database,
) -> None:
    scored_job(database)
    sent(database, "PACS")
    held = taken(database, "PACS", state=SENT, token="asking")
    with database.begin() as connection:
        commitments.open_transaction(connection, "2.25.7", [held], destination="PACS", now=NOW)
    with database.begin() as connection:
        assert commitments.close_transaction(connection, "2.25.7", now=NOW) == "PACS"
        (found,) = deliveries.sent_to(connection, "PACS", [RESULT_UID, "2.25.404"])
        assert found.transaction_uid == "2.25.7"
        settlements.settle_delivered(connection, found, remark=None, now=NOW)
    with database.begin() as connection:
        settlements.settle_postponed(connection, held, error="late", run_after=LATER)
    (delivery, _) = job(database)["deliveries"]  # type: ignore[misc]
    assert (delivery["state"], delivery["last_error"]) == ("delivered", None)


def test_a_transaction_that_is_not_ours_names_no_destination(database: Database) -> None:
    with database.begin() as connection:
        assert commitments.close_transaction(connection, "2.25.404", now=NOW) is None


def test_what_was_denied_is_due_again_and_a_person_starts_afresh(database: Database) -> None:
    scored_job(database)
    sent(database, "PACS")
    asked = taken(database, "PACS", state=SENT)
    with database.begin() as connection:
        settlements.settle_denied(connection, asked, error="lost", now=NOW, run_after=NOW)
    again = taken(database, "PACS")
    assert (again.attempts, again.denials, again.transaction_uid) == (2, 1, None)
    archive = taken(database, "ARCHIVE")
    with database.begin() as connection:
        settlements.settle_parked(connection, again, error="lost again", now=NOW)
        settlements.settle_delivered(connection, archive, remark=None, now=NOW)
        recovery.retry_job(connection, again.job_id, now=NOW)
    fresh = taken(database, "PACS")
    # One stays: the object may be at the destination.
    assert (fresh.attempts, fresh.denials, fresh.state) == (2, 0, PENDING)


def test_a_question_waits_for_its_time_also_when_the_clock_is_set_back(database: Database) -> None:
    scored_job(database)
    delivery = taken(database, "PACS")
    with database.begin() as connection:
        settlements.settle_sent(connection, delivery, remark=None, now=NOW, run_after=LATER)
    with database.read() as connection:
        assert deliveries.due_destinations(connection, now=NOW) == ["ARCHIVE"]
        before = deliveries.due_destinations(connection, now=NOW - timedelta(hours=1))
        assert sorted(before) == ["ARCHIVE", "PACS"]


def test_one_courier_only_takes_an_answer(database: Database, tmp_path: Path) -> None:
    request = CommitmentRequest("2.25.8", (Reference("1.2", "1.2.3"),))
    received = ReceivedRequest(tmp_path / "n.json", "n", "CT1", NOW, request)
    answer = CommitmentReport("2.25.8", (), ((request.references[0], 0x0112),))
    with database.begin() as connection:
        assert commitments.add_request(connection, received, answer, run_after=LATER)
        assert commitments.add_request(connection, received, answer, run_after=LATER)
        assert commitments.owed_answers(connection, now=NOW) == []
        (owed,) = commitments.owed_answers(connection, now=LATER)
        assert commitments.claim_answer(connection, owed, now=LATER, lease=LEASE)
        assert not commitments.claim_answer(connection, owed, now=LATER, lease=LEASE)
        commitments.settle_answer(connection, owed, now=LATER)
        assert not commitments.add_request(connection, received, answer, run_after=LATER)
        assert commitments.requests_by_state(connection) == {"answered": 1}


def test_a_database_of_the_first_schema_keeps_its_outbox(database_url: str) -> None:
    database = open_database(database_url)
    with database.begin() as connection:
        command.upgrade(_alembic_config(connection), "0001")
    rows = (
        "INSERT INTO studies (id, study_instance_uid, revision, state, first_received_at,"
        " last_received_at, calling_ae_title) VALUES (1, '1.2.3', 1, 'routed',"
        " '2026-01-02 03:04:05', '2026-01-02 03:04:05', 'CT1')",
        "INSERT INTO jobs (id, study_id, study_instance_uid, revision, route, model,"
        " model_version, input_digest, state, stage, priority, out_of_scope, result_kinds,"
        " report_refusals, destinations, attempts, run_after, received_at, completed_at,"
        " created_at) VALUES (1, 1, '1.2.3', 1, 'r', 'm', '1', 'd', 'scored', 'done', 50,"
        " 'refuse', '[]', TRUE, '[]', 0, '2026-01-02 03:04:05', '2026-01-02 03:04:05',"
        " '2026-01-02 03:04:05', '2026-01-02 03:04:05')",
        "INSERT INTO results (id, job_id, kind, sop_class_uid, sop_instance_uid,"
        " series_instance_uid, path, sha256, created_at) VALUES (1, 1, 'SR', '1.2', '2.25.1',"
        " '2.25.2', 'r/1', 'x', '2026-01-02 03:04:05')",
        "INSERT INTO deliveries (id, job_id, result_id, destination, state, attempts,"
        " first_attempt_at, run_after) VALUES (1, 1, 1, 'PACS', 'pending', 2,"
        " '2026-01-02 03:04:05', '2026-01-02 03:04:05')",
    )
    with database.begin() as connection:
        for statement in rows:
            connection.execute(text(statement))
    database.upgrade()
    kept = taken(database, "PACS")
    assert (kept.attempts, kept.asked, kept.denials, kept.state) == (3, 0, 0, PENDING)
    with database.begin() as connection:
        settlements.settle_sent(connection, kept, remark=None, now=NOW, run_after=NOW)
        with pytest.raises(Exception, match="state"):
            connection.execute(text("UPDATE deliveries SET state = 'nonsense'"))
        connection.rollback()
    database.close()
