"""What `check` looks at where strangers knock: certificates, their dates, keys, users."""

from __future__ import annotations

import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dicom_node.config import DestinationConfig, NodeConfig
from dicom_node.process import utc_now
from dicom_node.tls import Validity, certificate_validity, server_context, shown_certificate

EXPIRY_WARNING_DAYS = 30


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found about one part, and what to do if it is not well."""

    part: str
    state: Literal["ok", "warning", "failed"]
    found: str
    mend: str = ""


def ports(settings: NodeConfig) -> Iterator[Verdict]:
    """Who answers on the DICOM ports."""
    tls = settings.dicom.tls
    for part, port in (
        ("dicom port", settings.dicom.port),
        ("tls port", None if tls is None else tls.port),
    ):
        if port is None:
            continue
        place = f"{settings.dicom.host}:{port}"
        try:
            with socket.create_connection((settings.dicom.host, port), timeout=1):
                yield Verdict(part, "ok", f"{place} answers")
        except OSError:
            yield Verdict(part, "ok", f"{place} is free; the node is not running there")


def door(settings: NodeConfig) -> Iterator[Verdict]:
    """The receiver's certificate and key, and the users file."""
    tls = settings.dicom.tls
    if tls is not None:
        server_context(tls)
        yield _dates("certificate", "dicom.tls", certificate_validity(tls.certificate_file))
        yield from _exposed_key("dicom.tls", tls.private_key_file)
    if settings.dicom.users_file is not None:
        from dicom_node.receive.users import load_users

        users = load_users(settings.dicom.users_file)
        yield Verdict("users", "ok", f"{len(users)} in {settings.dicom.users_file}")


def destination_certificates(name: str, peer: DestinationConfig) -> Iterator[Verdict]:
    """The dates of both certificates of a destination that answers."""
    if peer.tls is None:
        return
    seconds = peer.connect_timeout.total_seconds()
    theirs, version = shown_certificate(peer.host, peer.port, peer.tls, seconds)
    yield _dates("certificate", f"{name} ({version})", theirs)
    if peer.tls.certificate_file is not None and peer.tls.private_key_file is not None:
        ours = certificate_validity(peer.tls.certificate_file)
        yield _dates("certificate", f"ours for {name}", ours)
        yield from _exposed_key(f"destinations.{name}.tls", peer.tls.private_key_file)


def _dates(part: str, whose: str, validity: Validity) -> Verdict:
    now = utc_now()
    until = f"{validity.not_after:%Y-%m-%d}"
    days = validity.days_left(now)
    if days < 0:
        return Verdict(part, "failed", f"{whose}: expired on {until}", "have it renewed")
    if validity.not_before > now:
        begin = f"{validity.not_before:%Y-%m-%d %H:%M} UTC"
        return Verdict(part, "failed", f"{whose}: valid from {begin} on", "check this clock")
    if days < EXPIRY_WARNING_DAYS:
        return Verdict(
            part, "warning", f"{whose}: expires on {until}, in {days} days", "have it renewed"
        )
    return Verdict(part, "ok", f"{whose}: valid until {until}")


def _exposed_key(whose: str, private_key_file: Path) -> Iterator[Verdict]:
    if private_key_file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO) & ~stat.S_IRGRP:
        found = f"{whose}: others than its owner and group may use {private_key_file}"
        yield Verdict("private key", "warning", found, f"chmod 600 {private_key_file}")
