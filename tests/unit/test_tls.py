"""What certificates say, and what errors of a handshake become."""

from __future__ import annotations

import ssl
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.tls_certificates import Validity, certificate_names, validity_of, validity_of_list
from dicom_node.tls_failures import explain_failure


def der(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    length = len(content)
    head = bytes([length]) if length < 128 else b"\x82" + length.to_bytes(2)
    return bytes([tag]) + head + content


def certificate(before: bytes, after: bytes, *, version: bool = True) -> bytes:
    """As much of an X.509 certificate as comes before its dates, and something behind them."""
    fields = [
        der(0x02, b"\x01"),
        der(0x30, b""),
        der(0x30, bytes(200)[:0]),
        der(0x30, before, after),
        der(0x30, b"x" * 300),
    ]
    first = [der(0xA0, der(0x02, b"\x02"))] if version else []
    return der(0x30, der(0x30, *first, *fields), der(0x30), der(0x03, b"\0"))


@pytest.mark.parametrize("version", [True, False])
def test_both_forms_of_a_date_are_read(version: bool) -> None:
    der_bytes = certificate(
        der(0x17, b"991231235959Z"), der(0x18, b"20520304050607Z"), version=version
    )
    assert validity_of(der_bytes) == Validity(
        datetime(1999, 12, 31, 23, 59, 59, tzinfo=UTC), datetime(2052, 3, 4, 5, 6, 7, tzinfo=UTC)
    )


def test_the_days_left_are_whole_ones() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert Validity(now, now + timedelta(days=9, hours=23)).days_left(now) == 9
    assert Validity(now, now - timedelta(hours=1)).days_left(now) == -1


@given(st.binary(max_size=200))
def test_no_bytes_make_the_reader_of_certificates_fail_otherwise(content: bytes) -> None:
    for read in (validity_of, validity_of_list):
        with suppress(ValueError, IndexError, StopIteration):
            read(content)


@pytest.mark.parametrize("version", [True, False])
def test_a_revocation_list_without_an_end_never_expires(version: bool) -> None:
    """RFC 5280 5.1.2.5: nextUpdate is optional in X.509."""
    first = [der(0x02, b"\x01")] if version else []
    dated = [der(0x30, b""), der(0x30, b""), der(0x17, b"260102030405Z")]
    entries = der(0x30, b"")
    begin = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    for until, end in (([], None), ([der(0x17, b"260202030405Z")], begin + timedelta(days=31))):
        content = der(0x30, der(0x30, *first, *dated, *until, entries), der(0x30), der(0x03, b"\0"))
        found = validity_of_list(content)
        assert found.not_before == begin
        assert found.not_after == (end or datetime.max.replace(tzinfo=UTC))


def test_names_are_the_common_name_and_the_dns_names() -> None:
    shown = {
        "subject": ((("organizationName", "Hospital"),), (("commonName", "CT1"),)),
        "subjectAltName": (("DNS", "ct1.Example.org"), ("IP Address", "10.0.0.1")),
    }
    assert certificate_names(shown) == {"ct1", "ct1.example.org"}
    assert certificate_names(None) == frozenset()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TimeoutError(), "handshake_timeout"),
        (ConnectionResetError(), "no_tls"),
        (ssl.SSLEOFError(), "no_tls"),
        (ssl.SSLError(), "tls_error"),
    ],
)
def test_every_failure_has_a_reason_and_a_remedy(error: OSError, reason: str) -> None:
    failure = explain_failure(error)
    assert failure.reason == reason
    assert failure.found
    assert failure.remedy
