"""Metrics tell what the database and the disk hold at the moment of the scrape."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from dicom_node import __version__
from dicom_node.domain.jobs import JobState
from dicom_node.observe.metrics import NodeCollector, node_registry, waiting_files
from dicom_node.store.counts import Counts

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
COUNTS = Counts(
    jobs_by_state={"queued": 2},
    deliveries={("PACS", "pending"): 3},
    instances=5,
    studies_receiving=1,
    quarantined=1,
    models_offered=2,
    pruned_bytes=1000,
    oldest_queued_at=NOW - timedelta(seconds=90),
)


def scrape(home: Path, counts: Counts) -> dict[str, dict[tuple[str, ...], float]]:
    collector = NodeCollector(
        lambda: counts, home=home, inbox_dir=home / "inbox", clock=lambda: NOW
    )
    text = generate_latest(node_registry(collector)).decode()
    return {
        family.name: {tuple(sample.labels.values()): sample.value for sample in family.samples}
        for family in text_string_to_metric_families(text)
    }


def test_every_state_is_told_so_that_an_alarm_finds_its_zero(tmp_path: Path) -> None:
    told = scrape(tmp_path, COUNTS)
    assert told["dicom_node_jobs"] == {(state.value,): 0 for state in JobState} | {("queued",): 2}
    assert told["dicom_node_deliveries"] == {("PACS", "pending"): 3}
    assert told["dicom_node_build_info"] == {(__version__,): 1}


def test_the_oldest_job_has_an_age_and_an_empty_queue_has_none(tmp_path: Path) -> None:
    empty = Counts({}, {}, 0, 0, 0, 0, 0, None)
    assert scrape(tmp_path, COUNTS)["dicom_node_oldest_queued_job_seconds"][()] == 90
    assert scrape(tmp_path, empty)["dicom_node_oldest_queued_job_seconds"][()] == 0


def test_only_complete_files_of_the_inbox_wait(tmp_path: Path) -> None:
    assert waiting_files(tmp_path / "none") == 0
    folder = tmp_path / "inbox" / "association"
    folder.mkdir(parents=True)
    for name in ("1.dcm", "2.dcm", "3.part", "owner"):
        (folder / name).touch()
    (tmp_path / "inbox" / ".lock").touch()
    assert scrape(tmp_path, COUNTS)["dicom_node_inbox_files"][()] == 2


def test_folders_that_vanish_while_counting_do_no_harm(tmp_path: Path) -> None:
    done = threading.Event()

    def come_and_go() -> None:
        while not done.is_set():
            for number in range(20):
                (tmp_path / str(number)).mkdir()
            for number in range(20):
                (tmp_path / str(number)).rmdir()

    assembler = threading.Thread(target=come_and_go)
    assembler.start()
    try:
        for _ in range(300):
            assert waiting_files(tmp_path) == 0
    finally:
        done.set()
        assembler.join()


def test_a_destination_that_does_not_confirm_grows_old(tmp_path: Path) -> None:
    counts = replace(
        COUNTS,
        undelivered_since={"PACS": NOW - timedelta(hours=2)},
        commitment_requests={"pending": 1, "answered": 4},
    )
    told = scrape(tmp_path, counts)
    assert told["dicom_node_oldest_undelivered_seconds"] == {("PACS",): 7200}
    assert told["dicom_node_commitment_requests"] == {("pending",): 1, ("answered",): 4}


def test_a_lease_that_holds_is_no_alarm_and_one_that_is_over_has_an_age(tmp_path: Path) -> None:
    for until, age in ((NOW + timedelta(seconds=9), 0), (NOW - timedelta(seconds=70), 70)):
        told = scrape(tmp_path, replace(COUNTS, oldest_lease_until=until))
        assert told["dicom_node_oldest_lapsed_lease_seconds"][()] == age


def test_a_study_that_nobody_routes_and_bytes_that_differ_are_told(tmp_path: Path) -> None:
    counts = replace(COUNTS, unrouted_since=NOW - timedelta(minutes=20), conflicting_instances=3)
    told = scrape(tmp_path, counts)
    assert told["dicom_node_oldest_unrouted_study_seconds"][()] == 1200
    assert told["dicom_node_conflicting_instances"][()] == 3
