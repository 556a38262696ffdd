"""Command line of the training: parse, call, print. Exit codes: 0 done, 2 wrong input or usage."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import typer
from rich.console import Console

from dicom_node.errors import NodeError
from training.cli import judging, making, studying

app = typer.Typer(
    name="python -m training",
    help="Train, judge and export the models of the node.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
making.add_to(app)
judging.add_to(app)
studying.add_to(app)

_WRONG = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; wrong input is one sentence on standard error and exit code 2."""
    # ignite says of every exception that there was one; we say what it was.
    logging.getLogger("ignite").setLevel(logging.CRITICAL)
    try:
        app(args=None if arguments is None else list(arguments), prog_name="python -m training")
    except (NodeError, OSError) as error:
        # OSError: a full disk, or a folder that may not be written to.
        errors = Console(stderr=True, soft_wrap=True)
        errors.print(f"error: {error}", markup=False, highlight=False)
        return _WRONG
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    return 0
