"""Thresholds are chosen on what networks make of domains from which they learned nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dicom_node.errors import BadInput
from dicom_node.score.bundle import read_bundle
from training.data import Item, Picture, Splits
from training.domains import left_out
from training.export import export
from training.fit import TrainingError, fit
from training.progress import FitProgress
from training.recipes import RECIPES
from training.recipes.base import Phase, Recipe
from training.recipes.common import THREE_CHANNELS, kermany_series, radiograph
from training.runs import customised, read_json

SIDE = 32
ALIEN = 0.35
"""How bright the middle of normal pictures of site b is; 0.4 means pneumonia, 0 is usual."""


def site(row: Mapping[str, str]) -> str:
    return row.get("site", "")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return replace(
        RECIPES["cnn_scratch_pneumonia_cxr"],
        name="toy",
        domain=site,
        preprocessing=radiograph(SIDE, (THREE_CHANNELS,), clipped=0.0),
        augmentation=(),
        phases=(Phase(epochs=4, rates=3e-3),),
        batch_size=8,
    )


def pictures(count: int, prefix: str) -> list[Picture]:
    """Normal ones of sites a and b in turn, of pneumonia without a site; two of a patient."""
    generator = np.random.default_rng(len(prefix))
    made = []
    for number in range(count):
        label, name = (("normal", "a"), ("pneumonia", ""), ("normal", "b"))[number % 3]
        plane = generator.uniform(0, 0.5, (1, SIDE, SIDE)).astype(np.float32)
        plane[:, 8:24, 8:24] += {"a": 0.0, "b": ALIEN, "": 0.4}[name]
        columns = {"site": name} if name else {}
        item = Item(f"{prefix}{number}.png", label, "", f"{prefix}{number // 6}", columns)
        made.append(Picture(item, plane, int(label == "pneumonia")))
    return made


@pytest.fixture(scope="module")
def splits() -> Splits:
    return Splits(pictures(60, "train"), pictures(30, "validation"), pictures(12, "test"))


@pytest.fixture(scope="module")
def run(recipe: Recipe, splits: Splits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "toy"
    fit(recipe, splits, folder, device="cpu", progress=False, workers=0)
    return folder


def test_each_domain_is_left_out_in_turn_and_no_test_picture_is_seen(
    recipe: Recipe, splits: Splits, tmp_path: Path
) -> None:
    parts = left_out(recipe, splits, tmp_path)
    assert [part.name for part in parts] == ["a", "b"]
    known = {*splits.train, *splits.validation}
    for part in parts:
        assert {site(picture.item.columns) for picture in part.pictures} == {part.name}
        rest = {*part.splits.train, *part.splits.validation}
        assert not rest & set(part.pictures)
        assert rest | set(part.pictures) == known
        assert not part.splits.test
    assert len({part.recipe.seed for part in parts} | {recipe.seed}) == 3
    assert not left_out(replace(recipe, domain=None), splits, tmp_path)


def test_a_network_is_trained_without_each_domain(
    recipe: Recipe, splits: Splits, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("without1", "without2"):
        assert read_json(run / name, "config.json")["data"]["n"] == {
            "train": 40,
            "validation": 20,
            "test": 0,
        }
    seconds = [read_json(run / part, "timing.json")["seconds"] for part in (".",)]
    assert seconds[0] > 0
    monkeypatch.setattr(FitProgress, "epoch_started", lambda *_: pytest.fail("trained again"))
    fit(recipe, splits, run, device="cpu", progress=False, workers=0, resume=True)


def test_a_threshold_chosen_on_unseen_domains_is_more_careful(
    recipe: Recipe, splits: Splits, run: Path, tmp_path: Path
) -> None:
    careful = export(recipe, splits, run, tmp_path / "careful")
    plain = export(replace(recipe, domain=None), splits, run, tmp_path / "plain")
    assert careful["threshold"] > plain["threshold"] + 0.02
    assert plain["domains"] == {}
    assert {name: each["n"] for name, each in careful["domains"].items()} == {"a": 30, "b": 30}
    assert careful["domains"]["b"]["accuracy"] < 1 <= careful["domains"]["a"]["accuracy"]
    (finding,) = read_bundle(tmp_path / "careful").findings
    assert finding.threshold == careful["threshold"]
    cards = [(tmp_path / name / "docs/README.md").read_text() for name in ("careful", "plain")]
    assert "chosen on pictures of domains from which nothing was learned" in cards[0]
    assert "| b | 30 | 0 |" in cards[0]
    assert "chosen on validation" in cards[1]
    assert "domain" not in cards[1]


def test_a_run_without_these_networks_is_not_exported(
    recipe: Recipe, splits: Splits, run: Path, tmp_path: Path
) -> None:
    (tmp_path / "old").mkdir()
    for name in ("weights.safetensors", "config.json"):
        (tmp_path / "old" / name).write_bytes((run / name).read_bytes())
    with pytest.raises(BadInput, match=r"network without a is missing; finish .* --resume"):
        export(recipe, splits, tmp_path / "old", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_domain_that_has_all_pictures_of_a_label_is_told_before_training(
    recipe: Recipe, splits: Splits, tmp_path: Path
) -> None:
    everywhere = replace(recipe, domain=lambda row: "b" if row else "")
    with pytest.raises(TrainingError, match=r"domain b, .*: 0 training pictures of 'normal'"):
        fit(everywhere, splits, tmp_path / "run", device="cpu", progress=False, workers=0)
    assert not (tmp_path / "run").exists()


def test_the_series_of_the_films_of_children_and_no_other_data_have_domains() -> None:
    keys = ("IM-0115", "NORMAL2-IM-0383", "bacteria-person12", "")
    assert [kermany_series({"patient_key": key}) for key in keys] == ["IM", "NORMAL2-IM", "", ""]
    base = RECIPES["cxr_pneumonia"]
    assert base.domain is kermany_series
    assert customised(base, changes={}, fallback=False, own_data="films").domain is None
