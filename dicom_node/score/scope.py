"""Is this picture like the ones the model was made from? Asked of the network's own embedding.

The training images' embeddings are described by their principal components. An image is far from
them if it lies far out along the components (Mahalanobis distance) and far off their plane
(reconstruction error); the distance is the geometric mean of the two, each about 1 on training
images, or what speaks for a picture that was altered (`score/alterations.py`), if that is more.
Numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from dicom_node.errors import ModelError
from dicom_node.score.alterations import Alterations, FloatArray

_OWN = ("mean", "scale", "components", "variance")
_NUMBERS = ("residual", "alteration_unit")
_NAMES = frozenset({*_OWN, *_NUMBERS, "alteration_weights", "alteration_offsets"})
_SMALLEST_SCALE = 0.01
"""Of the mean scale: a feature that hardly ever changed must not outweigh all others."""
_SMALLEST_VARIANCE = 1e-6
"""In standardised units; keeps copies of one image from dividing by zero."""
_PLAINLY = 2
"""How many times the distance the evidence must be, for a word to be said of a foreign picture."""


@dataclass(frozen=True, slots=True, eq=False)
class ScopeGate:
    """The training images' embeddings in short.

    Attributes
    ----------
    mean, scale
        (D,) float32: mean and spread of each feature.
    components
        (C, D) float32: orthonormal directions of the standardised features.
    variance
        (C,) float32: variance along each component.
    residual
        Mean squared reconstruction error of a standardised feature.
    alterations
        What else to ask of the standardised features.
    limit
        The distance that counts as 1.
    """

    mean: FloatArray
    scale: FloatArray
    components: FloatArray
    variance: FloatArray
    residual: float
    alterations: Alterations
    limit: float = 1.0

    def distance(self, embedding: FloatArray) -> NDArray[np.float64]:
        """Distance of N images from the training images, divided by the limit.

        Parameters
        ----------
        embedding
            (N, D).

        Returns
        -------
        distance
            (N,) from 0; above 1 is refused; infinite where the embedding is not finite.

        Raises
        ------
        ValueError
            D is not the gate's.
        """
        far, altered = self._parts(self.standardised(embedding))
        distance = np.maximum(far, altered)
        return np.asarray(np.nan_to_num(distance, nan=np.inf, posinf=np.inf), dtype=np.float64)

    def looks(self, embedding: FloatArray) -> list[str]:
        """What each of N images looks like in a word; empty if that is not why it is refused."""
        standard = self.standardised(embedding)
        far, altered = self._parts(standard)
        # What lies far from all known pictures could look like anything.
        told = (altered > 1) & ((far <= 1) | (altered > _PLAINLY * far))
        with np.errstate(invalid="ignore"):
            words = self.alterations.looks(standard)
        return [word if plain else "" for word, plain in zip(words, told, strict=True)]

    def _parts(self, standard: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
        """Distance from the training images, and evidence of alteration, (N,); 1 is the limit."""
        with np.errstate(invalid="ignore", over="ignore"):
            along = standard @ self.components.T
            off = standard - along @ self.components
            spread = np.mean(along**2 / self.variance, axis=1)
            error = np.mean(off**2, axis=1) / self.residual
            evidence = self.alterations.evidence(standard) / self.alterations.unit
            return np.sqrt(spread * error) / self.limit, evidence / self.limit

    def standardised(self, embedding: FloatArray) -> NDArray[np.float64]:
        """Features (N, D) as multiples of their spread about their mean.

        Raises
        ------
        ValueError
            D is not the gate's.
        """
        if embedding.ndim != 2 or embedding.shape[1] != len(self.mean):
            raise ValueError(
                f"the embedding has shape {embedding.shape}, the scope gate takes "
                f"{len(self.mean)} features"
            )
        return np.asarray((embedding.astype(np.float64) - self.mean) / self.scale)

    def with_limit(self, limit: float) -> ScopeGate:
        """The same gate with another limit."""
        return replace(self, limit=limit)

    def save(self, path: Path) -> None:
        """Write everything but the limit and the words, which `metadata.json` states."""
        arrays = {name: getattr(self, name) for name in _OWN} | {
            "residual": np.array([self.residual], np.float32),
            "alteration_weights": self.alterations.weights,
            "alteration_offsets": self.alterations.offsets,
            "alteration_unit": np.array([self.alterations.unit], np.float32),
        }
        # safetensors writes an array's memory as it lies, rows or columns first. Its `save_file`
        # would make a file that only its owner can read.
        rows_first = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        path.write_bytes(save(rows_first))

    @classmethod
    def load(cls, path: Path, limit: float, words: tuple[str, ...] = ()) -> ScopeGate:
        """Read what `save` wrote; a word for each alteration.

        Raises
        ------
        ModelError
            The file, which is named, does not hold a gate.
        """
        try:
            arrays = load_file(path)
        # A number format that numpy does not know is an AttributeError or a KeyError here.
        except (SafetensorError, OSError, ValueError, AttributeError, KeyError) as error:
            raise ModelError(f"{path.name} cannot be read as safetensors") from error
        if reason := _fault(arrays, len(words)):
            raise ModelError(f"{path.name} holds no scope gate: {reason}; export the model again")
        residual, unit = (float(arrays[name][0]) for name in _NUMBERS)
        weights, offsets = arrays["alteration_weights"], arrays["alteration_offsets"]
        alterations = Alterations(words, weights, offsets, unit)
        own = {name: arrays[name] for name in _OWN}
        return cls(**own, residual=residual, alterations=alterations, limit=limit)


def fit_gate(embedding: FloatArray, components: int) -> ScopeGate:
    """Describe the training images.

    Parameters
    ----------
    embedding
        (N, D), N >= 3 and D >= 2.
    components
        How many directions to keep; fewer where N or D allows no more.

    Returns
    -------
    gate
        With limit 1, for a limit is chosen on images that were not learned from; of alterations it
        knows nothing yet.

    Raises
    ------
    ModelError
        Too few images, or images that are all alike.
    """
    count, features = embedding.shape
    if count < 3 or features < 2:
        raise ModelError(f"a scope gate needs 3 images and 2 features, not {count} and {features}")
    values = embedding.astype(np.float64)
    mean, deviation = values.mean(axis=0), values.std(axis=0)
    if not deviation.any() or not np.isfinite(deviation).all():
        raise ModelError("a scope gate needs images whose finite embeddings differ")
    scale = np.maximum(deviation, _SMALLEST_SCALE * deviation.mean())
    standard = (values - mean) / scale
    # Two directions fewer than images: some error must be left to be measured.
    kept = max(1, min(components, count - 2, features - 1))
    variance, directions = np.linalg.eigh(standard.T @ standard / count)
    chosen = directions[:, ::-1][:, :kept]
    error = standard - standard @ chosen @ chosen.T
    return ScopeGate(
        mean=mean.astype(np.float32),
        scale=scale.astype(np.float32),
        components=chosen.T.astype(np.float32),
        variance=np.maximum(variance[::-1][:kept], _SMALLEST_VARIANCE).astype(np.float32),
        residual=float(np.float32(max(float(np.mean(error**2)), _SMALLEST_VARIANCE))),
        alterations=Alterations.none(features),
    )


def _fault(arrays: dict[str, NDArray[Any]], words: int) -> str | None:
    if set(arrays) != _NAMES:
        return f"it has {', '.join(sorted(arrays)) or 'nothing'}, not {', '.join(sorted(_NAMES))}"
    if any(array.dtype != np.float32 for array in arrays.values()):
        return "its numbers are not float32"
    components = arrays["components"]
    if components.ndim != 2 or 0 in components.shape:
        return f"its components have shape {components.shape}"
    count, features = components.shape
    shapes: dict[str, tuple[int, ...]] = {
        "mean": (features,),
        "scale": (features,),
        "variance": (count,),
        **dict.fromkeys(_NUMBERS, (1,)),
        "alteration_weights": (words, features),
        "alteration_offsets": (words,),
    }
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            return f"its {name} has shape {arrays[name].shape}, not {shape}"
    if not all(np.isfinite(array).all() for array in arrays.values()):
        return "it holds numbers that are not finite"
    if not all((arrays[name] > 0).all() for name in ("scale", "variance", *_NUMBERS)):
        return "a spread in it is not positive"
    return None
