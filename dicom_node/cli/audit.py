"""`audit verify` and `audit export`; and who sits at this command line, for the trail."""

from __future__ import annotations

import json
import os
import pwd
import socket
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dicom_node.cli.options import (
    EXIT_FAILED,
    ConfigFile,
    Home,
    Json,
    fail,
    out,
    print_json,
    read_config,
)
from dicom_node.config import NodeConfig
from dicom_node.node import audit_trail
from dicom_node.observe.audit import AuditEvent, Outcome, StudyPart, Who
from dicom_node.observe.audit_message import dicom_message
from dicom_node.observe.audit_verify import records_since, verify_trail

app = typer.Typer(
    help="The audit trail: who sent, scored, viewed and exported what.", no_args_is_help=True
)


class Form(StrEnum):
    """What `audit export` writes."""

    DICOM_XML = "dicom-xml"
    JSONL = "jsonl"


def person() -> Who:
    """Whoever runs this command; `sudo` tells who that was before."""
    user = os.environ.get("SUDO_USER")
    if user is None:
        try:
            user = pwd.getpwuid(os.getuid()).pw_name
        except KeyError:  # containers run as numbers
            user = f"uid {os.getuid()}"
    return Who(user=user, host=socket.gethostname())


def record_person(
    settings: NodeConfig,
    event: AuditEvent,
    study_instance_uid: str | None,
    *,
    job: int | None = None,
    action: str | None = None,
) -> None:
    """Record what the person at this command line saw or decided."""
    study = StudyPart(study_instance_uid) if study_instance_uid else None
    trail = audit_trail(settings, "command line")
    trail.record(event, who=person(), study=study, interface="command line", job=job, action=action)


@app.command()
def verify(
    home: Home = None,
    config: ConfigFile = None,
    anchor: Annotated[
        str | None, typer.Option(help="A head that was noted elsewhere; must be in the chain.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Follow the chain of records and say where it breaks, if it does; prints its head.

    Note the head outside of this machine: who can write the folder could also write a whole new
    chain, but none with that head in it.
    """
    settings = _settings(home, config)
    found = verify_trail(settings.audit_dir, anchor=anchor)
    broken = found.broken is not None
    if as_json:
        print_json(asdict(found) | {"intact": not broken})
    else:
        for note in found.notes:
            out.print(f"[yellow]note[/]    {note}", highlight=False)
        if found.last is not None and found.first is not None:
            told = f"records {found.first.number} to {found.last.number}"
            out.print(f"holds   {told}", highlight=False)
            out.print(f"head    {found.last.sha256}", highlight=False)
        else:
            out.print("no records")
        if broken:
            out.print(f"[bold red]broken[/]  {found.broken}", highlight=False)
    _record_use(settings, "verify", Outcome.SERIOUS_FAILURE if broken else Outcome.SUCCESS)
    if broken:
        raise typer.Exit(EXIT_FAILED)


@app.command()
def export(
    form: Annotated[Form, typer.Option("--format", help="One message or record a line.")] = (
        Form.DICOM_XML
    ),
    since: Annotated[
        datetime | None, typer.Option(help="Only from this moment (UTC) on, e.g. 2026-11-21.")
    ] = None,
    home: Home = None,
    config: ConfigFile = None,
) -> None:
    """Print the records as DICOM audit messages (PS3.15 A.5, one XML document a line) or as JSON.

    They name patients: redirect them to a place that is as well protected as the trail.
    """
    settings = _settings(home, config)
    count = 0
    for record in records_since(settings.audit_dir, since and since.replace(tzinfo=UTC)):
        if form is Form.JSONL:
            sys.stdout.write(json.dumps(record) + "\n")
        else:
            sys.stdout.write(dicom_message(record, site=settings.audit.site).decode() + "\n")
        count += 1
    sys.stdout.flush()
    _record_use(settings, "export", Outcome.SUCCESS, records=count)


def _settings(home: Path | None, config: Path | None) -> NodeConfig:
    settings = read_config(home, config)
    if not settings.audit_dir.is_dir():
        fail(f"{settings.audit_dir} is not there: no node has run with this home")
    return settings


def _record_use(settings: NodeConfig, action: str, outcome: Outcome, records: int = 0) -> None:
    audit_trail(settings, "audit").record(
        AuditEvent.AUDIT_LOG_USED, outcome=outcome, who=person(), action=action, records=records
    )


def add_to(root: typer.Typer) -> None:
    """Register the commands."""
    root.add_typer(app, name="audit")
