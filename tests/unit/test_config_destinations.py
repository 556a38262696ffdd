"""Destinations that speak DICOMweb, as the settings describe them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic_core import PydanticUndefined

from dicom_node.config import load_config
from dicom_node.config_destinations import DestinationConfig, DicomwebConfig
from dicom_node.config_network import ClientTlsConfig
from dicom_node.errors import ConfigError
from dicom_node.paths import SHIPPED_CONFIG


def destination(**settings: Any) -> DicomwebConfig:
    config = load_config(None, {"destinations": {"pacs": settings}})
    peer = config.peers["pacs"]
    assert isinstance(peer, DicomwebConfig)
    return peer


@pytest.mark.parametrize(
    ("url", "host", "port", "kept"),
    [
        ("http://pacs/rs", "pacs", 80, "http://pacs/rs"),
        ("https://pacs.example.org/dicom-web/", "pacs.example.org", 443, None),
        ("https://[::1]:8443", "::1", 8443, "https://[::1]:8443"),
    ],
)
def test_a_url_makes_a_dicomweb_destination(
    url: str, host: str, port: int, kept: str | None
) -> None:
    peer = destination(url=url)
    assert (peer.host, peer.port) == (host, port)
    assert peer.url == (kept or url.rstrip("/"))
    assert peer.is_encrypted == url.startswith("https")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"url": "ftp://pacs/rs"}, "must begin with http"),
        ({"url": "pacs/rs"}, "must begin with http"),
        ({"url": "http://pacs /rs"}, "hold no spaces"),
        ({"url": "http:///rs"}, "must name a host"),
        ({"url": "http://pacs:70000"}, "one from 1 to 65535"),
        ({"url": "http://user:hidden"}, "one from 1 to 65535"),
        ({"url": "http://pacs:0"}, "one from 1 to 65535"),
        ({"url": "http://[hidden"}, "must name a host"),
        ({"url": "https://u:hidden@pacs"}, "must hold no user and password; use basic_auth_file"),
        ({"url": "http://pacs/rs?a=1"}, "must end with the path"),
        ({"url": "http://pacs/rs#a"}, "must end with the path"),
        ({"url": "http://pacs/rs/studies"}, "without /studies"),
        ({"url": "http://pacs", "tls": {}}, "tls needs a url that begins with https"),
        (
            {"url": "http://pacs", "basic_auth_file": "a", "bearer_token_file": "b"},
            "exclude one another",
        ),
        ({"url": "http://pacs", "confirm": "storage_commitment"}, "'status' or 'query'"),
        ({"url": "http://pacs", "ae_title": "PACS"}, "pacs.dicomweb.ae_title"),
        ({"url": "http://pacs", "password": "hidden"}, "pacs.dicomweb.password"),
        ({"ae_title": "PACS"}, "pacs.dimse.host"),
        ({}, "pacs.dimse.ae_title"),
        ("http://hidden", "pacs.dimse"),
    ],
)
def test_a_mistake_is_named_without_what_may_be_secret(settings: Any, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, {"destinations": {"pacs": settings}})
    assert words in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_both_kinds_come_from_one_file_and_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "node.yaml"
    file.write_text(
        "destinations:\n"
        "  pacs: {ae_title: PACS, host: pacs, port: 104}\n"
        "  cloud: {url: 'https://cloud.example.org/rs', confirm: query, query_after: 5}\n"
        "send_to: [pacs, cloud]\n"
    )
    monkeypatch.setenv("DICOM_NODE_DESTINATIONS__CLOUD__BEARER_TOKEN_FILE", str(tmp_path / "t"))
    config = load_config(file)
    assert isinstance(config.peers["pacs"], DestinationConfig)
    cloud = config.peers["cloud"]
    assert isinstance(cloud, DicomwebConfig)
    assert cloud.bearer_token_file == tmp_path / "t"
    assert cloud.query_after.total_seconds() == 5
    assert config.default_destinations == ("pacs", "cloud")


def test_the_shipped_file_shows_every_key_with_its_default() -> None:
    text = (SHIPPED_CONFIG / "node.yaml").read_text(encoding="utf-8")
    section = text[text.index("destinations: {}") : text.index("send_to: []")]
    commented = [line.removeprefix("#") for line in section.splitlines() if line.startswith("#")]
    shown = yaml.safe_load("\n".join(commented))
    loaded = load_config(None, {"destinations": shown})
    for name, kind, beside in (
        ("pacs", DestinationConfig, set()),
        ("cloud", DicomwebConfig, {"basic_auth_file"}),  # one of two that exclude one another
    ):
        assert isinstance(loaded.peers[name], kind)
        assert set(shown[name]) | beside == set(kind.model_fields)
        for key, info in kind.model_fields.items():
            if key in shown[name] and info.default is not PydanticUndefined and info.default:
                assert getattr(loaded.peers[name], key) == info.default
    assert set(shown["pacs"]["tls"]) == set(ClientTlsConfig.model_fields)
    assert "basic_auth_file" in section
