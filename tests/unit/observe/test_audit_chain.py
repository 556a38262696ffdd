"""The audit trail: a chain that several processes write, and that shows what was done to it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from dicom_node.observe import audit_chain
from dicom_node.observe.audit import AuditEvent, AuditTrail, Outcome, StudyPart, Who
from dicom_node.observe.audit_chain import GENESIS, Chain, Link, trail_files
from dicom_node.observe.audit_verify import records_since, verify_trail

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
DAY = NOW.date()
VALUES = {"at": "2026-11-21T12:00:00.000000Z", "source": "N@h", "process": "t", "pid": 1}


def trail(folder: Path, now: Callable[[], datetime] = lambda: NOW) -> AuditTrail:
    return AuditTrail(folder, source="NODE@host", process="test", clock=now)


def write(folder: Path, count: int, *, day: date = DAY, durable: bool = True) -> Link:
    for number in range(count):
        link = Chain(folder).append(VALUES | {"event": f"e{number}"}, day=day, durable=durable)
    return link


def lines(folder: Path) -> list[bytes]:
    return [line for path in trail_files(folder) for line in path.read_bytes().splitlines()]


def rewrite(path: Path, changed: list[bytes]) -> None:
    path.write_bytes(b"".join(line + b"\n" for line in changed))


def test_each_record_holds_the_digest_of_the_one_before(tmp_path: Path) -> None:
    write(tmp_path, 3)
    written = lines(tmp_path)
    records = [json.loads(line) for line in written]
    assert [record["n"] for record in records] == [1, 2, 3]
    digests = [hashlib.sha256(line).hexdigest() for line in written]
    assert [record["prev"] for record in records] == [GENESIS, *digests[:2]]
    found = verify_trail(tmp_path)
    assert found.broken is None
    assert found.last == Link(3, digests[2])


def test_folder_and_files_are_for_the_node_alone(tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    write(folder, 1)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_the_chain_goes_on_over_days_and_over_a_clock_that_was_set_back(tmp_path: Path) -> None:
    write(tmp_path, 2)
    write(tmp_path, 2, day=DAY + timedelta(days=1))
    write(tmp_path, 1, day=DAY - timedelta(days=9))
    assert [path.stem for path in trail_files(tmp_path)] == ["2026-11-21", "2026-11-22"]
    assert verify_trail(tmp_path).last == Link(5, hashlib.sha256(lines(tmp_path)[-1]).hexdigest())


def test_old_files_may_be_moved_away_and_the_chain_goes_on(tmp_path: Path) -> None:
    write(tmp_path, 2)
    write(tmp_path, 2, day=DAY + timedelta(days=1))
    trail_files(tmp_path)[0].unlink()
    found = verify_trail(tmp_path)
    assert found.broken is None
    assert found.notes == ["the chain starts at record 3; older files are not here"]
    trail_files(tmp_path)[0].unlink()
    write(tmp_path, 1, day=DAY + timedelta(days=2))
    assert json.loads(lines(tmp_path)[0])["n"] == 5


def tampered(folder: Path, how: str) -> None:
    (path,) = trail_files(folder)
    held = path.read_bytes().splitlines()
    changes: dict[str, list[bytes]] = {
        "changed": [held[0], held[1].replace(b'"e1"', b'"eX"'), *held[2:]],
        "made unreadable": [held[0], held[1][:-1], *held[2:]],
        "removed": [held[0], *held[2:]],
        "removed first": held[1:],
        "swapped": [held[0], held[2], held[1], *held[3:]],
        "inserted": [held[0], held[1], held[1], *held[2:]],
        "cut off": held[:-1],
        "last changed": [*held[:-1], held[-1].replace(b'"e4"', b'"eX"')],
        "emptied": [],
    }
    rewrite(path, changes[how])


@pytest.mark.parametrize(
    ("how", "where"),
    [
        ("changed", "2026-11-21.jsonl:3: record 2, or the link to it in record 3, was changed"),
        ("made unreadable", "2026-11-21.jsonl:3: record 3 follows record 1: some are missing"),
        ("removed", "2026-11-21.jsonl:2: record 3 follows record 1: some are missing"),
        ("swapped", "2026-11-21.jsonl:2: record 3 follows record 1"),
        ("inserted", "2026-11-21.jsonl:3: record 2 follows record 2"),
        ("cut off", "records 5 to 5 are missing from the end although they were durable"),
        ("last changed", "record 5 is not the one that was written"),
        ("emptied", "every record up to 5 is missing"),
    ],
)
def test_the_first_broken_link_is_found(tmp_path: Path, how: str, where: str) -> None:
    write(tmp_path, 5)
    tampered(tmp_path, how)
    broken = verify_trail(tmp_path).broken
    assert broken is not None
    assert where in broken


@pytest.mark.parametrize("how", ["cut off", "last changed"])
def test_what_is_written_after_tampering_does_not_hide_it(tmp_path: Path, how: str) -> None:
    write(tmp_path, 5)
    tampered(tmp_path, how)
    write(tmp_path, 2)
    broken = verify_trail(tmp_path).broken
    assert broken is not None
    assert "when it was written" in broken


def test_a_removed_beginning_is_told_and_found_by_an_anchor(tmp_path: Path) -> None:
    first = write(tmp_path, 1)
    write(tmp_path, 4)
    tampered(tmp_path, "removed first")
    assert "starts at record 2" in verify_trail(tmp_path).notes[0]
    assert "no record has the digest" in str(verify_trail(tmp_path, anchor=first.sha256).broken)


def test_a_chain_that_was_written_anew_is_found_by_an_anchor(tmp_path: Path) -> None:
    noted = write(tmp_path / "a", 5)
    (tmp_path / "a" / "head").unlink()
    write(tmp_path / "b", 5)
    assert verify_trail(tmp_path / "b", anchor=noted.sha256).anchored == 5
    Chain(tmp_path / "c").append(VALUES | {"event": "forged"}, day=DAY, durable=True)
    write(tmp_path / "c", 4)
    assert verify_trail(tmp_path / "c").broken is None
    assert verify_trail(tmp_path / "c", anchor=noted.sha256).broken is not None


def test_a_trail_of_which_nothing_is_left_is_no_clean_bill(tmp_path: Path) -> None:
    write(tmp_path, 2)
    for path in tmp_path.iterdir():
        path.unlink()
    assert "all are gone" in str(verify_trail(tmp_path).broken)


def test_a_missing_head_is_no_clean_bill(tmp_path: Path) -> None:
    write(tmp_path, 2)
    (tmp_path / "head").unlink()
    assert "head is missing" in str(verify_trail(tmp_path).broken)


@pytest.mark.parametrize("rest", [b'{"n":3,"prev":"', b"\0" * 700, b'{"n":3}\nab\n', b"\n"])
def test_what_a_crash_left_of_a_record_is_told_apart_from_tampering(
    tmp_path: Path, rest: bytes
) -> None:
    write(tmp_path, 2)
    with trail_files(tmp_path)[0].open("ab") as file:
        file.write(rest)
    found = verify_trail(tmp_path)
    assert found.broken is None
    assert "crash while writing" in found.notes[0]
    last = write(tmp_path, 1)
    assert last.number == 4  # the third tells of the rest
    found = verify_trail(tmp_path)
    assert found.broken is None
    assert "bytes that a crash left of a record; record 3 tells of them" in found.notes[0]
    told = [record for record in records_since(tmp_path, None) if record["n"] == 3]
    assert told[0]["event"] == "trail_recovered"
    assert told[0]["outcome"] == Outcome.MINOR_FAILURE


def test_bytes_that_nobody_told_of_are_tampering(tmp_path: Path) -> None:
    write(tmp_path, 2)
    (path,) = trail_files(tmp_path)
    held = path.read_bytes().splitlines()
    rewrite(path, [held[0], b"xx", held[1]])
    assert verify_trail(tmp_path).broken == "2026-11-21.jsonl:2: not a record"


def test_a_first_record_of_a_day_that_is_torn_links_to_the_day_before(tmp_path: Path) -> None:
    write(tmp_path, 2, durable=False)
    (tmp_path / "2026-11-22.jsonl").write_bytes(b'{"n":')
    write(tmp_path, 1, day=DAY + timedelta(days=1))
    found = verify_trail(tmp_path)
    assert (found.broken, found.last and found.last.number) == (None, 4)


WRITER = """
import datetime, pathlib, sys
from dicom_node.observe.audit_chain import Chain
chain = Chain(pathlib.Path(sys.argv[1]))
values = {"at": "", "source": "", "process": "", "pid": 1, "event": "x" * 300}
for _ in range(100):
    chain.append(values, day=datetime.date(2026, 11, 21), durable=False)
