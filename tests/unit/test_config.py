"""The settings: one file, strict, and every key explained in the shipped one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from dicom_node.config import NodeConfig, load_config
from dicom_node.config_destinations import parse_peer
from dicom_node.errors import ConfigError
from dicom_node.node import child_environment
from dicom_node.paths import SHIPPED_CONFIG

SHIPPED = SHIPPED_CONFIG / "node.yaml"


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, info in model.model_fields.items():
        section = info.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            yield from keys(section, f"{prefix}{name}.")
        else:
            yield prefix + name


def flat(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def test_the_shipped_file_names_every_key_with_its_default() -> None:
    text = SHIPPED.read_text(encoding="utf-8")
    commented = {"database_url", "models_dir", "routes_file"}
    assert all(f"# {key}: " in text for key in commented)
    assert set(flat(yaml.safe_load(text))) | commented == set(keys(NodeConfig))
    assert load_config(SHIPPED) == load_config(None, {"home": "var"})


def test_flags_beat_the_environment_and_that_beats_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "node.yaml"
    file.write_text("ae_title: FILE\ndicom: {port: 1, host: '1.1.1.1'}\n", encoding="utf-8")
    monkeypatch.setenv("DICOM_NODE_DICOM__PORT", "2")
    monkeypatch.setenv("DICOM_NODE_AE_TITLE", "ENV")
    config = load_config(file, {"ae_title": "FLAG"})
    assert (config.ae_title, config.dicom.port, config.dicom.host) == ("FLAG", 2, "1.1.1.1")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("dicom: {prt: 1}", "dicom.prt"),
        ("dicom: {port: 70000}", "dicom.port"),
        ("ae_title: SEVENTEEN_LETTERS", "ae_title"),
        ("send_to: [nowhere]", "nowhere"),
        ("send_to: [A@host]", "AET@HOST:PORT"),
        ("ae_title: [", "not valid YAML"),
        ("dicom: {port: null}", "nobody could connect"),
        ("dicom: {require_user_identity: true}", "needs users_file"),
        ("dicom: {tls: {certificate_file: a, private_key_file: b}}", "ca_file must name the CA"),
        ("dicom: {peers: [{calling_ae_title: A, certificate_name: x}]}", "certificate_name needs"),
        ("dicom: {peers: [{calling_ae_title: A, addresses: [10.0.0.1/24]}]}", "host bits"),
        (
            "destinations: {a: {ae_title: A, host: h, port: 1, tls: {private_key_file: k}}}",
            "go together",
        ),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "node.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=named):
        load_config(file)


def test_a_peer_in_send_to_becomes_a_destination() -> None:
    config = load_config(None, {"send_to": ["PACS@127.0.0.1:104", "sender"]})
    assert config.default_destinations == ("PACS", "sender")
    assert config.peers["PACS"].port == 104
    assert parse_peer("X@[::1]:104").host == "::1"


def test_the_flags_of_serve_reach_its_stages_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = {
        "dicom": {"port": 11, "idle_timeout": 2.5},
        "web": {"port": None},
        "send_to": ["A@h:1", "B@h:2"],
        "destinations": {"c": {"ae_title": "C", "host": "h", "port": 3}},
        "home": Path("/x"),
    }
    for key, value in child_environment(flags, base={}).items():
        monkeypatch.setenv(key, value)
    assert load_config() == load_config(None, flags)


def test_the_database_password_is_not_shown() -> None:
    config = load_config(None, {"database_url": "postgresql://u:secret@h/d"})
    assert "secret" not in repr(config)


def test_a_node_that_prunes_vouches_for_nothing() -> None:
    vouching = {"dicom": {"storage_commitment": True}}
    assert load_config(None, vouching).dicom.storage_commitment
    for key in ("delivered", "refused", "waived"):
        with pytest.raises(ConfigError, match="switch one of them off"):
            load_config(None, vouching | {"retention": {key: 86400}})
