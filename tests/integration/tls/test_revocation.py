"""Certificates that their CA has taken back, and the lists that say so."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from dicom_node.cli.check_tls import door
from dicom_node.config import NodeConfig
from dicom_node.config_network import DicomConfig
from dicom_node.deliver.dimse import echo
from dicom_node.errors import ConfigError, DestinationUnavailable
from dicom_node.tls_certificates import list_validities
from tests.integration.tls.certificates import Authority, Pair
from tests.integration.tls.test_receiving import client, wait_for_line


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """A CA of this test alone: what it revokes stays revoked."""
    return Authority(tmp_path / "ca", "Revoking CA")


@pytest.fixture
def modality(authority: Authority) -> Pair:
    return authority.issue("ct9.example.org")


def test_a_senders_revoked_certificate_is_refused_without_a_restart(
    start_tls_receiver, authority: Authority, modality: Pair, tmp_path: Path, logged
) -> None:
    revoked = tmp_path / "revoked.pem"
    authority.write_list(revoked)
    other = authority.issue("ct8.example.org")
    _, node = start_tls_receiver({"ca_file": authority.certificate, "crl_file": revoked})
    echo(client(node, modality), "CT1")
    authority.revoke(modality)
    authority.write_list(revoked)
    with pytest.raises(DestinationUnavailable, match=r"our certificate"):
        echo(client(node, modality), "CT1")
    wait_for_line(logged, "connection_refused", "certificate_revoked", "remedy=")
    echo(client(node, other), "CT1")


@pytest.mark.parametrize("fault", ["revocation_list_expired", "no_revocation_list"])
def test_without_a_current_list_of_its_ca_nobody_comes_in_and_the_log_says_why(
    fault: str,
    start_tls_receiver,
    authority: Authority,
    stranger: Authority,
    modality: Pair,
    tmp_path: Path,
    logged,
) -> None:
    revoked = tmp_path / "revoked.pem"
    if fault == "revocation_list_expired":
        authority.write_list(revoked, seconds=1)
        while list_validities(revoked)[0].not_after.timestamp() >= time.time():
            time.sleep(0.05)
    else:
        stranger.write_list(revoked)
    _, node = start_tls_receiver({"ca_file": authority.certificate, "crl_file": revoked})
    with pytest.raises(DestinationUnavailable, match=r"our certificate|the CA of our"):
        echo(client(node, modality), "CT1")
    wait_for_line(logged, "connection_refused", fault, "crl_file")


def test_a_destinations_revoked_certificate_is_refused(
    start_tls_receiver, authority: Authority, tmp_path: Path
) -> None:
    revoked, pair = tmp_path / "revoked.pem", authority.issue("pacs.example.org")
    _, node = start_tls_receiver({"client_certificates": "none", **pair.settings()})
    authority.write_list(revoked)
    tls = {"ca_file": authority.certificate, "crl_file": revoked}
    peer = node.model_validate(node.model_dump() | {"tls": tls})
    echo(peer, "CT1")
    authority.revoke(pair)
    authority.write_list(revoked)
    with pytest.raises(DestinationUnavailable, match="its certificate is revoked by its CA"):
        echo(peer, "CT1")


def test_a_file_that_is_no_revocation_list_stops_the_start(
    start_tls_receiver, authority: Authority, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="holds a certificate; it belongs into ca_file"):
        start_tls_receiver({"crl_file": authority.certificate})
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")
    with pytest.raises(ConfigError, match=r"no PEM revocation list .*openssl crl"):
        start_tls_receiver({"crl_file": empty})
    with pytest.raises(ValueError, match="crl_file judges senders' certificates"):
        start_tls_receiver({"crl_file": empty, "client_certificates": "none", "ca_file": None})


@pytest.mark.parametrize(("seconds", "state"), [(7 * 86400, "ok"), (3600, "warning")])
def test_check_tells_of_a_list_before_it_expires(
    seconds: int, state: str, authority: Authority, node_pair: Pair, tmp_path: Path
) -> None:
    revoked = tmp_path / "revoked.pem"
    authority.write_list(revoked, seconds=seconds)
    tls = {"ca_file": authority.certificate, "crl_file": revoked, **node_pair.settings()}
    verdicts = door(NodeConfig(home=tmp_path, dicom=DicomConfig(port=None, tls=tls)))
    (found,) = (verdict for verdict in verdicts if verdict.part == "revocation list")
    assert found.state == state
