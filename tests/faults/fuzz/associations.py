"""Mutated conversations with a live receiver."""

from __future__ import annotations

import random
import socket
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.faults.fuzz.mutate import mutate
from tests.faults.fuzz.seeds import conversations
from tests.faults.peers.attacks import new_uid
from tests.faults.peers.peer import Peer, data_set
from tests.faults.peers.servers import Server, Use, start_node, wait_until_calm

_LISTEN_SECONDS: Final = 0.05
_CHECK_EVERY: Final = 100
_WARM_UP: Final = 500


@dataclass
class Report:
    """What a campaign did, and what the receiver used before and after it."""

    runs: int = 0
    honest: int = 0
    failures: list[str] = field(default_factory=list)
    before: Use | None = None
    after: Use | None = None


def campaign(runs: int, seconds: float, seed: int) -> Report:
    """Talk wrongly `runs` times; in between a right sender must be served."""
    chance, begin, report = random.Random(seed), conversations(), Report()
    deadline = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = start_node(folder)
        try:
            while report.runs < runs and time.monotonic() < deadline:
                _talk(server.port, mutate(chance, chance.choice(begin), begin))
                report.runs += 1
                if report.runs % _CHECK_EVERY == 0:
                    _check(server, report)
                if report.runs == _WARM_UP:
                    report.before = wait_until_calm(server, Use(0, 3, 4), seconds=5)
            report.after = wait_until_calm(server, report.before or Use(0, 3, 4))
        finally:
            server.stop()
        _, found, trace = (folder / "log").read_text().partition("Traceback")
        if found:
            report.failures.append(trace[:3000])
    return report


def _talk(port: int, content: bytes) -> None:
    """Say it all, hang up, and listen for as long as a right answer would take."""
    with suppress(OSError), Peer(port, seconds=_LISTEN_SECONDS) as peer:
        peer.send(content)
        peer.connection.shutdown(socket.SHUT_WR)
        while peer.connection.recv(4096):
            pass


def _check(server: Server, report: Report) -> None:
    uid = new_uid()
    try:
        with Peer(server.port) as peer:
            answer = peer.associate().store(uid, data_set(uid))
    except OSError as error:
        answer = str(error)
    if answer == "status 0x0000":
        report.honest += 1
    else:
        report.failures.append(f"after {report.runs}: a right sender got {answer}")
