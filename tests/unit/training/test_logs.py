"""Figures go where a person asks, and an absent package is said before anything is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from tests.unit.training.test_killed import a_set
from training import logs
from training.cli import main


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("wandb", "there is no log 'wandb'; there are tensorboard, mlflow"),
        ("mlflow", "log 'mlflow' needs a package that is not installed: pip install mlflow"),
    ],
)
def test_a_log_that_cannot_be_written_is_refused_before_the_data_are_read(
    name: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logs, "find_spec", lambda _: None)
    data = ["--data", "nowhere.csv", "--name", "x"]
    assert main(["fit", "cxr_pneumonia", *data, "--log", name]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(("rate", "code", "epochs"), [("1e-3", 0, 2), ("1e30", 2, 0)])
def test_every_member_has_a_log_that_is_closed_also_when_training_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: str, code: int, epochs: int
) -> None:
    closed: dict[str, list[int]] = {}

    @contextmanager
    def paper(run: Path) -> Iterator[logs.Log]:
        seen: list[int] = []

        def log(figures: Mapping[str, float], epoch: int) -> None:
            assert figures["train_loss"] > 0
            seen.append(epoch)

        try:
            yield log
        finally:
            closed[run.name] = seen

    monkeypatch.setitem(logs._OPENED, "paper", paper)
    monkeypatch.setattr(logs, "find_spec", lambda name: name)
    torch.set_num_threads(1)
    words = ["fit", "cxr_pneumonia", "--data", str(a_set(tmp_path / "films")), "--name", "ours"]
    words += ["--runs", str(tmp_path), "--workers", "0", "--log", "paper"]
    changes = ("architecture=FiveBlockCNN", "weights=none", "side=32", "epochs=2", "batch_size=4")
    unguided = ("lung_attention=0", "lung_backgrounds=0")
    for change in (*changes, *unguided, "members=2", f"rate={rate}"):
        words += ["--set", change]
    assert main(words) == code
    assert closed["member1"] == list(range(1, epochs + 1))
    assert ("member2" in closed) == (code == 0)
