"""`fsck`: every difference between database and files is found, and mended where that is safe."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import psycopg
import pytest
from sqlalchemy import text

from dicom_node.assemble.header import Arrival, read_header
from dicom_node.cli.upkeep import CHECKS
from dicom_node.domain.jobs import JobStage, JobState
from dicom_node.process import utc_now
from dicom_node.store.database import Database
from dicom_node.store.deliveries import claim_deliveries
from dicom_node.store.files import keep_instance, write_durably
from dicom_node.store.fsck import Check, Problem, Survey, examine
from dicom_node.store.fsck_files import check_instances
from dicom_node.store.fsck_results import check_results
from dicom_node.store.inbox import Inbox
from dicom_node.store.predictions import save_prediction
from dicom_node.store.recovery import retry_job
from tests.builders import LEASE, NOW, PREDICTION, claim, record, route
from tests.e2e.studies import rg1
from tests.stored import Store, image_of


@pytest.fixture
def store(database: Database, tmp_path: Path) -> Store:
    """On each kind of database."""
    return Store(database, tmp_path / "store")


def survey(store: Store, *, deep: bool = False) -> Survey:
    home = store.folder.parent
    return Survey(
        store.database, store.folder, home / "inbox", home / "commitment", utc_now(), 2, deep
    )


def found(store: Store, *, repair: bool = False, deep: bool = False) -> dict[str, Problem]:
    problems = examine(survey(store, deep=deep), CHECKS, repair=repair)
    kinds = [problem.kind for problem in problems]
    assert len(kinds) == len(set(kinds))
    return dict(zip(kinds, problems, strict=True))


def age(path: Path) -> None:
    old = time.time() - 7200
    os.utime(path, (old, old), follow_symlinks=False)


def sql(store: Store, statement: str) -> None:
    with store.database.begin() as connection:
        connection.execute(text(statement))


def real_image(store: Store) -> Path:
    """A real film, recorded as the assembler does; returns its file."""
    arrival = Arrival("a", NOW)
    header = read_header(rg1(), arrival)
    copy = store.folder.parent / "film.dcm"
    copy.write_bytes(rg1().read_bytes())
    relative = keep_instance(store.folder, copy, header.digest)
    copy.unlink()
    record(store.database, header.stored_at(relative))
    return store.folder / relative


def real_prediction(store: Store, job_id: int) -> Path:
    path = store.folder / f"predictions/{job_id}-t.npz"
    save_prediction(path, PREDICTION, {"heat_0": np.linspace(0, 1, 64, dtype=np.float32)})
    return path


def test_a_healthy_store_has_nothing_to_say(store: Store) -> None:
    for number, state in enumerate(["delivered", "parked", "refused"], 1):
        store.delivery(store.study(number, state), "delivered")
    store.pruner().step()
    assert found(store) == {}


def test_a_missing_image_names_the_jobs_that_need_it_and_comes_back_from_lost_and_found(
    store: Store,
) -> None:
    path = real_image(store)
    job_id = route(store.database)
    kept = survey(store).lost_and_found / path.relative_to(store.folder)
    kept.parent.mkdir(parents=True)
    path.rename(kept)
    problem = found(store)["missing_image"]
    assert problem.jobs == (job_id,)
    assert not problem.needs_person

    assert "linked back" in str(found(store, repair=True)["missing_image"].repaired)
    assert found(store, deep=True) == {}
    path.unlink()
    kept.write_bytes(b"other bytes" * 100)
    assert found(store, repair=True)["missing_image"].needs_person


@pytest.mark.parametrize(
    ("check", "room", "kind"),
    [
        (check_instances, "instances", "missing_image"),
        (check_results, "results", "missing_result"),
    ],
)
def test_what_retention_gives_up_meanwhile_is_not_missing(
    store: Store, check: Check, room: str, kind: str
) -> None:
    store.study(1, "parked")
    store.delivery(store.study(2), "delivered")
    lost, *_ = sorted((store.folder / room).rglob("*.dcm"))
    lost.unlink()
    problems = check(survey(store))
    assert next(problems).kind == kind
    assert store.pruner().step().studies == 1
    assert list(problems) == []


def test_a_torn_image_is_found_by_its_size_and_one_from_another_sender_is_not_torn(
    store: Store,
) -> None:
    path = real_image(store)
    whole = path.read_bytes()
    sql(store, f"UPDATE instances SET size = {len(whole) - 8}")  # another file meta, the same data
    assert found(store) == {}
    path.write_bytes(whole[:-100])
    assert found(store)["changed_image"].path == path.relative_to(store.folder).as_posix()


def test_a_changed_image_is_found_by_its_digest_and_put_aside(store: Store) -> None:
    path = real_image(store)
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole)
    assert found(store) == {}
    assert "lost+found" in str(found(store, repair=True, deep=True)["changed_image"].repaired)
    assert "the study again" in found(store)["missing_image"].remedy
    again = store.folder.parent / "again.dcm"
    again.write_bytes(rg1().read_bytes())
    keep_instance(store.folder, again, path.stem)  # as the assembler does with a resend
    assert found(store, deep=True) == {}


def test_orphans_are_moved_never_deleted(store: Store) -> None:
    names = ("instances/ab/cd/orphan.dcm", "predictions/7-t.npz", "results/7/2.25.7.dcm")
    for name in names:
        write_durably(store.folder / name, name.encode())
    assert found(store) == {}  # too young: somebody may be about to name them
    for name in names:
        age(store.folder / name)
    assert len(examine(survey(store), CHECKS, repair=True)) == len(names)
    assert store.files() == set()
    for name in names:
        assert (survey(store).lost_and_found / name).read_bytes() == name.encode()
    assert found(store) == {}


def test_an_image_on_its_way_from_the_inbox_to_its_row_is_no_orphan(store: Store) -> None:
    waiting = store.folder.parent / "inbox/association/000001.dcm"
    write_durably(waiting, b"image")
    age(waiting)  # it came while the database was down
    relative = keep_instance(store.folder, waiting, "ab" * 32)
    assert "orphan" not in found(store, repair=True)
    assert (store.folder / relative).exists()
    waiting.unlink()
    assert "lost+found" in str(found(store, repair=True)["orphan"].repaired)


def test_a_row_that_comes_between_look_and_repair_keeps_its_file(store: Store) -> None:
    names = [f"predictions/{number}-t.npz" for number in (8, 9)]
    for name in names:
        write_durably(store.folder / name, b"x")
        age(store.folder / name)
    problems = [problem for check in CHECKS for problem in check(survey(store))]
    job_id = store.study()
    sql(store, f"UPDATE jobs SET prediction_path = '{names[1]}' WHERE id = {job_id}")
    done = {problem.path: problem.repair() for problem in problems if problem.repair}
    assert "lost+found" in str(done[names[0]])
    assert "a row names it" in str(done[names[1]])
    assert (store.folder / names[1]).exists()


def test_what_retention_gave_up_and_is_back_is_an_orphan(store: Store) -> None:
    job_id = store.study()
    store.delivery(job_id, "delivered")
    kept = {name: (store.folder / name).read_bytes() for name in store.files()}
    store.pruner().step()
    for name, content in kept.items():
        write_durably(store.folder / name, content)  # as from a backup
        age(store.folder / name)
    problems = examine(survey(store), CHECKS, repair=True)
    assert {problem.kind for problem in problems} == {"orphan"}
    assert {problem.path for problem in problems} == set(kept)
    assert store.files() == set()


def test_a_repair_that_the_disk_refuses_is_for_a_person_and_keeps_no_other_from_its_own(
    store: Store,
) -> None:
    for name in ("predictions/1-t.npz", "results/7/2.25.7.dcm"):
        write_durably(store.folder / name, b"x")
        age(store.folder / name)
    aside = survey(store).lost_and_found
    aside.mkdir()
    (aside / "predictions").write_text("a file where a folder is needed")
    stuck, moved = examine(survey(store), CHECKS, repair=True)
    assert stuck.needs_person
    assert "the repair failed (EEXIST)" in stuck.remedy
    assert str(moved.repaired).startswith("moved to lost+found/results")


def test_an_empty_database_beside_a_full_store_moves_nothing(store: Store) -> None:
    for number in range(20):
        path = store.folder / f"instances/aa/bb/{number}.dcm"
        write_durably(path, b"x")
        age(path)
    problems = examine(survey(store), CHECKS, repair=True)
    assert all(problem.needs_person for problem in problems)
    assert "database of this home" in problems[0].remedy
    assert len(store.files()) == 20


@pytest.mark.parametrize(
    "name",
    ["store/results/1/2.25.1.dcm.99.part", "commitment/answers/a.json.99.part", "inbox/tmp1x2y3z"],
)
def test_half_written_files_go(store: Store, name: str) -> None:
    path = store.folder.parent / name
    write_durably(path, b"half")
    assert found(store) == {}
    age(path)
    assert name.endswith(str(found(store)["part"].path))
    assert found(store, repair=True)["part"].repaired == "removed"
    assert not path.exists()
    assert found(store) == {}


@pytest.mark.parametrize("how", ["missing", "changed"])
def test_a_lost_result_is_built_again_unless_somebody_may_have_it(store: Store, how: str) -> None:
    job_id = store.study(state="scored")
    store.delivery(job_id, "pending")
    real_prediction(store, job_id)
    path = store.folder / f"results/{job_id}/2.25.{job_id}.dcm"
    path.unlink() if how == "missing" else path.write_bytes(b"other")
    sql(store, "UPDATE deliveries SET attempts = 1")
    assert found(store, repair=True)[f"{how}_result"].needs_person
    sql(store, "UPDATE deliveries SET attempts = 0")

    assert "builds" in str(found(store, repair=True)[f"{how}_result"].repaired)

    held = claim(store.database)
    assert held is not None
    assert held.stage is JobStage.REPORT
    with store.database.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM results")).scalar_one() == 0
    assert store.files() == {image_of(1).path, f"predictions/{job_id}-t.npz"}


def test_a_lost_prediction_is_computed_again_if_it_is_still_needed(store: Store) -> None:
    waiting, ended = store.study(1), store.study(2)
    sql(store, "DELETE FROM results")
    sql(store, f"UPDATE jobs SET state='queued', stage='report' WHERE id={waiting}")
    for job_id in (waiting, ended):
        (store.folder / f"predictions/{job_id}-t.npz").unlink()
        for left in (store.folder / f"results/{job_id}").iterdir():
            left.unlink()
    repaired = examine(survey(store), CHECKS, repair=True)
    assert {problem.repaired for problem in repaired} == {"scored again", "forgotten"}
    held = claim(store.database)
    assert held is not None
    assert (held.id, held.stage) == (waiting, JobStage.SCORE)


@pytest.mark.parametrize("state", ["queued", "parked"])
def test_a_damaged_prediction_is_computed_again_if_it_is_still_needed(
    store: Store, state: str
) -> None:
    job_id = store.study()
    (store.folder / f"results/{job_id}/2.25.{job_id}.dcm").unlink()
    sql(store, "DELETE FROM results")
    sql(store, f"UPDATE jobs SET state='{state}', stage='report', attempts=1")
    path = real_prediction(store, job_id)
    whole = path.read_bytes()
    assert found(store) == {}
    for damaged in (whole[:-30], whole[: len(whole) // 2], whole[:100] + b"x" + whole[101:], b""):
        path.write_bytes(damaged)
        assert found(store)["changed_prediction"].jobs == (job_id,)

    done = str(found(store, repair=True)["changed_prediction"].repaired)

    assert done == "scored again" + (
        f" once somebody retries it: `jobs retry {job_id}`" if state == "parked" else ""
    )
    assert (survey(store).lost_and_found / path.relative_to(store.folder)).read_bytes() == b""
    assert found(store) == {}
    if state == "parked":
        with store.database.begin() as connection:
            assert retry_job(connection, job_id, now=NOW) is JobState.QUEUED
    held = claim(store.database)
    assert held is not None
    assert held.stage is JobStage.SCORE


def test_a_report_whose_job_names_no_prediction_is_computed_again(store: Store) -> None:
    job_id = store.study()
    (store.folder / f"results/{job_id}/2.25.{job_id}.dcm").unlink()
    (store.folder / f"predictions/{job_id}-t.npz").unlink()
    sql(store, "DELETE FROM results")
    sql(store, "UPDATE jobs SET state='queued', stage='report', prediction_path=NULL")
    assert found(store, repair=True)["missing_prediction"].repaired == "scored again"
    assert found(store) == {}


def test_a_result_that_is_in_nobodys_outbox_is_put_there_unless_it_counts_as_delivered(
    store: Store,
) -> None:
    scored, delivered = store.study(1, "scored"), store.study(2, "delivered")
    sql(store, "UPDATE jobs SET destinations = '[\"PACS\"]'")
    sql(store, f"UPDATE jobs SET delivered_at = NULL WHERE id = {scored}")
    problems = {problem.jobs: problem for problem in examine(survey(store), CHECKS, repair=True)}
    assert problems.keys() == {(scored,), (delivered,)}
    assert problems[scored,].repaired == "put into the outbox"
    assert problems[delivered,].needs_person
    with store.database.begin() as connection:
        (sent,) = claim_deliveries(
            connection, destination="PACS", token="t", lease=LEASE, limit=9, now=utc_now()
        )
    assert sent.sop_instance_uid == f"2.25.{scored}"
    assert found(store)["not_in_outbox"].jobs == (delivered,)


def sql_without_foreign_keys(url: str, statement: str) -> None:
    """What a database holds that was damaged, or mended by hand."""
    kind, _, path = url.partition(":///")
    if kind == "sqlite":
        with closing(sqlite3.connect(path)) as connection, connection:  # they are off by default
            connection.execute(statement)
        return
    plain = url.replace("postgresql+psycopg", "postgresql")
    with psycopg.connect(plain) as server:
        server.execute("SET LOCAL session_replication_role = replica")
        server.execute(statement)  # type: ignore[arg-type]  # a literal of this module


def test_a_delivery_that_names_no_result_or_anothers_is_for_a_person(
    store: Store, database_url: str
) -> None:
    for number in (1, 2, 3):
        store.delivery(store.study(number, "delivered"), "delivered")
    sql(store, "UPDATE jobs SET destinations = '[]'")
    sql(store, "UPDATE deliveries SET result_id = 3, destination = 'OTHER' WHERE job_id = 2")
    sql_without_foreign_keys(database_url, "UPDATE deliveries SET result_id = 77 WHERE job_id = 1")
    problems = found(store, repair=True)
    assert problems.keys() == {"delivery_without_result", "delivery_of_another_job"}
    assert all(problem.needs_person for problem in problems.values())
    assert problems["delivery_without_result"].jobs == (1,)
    assert problems["delivery_of_another_job"].jobs == (2, 3)


def test_rows_that_cannot_be_are_for_a_person_and_those_that_stopped_go_on(store: Store) -> None:
    for number in range(1, 8):
        store.study(number)
    with store.database.begin() as connection:
        for statement in (
            "UPDATE jobs SET state='running' WHERE id=1",
            "UPDATE jobs SET state='queued' WHERE id=2",
            "UPDATE jobs SET state='scored' WHERE id=5",
            "UPDATE jobs SET state='running', stage='score', lease_token='t', worker='w',"
            " lease_until='2026-01-01 00:00:00' WHERE id=6",
            "DELETE FROM results WHERE job_id=6",
            "DELETE FROM job_inputs WHERE job_id=7",
        ):
            connection.execute(text(statement))
    (store.folder / "results/6/2.25.6.dcm").unlink()
    store.delivery(3, "pending")
    store.delivery(4, "delivered")
    store.delivery(5, "delivered")
    problems = found(store, repair=True)
    jobs = {kind: (problem.jobs, problem.needs_person) for kind, problem in problems.items()}
    assert jobs == {
        "held_by_nobody": ((1,), True),
        "queued_when_done": ((2,), True),
        "delivered_too_early": ((3,), True),
        "unsettled": ((5,), False),
        "expired_lease": ((6,), False),
        "job_without_images": ((7,), True),
    }
    left = {"held_by_nobody", "queued_when_done", "delivered_too_early", "job_without_images"}
    assert set(found(store)) == left


def test_an_inbox_folder_of_a_dead_receiver_is_marked(store: Store) -> None:
    inbox = store.folder.parent / "inbox"
    folder = Inbox(inbox).open_association(now=NOW)
    path = folder.write([b"image"])
    assert found(store) == {}
    os.close(folder._owner)  # as the end of the receiver's process does
    age(path)
    assert set(found(store, repair=True)) == {"unowned_inbox", "waiting_in_inbox"}
    assert (path.parent / "aborted").exists()
    assert set(found(store)) == {"waiting_in_inbox"}


def test_a_row_that_names_a_file_outside_is_for_a_person(store: Store) -> None:
    store.study()
    sql(store, "UPDATE instances SET path = '../../etc/passwd'")
    age(store.folder / image_of(1).path)
    problems = found(store, repair=True)
    assert problems["bad_path"].needs_person
    assert "lost+found" in str(problems["orphan"].repaired)
