"""What the node writes, other users of its machine cannot read, whatever the umask was."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import storescu, wait_for
from tests.e2e.studies import radiograph
from tests.integration.operations.test_backup import Stages, run, stages

__all__ = ["stages"]
OTHERS = 0o077


@pytest.fixture
def careless() -> Iterator[None]:
    """A umask that gives everything to everybody, as some service managers set it."""
    before = os.umask(0)
    yield
    os.umask(before)


def open_to_others(folder: Path) -> list[str]:
    return [
        f"{path.stat().st_mode:o} {path.relative_to(folder)}"
        for path in folder.rglob("*")
        if path.stat().st_mode & OTHERS
    ]


@pytest.mark.dcmtk
def test_home_and_backup_are_for_the_nodes_user_alone(
    careless: None, stages: Callable[[str], Stages], tmp_path: Path
) -> None:
    node, target = stages("node"), tmp_path / "backup"
    node.start("receive")
    storescu(node.port, [radiograph(tmp_path / "studies", "waits")])
    node.start("assemble")
    wait_for(node.jobs, 60, "a job")
    target.mkdir()
    run("backup", str(target), "--home", str(node.home))
    made_by_us = {"node.yaml"}  # written by this test into the home
    assert set(open_to_others(node.home)) <= {f"100666 {name}" for name in made_by_us}
    assert list((node.home / "store" / "instances").rglob("*.dcm"))
    assert open_to_others(target) == []
    assert (target / "node.db").is_file()
    assert list(target.rglob("*.dcm"))


def test_the_start_tells_of_doors_that_stand_open(
    stages: Callable[[str], Stages], monkeypatch: pytest.MonkeyPatch
) -> None:
    for stage, section, action in (
        ("receive", "DICOM", "anybody_may_send"),
        ("web", "WEB", "web_without_login"),
    ):
        node = stages(stage)
        monkeypatch.setenv("DICOM_NODE_WEB__PORT", "0")
        node.start(stage)
        node.kill()
        assert action not in node.log(stage)
        monkeypatch.setenv(f"DICOM_NODE_{section}__HOST", "0.0.0.0")
        node.start(stage)
        assert f"action={action}" in node.log(stage)
