"""The audit trail's files: one JSON record a line, each holding the SHA-256 of the line before.

    audit/2026-11-21.jsonl   the records of a day (UTC), mode 0600; the chain goes on over days
    audit/head               locked (flock) by whoever appends; the last record known to be durable

Any number of processes append. Nothing is ever changed or removed: what a power loss left of a
record stays where it is, and the next record says so. A record is with the kernel when `append`
returns, so that a killed process loses none; a *durable* one has reached the disk (fsync), and with
it all that stand before it in its file.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final

from dicom_node.store.files import fsync_folder

GENESIS: Final = "0" * 64
"""What the first record holds in place of a digest."""

RECOVERED: Final = "trail_recovered"
"""Event of the record that follows what could not be read, or what is missing."""

_HEAD = "head"
_TAIL_BYTES = 1 << 16
_FILE_MODE, _FOLDER_MODE = 0o600, 0o700


@dataclass(frozen=True, slots=True)
class Link:
    """A place in the chain: the record's number, from 1, and the SHA-256 of its line."""

    number: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Tail:
    """The end of the chain: its last good record, and the bytes of its last file that are none."""

    last: Link | None
    torn: bytes


def read_record(line: bytes) -> dict[str, Any] | None:
    """Parse one line; None if it is not a record."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    whole = isinstance(record, dict) and isinstance(record.get("n"), int) and "prev" in record
    return record if whole else None


def sha256_of(line: bytes) -> str:
    """Digest of a record's line, without its line feed."""
    return hashlib.sha256(line).hexdigest()


def trail_files(folder: Path) -> list[Path]:
    """The files of the chain in its order."""
    return sorted(folder.glob("*.jsonl"))


class Chain:
    """The writing end of an audit trail.

    Parameters
    ----------
    folder
        Made at the first record, for its owner alone.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def append(self, values: Mapping[str, Any], *, day: date, durable: bool) -> Link:
        """Append one record; `n` and `prev` are added to its values.

        Parameters
        ----------
        day
            Names the file, unless a later one is there: a clock that was set back does not turn
            the order of the files around.

        Raises
        ------
        OSError
            The record is not written; the trail is as before.
        """
        with self._locked() as head:
            files = trail_files(self._folder)
            tail = tail_of(files)
            before = read_head(self._folder)
            found = _what_is_wrong(tail, before)
            path = self._folder / f"{day.isoformat()}.jsonl"
            if files and (files[-1] > path or tail.torn):
                path = files[-1]
            last = tail.last or before or Link(0, GENESIS)
            content = b"" if not tail.torn or tail.torn.endswith(b"\n") else b"\n"
            if found is not None:
                note = {key: values[key] for key in ("at", "source", "process", "pid")}
                last, line = _linked(note | found, last)
                content += line
            last, line = _linked(values, last)
            self._write(path, content + line, sync=durable or found is not None)
            if durable or found is not None:
                self._note_head(head, last)
            return last

    @contextmanager
    def _locked(self) -> Iterator[int]:
        # A descriptor of its own each time: flock then holds threads apart, too.
        self._folder.mkdir(parents=True, exist_ok=True, mode=_FOLDER_MODE)
        head = os.open(self._folder / _HEAD, os.O_RDWR | os.O_CREAT, _FILE_MODE)
        try:
            fcntl.flock(head, fcntl.LOCK_EX)
            self._give_to_the_folders_owner(head)
            yield head
        finally:
            os.close(head)

    def _give_to_the_folders_owner(self, descriptor: int) -> None:
        """A command that root runs must not leave files that the node cannot append to."""
        owner = self._folder.stat()
        if os.geteuid() == 0 and os.fstat(descriptor).st_uid != owner.st_uid:
            os.fchown(descriptor, owner.st_uid, owner.st_gid)

    def _write(self, path: Path, content: bytes, *, sync: bool) -> None:
        is_new = not path.exists()
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, _FILE_MODE)
        try:
            self._give_to_the_folders_owner(file)
            size = os.fstat(file).st_size
            try:
                written = os.write(file, content)
                while written < len(content):
                    written += os.write(file, content[written:])
                if sync:
                    os.fsync(file)
            except OSError:
                os.ftruncate(file, size)  # it never was a record: nobody was told that it is one
                raise
        finally:
            os.close(file)
        if is_new:
            fsync_folder(self._folder)

    def _note_head(self, head: int, last: Link) -> None:
        content = json.dumps({"n": last.number, "sha256": last.sha256}).encode() + b"\n"
        os.pwrite(head, content, 0)
        os.ftruncate(head, len(content))


def _linked(values: Mapping[str, Any], last: Link) -> tuple[Link, bytes]:
    record = {"n": last.number + 1, "prev": last.sha256} | dict(values)
    line = json.dumps(record, separators=(",", ":")).encode("ascii")
    return Link(last.number + 1, sha256_of(line)), line + b"\n"


def _what_is_wrong(tail: Tail, head: Link | None) -> dict[str, Any] | None:
    """What the next record must tell: bytes that are no record, durable records that are gone."""
    number = tail.last.number if tail.last else 0
    # An empty folder with a head is no loss: old files may be moved away.
    missing = head.number - number if head and tail.last and head.number > number else 0
    changed = bool(head and tail.last and tail.last.number == head.number and tail.last != head)
    if not tail.torn and not missing and not changed:
        return None
    facts = {"torn_bytes": len(tail.torn), "torn_sha256": sha256_of(tail.torn)}
    outcome = 8 if missing or changed else 4
    return {
        "event": RECOVERED,
        "outcome": outcome,
        "facts": facts | {"missing": missing, "changed": changed},
    }


def read_head(folder: Path) -> Link | None:
    """The last record that is known to have been durable; None: there never was one."""
    try:
        head = json.loads((folder / _HEAD).read_bytes())
        return Link(int(head["n"]), str(head["sha256"]))
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        return None


def tail_of(files: Sequence[Path]) -> Tail:
    """The end of a chain: its newest file may hold no good record yet."""
    torn = b""
    for path in reversed(files):
        tail = _read_tail(path)
        torn = tail.torn if path == files[-1] else torn
        if tail.last is not None:
            return Tail(tail.last, torn)
    return Tail(None, torn)


def _read_tail(path: Path) -> Tail:
    """Find the last good record of a file; reads no more than it must."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        start = size
        content = b""
        while start > 0:
            start = max(0, start - _TAIL_BYTES)
            file.seek(start)
            content = file.read(size - start)
            tail = _last_good(content, whole=start == 0)
            if tail is not None:
                return tail
        return Tail(None, content)


def _last_good(content: bytes, *, whole: bool) -> Tail | None:
    """The tail in the last bytes of a file; None if they hold no good record."""
    end = len(content)
    while end > 0:
        feed = content.rfind(b"\n", 0, end)
        begin = content.rfind(b"\n", 0, feed) + 1 if feed > 0 else 0
        if feed < 0 or (begin == 0 and not whole):
            return None
        line = content[begin:feed]
        record = read_record(line)
        if record is not None:
            return Tail(Link(record["n"], sha256_of(line)), content[feed + 1 :])
        end = feed
    return None
