"""Retention: what goes and when, what never goes, and what a resend then brings about."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from dicom_node.domain.jobs import InvalidTransition
from dicom_node.domain.retention import RetentionPolicy
from dicom_node.store import overview, recovery, retention, studies
from dicom_node.store.counts import counts
from dicom_node.store.database import Database, open_database
from dicom_node.store.files import write_durably
from dicom_node.store.pruning import Pruner
from tests.builders import LEASE, NOW, claim, record, route
from tests.conftest import Logged
from tests.contract.test_store import job
from tests.stored import DAY, LATER, POLICY, Store, image_of


@pytest.fixture
def store(database: Database, tmp_path: Path) -> Store:
    """On each kind of database."""
    return Store(database, tmp_path / "store")


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Store]:
    """On SQLite alone, for decisions that need no second engine."""
    database = open_database(f"sqlite:///{tmp_path / 'node.db'}")
    database.upgrade()
    yield Store(database, tmp_path / "store")
    database.close()


def test_a_confirmed_study_goes_at_its_age_and_its_rows_stay(store: Store) -> None:
    job_id = store.study()
    store.delivery(job_id, "delivered")
    held = store.files()
    assert len(held) == 3
    assert not store.pruner(now=NOW + DAY / 2).step()
    size = sum((store.folder / path).stat().st_size for path in held)

    pruned = store.pruner().step()

    assert (pruned.studies, pruned.freed_bytes) == (1, size)
    assert store.files() == set()
    assert not store.pruner().step()
    shown = job(store.database, job_id)
    assert shown["state"] == "delivered"
    assert shown["pruned_at"] is not None
    assert shown["results"] != []
    with store.database.read() as connection:
        assert counts(connection).pruned_bytes == size
        detail = overview.study_detail(connection, "1.2.1")
    assert detail is not None
    assert any(event["action"] == "study_pruned" for event in detail["events"])


def test_what_is_not_confirmed_never_goes(store: Store) -> None:
    for number, state in enumerate(["queued", "running", "scored", "parked", "failed"], 1):
        store.study(number, state)
    for number, state in enumerate(["pending", "sent", "parked"], 6):
        store.delivery(store.study(number), state)
    store.free_bytes = 0
    floor = replace(POLICY, minimum_free_bytes=10**9)
    assert not store.pruner(floor, NOW + 1000 * DAY).step()
    assert len(store.files()) == 3 * 8


def test_a_second_job_that_has_not_ended_keeps_the_images_of_both(embedded: Store) -> None:
    embedded.delivery(embedded.study(), "delivered")
    with embedded.database.begin() as connection:
        connection.execute(text("UPDATE studies SET state = 'complete'"))
    assert route(embedded.database, digest="f" * 64) is not None
    assert not embedded.pruner().step()


def test_a_study_that_still_receives_stays(embedded: Store) -> None:
    embedded.delivery(embedded.study(), "delivered")
    with embedded.database.begin() as connection:
        connection.execute(text("UPDATE studies SET state = 'receiving'"))
    assert not embedded.pruner().step()


def test_without_a_policy_nothing_goes(embedded: Store) -> None:
    embedded.delivery(embedded.study(), "delivered")
    assert not embedded.pruner(RetentionPolicy(), NOW + 1000 * DAY).step()


def test_a_person_waives_what_nobody_confirms(store: Store) -> None:
    job_id = store.study(state="parked")
    with store.database.begin() as connection:
        assert retention.waive_job(connection, job_id, why="phantom", now=NOW)
        assert not retention.waive_job(connection, 999, why="phantom", now=NOW)
    assert not store.pruner(now=NOW + DAY / 2).step()
    assert store.pruner().step().studies == 1
    assert job(store.database, job_id)["waived_because"] == "phantom"
    with pytest.raises(InvalidTransition, match="pruned"), store.database.begin() as connection:
        recovery.retry_job(connection, job_id, now=LATER)


def test_what_is_under_way_cannot_be_waived(embedded: Store) -> None:
    running = embedded.study(1, "running")
    sending = embedded.study(2, "scored")
    embedded.delivery(sending, "pending")
    for job_id in (running, sending):
        with pytest.raises(InvalidTransition), embedded.database.begin() as connection:
            retention.waive_job(connection, job_id, why="impatience", now=NOW)


def test_a_full_disk_takes_the_oldest_confirmed_studies_until_it_is_not(store: Store) -> None:
    for number in (1, 2, 3):
        store.delivery(store.study(number), "delivered")
    store.study(4, "parked")
    policy = RetentionPolicy(minimum_free_bytes=1000)
    store.free_bytes = 999

    class Filling(Pruner):
        def _sweep(self) -> int:
            freed = super()._sweep()
            store.free_bytes += freed
            return freed

    pruner = Filling(store.database, store.folder, policy, lambda: NOW, lambda: store.free_bytes)
    assert pruner.step().studies == 1
    left = {path for path in store.files() if path.startswith("instances/")}
    assert left == {image_of(number).path for number in (2, 3, 4)}
    store.free_bytes = 0
    while store.free_bytes < 10**6 and pruner.step():
        store.free_bytes = 0
    assert {path for path in store.files() if path.startswith("instances/")} == {image_of(4).path}


def test_killed_between_mark_and_removal_the_next_sweep_finishes(embedded: Store) -> None:
    job_id = embedded.study()
    embedded.delivery(job_id, "delivered")
    with embedded.database.begin() as connection:
        (study_id,) = retention.due_studies(connection, POLICY, now=LATER, limit=9)
        assert retention.mark_study(connection, study_id, POLICY, now=LATER)
    assert len(embedded.files()) == 3
    assert embedded.pruner(RetentionPolicy()).step().freed_bytes > 0
    assert embedded.files() == set()


def test_a_resend_after_pruning_brings_the_bytes_back_and_no_second_result(store: Store) -> None:
    job_id = store.study()
    store.delivery(job_id, "delivered")
    store.pruner().step()
    again = replace(image_of(1), received_at=LATER, association="assoc-9")
    write_durably(store.folder / again.path, b"image" * 100)

    assert record(store.database, again) == "restored"

    with store.database.read() as connection:
        assert studies.open_studies(connection) == []
        assert len(overview.job_rows(connection, store_dir=store.folder)) == 1
    assert claim(store.database, now=LATER) is None
    assert record(store.database, again) == "duplicate"
    assert not store.pruner(now=LATER + DAY / 2).step()
    assert store.pruner(now=LATER + 2 * DAY).step().studies == 1
    assert store.files() == set()


def test_a_resend_between_mark_and_removal_keeps_its_file(embedded: Store) -> None:
    embedded.delivery(embedded.study(), "delivered")
    with embedded.database.begin() as connection:
        assert retention.mark_study(connection, 1, POLICY, now=LATER)
    again = replace(image_of(1), received_at=LATER)
    assert record(embedded.database, again) == "restored"
    embedded.pruner(RetentionPolicy()).step()
    assert embedded.files() == {again.path}


def test_a_late_image_after_pruning_does_not_replace_a_result_that_is_gone(embedded: Store) -> None:
    job_id = embedded.study()
    embedded.delivery(job_id, "delivered")
    embedded.pruner().step()
    late = replace(image_of(1), sop_instance_uid="1.2.1.2", digest="d" * 64, received_at=LATER)
    assert record(embedded.database, late) == "stored"
    second = route(embedded.database, now=LATER + LEASE, digest="e" * 64)
    assert second is not None
    with embedded.database.begin() as connection:
        connection.execute(
            text("UPDATE jobs SET state = 'parked' WHERE id = :job"), {"job": second}
        )
    with (
        pytest.raises(InvalidTransition, match="1 of its images were pruned"),
        embedded.database.begin() as connection,
    ):
        recovery.retry_job(connection, second, now=LATER)
    assert record(embedded.database, replace(image_of(1), received_at=LATER)) == "restored"
    with embedded.database.begin() as connection:
        recovery.retry_job(connection, second, now=LATER)


def test_a_refused_study_goes_at_its_own_age(embedded: Store) -> None:
    embedded.study(state="refused")
    assert not embedded.pruner(replace(POLICY, refused=None)).step()
    assert embedded.pruner().step().studies == 1


def test_quarantined_files_go_at_their_age(embedded: Store) -> None:
    write_durably(embedded.folder / "quarantine/a-1.dcm", b"junk")
    with embedded.database.begin() as connection:
        studies.quarantine_file(
            connection,
            path="quarantine/a-1.dcm",
            reason="no header",
            association="a",
            calling_ae_title="CT",
            received_at=NOW,
        )
    assert not embedded.pruner(now=NOW + DAY / 2).step()
    assert embedded.pruner().step().quarantined == 1
    assert embedded.files() == set()


@pytest.mark.parametrize(
    "path", ["../outside", "/etc/hostname", "elsewhere/x", "instances/../../x"]
)
def test_a_row_that_names_a_file_elsewhere_removes_nothing(
    embedded: Store, tmp_path: Path, path: str
) -> None:
    outside = tmp_path / "outside"
    outside.write_text("mine")
    (tmp_path / "x").write_text("mine")
    embedded.delivery(embedded.study(), "delivered")
    with embedded.database.begin() as connection:
        connection.execute(text("UPDATE instances SET path = :path"), {"path": path})
    embedded.pruner().step()
    assert outside.is_file()
    assert (tmp_path / "x").is_file()
    assert Path("/etc/hostname").exists()


def test_a_file_that_cannot_be_removed_holds_up_no_other(embedded: Store, logged: Logged) -> None:
    for number in (1, 2):
        embedded.delivery(embedded.study(number), "delivered")
    stubborn = embedded.folder / image_of(1).path
    stubborn.unlink()
    stubborn.mkdir()  # not even root can unlink it

    pruned = embedded.pruner().step()

    assert pruned.studies == 2
    assert embedded.files() == set()
    assert "file_not_removed" in logged.getvalue()
    assert not embedded.pruner().step()
    stubborn.rmdir()
    stubborn.write_bytes(b"12345")
    assert embedded.pruner().step().freed_bytes == 5
    assert not stubborn.exists()


def test_a_link_out_of_the_store_is_not_followed(embedded: Store, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    job_id = embedded.study()
    embedded.delivery(job_id, "delivered")
    (embedded.folder / "instances").rename(elsewhere)
    (embedded.folder / "instances").symlink_to(elsewhere)
    embedded.pruner().step()
    assert [path for path in elsewhere.rglob("*") if path.is_file()] != []
