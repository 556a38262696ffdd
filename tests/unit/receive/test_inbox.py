"""The inbox on its own: files, endings and owners."""

from __future__ import annotations

import errno
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dicom_node.store.inbox import Inbox, remove_if_done, scan

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def test_files_are_listed_in_order_and_parts_are_not(tmp_path: Path) -> None:
    folder = Inbox(tmp_path / "inbox").open_association(now=NOON)
    paths = [folder.write([b"head", memoryview(b"%d" % number)]) for number in range(12)]
    (folder.path / "000099.part").write_bytes(b"cut off")
    (listing,) = scan(tmp_path / "inbox")
    assert listing.folder == folder.path
    assert list(listing.files) == paths
    assert listing.files[11].read_bytes() == b"head11"
    assert listing.ended is None
    folder.close("released")
    assert scan(tmp_path / "inbox")[0].ended == "released"


def test_the_first_ending_counts_and_nothing_is_written_after_it(tmp_path: Path) -> None:
    folder = Inbox(tmp_path).open_association(now=NOON)
    folder.close("aborted")
    folder.close("released")
    assert scan(tmp_path)[0].ended == "aborted"
    with pytest.raises(OSError, match="has ended"):
        folder.write([b"late"])


def test_a_folder_goes_only_when_it_has_ended_and_is_empty(tmp_path: Path) -> None:
    folder = Inbox(tmp_path).open_association(now=NOON)
    path = folder.write([b"x"])
    (folder.path / "000002.part").write_bytes(b"cut off")
    assert not remove_if_done(folder.path)
    folder.close("released")
    assert not remove_if_done(folder.path)
    path.unlink()
    assert remove_if_done(folder.path)
    assert scan(tmp_path) == []


def test_an_inbox_that_does_not_exist_yet_is_empty(tmp_path: Path) -> None:
    assert scan(tmp_path / "nowhere") == []


def test_a_failed_write_leaves_no_part_and_the_next_one_works(tmp_path: Path) -> None:
    folder = Inbox(tmp_path).open_association(now=NOON)
    (folder.path / "000001.part").mkdir()  # the name is taken: opening it fails
    with pytest.raises(OSError):
        folder.write([b"x"])
    assert folder.write([b"y"]).name == "000002.dcm"


def test_only_the_folders_of_dead_processes_are_marked(tmp_path: Path) -> None:
    program = (
        "import sys, datetime, pathlib; from dicom_node.store.inbox import Inbox\n"
        "folder = Inbox(pathlib.Path(sys.argv[1])).open_association("
        "now=datetime.datetime(2026, 1, 31, 13, tzinfo=datetime.UTC))\n"
        "folder.write([b'x']); print(folder.path, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        theirs = Path(other.stdout.readline().strip())
        inbox = Inbox(tmp_path)
        mine = inbox.open_association(now=NOON)
        assert inbox.mark_orphans() == []
        other.kill()
        other.wait()
    assert inbox.mark_orphans() == [theirs]
    assert inbox.mark_orphans() == []
    ended = {listing.folder: listing.ended for listing in scan(tmp_path)}
    assert ended == {mine.path: None, theirs: "aborted"}


def test_a_folder_that_the_disk_does_not_take_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_folder: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    inbox = Inbox(tmp_path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with monkeypatch.context() as patched:
        patched.setattr("dicom_node.store.inbox.fsync_folder", failing)
        with pytest.raises(OSError, match="Input/output"):
            inbox.open_association(now=NOON)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert len(inbox.mark_orphans()) == 1
