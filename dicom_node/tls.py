"""DICOM TLS in both roles: one profile, and what the certificates say.

The profile is PS3.15 B.12, "BCP 195 RFC 8996, 9325 TLS": TLS 1.2 and 1.3 with forward secrecy and
authenticated encryption. Peers of the retired profiles B.9 to B.11 offer suites of it, too.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from dicom_node.config_network import ClientTlsConfig, ServerTlsConfig
from dicom_node.errors import ConfigError

# RFC 9325 section 4.2, strongest first. SECLEVEL=2: no key below 2048 (RSA) or 224 (EC) bits and
# no SHA-1 signature, whatever the machine's OpenSSL is configured to allow.
CIPHERS: Final = (
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:@SECLEVEL=2"
)
_CLIENT_CERTIFICATES: Final = {
    "required": ssl.CERT_REQUIRED,
    "optional": ssl.CERT_OPTIONAL,
    "none": ssl.CERT_NONE,
}

_VERSION, _UTC_TIME, _GENERALIZED_TIME = 0xA0, 0x17, 0x18  # tags of DER


def server_context(config: ServerTlsConfig) -> ssl.SSLContext:
    """Make the context of the receiver's side.

    Raises
    ------
    ConfigError
        A file that is missing, unreadable or does not fit; names the file and the remedy.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _apply_profile(context)
    # Connections are long and rare; a resumed session would also outlive a withdrawn certificate.
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    _load_own(context, config.certificate_file, config.private_key_file)
    context.verify_mode = _CLIENT_CERTIFICATES[config.client_certificates]
    if config.ca_file is not None:
        _load_cas(context, config.ca_file)
    return context


def client_context(config: ClientTlsConfig) -> ssl.SSLContext:
    """Make the context of the side that sends; errors as in `server_context`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _apply_profile(context)
    context.check_hostname = config.verify_host_name
    if config.ca_file is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        _load_cas(context, config.ca_file)
    if config.certificate_file is not None and config.private_key_file is not None:
        _load_own(context, config.certificate_file, config.private_key_file)
    return context


def _apply_profile(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE


def _load_own(context: ssl.SSLContext, certificate_file: Path, private_key_file: Path) -> None:
    _must_be_readable("certificate_file", certificate_file)
    _must_be_readable("private_key_file", private_key_file)
    try:
        # An encrypted key must be an error, not a question on a terminal that nobody watches.
        context.load_cert_chain(certificate_file, private_key_file, password=lambda: "")
    except ssl.SSLError as error:
        raise ConfigError(
            f"tls: {certificate_file} and {private_key_file} are not a PEM certificate and its "
            f"private key without passphrase ({error.reason or 'unreadable'}); "
            "the certificate comes first in its file, the two must belong together"
        ) from error


def _load_cas(context: ssl.SSLContext, ca_file: Path) -> None:
    _must_be_readable("ca_file", ca_file)
    try:
        context.load_verify_locations(cafile=ca_file)
    except ssl.SSLError as error:
        raise ConfigError(
            f"tls: ca_file {ca_file} holds no PEM certificate ({error.reason or 'unreadable'})"
        ) from error


def _must_be_readable(key: str, file: Path) -> None:
    try:
        file.open("rb").close()
    except OSError as error:
        raise ConfigError(f"tls: {key} {file} cannot be read: {error.strerror}") from error


def shown_certificate(
    host: str, port: int, config: ClientTlsConfig, seconds: float
) -> tuple[Validity, str]:
    """Make a TLS connection as a sender would; the dates of the peer's certificate, the version.

    Raises
    ------
    OSError
        No connection, or no handshake within `seconds`.
    ConfigError
        As of `client_context`.
    """
    name = config.server_name or host
    with (
        socket.create_connection((host, port), seconds) as plain,
        client_context(config).wrap_socket(plain, server_hostname=name) as connection,
    ):
        certificate = connection.getpeercert(binary_form=True)
        assert certificate is not None, "a server always shows one"
        return validity_of(certificate), connection.version() or ""


@dataclass(frozen=True, slots=True)
class Validity:
    """From when to when a certificate may be used (both UTC)."""

    not_before: datetime
    not_after: datetime

    def days_left(self, now: datetime) -> int:
        """Whole days until it expires; negative: it has."""
        return (self.not_after - now).days


def certificate_validity(certificate_file: Path) -> Validity:
    """Read the dates of the first certificate in a PEM file (RFC 5280 section 4.1.2.5).

    Raises
    ------
    ConfigError
        The file cannot be read or holds no certificate.
    """
    _must_be_readable("certificate_file", certificate_file)
    try:
        text = certificate_file.read_text(encoding="ascii", errors="replace")
        start = text.index("-----BEGIN CERTIFICATE-----")
        end = text.index("-----END CERTIFICATE-----", start) + len("-----END CERTIFICATE-----")
        return validity_of(ssl.PEM_cert_to_DER_cert(text[start:end]))
    except (ValueError, IndexError, StopIteration) as error:
        raise ConfigError(f"tls: {certificate_file} holds no PEM certificate") from error


def validity_of(der: bytes) -> Validity:
    """Read the dates out of a DER certificate.

    Raises
    ------
    ValueError, IndexError, StopIteration
        It is none.
    """
    (_, certificate) = next(_elements(der))
    (_, to_be_signed) = next(_elements(certificate))
    fields = [item for item in _elements(to_be_signed) if item[0] != _VERSION]
    # serialNumber, signature, issuer, validity
    before, after = (_moment(*item) for item in _elements(fields[3][1]))
    return Validity(before, after)


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
