"""`prune`, `fsck` and `jobs waive` as a person calls them."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from dicom_node.cli import app
from dicom_node.config import load_config
from dicom_node.errors import ConfigError
from dicom_node.node import prepare
from dicom_node.store.files import write_durably
from tests.stored import Store

CONFIG = """
retention: {delivered: P1D, waived: 0.000001}
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "node.yaml").write_text(CONFIG)
    return tmp_path


def store_at(home: Path) -> Store:
    config = load_config(home / "node.yaml", {"home": home})
    return Store(prepare(config), config.store_dir)


def call(home: Path, *words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, [*words, "--home", str(home)])
    return done.exit_code, done.stdout


def test_a_dry_run_says_what_prune_then_does(home: Path) -> None:
    store = store_at(home)
    store.delivery(store.study(1), "delivered")
    store.study(2, "parked")
    code, said = call(home, "prune", "--dry-run", "--json")
    assert (code, json.loads(said)["studies_by_age"]) == (0, 1)
    assert len(store.files()) == 6
    code, said = call(home, "prune", "--json")
    assert (code, json.loads(said)["studies"]) == (0, 1)
    assert len(store.files()) == 3


def test_a_waived_job_goes_and_its_reason_is_shown(home: Path) -> None:
    store = store_at(home)
    store.study(1, "parked")
    assert call(home, "jobs", "waive", "1", "--why", "test image")[0] == 0
    assert call(home, "jobs", "waive", "9", "--why", "test image")[0] == 1
    assert "1 studies" in call(home, "prune")[1]
    assert store.files() == set()
    shown = json.loads(call(home, "jobs", "show", "1", "--json")[1])
    assert shown["waived_because"] == "test image"
    assert shown["pruned_at"]
    assert "pruned" in call(home, "jobs", "retry", "1")[1]


def test_fsck_tells_by_its_exit_code_whether_a_person_is_needed(home: Path) -> None:
    store = store_at(home)
    store.delivery(store.study(1), "delivered")
    assert call(home, "fsck") == (0, "database and files agree\n")
    orphan = store.folder / "predictions/77-t.npz"
    write_durably(orphan, b"x")
    old = time.time() - 7200
    os.utime(orphan, (old, old))
    assert call(home, "fsck")[0] == 1
    assert orphan.exists()
    code, said = call(home, "fsck", "--repair", "--json")
    assert code == 1
    assert json.loads(said)[0]["repaired"].startswith("moved to lost+found")
    assert call(home, "fsck")[0] == 0
    with store.database.begin() as connection:
        connection.execute(text("UPDATE jobs SET state = 'queued'"))
    code, said = call(home, "fsck", "--repair")
    assert code == 2
    assert "jobs show" in said
    assert "0 repaired, 0 left for --repair, 1 left for a person" in said


def test_a_floor_below_the_receivers_is_refused(home: Path) -> None:
    (home / "node.yaml").write_text("retention: {minimum_free_bytes: 1000}")
    with pytest.raises(ConfigError, match=r"above dicom\.minimum_free_bytes"):
        load_config(home / "node.yaml")
