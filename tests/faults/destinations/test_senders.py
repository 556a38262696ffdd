"""Senders that ask us for storage commitment hear the truth, one way or the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pynetdicom import AE, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import CTImageStorage
from sqlalchemy import func, select

from dicom_node.domain.commitment import CommitmentReport, CommitmentRequest, Reference
from dicom_node.receive.scp import Receiver
from dicom_node.storage_commitment import PUSH_MODEL, PUSH_MODEL_INSTANCE, write_request
from dicom_node.store.files import instance_path
from dicom_node.store.tables import commitment_requests
from tests.builders import IMAGE, record
from tests.e2e.harness import free_port, wait_for
from tests.faults.destinations.outbox import CT, Outbox
from tests.faults.destinations.peers import Sender

MakeOutbox = Callable[..., Outbox]
CT_CLASS = str(CTImageStorage)
CT_UID = str(dcmread(CT).SOPInstanceUID)
HERE = Reference(CT_CLASS, CT_UID)
SOON = timedelta(seconds=10)


@pytest.fixture
def sender() -> Iterator[Sender]:
    """A modality."""
    peer = Sender()
    peer.port = free_port()
    yield peer
    peer.stop()


@contextmanager
def vouching(make_outbox: MakeOutbox, sender: Sender, **settings: Any) -> Iterator[Any]:
    """An outbox with a receiver that vouches; yields (outbox, port)."""
    destinations = {
        "CT1": {
            "ae_title": sender.ae_title,
            "host": "127.0.0.1",
            "port": sender.port,
            "response_timeout": 2,
        }
    }
    dicom = {"port": 0, "storage_commitment": True, "minimum_free_bytes": 0}
    outbox = make_outbox(destinations | settings.pop("destinations", {}), dicom=dicom, **settings)
    receiver = Receiver(outbox.config, clock=outbox.clock)
    port = receiver.start()
    try:
        yield outbox, port
    finally:
        receiver.stop(timedelta(seconds=1))


def store(association: Any) -> None:
    assert association.send_c_store(dcmread(CT)).Status == 0x0000


def requests(outbox: Outbox) -> dict[str, int]:
    with outbox.database.read() as connection:
        state = commitment_requests.c.state
        query = select(state, func.count()).group_by(state)
        return dict(connection.execute(query).tuples().all())


def test_what_lies_in_the_inbox_is_vouched_for_on_the_association_of_the_request(
    sender: Sender, make_outbox: MakeOutbox
) -> None:
    with vouching(make_outbox, sender) as (outbox, port):
        association = sender.connect(port)
        store(association)
        assert sender.ask(association, "2.25.1", (CT_CLASS, CT_UID)) == 0x0000
        outbox.step()
        wait_for(lambda: sender.heard, 10, "the answer")
        association.release()
        outbox.step(SOON)
    assert sender.heard == [("same", CommitmentReport("2.25.1", (HERE,)))]
    assert requests(outbox) == {"answered": 1}
    assert not list(outbox.config.commitment_dir.rglob("*.*"))


def test_what_lies_in_the_store_is_vouched_for_and_what_does_not_is_not(
    sender: Sender, make_outbox: MakeOutbox
) -> None:
    with vouching(make_outbox, sender) as (outbox, port):
        kept = replace(IMAGE, path=instance_path(IMAGE.digest))
        record(outbox.database, kept)
        gone = replace(IMAGE, sop_instance_uid="1.2.3.1.2", digest="c" * 64, path="instances/gone")
        record(outbox.database, gone)
        file = outbox.config.store_dir / kept.path
        file.parent.mkdir(parents=True)
        file.write_bytes(b"x")
        association = sender.connect(port)
        here = (kept.sop_class_uid, kept.sop_instance_uid)
        pruned = (gone.sop_class_uid, gone.sop_instance_uid)
        other_class = (CT_CLASS, kept.sop_instance_uid)
        unknown = (CT_CLASS, "2.25.404")
        assert sender.ask(association, "2.25.2", here, unknown, pruned) == 0x0000
        outbox.step()
        wait_for(lambda: sender.heard, 10, "the answer")
        assert sender.ask(association, "2.25.3", other_class) == 0x0000
        outbox.step()
        wait_for(lambda: len(sender.heard) == 2, 10, "the second answer")
        association.release()
    (_, first), (_, second) = sender.heard
    failed = ((Reference(*unknown), 0x0112), (Reference(*pruned), 0x0112))
    assert first == CommitmentReport("2.25.2", (Reference(*here),), failed)
    assert second == CommitmentReport("2.25.3", (), ((Reference(*other_class), 0x0119),))


def test_a_sender_that_has_gone_is_called(sender: Sender, make_outbox: MakeOutbox) -> None:
    sender.listen()
    with vouching(make_outbox, sender) as (outbox, port):
        association = sender.connect(port)
        store(association)
        assert sender.ask(association, "2.25.4", (CT_CLASS, CT_UID)) == 0x0000
        association.release()
        outbox.step()
        assert sender.heard == []
        outbox.step(SOON)
    assert sender.heard == [("new", CommitmentReport("2.25.4", (HERE,)))]
    assert requests(outbox) == {"answered": 1}


def test_a_sender_that_is_down_is_called_until_it_is_back(
    sender: Sender, make_outbox: MakeOutbox
) -> None:
    with vouching(make_outbox, sender) as (outbox, port):
        association = sender.connect(port)
        sender.ask(association, "2.25.5", (CT_CLASS, "2.25.404"))
        association.abort()
        outbox.steps(60, timedelta(minutes=1))
        assert requests(outbox) == {"pending": 1}
        sender.listen()
        outbox.courier = outbox.new_courier()
        outbox.steps(16, timedelta(minutes=1))
    ((how, report),) = sender.heard
    assert (how, report.failed) == ("new", ((Reference(CT_CLASS, "2.25.404"), 0x0112),))
    assert requests(outbox) == {"answered": 1}


def test_a_sender_that_cannot_be_called_is_given_up_after_a_day(
    sender: Sender, make_outbox: MakeOutbox
) -> None:
    stranger = Sender("STRANGER")
    with vouching(make_outbox, sender) as (outbox, port):
        association = stranger.connect(port)
        stranger.ask(association, "2.25.6", (CT_CLASS, CT_UID))
        association.release()
        outbox.steps(26 * 2, timedelta(minutes=30))
    assert requests(outbox) == {"parked": 1}
    assert not list(outbox.config.commitment_dir.rglob("*.*"))


def test_a_receiver_that_dies_while_it_answers_leaves_the_answer_to_the_courier(
    sender: Sender, make_outbox: MakeOutbox
) -> None:
    sender.listen()
    with vouching(make_outbox, sender) as (outbox, port):
        association = sender.connect(port)
        sender.ask(association, "2.25.7", (CT_CLASS, CT_UID))
        association.abort()
        outbox.step()
        (answer,) = (outbox.config.commitment_dir / "answers").iterdir()
        answer.rename(answer.with_suffix(".held"))
        outbox.step(SOON)
        assert sender.heard == []
        outbox.step(timedelta(seconds=90))
    assert [how for how, _ in sender.heard] == ["new"]


def test_a_request_is_kept_though_no_courier_runs_and_is_judged_once(
    sender: Sender, make_outbox: MakeOutbox
) -> None:
    sender.listen()
    with vouching(make_outbox, sender) as (outbox, port):
        association = sender.connect(port)
        assert sender.ask(association, "2.25.8", (CT_CLASS, CT_UID)) == 0x0000
        association.release()
        (request,) = (outbox.config.commitment_dir / "requests").iterdir()
        content = request.read_bytes()
        outbox.step()
        request.write_bytes(content)  # as if the removal had not survived a power loss
        outbox.steps(3, SOON)
    assert len(sender.heard) == 1
    assert requests(outbox) == {"answered": 1}


@pytest.mark.parametrize(
    ("action", "references", "status"),
    [
        (2, [(CT_CLASS, CT_UID)], 0x0123),
        (1, [], 0x0115),
        (1, [(CT_CLASS, "not a uid")], 0x0115),
        (1, [(CT_CLASS, "1" * 65)], 0x0115),
    ],
)
def test_requests_that_make_no_sense_are_refused_with_the_standards_status(
    action: int,
    references: list[tuple[str, str]],
    status: int,
    sender: Sender,
    make_outbox: MakeOutbox,
) -> None:
    asked = CommitmentRequest("2.25.9", tuple(Reference(*pair) for pair in references))
    with vouching(make_outbox, sender) as (outbox, port):
        association = sender.connect(port)
        answer, _ = association.send_n_action(
            write_request(asked), action, PUSH_MODEL, PUSH_MODEL_INSTANCE
        )
        association.release()
        assert answer.Status == status
        assert not list((outbox.config.commitment_dir / "requests").iterdir())


def test_a_node_that_is_no_archive_vouches_for_nothing(
    sender: Sender, make_outbox: MakeOutbox
) -> None:
    outbox = make_outbox(
        {"PACS": {"ae_title": "A", "host": "h", "port": 1, "confirm": "storage_commitment"}},
        dicom={"port": 0},
    )
    receiver = Receiver(outbox.config)
    association = sender.connect(receiver.start())
    assert sender.ask(association, "2.25.10", (CT_CLASS, CT_UID)) == 0x0124
    association.release()
    receiver.stop(timedelta(seconds=1))


def test_a_sender_that_goes_on_storing_before_it_takes_the_answer_loses_nothing(
    sender: Sender, make_outbox: MakeOutbox
) -> None:
    def store_first(event: evt.Event) -> tuple[int, None]:
        contexts = event.assoc.accepted_contexts
        context = next(item for item in contexts if item.abstract_syntax == CT_CLASS)
        event.assoc.dimse.send_msg(_store_request(), context.context_id)
        return 0x0000, None

    def stored() -> list[Path]:
        return list(outbox.config.inbox_dir.glob("*/*.dcm"))

    with vouching(make_outbox, sender) as (outbox, port):
        entity = AE(ae_title=sender.ae_title)
        for sop_class in (PUSH_MODEL, CT_CLASS):
            entity.add_requested_context(sop_class, "1.2.840.10008.1.2.1")
        association = entity.associate(
            "127.0.0.1", port, evt_handlers=[(evt.EVT_N_EVENT_REPORT, store_first)]
        )
        sender.ask(association, "2.25.11", (CT_CLASS, "2.25.404"))
        outbox.step()
        wait_for(stored, 10, "the object that came before the response")
        outbox.step(SOON)
        assert association.is_established
        association.release()
    assert requests(outbox) == {"answered": 1}


def _store_request() -> C_STORE:
    request = C_STORE()
    request.MessageID = 7
    request.AffectedSOPClassUID = CT_CLASS
    request.AffectedSOPInstanceUID = CT_UID
    request.Priority = 2
    encoded = encode(dcmread(CT), False, True)
    assert encoded is not None
    request.DataSet = BytesIO(encoded)
    return request
