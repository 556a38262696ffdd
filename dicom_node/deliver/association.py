"""One association with a destination; every way in which it can fail has a plain sentence.

It overrides internals of the pinned pynetdicom: nothing else on the sending side touches them.
"""

from __future__ import annotations

import socket
import ssl
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from pydicom.uid import UID
from pynetdicom.ae import ApplicationEntity as AE
from pynetdicom.association import Association
from pynetdicom.events import EVT_CONN_CLOSE, EVT_CONN_OPEN, Event, EventHandlerType
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AddressInformation, AssociationSocket

from dicom_node.config_destinations import DestinationConfig
from dicom_node.deliver.pause import ReactorPause
from dicom_node.deliver.unreachable import why_no_connection
from dicom_node.deliver.watch import AssociationWatch
from dicom_node.dimse import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    UNLIMITED_PDU,
    DimseSocket,
    PatientStateMachine,
    prepare_pynetdicom,
    prepare_socket,
)
from dicom_node.errors import ConfigError, DeliveryRejected, DestinationUnavailable
from dicom_node.tls import client_context


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
    """Our side as a requestor, for one association."""

    called: str = ""
    connection: _Connection | None = None
    watch: AssociationWatch | None = None

    def _create_socket(
        self, assoc: Association, address: AddressInformation, tls_args: Any
    ) -> AssociationSocket:
        self.connection = _Connection(assoc, address=address)
        self.connection.tls_args = tls_args
        assoc.dul.state_machine = PatientStateMachine(assoc.dul)
        assoc._reactor_checkpoint = ReactorPause(assoc)
        self.watch = AssociationWatch(assoc, self.called)
        return self.connection

    def connection_lost(self, _event: Event) -> None:
        """On EVT_CONN_CLOSE: let nobody wait for an answer."""
        if self.watch is not None:
            self.watch.connection_lost()

    def close(self) -> None:
        """End the watch and, where the peer has gone first and the library left it, the socket."""
        if self.watch is not None:
            self.watch.done()
        if self.connection is not None and self.connection.socket is not None:
            self.connection.socket.close()


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
    prepare_pynetdicom()
    entity = _Entity(ae_title=calling_ae_title)
    entity.called = destination.ae_title
    try:
        association = _request(entity, destination, contexts, roles, handlers)
        try:
            yield association
        except BaseException:
            association.abort()
            raise
        if association.is_established:
            association.release()
    finally:
        entity.close()


def _request(
    entity: _Entity,
    destination: DestinationConfig,
    contexts: Sequence[PresentationContext],
    roles: Sequence[SCP_SCU_RoleSelectionNegotiation],
    handlers: Sequence[EventHandlerType],
) -> Association:
    response_seconds = destination.response_timeout.total_seconds()
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
                (EVT_CONN_CLOSE, entity.connection_lost),
            ],
        )
    except socket.gaierror as error:
        raise DestinationUnavailable(_why_no_connection(destination, error)) from error
    if association.is_established:
        return association
    failure = None if entity.connection is None else entity.connection.failure
    if failure is not None:
        raise DestinationUnavailable(_why_no_connection(destination, failure)) from failure
    waited = time.monotonic() - started
    raise _why_no_association(association, destination, entity.ae_title, waited)


def _tls_args(destination: DestinationConfig) -> tuple[ssl.SSLContext, str] | None:
    """Context and expected name; read for each association, so that renewed files are used."""
    if destination.tls is None:
        return None
    try:
        context = client_context(destination.tls)
    except ConfigError as error:
        raise DestinationUnavailable(f"{_name(destination)}: {error}") from error
    return context, destination.tls.server_name or destination.host


def _name(destination: DestinationConfig) -> str:
    return f"{destination.ae_title} at {destination.host}:{destination.port}"


def _why_no_connection(destination: DestinationConfig, failure: OSError) -> str:
    return why_no_connection(
        _name(destination),
        failure,
        limit_seconds=destination.connect_timeout.total_seconds(),
        tls=destination.tls is not None,
    )


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
    if association.rejected_contexts and not association.accepted_contexts:
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
