"""The node's settings: read once, frozen, handed down.

Precedence, strongest first: command-line flags, environment (`DICOM_NODE_DICOM__PORT=104`),
the YAML file, the defaults below. `config/node.yaml` comments every key. Unknown keys are refused.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)

from dicom_node.config_destinations import AnyDestination, Destination, parse_peer
from dicom_node.config_network import AuditConfig, DicomConfig
from dicom_node.config_values import AeTitle, Duration, Port, Section, is_loopback
from dicom_node.domain.clock import LONGEST_LEASE, LONGEST_WAIT
from dicom_node.errors import ConfigError
from dicom_node.paths import SHIPPED_CONFIG, SHIPPED_MODELS


class WebConfig(Section):
    """The HTTP server: health, metrics, jobs; port 0 takes a free one, None starts none."""

    host: str = "127.0.0.1"
    port: Port | None = 8080

    @property
    def is_open(self) -> bool:
        """Whether other machines reach it: it has no login."""
        return self.port is not None and not is_loopback(self.host)


class CompletionConfig(Section):
    """When a study counts as complete."""

    after_release: Duration = timedelta(seconds=2)
    quiet: Duration = timedelta(seconds=20)
    upper_limit: Duration = timedelta(minutes=10)


class ScoringConfig(Section):
    """The scorer."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = Field(default=0, ge=0)
    batch_size: int = Field(default=16, ge=1)
    lease: Duration = Field(default=timedelta(seconds=30), le=LONGEST_LEASE)
    max_attempts: int = Field(default=2, ge=1)
    job_timeout: Duration = timedelta(minutes=15)
    job_memory_bytes: int = Field(default=0, ge=0)


class ReportConfig(Section):
    """What the result objects say of their maker."""

    manufacturer: str = Field(default="dicom_node", max_length=64)
    product_name: str = Field(default="dicom_node", max_length=64)
    device_serial_number: str = Field(default="1", max_length=64)
    series_number_base: int = Field(default=9000, ge=0, le=2_147_483_000)
    validate_results: bool = True


class DeliveryConfig(Section):
    """Retry of deliveries: waits double from `first` to `ceiling` until `give_up_after`."""

    first: Duration = timedelta(seconds=5)
    ceiling: Duration = Field(default=timedelta(minutes=15), le=LONGEST_WAIT)
    give_up_after: Duration = timedelta(hours=24)


class RetentionConfig(Section):
    """How long files are kept once nobody waits for them (`domain.retention`); None: for ever."""

    delivered: Duration | None = None
    refused: Duration | None = None
    waived: Duration | None = None
    quarantined: Duration | None = None
    minimum_free_bytes: int = Field(default=0, ge=0)
    interval: Duration = timedelta(minutes=1)


class LogConfig(Section):
    """Log format and level."""

    format: Literal["console", "json"] = "console"
    level: Literal["debug", "info", "warning", "error"] = "info"


