"""A disk that is full to the last byte and a store that is read-only, on real mounts.

Needs the right to mount (root): skipped without. Not collected by `make test`; see `make soak`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.e2e.harness import wait_for
from tests.faults.crash import CrashMatrix, films, study_uids
from tests.faults.overload import Pressure
from tests.faults.stages import StageKeeper
from tests.faults.tally import Archive, Row, print_matrix, settled, tally

MEGABYTE = 1 << 20
DISK_BYTES = 256 * MEGABYTE
FLOOR_BYTES = 16 * MEGABYTE

pytestmark = [pytest.mark.dcmtk, pytest.mark.slow, pytest.mark.timeout(900)]


@contextmanager
def mounted(*words: str, at: Path) -> Iterator[None]:
    """A mount for the length of the block."""
    done = subprocess.run(["mount", *words, str(at)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting is not permitted: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(at)], check=True)


def usage(home: Path) -> dict[str, int]:
    """Bytes by what lies directly under the home."""
    return {
        path.name: sum(item.stat().st_size for item in [path, *path.rglob("*")] if item.is_file())
        for path in home.iterdir()
        if path.name != "models"
    }


def fill(ballast: Path) -> None:
    """Take every free page of a disk."""
    with ballast.open("wb") as file:
        while free := shutil.disk_usage(ballast.parent).free:
            with suppress(OSError):  # somebody else was quicker
                os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), free)
    assert not shutil.disk_usage(ballast.parent).free


def count(
    what: str, keeper: StageKeeper, archive: Archive, files: list[Path], seconds: float
) -> Row:
    wait_for(lambda: settled(keeper.database, study_uids(files)), seconds, "all delivered")
    row = tally(what, 1, keeper.database, keeper.config.store_dir, archive, files)
    print_matrix("Disk", [row])
    return row


def test_a_full_disk_refuses_and_recovers(
    keep_stages: Callable[..., StageKeeper], counting_archive: Archive, tmp_path: Path
) -> None:
    home = tmp_path / "small"
    home.mkdir()
    with mounted("-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", at=home):
        keeper = keep_stages(
            home, send_to=[counting_archive.scp.peer], dicom={"minimum_free_bytes": FLOOR_BYTES}
        )
        try:
            ballast = home / "ballast"
            first = films(tmp_path / "sent", "before", 4)
            pressure = Pressure(keeper)
            pressure.send(first, senders=2, deadline=time.monotonic() + 60)
            print(usage(home))

            # Not one byte is left, while these four are on their way through the stages.
            fill(ballast)
            late = films(tmp_path / "sent", "during", 4)
            free = threading.Timer(15, ballast.unlink)
            free.start()
            pressure.send(late, senders=2, deadline=time.monotonic() + 60)
            free.join()

            row = count("disk full for 15 s", keeper, counting_archive, [*first, *late], 120)
            print(f"answers: {pressure.answers}; processes that died: {keeper.deaths}")
            assert row.clean
            assert pressure.answers["0x0000"] == 8
            assert sum(n for said, n in pressure.answers.items() if "A700" in said) >= 4
            assert keeper.quarantined() == 0
        finally:
            keeper.stop()


def test_a_read_only_store_delays_and_that_is_all(
    crash_matrix: CrashMatrix, counting_archive: Archive
) -> None:
    keeper = crash_matrix.keeper
    store = keeper.config.store_dir
    files = films(crash_matrix.folder, "read-only", 4)
    with mounted("--bind", str(store), at=store):
        subprocess.run(["mount", "-o", "remount,bind,ro", str(store)], check=True)
        pressure = Pressure(keeper)
        pressure.send(files, senders=2, deadline=time.monotonic() + 30)
        time.sleep(15)
        assert not settled(keeper.database, study_uids(files))
    row = count("store read-only for 15 s", keeper, counting_archive, files, 120)
    print(f"answers: {pressure.answers}; processes that died: {keeper.deaths}")
    assert row.clean
    assert pressure.answers == {"0x0000": 4}, "receiving goes on: the inbox can be written"
    assert keeper.deaths == []
