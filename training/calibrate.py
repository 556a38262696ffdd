"""Temperature, bias and operating points, all chosen on validation images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.metrics import roc_curve

Vector = NDArray[np.float64]

HIGH_SENSITIVITY = 0.95
_FINEST, _COARSEST = 0.02, 0.98


@dataclass(frozen=True, slots=True)
class Calibration:
    """p = sigmoid(logit / temperature + bias)."""

    temperature: float
    bias: float

    def apply(self, logits: Vector) -> Vector:
        """Calibrated probabilities (N,) of logits (N,)."""
        return np.asarray(1 / (1 + np.exp(-(logits / self.temperature + self.bias))))


def calibrate(logits: Vector, targets: Vector) -> Calibration:
    """Fit temperature and bias by log-likelihood, both classes weighing the same (Platt 1999).

    Targets are softened as Platt does, so that separable validation sets cannot drive the
    temperature to zero.
    """
    positives, negatives = float(targets.sum()), float((1 - targets).sum())
    soft = np.where(targets > 0, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    weights = np.where(targets > 0, 0.5 / positives, 0.5 / negatives)

    def loss(parameters: Vector) -> float:
        scaled = logits * np.exp(-parameters[0]) + parameters[1]
        return float(np.sum(weights * (np.logaddexp(0, scaled) - soft * scaled)))

    best = minimize(loss, np.zeros(2), method="Nelder-Mead").x
    return Calibration(round(float(np.exp(best[0])), 6), round(float(best[1]), 6))


def operating_points(probabilities: Vector, targets: Vector) -> list[dict[str, float | str]]:
    """Find the balanced point (sensitivity and specificity alike) and the sensitive one.

    Where both are alike the curve is steep and the point stable; the largest sum lies on a plateau
    where a few images decide. The sensitive point is never above the balanced one. Each threshold
    lies midway between neighbouring scores, so that it does not hang on one image.
    """
    false_positive, true_positive, thresholds = roc_curve(
        targets, probabilities, drop_intermediate=False
    )
    balanced = int(np.argmin(np.abs(true_positive - (1 - false_positive))))
    sensitive = max(balanced, int(np.argmax(true_positive >= HIGH_SENSITIVITY)))
    points = []
    for name, index in (("balanced", balanced), ("sensitive", sensitive)):
        following = thresholds[index + 1] if index + 1 < len(thresholds) else 0.0
        threshold = float(np.clip((thresholds[index] + following) / 2, _FINEST, _COARSEST))
        called = probabilities >= threshold
        points.append(
            {
                "name": name,
                "threshold": round(threshold, 4),
                "sensitivity": round(float(called[targets > 0].mean()), 4),
                "specificity": round(float((~called)[targets == 0].mean()), 4),
            }
        )
    return points
