"""Whom the receiver lets in: an association is accepted or refused with the standard's reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv6Address, ip_address

from dicom_node.config_network import DicomConfig, PeerConfig


class Refusal(Enum):
    """Result, source and diagnostic of an A-ASSOCIATE-RJ (PS3.8 section 9.3.4)."""

    NOT_AUTHENTICATED = (1, 1, 1)
    CALLING_AE_TITLE_NOT_RECOGNIZED = (1, 1, 3)
    CALLED_AE_TITLE_NOT_RECOGNIZED = (1, 1, 7)
    TEMPORARY_CONGESTION = (2, 3, 1)
    LOCAL_LIMIT_EXCEEDED = (2, 3, 2)


@dataclass(frozen=True, slots=True)
class Refused:
    """The answer to a caller who stays outside, and what only our log says of the reason."""

    answer: Refusal
    detail: str


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks for an association.

    Attributes
    ----------
    calling, called
        AE titles of the request; leading and trailing spaces have no meaning (PS3.5 6.2).
    host
        Numeric IP address of the connection.
    certificate_names
        Names in the caller's verified TLS certificate, in small letters; empty: it has none.
    """

    calling: str
    called: str
    host: str
    certificate_names: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Load:
    """What is going on in this process, without the caller in question.

    Attributes
    ----------
    associations
        Open ones.
    of_peer, this_minute_of_peer
        Open ones and those begun in this minute, by entry of `dicom.peers`.
    draining
        The receiver is about to stop: the caller may come again soon.
    """

    associations: int
    of_peer: Callable[[PeerConfig], int]
    this_minute_of_peer: Callable[[PeerConfig], int]
    draining: bool


@dataclass(frozen=True, slots=True)
class Admission:
    """The receiver's rules.

    Attributes
    ----------
    ae_title
        Ours.
    peers
        Who may call, and under which conditions; empty: anybody.
    require_called_ae_title
        Whether a caller must name us by our AE title.
    max_associations
        How many may be open at a time, in this process.
    """

    ae_title: str
    peers: tuple[PeerConfig, ...]
    require_called_ae_title: bool
    max_associations: int

    @classmethod
    def from_config(cls, ae_title: str, dicom: DicomConfig) -> Admission:
        """The rules of the configuration; a bare AE title is a peer without conditions."""
        titles = tuple(PeerConfig(calling_ae_title=title) for title in dicom.calling_ae_titles)
        return cls(
            ae_title, dicom.peers + titles, dicom.require_called_ae_title, dicom.max_associations
        )

    def decide(self, caller: Caller, load: Load) -> PeerConfig | Refused | None:
        """The entry under which this caller is let in (None: there are no entries), or why not."""
        peer = self._recognise(caller)
        if isinstance(peer, Refused):
            return peer
        if self.require_called_ae_title and caller.called.strip() != self.ae_title.strip():
            return _wrong_called(f"we are {self.ae_title.strip()}")
        if load.draining:
            return Refused(Refusal.TEMPORARY_CONGESTION, "the receiver is stopping")
        if load.associations >= self.max_associations:
            return Refused(Refusal.LOCAL_LIMIT_EXCEEDED, "dicom.max_associations are open")
        return peer if peer is None else _within_limits(peer, load)

    def _recognise(self, caller: Caller) -> PeerConfig | Refused | None:
        """The first entry that fits; a stranger hears nothing of how near the caller came."""
        if not self.peers:
            return None
        title = caller.calling.strip()
        fitting = [peer for peer in self.peers if peer.calling_ae_title.strip() == title]
        if not fitting:
            return _unknown("its AE title is in neither dicom.peers nor dicom.calling_ae_titles")
        fitting = [peer for peer in fitting if _is_from(peer, caller.host)]
        if not fitting:
            return _unknown("dicom.peers does not list its address for this AE title")
        fitting = [peer for peer in fitting if _is_certified(peer, caller.certificate_names)]
        if not fitting:
            return _unknown("its TLS certificate is not the one that dicom.peers names")
        for peer in fitting:
            if peer.called_ae_title in (None, caller.called.strip()):
                return peer
        return _wrong_called("dicom.peers gives it another called AE title")


def _unknown(detail: str) -> Refused:
    return Refused(Refusal.CALLING_AE_TITLE_NOT_RECOGNIZED, detail)


def _wrong_called(detail: str) -> Refused:
    return Refused(Refusal.CALLED_AE_TITLE_NOT_RECOGNIZED, detail)


def _is_from(peer: PeerConfig, host: str) -> bool:
    address = plain_address(host)
    return not peer.addresses or any(address in network for network in peer.addresses)


def plain_address(host: str) -> IPv4Address | IPv6Address:
    """The address as people write it: a socket of both families shows 10.0.0.1 as ::ffff:a00:1."""
    address = ip_address(host)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _is_certified(peer: PeerConfig, names: frozenset[str]) -> bool:
    return peer.certificate_name is None or peer.certificate_name.lower() in names


def _within_limits(peer: PeerConfig, load: Load) -> PeerConfig | Refused:
    most, rate = peer.max_associations, peer.associations_per_minute
    if most is not None and load.of_peer(peer) >= most:
        return Refused(Refusal.LOCAL_LIMIT_EXCEEDED, "its max_associations are open")
    if rate is not None and load.this_minute_of_peer(peer) >= rate:
        return Refused(Refusal.TEMPORARY_CONGESTION, "its associations_per_minute are used up")
    return peer
