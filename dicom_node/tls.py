"""DICOM TLS in both roles, by one profile.

The profile is PS3.15 B.12, "BCP 195 RFC 8996, 9325 TLS": TLS 1.2 and 1.3 with forward secrecy and
authenticated encryption. Peers of the retired profiles B.9 to B.11 offer suites of it, too.
"""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Final

from dicom_node.config_network import ClientTlsConfig, ServerTlsConfig
from dicom_node.errors import ConfigError
from dicom_node.tls_certificates import Validity, validity_of

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

_CERTIFICATE: Final = b"CERTIFICATE-----"


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
    if config.crl_file is not None:
        _load_crls(context, config.crl_file)
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
    if config.crl_file is not None:
        _load_crls(context, config.crl_file)
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


def _load_crls(context: ssl.SSLContext, crl_file: Path) -> None:
    """Refuse certificates that their CA has revoked, and those of a CA without current list."""
    _must_be_readable("crl_file", crl_file)
    if _CERTIFICATE in crl_file.read_bytes():  # it would be trusted as a CA
        raise ConfigError(f"tls: crl_file {crl_file} holds a certificate; it belongs into ca_file")
    try:
        context.load_verify_locations(cafile=crl_file)
    except ssl.SSLError as error:
        raise ConfigError(
            f"tls: crl_file {crl_file} holds no PEM revocation list ({error.reason or 'unreadable'}"
            "); DER becomes PEM by `openssl crl -inform DER -in LIST -out FILE`"
        ) from error
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF


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
    context, name = client_context(config), config.server_name or host
    with (
        socket.create_connection((host, port), seconds) as plain,
        context.wrap_socket(plain, server_hostname=name) as connection,
    ):
        certificate = connection.getpeercert(binary_form=True)
        assert certificate is not None, "a server always shows one"
        return validity_of(certificate), connection.version() or ""


def certificate_at(host: str, port: int, own: ServerTlsConfig, seconds: float) -> bytes:
    """The DER certificate shown on a port of ours, whatever it is; we show our own.

    Raises
    ------
    OSError
        No connection, or no handshake within `seconds`.
    ConfigError
        Our certificate and key are not usable.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _apply_profile(context)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _load_own(context, own.certificate_file, own.private_key_file)
    with (
        socket.create_connection((host, port), seconds) as plain,
        context.wrap_socket(plain) as connection,
    ):
        return connection.getpeercert(binary_form=True) or b""
