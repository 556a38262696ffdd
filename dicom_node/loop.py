"""The loop of every stage: step, rest when idle, wait out what is transient."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from dicom_node.errors import Transient

IDLE_SECONDS = 0.2
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 10.0

_log = structlog.get_logger()


def run_loop(name: str, step: Callable[[], bool], stop: threading.Event) -> None:
    """Call `step` until `stop` is set.

    Parameters
    ----------
    step
        Does one piece of work; returns whether there was any. A `Transient` error (database gone,
        disk full) pauses the loop, longer each time; any other error ends it: the supervisor
        starts the process again.
    """
    pause = FIRST_PAUSE_SECONDS
    while not stop.is_set():
        try:
            busy = step()
        except Transient as error:
            _log.warning("stage paused", action="stage_paused", stage=name, error=str(error))
            stop.wait(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
            continue
        pause = FIRST_PAUSE_SECONDS
        if not busy:
            stop.wait(IDLE_SECONDS)
