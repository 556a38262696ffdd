"""Ten times the rate that the node can keep up with, for SOAK_OVERLOAD_SECONDS (60).

Not collected by `make test`; see `make soak`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.harness import wait_for
from tests.e2e.studies import radiograph
from tests.faults.crash import films, study_uids
from tests.faults.overload import (
    STATION,
    URGENT_RULE,
    Pressure,
    resident_bytes,
    scored_after,
)
from tests.faults.stages import STAGES, StageKeeper, radiograph_routes
from tests.faults.tally import Archive, print_matrix, settled, tally

SECONDS = float(os.environ.get("SOAK_OVERLOAD_SECONDS", "60"))
FACTOR = 10
MEASURED = 20  # studies from which the sustainable rate is taken
ASSOCIATIONS = 4
SENDERS = 12
MEMORY_GROWTH = 64 << 20  # bytes of one stage between the tenth of the backlog and its end

pytestmark = [pytest.mark.dcmtk, pytest.mark.slow, pytest.mark.timeout(0)]


def test_ten_times_the_sustainable_rate(
    keep_stages: Callable[..., StageKeeper], counting_archive: Archive, tmp_path: Path
) -> None:
    keeper = keep_stages(
        send_to=[counting_archive.scp.peer],
        routes_file=str(radiograph_routes(tmp_path / "routes.yaml", urgent=URGENT_RULE)),
        dicom={"max_associations": ASSOCIATIONS},
    )
    sent = tmp_path / "sent"
    pressure = Pressure(keeper)

    def send(files: list[Path], senders: int) -> None:
        pressure.send(files, senders=senders, deadline=time.monotonic() + 10 * SECONDS)

    warm = films(sent, "warm", MEASURED)
    started = time.monotonic()
    send(warm, 2)
    wait_for(lambda: settled(keeper.database, study_uids(warm)), 300, "the first are delivered")
    rate = MEASURED / (time.monotonic() - started)

    backlog = films(sent, "backlog", int(FACTOR * rate * SECONDS))
    urgent = radiograph(sent, "urgent", StationName=STATION)
    before = resident_bytes(keeper)
    started = time.monotonic()
    flood = threading.Thread(target=send, args=(backlog, SENDERS))
    flood.start()
    most = dict(before)
    tenth: dict[str, int] = {}
    while flood.is_alive():
        now = resident_bytes(keeper)
        most = {stage: max(most[stage], now[stage]) for stage in STAGES}
        if not tenth and time.monotonic() - started > SECONDS / 10:
            tenth = now
        time.sleep(0.5)
    flood.join()
    taken = time.monotonic() - started
    send([urgent], 1)
    files = [*warm, *backlog, urgent]
    wait_for(lambda: settled(keeper.database, study_uids(files)), 60 + 3 * len(files) / rate, "all")
    drained = time.monotonic() - started

    row = tally("overload", 1, keeper.database, keeper.config.store_dir, counting_archive, files)
    (urgent_uid,) = study_uids([urgent])
    overtaken = scored_after(keeper, urgent_uid)
    after = resident_bytes(keeper)
    print_matrix("Overload", [row])
    print(
        f"\nsustainable {rate:.2f} studies/s; {len(backlog)} sent in {taken:.0f} s "
        f"({len(backlog) / taken:.1f}/s, {len(backlog) / taken / rate:.1f} times that); drained "
        f"after {drained:.0f} s; the urgent one, sent last, overtook {overtaken}; answers "
        f"{pressure.answers}"
    )
    print("\n| stage | RSS before | most under load | after |\n|---|---|---|---|")
    for stage in STAGES:
        figures = (before[stage], most[stage], after[stage])
        print(f"| {stage} | " + " | ".join(f"{value / 2**20:.0f} MiB" for value in figures) + " |")
    assert row.clean
    assert pressure.answers["0x0000"] == len(files)
    assert all(
        "takes no more associations" in said for said in pressure.answers if said != "0x0000"
    )
    assert overtaken >= len(backlog) // 2
    assert keeper.deaths == []
    grown = {stage: after[stage] - (tenth or before)[stage] for stage in STAGES}
    assert all(growth < MEMORY_GROWTH for growth in grown.values()), grown
