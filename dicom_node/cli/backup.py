"""`backup`: a copy of everything that the node remembers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from dicom_node import __version__
from dicom_node.cli.audit import person
from dicom_node.cli.options import ConfigFile, Home, fail, out, read_config
from dicom_node.node import audit_trail
from dicom_node.observe.audit import AuditEvent
from dicom_node.observe.audit_chain import read_head
from dicom_node.process import keep_files_private, utc_now
from dicom_node.store.backup import back_up
from dicom_node.store.database import open_database
from dicom_node.store.files import write_durably

MANIFEST = "backup.json"


def backup(
    target: Annotated[Path, typer.Argument(help="A folder on another disk; made if missing.")],
    home: Home = None,
    config: ConfigFile = None,
) -> None:
    """Copy inbox, database, store and audit trail; the node may run meanwhile.

    A second backup into the same folder copies what is new. `backup.json` is written last: a
    backup without it is not whole. docs/operations.md tells how to restore.
    """
    settings = read_config(home, config)
    if target.absolute().is_relative_to(settings.home):
        fail(f"{target} lies inside the home folder; take another disk")
    if not settings.store_dir.is_dir():
        fail(f"{settings.home} holds no node")
    keep_files_private()
    (target / MANIFEST).unlink(missing_ok=True)
    started = utc_now()
    copied = back_up(settings.home, settings.sqlalchemy_url, target)
    head = read_head(target / "audit")
    database = open_database(settings.sqlalchemy_url)
    schema, _ = database.schema_state()
    database.close()
    manifest = {
        "dicom_node": __version__,
        "schema": schema,
        "started_at": started.isoformat(),
        "ended_at": utc_now().isoformat(),
        "audit_record": head.number if head else 0,
        "audit_head": head.sha256 if head else None,
    }
    write_durably(target / MANIFEST, json.dumps(manifest, indent=2).encode() + b"\n")
    audit_trail(settings, "backup").record(
        AuditEvent.RESULTS_EXPORTED, who=person(), action="backup", files=copied.files
    )
    out.print(f"{copied.files} files, {copied.bytes / 1e6:.1f} MB copied to {target}")


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(rich_help_panel="Maintenance")(backup)
