"""A sender that sends too fast waits for its answers; it loses nothing, and nobody else waits.

Senders are DCMTK's `storescu`.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydicom import dcmread

from dicom_node.config import NodeConfig
from dicom_node.config_destinations import DestinationConfig
from dicom_node.config_network import DicomConfig
from dicom_node.receive.scp import Receiver
from dicom_node.store.inbox import scan

pytestmark = pytest.mark.dcmtk


@dataclass
class Sender:
    """One `storescu` in a thread, with how long it took."""

    tool: object
    node: DestinationConfig
    title: str
    paths: list[Path]
    seconds: float = 0.0
    thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._send)

    def _send(self) -> None:
        started = time.monotonic()
        place = ("127.0.0.1", str(self.node.port))
        ended = self.tool("storescu", "-aet", self.title, "-aec", "NODE", *place, *self.paths)
        self.seconds = time.monotonic() - started
        assert ended.returncode == 0, ended.stderr

    def __enter__(self) -> Sender:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.thread.join(60)
        assert self.seconds, f"{self.title} has failed or not ended"


def kept(home: Path) -> set[str]:
    files = [path for listing in scan(home / "inbox") for path in listing.files]
    uids = {dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in files}
    assert len(uids) == len(files)
    return uids


def uids_of(paths: list[Path]) -> set[str]:
    return {dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in paths}


def test_a_fast_sender_is_slowed_down_and_another_is_not(
    start_receiver, tool, series, home: Path, wait_for_endings
) -> None:
    rate = 5
    limited = {"calling_ae_title": "FLOOD", "images_per_second": rate}
    _, node = start_receiver(peers=[limited, {"calling_ae_title": "URGENT"}])
    paths = series(25)
    with (
        Sender(tool, node, "FLOOD", paths[:20]) as flood,
        Sender(tool, node, "URGENT", paths[20:]) as urgent,
    ):
        pass
    wait_for_endings(2)
    assert 19 / rate <= flood.seconds < 2 * 19 / rate
    assert urgent.seconds < flood.seconds / 2
    assert kept(home) == uids_of(paths)


def test_the_rate_is_that_of_a_sender_over_all_its_associations(
    start_receiver, tool, series, home: Path, wait_for_endings
) -> None:
    _, node = start_receiver(images_per_second=8)
    paths = series(16)
    with (
        Sender(tool, node, "ANY", paths[:8]) as first,
        Sender(tool, node, "OTHER", paths[8:]) as second,  # a title is what a stranger says it is
    ):
        pass
    wait_for_endings(2)
    assert max(first.seconds, second.seconds) >= 14 / 8
    assert kept(home) == uids_of(paths)


def test_a_wait_that_is_longer_than_a_peer_may_be_idle_does_not_end_the_association(
    start_receiver, tool, series, home: Path, wait_for_endings
) -> None:
    _, node = start_receiver(images_per_second=0.6, idle_timeout=1)
    paths = series(4)
    with Sender(tool, node, "SLOW", paths):
        pass
    assert {listing.ended for listing in wait_for_endings(1)} == {"released"}
    assert kept(home) == uids_of(paths)


def test_a_receiver_that_stops_lets_nobody_wait(home: Path, tool, series) -> None:
    dicom = DicomConfig(port=0, minimum_free_bytes=0, images_per_second=0.1)
    receiver = Receiver(NodeConfig(home=home, ae_title="NODE", dicom=dicom))
    node = DestinationConfig(ae_title="NODE", host="127.0.0.1", port=receiver.start())
    paths = series(5)
    with Sender(tool, node, "SENDER", paths) as sender:
        while len(kept(home)) < 2:
            time.sleep(0.02)
        receiver.stop()
    assert sender.seconds < 8
    assert kept(home) == uids_of(paths)
