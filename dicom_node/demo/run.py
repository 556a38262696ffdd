"""The whole node on one machine: a real radiograph and a CT phantom in, checked results out."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from pydicom import dcmread
from pydicom.data import get_testdata_file

from dicom_node.config import NodeConfig, load_config
from dicom_node.config_destinations import DestinationConfig
from dicom_node.deliver.dimse import SendOutcome, send_files
from dicom_node.demo.archive import Archive
from dicom_node.errors import BadInput, NodeError, Transient
from dicom_node.node import child_environment
from dicom_node.paths import SHIPPED_CONFIG, SHIPPED_MODELS
from dicom_node.report.validate import validate_result
from dicom_node.store.database import open_database
from dicom_node.store.overview import job_rows

MARKER = ".dicom-node-demo"
ARCHIVE_AE_TITLE = "DEMO_ARCHIVE"
READY_SECONDS = 60.0
RESULT_SECONDS = 180.0
TERMINAL = frozenset({"delivered", "refused", "parked", "failed"})
PHANTOM_SLICES = 48


class DemoFailed(NodeError):
    """The demo did not end as it must; says where to look."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the demo's table."""

    study: str
    job: Mapping[str, Any]
    files: Mapping[str, Path]
    problems: tuple[str, ...]
    seconds: float | None


def run_demo(out_dir: Path, *, now: datetime, say: Callable[[str], None]) -> list[Row]:
    """Run the demo.

    Parameters
    ----------
    out_dir
        Holds everything: the node's home, the archive and the results; an earlier demo in it is
        replaced, anything else in it is left alone.
    say
        Told of the progress, a line at a time.

    Raises
    ------
    DemoFailed
        The node did not start, or results did not come in time.
    """
    _check_models()
    home, stored = _fresh_folders(out_dir)
    studies = _make_studies(out_dir / "sent", now, say)
    archive = Archive(stored, ae_title=ARCHIVE_AE_TITLE)
    archive_port = archive.start()
    try:
        say(f"archive listens on 127.0.0.1:{archive_port}")
        peer = f"{ARCHIVE_AE_TITLE}@127.0.0.1:{archive_port}"
        overrides = {
            "home": home,
            "routes_file": _marking_routes(home),
            "dicom": {"port": 0},
            "web": {"port": 0},
            "send_to": [peer],
        }
        config = load_config(None, overrides)
        with _running_node(overrides, home / "node.log") as port:
            say(f"node listens on 127.0.0.1:{port}")
            uids = {name: _send(name, files, port, say) for name, files in studies.items()}
            jobs = _await_jobs(config, uids, say)
    finally:
        archive.stop()
    return [_row(out_dir, name, jobs[uid], uid, stored) for name, uid in uids.items()]


def _check_models() -> None:
    """Without its model a job waits for ever: say so at once."""
    from dicom_node.score.bundle import find_bundles

    usable, refused = find_bundles(SHIPPED_MODELS)
    names = {bundle.name for bundle in usable}
    routes = yaml.safe_load((SHIPPED_CONFIG / "routes.yaml").read_text(encoding="utf-8"))
    for route in routes["routes"]:
        if route["model"] not in names:
            why = refused.get(route["model"], "its folder is missing")
            raise DemoFailed(f"model {route['model']} cannot be used: {why}")


def _fresh_folders(out_dir: Path) -> tuple[Path, Path]:
    marker = out_dir / MARKER
    folders = home, stored = out_dir / "node", out_dir / "archive"
    if any(folder.exists() for folder in folders) and not marker.exists():
        raise DemoFailed(f"{out_dir} holds something else; give DEMO_OUT another folder")
    for folder in (*folders, out_dir / "sent"):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    marker.touch()
    return home, stored


def _make_studies(folder: Path, now: datetime, say: Callable[[str], None]) -> dict[str, list[Path]]:
    from dicom_node.demo.phantom import write_thorax_phantom

    radiograph = get_testdata_file("RG1_UNCR.dcm", download=False)
    if radiograph is None:
        raise DemoFailed("pydicom-data is not installed; run `make setup`")
    say(f"making a thorax CT phantom of {PHANTOM_SLICES} slices")
    phantom = write_thorax_phantom(
        folder / "phantom", seed=now.isoformat(), now=now, slices=PHANTOM_SLICES
    )
    return {"chest radiograph (RG1, real)": [Path(radiograph)], "chest CT (phantom)": phantom}


def _marking_routes(home: Path) -> Path:
    """The shipped rules with `out_of_scope: mark`: the demo shows a score, clearly marked."""
    routes = yaml.safe_load((SHIPPED_CONFIG / "routes.yaml").read_text(encoding="utf-8"))
    for route in routes["routes"]:
        route["out_of_scope"] = "mark"
    path = home / "routes.yaml"
    path.write_text(yaml.safe_dump(routes, sort_keys=False), encoding="utf-8")
    return path


