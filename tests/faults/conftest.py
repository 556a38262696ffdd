"""A node whose stages may die, and the archive that counts what comes out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import StoreScp
from tests.faults.crash import CrashMatrix
from tests.faults.stages import StageKeeper
from tests.faults.tally import Archive


@pytest.fixture
def counting_archive(tmp_path: Path) -> Iterator[Archive]:
    """A running `storescp` that keeps every object it gets, however often."""
    scp = StoreScp(tmp_path / "archive")
    scp.start()
    yield Archive(scp)
    scp.stop()


@pytest.fixture
def keep_stages(tmp_path: Path) -> Iterator[Callable[..., StageKeeper]]:
    """A function that starts a node's stages with settings; all are stopped at the end."""
    with ExitStack() as stack:

        def start(home: Path | None = None, **settings: Any) -> StageKeeper:
            keeper = StageKeeper(home or tmp_path / "node", settings)
            stack.callback(keeper.stop)
            keeper.start()
            return keeper

        yield start


@pytest.fixture
def crash_matrix(
    keep_stages: Callable[..., StageKeeper], counting_archive: Archive, tmp_path: Path
) -> CrashMatrix:
    """A running node that sends to a counting archive."""
    # Attempts are counted, so a busy machine must not end the lease of a process that lives.
    keeper = keep_stages(send_to=[counting_archive.scp.peer], scoring={"lease": 30})
    return CrashMatrix(keeper, counting_archive, tmp_path / "sent")
