"""Failpoints: off they do nothing, on they do what is asked, and every named step exists."""

from __future__ import annotations

import ast
import errno
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_node.errors import ConfigError
from dicom_node.failpoint import EXIT_STATUS, STEPS, VARIABLE, arm_failpoints, failpoint

PACKAGE = Path(__file__).resolve().parents[2] / "dicom_node"
STEP = "score.after_claim"


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    arm_failpoints({})


def test_each_named_step_is_marked_at_one_place() -> None:
    marked = Counter(
        node.args[0].value
        for file in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "failpoint"
        and isinstance(node.args[0], ast.Constant)
    )
    assert marked == Counter(dict.fromkeys(STEPS, 1))


def test_off_a_step_costs_less_than_a_microsecond() -> None:
    assert arm_failpoints({}) is False
    started = time.process_time()
    for _ in range(100_000):
        failpoint(STEP)
    assert time.process_time() - started < 0.1


def test_an_error_comes_at_the_named_hit_only() -> None:
    assert arm_failpoints({VARIABLE: f"{STEP}=error:ENOSPC@2"})
    failpoint(STEP)
    failpoint("score.after_store")
    with pytest.raises(OSError, match="No space left") as raised:
        failpoint(STEP)
    assert raised.value.errno == errno.ENOSPC
    failpoint(STEP)


def test_a_file_in_the_folder_acts_once(tmp_path: Path) -> None:
    arm_failpoints({VARIABLE: str(tmp_path)})
    failpoint(STEP)
    (tmp_path / STEP).write_text("error")
    with pytest.raises(OSError, match="Input/output error"):
        failpoint(STEP)
    failpoint(STEP)
    assert [path.name for path in tmp_path.iterdir()] == [f"{STEP}.fired"]


@pytest.mark.parametrize(("action", "status"), [("kill", -9), ("exit", EXIT_STATUS)])
def test_a_process_ends_where_it_is(action: str, status: int) -> None:
    program = (
        "from dicom_node.failpoint import arm_failpoints, failpoint\n"
        f"arm_failpoints({{'{VARIABLE}': '{STEP}={action}'}})\n"
        f"try:\n    failpoint('{STEP}')\nfinally:\n    print('went on')"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (status, b"")


@pytest.mark.parametrize(
    "text",
    ["score.after_clam=kill", f"{STEP}=kil", f"{STEP}=kill:3", f"{STEP}=error:EWRONG",
     f"{STEP}=sleep", f"{STEP}=fill:1.5", f"{STEP}=kill@0", "/no/such/folder"],
)  # fmt: skip
def test_what_does_not_exist_is_refused_at_the_start(text: str) -> None:
    with pytest.raises(ConfigError, match=VARIABLE):
        arm_failpoints({VARIABLE: text})
