"""Callers that are unknown, too many, slow, silent or wrong; a disk that is full."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import CTImageStorage, MRImageStorage
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import build_context

from dicom_node.config_destinations import DestinationConfig
from dicom_node.deliver.dimse import SendOutcome, echo, send_files
from dicom_node.dimse import prepare_pynetdicom
from dicom_node.errors import DestinationUnavailable
from dicom_node.store.inbox import scan

CT = Path(get_testdata_file("CT_small.dcm"))


def send(node: DestinationConfig, *paths: Path) -> list[SendOutcome]:
    outcomes: list[SendOutcome] = []
    send_files(node, "SENDER", paths, lambda _, outcome: outcomes.append(outcome))
    return outcomes


@contextmanager
def open_association(node: DestinationConfig) -> Iterator[Association]:
    prepare_pynetdicom()
    entity = AE(ae_title="SENDER")
    association = entity.associate(
        node.host, node.port, contexts=[build_context(CTImageStorage)], ae_title="NODE"
    )
    assert association.is_established
    yield association
    if association.is_established:
        association.release()


@pytest.mark.dcmtk
def test_unknown_ae_titles_are_rejected_with_the_right_reason(start_receiver, tool) -> None:
    _, node = start_receiver(calling_ae_titles=("PACS",), require_called_ae_title=True)
    port = str(node.port)
    stranger = tool("echoscu", "-aet", "STRANGER", "-aec", "NODE", "127.0.0.1", port)
    assert "Calling AE Title Not Recognized" in stranger.stderr
    misled = tool("echoscu", "-aet", "PACS", "-aec", "OTHER", "127.0.0.1", port)
    assert "Called AE Title Not Recognized" in misled.stderr
    assert tool("echoscu", "-aet", "PACS", "-aec", "NODE", "127.0.0.1", port).returncode == 0


@pytest.mark.dcmtk
def test_one_association_too_many_is_rejected_for_now_only(start_receiver, tool) -> None:
    _, node = start_receiver(max_associations=1)
    with open_association(node):
        refused = tool("echoscu", "-v", "127.0.0.1", str(node.port))
        assert "Rejected Transient" in refused.stderr
        assert "Local Limit Exceeded" in refused.stderr
        with pytest.raises(DestinationUnavailable, match="takes no more associations"):
            echo(node, "SENDER")
    deadline = time.monotonic() + 5
    while tool("echoscu", "127.0.0.1", str(node.port)).returncode:
        assert time.monotonic() < deadline


def test_eight_associations_at_once_lose_nothing(start_receiver, series, wait_for_endings) -> None:
    _, node = start_receiver()
    paths = series(40)
    outcomes: list[list[SendOutcome]] = [[] for _ in range(8)]
    threads = [
        threading.Thread(
            target=send_files,
            args=(node, f"SENDER{i}", paths[i::8], lambda _, o, kept=outcomes[i]: kept.append(o)),
        )
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [[SendOutcome(0)] * 5] * 8
    files = [path for listing in wait_for_endings(8) for path in listing.files]
    sent = {dcmread(path).SOPInstanceUID for path in paths}
    assert {dcmread(path).SOPInstanceUID for path in files} == sent
    assert len(files) == 40


def test_below_the_disk_floor_nothing_is_taken_and_echo_works(start_receiver, home: Path) -> None:
    _, node = start_receiver(minimum_free_bytes=1 << 60)
    assert [outcome.status for outcome in send(node, CT, CT)] == [0xA700, 0xA700]
    assert scan(home / "inbox") == []
    echo(node, "SENDER")


def test_a_failing_disk_is_out_of_resources_not_an_error_of_the_sender(
    start_receiver, home: Path
) -> None:
    _, node = start_receiver()
    statuses = []

    def break_the_folder(_: Path, outcome: SendOutcome) -> None:
        statuses.append(outcome.status)
        if len(statuses) == 1:
            (listing,) = scan(home / "inbox")
            shutil.rmtree(listing.folder)

    send_files(node, "SENDER", [CT, CT], break_the_folder)
    assert statuses == [0x0000, 0xA700]


@pytest.mark.parametrize(
    ("sop_class_uid", "sop_instance_uid", "status"),
    [
        (CTImageStorage, "1.2.3", 0x0000),
        (CTImageStorage, "../../../tmp/x", 0x0117),
        (MRImageStorage, "1.2.3", 0xA900),
    ],
)
def test_a_request_that_contradicts_itself_is_answered_with_the_fitting_status(
    sop_class_uid: str, sop_instance_uid: str, status: int, start_receiver
) -> None:
    _, node = start_receiver()
    with open_association(node) as association:
        request = C_STORE()
        request.MessageID = 1
        request.Priority = 0
        request.AffectedSOPClassUID = sop_class_uid
        request.AffectedSOPInstanceUID = sop_instance_uid
        request.DataSet = BytesIO(b"\x08\0\x60\0\x02\0\0\0CT")
        association._reactor_checkpoint.clear()
        association.dimse.send_msg(request, association.accepted_contexts[0].context_id)
        _, response = association.dimse.get_msg(block=True)
        association._reactor_checkpoint.set()
        assert response.Status == status


def test_no_accepted_socket_delays_small_packets(start_receiver) -> None:
    _, node = start_receiver()
    with open_association(node):
        accepted = [
            thread.dul.socket.socket
            for thread in threading.enumerate()
            if isinstance(thread, Association) and thread.is_acceptor
        ]
        assert accepted
        for connection in accepted:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


def test_an_idle_association_is_ended_and_marked(start_receiver, wait_for_endings) -> None:
    _, node = start_receiver(idle_timeout=timedelta(seconds=0.4))
    with open_association(node) as association:
        status = association.send_c_store(dcmread(CT))
        assert status.Status == 0
        (listing,) = wait_for_endings(1)
    assert (listing.ended, len(listing.files)) == ("aborted", 1)


def test_a_sender_that_breaks_off_is_marked(start_receiver, wait_for_endings) -> None:
    _, node = start_receiver()
    with open_association(node) as association:
        assert association.send_c_store(dcmread(CT)).Status == 0
        association.abort()
    assert wait_for_endings(1)[0].ended == "aborted"


def test_stop_aborts_who_does_not_finish(start_receiver, wait_for_endings) -> None:
    receiver, node = start_receiver()
    with open_association(node) as association:
        assert association.send_c_store(dcmread(CT)).Status == 0
        started = time.monotonic()
        receiver.stop(timedelta(seconds=0.2))
        assert time.monotonic() - started < 4
        assert wait_for_endings(1)[0].ended == "aborted"
    with pytest.raises(DestinationUnavailable, match="refused the connection"):
        echo(node, "SENDER")


@contextmanager
def slow_line(port: int, bytes_per_second: int) -> Iterator[int]:
    """A port that passes bytes on to another, slowly in one direction."""

    def pump(source: socket.socket, target: socket.socket, rate: int | None) -> None:
        while piece := source.recv(4096):
            target.sendall(piece)
            if rate:
                time.sleep(len(piece) / rate)
        target.shutdown(socket.SHUT_WR)

    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(("127.0.0.1", port)) as onward,
    ):

        def serve() -> None:
            client, _ = server.accept()
            with client:
                back = threading.Thread(target=pump, args=(onward, client, None))
                back.start()
                pump(client, onward, bytes_per_second)
                back.join()

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join()


def test_a_large_object_over_a_slow_line_is_not_idle(start_receiver) -> None:
    """With an unlimited PDU the whole data set is one PDU, far longer under way than is idle."""
    _, node = start_receiver(idle_timeout=timedelta(seconds=0.5))
    with slow_line(node.port, 25_000) as port:
        slow = node.model_copy(update={"port": port})
        started = time.monotonic()
        assert send(slow, CT) == [SendOutcome(0)]
        assert time.monotonic() - started > 1


def test_a_sender_that_stalls_within_a_pdu_is_ended(start_receiver, wait_for_endings) -> None:
    _, node = start_receiver(idle_timeout=timedelta(seconds=0.4))
    with open_association(node) as association:
        assert association.send_c_store(dcmread(CT)).Status == 0
        connection = association.dul.socket.socket
        connection.sendall(b"\x04\x00\x00\x10\x00\x00" + b"\x00" * 100)  # 1 MB announced
        assert wait_for_endings(1)[0].ended == "aborted"
        assert not any(
            isinstance(thread, Association) and thread.is_acceptor
            for thread in threading.enumerate()
        )


def test_nothing_of_the_patient_is_logged(start_receiver, logged, capfd, caplog) -> None:
    caplog.set_level("DEBUG")
    _, node = start_receiver()
    assert send(node, CT) == [SendOutcome(0)]
    output = logged.new() + "".join(capfd.readouterr()) + caplog.text
    dataset = dcmread(CT)
    assert "association accepted" in output
    for secret in (str(dataset.PatientName), dataset.PatientID, dataset.StudyInstanceUID):
        assert secret not in output
