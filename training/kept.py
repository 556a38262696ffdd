"""Arrays that took long to make, kept in files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def kept_array(file: Path) -> NDArray[Any] | None:
    """What was kept earlier; None if there is nothing, or the file is damaged."""
    try:
        array: NDArray[Any] = np.load(file)
    except (OSError, ValueError, EOFError):
        return None
    return array


def keep_array(file: Path, array: NDArray[Any]) -> None:
    """Keep an array; a run that is stopped meanwhile leaves no half file to believe in."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}.partial.npy")
    np.save(partial, array)
    partial.replace(file)
