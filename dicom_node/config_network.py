"""Settings of the DICOM door: TLS for either role and the list of senders that may connect."""

from __future__ import annotations

from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from dicom_node.domain.clock import LONGEST_WAIT

AeTitle = Annotated[str, Field(min_length=1, max_length=16, pattern=r"^[\x20-\x5b\x5d-\x7e]+$")]


def _number_of_seconds(value: Any) -> Any:
    # Environment variables are text: "20" means 20 s, as the number 20 does in the file.
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _absolute(value: Path) -> Path:
    return value.expanduser().absolute()


def _network(value: Any) -> Any:
    return ip_network(value) if isinstance(value, str) else value  # its errors name the mistake


Duration = Annotated[timedelta, BeforeValidator(_number_of_seconds)]
Port = Annotated[int, Field(ge=0, le=65535)]
Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(_network)]
FilePath = Annotated[Path, AfterValidator(_absolute)]


class Section(BaseModel):
    """One part of the settings: frozen, and a key that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ServerTlsConfig(Section):
    """DICOM TLS of the C-STORE SCP (PS3.15 B.12)."""

    port: Port = 2762
    certificate_file: FilePath
    private_key_file: FilePath
    ca_file: FilePath | None = None
    client_certificates: Literal["required", "optional", "none"] = "required"

    @model_validator(mode="after")
    def _knows_whom_to_trust(self) -> ServerTlsConfig:
        if self.client_certificates != "none" and self.ca_file is None:
            raise ValueError(
                "ca_file must name the CA of the senders' certificates; "
                "without one set client_certificates to none"
            )
        return self


class ClientTlsConfig(Section):
    """DICOM TLS of a destination (PS3.15 B.12)."""

    ca_file: FilePath | None = None
    certificate_file: FilePath | None = None
    private_key_file: FilePath | None = None
    server_name: Annotated[str, Field(min_length=1)] | None = None
    verify_host_name: bool = True

    @model_validator(mode="after")
    def _has_both_halves(self) -> ClientTlsConfig:
        if (self.certificate_file is None) != (self.private_key_file is None):
            raise ValueError("certificate_file and private_key_file go together")
        return self


class ConfirmationConfig(Section):
    """When a destination counts as having an object, and how it is asked.

    Attributes
    ----------
    confirm
        `status`: success of the C-STORE; else that, and then the answer to storage commitment or
        to a C-FIND.
    commitment_within
        An unanswered request for commitment is made again after this time.
    commitment_wait
        How long the association of the request is kept open for an answer on it.
    query_after
        From the C-STORE to the first C-FIND.
    """

    confirm: Literal["status", "storage_commitment", "query"] = "status"
    commitment_within: Duration = Field(default=timedelta(minutes=15), le=LONGEST_WAIT)
    commitment_wait: Duration = timedelta(seconds=2)
    query_after: Duration = Field(default=timedelta(seconds=10), le=LONGEST_WAIT)


class PeerConfig(Section):
    """A sender that may connect, from where, and how much of the receiver it may use."""

    calling_ae_title: AeTitle
    addresses: tuple[Network, ...] = ()
    called_ae_title: AeTitle | None = None
    certificate_name: Annotated[str, Field(min_length=1)] | None = None
    max_associations: Annotated[int, Field(ge=1)] | None = None
    associations_per_minute: Annotated[int, Field(ge=1)] | None = None


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
