"""Containers get no right that they do not need; the images are built in tests/containers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

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
