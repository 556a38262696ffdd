"""Destinations that refuse, hang, fail, vanish; each with what a person reads about it."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydicom import dcmread

from dicom_node.domain.retry import RetryPolicy
from dicom_node.store.recovery import retry_job
from tests.e2e.harness import StoreScp, free_port, tool, wait_for
from tests.faults.destinations.outbox import Outbox
from tests.faults.destinations.peers import Archive, Silence

MakeOutbox = Callable[..., Outbox]
# A C-STORE-RSP whose PDU claims 64 bytes and brings 4.
HALF_A_PDU = b"\x04\x00\x00\x00\x00\x40\x00\x00\x00\x3c"


@pytest.mark.parametrize(
    ("status", "state", "words"),
    [
        (0xA700, "pending", "out of resources"),
        (0xA7FF, "pending", "out of resources"),
        (0x0110, "pending", "processing failure"),
        (0xB000, "delivered", "data elements coerced"),
        (0x0111, "delivered", "already there"),
        (0xC000, "parked", "cannot understand"),
        (0xA900, "parked", "does not match its SOP class"),
        (0x0124, "parked", "not authorized"),
    ],
)
def test_a_status_is_sorted_recorded_and_survived(
    status: int, state: str, words: str, archive: Archive, make_outbox: MakeOutbox
) -> None:
    archive.store_statuses = [status]
    outbox = make_outbox({"PACS": archive.destination()})
    outbox.add(["PACS"])
    outbox.step()
    delivery = outbox.only_delivery()
    assert delivery["state"] == state
    assert f"0x{status:04X}" in delivery["last_error"]
    assert words in delivery["last_error"]
    if state == "pending":
        outbox.step(timedelta(seconds=10))
        assert outbox.only_delivery()["state"] == "delivered"
    assert outbox.jobs()[0]["state"] == ("parked" if state == "parked" else "delivered")


@pytest.mark.parametrize("say", [b"", HALF_A_PDU, b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_a_port_that_takes_the_connection_and_is_no_archive_is_tried_again(
    say: bytes, make_outbox: MakeOutbox
) -> None:
    silence = Silence(say)
    outbox = make_outbox({"PACS": silence.destination(response_timeout=0.5)})
    outbox.add(["PACS"])
    started = time.monotonic()
    outbox.step()
    silence.close()
    assert time.monotonic() - started < 5
    delivery = outbox.only_delivery()
    assert (delivery["state"], delivery["attempts"]) == ("pending", 1)
    assert "is it a DICOM port" in delivery["last_error"]


@pytest.mark.parametrize(
    ("service", "confirm", "state"),
    [
        ("store", "status", "pending"),
        ("action", "storage_commitment", "sent"),
        ("find", "query", "sent"),
    ],
)
def test_an_archive_that_hangs_at_any_step_costs_its_time_limit_and_nothing_else(
    service: str, confirm: str, state: str, archive: Archive, make_outbox: MakeOutbox
) -> None:
    archive.hang_at = service
    settings = {"confirm": confirm, "response_timeout": 0.5, "query_after": 0}
    outbox = make_outbox({"PACS": archive.destination(**settings)})
    outbox.add(["PACS"])
    started = time.monotonic()
    outbox.step()
    assert time.monotonic() - started < 5
    delivery = outbox.only_delivery()
    assert delivery["state"] == state
    assert "no answer" in delivery["last_error"]
    archive.hang_at = None
    outbox.steps(3, timedelta(seconds=30))
    assert outbox.only_delivery()["state"] == "delivered"


def test_a_wrong_ae_title_is_named_and_mended_without_losing_anything(
    make_outbox: MakeOutbox,
) -> None:
    archive = Archive()
    archive.start(require_called_aet=True)
    wrong = archive.destination(ae_title="TYPO")
    outbox = make_outbox({"PACS": wrong})
    uid = outbox.add(["PACS"])
    outbox.step()
    reason = outbox.only_delivery()["last_error"]
    assert "does not recognise its AE title as TYPO; correct" in reason
    right = outbox.config.destinations["PACS"].model_copy(update={"ae_title": "PEER"})
    outbox.config = outbox.config.model_copy(update={"destinations": {"PACS": right}})
    outbox.courier = outbox.new_courier()
    outbox.step(timedelta(seconds=10))
    archive.stop()
    assert archive.stored == [uid]
    assert outbox.only_delivery()["state"] == "delivered"


def test_a_destination_that_is_down_for_an_hour_gets_everything_once_when_it_is_back(
    make_outbox: MakeOutbox,
) -> None:
    archive = Archive()
    archive.port = free_port()
    outbox = make_outbox({"PACS": archive.destination()})
    uids = [outbox.add(["PACS"]) for _ in range(4)]
    outbox.steps(60, timedelta(minutes=1))
    down = outbox.deliveries()
    assert {row["state"] for row in down} == {"pending"}
    assert all("refused the connection" in row["last_error"] for row in down)
    assert outbox.metric("PACS", "pending") == 4
    attempts = max(row["attempts"] for row in down)
    assert attempts <= 15  # 5 s doubling to 15 minutes: it is not hammered
    archive.start(archive.port)
    minutes = 0
    while outbox.metric("PACS", "delivered") < 4:
        outbox.step(timedelta(minutes=1))
        minutes += 1
        assert minutes <= 15  # the longest pause
    archive.stop()
    assert sorted(archive.stored) == sorted(uids)
    print(f"down for an hour: {attempts} attempts an object, all there {minutes} min after")


def test_a_destination_that_is_gone_for_good_is_parked_and_can_be_brought_back(
    make_outbox: MakeOutbox,
) -> None:
    archive = Archive()
    archive.port = free_port()
    outbox = make_outbox({"PACS": archive.destination()})
    outbox.add(["PACS"])
    outbox.steps(26 * 2, timedelta(minutes=30))
    (job,) = outbox.jobs()
    assert job["state"] == "parked"
    assert "refused the connection" in job["reason"]
    assert "gave up after" in job["reason"]
    assert outbox.metric("PACS", "parked") == 1
    attempts = outbox.only_delivery()["attempts"]
    outbox.steps(4, timedelta(hours=1))
    assert outbox.only_delivery()["attempts"] == attempts
    archive.start(archive.port)
    with outbox.database.begin() as connection:
        retry_job(connection, job["job_id"], now=outbox.clock())
    outbox.step()
    archive.stop()
    assert outbox.jobs()[0]["state"] == "delivered"


@contextmanager
def running(outbox: Outbox) -> Iterator[None]:
    """The courier at work as its process runs it."""
    stop = threading.Event()
    thread = threading.Thread(target=outbox.courier.run, args=(stop,))
    thread.start()
    yield
    stop.set()
    thread.join()


def seconds_until_delivered(outbox: Outbox, count: int) -> float:
    """How long the courier needs until so many objects are in the living archive."""
    started = time.monotonic()
    with running(outbox):
        wait_for(lambda: outbox.metric("ALIVE", "delivered") == count, 60, "delivered")
        return time.monotonic() - started


def test_a_dead_destination_delays_no_other(
    archive: Archive, make_outbox: MakeOutbox, tmp_path: Path
) -> None:
    count = 16
    silence = Silence()
    destinations = {
        "ALIVE": archive.destination(),
        "SILENT": silence.destination(response_timeout=5),
        "REFUSED": archive.destination(port=free_port()),
    }
    figures = {}
    for name, to in (("alone", ["ALIVE"]), ("beside the dead", list(destinations))):
        outbox = make_outbox(destinations, clock=lambda: datetime.now(UTC))
        before = outbox.metric("ALIVE", "delivered")
        for _ in range(count):
            outbox.add(to)
        figures[name] = seconds_until_delivered(outbox, before + count)
        (tmp_path / "node.db").rename(tmp_path / f"{name}.db")
        for suffix in ("-wal", "-shm"):
            (tmp_path / f"node.db{suffix}").unlink(missing_ok=True)
        if name == "alone":
            continue
        silence.close()
    ratio = figures["beside the dead"] / figures["alone"]
    print(f"{count} objects: {figures}, ratio {ratio:.2f}")
    # The dead would cost 10 s and more.
    assert figures["beside the dead"] < 2 * figures["alone"] + 5


@pytest.mark.dcmtk
@pytest.mark.parametrize("option", ["--refuse", "--abort-during", "--abort-after"])
def test_what_dcmtk_refuses_or_breaks_off_arrives_later_and_once(
    option: str, make_outbox: MakeOutbox, tmp_path: Path
) -> None:
    port = free_port()
    outbox = make_outbox(
        {"PACS": {"ae_title": "ARCHIVE", "host": "127.0.0.1", "port": port, "response_timeout": 2}}
    )
    uid = outbox.add(["PACS"])
    (tmp_path / "thrown").mkdir()
    with subprocess.Popen(
        [tool("storescp"), option, "-od", str(tmp_path / "thrown"), str(port)]
    ) as broken:
        try:
            wait_for(lambda: _answers(port), 10, "storescp listens")
            outbox.step()
        finally:
            broken.kill()
    delivery = outbox.only_delivery()
    assert delivery["state"] == "pending"
    assert delivery["last_error"]
    scp = StoreScp(tmp_path / "kept", port)
    scp.start()
    try:
        outbox.step(timedelta(seconds=10))
    finally:
        scp.stop()
    assert outbox.only_delivery()["state"] == "delivered"
    assert [dcmread(path).SOPInstanceUID for path in scp.files()] == [uid]


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_the_policy_that_a_person_sets_decides_when_to_give_up(make_outbox: MakeOutbox) -> None:
    archive = Archive()
    archive.port = free_port()
    patience = RetryPolicy(give_up_after=timedelta(minutes=2))
    outbox = make_outbox({"PACS": archive.destination()}, policy=patience)
    outbox.add(["PACS"])
    outbox.steps(10, timedelta(seconds=30))
    assert "in 0:02:00" in outbox.jobs()[0]["reason"]
