"""What a model looks at: right and wrong cases with Grad-CAM, and its share inside the lungs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import nn

from dicom_node.score.bundle import read_bundle
from dicom_node.score.engine import Classifier, Scores, open_classifier
from dicom_node.score.networks import StagedNetwork
from dicom_node.score.transforms import FloatArray
from training.data import Picture
from training.lung_field import LungField, lung_field
from training.lungs import lungs_on
from training.plots import grid
from training.shortcuts import shortcuts
from training.variations import resized

TILES = 12
"""Most pictures of a grid."""
_SMALLEST = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Explained:
    """What a model says of N labelled pictures, for its main finding.

    Attributes
    ----------
    probabilities
        (N,) calibrated, of the main finding.
    truth, called
        (N,) bool: whether the finding is there, and whether its threshold is reached.
    loss
        (N,) negative logarithm of the probability of the right label.
    maps
        (N, h, w) float32 in [0, 1]: Grad-CAM of the main finding.
    """

    probabilities: NDArray[np.float64]
    truth: NDArray[np.bool_]
    called: NDArray[np.bool_]
    loss: NDArray[np.float64]
    maps: FloatArray


def explain(
    model_dir: Path, pictures: Sequence[Picture], out: Path, *, segment: bool = False
) -> dict[str, Any]:
    """Write grids of right and wrong cases and the greatest failures to `out`.

    Parameters
    ----------
    model_dir
        A model folder.
    pictures
        Labelled pictures, targets being indices into the model's labels.
    out
        Folder for `true_positives.png`, `false_positives.png`, `true_negatives.png`,
        `false_negatives.png` and `failures.png`; a grid without pictures is not written.
    segment
        See `looked_at`.

    Returns
    -------
    dict
        `n`, `files`, `cases` (kind -> number), `failures` (path, label, probability, loss; worst
        first) and what `looked_at` gives.
    """
    classifier = open_classifier(read_bundle(model_dir), device="cpu")
    scores = classifier.predict([classifier.pipeline.tensor(p.plane) for p in pictures])
    explained = explained_cases(classifier, scores, pictures)
    out.mkdir(parents=True, exist_ok=True)
    cases = _cases(explained)
    worst = np.argsort(-explained.loss, kind="stable")[:TILES].tolist()
    # The typical cases are the surest right ones, the telling ones the surest wrong ones.
    shown = {name: places[np.argsort(explained.loss[places])] for name, places in cases.items()}
    shown |= {name: shown[name][::-1] for name in shown if name.startswith("false")}
    files = []
    for name, places in {**shown, "failures": worst}.items():
        if len(places):
            tiles = [_tile(pictures[i], explained, i) for i in places[:TILES]]
            grid(out / f"{name}.png", tiles)
            files.append(f"{name}.png")
    return {
        "n": len(pictures),
        "files": files,
        "cases": {name: len(places) for name, places in cases.items()},
        "failures": [_failure(pictures[index], explained, index) for index in worst],
        **looked_at(classifier, explained, pictures, segment=segment),
    }


def explained_cases(
    classifier: Classifier, scores: Scores, pictures: Sequence[Picture]
) -> Explained:
    """Compare a model's scores with the labels, for its main finding."""
    section = classifier.bundle.metadata.dicom_node
    finding, targets = section.findings[0], np.array([picture.target for picture in pictures])
    truth = targets == section.labels.index(finding.label)
    if section.calibration.function == "sigmoid":
        right = np.where(truth, scores.outputs[:, 0], 1 - scores.outputs[:, 0])
    else:
        columns = np.array([section.outputs.index(label) for label in section.labels])
        right = scores.outputs[np.arange(len(targets)), columns[targets]]
    probabilities = scores.probabilities[:, 0]
    return Explained(
        probabilities=probabilities,
        truth=truth,
        called=probabilities >= finding.threshold,
        loss=-np.log(np.maximum(right, _SMALLEST)),
        maps=scores.maps[:, 0],
    )


