"""Containers get no right that they do not need; the images are built in tests/containers."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dicom_node.config import NodeConfig
from dicom_node.node import audit_trail
from dicom_node.receive.scp import Receiver

REPOSITORY = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text(encoding="utf-8"))
OURS = {name for name, service in COMPOSE["services"].items() if "localhost/" in service["image"]}


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_no_service_keeps_or_gains_privileges(name: str) -> None:
    service: dict[str, Any] = COMPOSE["services"][name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges"]
    assert not {"privileged", "pid", "ipc", "network_mode", "devices"} & service.keys()
    assert not [volume for volume in service.get("volumes", []) if "docker.sock" in volume]


@pytest.mark.parametrize("name", sorted(OURS))
def test_our_services_write_to_their_volume_alone(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp"]
    assert "cap_add" not in service
    writable = [volume for volume in service["volumes"] if not volume.endswith(":ro")]
    assert writable == ["node-home:/var/lib/dicom_node"]


def test_only_dicom_ports_are_open_to_other_machines() -> None:
    open_ports = {
        port
        for service in COMPOSE["services"].values()
        for port in service.get("ports", [])
        if not port.startswith("127.0.0.1:")
    }
    assert open_ports == {"4242:4242", "11112:11112"}


def test_the_health_of_a_receiver_is_that_it_speaks_dicom(
    receiver_port: int, tmp_path: Path
) -> None:
    """No association: one would be refused and recorded where only listed senders may come."""
    dockerfile = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
    commands = [json.loads(words) for words in re.findall(r'CMD (\["python".+\])', dockerfile)]
    commands.append(COMPOSE["services"]["receiver"]["healthcheck"]["test"][1:])
    assert len(commands) == 3
    with socket.create_server(("127.0.0.1", 0)) as silent:
        closed = silent.getsockname()[1]
    for command in commands:
        assert command[0] == "python"
        for port, healthy in ((receiver_port, True), (closed, False)):
            words = [word.replace("11112", str(port)) for word in command[1:]]
            ended = subprocess.run([sys.executable, *words], capture_output=True, check=False)
            assert (ended.returncode == 0) is healthy
    assert not list((tmp_path / "audit").glob("*.jsonl"))


@pytest.fixture
def receiver_port(tmp_path: Path) -> Iterator[int]:
    """A receiver that takes one sender alone."""
    dicom = {"port": 0, "calling_ae_titles": ["CT1"], "minimum_free_bytes": 0}
    config = NodeConfig.model_validate({"home": tmp_path, "dicom": dicom})
    receiver = Receiver(config, audit=audit_trail(config, "test"))
    yield receiver.start()
    receiver.stop()


def test_every_image_ends_as_a_user_of_its_own() -> None:
    text = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
    stages = dict(re.findall(r"^FROM \S+ AS (\S+)\n((?:(?!^FROM).*\n?)*)", text, re.MULTILINE))
    assert stages.keys() == {"dependencies", "node", "scorer"}
    for name in ("node", "scorer"):
        users = re.findall(r"^USER (\S+)", stages[name], re.MULTILINE)
        assert users == ["node"], name
        assert "USER" not in stages[name].partition("USER node")[2]
        assert "RUN" not in stages[name].partition("USER node")[2]
    assert "useradd --uid 10001" in stages["dependencies"]
    assert not re.search(r"^ENV .*(PASSWORD|SECRET|TOKEN)", text, re.MULTILINE)
