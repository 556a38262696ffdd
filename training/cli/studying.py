"""Commands that study data sets: what confounds one, and how little a small one proves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from training.cli.options import print_json
from training.data import open_source

Seed = Annotated[int, typer.Option(min=0, help="Of the random divisions.")]
Splits = Annotated[int, typer.Option(min=2, help="How many random divisions.")]
Set = Annotated[
    str, typer.Argument(metavar="DATA", help="A tar, folder or CSV, or a published set.")
]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command("confounding")(measure_confounding)
    app.command("repeated")(repeat_splits)


def measure_confounding(data: Set = "covid3_cxr") -> None:
    """Guess the class from the border, from pictures without the lungs and from trivial numbers."""
    from training.confounding import confounding

    print_json(confounding(open_source(Path(data))))


def repeat_splits(data: Set = "covid25_cxr", splits: Splits = 50, seed: Seed = 42) -> None:
    """Train the VGG16 system's head on many stratified 80/20 divisions of a small set."""
    from training.repeated import repeated

    print_json(repeated(open_source(Path(data)), seed=seed, splits=splits))
