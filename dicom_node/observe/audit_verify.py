"""Reads an audit trail back: whether every link holds, and if not, where the first one breaks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from dicom_node.observe.audit_chain import (
    GENESIS,
    RECOVERED,
    Link,
    read_head,
    read_record,
    sha256_of,
    trail_files,
)


@dataclass(slots=True)
class Verification:
    """What was found.

    Attributes
    ----------
    first, last
        The chain that holds, from and to; None: there is no record.
    broken
        The first place where it does not hold, in words; None: it holds.
    notes
        What is unusual and no sign of tampering.
    anchored
        Number of the record whose digest was given as an anchor.
    """

    first: Link | None = None
    last: Link | None = None
    broken: str | None = None
    notes: list[str] = field(default_factory=list)
    anchored: int | None = None


@dataclass(slots=True)
class _Walk:
    """The state on the way through the files."""

    found: Verification
    anchor: str | None
    head: Link | None
    unread: bytes = b""
    unread_at: str = ""


def verify_trail(folder: Path, *, anchor: str | None = None) -> Verification:
    """Follow the chain through every file.

    Parameters
    ----------
    anchor
        SHA-256 of a record that was noted elsewhere (`Verification.last`); it must be in the chain.

    Raises
    ------
    OSError
        A file cannot be read.
    """
    walk = _Walk(Verification(), anchor, read_head(folder))
    for place, line in _lines(folder):
        walk.found.broken = _follow(walk, place, line)
        if walk.found.broken is not None:
            return walk.found
    walk.found.broken = _judge_end(walk)
    if walk.found.broken is None and anchor is not None and walk.found.anchored is None:
        walk.found.broken = (
            f"no record has the digest {anchor}: the trail was replaced or cut off before it"
        )
    return walk.found


def _lines(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in trail_files(folder):
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield f"{path.name}:{number}", line


def _follow(walk: _Walk, place: str, line: bytes) -> str | None:
    """Take the next line; returns what is wrong with it."""
    record = read_record(line.removesuffix(b"\n")) if line.endswith(b"\n") else None
    if record is None:
        walk.unread += line
        walk.unread_at = walk.unread_at or place
        return None
    last = walk.found.last
    if last is None and record["n"] != 1:
        walk.found.notes.append(
            f"the chain starts at record {record['n']}; older files are not here"
        )
    problem = _link_problem(record, last, place) or _unread_problem(walk, record)
    if problem is not None:
        return problem
    link = Link(record["n"], sha256_of(line.removesuffix(b"\n")))
    walk.found.first = walk.found.first or link
    walk.found.last = link
    if walk.head is not None and walk.head.number == link.number and walk.head != link:
        return f"{place}: record {link.number} is not the one that was written"
    if link.sha256 == walk.anchor:
        walk.found.anchored = link.number
    return None


def _link_problem(record: dict[str, Any], last: Link | None, place: str) -> str | None:
    number = record["n"]
    if last is None:
        wrong = number == 1 and record["prev"] != GENESIS
        return f"{place}: the first record does not begin a chain" if wrong else None
    if number != last.number + 1:
        return f"{place}: record {number} follows record {last.number}: some are missing or moved"
    if record["prev"] != last.sha256:
        return f"{place}: record {last.number}, or the link to it in record {number}, was changed"
    return None


def _unread_problem(walk: _Walk, record: dict[str, Any]) -> str | None:
    """Bytes that are no record must be told of by the record after them, and so must losses."""
    unread, place = walk.unread, walk.unread_at
    walk.unread, walk.unread_at = b"", ""
    facts = record.get("facts", {}) if record.get("event") == RECOVERED else {}
    if facts.get("missing") or facts.get("changed"):
        return (
            f"record {record['n']} says that {facts['missing']} durable records before it were "
            "missing, or the last one changed, when it was written"
        )
    if not unread:
        return None
    if facts.get("torn_sha256") in {sha256_of(unread), sha256_of(unread.removesuffix(b"\n"))}:
        walk.found.notes.append(
            f"{place}: {len(unread)} bytes that a crash left of a record; "
            f"record {record['n']} tells of them"
        )
        return None
    return f"{place}: not a record"


def _judge_end(walk: _Walk) -> str | None:
    last, head = walk.found.last, walk.head
    number = last.number if last is not None else 0
    if head is not None and head.number > number:
        if last is None and not walk.unread:
            return f"every record up to {head.number} is missing"
        return (
            f"records {number + 1} to {head.number} are missing from the end although they were "
            "durable: cut off, or a disk that lost what it had confirmed"
        )
    if walk.unread:
        walk.found.notes.append(
            f"{walk.unread_at}: {len(walk.unread)} bytes at the end are no whole record: a crash "
            "while writing; the next record will tell of them"
        )
    if head is None and last is None and not walk.unread:
        return "there is no record, although the folder is made for the first one: all are gone"
    if head is None and last is not None:
        return "audit/head is missing: whether records were cut off can only be told by an anchor"
    return None


def records_since(folder: Path, since: datetime | None) -> Iterator[dict[str, Any]]:
    """Every readable record in order, from a moment on."""
    earliest = since.date().isoformat() if since else ""
    for path in trail_files(folder):
        if path.stem < earliest:
            continue
        with path.open("rb") as file:
            for line in file:
                record = read_record(line.removesuffix(b"\n"))
                if record is None:
                    continue
                if since is None or datetime.fromisoformat(record["at"]) >= since:
                    yield record
