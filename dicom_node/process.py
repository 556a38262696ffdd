"""What every process of the node does alike: signals, the parent's death, and reporting ready."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

EXIT_SECOND_SIGNAL = 130


def utc_now() -> datetime:
    """The clock that the composition root hands to every stage."""
    return datetime.now(UTC)


def keep_files_private() -> None:
    """Images, results, identities: what this process makes from now on is for its user alone."""
    os.umask(0o077)


def worker_name(pid: int | None = None) -> str:
    """A process of this machine among all that share the queue; None: this one."""
    return f"{socket.gethostname()}:{os.getpid() if pid is None else pid}"


@contextlib.contextmanager
def stop_on_signals(*, supervised: bool) -> Iterator[threading.Event]:
    """Yield an event that the first SIGTERM or SIGINT sets; the second ends the process at once.

    Parameters
    ----------
    supervised
        Standard input is a pipe from the supervisor: its end means that the supervisor is gone,
        and counts as the first signal.
    """
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            os._exit(EXIT_SECOND_SIGNAL)
        stop.set()

    previous = {number: signal.signal(number, on_signal) for number in _SIGNALS}
    if supervised:
        threading.Thread(target=_watch_parent, args=(stop,), daemon=True).start()
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def _watch_parent(stop: threading.Event) -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    stop.set()


def memory_of(pid: int | None = None, *, peak: bool = False) -> int | None:
    """Resident memory of a process in bytes, now or the most it ever had.

    Parameters
    ----------
    pid
        None: this process.

    Returns
    -------
    int or None
        None if the process is gone or the system does not tell (no Linux).
    """
    try:
        lines = Path(f"/proc/{pid or 'self'}/status").read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    wanted = "VmHWM:" if peak else "VmRSS:"
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(wanted)), None)


def how_it_ended(exit_code: int) -> str:
    """Say how a process ended: a negative code is the signal that killed it."""
    if exit_code >= 0:
        return f"its process ended with status {exit_code}"
    number = -exit_code
    known = number in set(signal.Signals)
    name = signal.Signals(number).name if known else "no name"
    hints = {
        signal.SIGKILL: ", as the kernel does when memory runs out",
        signal.SIGALRM: ": over its time limit inside native code",
    }
    hint = hints.get(signal.Signals(number), "") if known else ""
    return f"its process was killed by signal {number} ({name}){hint}"


def report_ready(*, supervised: bool, **facts: object) -> None:
    """Tell the supervisor (one JSON line on standard output) or a person that work can come."""
    if supervised:
        line = json.dumps({"ready": facts})
    else:
        line = " ".join(["ready", *(f"{key.replace('_', '-')}={facts[key]}" for key in facts)])
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
