"""Real peers for the tests of this folder; every one is ended with its test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import Node, StoreScp, nodes_in
from tests.integration.orthanc import Orthanc


@pytest.fixture
def start_orthanc(tmp_path: Path) -> Iterator[Callable[..., Orthanc]]:
    """A function that starts an Orthanc; it takes what `Orthanc` takes besides the folder."""
    with ExitStack() as stack:

        def start(name: str = "orthanc", **settings: Any) -> Orthanc:
            orthanc = Orthanc(tmp_path / name, **settings)
            stack.callback(orthanc.kill)
            orthanc.start()
            return orthanc

        yield start


@pytest.fixture
def start_storescp(tmp_path: Path) -> Iterator[Callable[..., StoreScp]]:
    """A function that starts DCMTK's storescp, on a free port or the one it is given."""
    with ExitStack() as stack:

        def start(name: str = "storescp", port: int | None = None) -> StoreScp:
            scp = StoreScp(tmp_path / name, port)
            stack.callback(scp.stop)
            scp.start()
            return scp

        yield start


@pytest.fixture
def start_node(tmp_path: Path) -> Iterator[Callable[..., Node]]:
    """A function that starts `dicom-node serve` with settings."""
    with nodes_in(tmp_path) as start:
        yield start
