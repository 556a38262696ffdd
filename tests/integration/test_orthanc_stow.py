"""A real Orthanc takes results by STOW-RS, refuses broken ones, and says by QIDO-RS what it has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom import dcmread
from pydicom.uid import UID

from dicom_node.config_destinations import DicomwebConfig
from dicom_node.deliver import stow
from dicom_node.deliver.dimse import SendOutcome
from dicom_node.deliver.qido import try_query
from dicom_node.deliver.stow_report import StoreReport, read_report
from dicom_node.domain.retry import RetryPolicy
from dicom_node.errors import DeliveryRejected
from dicom_node.store.database import open_database
from tests.e2e.harness import free_port, wait_for
from tests.faults.destinations.outbox import CT, Outbox
from tests.integration.orthanc import Orthanc

pytestmark = pytest.mark.orthanc

CONFIRM_SECONDS = 30.0
USER = ("node", "secret")
AT_ONCE = RetryPolicy(first=timedelta(milliseconds=100))


@pytest.fixture
def outbox_to(tmp_path: Path) -> Iterator[Callable[..., Outbox]]:
    """A function that makes an outbox to an Orthanc's DICOMweb service."""
    with ExitStack() as stack:

        def make(orthanc: Orthanc, **destination: Any) -> Outbox:
            database = open_database(f"sqlite:///{tmp_path / 'node.db'}")
            database.upgrade()
            stack.callback(database.close)
            return Outbox(
                database,
                tmp_path / "home",
                {"PACS": {"url": orthanc.dicomweb_url, **destination}},
                policy=AT_ONCE,
                clock=lambda: datetime.now(UTC),
            )

        yield make


def until(outbox: Outbox, state: str) -> None:
    def reached() -> bool:
        outbox.step()
        return {row["state"] for row in outbox.deliveries()} == {state}

    wait_for(reached, CONFIRM_SECONDS, state)


def sent(orthanc: Orthanc, *paths: Path) -> list[SendOutcome]:
    """Send files, without an outbox."""
    outcomes: dict[Path, SendOutcome] = {}
    stow.store_files(DicomwebConfig(url=orthanc.dicomweb_url), paths, outcomes.__setitem__)
    return [outcomes[path] for path in paths]


def test_what_orthanc_has_is_what_lies_on_disk_however_often_it_is_sent(
    start_orthanc: Callable[..., Orthanc], outbox_to: Callable[..., Outbox]
) -> None:
    # That nothing new comes makes a study stable, which is a change, too.
    orthanc = start_orthanc(node_port=free_port(), stable_age=600)
    outbox = outbox_to(orthanc)
    uids = [outbox.add(["PACS"]) for _ in range(10)]
    until(outbox, "delivered")
    assert {row["attempts"] for row in outbox.deliveries()} == {1}
    files = sorted((outbox.config.store_dir / "results").iterdir())
    for _ in range(2):
        kept = {path.read_bytes() for path in files}
        there = orthanc.files()
        assert len(there) == len(uids)
        assert set(there) == kept
        changes = orthanc.get("/changes")["Last"]
        assert all(outcome.delivered for outcome in sent(orthanc, *files))
        assert orthanc.get("/changes")["Last"] == changes


def test_orthanc_confirms_by_query_and_gets_again_what_it_lost(
    start_orthanc: Callable[..., Orthanc], outbox_to: Callable[..., Outbox]
) -> None:
    orthanc = start_orthanc(node_port=free_port())
    outbox = outbox_to(orthanc, confirm="query", query_after=0)
    uid = outbox.add(["PACS"])
    assert outbox.courier.deliver_batch("PACS")
    assert outbox.only_delivery()["state"] == "sent"
    orthanc.delete_everything()
    until(outbox, "delivered")
    delivery = outbox.only_delivery()
    assert (delivery["attempts"], delivery["denials"]) == (2, 1)
    assert delivery["last_error"] == "confirmed by query"
    (kept,) = orthanc.get("/instances?expand")
    assert kept["MainDicomTags"]["SOPInstanceUID"] == uid


def test_one_object_that_orthanc_cannot_read_is_refused_and_the_others_stored(
    start_orthanc: Callable[..., Orthanc], tmp_path: Path
) -> None:
    """Orthanc answers 400 to the whole request then, and has stored what came before."""
    orthanc = start_orthanc(node_port=free_port())
    broken, other = tmp_path / "broken.dcm", tmp_path / "other.dcm"
    broken.write_bytes(CT.read_bytes()[:800])
    data_set = dcmread(CT)
    data_set.SOPInstanceUID = data_set.file_meta.MediaStorageSOPInstanceUID = UID("2.25.7")
    data_set.save_as(other)
    first, second, third = sent(orthanc, CT, broken, other)
    assert first.delivered
    assert isinstance(second.error, DeliveryRejected)
    assert "HTTP 400" in str(second.error)
    assert third.delivered
    assert len(orthanc.get("/instances")) == 2


def test_the_xml_that_orthanc_writes_is_read_as_its_json(
    start_orthanc: Callable[..., Orthanc],
) -> None:
    orthanc = start_orthanc(node_port=free_port())
    uid = str(dcmread(BytesIO(CT.read_bytes())).SOPInstanceUID)
    for media_type in ("application/dicom+json", "application/dicom+xml"):
        answer = httpx.post(
            f"{orthanc.dicomweb_url}/studies",
            headers={
                "Accept": media_type,
                "Content-Type": 'multipart/related; type="application/dicom"; boundary=mark',
            },
            content=b"--mark\r\nContent-Type: application/dicom\r\n\r\n"
            + CT.read_bytes()
            + b"\r\n--mark--\r\n",
        )
        assert answer.headers["Content-Type"] == media_type
        assert read_report(media_type, answer.content) == StoreReport({uid: None}, {})


def test_orthanc_that_demands_a_password_gets_it_from_the_file(
    start_orthanc: Callable[..., Orthanc], outbox_to: Callable[..., Outbox], tmp_path: Path
) -> None:
    orthanc = start_orthanc(node_port=free_port(), user=USER)
    file = tmp_path / "credentials"
    file.write_text("node:wrong")
    outbox = outbox_to(orthanc, basic_auth_file=file)
    outbox.add(["PACS"])
    until(outbox, "parked")
    assert "check basic_auth_file" in outbox.only_delivery()["last_error"]
    destination = outbox.config.destinations["PACS"]
    assert isinstance(destination, DicomwebConfig)
    with pytest.raises(DeliveryRejected, match="does not accept our credentials"):
        try_query(destination)
    file.write_text(":".join(USER))
    assert try_query(destination) is None
    outbox.add(["PACS"])
    outbox.step()
    assert [row["state"] for row in outbox.deliveries()] == ["parked", "delivered"]
    assert "secret" not in repr(outbox.jobs())


def test_an_orthanc_that_is_away_gets_everything_once_when_it_is_back(
    start_orthanc: Callable[..., Orthanc], outbox_to: Callable[..., Outbox]
) -> None:
    orthanc = start_orthanc(node_port=free_port())
    outbox = outbox_to(orthanc, confirm="query", query_after=0)
    orthanc.stop()
    uids = [outbox.add(["PACS"]) for _ in range(3)]
    outbox.step()
    assert all("refused the connection" in row["last_error"] for row in outbox.deliveries())
    orthanc.start()
    until(outbox, "delivered")
    kept = [item["MainDicomTags"]["SOPInstanceUID"] for item in orthanc.get("/instances?expand")]
    assert sorted(kept) == sorted(uids)
