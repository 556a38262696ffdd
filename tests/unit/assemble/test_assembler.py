"""From the inbox to rows: nothing lost, nothing twice, one bad file holds nobody up."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from dicom_node.assemble.header import Arrival, read_header
from dicom_node.assemble.sick import SickFiles
from dicom_node.assemble.worker import Assembler
from dicom_node.domain.study import CompletionPolicy
from dicom_node.observe.audit import AuditEvent
from dicom_node.store.database import Database
from dicom_node.store.files import keep_instance
from dicom_node.store.inbox import Inbox, scan
from dicom_node.store.overview import quarantined_files, study_rows
from dicom_node.store.studies import open_studies
from tests.unit.assemble.test_header import dataset, written

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def assembler(database: Database, tmp_path: Path) -> Assembler:
    wait = timedelta(seconds=1)
    return Assembler(
        database,
        tmp_path / "inbox",
        tmp_path / "store",
        CompletionPolicy(wait, wait, wait),
        frozenset(),
        lambda: NOW,
    )


def arrive(assembler: Assembler, *contents: bytes, now: datetime = NOW) -> None:
    folder = Inbox(assembler.inbox_dir).open_association(now=now)
    for content in contents:
        folder.write([content])
    folder.close("released")


def good(tmp_path: Path) -> bytes:
    return written(tmp_path, dataset()).read_bytes()


def test_an_unreadable_file_is_kept_with_its_reason_and_the_others_go_on(
    assembler: Assembler, tmp_path: Path
) -> None:
    bad = written(tmp_path, dataset(StudyInstanceUID=None)).read_bytes()
    arrive(assembler, bad, good(tmp_path), b"no DICOM at all")
    assert assembler.step()
    with assembler.database.read() as connection:
        kept = {row["reason"]: row for row in quarantined_files(connection)}
        assert [row["instances"] for row in study_rows(connection)] == [1]
    assert any("StudyInstanceUID is missing" in reason for reason in kept)
    assert {(assembler.store_dir / row["path"]).read_bytes() for row in kept.values()} == {
        bad,
        b"no DICOM at all",
    }
    assert {row["calling_ae_title"] for row in kept.values()} == {"PACS", ""}
    assert list(assembler.inbox_dir.glob("*/*")) == []


def test_a_run_that_died_after_any_write_is_repeated_without_loss_or_double(
    assembler: Assembler, tmp_path: Path
) -> None:
    content = good(tmp_path)
    arrive(assembler, content)
    (waiting,) = assembler.inbox_dir.glob("*/*.dcm")
    digest = read_header(waiting, Arrival("a", NOW)).digest
    keep_instance(assembler.store_dir, waiting, digest)  # died before the row
    assembler.step()
    arrive(assembler, content)  # as if it had died before the inbox name went
    assembler.step()
    with assembler.database.read() as connection:
        (study,) = study_rows(connection)
    assert (study["instances"], study["revision"]) == (1, 1)
    (kept,) = assembler.store_dir.glob("instances/*/*/*.dcm")
    assert kept.read_bytes() == content


class Patience:
    """A clock in seconds that a test turns."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def read_error(path: Path) -> None:
    """Opening works, reading gives EIO, whoever asks: no page of a process is at address 0."""
    path.unlink()
    path.symlink_to("/proc/self/mem")


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


SICK = {"EIO": read_error, "EISDIR": folder_instead}


