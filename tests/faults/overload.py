"""More studies at once than the node can score: what senders hear, and what happens to the node."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import select

from dicom_node.deliver.dimse import SendOutcome, send_files
from dicom_node.store.tables import jobs
from tests.faults.stages import STAGES, StageKeeper

STATION = "EMERGENCY"  # Station Name (0008,1010) of what is urgent
URGENT_RULE = {
    "priority": 1,
    "when": [
        {"field": "Modality", "any_of": ["CR", "DX"]},
        {"field": "StationName", "any_of": [STATION]},
    ],
}


@dataclass(slots=True)
class Pressure:
    """Senders that keep trying until every file is taken."""

    keeper: StageKeeper
    answers: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, files: Sequence[Path], *, senders: int, deadline: float) -> None:
        """Send with so many modalities at once, one association a file."""
        waiting = list(files)
        threads = [
            threading.Thread(target=self._work, args=(waiting, deadline)) for _ in range(senders)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not waiting, f"{len(waiting)} were never taken: {self.answers}"

    def _work(self, waiting: list[Path], deadline: float) -> None:
        while time.monotonic() < deadline:
            with self._lock:
                if not waiting:
                    return
                path = waiting.pop(0)
            if not self._try(path):
                with self._lock:
                    waiting.append(path)
                time.sleep(0.1)

    def _try(self, path: Path) -> bool:
        taken: list[bool] = []

        def settle(_path: Path, outcome: SendOutcome) -> None:
            said = f"0x{outcome.status:04X}" if outcome.status is not None else str(outcome.error)
            with self._lock:
                self.answers[said] = self.answers.get(said, 0) + 1
            taken.append(outcome.delivered)

        send_files(self.keeper.node, "MODALITY", [path], settle)
        return all(taken)


def resident_bytes(keeper: StageKeeper) -> dict[str, int]:
    """Resident memory of each stage (VmRSS of proc(5))."""
    found = {}
    for stage in STAGES:
        for line in Path(f"/proc/{keeper.pid(stage)}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                found[stage] = 1024 * int(line.split()[1])
    return found


def scored_after(keeper: StageKeeper, urgent: str) -> int:
    """How many studies were scored after the urgent one."""
    with keeper.database.read() as connection:
        rows = connection.execute(select(jobs.c.study_instance_uid, jobs.c.scored_at)).all()
    moment = {row.study_instance_uid: row.scored_at for row in rows}
    return sum(at is None or at > moment[urgent] for at in moment.values())
