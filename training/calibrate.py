"""Temperature, biases and operating points, chosen on pictures from which nothing was learned."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.metrics import roc_curve

from dicom_node.errors import BadInput
from dicom_node.score.calibration import calibrated
from dicom_node.score.manifest import Calibration

Array = NDArray[np.float64]
Function = Literal["sigmoid", "softmax"]

HIGH_SENSITIVITY = 0.99
HIGH_SPECIFICITY = 0.98
_LOWEST, _HIGHEST = 0.02, 0.98
"""No threshold is nearer to 0 or 1: there calibrated probabilities are rounding and luck."""
_WIDEST_TEMPERATURE = 100.0
"""In spreads of the logits; reached where the logits say nothing or the opposite."""


def calibrate(logits: Array, targets: NDArray[np.int64], function: Function) -> Calibration:
    """Fit one temperature and a bias per output by likelihood, all classes weighing the same.

    Targets are softened as by Platt (1999), so that a validation set that the network separates
    without error cannot drive the temperature to zero.

    Parameters
    ----------
    logits
        (N, K); K is 1 for `sigmoid`.
    targets
        (N,): the output that is right, or for `sigmoid` whether the finding is there.

    Raises
    ------
    BadInput
        A class has no image.
    """
    wanted, weights = _soft_targets(targets, logits.shape[1], function)
    spread = float(logits.std()) or 1.0
    middle = logits.mean(axis=0)
    scaled = (logits - middle) / spread

    def loss(parameters: Array) -> tuple[float, Array]:
        slope, bias = parameters[0], parameters[1:]
        values = slope * scaled + bias
        total, residual = _likelihood(values, wanted, function)
        residual *= weights[:, None]
        gradient = np.concatenate([[np.sum(residual * scaled)], residual.sum(axis=0)])
        return float(weights @ total), gradient

    start = np.concatenate([[1.0], np.zeros(logits.shape[1])])
    bounds = [(1 / _WIDEST_TEMPERATURE, None), *[(None, None)] * logits.shape[1]]
    best = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, tol=1e-10).x
    temperature = float(f"{spread / float(best[0]):.7g}")  # digits, for it may be tiny
    bias = best[1:] - middle / temperature
    if function == "softmax":
        # The same for biases that all differ by one number.
        bias = bias - bias.mean()
    return Calibration(
        function=function,
        temperature=temperature,
        bias=tuple(round(float(value), 6) for value in bias),
    )


def probabilities(logits: Array, calibration: Calibration) -> Array:
    """Calibrated probabilities (N, K) of logits (N, K), as the node computes them."""
    return calibrated(np.asarray(logits, np.float32), calibration)


def operating_points(scores: Array, positive: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Find three thresholds on pictures from which nothing was learned, ascending.

    `high_sensitivity` is the highest threshold with a sensitivity of at least `HIGH_SENSITIVITY`,
    `high_specificity` the lowest with a specificity of at least `HIGH_SPECIFICITY`, and at
    `balanced` sensitivity and specificity are alike: there the curve is steep and the point stable,
    while the largest sum lies on a plateau where a few images decide. Each threshold lies midway
    between neighbouring scores, so that it does not hang on one image.

    Parameters
    ----------
    scores
        (N,) calibrated probabilities of a finding.
    positive
        (N,) whether the finding is there.
    """
    false_positive, true_positive, thresholds = roc_curve(positive, scores, drop_intermediate=False)
    thresholds = np.append(np.minimum(thresholds, 1.0), 0.0)
    specificity = 1 - false_positive
    difference = np.abs(true_positive - specificity)
    balanced = int(np.lexsort((-(true_positive + specificity), difference))[0])
    sensitive = max(balanced, int(np.argmax(true_positive >= HIGH_SENSITIVITY)))
    specific = min(balanced, int(np.flatnonzero(specificity >= HIGH_SPECIFICITY)[-1]))
    places = {"high_sensitivity": sensitive, "balanced": balanced, "high_specificity": specific}
    return [
        _point(name, (thresholds[index] + thresholds[index + 1]) / 2, scores, positive)
        for name, index in places.items()
    ]


def _point(
    name: str, threshold: float, scores: Array, positive: NDArray[np.bool_]
) -> dict[str, Any]:
    stated = round(float(np.clip(threshold, _LOWEST, _HIGHEST)), 4)
    called = scores >= stated
    return {
        "name": name,
        "threshold": stated,
        "sensitivity": round(float(called[positive].mean()), 4),
        "specificity": round(float((~called)[~positive].mean()), 4),
    }


def _soft_targets(
    targets: NDArray[np.int64], outputs: int, function: Function
) -> tuple[Array, Array]:
    """Softened targets (N, K) and weights (N,) that sum to 1 over each class's share."""
    classes = 2 if function == "sigmoid" else outputs
    counts = np.bincount(targets, minlength=classes)
    if len(counts) > classes or not counts.all():
        seen = ", ".join(str(place) for place in np.flatnonzero(counts))
        raise BadInput(
            f"calibration needs validation images of each of {classes} classes (counted from 0), "
            f"there are some of {seen} alone; enlarge the validation split"
        )
    own = counts[targets]
    soft = np.full((len(targets), classes), 1.0) / (own + classes)[:, None]
    soft[np.arange(len(targets)), targets] = (own + 1) / (own + classes)
    return (soft[:, 1:] if function == "sigmoid" else soft), 1 / (classes * own)


def _likelihood(values: Array, wanted: Array, function: Function) -> tuple[Array, Array]:
    """Cross-entropy (N,) and its derivative by the values (N, K)."""
    if function == "sigmoid":
        loss = np.logaddexp(0, values) - wanted * values
        return loss.sum(axis=1), expit(values) - wanted
    total = np.logaddexp.reduce(values, axis=1)
    return total - (wanted * values).sum(axis=1), np.exp(values - total[:, None]) - wanted
