"""Outboxes and scripted archives, ended with their test."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from dicom_node.store.database import open_database
from tests.faults.destinations.outbox import Outbox
from tests.faults.destinations.peers import Archive


@pytest.fixture
def archive() -> Iterator[Archive]:
    """A scripted archive, listening."""
    peer = Archive()
    peer.start()
    yield peer
    peer.stop()


@pytest.fixture
def make_outbox(tmp_path: Path) -> Iterator[Callable[..., Outbox]]:
    """A function that makes an outbox for destinations."""
    with ExitStack() as stack:

        def make(destinations: Mapping[str, Mapping[str, Any]], **settings: Any) -> Outbox:
            database = open_database(f"sqlite:///{tmp_path / 'node.db'}")
            database.upgrade()
            stack.callback(database.close)
            return Outbox(database, tmp_path / "home", destinations, **settings)

        yield make
