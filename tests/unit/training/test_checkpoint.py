"""What is written stays whole when the disk does not take more."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from training.checkpoint import content_of, save_content, save_weights
from training.errors import TrainingError

KIB = 1024


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """Let the operating system refuse to make any file of this process larger."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _content(path: Path, value: float) -> None:
    save_content(path, {"value": torch.full((KIB, 64), value)})


def _weights(path: Path, value: float) -> None:
    network = nn.Linear(KIB, 64)
    nn.init.constant_(network.weight, value)
    save_weights(path, network)


@pytest.mark.parametrize(
    ("save", "read"),
    [
        (_content, lambda path: content_of(path)["value"]),
        (_weights, lambda path: load_file(path)["weight"]),
    ],
)
def test_where_no_more_can_be_written_the_old_file_stays_and_a_sentence_says_so(
    tmp_path: Path,
    save: Callable[[Path, float], None],
    read: Callable[[Path], torch.Tensor],
) -> None:
    file = tmp_path / "kept"
    save(file, 1.0)
    with (
        files_end_at(40 * KIB),
        pytest.raises(TrainingError, match=r"kept cannot be written .* MB are free.*--resume"),
    ):
        save(file, 2.0)
    assert (read(file) == 1).all()
    assert [left.name for left in tmp_path.iterdir()] == ["kept"]
    save(file, 3.0)
    assert (read(file) == 3).all()
