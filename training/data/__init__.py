"""Labelled pictures from tars, folders, tables and DICOM, prepared as the node prepares images."""

from __future__ import annotations

from training.data.items import Item, Loaded, Picture, Source, Splits, Units
from training.data.opening import open_source
from training.data.pictures import data_dir, load_pictures, parse_label_map
from training.data.splits import learnable, make_splits, strict_test, without_fold

__all__ = [
    "Item",
    "Loaded",
    "Picture",
    "Source",
    "Splits",
    "Units",
    "data_dir",
    "learnable",
    "load_pictures",
    "make_splits",
    "open_source",
    "parse_label_map",
    "strict_test",
    "without_fold",
]
