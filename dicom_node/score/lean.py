"""Importing MONAI without what scoring does not need: half of a scorer's start."""

from __future__ import annotations

import sys

# MONAI imports these if it finds them, and works without (`monai.utils.optional_import`). Together
# they cost as much time as torch and MONAI's own modules.
UNNEEDED = ("ignite", "matplotlib", "torchvision")


def import_monai_lean() -> None:
    """Import MONAI as if `UNNEEDED` were not installed; later imports of those work as ever.

    Call it before anything else of `dicom_node.score`, in a process that only scores. Does nothing
    where MONAI is imported already.
    """
    if "monai" in sys.modules:
        return
    hidden = [name for name in UNNEEDED if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # Python's own way to forbid an import
    try:
        import monai.transforms  # noqa: F401
    finally:
        for name in hidden:
            del sys.modules[name]
