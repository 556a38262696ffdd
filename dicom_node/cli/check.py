"""`check`: says of each part whether it works, and if not, what to mend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING

import typer
from rich.table import Table

from dicom_node.cli.check_dicomweb import dicomweb
from dicom_node.cli.check_door import ports
from dicom_node.cli.check_home import disk
from dicom_node.cli.check_tls import destination_certificates, door, syslog
from dicom_node.cli.options import (
    EXIT_FAILED,
    ConfigFile,
    Home,
    Json,
    SendTo,
    out,
    print_json,
    read_config,
)
from dicom_node.cli.verdict import Verdict
from dicom_node.config import NodeConfig
from dicom_node.config_destinations import DestinationConfig, DicomwebConfig
from dicom_node.errors import ModelError, NodeError, Transient
from dicom_node.process import utc_now

if TYPE_CHECKING:
    from dicom_node.store.database import Database

_CLOCKS_MAY_DIFFER = timedelta(seconds=2)
STYLE = {"ok": "green", "warning": "yellow", "failed": "bold red"}


def check(
    home: Home = None, config: ConfigFile = None, send_to: SendTo = None, as_json: Json = False
) -> None:
    """Verify configuration, database, disk, models, device and every destination."""
    settings = read_config(home, config, send_to=send_to)
    verdicts = [Verdict("configuration", "ok", f"home {settings.home}")]
    for examine in EXAMINATIONS:
        verdicts += _guarded(examine, settings)
    if as_json:
        print_json([asdict(verdict) for verdict in verdicts])
    else:
        table = Table("part", "state", "found", "what to do", box=None)
        for item in verdicts:
            table.add_row(item.part, f"[{STYLE[item.state]}]{item.state}[/]", item.found, item.mend)
        out.print(table)
    if any(verdict.state == "failed" for verdict in verdicts):
        raise typer.Exit(EXIT_FAILED)


def _guarded(
    examine: Callable[[NodeConfig], Iterator[Verdict]], settings: NodeConfig
) -> list[Verdict]:
    """Collect what one examination says; an error in it is a verdict, too."""
    found: list[Verdict] = []
    try:
        found.extend(examine(settings))
    except (NodeError, OSError) as error:
        part = examine.__name__.lstrip("_")
        found.append(Verdict(part, "failed", str(error), "mend what the message names"))
    return found


def _rules(settings: NodeConfig) -> Iterator[Verdict]:
    from dicom_node.route.rules import load_routes
    from dicom_node.score.bundle import find_bundles

    routes = load_routes(settings.routes_file)
    names = {bundle.name for bundle in find_bundles(settings.models_dir)[0]}
    yield Verdict("routes", "ok", ", ".join(route.name for route in routes.routes))
    for route in routes.routes:
        if route.model not in names:
            yield Verdict(
                "routes",
                "failed",
                f"route {route.name} wants model {route.model}",
                f"put a folder {route.model} into {settings.models_dir}, or change the route",
            )


def _database(settings: NodeConfig) -> Iterator[Verdict]:
    from dicom_node.store.database import open_database

    with closing(open_database(settings.sqlalchemy_url)) as database:
        if database.is_sqlite and not (settings.home / "node.db").exists():
            yield Verdict("database", "ok", "SQLite; made at the first start")
            return
        yield from _schema(database)


def _schema(database: Database) -> Iterator[Verdict]:
    try:
        found, head = database.schema_state()
        shown = database.server_time()
    except Transient as error:
        mend = "is the server running, and do host, user and password of database_url fit?"
        yield Verdict("database", "failed", f"{database.place}: {error}", mend)
        return
    if found != head:
        mend = "run `dicom-node db upgrade`"
        if not database.knows(found):
            mend = "install the newer version that it is of, or restore this one's backup"
        yield Verdict("database", "failed", f"schema {found or 'absent'}, needed {head}", mend)
        return
    if shown is not None and abs(shown - utc_now()) > _CLOCKS_MAY_DIFFER:
        odd = f"{database.place} has another time than this machine: {shown - utc_now()}"
        yield Verdict("clock", "warning", odd, "let both follow NTP: leases go by these clocks")
    kind = "SQLite" if database.is_sqlite else "PostgreSQL"
    yield Verdict("database", "ok", f"{kind}, schema {found}")
    yield from _waiting_for_a_person(database)


def _waiting_for_a_person(database: Database) -> Iterator[Verdict]:
    from dicom_node.store.counts import counts

    with database.read() as connection:
        numbers = counts(connection)
    parked = numbers.jobs_by_state.get("parked", 0) + numbers.jobs_by_state.get("failed", 0)
    if parked:
        mend = "see `dicom-node jobs list --state parked` and `--state failed`"
        yield Verdict("jobs", "warning", f"{parked} wait for a person", mend)
    if numbers.quarantined:
        mend = "see `dicom-node studies list --quarantined`"
        yield Verdict("inbox", "warning", f"{numbers.quarantined} unreadable files kept", mend)


def _validators(settings: NodeConfig) -> Iterator[Verdict]:
    from dicom_node.report.validate import available_validators

    for name, there in available_validators().items():
        if there:
            yield Verdict("validator", "ok", name)
        else:
            mend = "install Debian's dcmtk, so that a malformed SR is stopped here"
            yield Verdict("validator", "warning", f"{name} not found", mend)


def _models(settings: NodeConfig) -> Iterator[Verdict]:
    from dicom_node.score.bundle import find_bundles

    bundles, refused = find_bundles(settings.models_dir)
    try:
        from dicom_node.score.engine import open_classifier
    except ImportError:
        mend = "nothing, if scorers run elsewhere; else install the score extra"
        yield Verdict("model", "warning", "this installation has no PyTorch", mend)
        return
    for bundle in bundles:
        name = f"{bundle.name} {bundle.version}"
        try:
            classifier = open_classifier(bundle, device=settings.scoring.device)
        except ModelError as error:
            mend = "set scoring.device to cpu, or install the model folder again"
            yield Verdict("model", "failed", str(error), mend)
            continue
        yield Verdict("model", "ok", f"{name}: golden scores agree on {classifier.engine}")
    for why in refused.values():
        yield Verdict("model", "failed", why, "install the model folder again")


def _destinations(settings: NodeConfig) -> Iterator[Verdict]:
    from dicom_node.deliver.dimse import echo

    for name, peer in settings.peers.items():
        if isinstance(peer, DicomwebConfig):
            yield from dicomweb(name, peer)
            continue
        place = f"{peer.ae_title}@{peer.host}:{peer.port}"
        try:
            echo(peer, settings.ae_title)
        except NodeError as error:
            yield Verdict("destination", "failed", f"{name}: {error}", f"check {place}")
            continue
        yield Verdict("destination", "ok", f"{name}: {place} answers C-ECHO")
        yield from _takes_results(name, peer, settings.ae_title)
        yield from destination_certificates(name, peer)
    if not settings.peers:
        mend = "give --send-to AET@HOST:PORT to return results to an archive"
        yield Verdict("destination", "warning", "none: results stay in the store", mend)


def _takes_results(name: str, peer: DestinationConfig, ae_title: str) -> Iterator[Verdict]:
    """Whether the results' SOP classes are negotiated: a C-ECHO does not tell."""
    from dicom_node.deliver.probe import refused_results

    try:
        refused = refused_results(peer, ae_title)
    except NodeError as error:
        yield Verdict("destination", "failed", f"{name}: {error}", "look into its log")
        return
    for uid in refused:
        found = f"{name} does not accept {uid.name}: such results would be parked"
        yield Verdict("destination", "failed", found, "enable that SOP class there")


EXAMINATIONS = (
    _rules, disk, _database, ports, door, _validators, _models, _destinations, syslog,
)  # fmt: skip


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(check)
