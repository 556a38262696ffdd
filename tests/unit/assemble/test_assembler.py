"""From the inbox to rows: nothing lost, nothing twice, one bad file holds nobody up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dicom_node.assemble.header import Arrival, read_header
from dicom_node.assemble.worker import Assembler
from dicom_node.domain.study import CompletionPolicy
from dicom_node.store.database import Database
from dicom_node.store.files import keep_instance
from dicom_node.store.inbox import Inbox
from dicom_node.store.overview import quarantined_files, study_rows
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


def arrive(assembler: Assembler, *contents: bytes) -> None:
    folder = Inbox(assembler.inbox_dir).open_association(now=NOW)
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
