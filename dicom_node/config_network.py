"""Settings of the network: the DICOM door and who may use it, TLS for either role, syslog."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field, model_validator

from dicom_node.config_values import (
    AeTitle,
    Duration,
    FilePath,
    Network,
    Port,
    Section,
    is_loopback,
)

# Slower, a sender would take the silence before an answer for the end of the association.
ImagesPerSecond = Annotated[float, Field(ge=0.1, le=100_000)]


class ServerTlsConfig(Section):
    """DICOM TLS of the C-STORE SCP (PS3.15 B.12)."""

    port: Port = 2762
    certificate_file: FilePath
    private_key_file: FilePath
    ca_file: FilePath | None = None
    crl_file: FilePath | None = None
    client_certificates: Literal["required", "optional", "none"] = "required"

    @model_validator(mode="after")
    def _knows_whom_to_trust(self) -> ServerTlsConfig:
        if self.client_certificates != "none" and self.ca_file is None:
            raise ValueError(
                "ca_file must name the CA of the senders' certificates; "
                "without one set client_certificates to none"
            )
        if self.client_certificates == "none" and self.crl_file is not None:
            raise ValueError("crl_file judges senders' certificates: client_certificates is none")
        return self


class ClientTlsConfig(Section):
    """DICOM TLS of a destination (PS3.15 B.12)."""

    ca_file: FilePath | None = None
    crl_file: FilePath | None = None
    certificate_file: FilePath | None = None
    private_key_file: FilePath | None = None
    server_name: Annotated[str, Field(min_length=1)] | None = None
    verify_host_name: bool = True

    @model_validator(mode="after")
    def _has_both_halves(self) -> ClientTlsConfig:
        if (self.certificate_file is None) != (self.private_key_file is None):
            raise ValueError("certificate_file and private_key_file go together")
        return self


class PeerConfig(Section):
    """A sender that may connect, from where, and how much of the receiver it may use."""

    calling_ae_title: AeTitle
    addresses: tuple[Network, ...] = ()
    called_ae_title: AeTitle | None = None
    certificate_name: Annotated[str, Field(min_length=1)] | None = None
    max_associations: Annotated[int, Field(ge=1)] | None = None
    associations_per_minute: Annotated[int, Field(ge=1)] | None = None
    images_per_second: ImagesPerSecond | None = None


class DicomConfig(Section):
    """The C-STORE SCP."""

    host: str = "127.0.0.1"
    port: Port | None = 11112
    tls: ServerTlsConfig | None = None
    max_associations: int = Field(default=25, ge=1)
    max_connections: int = Field(default=500, ge=1)
    max_connections_per_address: int = Field(default=250, ge=1)
    images_per_second: ImagesPerSecond | None = None
    maximum_pdu_bytes: int = Field(default=1 << 20, ge=0)
    maximum_object_bytes: int = Field(default=1 << 32, ge=1)
    request_timeout: Duration = timedelta(seconds=30)
    idle_timeout: Duration = timedelta(seconds=60)
    calling_ae_titles: tuple[AeTitle, ...] = ()
    peers: tuple[PeerConfig, ...] = ()
    require_called_ae_title: bool = False
    users_file: FilePath | None = None
    require_user_identity: bool = False
    extra_storage_classes: tuple[str, ...] = ()
    storage_commitment: bool = False
    minimum_free_bytes: int = Field(default=1_000_000_000, ge=0)

    @property
    def takes_anybody(self) -> bool:
        """Whether any caller beyond this machine may send: no list, no certificate, no user."""
        listed = self.peers or self.calling_ae_titles or self.require_user_identity
        certified = (
            self.port is None
            and self.tls is not None
            and self.tls.client_certificates == "required"
        )
        return not (listed or certified or is_loopback(self.host))

    @model_validator(mode="after")
    def _can_be_met(self) -> DicomConfig:
        if self.port is None and self.tls is None:
            raise ValueError("port is null and there is no tls: nobody could connect")
        if self.require_user_identity and self.users_file is None:
            raise ValueError("require_user_identity needs users_file")
        if any(peer.certificate_name for peer in self.peers) and (
            self.tls is None or self.tls.client_certificates == "none"
        ):
            raise ValueError("a peer's certificate_name needs tls with client_certificates")
        return self


class SyslogConfig(Section):
    """A syslog server that takes audit messages over TLS (PS3.15 A.6, RFC 5425)."""

    host: str
    port: Annotated[int, Field(ge=1, le=65535)] = 6514
    tls: ClientTlsConfig = ClientTlsConfig()
    timeout: Duration = timedelta(seconds=10)


class AuditConfig(Section):
    """The audit trail; it is always written."""

    site: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    syslog: SyslogConfig | None = None
