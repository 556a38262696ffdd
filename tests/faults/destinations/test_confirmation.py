"""Delivered means confirmed: by status, by storage commitment, by query."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from pynetdicom.sop_class import CTImageStorage, Verification

from dicom_node.domain.commitment import CommitmentReport, Reference
from dicom_node.receive.scp import Receiver
from tests.builders import IMAGE, record
from tests.faults.destinations.outbox import Outbox
from tests.faults.destinations.peers import Archive, report_to, verdict

MakeOutbox = Callable[..., Outbox]
SOON = timedelta(seconds=30)


def by_commitment(archive: Archive, make_outbox: MakeOutbox, **settings: object) -> Outbox:
    """An outbox whose one destination confirms by storage commitment."""
    wait = 1 if archive.report_to == "same" else 0
    peer = archive.destination(
        **{"confirm": "storage_commitment", "commitment_wait": wait} | settings
    )
    return make_outbox({"PACS": peer})


def test_success_of_the_c_store_is_enough_by_default(
    archive: Archive, make_outbox: MakeOutbox
) -> None:
    outbox = make_outbox({"PACS": archive.destination()})
    uid = outbox.add(["PACS"])
    outbox.step()
    assert outbox.only_delivery()["state"] == "delivered"
    assert (archive.stored, archive.requests, archive.looks) == ([uid], [], 0)


def test_an_answer_on_the_association_of_the_request_confirms(
    archive: Archive, make_outbox: MakeOutbox
) -> None:
    outbox = by_commitment(archive, make_outbox)
    uid = outbox.add(["PACS"])
    outbox.step()
    waiting = outbox.only_delivery()
    assert (waiting["state"], waiting["attempts"]) == ("sent", 1)
    assert waiting["last_error"] == "storage commitment requested, no answer yet"
    assert outbox.jobs()[0]["state"] == "scored"
    assert outbox.metric("PACS", "sent") == 1
    outbox.step()
    assert outbox.only_delivery()["state"] == "delivered"
    assert outbox.jobs()[0]["state"] == "delivered"
    (request,) = archive.requests
    assert request.references == (Reference(str(CTImageStorage), uid),)
    assert archive.reported == [0x0000]


def test_an_answer_over_an_association_of_its_own_confirms_though_the_database_is_not_there(
    archive: Archive, make_outbox: MakeOutbox
) -> None:
    archive.report_to = None
    outbox = by_commitment(archive, make_outbox, commitment_wait=0)
    outbox.add(["PACS"])
    outbox.step()
    receiver = Receiver(outbox.config.model_copy(update={"database_url": None}))
    port = receiver.start()
    try:
        assert report_to(port, verdict(archive.requests[0], None)) == 0x0000
    finally:
        receiver.stop()
    assert outbox.only_delivery()["state"] == "sent"
    outbox.courier = outbox.new_courier()
    outbox.step()
    assert outbox.only_delivery()["state"] == "delivered"


def test_what_was_lost_there_is_sent_again(archive: Archive, make_outbox: MakeOutbox) -> None:
    archive.reasons = [0x0112]
    outbox = by_commitment(archive, make_outbox)
    uid = outbox.add(["PACS"])
    outbox.steps(2, timedelta(0))
    denied = outbox.only_delivery()
    assert denied["state"] == "pending"
    assert denied["last_error"].endswith("reason 0x0112: no such object instance")
    outbox.steps(2, SOON)
    assert outbox.only_delivery()["state"] == "delivered"
    assert archive.stored == [uid, uid]


def test_what_was_lost_there_is_not_sent_again_once_the_patient_is_in_doubt(
    archive: Archive, make_outbox: MakeOutbox
) -> None:
    archive.reasons = [0x0112]
    outbox = by_commitment(archive, make_outbox)
    uid = outbox.add(["PACS"])
    outbox.step()
    assert outbox.only_delivery()["state"] == "sent"
    of_another = replace(
        IMAGE,
        study_instance_uid="2.25.11",
        sop_instance_uid="2.25.5100",
        digest="9" * 64,
        identity_digest="e" * 64,
    )
    record(outbox.database, of_another)
    outbox.steps(3, SOON)
    (job,) = outbox.jobs()
    assert job["state"] == "parked"
    assert "not sent again: the study's images carry 2 different identities" in job["reason"]
    assert archive.stored == [uid]


def test_what_is_lost_there_again_and_again_is_parked(
    archive: Archive, make_outbox: MakeOutbox
) -> None:
    archive.reasons = [0x0112] * 9
    outbox = by_commitment(archive, make_outbox)
    outbox.add(["PACS"])
    outbox.steps(12, SOON)
    (job,) = outbox.jobs()
    assert job["state"] == "parked"
    assert "it took the object 3 times and has it not" in job["reason"]
    assert len(archive.stored) == 3
    assert outbox.metric("PACS", "parked") == 1


@pytest.mark.parametrize(
    ("reason", "state", "asked"),
    [
        (0x0119, "parked", 1),
        (0x0122, "parked", 1),
        (0x0110, "delivered", 2),
        (0x0213, "delivered", 2),
    ],
)
def test_the_failure_reason_decides_between_asking_again_and_a_person(
    reason: int, state: str, asked: int, archive: Archive, make_outbox: MakeOutbox
) -> None:
    archive.reasons = [reason]
    outbox = by_commitment(archive, make_outbox)
    outbox.add(["PACS"])
    outbox.steps(5, SOON)
    assert outbox.only_delivery()["state"] == state
    assert (len(archive.stored), len(archive.requests)) == (1, asked)


def test_an_unanswered_request_is_made_again_and_the_answer_to_any_of_them_counts(
    archive: Archive, make_outbox: MakeOutbox
) -> None:
    archive.report_to = None
    outbox = by_commitment(archive, make_outbox, commitment_within=600)
    outbox.add(["PACS"])
    outbox.steps(19, timedelta(minutes=1))
    first, second = archive.requests
    assert first.transaction_uid != second.transaction_uid
    assert first.references == second.references
    assert len(archive.stored) == 1
    outbox.courier = outbox.new_courier()  # one that remembers nothing
    receiver = Receiver(outbox.config)
    port = receiver.start()
    try:
        assert report_to(port, verdict(first, 0x0112)) == 0x0000  # the newer request is still open
        outbox.step()
        assert outbox.only_delivery()["state"] == "sent"
        assert report_to(port, verdict(first, None)) == 0x0000
        outbox.step()
    finally:
        receiver.stop()
    assert outbox.only_delivery()["state"] == "delivered"


def test_a_destination_that_never_answers_is_given_up_with_the_reason(
    archive: Archive, make_outbox: MakeOutbox
) -> None:
    archive.report_to = None
    outbox = by_commitment(archive, make_outbox, commitment_within=1800)
    outbox.add(["PACS"])
    outbox.steps(50, timedelta(minutes=30))
    (job,) = outbox.jobs()
    assert job["state"] == "parked"
    assert "storage commitment was requested 48 times and never answered" in job["reason"]
    assert len(archive.stored) == 1


def test_an_answer_with_a_foreign_transaction_confirms_nothing(
    archive: Archive, make_outbox: MakeOutbox
) -> None:
    archive.report_to = None
    outbox = by_commitment(archive, make_outbox)
    uid = outbox.add(["PACS"])
    outbox.step()
    receiver = Receiver(outbox.config)
    forged = CommitmentReport("2.25.666", (Reference(str(CTImageStorage), uid),))
    try:
        assert report_to(receiver.start(), forged) == 0x0000
    finally:
        receiver.stop()
    outbox.step()
    assert outbox.only_delivery()["state"] == "sent"


def test_a_destination_without_storage_commitment_is_said_plainly(make_outbox: MakeOutbox) -> None:
    archive = Archive()
    archive.start(classes=(Verification, CTImageStorage))
    outbox = by_commitment(archive, make_outbox)
    outbox.add(["PACS"])
    outbox.step()
    archive.stop()
    (job,) = outbox.jobs()
    assert job["state"] == "parked"
    assert "stored, but cannot be confirmed" in job["reason"]


def test_a_destination_that_goes_away_between_storing_and_asking_is_asked_later(
    archive: Archive, make_outbox: MakeOutbox
) -> None:
    archive.hang_at = "action"
    outbox = by_commitment(archive, make_outbox, response_timeout=0.5)
    outbox.add(["PACS"])
    outbox.step()
    silent = outbox.only_delivery()
    assert silent["state"] == "sent"
    assert "stored, but not confirmed: PEER gave no answer" in silent["last_error"]
    archive.hang_at = None
    outbox.steps(2, SOON)
    assert outbox.only_delivery()["state"] == "delivered"
    assert len(archive.stored) == 1


def test_a_query_confirms_after_a_pause(archive: Archive, make_outbox: MakeOutbox) -> None:
    outbox = make_outbox({"PACS": archive.destination(confirm="query", query_after=10)})
    outbox.add(["PACS"])
    outbox.step()
    assert (outbox.only_delivery()["state"], archive.looks) == ("sent", 0)
    outbox.step(timedelta(seconds=9))
    assert archive.looks == 0
    outbox.step(timedelta(seconds=2))
    assert (outbox.only_delivery()["state"], archive.looks) == ("delivered", 1)


def test_an_archive_that_indexes_slowly_is_asked_again(
    archive: Archive, make_outbox: MakeOutbox
) -> None:
    archive.has = lambda uid: archive.looks >= 3
    outbox = make_outbox({"PACS": archive.destination(confirm="query")})
    outbox.add(["PACS"])
    outbox.steps(2, SOON)
    assert outbox.only_delivery()["last_error"] == "stored, but the query does not find it yet"
    outbox.steps(4, SOON)
    assert outbox.only_delivery()["state"] == "delivered"
    assert len(archive.stored) == 1


def test_what_no_query_finds_is_sent_again_and_parked_in_the_end(
    archive: Archive, make_outbox: MakeOutbox
) -> None:
    archive.has = lambda uid: False
    outbox = make_outbox({"PACS": archive.destination(confirm="query")})
    outbox.add(["PACS"])
    outbox.steps(60, timedelta(minutes=2))
    (job,) = outbox.jobs()
    assert job["state"] == "parked"
    assert "5 queries did not find it (it took the object 3 times and has it not)" in job["reason"]
    assert (len(archive.stored), archive.looks) == (3, 15)


def test_a_duplicate_is_believed_only_when_the_query_finds_it(
    archive: Archive, make_outbox: MakeOutbox
) -> None:
    archive.store_statuses = [0x0111]
    outbox = make_outbox({"PACS": archive.destination(confirm="query")})
    uid = outbox.add(["PACS"])
    outbox.step()
    assert outbox.only_delivery()["state"] == "sent"
    archive.stored.append(uid)  # as an earlier, unanswered C-STORE left it
    outbox.step(SOON)
    assert outbox.only_delivery()["state"] == "delivered"


def test_a_destination_without_query_is_said_plainly(make_outbox: MakeOutbox) -> None:
    archive = Archive()
    archive.start(classes=(CTImageStorage,))
    outbox = make_outbox({"PACS": archive.destination(confirm="query")})
    outbox.add(["PACS"])
    outbox.steps(2, SOON)
    archive.stop()
    assert "stored, but cannot be confirmed" in outbox.jobs()[0]["reason"]
