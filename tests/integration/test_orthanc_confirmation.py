"""A real Orthanc confirms what it got, and asks us to vouch for what it sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from dicom_node.receive.scp import Receiver
from dicom_node.store.database import open_database
from tests.e2e.harness import free_port, wait_for
from tests.faults.destinations.outbox import CT, Outbox
from tests.integration.orthanc import Orthanc

pytestmark = pytest.mark.orthanc

CONFIRM_SECONDS = 30.0


@pytest.fixture
def beside(tmp_path: Path) -> Iterator[Callable[..., Outbox]]:
    """A function that runs receiver and outbox beside an Orthanc that knows them."""
    with ExitStack() as stack:

        def start(orthanc: Orthanc, port: int, **destination: Any) -> Outbox:
            database = open_database(f"sqlite:///{tmp_path / 'node.db'}")
            database.upgrade()
            stack.callback(database.close)
            peer = {"ae_title": "ORTHANC", "host": "127.0.0.1", "port": orthanc.dicom_port}
            outbox = Outbox(
                database,
                tmp_path / "home",
                {"PACS": peer | destination},
                clock=lambda: datetime.now(UTC),
                dicom={"port": port, "storage_commitment": True, "minimum_free_bytes": 0},
            )
            receiver = Receiver(outbox.config)
            receiver.start()
            stack.callback(receiver.stop, timedelta(seconds=1))
            return outbox

        yield start


def until_delivered(outbox: Outbox) -> None:
    def delivered() -> bool:
        outbox.step()
        return outbox.only_delivery()["state"] == "delivered"

    wait_for(delivered, CONFIRM_SECONDS, "delivered")


def test_orthanc_confirms_by_storage_commitment_and_gets_again_what_it_lost(
    start_orthanc: Callable[..., Orthanc], beside: Callable[..., Outbox]
) -> None:
    port = free_port()
    orthanc = start_orthanc(node_port=port)
    outbox = beside(orthanc, port, confirm="storage_commitment", commitment_wait=0)
    uid = outbox.add(["PACS"])
    assert outbox.courier.deliver_batch("PACS")
    assert outbox.only_delivery()["state"] == "sent"
    orthanc.delete_everything()
    until_delivered(outbox)
    delivery = outbox.only_delivery()
    assert (delivery["attempts"], delivery["denials"]) == (2, 1)
    assert delivery["last_error"] == "confirmed by storage commitment"
    (kept,) = orthanc.get("/instances?expand")
    assert kept["MainDicomTags"]["SOPInstanceUID"] == uid


def test_orthanc_confirms_by_query(
    start_orthanc: Callable[..., Orthanc], beside: Callable[..., Outbox]
) -> None:
    port = free_port()
    orthanc = start_orthanc(node_port=port)
    outbox = beside(orthanc, port, confirm="query", query_after=0)
    outbox.add(["PACS"])
    until_delivered(outbox)
    assert outbox.only_delivery()["last_error"] == "confirmed by query"


def test_orthanc_hears_which_of_its_objects_are_here(
    start_orthanc: Callable[..., Orthanc], beside: Callable[..., Outbox]
) -> None:
    port = free_port()
    orthanc = start_orthanc(node_port=port)
    outbox = beside(orthanc, port)
    sent = orthanc.upload(CT)
    orthanc.post("/modalities/node/store", json={"Resources": [sent], "Synchronous": True})
    uid, sop_class = dcmread(CT).SOPInstanceUID, dcmread(CT).SOPClassUID
    asked = [[sop_class, uid], [sop_class, "2.25.404"]]
    request = orthanc.post("/modalities/node/storage-commitment", json={"DicomInstances": asked})

    def answered() -> dict[str, Any] | None:
        outbox.step()
        report: dict[str, Any] = orthanc.get(request["Path"])
        return report if report["Status"] != "Pending" else None

    report = wait_for(answered, CONFIRM_SECONDS, "Orthanc has the report")
    assert report["Status"] == "Failure"
    assert [item["SOPInstanceUID"] for item in report["Success"]] == [uid]
    (failure,) = report["Failures"]
    assert (failure["SOPInstanceUID"], failure["FailureReason"]) == ("2.25.404", 0x0112)
