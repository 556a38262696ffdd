"""Every system that can be trained here, by name: reproductions first, then the shipped models."""

from __future__ import annotations

from training.recipes import (
    cnn_scratch_pneumonia_cxr,
    ct_covid,
    cxr_covid3,
    cxr_pneumonia,
    efficientnetb0_covid_ct,
    inceptionv3_covid3_cxr,
    resnet50_pneumonia_cxr,
    vgg16_covid_cxr,
)
from training.recipes.base import Recipe

RECIPES: dict[str, Recipe] = {
    module.RECIPE.name: module.RECIPE
    for module in (
        vgg16_covid_cxr,
        inceptionv3_covid3_cxr,
        resnet50_pneumonia_cxr,
        cnn_scratch_pneumonia_cxr,
        efficientnetb0_covid_ct,
        cxr_pneumonia,
        cxr_covid3,
        ct_covid,
    )
}

SHIPPED = ("cxr_pneumonia", "cxr_covid3", "ct_covid")
"""Those whose model folders are in `models/`."""
