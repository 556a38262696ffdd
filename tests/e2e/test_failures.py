"""Killed processes, dead destinations and bad input: nothing lost, nothing twice, reasons given."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from tests.e2e.harness import Node, StoreScp, storescu, wait_for
from tests.e2e.studies import radiograph, real_ct

pytestmark = [pytest.mark.dcmtk, pytest.mark.slow]
FINAL = frozenset({"delivered", "refused", "parked", "failed"})


def result_uids(archive: StoreScp) -> dict[str, set[str]]:
    """Study Instance UID to the UIDs of the results that the archive holds of it."""
    found: dict[str, set[str]] = {}
    for path in archive.files():
        if not path.name.endswith(".part"):
            made = dcmread(path, stop_before_pixels=True)
            found.setdefault(made.StudyInstanceUID, set()).add(made.SOPInstanceUID)
    return found


def moments(node: Node) -> Iterator[tuple[str, Callable[[], bool]]]:
    """Stage to kill, and when: as soon as it has something of the study in its hands."""
    inbox = node.config.inbox_dir

    def newest() -> dict[str, Any]:
        rows = node.jobs()
        return rows[0] if rows else {}

    yield "receive", lambda: bool(list(inbox.glob("*/*.dcm")))
    yield "assemble", lambda: bool(list(inbox.glob("*/*.dcm")))
    yield "score-worker", lambda: newest().get("state") in {"queued", "running"}
    yield "score-worker", lambda: newest().get("stage") == "report"
    yield "deliver", lambda: bool(newest().get("deliveries"))
    yield "web", lambda: bool(newest())


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_each_stage_is_killed_in_turn_and_every_image_gives_exactly_one_result(
    make_node: Callable[..., Node], archive: StoreScp, tmp_path: Path
) -> None:
    node = make_node(send_to=[archive.peer], scoring={"max_attempts": 5})
    killed = 0
    for number, (stage, now) in enumerate(moments(node)):
        before = len(node.jobs())
        wait_for(lambda: _listens(node.port), 30, "the receiver is back")
        storescu(node.port, [radiograph(tmp_path, f"kill-{number}")])
        # Either the moment is seen and the stage killed in it, or it was too quick to be seen: the
        # stage is killed all the same.
        with contextlib.suppress(AssertionError):
            wait_for(lambda now=now, b=before: now() and len(node.jobs()) >= b, 10, stage)
        node.kill(stage)
        killed += 1
        jobs = node.wait_for_jobs(killed, FINAL)
        assert {job["state"] for job in jobs} == {"delivered"}
    held = result_uids(archive)
    assert len(held) == killed
    assert {len(uids) for uids in held.values()} == {2}


def test_a_power_cut_in_the_middle_of_sending_loses_nothing_that_was_acknowledged(
    make_node: Callable[..., Node], archive: StoreScp, tmp_path: Path
) -> None:
    node = make_node(send_to=[archive.peer], scoring={"max_attempts": 5})
    storescu(node.port, [radiograph(tmp_path, "cut-1")])
    storescu(node.port, real_ct(tmp_path / "ct", "cut"))
    node.kill_all()
    node.start()
    jobs = node.wait_for_jobs(2, FINAL)
    assert all(len(job["results"]) == 2 for job in jobs)
    wait_for(
        lambda: sorted(len(uids) for uids in result_uids(archive).values()) == [2, 2],
        30,
        "one SR and one SC in each study",
    )


def test_a_destination_that_was_down_gets_its_results_without_a_person(
    make_node: Callable[..., Node], tmp_path: Path
) -> None:
    archive = StoreScp(tmp_path / "archive")
    alive = StoreScp(tmp_path / "alive")
    alive.start()
    try:
        peers = {
            "dead": {"ae_title": "ARCHIVE", "host": "127.0.0.1", "port": archive.port},
            "alive": {"ae_title": "ARCHIVE", "host": "127.0.0.1", "port": alive.port},
        }
        node = make_node(destinations=peers, send_to=["dead", "alive"])
        storescu(node.port, [radiograph(tmp_path, "down")])

        def tried() -> bool:
            deliveries = [item for job in node.jobs() for item in job["deliveries"]]
            return any(item["state"] == "delivered" for item in deliveries) and any(
                item["attempts"] >= 2 and "refused the connection" in (item["last_error"] or "")
                for item in deliveries
            )

        wait_for(tried, 150, "two attempts at the dead destination, and a living one")
        (job,) = node.jobs()
        done = {item["destination"] for item in job["deliveries"] if item["state"] == "delivered"}
        assert done == {"alive"}  # a dead destination holds nobody up
        assert job["state"] == "scored"
        archive.start()
        (job,) = node.wait_for_jobs(1, frozenset({"delivered"}), 60)
        assert len(result_uids(archive)[job["study_instance_uid"]]) == 2
    finally:
        archive.stop()
        alive.stop()


def test_a_destination_that_refuses_for_good_parks_the_job_until_retry(
    make_node: Callable[..., Node], tmp_path: Path
) -> None:
    node = make_node(send_to=["NOBODY@127.0.0.1:1"], delivery={"first": 0.2, "give_up_after": 1})
    storescu(node.port, [radiograph(tmp_path, "park")])
    (job,) = node.wait_for_jobs(1, frozenset({"parked"}))
    assert "gave up after" in job["reason"]
    node.command("jobs", "retry", str(job["job_id"]))
    shown = json.loads(node.command("jobs", "show", str(job["job_id"]), "--json").stdout)
    assert any(event["action"] == "job_retried" for event in shown["events"])


BAD = {
    "no-pixels": ({"PixelData": None}, "failed", "Pixel Data"),
    "truncated": ({"PixelData": b"\0" * 1000}, "failed", "Pixel Data"),
    "wrong-photometric": ({"PhotometricInterpretation": "RGB"}, "failed", "Photometric"),
    "empty-number": ({"InstanceNumber": ""}, "scored", None),
    "no-patient-id": ({"PatientID": None}, "scored", "PatientID (0010,0020) is missing"),
}


def test_bad_input_gets_a_clear_reason_and_holds_nobody_else_up(
    make_node: Callable[..., Node], tmp_path: Path
) -> None:
    node = make_node()
    folder = tmp_path / "bad"
    uids = {}
    for name, (values, _, _) in BAD.items():
        path = radiograph(folder, name, **values)
        uids[name] = dcmread(path, stop_before_pixels=True).StudyInstanceUID
    uids["good"] = dcmread(radiograph(folder, "good")).StudyInstanceUID
    node.command("send", str(folder), "--to", f"DICOM_NODE@127.0.0.1:{node.port}")
    jobs = {job["study_instance_uid"]: job for job in node.wait_for_jobs(len(uids))}
    assert jobs[uids["good"]]["state"] == "scored"
    for name, (_, state, reason) in BAD.items():
        job = jobs[uids[name]]
        assert job["state"] == state, (name, job["reason"])
        if reason is not None:
            assert reason in job["reason"]
            shown = node.command("jobs", "show", str(job["job_id"])).stdout
            assert reason.split()[0] in shown


def test_images_of_two_patients_in_one_study_are_parked(
    make_node: Callable[..., Node], tmp_path: Path
) -> None:
    node = make_node()
    first = radiograph(tmp_path, "identity")
    study = dcmread(first).StudyInstanceUID
    second = radiograph(tmp_path, "identity2", StudyInstanceUID=study, PatientID="SOMEBODY_ELSE")
    storescu(node.port, [first, second])
    (job,) = node.wait_for_jobs(1)
    assert job["state"] == "parked"
    assert "different identities" in job["reason"]
    assert job["results"] == []
