"""A running node and a running archive for each test that asks for one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import Node, StoreScp


@pytest.fixture
def make_node(tmp_path: Path) -> Iterator[Callable[..., Node]]:
    """A function that starts a node with settings; every node is stopped at the end."""
    with ExitStack() as stack:

        def start(name: str = "node", **settings: Any) -> Node:
            node = Node(tmp_path / name, settings)
            stack.callback(node.stop)
            node.start()
            return node

        yield start


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[StoreScp]:
    """A running `storescp`."""
    scp = StoreScp(tmp_path / "archive")
    scp.start()
    yield scp
    scp.stop()
