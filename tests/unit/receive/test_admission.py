"""Whom the receiver lets in."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dicom_node.config_network import DicomConfig, PeerConfig
from dicom_node.receive.admission import (
    Admission,
    Caller,
    Load,
    Refusal,
    Refused,
    plain_address,
)

OPEN_HOUSE = Admission("NODE", (), require_called_ae_title=False, max_associations=2)
PACS = PeerConfig(calling_ae_title="PACS")
STRICT = replace(OPEN_HOUSE, peers=(PACS,), require_called_ae_title=True)
IDLE = Load(0, of_peer=lambda _: 0, this_minute_of_peer=lambda _: 0, draining=False)


def answer(admission: Admission, caller: Caller, load: Load = IDLE) -> PeerConfig | Refusal | None:
    decision = admission.decide(caller, load)
    return decision.answer if isinstance(decision, Refused) else decision


@pytest.mark.parametrize(
    ("admission", "calling", "called", "others", "draining", "expected"),
    [
        (OPEN_HOUSE, "ANY", "OTHER", 0, False, None),
        (OPEN_HOUSE, "ANY", "NODE", 2, False, Refusal.LOCAL_LIMIT_EXCEEDED),
        (OPEN_HOUSE, "ANY", "NODE", 0, True, Refusal.TEMPORARY_CONGESTION),
        (STRICT, "PACS", "NODE", 1, False, PACS),
        (STRICT, "  PACS ", " NODE", 1, False, PACS),
        (STRICT, "pacs", "NODE", 0, False, Refusal.CALLING_AE_TITLE_NOT_RECOGNIZED),
        (STRICT, "PACS", "NODE2", 0, False, Refusal.CALLED_AE_TITLE_NOT_RECOGNIZED),
        (STRICT, "MALLORY", "NODE", 9, True, Refusal.CALLING_AE_TITLE_NOT_RECOGNIZED),
    ],
)
def test_a_caller_is_let_in_or_refused_with_the_standards_reason(
    admission: Admission,
    calling: str,
    called: str,
    others: int,
    draining: bool,
    expected: PeerConfig | Refusal | None,
) -> None:
    load = replace(IDLE, associations=others, draining=draining)
    assert answer(admission, Caller(calling, called, "10.0.0.1"), load) == expected


UNKNOWN = Refusal.CALLING_AE_TITLE_NOT_RECOGNIZED
CT_HERE = PeerConfig(calling_ae_title="CT", addresses=["10.1.0.0/16"], called_ae_title="NODE")
CT_THERE = PeerConfig(
    calling_ae_title="CT", addresses=["2001:db8::/32", "192.0.2.7"], certificate_name="ct.Example"
)
LISTED = replace(OPEN_HOUSE, peers=(CT_HERE, CT_THERE))


@pytest.mark.parametrize(
    ("host", "called", "names", "expected"),
    [
        ("10.1.2.3", "NODE", (), CT_HERE),
        ("::ffff:10.1.2.3", "NODE", (), CT_HERE),
        ("10.1.2.3", "OTHER", (), Refusal.CALLED_AE_TITLE_NOT_RECOGNIZED),
        ("10.2.2.3", "NODE", (), UNKNOWN),
        ("192.0.2.7", "ANY", ("ct.example",), CT_THERE),
        ("2001:db8::1", "ANY", ("ct.example", "x"), CT_THERE),
        ("fe80::1%eth0", "ANY", ("ct.example",), UNKNOWN),
        ("192.0.2.7", "ANY", (), UNKNOWN),
        ("192.0.2.7", "ANY", ("other.example",), UNKNOWN),
        ("192.0.2.8", "ANY", ("ct.example",), UNKNOWN),
    ],
)
def test_a_peer_must_come_from_its_address_with_its_certificate(
    host: str, called: str, names: tuple[str, ...], expected: PeerConfig | Refusal
) -> None:
    caller = Caller("CT", called, host, frozenset(names))
    assert answer(LISTED, caller) == expected


def test_a_stranger_hears_nothing_of_how_near_it_came() -> None:
    callers = [
        Caller("NOBODY", "NODE", "10.1.2.3"),
        Caller("CT", "NODE", "172.16.0.1"),
        Caller("CT", "NODE", "192.0.2.7"),
    ]
    decisions = [LISTED.decide(caller, IDLE) for caller in callers]
    assert all(isinstance(decision, Refused) for decision in decisions)
    assert {decision.answer for decision in decisions if isinstance(decision, Refused)} == {UNKNOWN}
    assert len({decision.detail for decision in decisions if isinstance(decision, Refused)}) == 3


@pytest.mark.parametrize(
    ("is_open", "begun", "expected"),
    [
        (1, 9, None),
        (2, 9, Refusal.LOCAL_LIMIT_EXCEEDED),
        (1, 10, Refusal.TEMPORARY_CONGESTION),
    ],
)
def test_a_peers_limits_are_its_own(is_open: int, begun: int, expected: Refusal | None) -> None:
    busy = PeerConfig(calling_ae_title="A", max_associations=2, associations_per_minute=10)
    admission = Admission("NODE", (busy, PACS), False, 25)
    load = Load(
        3,
        of_peer=lambda peer: is_open if peer is busy else 0,
        this_minute_of_peer=lambda peer: begun if peer is busy else 0,
        draining=False,
    )
    assert answer(admission, Caller("A", "X", "10.0.0.1"), load) == (expected or busy)
    assert answer(admission, Caller("PACS", "X", "10.0.0.1"), load) == PACS


def test_a_bare_title_is_a_peer_without_conditions() -> None:
    dicom = DicomConfig(calling_ae_titles=("OLD",), peers=(CT_HERE,))
    admission = Admission.from_config("NODE", dicom)
    assert admission.peers == (CT_HERE, PeerConfig(calling_ae_title="OLD"))


def test_an_address_is_compared_as_people_write_it() -> None:
    assert str(plain_address("::ffff:192.0.2.7")) == "192.0.2.7"
    assert str(plain_address("2001:db8::7")) == "2001:db8::7"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("::ffff:10.1.2.3", "10.1.2.3/32"),
        ("::ffff:10.1.0.0/112", "10.1.0.0/16"),
        ("::/0", "::/0"),
        ("2001:db8::/32", "2001:db8::/32"),
    ],
)
def test_an_ipv4_address_written_as_ipv6_is_that_address(written: str, meant: str) -> None:
    (network,) = PeerConfig.model_validate(
        {"calling_ae_title": "CT", "addresses": [written]}
    ).addresses
    assert str(network) == meant
