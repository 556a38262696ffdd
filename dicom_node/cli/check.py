"""`check`: says of each part whether it works, and if not, what to mend."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict

import typer
from rich.table import Table

from dicom_node.cli.check_door import Verdict, destination_certificates, door, ports
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
from dicom_node.config import NodeConfig
from dicom_node.errors import ModelError, NodeError

STYLE = {"ok": "green", "warning": "yellow", "failed": "bold red"}


def check(
    home: Home = None, config: ConfigFile = None, send_to: SendTo = None, as_json: Json = False
) -> None:
    """Verify configuration, database, disk, models, device and each destination (C-ECHO)."""
    settings = read_config(home, config, send_to=send_to)
    verdicts = [Verdict("configuration", "ok", f"home {settings.home}")]
    for examine in (_rules, _home, _database, ports, door, _validators, _models, _destinations):
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


def _home(settings: NodeConfig) -> Iterator[Verdict]:
    folder = settings.home
    while not folder.exists():
        folder = folder.parent
    if not os.access(folder, os.W_OK):
        yield Verdict("disk", "failed", f"{folder} is not writable", "give the node's user access")
        return
    free, floor = shutil.disk_usage(folder).free, settings.dicom.minimum_free_bytes
    found = f"{free / 1e9:.1f} GB free, floor {floor / 1e9:.1f} GB"
    if free < floor:
        yield Verdict("disk", "failed", found, "free space: images are refused (0xA700) until then")
    else:
        yield Verdict("disk", "ok", found)


def _database(settings: NodeConfig) -> Iterator[Verdict]:
    from dicom_node.store.database import open_database
    from dicom_node.store.overview import counts

    database = open_database(settings.sqlalchemy_url)
    if database.is_sqlite and not (settings.home / "node.db").exists():
        yield Verdict("database", "ok", "SQLite; made at the first start")
        return
    found, head = database.schema_state()
    if found != head:
        mend = "run `dicom-node db upgrade`"
        yield Verdict("database", "failed", f"schema {found or 'absent'}, needed {head}", mend)
        return
    kind = "SQLite" if database.is_sqlite else "PostgreSQL"
    yield Verdict("database", "ok", f"{kind}, schema {found}")
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
        place = f"{peer.ae_title}@{peer.host}:{peer.port}"
        try:
            echo(peer, settings.ae_title)
        except NodeError as error:
            yield Verdict("destination", "failed", f"{name}: {error}", f"check {place}")
            continue
        yield Verdict("destination", "ok", f"{name}: {place} answers C-ECHO")
        yield from destination_certificates(name, peer)
    if not settings.peers:
        mend = "give --send-to AET@HOST:PORT to return results to an archive"
        yield Verdict("destination", "warning", "none: results stay in the store", mend)


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(check)
