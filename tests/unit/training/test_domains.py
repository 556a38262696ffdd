"""Thresholds are chosen on what networks make of domains from which they learned nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dicom_node.errors import BadInput
from dicom_node.score.bundle import read_bundle
from dicom_node.score.transforms import FloatArray
from training.batches import training_loader
from training.changes import customised
from training.data import Item, Picture, Splits
from training.domains import left_out, unseen
from training.export import export
from training.fit import fit
from training.lung_field import Mask
from training.progress import FitProgress
from training.recipes import RECIPES
from training.recipes.base import DomainColumn, Phase, Recipe
from training.recipes.common import THREE_CHANNELS, kermany_series, radiograph
from training.runs import data_digest, read_json

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
    """Normal ones of sites a and b in turn, of pneumonia without a site; two of a patient.

    The first patient of all has been at both sites.
    """
    generator = np.random.default_rng(len(prefix))
    made = []
    for number in range(count):
        label, name = (("normal", "a"), ("pneumonia", ""), ("normal", "b"))[number % 3]
        plane = generator.uniform(0, 0.5, (1, SIDE, SIDE)).astype(np.float32)
        plane[:, 8:24, 8:24] += {"a": 0.0, "b": ALIEN, "": 0.4}[name]
        columns = {"site": name} if name else {}
        patient = 0 if number in (0, 2) else 10 * (number % 3 + 1) + number // 6
        item = Item(f"{prefix}{number}.png", label, "", f"{prefix}{patient}", columns)
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
        patients = {picture.item.group for picture in part.pictures}
        assert not patients & {picture.item.group for picture in rest}
        assert {p for p in known if p.item.group not in patients} == rest
        assert len(known) - len(rest) - len(part.pictures) == 2, "of the patient at both sites"
        assert not part.splits.test
    assert len({part.recipe.seed for part in parts} | {recipe.seed}) == 3
    assert not left_out(replace(recipe, domain=None), splits, tmp_path)


def test_a_network_is_trained_without_each_domain(
    recipe: Recipe, splits: Splits, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("without1", "without2")
    for name in names:
        counts = read_json(run / name, "config.json")["data"]["n"]
        assert counts == {"train": 39, "validation": 19, "test": 0}
    alone = sum(read_json(run / name, "timing.json")["seconds"] for name in names)
    assert read_json(run, "timing.json")["seconds"] > alone > 0
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
    assert "chosen on domains from which nothing was learned" in cards[0]
    assert "| b | 30 | 0 |" in cards[0]
    assert "chosen on validation" in cards[1]
    assert "domain" not in cards[1]


def test_a_label_that_a_domain_has_is_not_taken_from_validation(
    recipe: Recipe, splits: Splits, run: Path, tmp_path: Path
) -> None:
    sick = Item("sick.png", "pneumonia", "", "sick", {"site": "a"})
    there = Picture(sick, splits.train[1].plane, 1)
    widened = replace(splits, train=[*splits.train, there])
    parts = unseen(left_out(recipe, splits, run))
    assert [int((part.targets == 1).sum()) for part in parts] == [20, 20]
    shutil.copytree(run, tmp_path / "run")
    for left in left_out(recipe, widened, tmp_path / "run"):
        config = read_json(left.run, "config.json")
        config["data"]["digest"] = data_digest(left.splits)
        (left.run / "config.json").write_text(json.dumps(config))
    parts = unseen(left_out(recipe, widened, tmp_path / "run"))
    assert [int((part.targets == 1).sum()) for part in parts] == [2, 0]


def test_networks_that_are_not_finished_or_left_out_another_domain_choose_nothing(
    recipe: Recipe, splits: Splits, run: Path, tmp_path: Path
) -> None:
    shutil.copytree(run, tmp_path / "run")
    # Somebody corrects the table.
    wrong = splits.train[-3]
    moved = replace(wrong, item=replace(wrong.item, columns={"site": "b"}))
    corrected = replace(splits, train=[moved if p is wrong else p for p in splits.train])
    with pytest.raises(BadInput, match=r"the domains of the data have changed; train again"):
        export(recipe, corrected, tmp_path / "run", tmp_path / "model")
    # A kill during its first epoch leaves weights, too.
    (tmp_path / "run" / "without2" / "timing.json").unlink()
    with pytest.raises(BadInput, match=r"without domain b is not finished; .* --resume"):
        export(recipe, splits, tmp_path / "run", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_new_training_is_not_judged_by_what_an_old_one_left_out(
    recipe: Recipe, splits: Splits, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(run, tmp_path / "run")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(FitProgress, "epoch_started", killed)
    with pytest.raises(KeyboardInterrupt):
        fit(recipe, splits, tmp_path / "run", device="cpu", progress=False, workers=0)
    with pytest.raises(BadInput, match="not finished"):
        unseen(left_out(recipe, splits, tmp_path / "run"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"domain": lambda row: "b" if row else ""}, r"without b: 0 training pictures of 'normal'"),
        ({"domain": lambda _: ""}, "no training picture names a domain"),
        ({"domain": DomainColumn("ward")}, "the data have no column 'ward'"),
        ({"imitation_epochs": 1}, "imitation would see every domain"),
    ],
    ids=["all of a label", "none", "no column", "imitation"],
)
def test_domains_that_cannot_be_left_out_are_told_before_training(
    recipe: Recipe, splits: Splits, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    if "imitation_epochs" in changes:
        changes |= {"kind": "ct_series", "aggregation": {"slices": 3}}
    with pytest.raises(BadInput, match=words):
        fit(replace(recipe, **changes), splits, tmp_path / "run", device="cpu", progress=False)
    assert not (tmp_path / "run").exists()


def test_patients_of_several_domains_are_named_as_the_cause(
    recipe: Recipe, splits: Splits, tmp_path: Path
) -> None:
    def travelled(part: list[Picture]) -> list[Picture]:
        normal = [replace(p, item=replace(p.item, group="one")) for p in part if not p.target]
        return [*normal, *(p for p in part if p.target)]

    everywhere = Splits(travelled(splits.train), travelled(splits.validation), [])
    words = r"without a and without the \d+ pictures that its patients have elsewhere: 0 training"
    with pytest.raises(BadInput, match=words):
        fit(recipe, everywhere, tmp_path / "run", device="cpu", progress=False)


def test_lungs_are_those_of_the_pictures_that_are_left(
    recipe: Recipe, splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = []

    def lungs(_: str, planes: Sequence[FloatArray], **__: object) -> list[Mask]:
        return [plane[0] > plane[0].mean() for plane in planes]

    def watched(watched_recipe: Recipe, some: Sequence[Picture], *rest: Any, **options: Any) -> Any:
        pairs.extend(zip(some, options["lungs"], strict=True))
        return training_loader(watched_recipe, some, *rest, **options)

    monkeypatch.setattr("training.fit.lungs_on", lungs)
    monkeypatch.setattr("training.fit.training_loader", watched)
    phases = (Phase(epochs=1, rates=1e-3),)
    guided = replace(recipe, lung_attention=1.0, lung_backgrounds=0.5, phases=phases)
    fit(guided, splits, tmp_path / "run", device="cpu", progress=False, workers=0)
    assert len(pairs) == 60 + 39 + 39
    for picture, mask in pairs:
        np.testing.assert_array_equal(mask, picture.plane[0] > picture.plane[0].mean())


def test_the_series_of_the_films_of_children_and_no_other_data_have_domains() -> None:
    keys = ("IM-0115", "NORMAL2-IM-0383", "bacteria-person12", "")
    assert [kermany_series({"patient_key": key}) for key in keys] == ["IM", "NORMAL2-IM", "", ""]
    base = RECIPES["cxr_pneumonia"]
    assert base.domain is kermany_series
    assert customised(base, changes={}, fallback=False, own_data="films").domain is None
    sites = customised(base, changes={"domain": "site"}, fallback=False, own_data="films").domain
    assert sites == DomainColumn("site")
    assert customised(base, changes={"domain": "none"}, fallback=False).domain is None
