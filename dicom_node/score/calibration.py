"""From logits to probabilities, for the node and for training."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dicom_node.score.manifest import Calibration


def calibrated(logits: NDArray[np.floating[Any]], calibration: Calibration) -> NDArray[np.float64]:
    """Probabilities (N, K) float64 in [0, 1] of logits (N, K): f(logits / temperature + bias)."""
    scaled = logits.astype(np.float64) / calibration.temperature + np.array(calibration.bias)
    if calibration.function == "sigmoid":
        return np.asarray(1.0 / (1.0 + np.exp(-np.clip(scaled, -60.0, 60.0))))
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
