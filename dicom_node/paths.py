"""Where the shipped configuration and models lie: in the installed package, or in the checkout."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_DATA = _PACKAGE / "_data" if (_PACKAGE / "_data").is_dir() else _PACKAGE.parent

SHIPPED_CONFIG = _DATA / "config"
SHIPPED_MODELS = _DATA / "models"
