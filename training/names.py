"""What a model may be called."""

from __future__ import annotations

import re

from dicom_node.errors import BadInput

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


def check_name(name: str) -> None:
    """Refuse a name that no model folder may have, before anything is trained under it.

    Raises
    ------
    BadInput
        It is not of the form that the node takes.
    """
    if not _NAME.fullmatch(name):
        raise BadInput(
            f"{name!r} cannot name a model: a model's name has 1 to 63 of a-z, 0-9, _ and -, and "
            "begins with a letter or digit"
        )
