"""What the settings are made of: sections that refuse unknown keys, and checked kinds of values."""

from __future__ import annotations

from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

AeTitle = Annotated[str, Field(min_length=1, max_length=16, pattern=r"^[\x20-\x5b\x5d-\x7e]+$")]


_MAPPED_BITS = 96  # of an IPv6 address before the IPv4 address that it maps


def _number_of_seconds(value: Any) -> Any:
    # Environment variables are text: "20" means 20 s, as the number 20 does in the file.
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _absolute(value: Path) -> Path:
    return value.expanduser().absolute()


def _network(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    network = ip_network(value)  # its errors name the mistake
    # A sender at 10.1.2.3 is that for us, by whatever socket it comes (RFC 4291 2.5.5.2).
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    if mapped is None or network.prefixlen < _MAPPED_BITS:
        return network
    return IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))


Duration = Annotated[timedelta, BeforeValidator(_number_of_seconds)]
Port = Annotated[int, Field(ge=0, le=65535)]
Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(_network)]
FilePath = Annotated[Path, AfterValidator(_absolute)]


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address that is listened on; a name is not looked up."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Section(BaseModel):
    """One part of the settings: frozen, and a key that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)
