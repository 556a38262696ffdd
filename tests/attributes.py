"""Data sets that differ from a good one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydicom import Dataset


def change(data_set: Dataset, attributes: Mapping[str, Any]) -> Dataset:
    """Set attributes by keyword, or remove those whose value is None; returns the data set."""
    for keyword, value in attributes.items():
        if value is None:
            delattr(data_set, keyword)
        else:
            setattr(data_set, keyword, value)
    return data_set
