"""What a peer sends lies in the inbox, byte for byte, in every transfer syntax."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.filereader import read_file_meta_info
from pydicom.uid import MRImageStorage

from dicom_node.deliver.dimse import SendOutcome, send_files
from dicom_node.receive.contexts import TRANSFER_SYNTAXES

Wait = Callable[[int], list]
# Real files of every encoding, and the option with which DCMTK's storescu proposes it.
FILES = {
    "CT_small.dcm": "-xe",
    "RG1_UNCR.dcm": "-xe",
    "MR_small_implicit.dcm": "-xi",
    "MR_small_bigendian.dcm": "-xb",
    "image_dfl.dcm": "-xd",
    "SC_rgb_rle.dcm": "-xr",
    "JPEG-LL.dcm": "-xs",
    "SC_rgb_dcmtk_+eb+cy+np.dcm": "-xy",
    "JPEG-lossy.dcm": "-xx",
    "MR_small_jpeg_ls_lossless.dcm": "-xt",
    "JPEGLSNearLossless_16.dcm": "-xu",
    "693_J2KR.dcm": "-xv",
    "JPEG2000.dcm": "-xw",
}


def data_set_bytes(path: Path) -> bytes:
    content = path.read_bytes()
    return content[144 + int.from_bytes(content[140:144], "little") :]


def described(path: Path) -> tuple[str, str, bytes]:
    meta = read_file_meta_info(path)
    return meta.TransferSyntaxUID, meta.MediaStorageSOPInstanceUID, data_set_bytes(path)


@pytest.fixture
def reference(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """DCMTK's storescp, which writes data sets exactly as it reads them; port and folder."""
    folder = tmp_path / "reference"
    folder.mkdir()
    log = tmp_path / "storescp.log"
    for port in range(28400, 28500):
        with log.open("w") as output:
            process = subprocess.Popen(
                ["storescp", "+B", "+xa", "-pm", "+uf", "-od", str(folder), str(port)],
                stdout=output,
                stderr=output,
            )
        time.sleep(0.3)
        if process.poll() is None:
            break
    yield port, folder
    process.kill()
    process.wait()


@pytest.mark.dcmtk
def test_what_storescu_sends_arrives_as_at_storescp(
    start_receiver, wait_for_endings: Wait, reference: tuple[int, Path], tool
) -> None:
    _, node = start_receiver(extra_storage_classes=(MRImageStorage,))
    port, folder = reference
    for name, option in FILES.items():
        source = get_testdata_file(name)
        for target in (node.port, port):
            sent = tool("storescu", option, "127.0.0.1", str(target), source)
            assert sent.returncode == 0, (name, sent.stderr)
    listings = wait_for_endings(len(FILES))
    assert all(listing.ended == "released" for listing in listings)
    received = [described(path) for listing in listings for path in listing.files]
    assert len({transfer_syntax for transfer_syntax, _, _ in received}) == len(set(FILES.values()))
    assert sorted(received) == sorted(described(path) for path in folder.iterdir())


def test_our_sender_keeps_every_byte_in_every_transfer_syntax(
    start_receiver, wait_for_endings: Wait, tmp_path: Path
) -> None:
    _, node = start_receiver(extra_storage_classes=(MRImageStorage,))
    paths = [Path(get_testdata_file(name)) for name in FILES]
    odd = paths.index(Path(get_testdata_file("image_dfl.dcm")))  # lacks the padding of PS3.5 A.5
    paths[odd] = tmp_path / "padded.dcm"
    paths[odd].write_bytes(Path(get_testdata_file("image_dfl.dcm")).read_bytes() + b"\0")
    outcomes: dict[Path, SendOutcome] = {}
    send_files(node, "SENDER", paths, outcomes.__setitem__)
    assert {path.name for path in paths if not outcomes[path].delivered} == set()
    (listing,) = wait_for_endings(1)
    assert [data_set_bytes(path) for path in listing.files] == [data_set_bytes(p) for p in paths]


@pytest.mark.parametrize("transfer_syntax", TRANSFER_SYNTAXES)
def test_the_file_names_the_negotiated_transfer_syntax(
    transfer_syntax: str, start_receiver, wait_for_endings: Wait, tmp_path: Path
) -> None:
    """The receiver decodes nothing: any bytes do for a syntax of which no sample exists."""
    dataset = dcmread(get_testdata_file("JPEG2000.dcm"))
    source = tmp_path / "source.dcm"
    dataset.save_as(source)
    content = source.read_bytes()
    old = dataset.file_meta.TransferSyntaxUID
    assert old == "1.2.840.10008.1.2.4.91"
    new = transfer_syntax + "\0" * (len(transfer_syntax) % 2)
    meta = content[: 144 + int.from_bytes(content[140:144], "little")]
    swapped = meta.replace(
        b"UI" + len(old).to_bytes(2, "little") + old.encode(),
        b"UI" + len(new).to_bytes(2, "little") + new.encode(),
    )
    length = int.from_bytes(meta[140:144], "little") + len(new) - len(old)
    swapped = swapped[:140] + length.to_bytes(4, "little") + swapped[144:]
    source.write_bytes(swapped + content[len(meta) :])
    _, node = start_receiver()
    outcomes: list[SendOutcome] = []
    send_files(node, "SENDER", [source], lambda _, outcome: outcomes.append(outcome))
    assert outcomes == [SendOutcome(0)]
    ((path,),) = [listing.files for listing in wait_for_endings(1)]
    assert read_file_meta_info(path).TransferSyntaxUID == (transfer_syntax)
    assert data_set_bytes(path) == data_set_bytes(source)


@pytest.mark.dcmtk
def test_dcmsend_and_echoscu_are_served(
    start_receiver, wait_for_endings: Wait, series, tool
) -> None:
    _, node = start_receiver()
    paths = series(5)
    assert tool("echoscu", "127.0.0.1", str(node.port)).returncode == 0
    sent = tool("dcmsend", "-aet", "MODALITY", "127.0.0.1", str(node.port), *paths)
    assert sent.returncode == 0, sent.stderr
    (listing,) = wait_for_endings(1)
    assert len(listing.files) == 5
    meta = read_file_meta_info(listing.files[0])
    assert meta.SourceApplicationEntityTitle == "MODALITY"
    assert meta.SourcePresentationAddress.startswith("dicom://127.0.0.1:")
