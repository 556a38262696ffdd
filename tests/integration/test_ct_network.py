"""The published CT encoder sees on slices what tells their labels, if they lie as it learned."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from training.cli.loading import Wanted, load_splits
from training.ct_network import SliceEncoder, slice_encoder
from training.data import Picture
from training.recipes.ct_covid import RECIPE


@pytest.fixture(scope="module")
def encoder() -> SliceEncoder:
    return slice_encoder()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Picture]:
    """The training slices of `covid_ct`."""
    wanted = Wanted(None, None, None, tmp_path_factory.mktemp("runs"))
    return list(load_splits(RECIPE, wanted, wanted.source(RECIPE)).train)


def probed(encoder: SliceEncoder, slices: torch.Tensor, pictures: list[Picture]) -> float:
    """AUC of a linear probe on the means of the last stage, cross-validated by document."""
    means = np.concatenate([encoder(some).mean(dim=(2, 3))[:, 1024:] for some in slices.split(16)])
    labels = [picture.target for picture in pictures]
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=1e-2, max_iter=2000))
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    said: NDArray[np.float64] = cross_val_predict(
        probe,
        means,
        labels,
        groups=[picture.item.group for picture in pictures],
        cv=folds,
        method="decision_function",
    )
    return float(roc_auc_score(labels, said))


def test_slices_are_seen_best_as_they_are_shown(
    encoder: SliceEncoder, pictures: list[Picture]
) -> None:
    slices = torch.from_numpy(np.stack([picture.plane for picture in pictures]))
    as_shown = probed(encoder, slices, pictures)
    assert as_shown > 0.75
    # What the network would see of them without being told how they lie.
    turned = slices.transpose(2, 3).flip(2, 3)
    assert as_shown > probed(encoder, turned, pictures) + 0.03
