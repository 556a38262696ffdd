"""`send`: a folder of DICOM files to any peer, for tests and for re-sending."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress, TextColumn

from dicom_node.cli.options import (
    EXIT_FAILED,
    AeTitleOption,
    Json,
    err,
    fail,
    out,
    print_json,
    read_config,
)
from dicom_node.config_destinations import parse_peer

SHOWN = 20  # failures printed one by one; --json lists all


def send(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder (or file) to send.")],
    to: Annotated[str, typer.Option("--to", help="AET@HOST:PORT")],
    ae_title: AeTitleOption = None,
    as_json: Json = False,
) -> None:
    """Send every DICOM file under DIR by C-STORE, each as it is."""
    from dicom_node.deliver.dimse import SendOutcome, send_folder

    settings = read_config(None, None, ae_title=ae_title)
    if not folder.exists():
        fail(f"{folder}: no such file or folder")
    rows: list[dict[str, Any]] = []
    with Progress(TextColumn("sending"), TextColumn("{task.completed} files"), console=err,
                  transient=True) as progress:  # fmt: skip
        task = progress.add_task("sending", total=None)

        def note(path: Path, outcome: SendOutcome) -> None:
            error = str(outcome.error) if outcome.error else None
            rows.append({"path": str(path), "sent": outcome.delivered, "error": error})
            progress.advance(task)

        skipped = send_folder(parse_peer(to), settings.ae_title, folder, note)
    failed = [row for row in rows if not row["sent"]]
    if as_json:
        left_out = [{"path": str(path), "reason": why} for path, why in skipped.items()]
        print_json({"files": rows, "skipped": left_out})
    else:
        for row in failed[:SHOWN]:
            err.print(f"{row['path']}: {row['error']}", highlight=False)
        for path, why in list(skipped.items())[:SHOWN]:
            err.print(f"{path}: {why}, skipped", highlight=False)
        out.print(f"{len(rows) - len(failed)} of {len(rows)} files sent")
    if failed or not rows:
        raise typer.Exit(EXIT_FAILED)


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(send)
