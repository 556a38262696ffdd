"""The receiver's answer to an association request, and who is inside."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Hashable
from typing import cast

import structlog
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_ASSOCIATE, UserIdentityNegotiation
from pynetdicom.transport import AddressInformation

from dicom_node.config_network import DicomConfig, PeerConfig
from dicom_node.observe.audit import Audit, AuditEvent, Outcome, Who
from dicom_node.receive.admission import Admission, Caller, Load, Refusal, Refused, plain_address
from dicom_node.receive.limits import PerMinute, SparseLog
from dicom_node.receive.part10 import Peer
from dicom_node.receive.users import Identity, UserCheck
from dicom_node.tls_certificates import certificate_names

_log = structlog.get_logger()


class Door:
    """Lets associations in by the rules, answers the others, and keeps count.

    Parameters
    ----------
    sparse_log
        Decides which of the lines about refused callers are written.

    Raises
    ------
    ConfigError
        `dicom.users_file` is not usable.
    """

    def __init__(
        self, ae_title: str, dicom: DicomConfig, sparse_log: SparseLog, audit: Audit
    ) -> None:
        self._admission = Admission.from_config(ae_title, dicom)
        self._users = UserCheck(dicom.users_file, required=dicom.require_user_identity)
        self._sparse_log = sparse_log
        self._audit = audit
        self._lock = threading.Lock()
        self._inside: dict[Association, PeerConfig | None] = {}
        self._begun = PerMinute()
        self._images_per_second = dicom.images_per_second
        self.draining = False

    def answer(self, association: Association) -> Peer | None:
        """On EVT_REQUESTED: let the caller in, or refuse the association; None: refused."""
        caller, peer = _caller_of(association)
        refused = self._enter(association, caller)
        user = None
        if refused is None:
            verdict = self._users.judge(_identity_of(association), caller.host)
            user = verdict.user
            if verdict.refused:
                self.leave(association)
                refused = Refused(Refusal.NOT_AUTHENTICATED, verdict.refused)
        if refused is not None:
            self._refuse(association, caller, refused)
            return None
        _confirm_identity(association, user)
        channel = _tls_of(association)
        _log.info(
            "association accepted",
            action="association_accepted",
            calling_ae_title=peer.calling_ae_title,
            host=peer.host,
            tls=channel.version() if channel else None,
            certificate=sorted(caller.certificate_names),
            user=user,
        )
        self._audit.record(
            AuditEvent.ASSOCIATION_ACCEPTED,
            who=Who(ae_title=peer.calling_ae_title, user=user, host=peer.host),
            called_ae_title=peer.called_ae_title,
            tls=channel.version() if channel else None,
            certificate=", ".join(sorted(caller.certificate_names)) or None,
        )
        return peer

    def pace_of(self, association: Association, host: str) -> tuple[Hashable, float] | None:
        """Who an association counts as, and how many images a second they may send; None: any."""
        with self._lock:
            entry = self._inside.get(association)
        own = None if entry is None else entry.images_per_second
        rate = own or self._images_per_second
        return None if rate is None else (host if entry is None else entry, rate)

    def leave(self, association: Association) -> None:
        """The association is at its end, or stays outside after all."""
        with self._lock:
            self._inside.pop(association, None)

    def _enter(self, association: Association, caller: Caller) -> Refused | None:
        with self._lock:
            load = Load(
                associations=len(self._inside),
                of_peer=lambda peer: sum(other == peer for other in self._inside.values()),
                this_minute_of_peer=self._begun.seen,
                draining=self.draining,
            )
            decision = self._admission.decide(caller, load)
            if isinstance(decision, Refused):
                return decision
            self._inside[association] = decision
            if decision is not None:
                self._begun.count(decision)
            return None

    def _refuse(self, association: Association, caller: Caller, refused: Refused) -> None:
        reason = refused.answer.name.lower()
        unlogged = self._sparse_log.admit(caller.host, reason, refused.detail)
        if unlogged is not None:
            _log.warning(
                "association refused",
                action="association_refused",
                reason=reason,
                detail=refused.detail,
                calling_ae_title=caller.calling.strip(),
                called_ae_title=caller.called.strip(),
                host=caller.host,
                unlogged=unlogged,
            )
            self._audit.record(
                AuditEvent.ASSOCIATION_REFUSED,
                outcome=Outcome.SERIOUS_FAILURE,
                who=Who(ae_title=caller.calling.strip(), host=caller.host),
                reason=reason,
                detail=refused.detail,
                called_ae_title=caller.called.strip(),
                unrecorded=unlogged,
            )
        association.acse.send_reject(*refused.answer.value)
        association.kill()


def _caller_of(association: Association) -> tuple[Caller, Peer]:
    request = cast(A_ASSOCIATE, association.requestor.primitive)
    address = cast(AddressInformation, association.requestor.address_info)
    channel = _tls_of(association)
    caller = Caller(
        calling=request.calling_ae_title,
        called=request.called_ae_title,
        host=str(plain_address(address.address)),
        certificate_names=certificate_names(channel.getpeercert()) if channel else frozenset(),
    )
    peer = Peer(
        calling_ae_title=request.calling_ae_title.strip(),
        called_ae_title=request.called_ae_title.strip(),
        host=address.address,
        port=address.port,
    )
    return caller, peer


def _tls_of(association: Association) -> ssl.SSLSocket | None:
    wrapper = association.dul.socket
    connection = None if wrapper is None else wrapper.socket
    return connection if isinstance(connection, ssl.SSLSocket) else None


def _identity_of(association: Association) -> Identity | None:
    offered = association.requestor.user_identity
    if offered is None:
        return None
    return Identity(
        kind=offered.user_identity_type or 0,
        name=offered.primary_field or b"",
        passcode=offered.secondary_field or b"",
    )


def _confirm_identity(association: Association, user: str | None) -> None:
    """Answer a user's caller who asked for an answer (PS3.7 D.3.3.7.2); the library never does."""
    offered = association.requestor.user_identity
    if user is None or offered is None or not offered.positive_response_requested:
        return
    confirmation = UserIdentityNegotiation()
    confirmation.server_response = b""
    association.acceptor.add_negotiation_item(confirmation)
