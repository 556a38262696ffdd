"""Runs that resume to the same weights, stop with a clear word, and learn from their teachers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from dicom_node.errors import BadInput
from dicom_node.score.networks import Output, build
from training import runs
from training.batches import EpochOrder, training_loader
from training.changes import overridden
from training.data import Item, Picture, Splits, without_fold
from training.fit import TrainingError, fit
from training.loop import goodness
from training.losses import SoftLoss, class_weights, hard_targets, mixed
from training.phases import OutputInferer, frozen_groups, group_rates, optimizer_of, schedule_of
from training.pretrained import load_run
from training.progress import FitProgress
from training.recipes.base import Phase, Recipe
from training.recipes.common import spec
from training.runs import read_json
from training.soup import member_seed
from training.teachers import Teachers, teacher_recipe

from .tiny import SIDE, toy

MEMBERS = ("member1", "member2")
TAUGHT = ("teacher1", "teacher2")
TEN_SECONDS = {"seconds": 10.0, "energy_kwh": 1.0, "carbon_kg": 0.5}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def recipe() -> Recipe:
    return replace(
        toy(),
        augmentation=(
            spec("RandFlip", prob=0.5, spatial_axis=1),
            spec("RandBorder", prob=0.5, fraction=0.1),
        ),
        phases=(
            Phase(epochs=1, rates=1e-2, trained_groups=1),
            Phase(epochs=2, rates=(1e-4, 1e-3), schedule="one_cycle"),
        ),
        mixup=0.2,
        ema=0.9,
        early_stopping=2,
        class_balanced=True,
    )


def pictures(count: int, prefix: str) -> list[Picture]:
    generator = np.random.default_rng(len(prefix))
    made = []
    for number in range(count):
        target = number % 2
        plane = generator.uniform(0, 0.5, (1, SIDE, SIDE)).astype(np.float32)
        plane[:, 8:24, 8:24] += 0.4 * target
        label = ("normal", "pneumonia")[target]
        item = Item(f"{prefix}{number}.png", label, "", "", {})
        made.append(Picture(item, plane, target))
    return made


@pytest.fixture
def splits() -> Splits:
    return Splits(pictures(10, "train"), pictures(6, "validation"), pictures(4, "test"))


def run_of(recipe: Recipe, splits: Splits, run: Path, **options: Any) -> dict[str, torch.Tensor]:
    fit(recipe, splits, run, device="cpu", progress=False, workers=0, **options)
    return dict(load_file(run / "weights.safetensors"))


class Interrupted(Exception):
    """What a person does to a run."""


@pytest.mark.parametrize(
    ("teachers", "stopped_before"),
    [(0, 2), (0, 3), (2, 5)],
    ids=["first epoch", "second phase", "second teacher"],
)
def test_an_interrupted_and_resumed_run_ends_as_one_that_was_not(
    recipe: Recipe,
    splits: Splits,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    teachers: int,
    stopped_before: int,
) -> None:
    recipe = replace(recipe, teachers=teachers)
    begun: list[int] = []
    begin = FitProgress.epoch_started

    def counted(shown: FitProgress, epoch: int, steps: int) -> None:
        begun.append(epoch)
        begin(shown, epoch, steps)

    def interrupted(shown: FitProgress, epoch: int, steps: int) -> None:
        if len(begun) == stopped_before - 1:
            raise Interrupted
        counted(shown, epoch, steps)

    monkeypatch.setattr(FitProgress, "epoch_started", counted)
    whole = run_of(recipe, splits, tmp_path / "whole")
    assert len(begun) == (teachers + 1) * recipe.epochs
    begun.clear()
    with monkeypatch.context() as patch:
        patch.setattr(FitProgress, "epoch_started", interrupted)
        with pytest.raises(Interrupted):
            run_of(recipe, splits, tmp_path / "parts")
    parts = run_of(recipe, splits, tmp_path / "parts", resume=True)
    assert len(begun) == (teachers + 1) * recipe.epochs, "no finished epoch is trained again"
    assert parts.keys() == whole.keys()
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=0, atol=1e-6, msg=name)
    histories = [
        json.loads((tmp_path / n / "history.json").read_text()) for n in ("whole", "parts")
    ]
    for first, second in zip(*histories, strict=True):
        assert first["learning_rate"] == pytest.approx(second["learning_rate"])
        for name in ("epoch", "phase", "train_loss", "validation_loss", "validation_auc"):
            assert first[name] == pytest.approx(second[name], abs=1e-5)


def test_a_run_says_what_it_was(recipe: Recipe, splits: Splits, tmp_path: Path) -> None:
    run_of(recipe, splits, tmp_path / "toy")
    config, history, timing = (
        json.loads((tmp_path / "toy" / name).read_text())
        for name in ("config.json", "history.json", "timing.json")
    )
    assert config["recipe"]["phases"][1]["rates"] == [1e-4, 1e-3]
    assert config["data"]["n"] == {"train": 10, "validation": 6, "test": 4}
    assert [entry["phase"] for entry in history] == [1, 2, 2]
    assert {"train_loss", "train_accuracy", "validation_loss", "validation_accuracy"} <= set(
        history[0]
    )
    assert len(history[0]["learning_rate"]) == 1
    assert len(history[1]["learning_rate"]) == 4
    assert timing["carbon_kg"] == pytest.approx(
        timing["seconds"] * timing["watts_assumed"] / 3.6e6 * 0.4, abs=1e-4
    )


def test_of_three_labels_the_loss_says_which_epoch_is_best() -> None:
    sure = {"validation_auc": 1.0, "validation_loss": 0.4}
    right = {"validation_auc": 0.99, "validation_loss": 0.1}
    assert goodness(right, 3) > goodness(sure, 3)
    assert goodness(sure, 2) > goodness(right, 2)
    assert goodness({**sure, "validation_loss": 0.3}, 2) > goodness(sure, 2)


def test_workers_do_not_change_what_is_drawn(recipe: Recipe, splits: Splits) -> None:
    targets = hard_targets([p.target for p in splits.train], "sigmoid", 2)
    drawn = []
    for workers in (0, 1):
        loader, order = training_loader(recipe, splits.train, targets, workers=workers)
        order.epoch = 3
        drawn.append([batch["image"] for batch in loader])
    for one, other in zip(*drawn, strict=True):
        torch.testing.assert_close(one, other)


def test_every_epoch_has_its_own_order() -> None:
    order = EpochOrder(20, seed=1)
    passes = []
    for order.epoch in (1, 2, 1):
        passes.append([index for _, index in order])
    assert passes[0] == passes[2] != passes[1]
    assert sorted(passes[1]) == list(range(20))


def test_a_loss_that_is_no_number_names_its_pictures(
    recipe: Recipe, splits: Splits, tmp_path: Path
) -> None:
    wild = replace(recipe, phases=(Phase(epochs=1, rates=1e30),))
    with pytest.raises(TrainingError, match=r"loss became \w+ at step \d of epoch 1, on train\d+"):
        run_of(wild, splits, tmp_path / "toy")


def test_running_out_of_shared_memory_says_what_to_change(
    recipe: Recipe, splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError(
            "DataLoader worker (pid 1) is killed by signal: Bus error. It is possible that "
            "dataloader's workers are out of shared memory."
        )

    monkeypatch.setattr(FitProgress, "epoch_started", fail)
    with pytest.raises(TrainingError, match="use --workers 0"):
        run_of(recipe, splits, tmp_path / "run")


def test_running_out_of_memory_says_which_batch_size_to_try(
    recipe: Recipe, splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 TB")

    monkeypatch.setattr(FitProgress, "step", full)
    with pytest.raises(TrainingError, match="batch size 4 and side 32: try --set batch_size=2"):
        run_of(recipe, splits, tmp_path / "toy")


def test_one_class_is_not_trained_on(recipe: Recipe, splits: Splits, tmp_path: Path) -> None:
    alone = replace(splits, train=[p for p in splits.train if p.target == 1])
    with pytest.raises(TrainingError, match="0 training pictures of 'normal'"):
        run_of(recipe, alone, tmp_path / "toy")


@pytest.mark.parametrize("what", ["recipe", "data"])
def test_another_recipe_or_other_data_do_not_go_on(
    recipe: Recipe, splits: Splits, tmp_path: Path, what: str
) -> None:
    run_of(recipe, splits, tmp_path / "toy")
    if what == "recipe":
        recipe = replace(recipe, batch_size=5)
    else:
        splits.test.pop()
    with pytest.raises(BadInput, match=f"written for another {what}"):
        run_of(recipe, splits, tmp_path / "toy", resume=True)


def test_frozen_groups_keep_their_weights_and_statistics(
    recipe: Recipe, splits: Splits, tmp_path: Path
) -> None:
    trained = []
    for epochs in (1, 2):
        phases = (Phase(epochs=epochs, rates=1e-2, trained_groups=1),)
        run_of(replace(recipe, phases=phases, ema=None), splits, tmp_path / str(epochs))
        checkpoint = torch.load(tmp_path / str(epochs) / "checkpoint.pt", weights_only=True)
        trained.append(checkpoint["network"])
    changed = {name for name in trained[0] if not torch.equal(trained[0][name], trained[1][name])}
    assert changed
    assert all(name.startswith("head.") for name in changed)
    assert any("running_mean" in name for name in trained[0])


class Says(nn.Module):
    """A network that gives every image the same logit, and keeps what it was shown."""

    def __init__(self, logit: float) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(logit))
        self.shown: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> Output:
        assert not self.training
        self.shown.append(images)
        logits = self.logit.expand(len(images), 1)
        return Output(logits, logits[:, :, None, None], logits)


def test_teachers_move_the_targets_by_the_mean_of_their_probabilities() -> None:
    low, high = Says(-math.log(3)), Says(math.log(9))  # 0.25 and 0.9
    images = torch.rand(2, 3, 4, 4)
    found = Teachers([low, high], "sigmoid", 0.8).taught(images, torch.tensor([[0.0], [1.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.46], [0.66]]))
    assert not found.requires_grad
    assert torch.equal(low.shown[0], images)


def test_the_pupil_learns_what_its_teachers_say_of_the_varied_pictures(
    recipe: Recipe, splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught, learned = [], []
    teach, learn = Teachers.taught, SoftLoss.forward

    def watched(self: Teachers, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        taught.append((images, targets, teach(self, images, targets)))
        return taught[-1][2]

    def watch(self: SoftLoss, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        learned.append(targets)
        return learn(self, logits, targets)

    monkeypatch.setattr(Teachers, "taught", watched)
    monkeypatch.setattr(SoftLoss, "forward", watch)
    monkeypatch.setattr(runs, "timing", lambda *_: TEN_SECONDS)
    pupil = replace(recipe, teachers=2, teacher_weight=0.6)
    run_of(pupil, splits, tmp_path / "run")
    steps = 3 * (len(splits.train) // recipe.batch_size)
    assert len(taught) == steps, "teachers teach the pupil alone"
    clean = {plane.tobytes() for plane in (p.plane for p in splits.train)}
    assert not any(image[0].numpy().tobytes() in clean for image in taught[0][0])
    for images, targets, moved in taught:
        assert any(each is moved for each in learned)
        said = torch.stack([_said(tmp_path / "run" / name, pupil, images) for name in TAUGHT])
        torch.testing.assert_close(moved, 0.4 * targets + 0.6 * said.mean(dim=0))
    assert read_json(tmp_path / "run", "timing.json")["seconds"] == 30


def _said(run: Path, recipe: Recipe, images: torch.Tensor) -> torch.Tensor:
    network = build(recipe.architecture, 1).eval()
    load_run(network, run / "weights.safetensors")
    with torch.no_grad():
        return torch.sigmoid(OutputInferer([])(images, network).logits)


def test_folds_are_left_out_in_turn_and_no_other_split_is_seen(
    recipe: Recipe, splits: Splits
) -> None:
    parts = [without_fold(splits, recipe.split, folds=5, fold=fold) for fold in range(5)]
    known = sorted(p.item.path for p in splits.train)
    left_out = [p.item.path for part in parts for p in part.validation]
    assert sorted(left_out) == known
    for part in parts:
        assert not part.test
        assert sorted(p.item.path for p in (*part.train, *part.validation)) == known


def test_teachers_are_not_taught_and_have_seeds_of_their_own(recipe: Recipe) -> None:
    pupil = replace(recipe, teachers=5, members=2)
    own = [teacher_recipe(pupil, number) for number in range(5)]
    members = {member_seed(pupil, number) for number in range(2)}
    assert len({teacher.seed for teacher in own} | members) == 7
    assert all((t.teachers, t.members, t.mixup) == (0, 1, 0) for t in own)


def test_teachers_of_another_division_are_not_gone_on_with(
    recipe: Recipe, splits: Splits, tmp_path: Path
) -> None:
    run_of(replace(recipe, teachers=2), splits, tmp_path)
    with pytest.raises(BadInput, match="written for another data"):
        run_of(replace(recipe, teachers=3), splits, tmp_path, resume=True)


def test_a_run_is_gone_on_with_when_only_words_of_its_recipe_have_changed(
    recipe: Recipe, splits: Splits, tmp_path: Path
) -> None:
    first = run_of(recipe, splits, tmp_path)
    reworded = replace(
        recipe, title="other", limits=("other",), license_text="other", published={"auc": 0.5}
    )
    again = run_of(reworded, splits, tmp_path, resume=True)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert len(read_json(tmp_path, "history.json")) == recipe.epochs, "nothing is trained again"
    assert read_json(tmp_path, "config.json")["recipe"]["title"] == "other"
    with pytest.raises(BadInput, match="written for another recipe"):
        run_of(replace(reworded, weight_decay=0.5), splits, tmp_path, resume=True)


@pytest.mark.parametrize("words", [{}, {"init_from": "cxr_pneumonia"}], ids=["recipe", "word"])
def test_a_run_to_begin_at_that_is_not_there_is_trained_first(
    recipe: Recipe, splits: Splits, tmp_path: Path, words: dict[str, str]
) -> None:
    recipe = replace(recipe, init_from="cxr_pneumonia")
    own_data = "films" if words else None  # on which a run is optional, if it was not asked for
    made = runs.made_from("cxr_covid3", "toy", changes=words, fallback=False, own_data=own_data)
    with pytest.raises(BadInput, match=r"training fit cxr_pneumonia.*--set init_from=none"):
        run_of(recipe, splits, tmp_path / "toy", made_from=made)
    assert not (tmp_path / "toy").exists()
    run_of(overridden(recipe, {"init_from": "none"}), splits, tmp_path / "cxr_pneumonia")
    run_of(recipe, splits, tmp_path / "toy", made_from=made)
    assert read_json(tmp_path / "toy", "config.json")["started_from"] == "cxr_pneumonia"


@pytest.mark.parametrize(
    ("init_from", "own_data"),
    [("cxr_pneumonia", "films"), ("efficientnetb0_other_ct", None)],
    ids=["own data", "no recipe makes it"],
)
def test_an_optional_run_that_is_not_there_is_told(
    recipe: Recipe,
    splits: Splits,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    init_from: str,
    own_data: str | None,
) -> None:
    recipe = replace(recipe, init_from=init_from)
    made = runs.made_from("cxr_covid3", "toy", changes={}, fallback=False, own_data=own_data)
    fit(recipe, splits, tmp_path / "toy", device="cpu", workers=0, made_from=made)
    assert read_json(tmp_path / "toy", "config.json")["started_from"] is None
    said = capsys.readouterr().err
    assert said.count(f"toy begins at the run {init_from}, and {tmp_path}") == 1
    assert "training begins at the weights 'none' instead" in said


def test_what_an_older_training_left_does_not_pass_for_the_new_one(
    recipe: Recipe, splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_of(replace(recipe, members=2), splits, tmp_path / "run")
    (tmp_path / "run" / "lr_find.json").write_text("{}")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(FitProgress, "epoch_started", killed)
    with pytest.raises(KeyboardInterrupt):
        run_of(replace(recipe, seed=99), splits, tmp_path / "run")
    left = {path.name for path in (tmp_path / "run").rglob("*")}
    assert left == {"config.json", "lr_find.json"}


def test_weights_that_a_run_would_hide_are_refused(
    recipe: Recipe, splits: Splits, tmp_path: Path
) -> None:
    save_file(build(recipe.architecture, 1).state_dict(), tmp_path / "mine.safetensors")
    recipe = replace(recipe, init_from="first")
    (tmp_path / "first").mkdir()
    save_file(build(recipe.architecture, 1).state_dict(), tmp_path / "first" / runs.WEIGHTS)
    with pytest.raises(BadInput, match=r"at the run first, not at mine\.safetensors.*=none"):
        run_of(recipe, splits, tmp_path / "toy", weights_file=tmp_path / "mine.safetensors")
    assert not (tmp_path / "toy").exists()


def test_too_few_groups_for_teachers_are_told_before_anything_is_trained(
    recipe: Recipe, splits: Splits, tmp_path: Path
) -> None:
    one_patient = [
        replace(p, item=replace(p.item, group="one")) if p.target else p for p in splits.train
    ]
    few, run = replace(splits, train=one_patient), tmp_path / "run"
    with pytest.raises(BadInput, match=r"groups.*--set teachers=0"):
        run_of(replace(recipe, teachers=2), few, run)
    assert not run.exists()


def test_rates_are_spread_over_the_trained_groups_only(recipe: Recipe) -> None:
    network = build(recipe.architecture, 1)
    phase = Phase(epochs=2, rates=(1e-6, 1e-4), trained_groups=3)
    assert len(frozen_groups(network, phase)) == len(network.layer_groups()) - 3
    assert group_rates(phase, 3) == pytest.approx([1e-6, 1e-5, 1e-4])
    optimizer = optimizer_of(recipe, phase, network)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1e-6, 1e-5, 1e-4])
    last = {id(parameter) for parameter in optimizer.param_groups[-1]["params"]}
    assert last == {id(parameter) for parameter in network.layer_groups()[-1].parameters()}
    with pytest.raises(BadInput, match="layer groups"):
        frozen_groups(network, Phase(epochs=1, rates=1e-3, trained_groups=9))


def rates_of(phase: Phase, recipe: Recipe, steps: int) -> list[float]:
    optimizer = optimizer_of(recipe, phase, build(recipe.architecture, 1))
    schedule = schedule_of(phase, optimizer, steps)
    rates = []
    for _ in range(steps * phase.epochs):
        rates.append(optimizer.param_groups[-1]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def test_schedules_have_their_shapes(recipe: Recipe) -> None:
    constant = rates_of(Phase(epochs=2, rates=1e-3), recipe, 5)
    assert constant == pytest.approx([1e-3] * 10)
    decaying = rates_of(Phase(epochs=25, rates=1e-3, schedule="time_decay"), recipe, 4)
    assert decaying[:2] == pytest.approx([1e-3, 1e-3 / (1 + 1e-3 / 25)])
    assert decaying[-1] == pytest.approx(1e-3 / (1 + 99 * 1e-3 / 25))
    cycle = rates_of(Phase(epochs=2, rates=1e-3, schedule="one_cycle"), recipe, 10)
    assert max(cycle) == pytest.approx(1e-3)
    assert cycle[0] == pytest.approx(1e-3 / 25)
    assert cycle[-1] < 1e-6
    cosine = rates_of(Phase(epochs=2, rates=1e-3, schedule="cosine"), recipe, 10)
    assert cosine[0] == pytest.approx(1e-3)
    assert cosine[10] == pytest.approx(5e-4)


def test_the_loss_of_one_output_is_binary_cross_entropy() -> None:
    logits, targets = torch.randn(8, 1), torch.rand(8, 1)
    plain = SoftLoss("sigmoid", torch.ones(2), 0.0)(logits, targets)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
    torch.testing.assert_close(plain, expected)
    smooth = SoftLoss("sigmoid", torch.ones(2), 0.2)(logits, targets)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets * 0.8 + 0.1)
    torch.testing.assert_close(smooth, expected)


def test_class_weights_make_classes_equal() -> None:
    weights = class_weights([0, 0, 0, 1], 2)
    assert weights.tolist() == pytest.approx([2 / 3, 2.0])
    loss = SoftLoss("softmax", weights, 0.0)
    logits = torch.zeros(4, 2)
    targets = hard_targets([0, 0, 0, 1], "softmax", 2)
    torch.testing.assert_close(loss(logits, targets), torch.tensor(2.0).log())


def test_mixup_mixes_targets_as_it_mixes_images() -> None:
    torch.manual_seed(0)
    values = torch.arange(6.0)
    images, targets = mixed(values.reshape(6, 1, 1, 1).expand(6, 3, 2, 2), values[:, None], 0.4)
    torch.testing.assert_close(images.mean(dim=(1, 2, 3)), targets[:, 0])
    assert not torch.equal(targets[:, 0], values)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": "0"}, "1 or more epochs"),
        ({"epochs": "many"}, "--set epochs=many"),
        ({"colour": "red"}, "only epochs"),
        ({"weights": "mine"}, "not one of imagenet"),
        ({"teachers": "1"}, "0, or 2 or more"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    recipe: Recipe, changes: Mapping[str, str], words: str
) -> None:
    with pytest.raises(BadInput, match=words):
        overridden(recipe, changes)


def test_settings_have_the_type_of_what_they_set(recipe: Recipe) -> None:
    words = {"teachers": "3", "teacher_weight": "0.5", "weights": "none"}
    changed = {"teachers": 3, "teacher_weight": 0.5, "weights": "none"}
    assert overridden(recipe, words) == replace(recipe, **changed)  # type: ignore[arg-type]


def test_a_run_of_several_members_ends_with_the_mean_of_their_weights(
    recipe: Recipe, splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "timing", lambda *_: TEN_SECONDS)
    run = tmp_path / "soup"
    mean = run_of(replace(recipe, members=2), splits, run)
    first, second = (load_file(run / name / "weights.safetensors") for name in MEMBERS)
    floating = [name for name, value in mean.items() if value.is_floating_point()]
    assert floating
    for name in floating:
        assert torch.allclose(mean[name], (first[name] + second[name]) / 2)
    assert any(not torch.equal(first[name], second[name]) for name in floating)
    alone = run_of(recipe, splits, tmp_path / "alone")
    assert all(torch.equal(alone[name], first[name]) for name in floating)
    history = json.loads((run / "history.json").read_bytes())
    assert [entry["epoch"] for entry in history] == list(range(1, 7))
    assert read_json(run, "timing.json") == {"seconds": 20, "energy_kwh": 2, "carbon_kg": 1}


def test_members_that_are_finished_are_not_trained_again(
    recipe: Recipe, splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    several = replace(recipe, members=2)
    mean = run_of(several, splits, tmp_path / "run")
    monkeypatch.setattr(FitProgress, "epoch_started", lambda *_: pytest.fail("trained again"))
    again = run_of(several, splits, tmp_path / "run", resume=True)
    assert all(torch.equal(again[name], mean[name]) for name in mean)
