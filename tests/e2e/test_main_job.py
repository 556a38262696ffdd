"""Images go in by C-STORE, one SR and one Secondary Capture come back into each study."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread

from dicom_node.report.validate import validate_result
from tests.e2e.harness import Node, StoreScp, marking_routes, storescu, wait_for
from tests.e2e.studies import radiograph, real_ct, rg1

pytestmark = [pytest.mark.dcmtk, pytest.mark.slow]
IDENTITY = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID")


def by_study(files: list[Path]) -> dict[str, list[Dataset]]:
    found: dict[str, list[Dataset]] = {}
    for path in files:
        made = dcmread(path)
        found.setdefault(made.StudyInstanceUID, []).append(made)
    return found


def rows_of(path: Path) -> int:
    return int(dcmread(path, stop_before_pixels=True).Rows)


def test_a_radiograph_and_a_ct_come_back_as_one_sr_and_one_sc_each_and_only_once(
    make_node: Callable[..., Node], archive: StoreScp, database_url: str, tmp_path: Path
) -> None:
    routes = marking_routes(tmp_path / "routes.yaml", refuse_rows=rows_of(rg1()))
    node = make_node(send_to=[archive.peer], database_url=database_url, routes_file=str(routes))
    ct = real_ct(tmp_path / "ct", "main")
    child = radiograph(tmp_path, "child")
    sources = {str(dcmread(path).StudyInstanceUID): dcmread(path) for path in (rg1(), ct[0], child)}
    for files in ([rg1()], ct, [child]):
        storescu(node.port, files)
    jobs = {job["study_instance_uid"]: job for job in node.wait_for_jobs(3, FINAL)}
    wait_for(lambda: len(archive.files()) >= 6, 30, "six results in the archive")

    for uid, results in by_study(archive.files()).items():
        assert sorted(made.Modality for made in results) == ["OT", "SR"]
        for made in results:
            assert {key: made.get(key) for key in IDENTITY} == {
                key: sources[uid].get(key) for key in IDENTITY
            }
    for path in archive.files():
        assert validate_result(path) == []
    assert jobs[str(dcmread(rg1()).StudyInstanceUID)]["state"] == "refused"
    assert "64 years" in jobs[str(dcmread(rg1()).StudyInstanceUID)]["reason"]
    scored = jobs[str(dcmread(child).StudyInstanceUID)]
    assert scored["state"] == "delivered"
    assert scored["findings"][0]["code"] == "233604007"
    assert 0 <= scored["findings"][0]["probability"] <= 1
    assert scored["deliveries"][0]["state"] == "delivered"

    before = sorted(path.name for path in archive.files())
    for files in ([rg1()], ct, [child]):
        storescu(node.port, files)
    wait_for(lambda: not list(node.config.inbox_dir.glob("*/*.dcm")), 30, "the inbox is empty")
    again = radiograph(tmp_path, "afterwards")
    storescu(node.port, [again])  # once this one is through, the others would be, too
    node.wait_for_jobs(4, FINAL)
    assert sorted(path.name for path in archive.files() if path.name in before) == before
    assert len(archive.files()) == len(before) + 2


FINAL = frozenset({"delivered", "refused", "parked", "failed"})


def test_a_route_may_mark_instead_of_refuse(
    make_node: Callable[..., Node], archive: StoreScp, tmp_path: Path
) -> None:
    node = make_node(send_to=[archive.peer])  # the tests' own rules mark
    storescu(node.port, [rg1()])
    (job,) = node.wait_for_jobs(1, FINAL)
    assert job["state"] == "delivered"
    assert any("outside intended use" in mark for mark in job["marks"])
    (sr,) = [path for path in archive.files() if dcmread(path).Modality == "SR"]
    assert b"outside intended use" in sr.read_bytes()


def test_a_late_image_gives_a_second_revision_whose_sr_names_the_first(
    make_node: Callable[..., Node], archive: StoreScp, tmp_path: Path
) -> None:
    node = make_node(send_to=[archive.peer])
    first = radiograph(tmp_path / "a", "late")
    storescu(node.port, [first])
    node.wait_for_jobs(1, FINAL)
    second = radiograph(
        tmp_path / "b", "late2", StudyInstanceUID=dcmread(first).StudyInstanceUID, InstanceNumber=2
    )
    storescu(node.port, [second])
    newer, older = node.wait_for_jobs(2, FINAL)
    assert (newer["revision"], older["revision"]) == (2, 1)
    reports = {
        made.SOPInstanceUID: made for made in map(dcmread, archive.files()) if made.Modality == "SR"
    }
    new_sr, old_sr = (
        next(item["sop_instance_uid"] for item in job["results"] if item["kind"] == "SR")
        for job in (newer, older)
    )
    named = [
        item.ReferencedSOPInstanceUID
        for study in reports[new_sr].PredecessorDocumentsSequence
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    ]
    assert named == [old_sr]


def test_images_that_no_route_takes_are_recorded_with_the_reason(
    make_node: Callable[..., Node], tmp_path: Path
) -> None:
    node = make_node()
    lateral = radiograph(tmp_path, "lateral", ViewPosition="LL")
    storescu(node.port, [lateral])
    (job,) = node.wait_for_jobs(1)
    assert (job["state"], job["model"]) == ("refused", None)
    assert "lateral view" in job["reason"]
    shown = node.command("studies", "show", job["study_instance_uid"], "--json")
    assert any("lateral view" in item["reason"] for item in json.loads(shown.stdout)["decisions"])


def test_without_a_destination_results_stay_in_the_store(
    make_node: Callable[..., Node], tmp_path: Path
) -> None:
    node = make_node()
    storescu(node.port, [radiograph(tmp_path, "stay")])
    (job,) = node.wait_for_jobs(1)
    assert job["state"] == "scored"
    assert sorted(item["kind"] for item in job["results"]) == ["SC", "SR"]
    for item in job["results"]:
        assert validate_result(Path(item["path"])) == []


def test_a_result_that_comes_back_is_not_scored(
    make_node: Callable[..., Node], tmp_path: Path
) -> None:
    node = make_node()
    storescu(node.port, [radiograph(tmp_path, "loop")])
    (job,) = node.wait_for_jobs(1)
    for item in job["results"]:
        node.command("send", item["path"], "--to", f"DICOM_NODE@127.0.0.1:{node.port}")
    storescu(node.port, [radiograph(tmp_path, "after-loop")])
    node.wait_for_jobs(2)
    studies = json.loads(node.command("studies", "list", "--json").stdout)
    assert sorted(study["instances"] for study in studies) == [1, 3]
    assert all(study["revision"] == 1 for study in studies)


def test_no_patient_data_reaches_the_logs(
    make_node: Callable[..., Node], archive: StoreScp, tmp_path: Path
) -> None:
    node = make_node(send_to=[archive.peer], log={"format": "json", "level": "debug"})
    marked = radiograph(tmp_path, "phi", PatientName="MARKERNAME", PatientID="MARKERID")
    broken = radiograph(tmp_path, "phi2", PatientName="MARKER^NAME", PixelData=None)
    storescu(node.port, [marked])
    node.command("send", str(broken), "--to", f"DICOM_NODE@127.0.0.1:{node.port}")
    node.wait_for_jobs(2)
    node.stop()
    text = node.log.read_text(encoding="utf-8")
    assert '"action": "job_scored"' in text
    for secret in ("MARKER", dcmread(marked).StudyInstanceUID, dcmread(marked).SOPInstanceUID):
        assert secret not in text
    names = [path.name for path in node.home.rglob("*")]
    assert not any("MARKER" in name for name in names)
