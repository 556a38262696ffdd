"""The commands that people and scripts call, as they call them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import dcmread

from dicom_node.report.validate import validate_result
from tests.e2e.harness import Node, StoreScp, free_port
from tests.e2e.studies import radiograph, rg1

pytestmark = pytest.mark.slow


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dicom_node", *words],
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
        env=os.environ | environment,
    )


def test_the_demo_ends_by_itself_with_valid_results_twice(tmp_path: Path) -> None:
    out_dir = tmp_path / "out"
    for _ in range(2):
        ended = run("demo", DEMO_OUT=str(out_dir), COLUMNS="200")
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert "one valid SR and one valid Secondary Capture" in ended.stdout
        assert "outside intended use" in ended.stdout
        assert len(list((out_dir / "archive").glob("*.dcm"))) == 4
    for name in ("radiograph-sr.dcm", "radiograph-sc.dcm", "ct-sr.dcm", "ct-sc.dcm"):
        assert validate_result(out_dir / name) == []
    assert (out_dir / "ct-sc.png").stat().st_size > 10_000


def test_the_demo_leaves_a_strange_folder_alone(tmp_path: Path) -> None:
    (tmp_path / "node").mkdir()
    (tmp_path / "node" / "precious").touch()
    ended = run("demo", "--out", str(tmp_path))
    assert ended.returncode == 1
    assert "holds something else" in ended.stderr
    assert (tmp_path / "node" / "precious").exists()


@pytest.mark.dcmtk
def test_check_verifies_every_part_and_says_what_to_mend(tmp_path: Path, archive: StoreScp) -> None:
    home = tmp_path / "home"
    ports = {"DICOM_NODE_DICOM__PORT": str(free_port()), "DICOM_NODE_WEB__PORT": str(free_port())}
    ended = run("check", "--home", str(home), "--send-to", archive.peer, "--json", **ports)
    verdicts = json.loads(ended.stdout)
    assert ended.returncode == 0, verdicts
    parts = {item["part"] for item in verdicts if item["state"] == "ok"}
    assert parts >= {
        "configuration", "routes", "disk", "database", "dicom port", "web port", "model",
        "destination",
    }  # fmt: skip
    ended = run("check", "--home", str(home), "--send-to", "NOBODY@127.0.0.1:1", "--json", **ports)
    assert ended.returncode == 1
    (failed,) = [item for item in json.loads(ended.stdout) if item["state"] == "failed"]
    assert failed["part"] == "destination"
    assert "127.0.0.1:1" in failed["found"] + failed["mend"]


def test_score_needs_no_network_and_writes_valid_results(tmp_path: Path) -> None:
    child = radiograph(tmp_path / "in", "score")
    words = ("score", str(child), "--model", "cxr_pneumonia", "--mark")
    ended = run(*words, "--out", str(tmp_path / "out"), "--json")
    assert ended.returncode == 0, ended.stderr
    document = json.loads(ended.stdout)
    assert document["findings"][0]["code"] == "233604007"
    assert len(document["model"]["weights_sha256"]) == 64
    for name in ("sr.dcm", "sc.dcm"):
        assert validate_result(tmp_path / "out" / name) == []
    refused = json.loads(run("score", str(rg1()), "--model", "cxr_pneumonia", "--json").stdout)
    assert refused["findings"] == []
    assert "64 years" in refused["not_analysed"]
    marked = run("score", str(rg1()), "--model", "cxr_pneumonia", "--mark", "--json")
    assert json.loads(marked.stdout)["findings"] != []


def test_models_list_shows_the_shipped_models_and_refuses_a_tampered_one(tmp_path: Path) -> None:
    listed = json.loads(run("models", "list", "--json").stdout)
    assert {item["state"] for item in listed} == {"usable"}
    assert {item["name"] for item in listed} >= {"cxr_pneumonia", "ct_covid"}
    (tmp_path / "bad" / "configs").mkdir(parents=True)
    (tmp_path / "bad" / "configs" / "metadata.json").write_text("{}", encoding="utf-8")
    (refused,) = json.loads(
        run("models", "list", "--json", DICOM_NODE_MODELS_DIR=str(tmp_path)).stdout
    )
    assert refused["state"] == "refused"


def test_a_wrong_setting_is_one_sentence_not_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "node.yaml").write_text("dicom: {prot: 1}\n", encoding="utf-8")
    ended = run("serve", "--home", str(tmp_path))
    assert ended.returncode == 1
    assert "dicom.prot" in ended.stderr
    assert "Traceback" not in ended.stderr
    (tmp_path / "node.yaml").write_text("routes_file: none.yaml\n", encoding="utf-8")
    ended = run("serve", "--home", str(tmp_path))
    assert ended.returncode == 1
    assert "none.yaml" in ended.stderr


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = run("serve", "--home", str(tmp_path), "--dicom-port", port, "--web-port", "0")
    assert ended.returncode == 1
    assert f"another program listens on 127.0.0.1:{port}" in ended.stderr


@pytest.mark.dcmtk
def test_send_sends_a_folder_and_names_what_it_skips(tmp_path: Path, archive: StoreScp) -> None:
    radiograph(tmp_path / "in", "one")
    (tmp_path / "in" / "notes.txt").write_text("not DICOM", encoding="utf-8")
    ended = run("send", str(tmp_path / "in"), "--to", archive.peer, "--json")
    assert ended.returncode == 0, ended.stderr
    document = json.loads(ended.stdout)
    assert [item["sent"] for item in document["files"]] == [True]
    assert [Path(item["path"]).name for item in document["skipped"]] == ["notes.txt"]
    (received,) = archive.files()
    assert dcmread(received).PatientAge == "003Y"
    assert run("send", str(tmp_path / "in"), "--to", "X@127.0.0.1:1").returncode == 1


@pytest.mark.dcmtk
def test_the_first_signal_drains_and_ends_with_success(make_node: Callable[..., Node]) -> None:
    node = make_node()
    pids = node.stage_pids()
    assert set(pids) == {"receive", "assemble", "score-worker", "deliver", "web"}
    assert node.process is not None
    node.process.terminate()
    assert node.process.wait(60) == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids.values())