def looked_at(
    classifier: Classifier,
    explained: Explained,
    pictures: Sequence[Picture],
    *,
    segment: bool = False,
) -> dict[str, Any]:
    """Where a model finds its reasons: `inside_lungs`, and `shortcuts` if `segment`.

    Parameters
    ----------
    segment
        Find the lungs as for training (`training.lungs`), on films with a U-Net, and show the model
        parts of the pictures, too (`training.shortcuts`); otherwise a rough rule finds them.

    Raises
    ------
    BadInput
        The U-Net cannot be had.
    """
    planes = [picture.plane for picture in pictures]
    of_ct = classifier.bundle.kind == "ct_series"
    if not segment:
        return {
            "inside_lungs": inside_lungs(
                explained,
                planes,
                lambda place: lung_field(planes[place][0], slice_of_ct=of_ct),
            )
        }
    lungs = lungs_on("ct_series" if of_ct else "cxr_image", planes)

    def score(shown: list[FloatArray]) -> NDArray[np.float64]:
        tensors = [classifier.pipeline.tensor(plane) for plane in shown]
        return np.asarray(classifier.predict(tensors).probabilities[:, 0], dtype=np.float64)

    return {
        "inside_lungs": inside_lungs(
            explained, planes, lambda place: LungField(lungs[place], not lungs[place].all())
        ),
        "shortcuts": shortcuts(score, planes, explained.truth, lungs),
    }


def inside_lungs(
    explained: Explained, planes: Sequence[FloatArray], field_of: Callable[[int], LungField]
) -> dict[str, Any]:
    """How much of the heat maps of true positives lies inside the lungs.

    Parameters
    ----------
    planes
        (1, rows, columns), N of them.
    field_of
        The lungs of the picture at a place.

    Returns
    -------
    dict
        `n` true positives with a believable lung field, `left_out` others, `inside` (mean share of
        the map inside the lungs) and `by_chance` (mean share of the picture that is lung: what an
        even map would get); both None without pictures.
    """
    true_positives = np.flatnonzero(explained.truth & explained.called).tolist()
    shares, areas = [], []
    for place in true_positives:
        field = field_of(place)
        heat = resized(explained.maps[place][np.newaxis], *planes[place].shape[1:])[0]
        if field.plausible and heat.sum() > 0:
            shares.append(float(heat[field.mask].sum() / heat.sum()))
            areas.append(float(field.mask.mean()))
    return {
        "n": len(shares),
        "left_out": len(true_positives) - len(shares),
        "inside": round(float(np.mean(shares)), 4) if shares else None,
        "by_chance": round(float(np.mean(areas)), 4) if shares else None,
    }


def randomised_correlation(
    network: StagedNetwork, randomised: StagedNetwork, images: FloatArray, output: int
) -> float:
    """Mean rank correlation of a network's maps with those of its twin with random weights.

    A map that stays the same when everything that was learned is gone shows edges of the picture,
    not reasons of the network (Adebayo et al. 2018, arXiv:1810.03292).

    Parameters
    ----------
    randomised
        The same architecture, freshly made.
    images
        Prepared images (N, 3, rows, columns) float32, N >= 2.
    output
        Index of the output whose maps are compared.
    """
    randomised.eval()
    for layer in randomised.modules():
        # Nothing was learned, the statistics of the activations neither: take the batch's.
        if isinstance(layer, nn.BatchNorm2d):
            layer.train()
    with torch.inference_mode():
        pair = [
            one(torch.from_numpy(images)).activations[:, output].flatten(1).double().numpy()
            for one in (network.eval(), randomised)
        ]
    ranks = [np.asarray(rankdata(maps, axis=1)) for maps in pair]
    centred = [values - values.mean(axis=1, keepdims=True) for values in ranks]
    scale = np.prod([np.linalg.norm(values, axis=1) for values in centred], axis=0)
    product = np.sum(centred[0] * centred[1], axis=1)
    return float(np.mean(np.divide(product, scale, out=np.zeros_like(scale), where=scale > 0)))


def _cases(explained: Explained) -> dict[str, NDArray[np.int64]]:
    truth, called = explained.truth, explained.called
    kinds = {
        "true_positives": truth & called,
        "false_positives": ~truth & called,
        "true_negatives": ~truth & ~called,
        "false_negatives": truth & ~called,
    }
    return {name: np.flatnonzero(chosen) for name, chosen in kinds.items()}


def _tile(picture: Picture, explained: Explained, index: int) -> tuple[FloatArray, FloatArray, str]:
    caption = f"{picture.item.label}, p = {explained.probabilities[index]:.2f}"
    return picture.plane[0], explained.maps[index], caption


def _failure(picture: Picture, explained: Explained, index: int) -> dict[str, Any]:
    return {
        "path": picture.item.path,
        "label": picture.item.label,
        "probability": round(float(explained.probabilities[index]), 4),
        "loss": round(float(explained.loss[index]), 4),
    }
