"""What `check` looks at of TLS: certificates, keys, CAs and revocation lists, and their dates."""

from __future__ import annotations

import ssl
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dicom_node.cli.verdict import Verdict
from dicom_node.config import NodeConfig
from dicom_node.config_destinations import Destination
from dicom_node.config_network import ClientTlsConfig, ServerTlsConfig
from dicom_node.errors import ConfigError
from dicom_node.process import utc_now
from dicom_node.tls import server_context, shown_certificate
from dicom_node.tls_certificates import Validity, certificate_validities, list_validities
from dicom_node.tls_failures import explain_failure


@dataclass(frozen=True, slots=True)
class _Kind:
    """What has dates, how many days before its end that is told, and what to do then."""

    part: str
    warning_days: int
    mend: str


_CERTIFICATE: Final = _Kind("certificate", 30, "have it renewed")
_CA: Final = _Kind("CA", 30, "put the CA's new certificate into ca_file, beside this one")
# Revocation lists are renewed every few days, by a program.
_LIST: Final = _Kind("revocation list", 1, "put the CA's current list into crl_file")


def door(settings: NodeConfig) -> Iterator[Verdict]:
    """The receiver's certificate, key, CAs and revocation lists, and the users file."""
    tls = settings.dicom.tls
    if tls is not None:
        server_context(tls)
        yield dates(_CERTIFICATE, "dicom.tls:", certificate_validities(tls.certificate_file)[0])
        yield from exposed("private key", "dicom.tls", tls.private_key_file)
        yield from trust("dicom.tls", tls)
    if settings.dicom.users_file is not None:
        from dicom_node.receive.users import load_users

        users = load_users(settings.dicom.users_file)
        yield Verdict("users", "ok", f"{len(users)} in {settings.dicom.users_file}")
        yield from exposed("users", "dicom.users_file", settings.dicom.users_file)


def destination_certificates(name: str, peer: Destination) -> Iterator[Verdict]:
    """The dates of both certificates of a destination that answers."""
    tls = peer.tls
    if tls is None:
        return
    try:
        theirs, version = shown_certificate(
            peer.host, peer.port, tls, peer.connect_timeout.total_seconds()
        )
    except (ConfigError, OSError) as error:
        yield Verdict("certificate", "failed", f"{name}: {_why(error)}", f"destinations.{name}.tls")
        return
    yield dates(_CERTIFICATE, f"{name} ({version}):", theirs)
    if tls.certificate_file is not None and tls.private_key_file is not None:
        ours = certificate_validities(tls.certificate_file)[0]
        yield dates(_CERTIFICATE, f"ours for {name}:", ours)
        yield from exposed("private key", f"destinations.{name}.tls", tls.private_key_file)
    yield from trust(name, tls)


def syslog(settings: NodeConfig) -> Iterator[Verdict]:
    """Whether the syslog server of the audit trail takes our connection, and its certificate."""
    server = settings.audit.syslog
    if server is None:
        return
    place = f"{server.host}:{server.port}"
    try:
        theirs, version = shown_certificate(
            server.host, server.port, server.tls, server.timeout.total_seconds()
        )
    except (ConfigError, OSError) as error:
        mend = "mend it: audit messages wait in the trail until then"
        yield Verdict("syslog", "failed", f"{place}: {_why(error)}", mend)
        return
    yield Verdict("syslog", "ok", f"{place} answers ({version})")
    yield dates(_CERTIFICATE, "audit.syslog:", theirs)
    yield from trust("audit.syslog", server.tls)


def _why(error: ConfigError | OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return explain_failure(error).found
    return str(error) if isinstance(error, ConfigError) else error.strerror or type(error).__name__


def trust(whose: str, tls: ServerTlsConfig | ClientTlsConfig) -> Iterator[Verdict]:
    """The CAs that expire soon or have expired, and every revocation list."""
    if tls.ca_file is not None:
        found = [
            dates(_CA, f"{whose}: a CA in {tls.ca_file}", validity)
            for validity in certificate_validities(tls.ca_file)
        ]
        yield from (verdict for verdict in found if verdict.state != "ok")
    if tls.crl_file is not None:
        for validity in list_validities(tls.crl_file):
            yield dates(_LIST, f"{whose}: a list in {tls.crl_file}", validity)


def dates(kind: _Kind, whose: str, validity: Validity) -> Verdict:
    """Whether it may be used now, and for how long."""
    now = utc_now()
    until = f"{validity.not_after:%Y-%m-%d}"
    days = validity.days_left(now)
    if days < 0:
        return Verdict(kind.part, "failed", f"{whose} expired on {until}", kind.mend)
    if validity.not_before > now:
        begin = f"{validity.not_before:%Y-%m-%d %H:%M} UTC"
        return Verdict(kind.part, "failed", f"{whose} is valid from {begin} on", "check this clock")
    if days < kind.warning_days:
        found = f"{whose} expires on {until}, in {days} days"
        return Verdict(kind.part, "warning", found, kind.mend)
    return Verdict(kind.part, "ok", f"{whose} is valid until {until}")


def exposed(part: str, whose: str, file: Path) -> Iterator[Verdict]:
    """Whether others than its owner may use a file; its group may read it."""
    if file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO) & ~stat.S_IRGRP:
        found = f"{whose}: others than its owner and group may use {file}"
        yield Verdict(part, "warning", found, f"chmod 600 {file}")