@contextmanager
def _running_node(overrides: Mapping[str, Any], log: Path) -> Iterator[int]:
    """Run `dicom-node serve` in a process of its own; yields its DICOM port."""
    with log.open("w", encoding="utf-8") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "dicom_node", "serve"],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=child_environment(overrides, os.environ),
        )
        try:
            yield _ready_port(process, log)
        finally:
            process.terminate()
            process.wait(60)


def _ready_port(process: subprocess.Popen[str], log: Path) -> int:
    assert process.stdout is not None, "started with a pipe"
    for line in process.stdout:
        if line.startswith("ready "):
            facts = dict(item.split("=", 1) for item in line.split()[1:])
            return int(facts["dicom-port"])
    raise DemoFailed(f"the node ended before it was ready; see {log}")


def _send(name: str, files: Sequence[Path], port: int, say: Callable[[str], None]) -> str:
    say(f"sending {name}: {len(files)} file(s)")
    failures: list[str] = []

    def note(_path: Path, outcome: SendOutcome) -> None:
        if outcome.error:
            failures.append(str(outcome.error))

    peer = DestinationConfig(ae_title="DICOM_NODE", host="127.0.0.1", port=port)
    send_files(peer, "DEMO_MODALITY", list(files), note)
    if failures:
        raise DemoFailed(f"{name}: {failures[0]}")
    return str(dcmread(files[0], stop_before_pixels=True).StudyInstanceUID)


def _await_jobs(
    config: NodeConfig, uids: Mapping[str, str], say: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """Wait until every study's job has come to an end and its results are delivered."""
    deadline = time.monotonic() + RESULT_SECONDS
    told: dict[str, str] = {}
    while time.monotonic() < deadline:
        jobs = _jobs_by_study(config)
        for name, uid in uids.items():
            state = jobs[uid]["state"] if uid in jobs else "receiving"
            if told.get(name) != state:
                say(f"{name}: {state}")
                told[name] = state
        if all(uid in jobs and _has_ended(jobs[uid]) for uid in uids.values()):
            return jobs
        time.sleep(0.2)
    raise DemoFailed(f"no result after {RESULT_SECONDS:.0f} s; see {config.home / 'node.log'}")


def _jobs_by_study(config: NodeConfig) -> dict[str, dict[str, Any]]:
    database = open_database(config.sqlalchemy_url)
    try:
        with database.read() as connection:
            rows = job_rows(connection, store_dir=config.store_dir)
    except Transient:
        return {}
    finally:
        database.close()
    return {row["study_instance_uid"]: row for row in rows}


def _has_ended(job: Mapping[str, Any]) -> bool:
    waiting = [item for item in job["deliveries"] if item["state"] == "pending"]
    return job["state"] in TERMINAL and not waiting


def _row(out_dir: Path, name: str, job: Mapping[str, Any], uid: str, stored: Path) -> Row:
    """Check what the archive really holds for one study, and put it where a person finds it."""
    problems, files = [], {}
    slug = "radiograph" if "radiograph" in name else "ct"
    kinds = [item["kind"] for item in job["results"]]
    if sorted(kinds) != ["SC", "SR"]:
        problems.append(f"results are {kinds}, wanted one SR and one SC")
    for item in job["results"]:
        received = stored / f"{item['sop_instance_uid']}.dcm"
        if not received.exists():
            problems.append(f"the {item['kind']} is not in the archive")
            continue
        problems += _invalid(received, uid)
        kind = item["kind"].lower()
        files[item["kind"]] = Path(shutil.copy(received, out_dir / f"{slug}-{kind}.dcm"))
        if item["preview"]:
            files["PNG"] = Path(shutil.copy(item["preview"], out_dir / f"{slug}-{kind}.png"))
    return Row(name, job, files, tuple(problems), _seconds(job))


def _invalid(path: Path, study_instance_uid: str) -> list[str]:
    try:
        problems = validate_result(path)
        if dcmread(path).StudyInstanceUID != study_instance_uid:
            problems.append("not in the source study")
    except BadInput as error:
        return [str(error)]
    return problems


def _seconds(job: Mapping[str, Any]) -> float | None:
    """From the last image received to the last result delivered."""
    ends = [item["delivered_at"] for item in job["deliveries"] if item["delivered_at"]]
    if not ends:
        return None
    received = datetime.fromisoformat(job["received_at"])
    return (datetime.fromisoformat(max(ends)) - received).total_seconds()
