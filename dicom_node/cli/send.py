"""`send`: a folder of DICOM files to any peer, for tests and for re-sending."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress

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
from dicom_node.config import parse_peer
from dicom_node.errors import NodeError


def send(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder (or file) to send.")],
    to: Annotated[str, typer.Option("--to", help="AET@HOST:PORT")],
    ae_title: AeTitleOption = None,
    as_json: Json = False,
) -> None:
    """Send every DICOM file under DIR by C-STORE, each as it is."""
    from dicom_node.deliver.dimse import SendOutcome, find_dicom_files, send_files

    settings = read_config(None, None, ae_title=ae_title)
    if not folder.exists():
        fail(f"{folder}: no such file or folder")
    files, skipped = find_dicom_files(folder)
    if not files:
        fail(f"{folder}: no DICOM file in it")
    rows: list[dict[str, Any]] = []
    with Progress(console=err, transient=True) as progress:
        task = progress.add_task("sending", total=len(files))

        def note(path: Path, outcome: SendOutcome) -> None:
            error = str(outcome.error) if outcome.error else None
            rows.append({"path": str(path), "sent": error is None, "error": error})
            progress.advance(task)

        try:
            send_files(parse_peer(to), settings.ae_title, files, note)
        except NodeError as error:
            done = {row["path"] for row in rows}
            rows += [
                {"path": str(path), "sent": False, "error": str(error)}
                for path in files
                if str(path) not in done
            ]
    failed = [row for row in rows if not row["sent"]]
    if as_json:
        print_json({"files": rows, "not_dicom": [str(path) for path in skipped]})
    else:
        for row in failed[:20]:
            err.print(f"{row['path']}: {row['error']}", highlight=False)
        for path in skipped[:20]:
            err.print(f"{path}: not a DICOM file, skipped", highlight=False)
        out.print(f"{len(rows) - len(failed)} of {len(rows)} files sent")
    if failed:
        raise typer.Exit(EXIT_FAILED)


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(send)
