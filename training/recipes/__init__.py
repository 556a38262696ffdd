"""Every system that can be trained here, by the name of its model folder."""

from __future__ import annotations

from training.recipes.base import Recipe
from training.recipes.covid_ct import RECIPE as COVID_CT
from training.recipes.pneumonia_cxr import RECIPE as PNEUMONIA_CXR

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (PNEUMONIA_CXR, COVID_CT)}
