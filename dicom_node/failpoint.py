"""Failpoints: named steps at which a test makes one of the node's own processes die, fail or wait.

Off, as always outside of tests, a step costs one look at an empty slot. On, by an environment
variable that each stage reads when it starts:

    DICOM_NODE_FAILPOINTS=score.after_claim=kill@2,deliver.after_send=error
        From now on: the second time that this process claims a job it kills itself; every object
        that was sent gives an error.
    DICOM_NODE_FAILPOINTS=/a/folder
        Steps of running processes: a file `score.after_claim` that holds `kill` in this folder
        acts once, in whichever process gets there first, and is `score.after_claim.fired` then.

Actions: `kill` (SIGKILL, as the kernel does when memory runs out), `exit` (status 70),
`error[:ERRNO]` (an OSError, EIO unless named), `sleep:SECONDS`, `fill:BYTES` (takes so much memory,
a bit at a time, and gives it back).
"""

from __future__ import annotations

import errno
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from dicom_node.errors import ConfigError

VARIABLE: Final = "DICOM_NODE_FAILPOINTS"
EXIT_STATUS: Final = 70
_PIECE_BYTES: Final = 1 << 24
_PIECE_SECONDS: Final = 0.01
"""Slow enough for whoever watches the memory."""

STEPS: Final[Mapping[str, str]] = {
    "receive.before_fsync": "the bytes are written, nothing is durable",
    "receive.after_fsync": "the bytes are durable under the name that is never read",
    "receive.after_rename": "the file has its name, the name is not durable",
    "receive.before_answer": "the file is durable, the sender has no answer",
    "receive.before_ending": "every file is answered, the end of the association is not recorded",
    "assemble.before_link": "the header is read, the file has its inbox name alone",
    "assemble.after_link": "the file has its second name, no row",
    "assemble.before_commit": "the rows are written, not committed",
    "assemble.after_commit": "the rows are committed, the inbox names are there",
    "assemble.after_unlink": "the inbox names are gone, the association's folder is there",
    "assemble.after_complete": "the study is complete, no rule has seen it",
    "route.before_commit": "the jobs are written, not committed",
    "route.after_commit": "the jobs are committed",
    "score.after_claim": "the job is claimed, nothing is computed",
    "score.after_predict": "the prediction is computed, not stored",
    "score.after_store": "the prediction is stored, no row names it",
    "score.before_commit": "the findings are written, not committed",
    "score.after_commit": "the findings are committed",
    "report.after_claim": "the job is claimed, nothing is built",
    "report.after_build": "the objects are built, not stored",
    "report.after_store": "the objects are stored, no row names them",
    "report.before_commit": "results and deliveries are written, not committed",
    "report.after_commit": "results and deliveries are committed",
    "deliver.after_claim": "the deliveries are claimed, nothing is sent",
    "deliver.after_send": "the destination has the object, no row says so",
    "deliver.after_commit": "the row says that the destination has the object",
}
"""Every step, and what has been done when a process gets there."""


@dataclass(frozen=True, slots=True)
class Action:
    """What happens at a step, from its `hit`-th time only (None: every time)."""

    kind: str
    argument: str | None = None
    hit: int | None = None

    def run(self) -> None:
        """Do it; returns after `sleep` and `fill` alone."""
        if self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
            signal.pause()
        elif self.kind == "exit":
            os._exit(EXIT_STATUS)
        elif self.kind == "error":
            number = getattr(errno, self.argument or "EIO")
            raise OSError(number, os.strerror(number))
        elif self.kind == "fill":
            _fill(int(self.argument or 0))
        else:
            time.sleep(float(self.argument or 0))


def _fill(size: int) -> None:
    held: list[bytearray] = []
    while len(held) * _PIECE_BYTES < size:
        held.append(bytearray(_PIECE_BYTES))
        time.sleep(_PIECE_SECONDS)


def parse_action(text: str) -> Action:
    """Read `KIND[:ARGUMENT][@HIT]`.

    Raises
    ------
    ConfigError
        No such action, or an argument that does not fit it.
    """
    match = re.fullmatch(
        r"(kill|exit|error|sleep|fill)(?::([A-Z]+|[\d.]+))?(?:@([1-9]\d*))?", text.strip()
    )
    fits = {
        "kill": r"",
        "exit": r"",
        "error": r"([A-Z]+)?",
        "sleep": r"\d+(\.\d+)?",
        "fill": r"\d+",
    }
    if match is None or not re.fullmatch(fits[match[1]], match[2] or ""):
        raise ConfigError(
            f"{VARIABLE}: {text!r} is no action; write kill, exit, error[:ERRNO], sleep:SECONDS or "
            "fill:BYTES, each with @HIT if it is not for every time"
        )
    if match[1] == "error" and match[2] and not hasattr(errno, match[2]):
        raise ConfigError(f"{VARIABLE}: there is no error number {match[2]}")
    return Action(match[1], match[2], int(match[3]) if match[3] else None)


class Plan(Protocol):
    """What is armed."""

    def reach(self, step: str) -> None:
        """A process got to this step: act, or return."""


@dataclass(slots=True)
class ListedPlan:
    """Actions fixed at the start of the process; counts its hits."""

    actions: Mapping[str, Action]
    hits: Counter[str] = field(default_factory=Counter)

    def reach(self, step: str) -> None:
        """Act on the time that the action names, or on every one."""
        action = self.actions.get(step)
        if action is None:
            return
        self.hits[step] += 1
        if action.hit in {None, self.hits[step]}:
            action.run()


@dataclass(frozen=True, slots=True)
class FolderPlan:
    """Actions that come as files while processes run; each acts once among them all."""

    folder: Path

    def reach(self, step: str) -> None:
        """Take the step's file, if there is one, and act."""
        armed = self.folder / step
        try:
            action = parse_action(armed.read_text(encoding="utf-8"))
            armed.rename(armed.with_name(f"{step}.fired"))
        except FileNotFoundError:
            return  # not armed, or another process was quicker
        action.run()


def parse_plan(text: str) -> Plan:
    """Read the value of the environment variable.

    Raises
    ------
    ConfigError
        A step or an action that does not exist; a folder that does not.
    """
    if "=" not in text:
        folder = Path(text)
        if not folder.is_dir():
            raise ConfigError(f"{VARIABLE}: {text!r} is neither STEP=ACTION nor a folder")
        return FolderPlan(folder)
    actions = {}
    for item in text.split(","):
        step, _, action = item.strip().partition("=")
        if step not in STEPS:
            raise ConfigError(f"{VARIABLE}: there is no step {step!r}; see dicom_node/failpoint.py")
        actions[step] = parse_action(action)
    return ListedPlan(actions)


@dataclass(slots=True)
class _Slot:
    plan: Plan | None = None


_slot = _Slot()


def arm_failpoints(environment: Mapping[str, str] = os.environ) -> bool:
    """Arm what the environment asks for, else nothing; every stage calls this as it starts.

    Returns
    -------
    bool
        Whether anything is armed: no process that serves patients may have it.
    """
    text = environment.get(VARIABLE, "")
    _slot.plan = parse_plan(text) if text else None
    return _slot.plan is not None


def failpoint(step: str) -> None:
    """Mark that a process got to this step; does nothing unless it is armed."""
    if _slot.plan is not None:
        _slot.plan.reach(step)
