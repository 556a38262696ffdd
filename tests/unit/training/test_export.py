"""An exported run is a model folder that the node accepts, with evidence and a card."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dicom_node.errors import BadInput, ModelError
from dicom_node.score.bundle import read_bundle
from dicom_node.score.engine import open_classifier
from dicom_node.score.networks import build
from training.changes import overridden
from training.data import Item, Picture, Splits
from training.evidence import strict_places, subgroups
from training.export import VERSION, export
from training.intervals import SEED
from training.metrics import measure
from training.others import Others
from training.recipes import RECIPES
from training.recipes.base import Recipe

REPOSITORY = Path(__file__).parents[3]
SIDE = 64
BASES = {"sigmoid": "cxr_pneumonia", "softmax": "cxr_covid3", "series": "ct_covid"}


def small(base: str) -> Recipe:
    """A shipped recipe with the network that trains from scratch, at a small side."""
    changes = {"architecture": "FiveBlockCNN", "weights": "none", "side": str(SIDE)}
    return replace(overridden(RECIPES[base], changes), name="tiny")


def pictures(recipe: Recipe, count: int, split: str, seed: int) -> list[Picture]:
    """Planes whose brightness grows with the target; two pictures a group."""
    generator = np.random.default_rng(seed)
    made = []
    for number in range(count):
        target = number % len(recipe.labels)
        plane = generator.uniform(0, 0.5 + 0.2 * target, (1, SIDE, SIDE)).astype(np.float32)
        columns = {"subtype": ("virus", "bacteria")[number // 2 % 2]}
        item = Item(
            f"{split}/{number}.png", recipe.labels[target], split, f"{split}{number // 2}", columns
        )
        made.append(Picture(item, plane, target))
    return made


@pytest.fixture(params=list(BASES.values()), ids=list(BASES))
def recipe(request: pytest.FixtureRequest) -> Recipe:
    return small(str(request.param))


@pytest.fixture
def splits(recipe: Recipe) -> Splits:
    return Splits(
        train=pictures(recipe, 24, "train", 1),
        validation=pictures(recipe, 18, "train", 2),
        test=pictures(recipe, 12, "test", 3),
    )


@pytest.fixture
def run(recipe: Recipe, tmp_path: Path) -> Path:
    """A run folder with untrained weights."""
    folder = tmp_path / "run"
    folder.mkdir()
    torch.manual_seed(4)
    network = build(recipe.architecture, len(recipe.outputs))
    save_file(network.state_dict(), folder / "weights.safetensors")
    return folder


def test_the_node_accepts_what_was_exported(
    recipe: Recipe, splits: Splits, run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "models" / "tiny"
    recipe = replace(recipe, seed=7)
    stripes = Others("stripes", [splits.test[0].plane] * 3)
    report = export(recipe, splits, run, folder, others=[stripes])
    bundle = read_bundle(folder)
    assert bundle.version == VERSION
    section = bundle.metadata.dicom_node
    assert section.outputs == recipe.outputs
    assert [finding.label for finding in bundle.findings] == [f.label for f in recipe.findings]
    for finding in bundle.findings:
        thresholds = {point.name: point.threshold for point in finding.operating_points}
        assert finding.threshold == thresholds[recipe.operating_point]
    classifier = open_classifier(bundle, device="cpu", threads=1)
    assert classifier.golden_deviation() < 1e-4
    scores = classifier.predict([classifier.pipeline.tensor(p.plane) for p in splits.test])
    assert scores.outputs.shape == (12, len(recipe.outputs))
    assert (scores.distance > 0).all()
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]

    assert json.loads((folder / "docs/evidence.json").read_text()) == report
    assert set(report["splits"]) == {"validation", "test", "test_strict"}
    assert report["splits"]["test"]["n"] == 12
    # `evaluate` draws its resamples with this seed, whatever the recipe's is.
    again = measure(
        np.array([p.target for p in splits.test]),
        scores.outputs,
        labels=recipe.labels,
        positive=recipe.positive,
        threshold=bundle.findings[0].threshold,
        seed=SEED,
        groups=[p.item.group for p in splits.test],
    )
    assert report["splits"]["test"]["ci95"] == again["ci95"]
    refused = report["splits"]["validation"]["refused_fraction"]
    assert bundle.scope_gate is not None
    assert bundle.scope_gate.refused_validation == refused
    assert report["scope_gate"]["stripes"]["n"] == 3
    assert report["scope_gate"]["official test split"]["n"] == 12
    assert "validation" not in report["scope_gate"]
    subtypes = report["subgroups"]["subtype"]
    assert set(subtypes) == {"virus", "bacteria"}
    right = sum(share["n"] * share["accuracy"] for share in subtypes.values())
    assert right / 12 == pytest.approx(report["splits"]["test"]["accuracy"], abs=1e-3)
    assert {entry.split for entry in section.evidence} == set(report["splits"])


def test_exporting_again_replaces_the_model_and_keeps_foreign_files(tmp_path: Path) -> None:
    recipe = small("cxr_pneumonia")
    splits = Splits(pictures(recipe, 12, "train", 1), pictures(recipe, 12, "train", 2), [])
    folder, run = tmp_path / "tiny", tmp_path / "run"
    run.mkdir()
    for seed, version in ((1, "0.2.0"), (2, "0.3.0")):
        torch.manual_seed(seed)
        save_file(build(recipe.architecture, 1).state_dict(), run / "weights.safetensors")
        report = export(recipe, splits, run, folder, version=version)
        (folder / "notes.txt").write_text("mine")
    assert read_bundle(folder).version == "0.3.0"
    assert (folder / "notes.txt").read_text() == "mine"
    # Without a test split there is validation alone.
    assert set(report["splits"]) == {"validation"}
    assert report["scope_gate"]["validation"]["n"] == 12


DYING = """
import os, signal, sys
from pathlib import Path
from tests.unit.training.test_export import a_model
move, last = Path.replace, sys.argv[2]
def replace(source, target):
    if str(target).endswith(last):
        os.kill(os.getpid(), signal.SIGKILL)
    return move(source, target)
