"""What certificates and revocation lists say of themselves: names and dates (RFC 5280)."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from dicom_node.errors import ConfigError

# Tags of DER
_INTEGER, _VERSION, _UTC_TIME, _GENERALIZED_TIME = 0x02, 0xA0, 0x17, 0x18
_T = TypeVar("_T")
_NEVER: Final = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Validity:
    """From when to when a certificate or a revocation list may be used (both UTC)."""

    not_before: datetime
    not_after: datetime

    def days_left(self, now: datetime) -> int:
        """Whole days until it expires; negative: it has."""
        return (self.not_after - now).days


def certificate_validities(file: Path) -> list[Validity]:
    """Read the dates of every certificate in a PEM file, in its order.

    Raises
    ------
    ConfigError
        The file cannot be read or holds no certificate, or one that is damaged.
    """
    return _read_pem(file, "CERTIFICATE", "certificate", validity_of)


def list_validities(file: Path) -> list[Validity]:
    """Read from when to when each revocation list in a PEM file holds; errors as above."""
    return _read_pem(file, "X509 CRL", "revocation list", validity_of_list)


def certificates_in(file: Path) -> list[bytes]:
    """Every certificate in a PEM file as DER; errors as above."""
    return _read_pem(file, "CERTIFICATE", "certificate", bytes)


def _read_pem(file: Path, label: str, what: str, read: Callable[[bytes], _T]) -> list[_T]:
    """Take each block with such a label (RFC 7468) through `read`."""
    try:
        text = file.read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise ConfigError(f"tls: {file} cannot be read: {error.strerror}") from error
    blocks = re.findall(f"-----BEGIN {label}-----(.+?)-----END {label}-----", text, re.DOTALL)
    try:
        found = [read(base64.b64decode(block)) for block in blocks]
    except (ValueError, IndexError, StopIteration) as error:
        raise ConfigError(f"tls: {file} holds a damaged {what}") from error
    if not found:
        raise ConfigError(f"tls: {file} holds no PEM {what}")
    return found


def validity_of(der: bytes) -> Validity:
    """Read the dates out of a DER certificate (RFC 5280 section 4.1.2.5).

    Raises
    ------
    ValueError, IndexError, StopIteration
        It is none.
    """
    fields = [item for item in _to_be_signed(der) if item[0] != _VERSION]
    # serialNumber, signature, issuer, validity
    before, after = (_moment(*item) for item in _elements(fields[3][1]))
    return Validity(before, after)


def validity_of_list(der: bytes) -> Validity:
    """Read thisUpdate and nextUpdate out of a DER revocation list (RFC 5280 section 5.1.2).

    Raises
    ------
    ValueError, IndexError, StopIteration
        It is none.
    """
    fields = [item for item in _to_be_signed(der) if item[0] != _INTEGER]  # the version
    # signature, issuer, thisUpdate, nextUpdate, which is optional
    this = _moment(*fields[2])
    dated = len(fields) > 3 and fields[3][0] in {_UTC_TIME, _GENERALIZED_TIME}
    return Validity(this, _moment(*fields[3]) if dated else _NEVER)


def _to_be_signed(der: bytes) -> Iterator[tuple[int, bytes]]:
    (_, signed) = next(_elements(der))
    (_, content) = next(_elements(signed))
    return _elements(content)


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """The DER elements that follow one another: tag and content."""
    at = 0
    while at < len(der):
        tag, length, at = der[at], der[at + 1], at + 2
        if length & 0x80:
            size = length & 0x7F
            length, at = int.from_bytes(der[at : at + size]), at + size
        if at + length > len(der):
            raise ValueError("cut off")
        yield tag, der[at : at + length]
        at += length


def _moment(tag: int, content: bytes) -> datetime:
    text = content.decode("ascii")
    if tag == _UTC_TIME:  # two digits: 1950 to 2049
        text = ("19" if text >= "5" else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("no time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def certificate_names(certificate: dict[str, Any] | None) -> frozenset[str]:
    """The Common Name and the DNS names of a verified peer certificate, in small letters.

    Parameters
    ----------
    certificate
        What `SSLSocket.getpeercert` returned.
    """
    certificate = certificate or {}
    names = {value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"}
    for relative_name in certificate.get("subject", ()):
        names |= {value for kind, value in relative_name if kind == "commonName"}
    return frozenset(name.lower() for name in names)
