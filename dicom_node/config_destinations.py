"""Settings of the destinations: where results go, and when they count as having arrived."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from dicom_node.config_network import ClientTlsConfig
from dicom_node.config_values import AeTitle, Duration, FilePath, Section
from dicom_node.domain.clock import LONGEST_WAIT
from dicom_node.errors import ConfigError


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


class DestinationConfig(ConfirmationConfig):
    """A DICOM peer that takes results."""

    ae_title: AeTitle
    host: str
    port: Annotated[int, Field(ge=1, le=65535)]
    connect_timeout: Duration = timedelta(seconds=10)
    response_timeout: Duration = timedelta(seconds=60)
    tls: ClientTlsConfig | None = None


def _service_url(value: str) -> str:
    """Check the URL of a DICOMweb service; what is wrong is said without repeating it."""
    if not re.fullmatch(r"https?://[!-~]+", value):
        raise ValueError("must begin with http:// or https:// and hold no spaces")
    try:
        parts = urlsplit(value)
        is_complete = bool(parts.hostname) and parts.port != 0
    except ValueError:  # its text repeats what it takes for the port
        is_complete = False
    if not is_complete:
        raise ValueError("must name a host, and if it names a port, one from 1 to 65535")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must hold no user and password; use basic_auth_file")
    if parts.query or parts.fragment:
        raise ValueError("must end with the path: no ? and no #")
    value = value.rstrip("/")
    if value.endswith("/studies"):
        raise ValueError("must be the address of the service, without /studies")
    return value


class DicomwebConfig(Section):
    """A DICOMweb service that takes results by STOW-RS (PS3.18 section 10.5).

    Attributes
    ----------
    url
        Address of the service; `/studies` follows it.
    basic_auth_file, bearer_token_file
        Hold `USER:PASSWORD` or a token; read for every request, so that renewed ones are used.
    confirm
        `status`: the answer to STOW-RS says that the object is stored; `query`: QIDO-RS finds it.
    query_after
        From the STOW-RS to the first QIDO-RS.
    """

    url: Annotated[str, AfterValidator(_service_url)]
    basic_auth_file: FilePath | None = None
    bearer_token_file: FilePath | None = None
    connect_timeout: Duration = timedelta(seconds=10)
    response_timeout: Duration = timedelta(seconds=60)
    confirm: Literal["status", "query"] = "status"
    query_after: Duration = Field(default=timedelta(seconds=10), le=LONGEST_WAIT)
    tls: ClientTlsConfig | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> DicomwebConfig:
        if self.basic_auth_file is not None and self.bearer_token_file is not None:
            raise ValueError("basic_auth_file and bearer_token_file exclude one another")
        if self.tls is not None and not self.is_encrypted:
            raise ValueError("tls needs a url that begins with https://")
        return self

    @property
    def is_encrypted(self) -> bool:
        """Whether it is spoken to over TLS."""
        return self.url.startswith("https://")

    @property
    def host(self) -> str:
        """The host of the URL."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """The port of the URL, or the usual one of its scheme."""
        return urlsplit(self.url).port or (443 if self.is_encrypted else 80)


def _kind(value: Any) -> str:
    """Which of the two a destination is: the one with a URL speaks DICOMweb."""
    if isinstance(value, Mapping):
        return "dicomweb" if "url" in value else "dimse"
    return "dicomweb" if isinstance(value, DicomwebConfig) else "dimse"


Destination = DestinationConfig | DicomwebConfig
AnyDestination = Annotated[
    Annotated[DestinationConfig, Tag("dimse")] | Annotated[DicomwebConfig, Tag("dicomweb")],
    Discriminator(_kind),
]


def parse_peer(text: str) -> DestinationConfig:
    """Read `AET@HOST:PORT`.

    Raises
    ------
    ConfigError
        Another form, an AE title over 16 characters or a port out of range.
    """
    match = re.fullmatch(r"([^@]{1,16})@(.+):(\d{1,5})", text)
    try:
        if match is None:
            raise ValueError
        return DestinationConfig(ae_title=match[1], host=match[2].strip("[]"), port=int(match[3]))
    except ValueError as error:
        raise ConfigError(f"{text!r} is not a DICOM peer; write AET@HOST:PORT") from error
