"""Peers whose answers belong to nothing, and files that end in the middle of a C-STORE."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import Verification

from dicom_node.config_destinations import DestinationConfig
from dicom_node.deliver import dimse
from dicom_node.deliver.association import associate
from tests.e2e.harness import wait_for
from tests.faults.destinations.outbox import Outbox
from tests.faults.destinations.peers import Archive

MakeOutbox = Callable[..., Outbox]


class TwiceAnswering(Archive):
    """Answers its first object once more while the second waits for its own answer."""

    def _on_store(self, event: evt.Event) -> int:
        if event.request.MessageID == 2:
            again = C_STORE()
            again.MessageIDBeingRespondedTo = 1
            again.AffectedSOPClassUID = event.request.AffectedSOPClassUID
            again.AffectedSOPInstanceUID = event.request.AffectedSOPInstanceUID
            again.Status = 0x0000
            event.assoc.dimse.send_msg(again, event.context.context_id)
            time.sleep(0.3)
            return 0xA700
        return super()._on_store(event)


def test_a_second_answer_to_one_object_does_not_count_for_the_next(
    make_outbox: MakeOutbox,
) -> None:
    archive = TwiceAnswering()
    archive.start()
    outbox = make_outbox({"PACS": archive.destination()})
    first, second = outbox.add(["PACS"]), outbox.add(["PACS"])
    outbox.step()
    states = [(row["state"], row["last_error"] or "") for row in outbox.deliveries()]
    assert [state for state, _ in states] == ["delivered", "pending"]
    assert "answered another C-STORE" in states[1][1]
    outbox.step(timedelta(seconds=10))
    archive.stop()
    assert archive.stored == [first, second]
    assert {row["state"] for row in outbox.deliveries()} == {"delivered"}


def test_a_peer_that_ends_the_association_after_each_object_holds_none_up(
    archive: Archive, make_outbox: MakeOutbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = Association.send_c_store

    def send_and_lose(self: Association, *args: Any, **named: Any) -> Any:
        answer = send(self, *args, **named)
        self.abort()
        return answer

    monkeypatch.setattr(Association, "send_c_store", send_and_lose)
    outbox = make_outbox({"PACS": archive.destination()})
    uids = [outbox.add(["PACS"]) for _ in range(4)]
    outbox.step()
    assert archive.stored == uids
    assert {row["attempts"] for row in outbox.deliveries()} == {1}


def test_a_file_that_fails_while_it_is_sent_spoils_no_other(
    archive: Archive, make_outbox: MakeOutbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = make_outbox({"PACS": archive.destination()})
    uids = [outbox.add(["PACS"]) for _ in range(3)]
    sick = outbox.config.store_dir / "results" / "2.dcm"
    kept = sick.with_name("kept")
    send = dimse._send

    def send_from_a_sick_disk(association: Association, peer: Any, file: Any, *rest: Any) -> Any:
        if file.path == sick:
            sick.rename(kept)
            sick.symlink_to("/proc/self/mem")  # opens; every read is EIO
        return send(association, peer, file, *rest)

    monkeypatch.setattr(dimse, "_send", send_from_a_sick_disk)
    outbox.step()
    assert archive.stored == [uids[0], uids[2]]
    states = [row["state"] for row in outbox.deliveries()]
    assert states == ["delivered", "pending", "delivered"]
    monkeypatch.undo()
    kept.replace(sick)
    outbox.step(timedelta(seconds=10))
    assert archive.stored == [uids[0], uids[2], uids[1]]


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_neither_threads_nor_sockets_are_left_by_associations_that_fail(
    archive: Archive, make_outbox: MakeOutbox
) -> None:
    archive.store_statuses = [0xA700, 0x0110, 0xC000] * 50
    outbox = make_outbox({"PACS": archive.destination(), "DOWN": archive.destination(port=1)})
    for _ in range(4):
        outbox.add(["PACS", "DOWN"])
    outbox.step()

    peer = outbox.config.destinations["PACS"]
    assert isinstance(peer, DestinationConfig)
    contexts = [build_context(Verification)]

    def rounds(count: int) -> None:
        for _ in range(count):
            outbox.step(timedelta(minutes=20))
            with pytest.raises(RuntimeError), associate(peer, "NODE", contexts):
                raise RuntimeError("what sends fails")

    rounds(2)
    time.sleep(1)
    threads, descriptors = threading.active_count(), open_descriptors()
    rounds(10)
    wait_for(
        lambda: threading.active_count() <= threads and open_descriptors() <= descriptors,
        20,
        f"no more than {threads} threads and {descriptors} descriptors",
    )
