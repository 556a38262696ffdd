"""From `sent` to `delivered` at DICOMweb services: QIDO-RS that finds, does not, fails, lies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest

from tests.faults.destinations.dicomweb import DicomwebPeer, Script
from tests.faults.destinations.outbox import Outbox
from tests.faults.destinations.test_stow import HTML, hangs_before_the_answer, says

MakeOutbox = Callable[..., Outbox]
SOON = timedelta(seconds=20)


@pytest.fixture
def peer() -> Iterator[DicomwebPeer]:
    """A scripted service, listening."""
    service = DicomwebPeer()
    yield service
    service.stop()


@pytest.fixture
def outbox(peer: DicomwebPeer, make_outbox: MakeOutbox) -> Outbox:
    """An outbox to the service, whose queries confirm."""
    return make_outbox({"PACS": peer.destination(confirm="query", response_timeout=0.5)})


def test_what_the_query_finds_is_delivered(peer: DicomwebPeer, outbox: Outbox) -> None:
    uid = outbox.add(["PACS"])
    outbox.step()
    assert outbox.only_delivery()["state"] == "sent"
    outbox.step(timedelta(seconds=10))
    delivery = outbox.only_delivery()
    assert (delivery["state"], delivery["last_error"]) == ("delivered", "confirmed by query")
    number = uid.removeprefix("2.25.9")
    path = f"/rs/studies/2.25.1{number}/series/2.25.7{number}/instances?SOPInstanceUID={uid}"
    assert peer.requests[-1][:2] == ("GET", path)


@pytest.mark.parametrize("script", [says(200), says(204), says(200, b"{}"), says(202, b"%")])
def test_an_answer_without_proof_is_settled_by_the_query(
    script: Script, peer: DicomwebPeer, outbox: Outbox
) -> None:
    """The first answer stores nothing, and does not say so."""
    peer.scripts = [script]
    outbox.add(["PACS"])
    outbox.step()
    delivery = outbox.only_delivery()
    assert delivery["state"] == "sent"
    assert "does not say that it is stored" in delivery["last_error"]
    outbox.steps(12, timedelta(minutes=2))
    delivery = outbox.only_delivery()
    assert (delivery["state"], delivery["attempts"], delivery["denials"]) == ("delivered", 2, 1)


def test_a_service_that_takes_and_never_has_is_found_out(
    peer: DicomwebPeer, outbox: Outbox
) -> None:
    peer.scripts = [says(200)] * 3
    outbox.add(["PACS"])
    outbox.steps(100, timedelta(minutes=2))
    (job,) = outbox.jobs()
    assert job["state"] == "parked"
    assert "took the object 3 times and has it not" in job["reason"]
    assert len(peer.received) == 3


@pytest.mark.parametrize(
    ("script", "state", "words"),
    [
        (says(200, b"[]"), "sent", "the query does not find it yet"),
        (says(204), "sent", "the query does not find it yet"),
        (says(404), "sent", "the query does not find it yet"),
        (says(200, b'[{"00080018": {"Value": ["2.25.404"]}}, 7, {}]'), "sent", "does not find"),
        (says(200), "sent", "something else than JSON"),
        (says(200, b"{}"), "sent", "something else than JSON"),
        (says(200, b"[" * 100_000), "sent", "something else than JSON"),
        (says(200, b"[" + b" " * 2_000_000 + b"]"), "sent", "for one object with everything"),
        (says(200, HTML, "text/html"), "sent", "answers with a web page"),
        (says(302, Location="http://login.example/"), "sent", "it redirects to http://login"),
        (says(500), "sent", "HTTP 500"),
        (says(503), "sent", "stored, but not confirmed: "),
        (hangs_before_the_answer, "sent", "gave no answer within 0.5 s"),
        (says(401), "parked", "HTTP 401: it does not accept our credentials"),
        (says(403), "parked", "stored, but cannot be confirmed: "),
        (says(405), "parked", "it does not offer this service here"),
        (says(501), "parked", "HTTP 501"),
    ],
)
def test_an_answer_to_the_query_is_sorted_recorded_and_survived(
    script: Script, state: str, words: str, peer: DicomwebPeer, outbox: Outbox
) -> None:
    peer.query_scripts = [script]
    outbox.add(["PACS"])
    outbox.step()
    outbox.step(timedelta(seconds=10))
    delivery = outbox.only_delivery()
    assert delivery["state"] == state
    assert words in delivery["last_error"]
    if state == "sent":
        outbox.step(SOON)
        assert outbox.only_delivery()["state"] == "delivered"
    assert len(peer.received) == 1


def test_a_query_that_is_told_when_to_come_back_waits_until_then(
    peer: DicomwebPeer, outbox: Outbox
) -> None:
    peer.query_scripts = [says(429, Retry_After="300")]
    outbox.add(["PACS"])
    outbox.step()
    outbox.step(timedelta(seconds=10))
    outbox.step(timedelta(seconds=299))
    assert len(peer.requests) == 2
    outbox.step(timedelta(seconds=1))
    assert outbox.only_delivery()["state"] == "delivered"


def test_many_objects_are_asked_for_over_one_connection_and_each_settled(
    peer: DicomwebPeer, outbox: Outbox
) -> None:
    for _ in range(12):
        outbox.add(["PACS"])
    outbox.step()
    assert peer.received == [8, 4]
    peer.query_scripts = [says(200, b"[]")] * 3
    outbox.step(timedelta(seconds=10))
    states = [row["state"] for row in outbox.deliveries()]
    assert states == ["sent"] * 3 + ["delivered"] * 9
