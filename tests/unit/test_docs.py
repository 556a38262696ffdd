"""Documents that come from the code say what the code says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_list_of_commands_is_current(tmp_path: Path) -> None:
    made = tmp_path / "commands.md"
    command = ["-m", "typer", "dicom_node.cli", "utils", "docs", "--name", "dicom-node"]
    subprocess.run(
        [sys.executable, *command, "--title", "Commands", "--output", made],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        timeout=120,
    )
    committed = (REPOSITORY / "docs" / "commands.md").read_text(encoding="utf-8")
    assert made.read_text(encoding="utf-8") == committed, "run `make docs`"


def test_make_help_lists_every_target() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    (phony,) = (line for line in makefile.splitlines() if line.startswith(".PHONY:"))
    ended = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    )
    listed = {line.split()[0] for line in ended.stdout.splitlines()}
    assert listed == set(phony.split()[1:])
