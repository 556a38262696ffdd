"""What `check` looks at where strangers knock: who listens on the ports, and who may come in."""

from __future__ import annotations

import errno
import json
import socket
import urllib.request
from collections.abc import Callable, Iterator
from typing import Final

from dicom_node.cli.verdict import Verdict
from dicom_node.config import NodeConfig
from dicom_node.config_destinations import DestinationConfig
from dicom_node.config_network import ServerTlsConfig
from dicom_node.dimse import IMPLEMENTATION_CLASS_UID
from dicom_node.errors import NodeError
from dicom_node.tls import certificate_at
from dicom_node.tls_certificates import certificates_in

_SECONDS = 2.0
# What a DICOM port answers to a release of an association that there is not: A-ABORT (PS3.8 9.2.3).
_RELEASE: Final = b"\x05\x00\x00\x00\x00\x04\x00\x00\x00\x00"
_ABORT: Final = b"\x07"
_WHY_NOT_BOUND: Final = {
    errno.EACCES: ("this user may not listen there", "take a port above 1023"),
    errno.EADDRNOTAVAIL: ("no address of this machine", "correct the host"),
    errno.EADDRINUSE: ("taken by another program", "stop that, or take another port"),
}


def ports(settings: NodeConfig) -> Iterator[Verdict]:
    """Whether each port is free for the node, or has the node behind it."""
    dicom, tls, web = settings.dicom, settings.dicom.tls, settings.web
    if dicom.port:
        yield _port("dicom port", dicom.host, dicom.port, lambda: _is_node(settings))
    if tls is not None and tls.port:
        yield _port(
            "tls port",
            dicom.host,
            tls.port,
            lambda: _shows_our_certificate(settings, tls),
            other="shows another certificate than tls.certificate_file, or none",
        )
    if web.port:
        yield _port("web port", web.host, web.port, lambda: _is_our_web(settings))
    if dicom.takes_anybody:
        found = f"whoever reaches {dicom.host} may send images"
        yield Verdict("senders", "warning", found, "list the senders in dicom.peers")
    if web.is_open:
        found = f"whoever reaches {web.host}:{web.port} sees every result: there is no login"
        mend = "set web.host to 127.0.0.1; let a reverse proxy with login stand in front"
        yield Verdict("web access", "warning", found, mend)


def _port(
    part: str,
    host: str,
    port: int,
    is_ours: Callable[[], bool],
    *,
    other: str = "something else answers than this node",
) -> Verdict:
    place = f"{host}:{port}"
    try:
        socket.create_connection((host, port), _SECONDS).close()
    except OSError:
        return _free(part, place, host, port)
    try:
        if is_ours():
            return Verdict(part, "ok", f"{place}: the node answers")
    except NodeError as error:  # its own node may refuse, when it has no room: the sentence tells
        other += f" ({error})"
    except (OSError, ValueError):
        pass  # no HTTP, no TLS, no DICOM
    mend = f"`ss -ltnp sport = :{port}` names it: stop it, or take another port"
    return Verdict(part, "failed", f"{place}: {other}", mend)


def _free(part: str, place: str, host: str, port: int) -> Verdict:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        found, mend = _WHY_NOT_BOUND.get(
            error.errno or 0, (error.strerror or "not usable", "correct host and port")
        )
        return Verdict(part, "failed", f"{place}: {found}", mend)
    return Verdict(part, "ok", f"{place} is free; the node is not running there")


def _is_node(settings: NodeConfig) -> bool:
    """By its Implementation Class UID; where only some may ask for it, that it speaks DICOM."""
    from dicom_node.deliver.probe import implementation_behind

    dicom = settings.dicom
    assert dicom.port is not None, "asked for by port"
    if dicom.peers or dicom.calling_ae_titles or dicom.require_user_identity:
        with socket.create_connection((dicom.host, dicom.port), _SECONDS) as connection:
            connection.sendall(_RELEASE)
            return connection.recv(1) == _ABORT
    node = DestinationConfig(
        ae_title=settings.ae_title,
        host=dicom.host,
        port=dicom.port,
        connect_timeout=_SECONDS,
        response_timeout=_SECONDS,
    )
    return implementation_behind(node, settings.ae_title) == IMPLEMENTATION_CLASS_UID


def _shows_our_certificate(settings: NodeConfig, tls: ServerTlsConfig) -> bool:
    shown = certificate_at(settings.dicom.host, tls.port, tls, _SECONDS)
    return shown == certificates_in(tls.certificate_file)[0]


def _is_our_web(settings: NodeConfig) -> bool:
    host = f"[{settings.web.host}]" if ":" in settings.web.host else settings.web.host
    request = urllib.request.Request(f"http://{host}:{settings.web.port}/healthz")
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(request, timeout=_SECONDS) as answer:
        return bool(json.load(answer) == {"status": "up"})