"""


def test_several_processes_write_one_chain(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    writers = [subprocess.Popen(command) for _ in range(4)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0, 0]
    write(tmp_path, 1)
    found = verify_trail(tmp_path)
    assert (found.broken, found.last and found.last.number) == (None, 401)


def test_a_full_disk_leaves_no_half_record_and_is_told_when_there_is_room_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = trail(tmp_path)
    audit.record(AuditEvent.APPLICATION_STARTED)

    def full(_file: int, content: bytes) -> int:
        written = real(_file, content[:20])
        assert written == 20
        raise OSError(errno.ENOSPC, "no space")

    real = os.write
    monkeypatch.setattr(audit_chain.os, "write", full)
    audit.record(AuditEvent.RESULTS_SENT)
    audit.record(AuditEvent.RESULTS_SENT)
    monkeypatch.setattr(audit_chain.os, "write", real)
    audit.record(AuditEvent.APPLICATION_STOPPED)
    records = list(records_since(tmp_path, None))
    assert [record["event"] for record in records] == [
        "application_started", "records_lost", "application_stopped",
    ]  # fmt: skip
    assert records[1]["facts"] == {"lost": 2}
    assert verify_trail(tmp_path).broken is None


def test_what_is_awaited_reaches_the_disk_before_the_call_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync

    def note(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real(descriptor)

    monkeypatch.setattr(audit_chain.os, "fsync", note)
    audit = trail(tmp_path)
    audit.record(AuditEvent.ASSOCIATION_ACCEPTED)
    assert "2026-11-21.jsonl" not in synced
    audit.record(AuditEvent.RESULTS_SENT)
    assert "2026-11-21.jsonl" in synced


def test_a_record_says_who_did_what_to_whose_data(tmp_path: Path) -> None:
    trail(tmp_path).record(
        AuditEvent.RESULTS_SENT,
        who=Who(ae_title="PACS", host="10.0.0.1"),
        study=StudyPart("1.2.3", "Ä-17", {"1.2.840.10008.5.1.4.1.1.88.33": 1}),
        job=7,
    )
    (record,) = records_since(tmp_path, None)
    assert record == {
        "n": 1,
        "prev": GENESIS,
        "at": "2026-11-21T12:00:00.000000Z",
        "source": "NODE@host",
        "process": "test",
        "pid": os.getpid(),
        "event": "results_sent",
        "outcome": 0,
        "who": {"ae_title": "PACS", "host": "10.0.0.1"},
        "study": {
            "study_instance_uid": "1.2.3",
            "patient_id": "Ä-17",
            "sop_classes": {"1.2.840.10008.5.1.4.1.1.88.33": 1},
        },
        "facts": {"job": 7},
    }


def test_records_can_be_read_from_a_moment_on(tmp_path: Path) -> None:
    for hours in (0, 13, 30):
        trail(tmp_path, lambda hours=hours: NOW + timedelta(hours=hours)).record(
            AuditEvent.APPLICATION_STARTED
        )
    later = records_since(tmp_path, NOW + timedelta(hours=10))
    assert [record["n"] for record in later] == [2, 3]


def test_a_process_that_fails_says_so_when_it_ends(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), trail(tmp_path).running():
        raise RuntimeError
    assert [(r["event"], r["outcome"]) for r in records_since(tmp_path, None)] == [
        ("application_started", 0), ("application_stopped", 8),
    ]  # fmt: skip


def test_a_digest_is_told_when_it_changes_and_only_then(tmp_path: Path) -> None:
    for digest in ("a", "a", "b", "b"):
        trail(tmp_path).note_digest(AuditEvent.CONFIGURATION_CHANGED, "routes", digest)
    told = [record["facts"] for record in records_since(tmp_path, None)]
    assert told == [
        {"name": "routes", "sha256": "a"},
        {"name": "routes", "sha256": "b", "before": "a"},
    ]


def test_a_command_of_another_user_leaves_files_that_the_node_can_append_to(
    tmp_path: Path,
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can hand files to another user")
    folder = tmp_path / "audit"
    folder.mkdir()
    os.chown(folder, 10001, 10001)
    write(folder, 1)
    assert {path.stat().st_uid for path in folder.iterdir()} == {10001}
