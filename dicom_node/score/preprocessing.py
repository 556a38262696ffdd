"""What a model folder says of its preprocessing: a declaration, never code.

Three stages, each a list of named transforms: `hounsfield` turns CT values into a display image,
`display` turns any display image into (1, rows, columns) in [0, 1], `tensor` turns that into the
network's (3, rows, columns) input. Training images that exist only as pictures enter at `display`;
augmentation goes between `display` and `tensor`. `dicom_node.score.transforms` builds them.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Scalar = bool | int | float | str


class Declared(BaseModel):
    """Base of every declaration of ours: unknown keys and NaN are refused, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TransformSpec(Declared):
    """One transform by its name in the allow-list, with plain arguments."""

    name: str
    arguments: dict[str, Scalar | tuple[Scalar, ...]] = Field(default_factory=dict)


class Preprocessing(Declared):
    """The whole way from an image in `input` units to the network.

    Attributes
    ----------
    input
        `display`: a display image, dark to bright, any scale; `hounsfield`: HU.
    rows, columns
        Size of the network's input in pixels.
    """

    input: Literal["display", "hounsfield"]
    rows: Annotated[int, Field(ge=32, le=2048)]
    columns: Annotated[int, Field(ge=32, le=2048)]
    hounsfield: tuple[TransformSpec, ...] = ()
    display: tuple[TransformSpec, ...]
    tensor: tuple[TransformSpec, ...]

    def digest(self) -> str:
        """SHA-256 of the declaration as canonical JSON, lower-case hexadecimal."""
        return canonical_digest(self.model_dump(mode="json"))


def canonical_digest(value: object) -> str:
    """SHA-256 of a JSON value with sorted keys, no spaces, ASCII only."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
