"""What a shipped model begins at did not learn from the test films that judge it."""

from __future__ import annotations

from tests.integration.published import published
from training.data import open_source
from training.recipes import RECIPES


def rows(name: str) -> list[dict[str, str]]:
    """What the manifest of a set says of each picture."""
    source = open_source(published(f"{name}.tar"))
    return [{**item.columns, "split": item.split} for item in source.items]


def test_what_cxr_covid3_begins_at_has_not_seen_its_test_films() -> None:
    start = RECIPES[str(RECIPES["cxr_covid3"].init_from)]
    patients = {
        row["patient_key"]
        for row in rows("covid3_cxr")
        if row["split"] == "test" and row["kermany_split"] == "train"
    }
    assert len(patients) == 16
    films = [row for row in rows(start.data_set) if row["split"] == "train"]
    assert {row["patient_key"] for row in films if not start.keep(row)} == patients
