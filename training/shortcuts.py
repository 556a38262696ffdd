"""How much of a model's verdict comes from outside the lungs."""

# mypy: allow-untyped-calls
# (scikit-learn has no type hints)

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from dicom_node.score.transforms import FloatArray
from training.guidance import before
from training.lung_field import Mask

Score = Callable[[list[FloatArray]], NDArray[np.float64]]
"""Planes (1, rows, columns), N of them, to one number each (N,)."""

PARTS_SHOWN = {
    "whole": "the whole picture",
    "lungs_alone": "the lungs, all else plain gray",
    "other_background": "the lungs before the background of a picture of the other class",
    "background_alone": "the background, the lungs painted over",
}
"""What a model is shown, in words, by its name in `shortcuts`."""
_SEED = 20261121
"""Of the draw of strange backgrounds."""


def shortcuts(
    score: Score,
    planes: Sequence[FloatArray],
    truth: NDArray[np.bool_],
    lungs: Sequence[Mask],
) -> dict[str, Any]:
    """Measure a model on pictures, their parts, and lungs before a picture of the other kind.

    Parameters
    ----------
    score
        The model, for its main finding.
    truth
        (N,): whether the finding is there; both kinds are needed.
    lungs
        Of each plane; planes whose lungs were not found are left out.

    Returns
    -------
    dict
        `n`, `left_out` and `auc`: of the films as they are (`whole`), of the lungs on plain gray
        (`lungs_alone`), of the film with its lungs painted over (`background_alone`), and of the
        lungs before a film of the other kind, by the lungs' label (`other_background`). A model
        that looks at the lungs has a high last one and a low last but one.
    """
    found = [place for place, mask in enumerate(lungs) if not mask.all()]
    wanted = np.asarray(truth)[found]
    generator = np.random.default_rng(_SEED)
    strangers = {kind: [place for place in found if truth[place] != kind] for kind in (False, True)}
    result: dict[str, Any] = {"n": len(found), "left_out": len(lungs) - len(found), "auc": {}}
    if len(np.unique(wanted)) < 2:
        return result
    others = [planes[int(generator.choice(strangers[bool(truth[place])]))] for place in found]
    own, masks = [planes[place] for place in found], [lungs[place] for place in found]
    shown: dict[str, list[FloatArray]] = {
        "whole": own,
        "lungs_alone": [
            before(np.full_like(p, p.mean()), p, m) for p, m in zip(own, masks, strict=True)
        ],
        "background_alone": [
            before(p, np.full_like(p, p.mean()), m) for p, m in zip(own, masks, strict=True)
        ],
        "other_background": [before(o, p, m) for o, p, m in zip(others, own, masks, strict=True)],
    }
    result["auc"] = {
        name: round(float(roc_auc_score(wanted, score(some))), 4) for name, some in shown.items()
    }
    return result
