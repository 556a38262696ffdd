"""`studies list` and `studies show`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from dicom_node.cli.audit import record_person
from dicom_node.cli.options import ConfigFile, Home, Json, fail, out, print_json, read_config
from dicom_node.node import prepare
from dicom_node.observe.audit import AuditEvent
from dicom_node.store.overview import quarantined_files, study_detail, study_rows

app = typer.Typer(help="What was received, and what the rules said to it.", no_args_is_help=True)


@app.command("list")
def list_studies(
    home: Home = None,
    config: ConfigFile = None,
    limit: Annotated[int | None, typer.Option(help="At most this many, newest first.")] = None,
    quarantined: Annotated[
        bool, typer.Option("--quarantined", help="Files that belong to no study, and why.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List studies, newest first."""
    settings = read_config(home, config)
    with prepare(settings).read() as connection:
        rows = quarantined_files(connection) if quarantined else study_rows(connection, limit=limit)
    if as_json:
        print_json(rows)
        return
    columns = (
        ("received_at", "association", "path", "reason")
        if quarantined
        else ("study_instance_uid", "revision", "state", "series", "instances", "last_received_at")
    )
    table = Table(*(name.replace("_", " ") for name in columns), box=None)
    for row in rows:
        table.add_row(*(str(row[name]) for name in columns))
    out.print(table if rows else "none")


@app.command()
def show(
    study_instance_uid: Annotated[str, typer.Argument(help="UID from `studies list`.")],
    home: Home = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Show one study: its series, every decision of the rules with its reason, and its events."""
    settings = read_config(home, config)
    with prepare(settings).read() as connection:
        study = study_detail(connection, study_instance_uid)
    if study is None:
        fail("no such study here; see `dicom-node studies list`")
    record_person(settings, AuditEvent.RESULTS_VIEWED, study_instance_uid)
    if as_json:
        print_json(study)
        return
    for key in ("study_instance_uid", "revision", "state", "completed_because", "calling_ae_title"):
        out.print(f"[bold]{key.replace('_', ' '):>20}[/]  {study[key]}")
    for item in study["series_list"]:
        out.print(
            f"[bold]{'series':>20}[/]  {item['series_instance_uid']}: {item['instances']} "
            f"{item['role']}s, {item['conflicts']} in conflict"
        )
    for item in study["decisions"]:
        verdict = "[green]yes[/]" if item["accepted"] else "[yellow]no[/]"
        out.print(
            f"[bold]{'revision ' + str(item['revision']):>20}[/]  {item['route']}: {verdict}, "
            f"{item['reason']}"
        )
    for item in study["events"]:
        out.print(f"[bold]{'event':>20}[/]  {item['at']} {item['action']} {item['detail'] or ''}")


def add_to(root: typer.Typer) -> None:
    """Register the commands."""
    root.add_typer(app, name="studies")
