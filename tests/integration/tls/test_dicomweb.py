"""DICOMweb destinations over TLS: whom we trust, what we show, and what a person reads."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from pydicom.data import get_testdata_file

from dicom_node.cli.check_dicomweb import dicomweb
from dicom_node.config_destinations import DicomwebConfig
from dicom_node.deliver.dimse import SendOutcome
from dicom_node.deliver.stow import store_files
from tests.faults.destinations.dicomweb import DicomwebPeer
from tests.faults.destinations.outbox import CT
from tests.integration.tls.certificates import Authority, Pair


@pytest.fixture
def start_service() -> Iterator[Callable[..., DicomwebPeer]]:
    """A function that starts a service with a certificate; with a CA it demands one of ours."""
    with ExitStack() as stack:

        def start(pair: Pair, clients: Authority | None = None) -> DicomwebPeer:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(pair.certificate, pair.key)
            if clients is not None:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(clients.certificate)
            service = DicomwebPeer(context)
            stack.callback(service.stop)
            return service

        yield start


def sent(service: DicomwebPeer, **tls: Any) -> SendOutcome:
    """Send one file with these settings of TLS."""
    outcomes: list[SendOutcome] = []
    destination = DicomwebConfig.model_validate(service.destination(tls=tls))
    store_files(destination, [CT], lambda path, outcome: outcomes.append(outcome))
    (outcome,) = outcomes
    return outcome


def test_the_house_ca_is_trusted_and_the_bytes_arrive(
    start_service: Callable[..., DicomwebPeer], hospital: Authority, node_pair: Pair
) -> None:
    service = start_service(node_pair)
    assert sent(service, ca_file=hospital.certificate).delivered
    assert list(service.stored.values()) == [CT.read_bytes()]


def test_a_service_may_demand_our_certificate(
    start_service: Callable[..., DicomwebPeer],
    hospital: Authority,
    stranger: Authority,
    node_pair: Pair,
) -> None:
    service = start_service(node_pair, hospital)
    ca_file = hospital.certificate
    assert sent(service, ca_file=ca_file, **node_pair.settings()).delivered
    none = sent(service, ca_file=ca_file)
    assert "demands a certificate of ours; set tls.certificate_file" in str(none.error)
    unknown = sent(service, ca_file=ca_file, **stranger.issue("node").settings())
    assert "does not know the CA of our certificate" in str(unknown.error)


def test_a_name_in_the_certificate_may_be_another_than_the_host(
    start_service: Callable[..., DicomwebPeer], hospital: Authority, modality_pair: Pair
) -> None:
    service = start_service(modality_pair)
    ca_file = hospital.certificate
    assert "is for another host name" in str(sent(service, ca_file=ca_file).error)
    assert sent(service, ca_file=ca_file, server_name="ct1.example.org").delivered
    assert sent(service, ca_file=ca_file, verify_host_name=False).delivered


def test_what_is_wrong_with_a_certificate_is_said(
    start_service: Callable[..., DicomwebPeer], hospital: Authority, stranger: Authority
) -> None:
    expired = start_service(hospital.issue("old", days=-1))
    assert "has expired" in str(sent(expired, ca_file=hospital.certificate).error)
    unknown = start_service(stranger.issue("who"))
    assert "not signed by a CA that we trust" in str(
        sent(unknown, ca_file=hospital.certificate).error
    )
    assert "not signed by a CA that we trust" in str(sent(unknown).error)
    missing = sent(unknown, ca_file=hospital.certificate.with_name("gone.pem"))
    assert "gone.pem cannot be read" in str(missing.error)
    assert expired.requests == unknown.requests == []


def test_a_service_without_tls_or_without_a_word_is_named(
    hospital: Authority,
) -> None:
    plain = DicomwebPeer()
    try:
        url = f"https://127.0.0.1:{plain.port}/rs"
        outcome = sent_to(url, hospital)
        assert "does not speak TLS" in str(outcome.error)
    finally:
        plain.stop()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        outcome = sent_to(f"https://127.0.0.1:{silent.getsockname()[1]}/rs", hospital)
        assert "did not answer within 0.5 s" in str(outcome.error)


def test_without_a_connection_there_is_no_second_attempt_for_each_object(
    start_service: Callable[..., DicomwebPeer], stranger: Authority, hospital: Authority
) -> None:
    service = start_service(stranger.issue("who"))
    made: list[str] = []
    service.on_connection = made.append
    outcomes: list[SendOutcome] = []
    destination = DicomwebConfig.model_validate(
        service.destination(tls={"ca_file": hospital.certificate})
    )
    paths = [CT, Path(get_testdata_file("MR_small.dcm"))]
    store_files(destination, paths, lambda path, outcome: outcomes.append(outcome))
    assert len(outcomes) == 2
    assert len(made) == 1


def sent_to(url: str, hospital: Authority) -> SendOutcome:
    """Send one file to a URL."""
    outcomes: list[SendOutcome] = []
    destination = DicomwebConfig.model_validate(
        {"url": url, "connect_timeout": 0.5, "tls": {"ca_file": hospital.certificate}}
    )
    store_files(destination, [CT], lambda path, outcome: outcomes.append(outcome))
    return outcomes[0]


def test_check_tells_the_dates_of_both_certificates(
    start_service: Callable[..., DicomwebPeer], hospital: Authority, node_pair: Pair
) -> None:
    service = start_service(node_pair, hospital)
    tls = {"ca_file": hospital.certificate, **node_pair.settings()}
    destination = DicomwebConfig.model_validate(service.destination(tls=tls))
    service.query_scripts = [lambda request, _: request.answer(200, b"[]")]
    found = [(item.part, item.state) for item in dicomweb("cloud", destination)]
    assert found[:2] == [("destination", "ok"), ("certificate", "warning")]
    assert found.count(("certificate", "warning")) == 2  # both are valid for less than 30 days
