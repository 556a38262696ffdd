"""A running node and a running archive for each test that asks for one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import Node, StoreScp, nodes_in


@pytest.fixture
def make_node(tmp_path: Path) -> Iterator[Callable[..., Node]]:
    """A function that starts a node with settings; every node is stopped at the end."""
    with nodes_in(tmp_path) as start:
        yield start


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[StoreScp]:
    """A running `storescp`."""
    scp = StoreScp(tmp_path / "archive")
    scp.start()
    yield scp
    scp.stop()
