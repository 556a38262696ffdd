"""One association with a destination; every way in which it can fail has a plain sentence."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.events import EVT_CONN_OPEN, Event
from pynetdicom.presentation import PresentationContext

from dicom_node.config import DestinationConfig
from dicom_node.dimse import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    UNLIMITED_PDU,
    prepare_pynetdicom,
    prepare_socket,
)
from dicom_node.errors import DeliveryRejected, DestinationUnavailable

_PROBE_SECONDS = 2.0


@contextmanager
def associate(
    destination: DestinationConfig,
    calling_ae_title: str,
    contexts: Sequence[PresentationContext],
) -> Iterator[Association]:
    """An open association; released at the end, aborted if the body fails.

    Raises
    ------
    DestinationUnavailable
        No connection, refused or unanswered; says what to mend.
    DeliveryRejected
        The destination accepts none of the presentation contexts.
    """
    association = _request(destination, calling_ae_title, contexts)
    try:
        yield association
    except BaseException:
        association.abort()
        raise
    else:
        if association.is_established:
            association.release()
    finally:
        _close_socket(association)


def _request(
    destination: DestinationConfig,
    calling_ae_title: str,
    contexts: Sequence[PresentationContext],
) -> Association:
    prepare_pynetdicom()
    response_seconds = destination.response_timeout.total_seconds()
    entity = AE(ae_title=calling_ae_title)
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    entity.connection_timeout = destination.connect_timeout.total_seconds()
    entity.acse_timeout = entity.dimse_timeout = response_seconds
    entity.network_timeout = None  # the sender decides when to end; reads and writes have limits
    connected: list[bool] = []

    def on_connected(event: Event) -> None:
        connected.append(True)
        prepare_socket(event, response_seconds)

    started = time.monotonic()
    try:
        association = entity.associate(
            destination.host,
            destination.port,
            contexts=list(contexts),
            ae_title=destination.ae_title,
            max_pdu=UNLIMITED_PDU,
            evt_handlers=[(EVT_CONN_OPEN, on_connected)],
        )
    except socket.gaierror as error:
        raise DestinationUnavailable(
            f"{destination.host}: the host name cannot be resolved; correct the host"
        ) from error
    if association.is_established:
        return association
    waited = time.monotonic() - started
    _close_socket(association)
    raise _explain(
        association, destination, calling_ae_title, connected=bool(connected), waited=waited
    )


def _close_socket(association: Association) -> None:
    """pynetdicom leaves a socket open whose peer has gone."""
    wrapper = association.dul.socket
    if wrapper is not None and wrapper.socket is not None:
        wrapper.socket.close()


def _explain(
    association: Association,
    destination: DestinationConfig,
    calling_ae_title: str,
    *,
    connected: bool,
    waited: float,
) -> DestinationUnavailable | DeliveryRejected:
    """Why there is no association, after `waited` seconds."""
    name = f"{destination.ae_title} at {destination.host}:{destination.port}"
    limit = destination.response_timeout.total_seconds()
    if not connected:
        return DestinationUnavailable(f"{name} {_why_no_connection(destination, waited)}")
    if association.is_rejected:
        reason = _why_rejected(association, destination, calling_ae_title)
        return DestinationUnavailable(f"{name} {reason}")
    if association.rejected_contexts:
        return DeliveryRejected(f"{name} accepts none of the SOP classes and transfer syntaxes")
    if waited >= limit:
        return DestinationUnavailable(
            f"{name} took the connection but did not answer the association request "
            f"within {limit:g} s; is it a DICOM port?"
        )
    return DestinationUnavailable(
        f"{name} closed the connection instead of accepting the association; "
        "is it a DICOM port without TLS?"
    )


def _why_no_connection(destination: DestinationConfig, waited_seconds: float) -> str:
    """pynetdicom only logs why it could not connect: ask once more, shortly."""
    limit = destination.connect_timeout.total_seconds()
    silent = f"did not answer within {limit:g} s; check host, port and firewall"
    if waited_seconds >= limit:
        return silent
    try:
        with socket.create_connection((destination.host, destination.port), _PROBE_SECONDS):
            return "could not be connected to a moment ago but can now; try again"
    except ConnectionRefusedError:
        return "refused the connection; is it running, and is the port right?"
    except TimeoutError:
        return silent
    except OSError as error:
        return f"cannot be reached ({error.strerror}); check host, port and network"


def _why_rejected(
    association: Association, destination: DestinationConfig, calling_ae_title: str
) -> str:
    answer = association.acceptor.primitive
    source = None if answer is None else answer.result_source
    diagnostic = None if answer is None else answer.diagnostic
    match (source, diagnostic):  # PS3.8 section 9.3.4
        case (1, 7):
            return (
                f"does not recognise its AE title as {destination.ae_title}; "
                "correct the destination's ae_title"
            )
        case (1, 3):
            return (
                f"does not recognise our AE title {calling_ae_title}; "
                "register it there, with this machine's address"
            )
        case (3, 1) | (3, 2):
            return "takes no more associations now; it will be tried again"
    return f"rejected the association (source {source}, diagnostic {diagnostic})"
