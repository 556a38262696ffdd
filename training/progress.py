"""A bar for the steps of an epoch and a line for each epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class FitProgress:
    """What a person sees of a training run, on standard error; nothing if not `shown`."""

    def __init__(self, name: str, epochs: int, *, shown: bool) -> None:
        self._console = Console(stderr=True, quiet=not shown, soft_wrap=True)
        self._name, self._epochs = name, epochs
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[loss]}"),
            console=self._console,
            transient=True,
            disable=not shown,
        )
        self._task = self._bar.add_task(name, total=None, loss="")

    def __enter__(self) -> FitProgress:
        """Draw the bar."""
        self._bar.start()
        return self

    def __exit__(self, *reason: object) -> None:
        """Take the bar away."""
        self._bar.stop()

    def epoch_started(self, epoch: int, steps: int) -> None:
        """Begin the bar anew."""
        self.part_started(f"epoch {epoch}/{self._epochs}", steps)

    def part_started(self, part: str, steps: int) -> None:
        """Begin the bar anew for something else than an epoch."""
        self._bar.reset(self._task, total=steps, description=f"{self._name} {part}", loss="")

    def step(self, loss: float | None = None) -> None:
        """Move the bar on."""
        said = "" if loss is None else f"loss {loss:.4f}"
        self._bar.update(self._task, advance=1, loss=said)

    def epoch_ended(self, figures: Mapping[str, Any], *, best: bool) -> None:
        """Print the epoch's figures."""
        rates = figures["learning_rate"]
        self._console.print(
            f"{self._name} epoch {figures['epoch']}/{self._epochs}: "
            f"loss {figures['train_loss']:.4f}, validation loss {figures['validation_loss']:.4f}, "
            f"accuracy {figures['validation_accuracy']:.4f}, AUC {figures['validation_auc']:.4f}, "
            f"rate {max(rates):.1e}, {figures['seconds']:.0f} s" + (", best" if best else ""),
            highlight=False,
        )

    def say(self, sentence: str) -> None:
        """Print a sentence."""
        self._console.print(f"{self._name}: {sentence}", highlight=False)