@pytest.mark.parametrize("name", SICK)
def test_a_file_that_the_disk_does_not_give_holds_nobody_up_and_is_set_aside(
    name: str, assembler: Assembler, tmp_path: Path
) -> None:
    patience = Patience()
    assembler = replace(assembler, elapsed=patience)
    arrive(assembler, good(tmp_path), b"to be")
    folder = next(item for item in assembler.inbox_dir.iterdir() if item.is_dir())
    sick = folder / "000002.dcm"
    SICK[name](sick)
    other = written(tmp_path, dataset(SOPInstanceUID="1.2.99")).read_bytes()
    arrive(assembler, other, now=NOW + timedelta(seconds=1))
    with capture_logs() as logs:
        assert assembler.step()
        with assembler.database.read() as connection:
            (study,) = study_rows(connection)
            assert study["instances"] == 2
        assert [path.name for path in assembler.inbox_dir.glob("*/*.dcm")] == [sick.name]
        assert not assembler.step()  # nothing is due: the loop rests
        for _ in range(7):
            patience.seconds += 60
            assembler.step()
    failures = [entry for entry in logs if entry.get("action") == "inbox_unreadable"]
    assert [entry["reason"] for entry in failures] == [name] * 6
    assert {entry["log_level"] for entry in failures} == {"error"}
    with assembler.database.read() as connection:
        (kept,) = quarantined_files(connection)
    assert name in kept["reason"]
    assert os.path.lexists(assembler.store_dir / kept["path"])
    assert not folder.exists()


def test_a_file_that_can_be_read_again_is_taken_in_as_if_nothing_had_been(
    assembler: Assembler, tmp_path: Path
) -> None:
    patience = Patience()
    assembler = replace(assembler, elapsed=patience)
    content = good(tmp_path)
    arrive(assembler, content)
    (path,) = assembler.inbox_dir.glob("*/*.dcm")
    read_error(path)
    assert not assembler.step()
    path.unlink()
    path.write_bytes(content)
    assert not assembler.step()
    patience.seconds += 2
    assert assembler.step()
    with assembler.database.read() as connection:
        assert [row["instances"] for row in study_rows(connection)] == [1]
        assert quarantined_files(connection) == []
    assert [item for item in assembler.inbox_dir.iterdir() if item.is_dir()] == []


def test_the_end_of_an_association_with_a_sick_file_is_recorded_once_it_is_done(
    assembler: Assembler, tmp_path: Path
) -> None:
    patience = Patience()
    assembler = replace(assembler, elapsed=patience, audit=(trail := Recorded()))
    arrive(assembler, good(tmp_path), b"to be")
    read_error(next(assembler.inbox_dir.glob("*/000002.dcm")))
    assembler.step()
    with assembler.database.read() as connection:
        (study,) = open_studies(connection)
    assert None not in study.association_ends  # the study need not wait for the sick file
    for _ in range(8):
        patience.seconds += 60
        assembler.step()
    assert trail.events == [AuditEvent.INSTANCES_RECEIVED]


class Recorded:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[AuditEvent] = []

    def record(self, event: AuditEvent, **_: object) -> None:
        self.events.append(event)


def test_too_many_open_files_set_no_image_aside(tmp_path: Path) -> None:
    sick, now = SickFiles(), 0.0
    error = OSError(errno.EMFILE, "too many open files")
    for _ in range(20):
        assert not sick.failed(tmp_path / "a" / "000001.dcm", error, now=now)
    assert sick.rests(tmp_path / "a" / "000001.dcm", now=now + 59)
    assert not sick.rests(tmp_path / "a" / "000001.dcm", now=now + 61)


@contextmanager
def nobody(folder: Path) -> Iterator[None]:
    """Run the block as somebody who may enter a folder and not list it."""
    user = os.geteuid()
    folder.chmod(0o711 if user == 0 else 0o100)
    try:
        if user == 0:
            os.seteuid(65534)
        yield
    finally:
        os.seteuid(user)
        folder.chmod(0o755)


def test_a_folder_that_may_not_be_listed_is_told_of_and_holds_no_other_up() -> None:
    with tempfile.TemporaryDirectory() as home:  # outside of pytest's own, which root alone enters
        Path(home).chmod(0o755)
        inbox = Path(home) / "inbox"
        for name in ("a", "b"):
            (inbox / name).mkdir(parents=True)
            (inbox / name / "000001.dcm").touch()
            (inbox / name / "released").touch()
        for path in (inbox, *inbox.rglob("*")):  # whatever the umask
            path.chmod(0o755)
        told: list[tuple[str, type[OSError]]] = []
        with nobody(inbox / "a"):
            found = scan(
                inbox, on_unreadable=lambda path, error: told.append((path.name, type(error)))
            )
        assert [listing.folder.name for listing in found] == ["b"]
        assert told == [("a", PermissionError)]
