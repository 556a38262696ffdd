"""`serve`: the whole node under one supervisor."""

from __future__ import annotations

import socket
import time
from typing import Any

import structlog
import typer

from dicom_node.cli.options import (
    AeTitleOption,
    ConfigFile,
    DicomHost,
    DicomPort,
    Home,
    SendTo,
    WebPort,
    overrides_from,
)
from dicom_node.config import NodeConfig, load_config
from dicom_node.errors import ConfigError, Transient
from dicom_node.node import Supervisor, audit_trail, child_environment, prepare
from dicom_node.observe.logs import configure_logging
from dicom_node.process import report_ready, stop_on_signals

PORT_SECONDS = 10.0
_log = structlog.get_logger()


def serve(
    home: Home = None,
    config: ConfigFile = None,
    ae_title: AeTitleOption = None,
    dicom_host: DicomHost = None,
    dicom_port: DicomPort = None,
    web_port: WebPort = None,
    send_to: SendTo = None,
) -> None:
    """Run the whole node until told to stop: the first signal drains, the second ends at once."""
    flags = overrides_from(
        home=home.absolute() if home else None,
        ae_title=ae_title,
        dicom__host=dicom_host,
        dicom__port=dicom_port,
        web__port=web_port,
        send_to=send_to,
    )
    settings = load_config(config, flags)
    configure_logging(settings.log, "serve")
    _check_before_start(settings)
    _prepare(settings)
    environment = child_environment(flags)
    if config is not None:
        environment["DICOM_NODE_CONFIG_FILE"] = str(config.absolute())
    announce = _Announcer(settings)
    supervisor = Supervisor(settings, environment, announce)
    trail = audit_trail(settings, "serve")
    with stop_on_signals(supervised=False) as stop, trail.running():
        supervisor.run(stop)


def _prepare(settings: NodeConfig) -> None:
    """Bring folders and schema up to date; a database server may come later than the node.

    After a power cut it often does: images are received meanwhile, and each stage that needs the
    database is started again until it is there.
    """
    try:
        prepare(settings).close()
    except Transient as error:
        if settings.sqlalchemy_url.startswith("sqlite"):
            raise
        _log.warning(
            "images are received, and wait for the database",
            action="started_without_database",
            error=str(error),
        )


class _Announcer:
    """Prints the one line `ready` once associations are accepted (and the web port is known)."""

    def __init__(self, config: NodeConfig) -> None:
        self._facts: dict[str, Any] = {"ae_title": config.ae_title}
        self._waiting = {"receive"} | ({"web"} if config.web.port is not None else set())

    def __call__(self, stage: str, facts: dict[str, Any]) -> None:
        if stage in self._waiting:
            self._waiting.discard(stage)
            self._facts |= facts
            if not self._waiting:
                report_ready(supervised=False, **self._facts)


def _check_before_start(config: NodeConfig) -> None:
    """What would make a stage die again and again must stop `serve` at once."""
    from dicom_node.receive.users import load_users
    from dicom_node.route.rules import load_routes
    from dicom_node.tls import server_context

    load_routes(config.routes_file)
    if config.dicom.tls is not None:
        server_context(config.dicom.tls)
    if config.dicom.users_file is not None:
        load_users(config.dicom.users_file)
    for name, host, port in (
        ("dicom.port", config.dicom.host, config.dicom.port),
        ("dicom.tls.port", config.dicom.host, config.dicom.tls and config.dicom.tls.port),
        ("web.port", config.web.host, config.web.port),
    ):
        if port:
            _wait_until_free(name, host, port)


def _wait_until_free(name: str, host: str, port: int) -> None:
    """Wait for stages that an earlier, killed node left behind: they end by themselves.

    Receivers may share a port, so that a second node would quietly take half of the images.
    """
    deadline = time.monotonic() + PORT_SECONDS
    while _answers(host, port):
        if time.monotonic() > deadline:
            raise ConfigError(
                f"{name}: another program listens on {host}:{port}; stop it or take another port"
            )
        time.sleep(0.2)


def _answers(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(serve)
