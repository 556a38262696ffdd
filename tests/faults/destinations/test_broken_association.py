"""A thread of the network library dies under the courier: noticed, left behind, tried again."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pynetdicom.acse import ACSE
from pynetdicom.association import Association
from pynetdicom.fsm import InvalidEventError
from structlog.testing import capture_logs

from dicom_node.dimse import DimseSocket, PatientStateMachine
from tests.e2e.harness import StoreScp, free_port, tool, wait_for
from tests.faults.destinations.outbox import Outbox

MakeOutbox = Callable[..., Outbox]
NOTICED_SECONDS = 5.0
RESPONSE_SECONDS = 30  # what a broken association must not cost

pytestmark = [
    pytest.mark.dcmtk,
    # The thread that dies is the point.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]


@pytest.fixture
def scp(tmp_path: Path) -> Iterator[StoreScp]:
    """DCMTK's `storescp`, which keeps what it gets."""
    peer = StoreScp(tmp_path / "archive")
    peer.start()
    yield peer
    peer.stop()


def network_threads() -> list[str]:
    """Threads that work on an association."""
    words = ("Requestor", "association-watch", "run_reactor", "Thread-")
    return [item.name for item in threading.enumerate() if any(w in item.name for w in words)]


class Breaker:
    """Breaks what it wraps, once."""

    def __init__(self) -> None:
        self.fired = False

    def once(self) -> bool:
        fires, self.fired = not self.fired, True
        return fires


def break_state_machine(monkeypatch: pytest.MonkeyPatch, event: str) -> Breaker:
    breaker, do_action = Breaker(), PatientStateMachine.do_action

    def broken(self: PatientStateMachine, happened: str) -> None:
        if happened == event and breaker.once():
            raise InvalidEventError(f"{happened} in {self.current_state}")
        do_action(self, happened)

    monkeypatch.setattr(PatientStateMachine, "do_action", broken)
    return breaker


def break_reactor(monkeypatch: pytest.MonkeyPatch) -> Breaker:
    breaker, is_release_requested = Breaker(), ACSE.is_release_requested
    send, joined = Association.send_c_store, Breaker()

    def broken(self: ACSE) -> bool:  # the reactor asks between two messages
        if breaker.once():
            raise RuntimeError("the reactor dies")
        return is_release_requested(self)

    def send_after_that(self: Association, *args: Any, **named: Any) -> Any:
        if self.ident is not None and joined.once():
            self.join(NOTICED_SECONDS)
            time.sleep(1)  # busy with something else
        return send(self, *args, **named)

    monkeypatch.setattr(ACSE, "is_release_requested", broken)
    monkeypatch.setattr(Association, "send_c_store", send_after_that)
    return breaker


def break_reading(monkeypatch: pytest.MonkeyPatch) -> Breaker:
    breaker, ready = Breaker(), DimseSocket.ready

    def broken(self: DimseSocket) -> bool:
        if self.assoc.is_established and breaker.once():
            raise RuntimeError("reading dies")
        return bool(ready.fget(self))  # type: ignore[attr-defined]

    monkeypatch.setattr(DimseSocket, "ready", property(broken))
    return breaker


BREAKS: dict[str, Callable[[pytest.MonkeyPatch], Breaker]] = {
    "reactor": break_reactor,
    "reading": break_reading,
    # PS3.8 table 9-10: request, connection, acceptance, sending, receiving, release, its answer
    **{
        event: lambda patch, event=event: break_state_machine(patch, event)  # type: ignore[misc]
        for event in ("Evt1", "Evt2", "Evt3", "Evt9", "Evt10", "Evt11", "Evt13")
    },
}


def outbox_for(scp: StoreScp, make_outbox: MakeOutbox) -> Outbox:
    host = {"ae_title": "ARCHIVE", "host": "127.0.0.1", "port": scp.port}
    return make_outbox({"PACS": host | {"response_timeout": RESPONSE_SECONDS}})


@pytest.mark.parametrize("what", BREAKS)
def test_a_thread_that_dies_costs_seconds_and_no_delivery(
    what: str, scp: StoreScp, make_outbox: MakeOutbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = outbox_for(scp, make_outbox)
    uids = {outbox.add(["PACS"]) for _ in range(3)}
    before = len(network_threads())
    breaker = BREAKS[what](monkeypatch)
    with capture_logs() as logs:
        started = time.monotonic()
        outbox.step()
        assert time.monotonic() - started < NOTICED_SECONDS
    assert breaker.fired
    (told,) = [entry for entry in logs if entry.get("action") == "association_broken"]
    assert told["destination"] == "ARCHIVE"
    assert {row["state"] for row in outbox.deliveries()} <= {"pending", "delivered"}
    outbox.step(timedelta(seconds=10))
    assert {row["state"] for row in outbox.deliveries()} == {"delivered"}
    assert max(row["attempts"] for row in outbox.deliveries()) <= 2
    assert {dcmread(path).SOPInstanceUID for path in scp.files()} == uids
    wait_for(lambda: len(network_threads()) <= before, 5, f"{network_threads()} end")


def test_an_association_that_ends_as_it_should_breaks_no_alarm(
    scp: StoreScp, make_outbox: MakeOutbox
) -> None:
    outbox = outbox_for(scp, make_outbox)
    for _ in range(20):
        outbox.add(["PACS"])
    with capture_logs() as logs:
        outbox.step()
        scp.stop()
        outbox.add(["PACS"])
        outbox.step()
    assert not [entry for entry in logs if entry.get("action") == "association_broken"]
    assert [row["state"] for row in outbox.deliveries()] == ["delivered"] * 20 + ["pending"]


@pytest.mark.parametrize("option", ["--refuse", "--abort-during", "--abort-after"])
def test_what_a_peer_breaks_off_is_no_broken_thread(
    option: str, make_outbox: MakeOutbox, tmp_path: Path
) -> None:
    port = free_port()
    host = {"ae_title": "ARCHIVE", "host": "127.0.0.1", "port": port, "response_timeout": 2}
    outbox = make_outbox({"PACS": host})
    for _ in range(4):
        outbox.add(["PACS"])
    command = [tool("storescp"), option, "-od", str(tmp_path), str(port)]
    with subprocess.Popen(command) as peer, capture_logs() as logs:
        try:
            wait_for(lambda: listens(port), 10, "storescp listens")
            for _ in range(5):
                outbox.step(timedelta(minutes=20))
        finally:
            peer.kill()
    assert not [entry for entry in logs if entry.get("action") == "association_broken"]
    assert {row["state"] for row in outbox.deliveries()} == {"pending"}


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
