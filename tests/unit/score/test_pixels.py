"""Every transfer syntax and photometric trap ends in the same pixels, or in a clear refusal."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.sequence import Sequence
from pydicom.uid import (
    HTJ2K,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from dicom_node.errors import BadInput
from dicom_node.score.codecs import read_stored
from dicom_node.score.codestream import MAXIMUM_INFLATED_BYTES
from dicom_node.score.pixels import read_frame, read_modality_values
from tests.unit.score.synthetic import Write, chest_like, dataset_of

SIGNED_12 = np.arange(-2048, 2048, dtype=np.int16).reshape(64, 64)


def sample(name: str) -> Path:
    path = get_testdata_file(name)
    assert isinstance(path, str)
    return Path(path)


@pytest.mark.parametrize(
    ("reference", "others"),
    [
        (
            "MR_small.dcm",
            [
                "MR_small_implicit.dcm",
                "MR_small_bigendian.dcm",
                "MR_small_RLE.dcm",
                "MR_small_jp2klossless.dcm",
                "MR_small_jpeg_ls_lossless.dcm",
            ],
        ),
        ("RG1_UNCR.dcm", ["RG1_J2KR.dcm"]),
        ("RG1_UNCI.dcm", ["RG1_J2KI.dcm"]),
        ("693_UNCR.dcm", ["693_J2KR.dcm"]),
        ("MR2_UNCI.dcm", ["MR2_J2KI.dcm"]),
    ],
)
def test_published_pairs_decode_to_the_same_stored_values(
    reference: str, others: list[str]
) -> None:
    expected = read_stored(sample(reference)).values
    for name in others:
        np.testing.assert_array_equal(read_stored(sample(name)).values, expected, err_msg=name)


@pytest.mark.parametrize(
    "name",
    ["emri_small_RLE.dcm", "emri_small_jpeg_2k_lossless.dcm", "emri_small_jpeg_ls_lossless.dcm"],
)
@pytest.mark.parametrize("frame", [1, 10])
def test_frames_of_a_multi_frame_file_are_found(name: str, frame: int) -> None:
    expected = read_stored(sample("emri_small.dcm"), frame).values
    np.testing.assert_array_equal(read_stored(sample(name), frame).values, expected)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, RLELossless])
@pytest.mark.parametrize("values", [SIGNED_12, (SIGNED_12 + 2048).astype(np.uint16)])
def test_lossless_compression_keeps_signed_and_unsigned_values(
    syntax: Any, values: NDArray[Any], tmp_path: Path
) -> None:
    data = dataset_of(values, BitsStored=12, HighBit=11)
    data.compress(syntax, generate_instance_uid=False)
    path = tmp_path / "compressed.dcm"
    data.save_as(path, enforce_file_format=True)
    np.testing.assert_array_equal(read_stored(path).values, values)


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_native_syntaxes_keep_values(syntax: Any, tmp_path: Path) -> None:
    big = syntax == ExplicitVRBigEndian
    data = dataset_of(SIGNED_12)
    data.PixelData = SIGNED_12.astype(">i2" if big else "<i2").tobytes()
    path = tmp_path / "native.dcm"
    data.file_meta.TransferSyntaxUID = syntax
    data.save_as(path, enforce_file_format=True)
    np.testing.assert_array_equal(read_stored(path).values, SIGNED_12)


@pytest.mark.dcmtk
@pytest.mark.parametrize(
    ("option", "syntax"), [("+e1", "1.2.840.10008.1.2.4.70"), ("+el", "1.2.840.10008.1.2.4.57")]
)
def test_jpeg_lossless_from_dcmtk_keeps_values(
    option: str, syntax: str, write: Write, tmp_path: Path
) -> None:
    source = write((SIGNED_12 + 2048).astype(np.uint16), BitsStored=12, HighBit=11)
    target = tmp_path / "lossless.dcm"
    run_tool("dcmcjpeg", option, str(source), str(target))
    assert pydicom.dcmread(target).file_meta.TransferSyntaxUID == syntax
    np.testing.assert_array_equal(read_stored(target).values, SIGNED_12.astype(np.int32) + 2048)


@pytest.mark.dcmtk
@pytest.mark.parametrize("name", ["JPGExtended.dcm", "JPEG-lossy.dcm"])
def test_twelve_bit_jpeg_extended_agrees_with_dcmtk(name: str, tmp_path: Path) -> None:
    target = tmp_path / "plain.dcm"
    run_tool("dcmdjpeg", str(sample(name)), str(target))
    expected = pydicom.dcmread(target).pixel_array.astype(np.int32)
    difference = np.abs(read_stored(sample(name)).values.astype(np.int32) - expected)
    # Two inverse cosine transforms may round apart by one.
    assert difference.max() <= 1


def run_tool(*command: str) -> None:
    assert shutil.which(command[0]), f"{command[0]} is not installed"
    subprocess.run(command, check=True, capture_output=True, timeout=60)


def jpeg_file(tmp_path: Path, picture: NDArray[np.uint8], **attributes: Any) -> Path:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=95)
    data = dataset_of(picture, **attributes)
    data.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    data.PixelData = encapsulate([buffer.getvalue()])
    path = tmp_path / "jpeg.dcm"
    data.save_as(path, enforce_file_format=True)
    return path


def test_jpeg_baseline_is_what_pillow_says(tmp_path: Path) -> None:
    picture = chest_like()
    decoded = read_stored(jpeg_file(tmp_path, picture)).values
    assert np.abs(decoded.astype(int) - picture).max() <= 6


@pytest.mark.skipif(
    shutil.which("ojph_compress") is None and "CI" not in os.environ,
    reason="no encoder for High-Throughput JPEG 2000 (Debian: openjph-tools)",
)
@pytest.mark.parametrize("syntax", [HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K])
def test_high_throughput_jpeg_2000_keeps_values(syntax: Any, tmp_path: Path) -> None:
    values = chest_like(128, 96)
    Image.fromarray(values).save(tmp_path / "plain.pgm")
    codestream = tmp_path / "plain.j2c"
    run_tool(
        "ojph_compress",
        "-i",
        str(tmp_path / "plain.pgm"),
        "-o",
        str(codestream),
        "-reversible",
        "true",
        "-prog_order",
        "RPCL",
    )
    data = dataset_of(values)
    data.file_meta.TransferSyntaxUID = syntax
    data.PixelData = encapsulate([codestream.read_bytes()])
    path = tmp_path / "high.dcm"
    data.save_as(path, enforce_file_format=True)
    np.testing.assert_array_equal(read_stored(path).values, values)


def test_monochrome1_is_inverted_exactly_once(write: Write) -> None:
    values = chest_like().astype(np.uint16) * 16
    plain = read_frame(write(values, BitsStored=12, HighBit=11))
    inverse = read_frame(
        write(
            (4095 - values).astype(np.uint16),
            name="inverse.dcm",
            BitsStored=12,
            HighBit=11,
            PhotometricInterpretation="MONOCHROME1",
        )
    )
    np.testing.assert_allclose(inverse.shown, plain.shown, atol=1e-6)
    assert inverse.values.max() == 4095 - values.min()


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_windows_agree_with_pydicom(function: str, write: Write) -> None:
    values = (SIGNED_12 + 2048).astype(np.uint16)
    attributes = {"WindowCenter": "1800", "WindowWidth": "900", "VOILUTFunction": function}
    path = write(values, BitsStored=12, HighBit=11, **attributes)
    expected = apply_voi_lut(values, pydicom.dcmread(path)) / 4095
    np.testing.assert_allclose(read_frame(path).shown, expected, atol=1e-5)


def test_luts_agree_with_pydicom() -> None:
    modality = sample("mlut_18.dcm")
    data = pydicom.dcmread(modality)
    expected = apply_modality_lut(data.pixel_array, data)
    np.testing.assert_array_equal(read_modality_values(modality), expected.astype(np.float32))
    voi = sample("vlut_04.dcm")
    data = pydicom.dcmread(voi)
    bits = data.VOILUTSequence[0].LUTDescriptor[2]
    expected = apply_voi_lut(data.pixel_array, data) / (2**bits - 1)
    np.testing.assert_allclose(read_frame(voi).shown, expected, atol=1e-6)


def test_rescale_gives_hounsfield_units(write: Write) -> None:
    path = write(SIGNED_12, Modality="CT", RescaleSlope="2", RescaleIntercept="-24")
    np.testing.assert_array_equal(read_modality_values(path), SIGNED_12.astype(np.float32) * 2 - 24)


def test_enhanced_ct_takes_rescale_and_window_from_its_frame() -> None:
    path = sample("eCT_Supplemental.dcm")
    data = pydicom.dcmread(path)
    for number in (1, 2):
        groups = data.PerFrameFunctionalGroupsSequence[number - 1]
        shared = data.SharedFunctionalGroupsSequence[0]
        group = groups if "PixelValueTransformationSequence" in groups else shared
        macro = group.PixelValueTransformationSequence[0]
        expected = data.pixel_array[number - 1] * float(macro.RescaleSlope)
        expected = expected + float(macro.RescaleIntercept)
        np.testing.assert_allclose(read_frame(path, number).values, expected, rtol=1e-6)


def test_bits_outside_bits_stored_are_no_image(write: Write) -> None:
    overlay = np.uint16(0x8000)
    values = (SIGNED_12 + 2048).astype(np.uint16)
    path = write(values | overlay, BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(read_stored(path).values, values)


def test_left_aligned_bits_are_shifted_down(write: Write) -> None:
    values = (SIGNED_12 + 2048).astype(np.uint16)
    path = write((values << 4) | np.uint16(5), BitsStored=12, HighBit=15)
    np.testing.assert_array_equal(read_stored(path).values, values)


def test_padding_is_black_and_does_not_stretch_the_scale(write: Write) -> None:
    values = chest_like().astype(np.int16)
    expected = read_frame(write(values)).shown
    values[:, :40] = -2000
    frame = read_frame(write(values, PixelPaddingValue=-2000, name="padded.dcm"))
    assert frame.shown[:, :40].max() == 0
    low, high = values[:, 40:].min(), values[:, 40:].max()
    np.testing.assert_allclose(
        frame.shown[:, 40:], (values[:, 40:] - low) / (high - low), atol=1e-6
    )
    assert expected.shape == frame.shown.shape


def test_padding_of_ct_becomes_air(write: Write) -> None:
    values = np.full((64, 64), 40, np.int16)
    values[0] = -2000
    values[1, 1] = 41
    path = write(values, Modality="CT", PixelPaddingValue=-2000)
    assert read_modality_values(path)[0].max() == -1000


def test_a_window_that_shows_nothing_is_replaced_and_noted(write: Write) -> None:
    frame = read_frame(write(chest_like(), WindowCenter="9000", WindowWidth="10"))
    assert np.ptp(frame.shown) == pytest.approx(1)
    assert "window" in frame.notes[0]


def test_a_gray_picture_saved_in_colour_counts_as_monochrome(write: Write) -> None:
    gray = chest_like()
    path = write(
        np.stack([gray] * 3, axis=-1),
        SamplesPerPixel=3,
        PhotometricInterpretation="RGB",
        PlanarConfiguration=0,
    )
    np.testing.assert_array_equal(read_stored(path).values, gray)


def test_every_published_file_is_decoded_or_refused_with_a_reason() -> None:
    decoded = 0
    for path in sorted(sample("MR_small.dcm").parent.glob("*.dcm")):
        # Any other error than the one for bad input fails the test.
        with contextlib.suppress(BadInput):
            stored = read_stored(path)
            assert stored.values.shape == (stored.header.Rows, stored.header.Columns)
            decoded += 1
    assert decoded > 15


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"Rows": 0}, r"Rows \(0028,0010\)"),
        ({"Rows": 60000, "Columns": 60000}, r"Rows \(0028,0010\) x Columns \(0028,0011\)"),
        ({"Rows": 500}, r"Pixel Data \(7FE0,0010\)"),
        ({"PhotometricInterpretation": "RGB"}, r"Photometric Interpretation \(0028,0004\) 'RGB'"),
        ({"PhotometricInterpretation": None}, r"Photometric Interpretation \(0028,0004\) ''"),
        ({"SamplesPerPixel": 3}, r"with 3 samples"),
        ({"BitsStored": 0}, r"Bits Stored \(0028,0101\) 0"),
        ({"BitsAllocated": 32}, r"Bits Allocated \(0028,0100\) 32"),
        ({"PixelData": None}, r"Pixel Data \(7FE0,0010\)"),
        ({"RescaleSlope": "0", "RescaleIntercept": "0"}, r"Rescale Slope \(0028,1053\)"),
    ],
)
def test_a_header_that_cannot_be_right_is_refused_by_name(
    attributes: dict[str, Any], reason: str, write: Write
) -> None:
    path = write(chest_like(), **attributes)
    with pytest.raises(BadInput, match=reason):
        read_frame(path)


def test_a_frame_that_does_not_exist_is_refused(write: Write) -> None:
    with pytest.raises(BadInput, match=r"Number of Frames \(0028,0008\) is 1"):
        read_frame(write(chest_like()), 2)


def test_a_truncated_file_is_refused(write: Write, tmp_path: Path) -> None:
    whole = write(chest_like()).read_bytes()
    short = tmp_path / "short.dcm"
    short.write_bytes(whole[: len(whole) - 5000])
    with pytest.raises(BadInput, match=r"Pixel Data \(7FE0,0010\)"):
        read_frame(short)


@pytest.mark.parametrize("name", ["RG1_J2KR.dcm", "JPGLosslessP14SV1_1s_1f_8b.dcm"])
def test_a_truncated_compressed_file_is_refused(name: str, tmp_path: Path) -> None:
    whole = sample(name).read_bytes()
    short = tmp_path / "short.dcm"
    short.write_bytes(whole[: len(whole) // 3])
    with pytest.raises(BadInput, match=r"Pixel Data \(7FE0,0010\)"):
        read_frame(short)


def test_a_file_that_is_no_dicom_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.dcm"
    path.write_text("not an image")
    with pytest.raises(BadInput, match="not readable as DICOM"):
        read_frame(path)


def test_a_codestream_that_contradicts_the_header_is_not_decoded(tmp_path: Path) -> None:
    path = jpeg_file(tmp_path, chest_like(), Rows=8, Columns=8)
    with pytest.raises(BadInput, match="holds a codestream of 300 x 260"):
        read_frame(path)


def test_a_deflated_bomb_is_refused_before_it_grows(write: Write, tmp_path: Path) -> None:
    source = write(chest_like())
    data = pydicom.dcmread(source)
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    path = tmp_path / "bomb.dcm"
    data.save_as(path, enforce_file_format=True)
    length = pydicom.dcmread(path).file_meta.FileMetaInformationGroupLength
    head = path.read_bytes()[: 128 + 4 + 12 + length]
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = bytes(1 << 24)
    steps = MAXIMUM_INFLATED_BYTES // len(block) + 2
    body = b"".join(packer.compress(block) for _ in range(steps)) + packer.flush()
    path.write_bytes(head + body)
    with pytest.raises(BadInput, match="exceeds"):
        read_frame(path)


def test_voi_lut_that_is_broken_is_ignored_and_noted(write: Write) -> None:
    lut = pydicom.Dataset()
    lut.LUTDescriptor = [256, 0, 16]
    path = write(chest_like(), VOILUTSequence=Sequence([lut]))
    assert "VOI LUT" in read_frame(path).notes[0]
