"""What a gate is tried on is of patients of whom nothing was learned, or of another kind."""

from __future__ import annotations

from tests.integration.published import published
from training.others import MOST, other_sets
from training.recipes import RECIPES


def test_films_that_ought_to_pass_are_of_nobody_who_was_learned_from() -> None:
    folder = published("covid3_cxr.tar").parent
    tried = {other.name: other for other in other_sets(RECIPES["cxr_pneumonia"], folder)}
    counts = {name: (len(other.planes), other.outside) for name, other in tried.items()}
    assert counts == {
        "films of children that were stored larger (covid3_cxr, official test split)": (18, False),
        "films of adults (covid3_cxr, covid)": (68, True),
        "CT slices (covid_ct)": (MOST, True),
    }
    # This recipe learns from small copies of those 18.
    scratch = other_sets(RECIPES["cnn_scratch_pneumonia_cxr"], folder)
    assert all(other.outside for other in scratch)
