"""A process that scores is ended when a job takes too long or too much; each in a real process."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from dicom_node.guard import EXIT_STATUS, memory_limit
from dicom_node.process import how_it_ended

SCRIPT = """
import sys, threading, time, ctypes
from types import SimpleNamespace
from dicom_node import guard
from dicom_node.domain.jobs import JobStage
from dicom_node.process import memory_of

guard.STUCK_SECONDS = 0.5

def condemn(blamed, how, peak):
    print(f"jobs {[job.id for job in blamed]}: {how}; {peak}", flush=True)

def job(number):
    return SimpleNamespace(id=number, token=f"t{number}", stage=JobStage.REPORT)

def watcher(seconds, extra_bytes):
    return guard.JobGuard(guard.JobLimits(seconds, memory_of() + extra_bytes), condemn)

def hold(seconds, extra_bytes):
    return watcher(seconds, extra_bytes).watch(job(7))

def fill():
    held = []
    while True:
        held.append(bytearray(10**7))
        time.sleep(0.01)

"""
BEHAVED = """
with hold(0.5, 10**9):
    pass
time.sleep(1.5)
print("alive")
"""
SLOW = "with hold(0.3, 10**9): time.sleep(60)"
GREEDY = "with hold(60, 10**8): fill()"
BESIDE = """
guard_of_all = watcher(SECONDS, 10**8)

def neighbour():
    with guard_of_all.watch(job(8)):
        time.sleep(60)

threading.Thread(target=neighbour, daemon=True).start()
time.sleep(1)
with guard_of_all.watch(job(7)):
    fill() if SECONDS == 60 else time.sleep(60)
"""
TURNS_OF_ONE_TIMER = """
of_all = watcher(1.0, 10**9)
with of_all.watch(job(7)):
    with of_all.watch(job(8)):
        pass
    ctypes.PyDLL(None).sleep(60)
"""
STUCK = "with hold(0.3, 10**9): ctypes.PyDLL(None).sleep(60)  # keeps the interpreter's lock"


def run(body: str) -> tuple[int, str, float]:
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT + body],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    return done.returncode, done.stdout, time.monotonic() - started


def test_a_job_within_its_limits_is_left_alone_and_so_is_what_follows() -> None:
    assert run(BEHAVED)[:2] == (0, "alive\n")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (SLOW, "jobs [7]: time limit of 0.3 s (scoring.job_timeout) exceeded; "),
        (GREEDY, "(scoring.job_memory_bytes) exceeded; "),
    ],
    ids=["slow", "greedy"],
)
def test_a_job_beyond_a_limit_ends_the_process_after_the_evidence(body: str, told: str) -> None:
    code, said, _ = run(body)
    assert code == EXIT_STATUS
    assert told in said
    assert int(said.rsplit(" ", 1)[1]) > 10_000_000


def test_memory_is_blamed_on_every_job_of_the_process_and_time_on_its_own_alone() -> None:
    code, said, _ = run(BESIDE.replace("SECONDS", "60"))
    assert code == EXIT_STATUS
    assert "\njobs [8, 7]: memory limit of " in said
    assert " exceeded by one of jobs 8, 7; " in said

    code, said, _ = run(BESIDE.replace("SECONDS", "3"))
    assert code == EXIT_STATUS
    assert "\njobs [8]: time limit of 3 s" in said


def test_a_job_that_ends_leaves_the_kernels_timer_to_the_one_beside_it() -> None:
    code, said, seconds = run(TURNS_OF_ONE_TIMER)
    assert (code, said) == (-signal.SIGALRM, "")
    assert seconds < 30


def test_a_job_that_holds_the_interpreter_is_ended_by_the_kernel() -> None:
    code, said, seconds = run(STUCK)
    assert (code, said) == (-signal.SIGALRM, "")
    assert seconds < 30
    assert "time limit inside native code" in how_it_ended(code)


def test_the_end_of_a_process_is_told_in_words() -> None:
    assert how_it_ended(-9) == (
        "its process was killed by signal 9 (SIGKILL), as the kernel does when memory runs out"
    )
    assert how_it_ended(-11) == "its process was killed by signal 11 (SIGSEGV)"
    assert how_it_ended(71) == "its process ended with status 71"


def test_without_a_limit_a_share_of_the_machine_is_the_limit() -> None:
    assert memory_limit(123) == 123
    assert 10**8 < memory_limit(0) < 10**14