Path.replace = replace
a_model(Path(sys.argv[1]), 2)
"""


def a_model(place: Path, seed: int) -> Path:
    """Export random weights, in version 0.`seed`.0."""
    recipe = small("cxr_pneumonia")
    splits = Splits(pictures(recipe, 12, "train", 1), pictures(recipe, 12, "train", 2), [])
    run = place / f"run{seed}"
    run.mkdir(exist_ok=True)
    torch.manual_seed(seed)
    save_file(build(recipe.architecture, 1).state_dict(), run / "weights.safetensors")
    export(recipe, splits, run, place / "tiny", version=f"0.{seed}.0")
    return place / "tiny"


@pytest.mark.parametrize("last", ["scope.safetensors", "metadata.json"])
def test_a_killed_export_never_leaves_a_mixture_that_the_node_would_use(
    last: str, tmp_path: Path
) -> None:
    folder = a_model(tmp_path, 1)
    died = subprocess.run(
        [sys.executable, "-c", DYING, str(tmp_path), last], cwd=REPOSITORY, check=False
    )
    assert died.returncode == -signal.SIGKILL
    with pytest.raises(ModelError):
        read_bundle(folder)
    assert read_bundle(a_model(tmp_path, 2)).version == "0.2.0"
    assert not list(tmp_path.glob(".*"))


def test_a_failed_export_leaves_the_old_model_as_it_was(tmp_path: Path) -> None:
    recipe = small("cxr_pneumonia")
    good = Splits(pictures(recipe, 12, "train", 1), pictures(recipe, 12, "train", 2), [])
    folder, run = tmp_path / "tiny", tmp_path / "run"
    run.mkdir()
    save_file(build(recipe.architecture, 1).state_dict(), run / "weights.safetensors")
    export(recipe, good, run, folder)
    before = read_bundle(folder).identity
    one_class = Splits(good.train, good.validation[::2], [])
    with pytest.raises(BadInput, match="there are some of 0 alone"):
        export(recipe, one_class, run, folder)
    with pytest.raises(BadInput, match="no validation pictures"):
        export(recipe, Splits(good.train, [], []), run, folder)
    assert read_bundle(folder).identity == before
    assert not (tmp_path / ".tiny.part").exists()


def test_wrong_weights_and_names_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    recipe, nothing = small("cxr_pneumonia"), Splits([], [], [])
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(BadInput, match=r"weights\.safetensors is missing or not of FiveBlockCNN"):
        export(recipe, nothing, run, tmp_path / "tiny")
    save_file(build(recipe.architecture, 3).state_dict(), run / "weights.safetensors")
    with pytest.raises(BadInput, match="with 1 outputs"):
        export(recipe, nothing, run, tmp_path / "tiny")
    with pytest.raises(BadInput, match="'My Model' cannot name a model"):
        export(recipe, nothing, run, tmp_path / "My Model")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_tampered_export_is_refused(tmp_path: Path) -> None:
    recipe = small("cxr_pneumonia")
    splits = Splits(pictures(recipe, 12, "train", 1), pictures(recipe, 12, "train", 2), [])
    run, folder = tmp_path / "run", tmp_path / "tiny"
    run.mkdir()
    save_file(build(recipe.architecture, 1).state_dict(), run / "weights.safetensors")
    export(recipe, splits, run, folder)
    for name in ("models/scope.safetensors", "docs/README.md"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content + b" ")
        with pytest.raises(ModelError, match="SHA-256 differs"):
            read_bundle(folder)
        (folder / name).write_bytes(content)


def test_the_strict_test_split_has_no_relatives_copies_or_doubts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DICOM_NODE_DATA", str(tmp_path))

    def picture(group: str, **columns: str) -> Picture:
        item = Item("x.png", "covid", "test", group, columns)
        return Picture(item, np.zeros((1, 1, 1), np.float32), 1)

    test = [
        picture("g1"),
        picture("g2", label_flag="doubtful"),
        picture("g3", dup_group="d1"),
        picture("g4", label_flag="", dup_group=""),
        picture(""),
    ]
    learned = [picture("g9", dup_group="d1")]
    assert strict_places(Splits([picture("g1"), picture("")], learned, test)) == [3, 4]


def test_groups_with_one_value_are_not_listed() -> None:
    recipe = small("cxr_pneumonia")
    some = pictures(recipe, 8, "test", 5)
    right = np.array([True] * 6 + [False] * 2)
    truth = np.array([picture.target == 1 for picture in some])
    found = subgroups(("subtype", "source"), some, right, truth)
    assert set(found) == {"subtype"}
    assert found["subtype"]["virus"]["accuracy"] == 1.0
    assert found["subtype"]["bacteria"]["accuracy"] == 0.5
    assert found["subtype"]["bacteria"]["n_positive"] == 2
