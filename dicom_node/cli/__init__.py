"""The command line: parse, call, print. Exit codes: 0 done, 1 failed, 2 wrong usage."""

from __future__ import annotations

import typer

from dicom_node import __version__
from dicom_node.cli import (
    audit,
    backup,
    check,
    conformance,
    demo,
    jobs,
    maintenance,
    passcode,
    score,
    send,
    serve,
    stages,
    studies,
    upkeep,
)
from dicom_node.cli.options import fail
from dicom_node.errors import NodeError

app = typer.Typer(
    name="dicom-node",
    help="Scores chest radiographs and CT series from a PACS and returns the result to it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for module in (
    serve, stages, check, conformance, demo, send, score, jobs, studies, maintenance, passcode,
    audit, backup, upkeep,
):  # fmt: skip
    module.add_to(app)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"dicom-node {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Take the options that stand before the command."""


def main() -> None:
    """Run the command line; expected errors are one sentence, not a traceback."""
    try:
        app()
    except NodeError as error:
        try:
            fail(str(error))
        except typer.Exit as stop:
            raise SystemExit(stop.exit_code) from None
