"""`fsck`: every difference between database and files is found, and mended where that is safe."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from dicom_node.assemble.header import Arrival, read_header
from dicom_node.cli.upkeep import CHECKS
from dicom_node.domain.jobs import JobStage
from dicom_node.process import utc_now
from dicom_node.store.database import open_database
from dicom_node.store.files import keep_instance, write_durably
from dicom_node.store.fsck import Problem, Survey, examine
from dicom_node.store.inbox import Inbox
from tests.builders import NOW, claim, record, route
from tests.e2e.studies import rg1
from tests.stored import Store, image_of


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    database = open_database(f"sqlite:///{tmp_path / 'node.db'}")
    database.upgrade()
    yield Store(database, tmp_path / "store")
    database.close()


def survey(store: Store, *, deep: bool = False) -> Survey:
    inbox = store.folder.parent / "inbox"
    return Survey(store.database, store.folder, inbox, utc_now(), 2, deep)


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


def test_an_empty_database_beside_a_full_store_moves_nothing(store: Store) -> None:
    for number in range(20):
        path = store.folder / f"instances/aa/bb/{number}.dcm"
        write_durably(path, b"x")
        age(path)
    problems = examine(survey(store), CHECKS, repair=True)
    assert all(problem.needs_person for problem in problems)
    assert "database of this home" in problems[0].remedy
    assert len(store.files()) == 20


def test_half_written_files_go(store: Store) -> None:
    path = store.folder / "results/1/2.25.1.dcm.99.part"
    write_durably(path, b"half")
    assert found(store) == {}
    age(path)
    assert found(store, repair=True)["part"].repaired == "removed"
    assert store.files() == set()


@pytest.mark.parametrize("how", ["missing", "changed"])
def test_a_lost_result_is_built_again_unless_somebody_may_have_it(store: Store, how: str) -> None:
    job_id = store.study(state="scored")
    store.delivery(job_id, "pending")
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


def test_rows_that_cannot_be_are_for_a_person_and_those_that_stopped_go_on(store: Store) -> None:
    for number in range(1, 7):
        store.study(number)
    with store.database.begin() as connection:
        for statement in (
            "UPDATE jobs SET state='running' WHERE id=1",
            "UPDATE jobs SET state='queued' WHERE id=2",
            "UPDATE jobs SET state='scored' WHERE id=5",
            "UPDATE jobs SET state='running', stage='score', lease_token='t', worker='w',"
            " lease_until='2026-01-01 00:00:00' WHERE id=6",
            "DELETE FROM results WHERE job_id=6",
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
    }
    assert set(found(store)) == {"held_by_nobody", "queued_when_done", "delivered_too_early"}


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
