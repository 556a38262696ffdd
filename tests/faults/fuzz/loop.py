"""A small coverage-guided fuzzer: what reaches new lines of the node joins the corpus.

It runs in a process of its own, since a decoder written in C may take its process along: the input
at hand lies in a file before it is tried.
"""

from __future__ import annotations

import multiprocessing
import random
import re
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from types import FrameType
from typing import Any, Final

from tests.faults.fuzz.mutate import mutate
from tests.faults.fuzz.targets import TARGETS

_HANG_SECONDS: Final = 10
_GUIDED_EVERY: Final = 10  # tracing costs a factor of five: the other runs go without
_PACKAGE: Final = f"{Path(__file__).resolve().parents[3] / 'dicom_node'}/"


class _Hang(BaseException):
    """The input has taken too long."""


@dataclass
class Report:
    """What a campaign did.

    Attributes
    ----------
    found
        Where it failed: last line of the node's or the library's code and the error, by input.
    """

    runs: int = 0
    lines: int = 0
    corpus: int = 0
    grown_kb: int = 0
    found: dict[str, bytes] = field(default_factory=dict)


def campaign(target: str, *, runs: int, seconds: float, seed: int) -> Report:
    """Fuzz one target; a process that dies is reported, and another one goes on."""
    report = Report()
    deadline = time.monotonic() + seconds
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        while report.runs < runs and time.monotonic() < deadline:
            receiver, sender = context.Pipe(duplex=False)
            left = (runs - report.runs, deadline - time.monotonic(), seed + report.runs)
            worker = context.Process(target=_work, args=(target, folder, sender, *left))
            worker.start()
            sender.close()
            _listen(receiver, report)
            worker.join()
            if worker.exitcode:
                died = f"process ended with {worker.exitcode}"
                report.found[died] = (folder / "current").read_bytes()
    return report


def _listen(receiver: Any, report: Report) -> None:
    try:
        while True:
            kind, *values = receiver.recv()
            if kind == "found":
                report.found.setdefault(values[0], values[1])
            else:
                runs, report.lines, report.corpus, grown = values
                report.runs += runs
                report.grown_kb = max(report.grown_kb, grown)
    except EOFError:
        return


def _work(target: str, folder: Path, sender: Any, runs: int, seconds: float, seed: int) -> None:
    chance = random.Random(seed)
    run, corpus = TARGETS[target].run, list(TARGETS[target].begin())
    lines = _Lines()
    deadline = time.monotonic() + seconds
    signal.signal(signal.SIGALRM, _too_long)
    told, resident = 0, 0
    for number in range(1, runs + 1):
        content = mutate(chance, chance.choice(corpus), corpus)
        (folder / "current").write_bytes(content)
        guided = number % _GUIDED_EVERY == 0
        failure = attempt(run, content, folder, lines if guided else None)
        if failure is not None:
            sender.send(("found", failure, content))
        if guided and lines.grew():
            corpus.append(content)
        if number == 1000:
            resident = _resident_kb()
        if number == runs or number % 500 == 0:
            grown = _resident_kb() - resident if resident else 0
            sender.send(("progress", number - told, len(lines.seen), len(corpus), grown))
            told = number
            if time.monotonic() > deadline:
                break


def attempt(
    run: Callable[[bytes, Path], None], content: bytes, folder: Path, lines: _Lines | None = None
) -> str | None:
    """Run once; None: as documented, else where and how it failed."""
    signal.alarm(_HANG_SECONDS)
    try:
        if lines is not None:
            sys.settrace(lines.trace)
        run(content, folder)
    except _Hang as error:
        return _where(error)
    except Exception as error:  # noqa: BLE001 - this is what is looked for
        return _where(error)
    finally:
        sys.settrace(None)
        signal.alarm(0)
    return None


class _Lines:
    """The lines of the node's own code that have been reached."""

    def __init__(self) -> None:
        self.seen: set[tuple[str, int]] = set()
        self._known = 0

    def grew(self) -> bool:
        """Whether there are new ones since the last time."""
        grown, self._known = len(self.seen) > self._known, len(self.seen)
        return grown

    def trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        """For `sys.settrace`."""
        if not frame.f_code.co_filename.startswith(_PACKAGE):
            return None
        if event == "line":
            self.seen.add((frame.f_code.co_filename, frame.f_lineno))
        return self.trace


def _too_long(*_: Any) -> None:
    raise _Hang


def _where(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if frame.filename.startswith(_PACKAGE)] or frames
    place = f"{Path(ours[-1].filename).name}:{ours[-1].name}"
    return f"{place}: {type(error).__name__} in {Path(frames[-1].filename).name}"


def _resident_kb() -> int:
    found = re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(found[1]) if found else 0


def minimised(target: str, content: bytes, failure: str, folder: Path) -> bytes:
    """Cut out whatever is not needed for the same failure."""
    run = TARGETS[target].run
    piece = len(content) // 2
    while piece:
        start = 0
        while start < len(content):
            shorter = content[:start] + content[start + piece :]
            if attempt(run, shorter, folder) == failure:
                content = shorter
            else:
                start += piece
        piece //= 2
    return content


def keep(target: str, content: bytes, folder: Path) -> Path:
    """Write a finding where the regression test looks for it."""
    path = folder / f"{target}-{sha256(content).hexdigest()[:12]}.bin"
    path.write_bytes(content)
    return path
