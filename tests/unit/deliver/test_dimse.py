"""Sending to scripted peers, to DCMTK and to nobody."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.sop_class import CTImageStorage, SecondaryCaptureImageStorage, Verification

from dicom_node.config_destinations import DestinationConfig
from dicom_node.deliver.association import associate
from dicom_node.deliver.dimse import SendOutcome, echo, send_files, send_folder
from dicom_node.demo.archive import Archive
from dicom_node.dimse import prepare_pynetdicom
from dicom_node.errors import DeliveryRejected, DestinationUnavailable

CT = Path(get_testdata_file("CT_small.dcm"))
Script = Callable[[evt.Event], int]


def peer_at(port: int, **settings: object) -> DestinationConfig:
    return DestinationConfig.model_validate(
        {"ae_title": "PEER", "host": "127.0.0.1", "port": port, **settings}
    )


def send(destination: DestinationConfig, *paths: Path) -> list[SendOutcome]:
    outcomes: dict[int, SendOutcome] = {}
    order = iter(range(len(paths)))
    send_files(destination, "NODE", paths, lambda _, o: outcomes.__setitem__(next(order), o))
    assert len(outcomes) == len(paths)
    return list(outcomes.values())


@pytest.fixture
def start_peer() -> Iterator[Callable[..., DestinationConfig]]:
    """A pynetdicom SCP that answers C-STORE as its script says."""
    prepare_pynetdicom()
    entities = []

    def start(
        script: Script = lambda _: 0x0000,
        syntaxes: tuple[str, ...] = (ExplicitVRLittleEndian,),
        classes: tuple[str, ...] = (CTImageStorage, Verification),
        **settings: object,
    ) -> DestinationConfig:
        entity = AE(ae_title="PEER")
        for name, value in settings.items():
            setattr(entity, name, value)
        for sop_class in classes:
            entity.add_supported_context(sop_class, list(syntaxes))
        server = entity.start_server(
            ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, script)]
        )
        entities.append(entity)
        return peer_at(server.server_address[1], response_timeout=timedelta(seconds=5))

    yield start
    for entity in entities:
        # Aborting an association that is at its end already kills a thread of the library.
        patience = time.monotonic() + 1
        while entity.active_associations and time.monotonic() < patience:
            time.sleep(0.01)
        entity.shutdown()


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (0x0000, None),
        (0xB000, None),
        (0x0111, None),
        (0xA700, DestinationUnavailable),
        (0xA900, DeliveryRejected),
        (0xC000, DeliveryRejected),
    ],
)
def test_the_answer_decides_whether_an_object_counts_as_delivered(
    status: int, error: type[Exception] | None, start_peer
) -> None:
    (outcome,) = send(start_peer(lambda _: status), CT)
    assert outcome.status == status
    assert type(outcome.error) is (error or type(None))
    assert outcome.delivered is (error is None)
    assert (outcome.remark is not None) is (error is None and status != 0)


def test_many_files_go_over_one_association(start_peer) -> None:
    seen = set()

    def remember(event: evt.Event) -> int:
        seen.add(event.assoc)
        return 0x0000

    assert send(start_peer(remember), *[CT] * 5) == [SendOutcome(0)] * 5
    assert len(seen) == 1


def test_a_peer_that_takes_only_implicit_vr_gets_the_same_data_set(start_peer) -> None:
    received = []

    def keep(event: evt.Event) -> int:
        received.append((event.context.transfer_syntax, event.dataset))
        return 0x0000

    (outcome,) = send(start_peer(keep, syntaxes=(ImplicitVRLittleEndian,)), CT)
    assert outcome.delivered
    ((syntax, dataset),) = received
    assert syntax == ImplicitVRLittleEndian
    assert dataset.PixelData == dcmread(CT).PixelData
    assert dataset.PatientName == dcmread(CT).PatientName


def test_what_no_context_takes_is_rejected_and_the_rest_is_sent(start_peer) -> None:
    compressed = Path(get_testdata_file("693_J2KR.dcm"))
    first, second = send(start_peer(), compressed, CT)
    assert isinstance(first.error, DeliveryRejected)
    assert "does not accept CT Image Storage in JPEG 2000" in str(first.error)
    assert second.delivered
    (alone,) = send(start_peer(), compressed)
    assert isinstance(alone.error, DeliveryRejected)
    assert "accepts none of the SOP classes" in str(alone.error)


def test_an_object_that_ends_the_association_does_not_hold_up_the_others(start_peer) -> None:
    calls = []

    def drop_the_second(event: evt.Event) -> int:
        calls.append(event.assoc)
        if len(calls) == 2:
            event.assoc.abort()
        return 0x0000

    outcomes = send(start_peer(drop_the_second), CT, CT, CT, CT)
    assert [outcome.delivered for outcome in outcomes] == [True, False, True, True]
    assert isinstance(outcomes[1].error, DestinationUnavailable)


def test_a_peer_that_always_ends_the_association_is_left_alone(start_peer) -> None:
    calls = []

    def drop(event: evt.Event) -> int:
        calls.append(1)
        event.assoc.abort()
        return 0x0000

    outcomes = send(start_peer(drop), *[CT] * 6)
    assert all(isinstance(outcome.error, DestinationUnavailable) for outcome in outcomes)
    assert len(calls) == 2


def test_a_peer_that_never_answers_costs_no_more_than_the_timeout(start_peer) -> None:
    release = threading.Event()

    def hang(_: evt.Event) -> int:
        release.wait(20)
        return 0x0000

    destination = start_peer(hang).model_copy(update={"response_timeout": timedelta(seconds=0.5)})
    started = time.monotonic()
    (outcome,) = send(destination, CT)
    release.set()
    assert isinstance(outcome.error, DestinationUnavailable)
    assert time.monotonic() - started < 5


def test_a_socket_that_takes_the_connection_and_stays_silent_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        destination = peer_at(server.getsockname()[1], response_timeout=timedelta(seconds=0.5))
        started = time.monotonic()
        with pytest.raises(DestinationUnavailable, match="did not answer the association request"):
            echo(destination, "NODE")
        assert time.monotonic() - started < 5


def test_nobody_there_is_said_plainly() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(DestinationUnavailable, match="refused the connection; is it running"):
        echo(peer_at(port), "NODE")
    outcomes = send(peer_at(port), CT, CT)
    assert all(isinstance(outcome.error, DestinationUnavailable) for outcome in outcomes)


def test_a_host_that_does_not_exist_is_said_plainly() -> None:
    with pytest.raises(DestinationUnavailable, match="host name cannot be resolved"):
        echo(peer_at(104, host="no-such-host.invalid"), "NODE")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"require_calling_aet": ["SOMEBODY"]}, "does not recognise our AE title NODE; register"),
        ({"require_called_aet": True, "ae_title": "OTHER"}, "does not recognise its AE title as"),
    ],
)
def test_an_unknown_ae_title_is_said_plainly(
    settings: dict[str, object], sentence: str, start_peer
) -> None:
    destination = start_peer(**settings)
    with pytest.raises(DestinationUnavailable, match=sentence):
        echo(destination, "NODE")


def test_a_peer_without_verification_is_said_plainly(start_peer) -> None:
    with pytest.raises(DestinationUnavailable, match="accepts none of"):
        echo(start_peer(classes=(CTImageStorage,)), "NODE")


def test_echo_is_answered(start_peer) -> None:
    echo(start_peer(), "NODE")


def test_the_sending_socket_has_no_nagle_delay(start_peer) -> None:
    prepare_pynetdicom()
    entity = AE()
    entity.add_requested_context(Verification)
    with associate(start_peer(), "NODE", entity.requested_contexts) as association:
        connection = association.dul.socket.socket
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        assert connection.gettimeout() == 5


@pytest.mark.dcmtk
def test_storescp_keeps_what_we_send(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    folder = tmp_path / "in"
    folder.mkdir()
    with subprocess.Popen(["storescp", "+B", "+xa", "-od", str(folder), str(port)]) as process:
        try:
            deadline = time.monotonic() + 10
            while True:
                try:
                    echo(peer_at(port), "NODE")
                    break
                except DestinationUnavailable:
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
            names = ["CT_small.dcm", "JPEG2000.dcm", "image_dfl.dcm", "SC_rgb_rle.dcm"]
            paths = [Path(get_testdata_file(name)) for name in names]
            assert send(peer_at(port), *paths) == [SendOutcome(0)] * 4
        finally:
            process.kill()
    kept = {dcmread(path).SOPInstanceUID: dcmread(path) for path in folder.iterdir()}
    for path in paths:
        assert kept[dcmread(path).SOPInstanceUID] == dcmread(path)


def test_a_folder_is_sent_and_what_is_not_dicom_is_named(tmp_path: Path) -> None:
    source = tmp_path / "source" / "deep"
    source.mkdir(parents=True)
    (source / "a").write_bytes(CT.read_bytes())
    (source / "readme.txt").write_text("no image")
    (source / "DICOMDIR").write_bytes(Path(get_testdata_file("DICOMDIR")).read_bytes())
    archive = Archive(tmp_path / "archive")
    destination = peer_at(archive.start())
    results: dict[Path, SendOutcome] = {}
    try:
        skipped = send_folder(destination, "NODE", source.parent, results.__setitem__)
    finally:
        archive.stop()
    assert results == {source / "a": SendOutcome(0)}
    assert {path.name for path in skipped} == {"readme.txt", "DICOMDIR"}
    assert "not a DICOM file" in skipped[source / "readme.txt"]
    assert "DICOMDIR" in skipped[source / "DICOMDIR"]
    (stored,) = (tmp_path / "archive").iterdir()
    assert stored.name == f"{dcmread(CT).SOPInstanceUID}.dcm"
    assert dcmread(stored) == dcmread(CT)


def test_a_deflated_file_that_is_cut_off_does_not_stop_the_others(
    start_peer, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.dcm"
    content = Path(get_testdata_file("image_dfl.dcm")).read_bytes()
    damaged.write_bytes(content[: 1000 + 1 - len(content) % 2])
    destination = start_peer(
        syntaxes=(ExplicitVRLittleEndian,), classes=(CTImageStorage, SecondaryCaptureImageStorage)
    )
    first, second = send(destination, damaged, CT)
    assert isinstance(first.error, DeliveryRejected)
    assert "cannot be read or re-encoded" in str(first.error)
    assert second.delivered


def test_a_file_that_is_gone_is_rejected(start_peer, tmp_path: Path) -> None:
    gone, there = send(start_peer(), tmp_path / "gone.dcm", CT)
    assert isinstance(gone.error, DeliveryRejected)
    assert there.delivered
