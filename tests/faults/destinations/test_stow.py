"""DICOMweb services that refuse, lie, hang, redirect; each with what a person reads about it."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dicom_node.config_destinations import DicomwebConfig
from dicom_node.deliver import stow
from dicom_node.deliver.dimse import SendOutcome
from dicom_node.deliver.part10 import read_stored
from dicom_node.errors import DeliveryRejected
from tests.e2e.harness import free_port, wait_for
from tests.faults.destinations.dicomweb import (
    DICOM_JSON,
    DicomwebPeer,
    Request,
    Script,
    report,
    uid_of,
)
from tests.faults.destinations.outbox import CT, Outbox
from tests.faults.destinations.peers import Archive, Silence
from tests.faults.destinations.test_destinations import running

MakeOutbox = Callable[..., Outbox]
SOON = timedelta(seconds=10)
HTML = b"<html><body>Please log in</body></html>"
NESTED = b"[" * 100_000


@pytest.fixture
def peer() -> Iterator[DicomwebPeer]:
    """A scripted service, listening."""
    service = DicomwebPeer()
    yield service
    service.stop()


def says(status: int, body: bytes = b"", media_type: str = DICOM_JSON, **headers: str) -> Script:
    """Answers so, and stores nothing."""

    def script(request: Request, parts: Sequence[bytes]) -> None:
        request.answer(status, body, media_type, **headers)

    return script


def fails(reason: int | None, status: int = 409) -> Script:
    """Says that all failed for this reason."""

    def script(request: Request, parts: Sequence[bytes]) -> None:
        request.answer(status, report(failed={uid_of(part): reason for part in parts}))

    return script


def warns(reason: int) -> Script:
    """Says that all are stored with this warning."""

    def script(request: Request, parts: Sequence[bytes]) -> None:
        request.answer(202, report(warned={uid_of(part): reason for part in parts}))

    return script


def test_what_is_stored_is_what_lies_on_disk_and_the_job_is_done(
    peer: DicomwebPeer, make_outbox: MakeOutbox
) -> None:
    outbox = make_outbox({"PACS": peer.destination()})
    uids = [outbox.add(["PACS"]) for _ in range(3)]
    outbox.step()
    assert peer.received == [3]
    for uid in uids:
        file = outbox.config.store_dir / "results" / f"{uid.removeprefix('2.25.9')}.dcm"
        assert peer.stored[uid] == file.read_bytes()
    assert {job["state"] for job in outbox.jobs()} == {"delivered"}
    method, path, headers = peer.requests[0]
    assert (method, path) == ("POST", "/rs/studies")
    assert "Authorization" not in headers
    assert DICOM_JSON in headers["Accept"]


@pytest.mark.parametrize(
    ("script", "state", "words"),
    [
        (fails(0xA700), "pending", "0xA700: the destination is out of resources"),
        (fails(0x0110), "pending", "0x0110: processing failure"),
        (fails(None), "pending", "does not say why"),
        (fails(0xA900), "parked", "0xA900: data set does not match its SOP class"),
        (fails(0x0122), "parked", "0x0122: SOP class not supported"),
        (fails(0xC000), "parked", "0xC000: the destination cannot understand"),
        (fails(0xC122), "parked", "0xC122: transfer syntax not supported"),
        (fails(0x0111), "delivered", "already there"),
        (fails(0xB00E), "delivered", "already there"),
        (fails(0xB000), "pending", "0xB000"),
        (fails(0x0000), "pending", "contradicts itself"),
        (fails(0xA900, status=202), "parked", "0xA900"),
        (fails(0xA900, status=400), "parked", "0xA900"),
        (warns(0xB000), "delivered", "0xB000: data elements coerced"),
        (warns(0xB006), "delivered", "0xB006: elements discarded"),
        (says(400), "parked", "HTTP 400: it does not understand the request"),
        (says(401, HTML, "text/html"), "parked", "HTTP 401: it does not accept our credentials"),
        (says(403), "parked", "HTTP 403: it does not allow us"),
        (says(404, HTML, "text/html"), "pending", "HTTP 404: there is no such service; check url"),
        (says(405), "parked", "HTTP 405: it does not offer this service here"),
        (says(406), "parked", "HTTP 406"),
        (says(409), "parked", "HTTP 409: it stored nothing, and does not say why"),
        (says(413), "parked", "HTTP 413: it does not take a request of this size"),
        (says(415), "parked", "HTTP 415: it does not take multipart/related"),
        (says(418), "parked", "HTTP 418"),
        (says(429), "pending", "HTTP 429: it has too many requests"),
        (says(500, HTML, "text/html"), "pending", "HTTP 500: it failed"),
        (says(502, HTML, "text/html"), "pending", "HTTP 502: a proxy cannot reach it"),
        (says(503), "pending", "HTTP 503: it is not available now"),
        (says(599), "pending", "HTTP 599: it failed"),
        (says(200), "pending", "does not say that it is stored; set confirm: query"),
        (says(204), "pending", "does not say that it is stored"),
        (says(200, b"{}"), "pending", "does not say that it is stored"),
        (says(200, b"[]"), "pending", "does not say that it is stored"),
        (says(200, b'{"00081199": {"vr": "SQ"}}'), "pending", "does not say"),
        (says(200, report(stored=["2.25.404"])), "pending", "does not say that it is stored"),
        (says(202, NESTED), "pending", "does not say that it is stored"),
        (says(200, b"\xff\xfe stored", "text/plain"), "pending", "does not say"),
        (says(200, HTML, "text/html"), "pending", "answers with a web page (text/html, HTTP 200)"),
        (says(301, Location="http://elsewhere.example/rs"), "parked", "http://elsewhere.example,"),
        (says(308, Location="/other"), "parked", "which is not followed; correct url"),
        (says(302, Location="https://login.example/?u=x"), "pending", "to https://login.example,"),
        (says(307), "pending", "redirects, which is not followed"),
    ],
)
def test_an_answer_is_sorted_recorded_and_survived(
    script: Script, state: str, words: str, peer: DicomwebPeer, make_outbox: MakeOutbox
) -> None:
    peer.scripts = [script]
    outbox = make_outbox({"PACS": peer.destination()})
    outbox.add(["PACS"])
    outbox.step()
    delivery = outbox.only_delivery()
    assert delivery["state"] == state
    assert words in delivery["last_error"]
    assert len(peer.requests) == 1
    if state == "pending":
        outbox.step(SOON)
        assert outbox.only_delivery()["state"] == "delivered"
    assert outbox.jobs()[0]["state"] == ("parked" if state == "parked" else "delivered")


def test_of_a_half_accepted_request_only_the_other_half_is_sent_again(
    peer: DicomwebPeer, make_outbox: MakeOutbox
) -> None:
    outbox = make_outbox({"PACS": peer.destination()})
    good, busy, bad, both = (outbox.add(["PACS"]) for _ in range(4))

    def half(request: Request, parts: Sequence[bytes]) -> None:
        assert [uid_of(part) for part in parts] == [good, busy, bad, both]
        failed = {busy: 0xA700, bad: 0xA900, both: 0x0110}
        request.answer(202, report(stored=[good, both], failed=failed))

    peer.scripts = [half]
    outbox.step()
    states = [row["state"] for row in outbox.deliveries()]
    assert states == ["delivered", "pending", "parked", "pending"]
    outbox.step(SOON)
    assert sorted(peer.stored) == sorted([busy, both])
    states = [row["state"] for row in outbox.deliveries()]
    assert states == ["delivered", "delivered", "parked", "delivered"]


@pytest.mark.parametrize("status", [400, 409, 413, 415, 500])
def test_one_object_that_spoils_a_request_does_not_hold_up_the_others(
    status: int, peer: DicomwebPeer, make_outbox: MakeOutbox
) -> None:
    outbox = make_outbox({"PACS": peer.destination()})
    uids = [outbox.add(["PACS"]) for _ in range(4)]
    sick = uids[1]

    def choke(request: Request, parts: Sequence[bytes]) -> None:
        if sick in [uid_of(part) for part in parts]:
            request.answer(status)
        else:
            peer.store(request, parts)

    peer.scripts = [choke] * 5
    outbox.step()
    assert peer.received == [4, 1, 1, 1, 1]
    assert sorted(peer.stored) == sorted(set(uids) - {sick})
    states = {row["state"] for row in outbox.deliveries()}
    assert states == {"delivered", "pending" if status == 500 else "parked"}


def test_a_service_that_fails_for_everything_is_not_asked_for_each_object(
    peer: DicomwebPeer, make_outbox: MakeOutbox
) -> None:
    outbox = make_outbox({"PACS": peer.destination()})
    for _ in range(8):
        outbox.add(["PACS"])
    peer.scripts = [says(500)] * 20
    outbox.step()
    assert peer.received == [8, 1, 1]
    assert {row["state"] for row in outbox.deliveries()} == {"pending"}


@pytest.mark.parametrize("retry_after", ["120", "Sat, 21 Nov 2026 12:02:00 GMT"])
def test_a_service_that_names_a_time_is_left_alone_until_then(
    retry_after: str, peer: DicomwebPeer, make_outbox: MakeOutbox
) -> None:
    def later(request: Request, parts: Sequence[bytes]) -> None:
        request.send_response_only(503)
        request.send_header("Date", "Sat, 21 Nov 2026 12:00:00 GMT")
        request.send_header("Retry-After", retry_after)
        request.send_header("Content-Length", "0")
        request.end_headers()

    peer.scripts = [later]
    outbox = make_outbox({"PACS": peer.destination()})
    outbox.add(["PACS"])
    outbox.step()
    outbox.step(timedelta(seconds=119))
    assert len(peer.requests) == 1
    outbox.step(timedelta(seconds=1))
    assert outbox.only_delivery()["state"] == "delivered"


def test_what_is_due_beside_it_waits_for_that_time_too(
    peer: DicomwebPeer, make_outbox: MakeOutbox
) -> None:
    peer.scripts = [says(429, Retry_After="120")]
    outbox = make_outbox({"PACS": peer.destination()})
    for _ in range(20):
        outbox.add(["PACS"])
    outbox.step()
    outbox.step(timedelta(seconds=119))
    assert peer.received == [8]
    outbox.step(timedelta(seconds=1))
    assert {row["state"] for row in outbox.deliveries()} == {"delivered"}


def test_nobody_is_left_alone_for_longer_than_the_longest_pause(
    peer: DicomwebPeer, make_outbox: MakeOutbox
) -> None:
    peer.scripts = [says(429, Retry_After="999999999")]
    outbox = make_outbox({"PACS": peer.destination()})
    outbox.add(["PACS"])
    outbox.step()
    outbox.step(timedelta(minutes=29))
    assert len(peer.requests) == 1
    outbox.step(timedelta(minutes=1))
    assert outbox.only_delivery()["state"] == "delivered"


def hangs_before_the_answer(request: Request, parts: Sequence[bytes]) -> None:
    request.server.peer.release.wait()
    request.hang_up()


def hangs_after_the_head(request: Request, parts: Sequence[bytes]) -> None:
    request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/dicom+json\r\n")
    request.server.peer.release.wait()
    request.hang_up()


def hangs_in_the_body(request: Request, parts: Sequence[bytes]) -> None:
    request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
    request.server.peer.release.wait()
    request.hang_up()


def drips(request: Request, parts: Sequence[bytes]) -> None:
    request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    while not request.server.peer.release.wait(0.1):
        request.wfile.write(b" ")


def drips_the_head(request: Request, parts: Sequence[bytes]) -> None:
    request.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    while not request.server.peer.release.wait(0.1):
        request.wfile.write(b"x")


@pytest.mark.parametrize(
    "script",
    [
        hangs_before_the_answer,
        hangs_after_the_head,
        hangs_in_the_body,
        drips,
        drips_the_head,
    ],
)
def test_a_service_that_hangs_at_any_step_costs_its_time_limit_and_nothing_else(
    script: Script, peer: DicomwebPeer, make_outbox: MakeOutbox
) -> None:
    peer.scripts = [script]
    settings = {"connect_timeout": 0.2, "response_timeout": 0.5}
    outbox = make_outbox({"PACS": peer.destination(**settings)})
    outbox.add(["PACS"])
    started = time.monotonic()
    outbox.step()
    assert time.monotonic() - started < 4
    delivery = outbox.only_delivery()
    assert delivery["state"] == "pending"
    assert "gave no answer within" in delivery["last_error"]
    outbox.step(SOON)
    assert outbox.only_delivery()["state"] == "delivered"


def test_a_service_that_stops_reading_costs_its_time_limit(tmp_path: Path) -> None:
    silence = Silence()
    large = tmp_path / "large.dcm"
    large.write_bytes(CT.read_bytes() + b"\0" * 20_000_000)  # more than both sides' buffers hold
    started = time.monotonic()
    (outcome,) = sent(silence.port, large)
    silence.close()
    assert time.monotonic() - started < 5  # and not 160 s, in which 20 MB go over a slow line
    assert "stopped reading while it was sent to" in str(outcome.error)


def breaks_off(request: Request, parts: Sequence[bytes]) -> None:
    request.hang_up()


def half_a_body(request: Request, parts: Sequence[bytes]) -> None:
    body = report(stored=[uid_of(part) for part in parts])
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/dicom+json\r\nContent-Length: %d\r\n\r\n"
    request.wfile.write(head % (len(body) + 10) + body)
    request.hang_up()


def no_http(request: Request, parts: Sequence[bytes]) -> None:
    request.wfile.write(b"\x04\x00\x00\x00\x00\x40 not HTTP\r\n\r\n")
    request.hang_up()


@pytest.mark.parametrize("script", [breaks_off, half_a_body, no_http])
def test_an_answer_without_its_end_proves_nothing(
    script: Script, peer: DicomwebPeer, make_outbox: MakeOutbox
) -> None:
    peer.scripts = [script]
    outbox = make_outbox({"PACS": peer.destination()})
    outbox.add(["PACS"])
    outbox.step()
    delivery = outbox.only_delivery()
    assert delivery["state"] == "pending"
    assert "ended the connection before its answer was complete" in delivery["last_error"]
    outbox.step(SOON)
    assert outbox.only_delivery()["state"] == "delivered"


def test_an_answer_without_end_is_not_read_to_its_end(
    peer: DicomwebPeer, make_outbox: MakeOutbox
) -> None:
    written = 0

    def floods(request: Request, parts: Sequence[bytes]) -> None:
        nonlocal written
        request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        for _ in range(1000):
            written += request.wfile.write(b"x" * 1_000_000)

    peer.scripts = [floods]
    outbox = make_outbox({"PACS": peer.destination()})
    outbox.add(["PACS"])
    tracemalloc.start()
    outbox.step()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000
    assert written < 100_000_000
    assert "does not say that it is stored" in outbox.only_delivery()["last_error"]


def drained(request: Request) -> str:
    """Read a request as it comes and keep nothing but the UID in its head."""
    left = int(request.headers["Content-Length"])
    head = request.rfile.read(10_000)
    left -= len(head)
    while left:
        left -= len(request.rfile.read(min(left, 1 << 16)))
    return uid_of(head.partition(b"\r\n\r\n")[2])


def test_a_large_object_is_never_in_memory_as_a_whole(peer: DicomwebPeer, tmp_path: Path) -> None:
    large = tmp_path / "large.dcm"
    large.write_bytes(CT.read_bytes() + b"\0" * 100_000_000)
    peer.read_body = False
    peer.scripts = [
        lambda request, _: request.answer(200, report(stored=[drained(request)])),
    ]
    tracemalloc.start()
    (outcome,) = sent(peer.port, large)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert outcome.delivered
    assert peak < 5_000_000


def test_an_answer_before_the_end_of_the_request_is_heard(
    peer: DicomwebPeer, tmp_path: Path
) -> None:
    """As a proxy does that knows from Content-Length that it will not take the body."""
    large = tmp_path / "large.dcm"
    large.write_bytes(CT.read_bytes() + b"\0" * 20_000_000)

    def refuses_at_once(request: Request, parts: Sequence[bytes]) -> None:
        request.answer(413)
        drained(request)

    peer.read_body = False
    peer.scripts = [refuses_at_once]
    (outcome,) = sent(peer.port, large)
    assert isinstance(outcome.error, DeliveryRejected)
    assert "HTTP 413" in str(outcome.error)


def test_a_compressed_answer_is_not_unpacked(peer: DicomwebPeer, make_outbox: MakeOutbox) -> None:
    peer.scripts = [says(200, b"\x1f\x8b bomb", Content_Encoding="gzip")]
    outbox = make_outbox({"PACS": peer.destination()})
    outbox.add(["PACS"])
    outbox.step()
    assert peer.requests[0][2]["Accept-Encoding"] == "identity"
    assert "does not say that it is stored" in outbox.only_delivery()["last_error"]


def test_a_redirect_is_not_followed_anywhere(peer: DicomwebPeer, make_outbox: MakeOutbox) -> None:
    elsewhere = DicomwebPeer()
    peer.scripts = [says(307, Location=f"http://127.0.0.1:{elsewhere.port}/rs/studies")]
    outbox = make_outbox({"PACS": peer.destination()})
    outbox.add(["PACS"])
    outbox.step()
    elsewhere.stop()
    assert elsewhere.requests == []
    assert f"to http://127.0.0.1:{elsewhere.port}," in outbox.only_delivery()["last_error"]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:{port}/rs", "refused the connection; is it running"),
        ("http://no-such-host.invalid/rs", "host name cannot be resolved"),
        (f"http://{'x' * 64}.example/rs", "no address that can be called"),
    ],
)
def test_a_service_that_is_not_there_is_tried_again(
    url: str, words: str, make_outbox: MakeOutbox
) -> None:
    outbox = make_outbox({"PACS": {"url": url.format(port=free_port())}})
    outbox.add(["PACS"])
    outbox.step()
    delivery = outbox.only_delivery()
    assert delivery["state"] == "pending"
    assert words in delivery["last_error"]


def test_a_dead_service_delays_no_other_destination(
    archive: Archive, peer: DicomwebPeer, make_outbox: MakeOutbox
) -> None:
    count = 8
    peer.scripts = [hangs_before_the_answer] * 100
    destinations = {"ALIVE": archive.destination(), "DEAD": peer.destination(response_timeout=30)}
    outbox = make_outbox(destinations, clock=lambda: datetime.now(UTC))
    for _ in range(count):
        outbox.add(list(destinations))
    started = time.monotonic()
    with running(outbox):
        wait_for(lambda: outbox.metric("ALIVE", "delivered") == count, 60, "delivered")
        seconds = time.monotonic() - started
        peer.release.set()  # the courier ends when what is on its way has ended
    print(f"{count} objects beside a hanging service: {seconds:.2f} s")
    assert seconds < 20  # the dead one would cost 30 s
    assert peer.received[0] == count


def test_a_file_that_is_gone_or_is_none_is_refused_alone(
    peer: DicomwebPeer, tmp_path: Path
) -> None:
    (tmp_path / "none.dcm").write_bytes(b"no DICOM")
    gone, none, whole = sent(peer.port, tmp_path / "gone.dcm", tmp_path / "none.dcm", CT)
    assert isinstance(gone.error, DeliveryRejected)
    assert isinstance(none.error, DeliveryRejected)
    assert whole.delivered
    assert list(peer.stored.values()) == [CT.read_bytes()]


def test_a_file_that_shrinks_while_it_is_sent_is_no_success(
    peer: DicomwebPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = read_stored(CT)
    monkeypatch.setattr(stow, "read_stored", lambda path: replace(file, size=file.size + 1))
    (outcome,) = sent(peer.port, CT)
    assert "a file cannot be read while it is sent" in str(outcome.error)
    assert peer.stored == {}


def sent(port: int, *paths: Path) -> list[SendOutcome]:
    """Send files, without an outbox."""
    outcomes: dict[Path, SendOutcome] = {}
    url = {"url": f"http://127.0.0.1:{port}/rs", "connect_timeout": 0.2, "response_timeout": 0.5}
    stow.store_files(DicomwebConfig.model_validate(url), paths, outcomes.__setitem__)
    return [outcomes[path] for path in paths]
