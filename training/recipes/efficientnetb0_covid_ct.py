"""EfficientNet-B0 on CT slices: head and fine-tuning, twice, after a course project of 2020."""

from __future__ import annotations

import math

from training.recipes import common
from training.recipes.base import Phase, Recipe, SplitPlan, keep_undoubted
from training.recipes.common import spec

_HEAD = Phase(epochs=10, rates=1e-3, trained_groups=1)
_FINE_TUNE = Phase(epochs=30, rates=1e-4)

RECIPE = Recipe(
    name="efficientnetb0_covid_ct",
    title="COVID-19 on chest CT slices, EfficientNet-B0 (reproduction)",
    system=(
        "EfficientNet-B0; two stages, repeated twice: the head at 1e-3 for 10 epochs, everything "
        "at 1e-4 for 30; flips, rotation, zoom, translation and contrast, each of 5 %; the last "
        "20 % of the training pictures as validation, against leakage of neighbouring slices; "
        "pre-training on other CT."
    ),
    citation="YangXiaozhou/CNN-COVID-19-classification-using-chest-CT-scan, GitHub, 2020",
    published={"accuracy": 0.85},
    kind="ct_series",
    data_set="covid_ct",
    data_title=common.COVID_CT_TITLE,
    labels=("noncovid", "covid"),
    positive="covid",
    split=SplitPlan("tail", validation=0.2),
    group_column="group_id",
    keep=keep_undoubted,
    architecture="EfficientNetB0",
    weights="imagenet",
    # No other CT set is here: the run of this name is taken as the start where someone made it.
    init_from="efficientnetb0_other_ct",
    function="sigmoid",
    preprocessing=common.ct_slice(224, common.IMAGENET_TENSOR, clipped=0.0),
    augmentation=(
        spec("RandFlip", prob=0.5, spatial_axis=0),
        spec("RandFlip", prob=0.5, spatial_axis=1),
        spec(
            "RandAffine",
            prob=1.0,
            rotate_range=0.05 * 2 * math.pi,
            scale_range=(0.05, 0.05),
            translate_range=(0.05, 0.05),
            padding_mode="reflection",
        ),
        spec("RandScaleIntensityFixedMean", prob=1.0, factors=0.05, fixed_mean=True),
    ),
    phases=(_HEAD, _FINE_TUNE, _HEAD, _FINE_TUNE),
    optimizer="adam",
    batch_size=32,
    seed=42,
    findings=(common.COVID,),
    intended_use=common.COVID_CT_USE,
    aggregation=common.COVID_CT_AGGREGATION,
    limits=common.COVID_CT_LIMITS,
    license=common.COVID_CT_LICENSE,
    license_text=common.COVID_CT_TEXT + common.TORCHVISION_WEIGHTS_TEXT + common.CLOSED_WEIGHTS,
)
