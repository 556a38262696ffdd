"""A node that marked studies have gone through, in every way that there is."""

from __future__ import annotations

import os
import re
import subprocess
import traceback
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dicom_node.cli import app
from dicom_node.failpoint import VARIABLE
from dicom_node.node import child_environment
from tests.e2e.harness import Node, StoreScp, storescu, wait_for
from tests.faults.phi.marked import write_studies

FINAL = frozenset({"delivered", "scored", "refused", "parked", "failed"})
JOBS = 8


@dataclass
class Traces:
    """What the node said outside of its home folder: name to text."""

    node: Node
    said: dict[str, str] = field(default_factory=dict)

    def command(self, *words: str) -> None:
        # In this process: each of its own would spend seconds on imports.
        environment = child_environment(self.node.settings, os.environ)
        ended = CliRunner().invoke(app, words, env=environment)
        error = ended.exception
        told = "" if isinstance(error, SystemExit) else traceback.format_exception(error)
        self.said["dicom-node " + " ".join(words)] = ended.output + "".join(told if error else "")

    def get(self, base: str, path: str, data: bytes | None = None) -> str:
        request = urllib.request.Request(base + path, data=data)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                head, body = str(answer.headers), answer.read()
        except urllib.error.HTTPError as error:
            head, body = str(error.headers), error.read()
        if not body.startswith(b"\0" * 128):  # a stored DICOM object: the identity is its own
            self.said[f"{'POST' if data is not None else 'GET'} {path}"] = head + body.decode(
                "utf-8", "replace"
            )
        return body.decode("utf-8", "replace")


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traces]:
    """Run everything once; the tests of a module look at what is left."""
    folder = tmp_path_factory.mktemp("phi")
    (folder / "failpoints").mkdir()
    (folder / "tmp").mkdir()
    archive = StoreScp(folder / "archive")
    node = Node(
        folder / "node",
        {
            "send_to": [archive.peer, "DEAD@127.0.0.1:1"],
            "dicom": {"port": 0, "require_called_ae_title": True},
            "delivery": {"first": 0.3, "give_up_after": 3},
            "log": {"format": "json", "level": "debug"},
        },
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(folder / "failpoints"))
        patch.setenv("TMPDIR", str(folder / "tmp"))
        archive.start()
        try:
            node.start()
            found = Traces(node)
            _drive(found, folder)
            yield found
        finally:
            node.stop()
            archive.stop()


def _drive(found: Traces, folder: Path) -> None:
    node = found.node
    said = (node.home / "stdout").read_text()
    ports = {name: int(port) for name, port in re.findall(r"([a-z]+)-port=(\d+)", said)}
    node.port = ports["dicom"]
    files = write_studies(folder / "studies")
    # The stages die with errors of the operating system while they hold the marked data sets.
    for step in ("assemble.before_commit", "score.after_predict", "deliver.after_send"):
        (folder / "failpoints" / step).write_text("error:EPERM")
    found.command("send", str(folder / "studies"), "--to", f"DICOM_NODE@127.0.0.1:{node.port}")
    with pytest.raises(subprocess.CalledProcessError):
        storescu(node.port, [files["scored"]], "-aec", "WRONG")
    jobs = node.wait_for_jobs(JOBS, FINAL)
    wait_for(lambda: _dead_is_parked(node), 60, "the dead destination is given up")
    _look_at_everything(found, f"http://127.0.0.1:{ports['web']}", [job["job_id"] for job in jobs])
    node.stop()


def _dead_is_parked(node: Node) -> bool:
    deliveries = [item for job in node.jobs() for item in job["deliveries"]]
    dead = [item for item in deliveries if item["destination"] == "DEAD"]
    return bool(dead) and all(item["state"] == "parked" for item in dead)


def _look_at_everything(found: Traces, base: str, jobs: list[int]) -> None:
    for path in ("/", "/studies", "/models", "/api/jobs", "/api/studies", "/api/quarantine",
                 "/api/models", "/metrics", "/healthz", "/readyz", "/openapi.json", "/nowhere",
                 "/jobs/999", "/api/studies/1.2.3"):  # fmt: skip
        found.get(base, path)
    uids = set(re.findall(r"[0-9.]{30,64}", found.said["GET /api/studies"]))
    for uid in uids:
        found.get(base, f"/api/studies/{uid}")
    for job in jobs:
        for path in (f"/jobs/{job}", f"/api/jobs/{job}", f"/studies/{job}"):
            found.get(base, path)
        for kind in ("SR", "SC", "PNG", "X"):
            found.get(base, f"/api/jobs/{job}/results/{kind}")
    found.get(base, f"/api/jobs/{jobs[0]}/retry", b"")
    some_job, some_study = str(jobs[0]), min(uids)
    for words in (
        "check", "jobs list", "jobs list --json", "studies list", "studies list --json",
        "studies list --quarantined --json", f"jobs show {some_job}",
        f"jobs show {some_job} --json", f"jobs retry {some_job}",
        f"studies show {some_study} --json", "fsck", "audit verify --json",
    ):  # fmt: skip
        found.command(*words.split())
