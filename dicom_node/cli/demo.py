"""`demo`: the whole job on one machine, and a table of what came of it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from dicom_node.cli.jobs import finding_text
from dicom_node.cli.options import EXIT_FAILED, err, fail, out
from dicom_node.config import LogConfig
from dicom_node.observe.logs import configure_logging
from dicom_node.process import utc_now


def demo(
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="Folder for everything.  (env: DEMO_OUT)")
    ] = None,
) -> None:
    """Send a real chest radiograph and a CT phantom through a node and check what comes back."""
    from dicom_node.demo.run import DemoFailed, run_demo

    folder = (out_dir or Path(os.environ.get("DEMO_OUT", "demo-out"))).absolute()
    started = time.monotonic()
    configure_logging(LogConfig(level="warning"), "demo")

    def say(line: str) -> None:
        err.print(f"[dim]{time.monotonic() - started:5.1f} s[/]  {line}", highlight=False)

    try:
        rows = run_demo(folder, now=utc_now(), say=say)
    except DemoFailed as error:
        fail(str(error))
    table = Table("study", "model", "finding or reason", "seconds", show_lines=True)
    for row in rows:
        verdict = finding_text(row.job) or f"not analysed: {row.job['reason']}"
        table.add_row(
            row.study,
            f"{row.job['model']} {row.job['model_version']}",
            "\n".join([verdict, *(f"[yellow]{mark}[/]" for mark in row.job["marks"])]),
            f"{row.seconds:.1f}" if row.seconds is not None else "-",
        )
    out.print(table)
    out.print("seconds: from the last image to the last result stored in the archive")
    for row in rows:
        for kind, path in row.files.items():
            out.print(f"{row.study} {kind:>3}: {path}", highlight=False)
    problems = [f"{row.study}: {problem}" for row in rows for problem in row.problems]
    for problem in problems:
        err.print(f"[bold red]not as it must be:[/] {problem}", highlight=False)
    if problems:
        raise typer.Exit(EXIT_FAILED)
    out.print("The archive holds one valid SR and one valid Secondary Capture for each study.")


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(demo)
