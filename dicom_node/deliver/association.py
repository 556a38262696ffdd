"""One association with a destination; every way in which it can fail has a plain sentence.

It overrides internals of the pinned pynetdicom: nothing else on the sending side touches them.
"""

from __future__ import annotations

import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from pydicom.uid import UID
from pynetdicom.ae import ApplicationEntity as AE
from pynetdicom.association import Association
from pynetdicom.events import EVT_CONN_CLOSE, EVT_CONN_OPEN, EventHandlerType
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AddressInformation, AssociationSocket

from dicom_node.config import DestinationConfig
from dicom_node.dimse import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    UNLIMITED_PDU,
    DimseSocket,
    prepare_pynetdicom,
    prepare_socket,
)
from dicom_node.errors import ConfigError, DeliveryRejected, DestinationUnavailable
from dicom_node.tls import client_context
from dicom_node.tls_failures import explain_failure

_WAKE_SECONDS = 0.05


class _Connection(DimseSocket):
    """Our socket, which keeps why it could not connect and is closed in every case."""

    def _shutdown_socket(self) -> None:
        error = sys.exception()
        if isinstance(error, OSError) and not self._is_connected:
            self.failure = error  # called while the library handles what connect() raised
        if self.socket is not None:
            with suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)
            self.socket.close()


class _Entity(AE):
    """Our side as a requestor."""

    connection: _Connection | None = None

    def _create_socket(
        self, assoc: Association, address: AddressInformation, tls_args: Any
    ) -> AssociationSocket:
        self.connection = _Connection(assoc, address=address)
        self.connection.tls_args = tls_args
        return self.connection


@contextmanager
def associate(
    destination: DestinationConfig,
    calling_ae_title: str,
    contexts: Sequence[PresentationContext],
    *,
    roles: Sequence[SCP_SCU_RoleSelectionNegotiation] = (),
    handlers: Sequence[EventHandlerType] = (),
) -> Iterator[Association]:
    """An open association; released at the end, aborted if the body fails.

    Parameters
    ----------
    roles
        SOP classes whose roles are not the usual ones: requestor SCU, acceptor SCP.
    handlers
        What to do with requests that the destination sends on it.

    Raises
    ------
    DestinationUnavailable
        No connection, refused or unanswered; says what to mend.
    DeliveryRejected
        The destination accepts none of the presentation contexts.
    """
    done = threading.Event()
    association = _request(destination, calling_ae_title, contexts, roles, handlers, done)
    try:
        yield association
    except BaseException:
        association.abort()
        raise
    else:
        if association.is_established:
            association.release()
    finally:
        done.set()
        _close_socket(association)


def _request(
    destination: DestinationConfig,
    calling_ae_title: str,
    contexts: Sequence[PresentationContext],
    roles: Sequence[SCP_SCU_RoleSelectionNegotiation],
    handlers: Sequence[EventHandlerType],
    done: threading.Event,
) -> Association:
    prepare_pynetdicom()
    response_seconds = destination.response_timeout.total_seconds()
    entity = _Entity(ae_title=calling_ae_title)
    entity.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    entity.connection_timeout = destination.connect_timeout.total_seconds()
    entity.acse_timeout = entity.dimse_timeout = response_seconds
    entity.network_timeout = None  # the sender decides when to end; reads and writes have limits
    tls_args = _tls_args(destination)
    started = time.monotonic()
    try:
        association = entity.associate(
            destination.host,
            destination.port,
            contexts=list(contexts),
            ae_title=destination.ae_title,
            max_pdu=UNLIMITED_PDU,
            tls_args=tls_args,
            ext_neg=list(roles) or None,
            evt_handlers=[
                *handlers,
                (EVT_CONN_OPEN, lambda event: prepare_socket(event, response_seconds)),
                (EVT_CONN_CLOSE, lambda event: _wake_until(event.assoc, done)),
            ],
        )
    except socket.gaierror as error:
        raise DestinationUnavailable(
            f"{destination.host}: the host name cannot be resolved; correct the host"
        ) from error
    if association.is_established:
        return association
    done.set()
    _close_socket(association)
    failure = None if entity.connection is None else entity.connection.failure
    if failure is not None:
        raise DestinationUnavailable(_why_no_connection(destination, failure)) from failure
    waited = time.monotonic() - started
    raise _why_no_association(association, destination, calling_ae_title, waited)


def _tls_args(destination: DestinationConfig) -> tuple[ssl.SSLContext, str] | None:
    """Context and expected name; read for each association, so that renewed files are used."""
    if destination.tls is None:
        return None
    try:
        context = client_context(destination.tls)
    except ConfigError as error:
        raise DestinationUnavailable(f"{_name(destination)}: {error}") from error
    return context, destination.tls.server_name or destination.host


def _wake_until(association: Association, done: threading.Event) -> None:
    """Keep telling whoever waits for an answer that the connection is gone.

    The library tells it once, and where its reactor takes that, a request begun in the same
    moment waits for its whole time-out.
    """

    def wake() -> None:
        while not done.wait(_WAKE_SECONDS):
            association.dimse.msg_queue.put((None, None))

    threading.Thread(target=wake, name="connection-lost", daemon=True).start()


def _close_socket(association: Association) -> None:
    """Where the peer has gone first, the library may leave its socket open."""
    wrapper = association.dul.socket
    if wrapper is not None and wrapper.socket is not None:
        wrapper.socket.close()


def _name(destination: DestinationConfig) -> str:
    return f"{destination.ae_title} at {destination.host}:{destination.port}"


def _why_no_connection(destination: DestinationConfig, failure: OSError) -> str:
    name = _name(destination)
    if isinstance(failure, ConnectionRefusedError):
        return f"{name} refused the connection; is it running, and is the port right?"
    if isinstance(failure, TimeoutError):
        limit = destination.connect_timeout.total_seconds()
        return f"{name} did not answer within {limit:g} s; check host, port and firewall"
    if destination.tls is not None and isinstance(failure, ssl.SSLError | ConnectionResetError):
        explained = explain_failure(failure)
        return f"{name}: {explained.found}; {explained.remedy}"
    return f"{name} cannot be reached ({failure.strerror}); check host, port and network"


def _why_no_association(
    association: Association,
    destination: DestinationConfig,
    calling_ae_title: str,
    waited_seconds: float,
) -> DestinationUnavailable | DeliveryRejected:
    name = _name(destination)
    limit = destination.response_timeout.total_seconds()
    if association.is_rejected:
        reason = _why_rejected(association, destination, calling_ae_title)
        return DestinationUnavailable(f"{name} {reason}")
    if association.rejected_contexts:
        return DeliveryRejected(f"{name} accepts none of the SOP classes and transfer syntaxes")
    if waited_seconds >= limit:
        return DestinationUnavailable(
            f"{name} took the connection but did not answer the association request "
            f"within {limit:g} s; is it a DICOM port?"
        )
    return DestinationUnavailable(
        f"{name} closed the connection instead of accepting the association; is it a DICOM port "
        f"{'without' if destination.tls is None else 'with'} TLS?"
    )


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
