"""Rounds of the crash matrix: arm a step, send studies, see what became of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from pydicom import dcmread

from tests.e2e.harness import wait_for
from tests.e2e.studies import radiograph
from tests.faults.stages import StageKeeper
from tests.faults.tally import Archive, Row, send_until_acknowledged, settled, tally

STUDIES_A_ROUND = 2
ROUND_SECONDS = 60.0


def study_uids(files: Sequence[Path]) -> list[str]:
    return [dcmread(path, stop_before_pixels=True).StudyInstanceUID for path in files]


def films(folder: Path, seed: str, count: int = STUDIES_A_ROUND) -> list[Path]:
    """So many studies of one film each."""
    return [radiograph(folder, f"{seed}-{number}") for number in range(count)]


class CrashMatrix:
    """One node and one archive, and every fault in turn."""

    def __init__(self, keeper: StageKeeper, archive: Archive, folder: Path) -> None:
        self.keeper = keeper
        self.archive = archive
        self.folder = folder
        self.sent: list[Path] = []

    def kill(self, steps: Sequence[str], rounds: int) -> Row:
        """Kill whichever process gets to each of the steps, once a round."""

        def fault() -> None:
            for step in steps:
                self.keeper.arm(step)

        in_receiver = any(step.startswith("receive.") for step in steps)
        row = self.fault(" + ".join(steps), rounds, fault, after_first=in_receiver)
        wait_for(lambda: all(map(self.keeper.fired, steps)), 10, f"{steps} are reached")
        return row

    def fault(
        self,
        what: str,
        rounds: int,
        fault: Callable[[], threading.Thread | None],
        *,
        after_first: bool = False,
        seconds: float = ROUND_SECONDS,
    ) -> Row:
        """Let a fault happen once a round, while studies are sent, and wait for their results.

        Parameters
        ----------
        fault
            Makes it happen, or starts a thread that does: the round lasts until that ends.
        after_first
            The fault comes when the first object of the association has been acknowledged.
        """
        sent: list[Path] = []
        for number in range(rounds):
            files = films(self.folder, f"{what}-{len(self.sent)}-{number}")
            threads: list[threading.Thread | None] = []
            if not after_first:
                threads.append(fault())

            def on_success(count: int, threads: list[threading.Thread | None] = threads) -> None:
                if after_first and count == 1:
                    threads.append(fault())

            send_until_acknowledged(self.keeper.node, files, on_success=on_success)
            sent += files
            for thread in threads:
                if thread is not None:
                    thread.join()
            self.wait(files, seconds)
        self.sent += sent
        return tally(
            what, rounds, self.keeper.database, self.keeper.config.store_dir, self.archive, sent
        )

    def wait(self, files: Sequence[Path], seconds: float = ROUND_SECONDS) -> None:
        """Wait until the studies are delivered; what is not by then counts as stuck."""
        uids = study_uids(files)
        try:
            wait_for(lambda: settled(self.keeper.database, uids), seconds, "studies delivered")
        except AssertionError:
            print(f"stuck: {self.keeper.home}")
