"""Two certificate authorities, receivers that speak TLS, and DCMTK as their peer."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dicom_node.config import NodeConfig
from dicom_node.config_destinations import DestinationConfig
from dicom_node.config_network import DicomConfig
from dicom_node.receive.scp import Receiver
from tests.e2e.harness import tool
from tests.integration.tls.certificates import Authority, Pair


@pytest.fixture(scope="session")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The CA that everybody in the house trusts."""
    return Authority(tmp_path_factory.mktemp("tls") / "hospital", "Hospital CA")


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A CA that nobody here knows."""
    return Authority(tmp_path_factory.mktemp("tls") / "stranger", "Stranger CA")


@pytest.fixture(scope="session")
def node_pair(hospital: Authority) -> Pair:
    return hospital.issue("node.example.org")


@pytest.fixture(scope="session")
def modality_pair(hospital: Authority) -> Pair:
    return hospital.issue("ct1.example.org", names="DNS:ct1.example.org")


@pytest.fixture
def start_tls_receiver(
    tmp_path: Path, hospital: Authority, node_pair: Pair
) -> Iterator[Callable[..., tuple[int, DestinationConfig]]]:
    """Start a receiver, with TLS alone unless told otherwise; returns what `start` does."""
    receivers = []

    def start(tls: dict[str, Any] | None = None, **dicom: Any) -> tuple[int, DestinationConfig]:
        section = {"port": 0, "ca_file": hospital.certificate, **node_pair.settings()}
        settings = {"port": None, "minimum_free_bytes": 0, "tls": section | (tls or {}), **dicom}
        config = NodeConfig(home=tmp_path / "home", ae_title="NODE", dicom=DicomConfig(**settings))
        receiver = Receiver(config)
        port = receiver.start()
        receivers.append(receiver)
        assert receiver.tls_port is not None
        return port, DestinationConfig(
            ae_title="NODE",
            host="127.0.0.1",
            port=receiver.tls_port,
            tls={"ca_file": hospital.certificate},
            response_timeout=10,
        )

    yield start
    for receiver in receivers:
        receiver.stop()


@pytest.fixture
def dcmtk() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run one of DCMTK's tools to its end."""

    def run(name: str, *words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [tool(name), *map(str, words)], capture_output=True, text=True, timeout=60, check=False
        )

    return run
