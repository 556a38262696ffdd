"""What a tiny test set is worth: one experiment repeated over many splits of the same pictures."""

# mypy: allow-untyped-calls
# (scikit-learn and parts of torch have no type hints)

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedShuffleSplit, train_test_split
from torch import Tensor, nn

from dicom_node.errors import BadInput
from dicom_node.score.networks.heads import LayeredHead
from dicom_node.score.transforms import Pipeline
from training.confounding import border_only, share_with_interval
from training.data import Source
from training.frozen import frozen_maps, frozen_network
from training.recipes import RECIPES
from training.recipes.base import Recipe

Indices = NDArray[np.int64]

TEST_SHARE = 0.2
_SYSTEM = "vgg16_covid_cxr"
_HIDDEN, _DROPOUT, _WINDOW = 64, 0.5, 4
"""Of the published head: average pooling 4 x 4, Dense 64, dropout, softmax."""
_LEVEL = (2.5, 97.5)


def repeated(
    source: Source,
    *,
    seed: int,
    splits: int = 50,
    positive: str = "covid",
    recipe: Recipe = RECIPES[_SYSTEM],
) -> dict[str, Any]:
    """Train the published head on frozen features over many stratified 80/20 splits.

    The backbone never sees a picture of the set, so its features are taken once, without
    augmentation. Head and optimisation are those of the published system: average pooling 4 x 4,
    Dense 64, dropout 0.5, softmax; Adam at 1e-3 that decays by rate / epochs, 25 epochs, batch 8.

    Parameters
    ----------
    positive
        The label whose recall is the sensitivity.
    recipe
        With one phase; its ImageNet backbone stays frozen.

    Returns
    -------
    dict
        `published_split` (the set's own split, else that of seed 42) with `value` and exact
        `ci95` of each metric, `splits` with `mean`, `ci95` (the middle 95 % of the splits), `worst`
        and `best`; `border_published_split` and `border_splits` are the same on pictures of which
        only the outer border is shown.

    Raises
    ------
    BadInput
        The set does not have two labels, of which `positive` is one.
    """
    labels = sorted({item.label for item in source.items})
    if len(labels) != 2 or positive not in labels:
        raise BadInput(
            f"{source.name}: has the labels {', '.join(labels)}; two are needed, {positive} and "
            "another"
        )
    targets = torch.tensor([int(item.label == positive) for item in source.items])
    pictures = [source.read(item) for item in source.items]
    published = _published(source, targets, recipe.split.seed)
    network, recipe = frozen_network(recipe)
    pipeline = Pipeline(recipe.preprocessing)
    result: dict[str, Any] = {
        "data_set": source.name,
        "n": len(targets),
        "n_test": len(published[1]),
        "backbone": f"{recipe.architecture}, ImageNet, frozen",
        "number_of_splits": splits,
    }
    shown = {"": pictures, "border_": [border_only(picture) for picture in pictures]}
    for name, versions in shown.items():
        features = nn.AvgPool2d(_WINDOW)(frozen_maps(network, pipeline, versions))
        shuffle = StratifiedShuffleSplit(splits, test_size=TEST_SHARE, random_state=seed)
        rounds = [
            _experiment(recipe, features, targets, split, seed + number)
            for number, split in enumerate(shuffle.split(targets, targets))
        ]
        single = _experiment(recipe, features, targets, published, recipe.split.seed)
        result[f"{name}published_split"] = _single(single)
        result[f"{name}splits"] = _summary(rounds)
    return result


def _published(source: Source, targets: Tensor, seed: int) -> tuple[Indices, Indices]:
    splits = np.array([item.split for item in source.items])
    if {"train", "test"} <= set(splits):
        return np.flatnonzero(splits == "train"), np.flatnonzero(splits == "test")
    train, test = train_test_split(
        np.arange(len(targets)),
        test_size=TEST_SHARE,
        stratify=targets,
        random_state=seed,
    )
    return train, test


def _experiment(
    recipe: Recipe, features: Tensor, targets: Tensor, split: tuple[Indices, Indices], seed: int
) -> dict[str, NDArray[np.bool_]]:
    """Train a head and say for each metric which images left out were right."""
    train, test = split
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = _trained_head(recipe, features[train], targets[train])
    head.eval()
    with torch.inference_mode():
        called = head(features[test])[0].argmax(dim=1).numpy() == 1
    truth = targets[test].numpy() == 1
    return {
        "accuracy": called == truth,
        "sensitivity": called[truth],
        "specificity": ~called[~truth],
    }


def _single(right: dict[str, NDArray[np.bool_]]) -> dict[str, Any]:
    shares = {name: share_with_interval(values) for name, values in right.items()}
    return {
        name: {"value": share["accuracy"], "n": share["n"], "ci95": share["ci95"]}
        for name, share in shares.items()
    }


def _trained_head(recipe: Recipe, features: Tensor, targets: Tensor) -> LayeredHead:
    (phase,) = recipe.phases
    (rate,) = phase.bounds
    head = LayeredHead((features.shape[1], _HIDDEN, 2), (_DROPOUT,))
    optimizer = torch.optim.Adam(head.parameters(), lr=rate)
    decay = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 1 / (1 + step * rate / phase.epochs)
    )
    for _ in range(phase.epochs):
        for batch in torch.randperm(len(targets)).split(recipe.batch_size):
            loss = nn.functional.cross_entropy(head(features[batch])[0], targets[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            decay.step()
    return head


def _summary(rounds: list[dict[str, NDArray[np.bool_]]]) -> dict[str, Any]:
    summary = {}
    for name in rounds[0]:
        values = np.array([result[name].mean() for result in rounds])
        low, high = np.percentile(values, _LEVEL)
        summary[name] = {
            "mean": round(float(values.mean()), 4),
            "ci95": [round(float(low), 4), round(float(high), 4)],
            "worst": round(float(values.min()), 4),
            "best": round(float(values.max()), 4),
        }
    return summary
