"""A stored result that the disk changed or lost never reaches an archive."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from dicom_node.store.counts import counts
from dicom_node.store.recovery import retry_job
from tests.faults.destinations.outbox import Outbox
from tests.faults.destinations.peers import Archive

MakeOutbox = Callable[..., Outbox]
Damage = Callable[[Path], object]


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # in a pixel: still a good DICOM file
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def put_a_folder_there(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Damage] = {
    "is not the bytes": flip_a_byte,
    "is not the bytes that were built": truncate,
    "is missing": Path.unlink,
    "cannot be read (IsADirectoryError)": put_a_folder_there,
}


def result_file(outbox: Outbox, number: int = 1) -> Path:
    return outbox.config.store_dir / "results" / f"{number}.dcm"


@pytest.mark.parametrize("words", DAMAGES)
def test_damage_found_before_the_first_attempt_is_built_again_and_never_sent(
    words: str, archive: Archive, make_outbox: MakeOutbox
) -> None:
    outbox = make_outbox({"PACS": archive.destination()})
    _, good = outbox.add(["PACS"]), outbox.add(["PACS"])
    DAMAGES[words](result_file(outbox))
    with capture_logs() as logs:
        outbox.step()
    assert archive.stored == [good]
    first, second = outbox.jobs()
    assert (first["state"], first["deliveries"]) == ("queued", [])
    assert second["state"] == "delivered"
    (told,) = [entry for entry in logs if entry.get("action") == "result_damaged"]
    assert (told["log_level"], told["built_again"]) == ("error", True)
    assert words in told["error"]
    with outbox.database.read() as connection:
        assert counts(connection).damaged_results == 1


@pytest.mark.parametrize("words", DAMAGES)
def test_what_may_be_in_an_archive_is_parked_until_its_very_bytes_are_back(
    words: str, archive: Archive, make_outbox: MakeOutbox, tmp_path: Path
) -> None:
    archive.store_statuses = [0xA700]
    outbox = make_outbox({"PACS": archive.destination()})
    uid = outbox.add(["PACS"])
    outbox.step()
    path = result_file(outbox)
    backup = Path(shutil.copy(path, tmp_path / "backup"))
    DAMAGES[words](path)
    outbox.step(timedelta(seconds=10))
    (job,) = outbox.jobs()
    assert job["state"] == "parked"
    assert words in job["reason"]
    assert "restore it from a backup" in job["reason"]
    assert outbox.metric("PACS", "parked") == 1
    for restored in (False, True):  # a retry sends nothing while the damage lasts
        if restored:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            shutil.copy(backup, path)
        with outbox.database.begin() as connection:
            retry_job(connection, job["job_id"], now=outbox.clock())
        outbox.step()
        assert archive.stored == [uid] * restored
    assert outbox.jobs()[0]["state"] == "delivered"


def test_a_store_that_is_not_mounted_is_waited_for(
    archive: Archive, make_outbox: MakeOutbox
) -> None:
    outbox = make_outbox({"PACS": archive.destination()})
    uid = outbox.add(["PACS"])
    store = outbox.config.store_dir
    away = store.rename(store.with_name("away"))
    for there in (False, True):  # an empty mount point, and none
        if there:
            store.mkdir()
        outbox.step(timedelta(seconds=30))
        delivery = outbox.only_delivery()
        assert (delivery["state"], archive.stored) == ("pending", [])
        assert "is it mounted" in delivery["last_error"]
    store.rmdir()
    away.rename(store)
    outbox.step(timedelta(seconds=60))
    assert archive.stored == [uid]


def test_damage_of_one_destination_s_file_parks_no_other_delivery(
    archive: Archive, make_outbox: MakeOutbox
) -> None:
    outbox = make_outbox({"PACS": archive.destination()})
    uids = [outbox.add(["PACS"]) for _ in range(5)]
    archive.store_statuses = [0xA700] * 5
    outbox.step()
    flip_a_byte(result_file(outbox, 3))
    outbox.step(timedelta(seconds=30))
    assert archive.stored == uids[:2] + uids[3:]
    assert [row["state"] for row in outbox.deliveries()].count("parked") == 1
