"""An image that was answered with success is never lost."""

from __future__ import annotations

import re
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
from pydicom import dcmread

from dicom_node.deliver.dimse import SendOutcome, send_files
from dicom_node.errors import DestinationUnavailable
from dicom_node.store.inbox import scan

# A P-DATA-TF PDU (PS3.8 9.3.5) as strace prints its first byte.
_ANSWER = re.compile(r'sendto\(\d+<[^>]*>, "\\4')
_CALL = re.compile(r"^(\d+) +(.*)$")


def calls_in_order_of_completion(trace: str) -> list[str]:
    """Join what strace -f prints in two pieces when threads interleave."""
    calls, unfinished = [], {}
    for line in trace.splitlines():
        match = _CALL.match(line)
        if match is None:
            continue
        thread, call = match.groups()
        if call.endswith("<unfinished ...>"):
            unfinished[thread] = call.removesuffix("<unfinished ...>")
        elif "resumed>" in call:
            calls.append(unfinished.pop(thread, "") + call.split("resumed>", 1)[1])
        else:
            calls.append(call)
    return calls


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_file_and_folders_are_durable_before_each_answer(
    spawn_receiver, series, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    strace = ("strace", "-f", "-y", "-e", "trace=fsync,rename,sendto,mkdir", "-o", str(trace))
    process, node = spawn_receiver(prefix=strace)
    outcomes: list[SendOutcome] = []
    send_files(node, "SENDER", series(3), lambda _, outcome: outcomes.append(outcome))
    assert outcomes == [SendOutcome(0)] * 3
    process.communicate()
    steps = []
    for call in calls_in_order_of_completion(trace.read_text()):
        if _ANSWER.match(call):
            steps.append("answer")
        elif match := re.match(r"fsync\(\d+<(.*)>\)\s*= 0", call):
            path = Path(match[1])
            steps.append(
                "sync file"
                if path.suffix in {".part", ".dcm"}
                else "sync inbox"
                if path.name == "inbox"
                else "sync folder"
            )
        elif re.match(r'rename\("[^"]*\.part", "[^"]*\.dcm"\)\s*= 0', call):
            steps.append("rename")
        elif re.match(r'mkdir\("[^"]*/inbox/', call):
            steps.append("make folder")
    first = steps.index("make folder")
    one = ["sync file", "rename", "sync folder", "answer"]
    assert steps[first : first + 14] == ["make folder", "sync inbox", *one * 3]


def test_kill_minus_nine_loses_nothing_that_was_acknowledged(
    spawn_receiver, series, home: Path, start_receiver
) -> None:
    process, node = spawn_receiver()
    paths = series(60)
    outcomes: dict[Path, SendOutcome] = {}

    def on_result(path: Path, outcome: SendOutcome) -> None:
        outcomes[path] = outcome
        if len(outcomes) == 7:
            threading.Timer(0.03, process.send_signal, [signal.SIGKILL]).start()

    send_files(node, "SENDER", paths, on_result)
    acknowledged = {dcmread(path).SOPInstanceUID for path in paths if outcomes[path].delivered}
    assert 7 <= len(acknowledged) < 60, "the receiver has to die in the middle"
    refused = [outcome.error for outcome in outcomes.values() if not outcome.delivered]
    assert all(isinstance(error, DestinationUnavailable) for error in refused)
    assert len(outcomes) == 60
    (listing,) = scan(home / "inbox")
    assert listing.ended is None
    stored = [dcmread(path) for path in listing.files]  # whole, every one of them
    assert acknowledged <= {dataset.SOPInstanceUID for dataset in stored}
    assert all(len(dataset.PixelData) == 128 * 128 * 2 for dataset in stored)

    start_receiver()
    assert [listing.ended for listing in scan(home / "inbox")] == ["aborted"]


def test_a_second_receiver_shares_the_port_and_leaves_living_folders_alone(
    start_receiver, spawn_receiver, series, home: Path, wait_for_endings
) -> None:
    _, node = start_receiver()
    paths = series(24)
    reached, go_on = threading.Event(), threading.Event()

    def pause(_: Path, outcome: SendOutcome) -> None:
        assert outcome.delivered
        reached.set()
        go_on.wait(20)

    slow = threading.Thread(target=send_files, args=(node, "SLOW", paths[:2], pause))
    slow.start()
    outcomes: list[SendOutcome] = []
    assert reached.wait(10)
    spawn_receiver(port=node.port)
    assert [listing.ended for listing in scan(home / "inbox")] == [None]
    for path in paths[2:]:
        send_files(node, "SENDER", [path], lambda _, outcome: outcomes.append(outcome))
    go_on.set()
    slow.join()
    assert outcomes == [SendOutcome(0)] * 22
    listings = wait_for_endings(23)
    assert sum(len(listing.files) for listing in listings) == 24
    owners = {listing.folder.name.split("-")[1] for listing in listings}
    assert len(owners) == 2, "both processes get connections"


def test_receiving_needs_nothing_but_the_inbox(start_receiver, series, home: Path) -> None:
    _, node = start_receiver()
    outcomes: list[SendOutcome] = []
    send_files(node, "SENDER", series(1), lambda _, outcome: outcomes.append(outcome))
    assert outcomes == [SendOutcome(0)]
    assert [path.name for path in home.iterdir()] == ["inbox"]


def test_stop_lets_an_open_association_finish(start_receiver, series, wait_for_endings) -> None:
    receiver, node = start_receiver()
    stopper = threading.Thread(target=receiver.stop)
    outcomes: list[SendOutcome] = []

    def on_result(_: Path, outcome: SendOutcome) -> None:
        outcomes.append(outcome)
        if len(outcomes) == 1:
            stopper.start()
            time.sleep(0.3)  # the port is closed by now

    send_files(node, "SENDER", series(4), on_result)
    assert outcomes == [SendOutcome(0)] * 4
    stopper.join(5)
    assert not stopper.is_alive()
    (listing,) = wait_for_endings(1)
    assert (listing.ended, len(listing.files)) == ("released", 4)