class NodeConfig(BaseSettings):
    """Every setting of the node; frozen."""

    model_config = SettingsConfigDict(
        env_prefix="DICOM_NODE_",
        env_nested_delimiter="__",
        env_parse_none_str="null",
        extra="forbid",
        frozen=True,
    )

    home: Path = Path("var")
    ae_title: AeTitle = "DICOM_NODE"
    database_url: SecretStr | None = None
    models_dir: Path = SHIPPED_MODELS
    routes_file: Path = SHIPPED_CONFIG / "routes.yaml"
    dicom: DicomConfig = DicomConfig()
    web: WebConfig = WebConfig()
    destinations: dict[str, AnyDestination] = Field(default_factory=dict)
    send_to: Annotated[tuple[str, ...], NoDecode] = ()
    completion: CompletionConfig = CompletionConfig()
    scoring: ScoringConfig = ScoringConfig()
    report: ReportConfig = ReportConfig()
    delivery: DeliveryConfig = DeliveryConfig()
    retention: RetentionConfig = RetentionConfig()
    audit: AuditConfig = AuditConfig()
    log: LogConfig = LogConfig()

    @model_validator(mode="after")
    def _prunes_before_it_refuses(self) -> NodeConfig:
        if 0 < self.retention.minimum_free_bytes <= self.dicom.minimum_free_bytes:
            raise ValueError(
                "retention.minimum_free_bytes must be above dicom.minimum_free_bytes "
                f"({self.dicom.minimum_free_bytes}), or images are refused before anything goes"
            )
        return self

    @model_validator(mode="after")
    def _keeps_what_it_vouches_for(self) -> NodeConfig:
        retention = self.retention
        prunes = retention.delivered, retention.refused, retention.waived
        if self.dicom.storage_commitment and (any(prunes) or retention.minimum_free_bytes):
            raise ValueError(
                "dicom.storage_commitment promises senders to keep their images and retention "
                "gives them up: switch one of them off"
            )
        return self

    @field_validator("send_to", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        # One environment variable or flag may hold several, separated by commas.
        return [item.strip() for item in value.split(",")] if isinstance(value, str) else value

    @field_validator("home", "models_dir", "routes_file")
    @classmethod
    def _expand(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @property
    def sqlalchemy_url(self) -> str:
        """The database URL; by default SQLite at `<home>/node.db`."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.home / 'node.db'}"

    @property
    def peers(self) -> dict[str, Destination]:
        """Every destination by name: those configured, and AET@HOST:PORT given in `send_to`."""
        inline = {name: parse_peer(name) for name in self.send_to if "@" in name}
        return self.destinations | {peer.ae_title: peer for peer in inline.values()}

    @property
    def default_destinations(self) -> tuple[str, ...]:
        """Names under `peers` (or "sender") to which routes send that name none."""
        return tuple(parse_peer(name).ae_title if "@" in name else name for name in self.send_to)

    @property
    def inbox_dir(self) -> Path:
        """Where the receiver writes; a write-ahead log of files."""
        return self.home / "inbox"

    @property
    def audit_dir(self) -> Path:
        """Where the audit trail lies, for the node's own user alone."""
        return self.home / "audit"

    @property
    def store_dir(self) -> Path:
        """Where instances, predictions and results are kept."""
        return self.home / "store"

    @property
    def commitment_dir(self) -> Path:
        """Where receiver and courier hand each other storage commitment."""
        return self.home / "commitment"


def _found_config_file(home: Any) -> Path | None:
    """`DICOM_NODE_CONFIG_FILE`, else `node.yaml` in the home folder that the caller or
    `DICOM_NODE_HOME` names, if it is there."""
    if named := os.environ.get("DICOM_NODE_CONFIG_FILE"):
        return Path(named)
    home = home or os.environ.get("DICOM_NODE_HOME")
    candidate = Path(home) / "node.yaml" if home else None
    return candidate if candidate is not None and candidate.is_file() else None


def load_config(
    config_file: Path | None = None, overrides: Mapping[str, Any] | None = None
) -> NodeConfig:
    """Read the settings from flags (`overrides`, nested), environment and file.

    Parameters
    ----------
    config_file
        YAML; None: `<home>/node.yaml` if that exists, else defaults alone.

    Raises
    ------
    ConfigError
        A missing file, broken YAML, an unknown key or a bad value; all of them at once.
    """
    overrides = dict(overrides or {})
    if config_file is None:
        config_file = _found_config_file(overrides.get("home"))
    if config_file is not None and not config_file.is_file():
        raise ConfigError(f"{config_file}: no such configuration file")

    class _Loader(NodeConfig):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            if config_file is None:
                return init_settings, env_settings
            return (
                init_settings,
                env_settings,
                YamlConfigSettingsSource(settings_cls, yaml_file=config_file),
            )

    try:
        loaded = _Loader(**overrides)
    except ValidationError as error:
        lines = [
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"
            for item in error.errors(include_url=False, include_input=False)
        ]
        raise ConfigError("configuration: " + "; ".join(lines)) from error
    except (yaml.YAMLError, ValueError) as error:  # no UTF-8, a date that does not exist
        raise ConfigError(f"{config_file}: not valid YAML: {error}") from error
    except (AttributeError, TypeError) as error:  # a list or a single value at the top
        raise ConfigError(f"{config_file}: holds no settings by name") from error
    config = NodeConfig.model_validate(
        {key: getattr(loaded, key) for key in type(loaded).model_fields}
    )
    peers = config.peers
    for name in config.default_destinations:
        if name != "sender" and name not in peers:
            known = ", ".join(sorted(config.destinations)) or "none"
            raise ConfigError(f"send_to: no destination named {name!r}; configured: {known}")
    return config
