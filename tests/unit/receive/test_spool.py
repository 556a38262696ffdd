"""Where a data set lies while it arrives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dicom_node.receive.spool import IN_MEMORY_BYTES, DataSetBuffer, Spool


def spool(
    folder: Path, *, most: int = 1 << 32, has_room: Callable[[int], bool] = lambda _: True
) -> Spool:
    return Spool(folder, most, has_room)


def test_a_small_data_set_stays_in_memory(tmp_path: Path) -> None:
    def no_room(_: int) -> bool:
        raise AssertionError("the disk is not asked")

    buffer = DataSetBuffer(spool(tmp_path, has_room=no_room))
    assert buffer.write(b"ab") == 2
    buffer.write(b"c")
    assert bytes(buffer.getbuffer()) == b"abc"


def test_a_large_one_lies_in_a_file_without_a_name_and_comes_back_whole(tmp_path: Path) -> None:
    buffer = DataSetBuffer(spool(tmp_path))
    pieces = [bytes([number]) * (1 << 20) for number in range(10)]
    for piece in pieces:
        buffer.write(piece)
    assert buffer.size == 10 << 20
    with buffer.getbuffer() as content:
        assert content == b"".join(pieces)
    assert list(tmp_path.iterdir()) == []
    assert len(buffer.getvalue()) == 0


def test_what_is_too_large_is_refused_and_dropped(tmp_path: Path) -> None:
    buffer = DataSetBuffer(spool(tmp_path, most=5))
    for _ in range(3):
        assert buffer.write(b"abc") == 3
    assert buffer.refused == "object is larger than dicom.maximum_object_bytes"
    assert buffer.getvalue() == b""


def test_a_full_disk_refuses_while_the_object_arrives(tmp_path: Path) -> None:
    buffer = DataSetBuffer(spool(tmp_path, has_room=lambda _: False))
    buffer.write(bytes(IN_MEMORY_BYTES))
    assert buffer.refused is None
    buffer.write(b"x")
    assert buffer.refused == "free disk space is below dicom.minimum_free_bytes"


def test_a_folder_that_is_gone_refuses(tmp_path: Path) -> None:
    buffer = DataSetBuffer(spool(tmp_path / "gone"))
    buffer.write(bytes(IN_MEMORY_BYTES + 1))
    assert buffer.refused == "errno 2"
