"""Durable writes to a disk that does not take them."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from dicom_node.store.files import write_durably

LIMIT = 1 << 20


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    """The limit on a file's size stands for a full disk: the write stops halfway."""
    target = tmp_path / "a.npz"
    write_durably(target, b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_durably(target, bytes(2 * LIMIT))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]
    assert target.read_bytes() == b"old"
