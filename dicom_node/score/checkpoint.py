"""Read the tensors of a PyTorch checkpoint, even of a pickled module, without running its code.

A pickle names functions and classes and asks for them to be called. Here only tensors are rebuilt;
classes of networks become empty boxes that remember their attributes, and every other name is
refused. Both of PyTorch's formats are read: the zip archive and the older row of pickles.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor

from dicom_node.errors import ModelError

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_NUMEL_BYTES = 8
# Prefixes of module names whose classes are networks, layers or plain settings.
_BOXED = ("torch.nn.modules.", "torchvision.models.", "torchxrayvision.")
_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
}


class _Box:
    """Stands for an object whose class is never looked up."""

    def __init__(self, *arguments: Any) -> None:
        del arguments

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


class _StorageType(NamedTuple):
    """Stands for a storage class."""

    dtype: torch.dtype


class _Storage:
    """Elements that tensors view; those of the older format arrive after the tensors."""

    def __init__(self, dtype: torch.dtype, count: int) -> None:
        self.values = torch.empty(count, dtype=dtype)

    def fill(self, content: bytes) -> None:
        """Set every element from little-endian bytes."""
        if len(content) != self.values.numel() * self.values.element_size():
            raise pickle.UnpicklingError("a tensor's bytes are missing")
        if content:
            self.values.copy_(torch.frombuffer(bytearray(content), dtype=self.values.dtype))


def _tensor(storage: _Storage, offset: int, size: Any, stride: Any, *rest: Any) -> Tensor:
    del rest
    return storage.values.as_strided(tuple(size), tuple(stride), offset)


def _parameter(data: Tensor, *rest: Any) -> Tensor:
    del rest
    return data


_REBUILT = {
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch.nn.parameter", "Parameter"): _parameter,
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
}


class _Reader(pickle.Unpickler):
    """Knows the names above and no others."""

    def __init__(
        self, file: IO[bytes], boxed: tuple[str, ...] = (), archive: zipfile.ZipFile | None = None
    ) -> None:
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}
        self._boxed = (*_BOXED, *boxed)
        self._archive = archive

    def find_class(self, module: str, name: str) -> Any:
        """Give the stand-in of a name, or refuse it."""
        if (module, name) in _REBUILT:
            return _REBUILT[module, name]
        if module in ("torch", "torch.storage") and name in _DTYPES:
            return _StorageType(_DTYPES[name])
        if f"{module}.".startswith(self._boxed):
            return _Box
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no weights need")

    def persistent_load(self, pid: Any) -> Any:
        """Give a storage, or the box of a module's class."""
        if pid[0] == "module":
            return pid[1]
        kind, storage_type, key, _, count = pid[:5]
        if kind != "storage" or not isinstance(storage_type, _StorageType):
            raise pickle.UnpicklingError("it refers to something that is no tensor")
        if key not in self.storages:
            self.storages[key] = _Storage(storage_type.dtype, count)
            if self._archive is not None:
                self.storages[key].fill(_member(self._archive, f"/data/{key}"))
        return self.storages[key]


def read_tensors(path: Path, *, boxed: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """Read a state dict, or that of a pickled module, from a file of `torch.save`.

    Parameters
    ----------
    boxed
        Beginnings of further module names, such as `package.`, whose classes are networks.

    Returns
    -------
    tensors
        Key of the state dict -> tensor on the CPU.

    Raises
    ------
    ModelError
        The file is damaged, or it asks for anything but tensors and layers.
    """
    try:
        content = _zipped(path, boxed) if zipfile.is_zipfile(path) else _row(path, boxed)
        return {key: value.clone() for key, value in _named_tensors(content, "")}
    # What a damaged pickle makes Python raise is not limited to UnpicklingError.
    except (
        *(pickle.UnpicklingError, EOFError, OSError, zipfile.BadZipFile, RecursionError),
        *(AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError),
    ) as error:
        raise ModelError(f"{path.name} cannot be read as PyTorch weights: {error}") from error


def _zipped(path: Path, boxed: tuple[str, ...]) -> Any:
    with zipfile.ZipFile(path) as archive:
        name = _member_name(archive, "/data.pkl")
        with archive.open(name) as file:
            return _Reader(file, boxed, archive).load()


def _row(path: Path, boxed: tuple[str, ...]) -> Any:
    """The format before PyTorch 1.6: five pickles, then the storages' elements."""
    with path.open("rb") as file:
        if (_Reader(file).load(), _Reader(file).load()) != (_LEGACY_MAGIC, _LEGACY_PROTOCOL):
            raise pickle.UnpicklingError("it was not written by torch.save")
        _Reader(file).load()  # sizes of integers on the writing machine
        reader = _Reader(file, boxed)
        content = reader.load()
        for key in _Reader(file).load():
            count = int.from_bytes(file.read(_NUMEL_BYTES), "little")
            storage = reader.storages[key]
            storage.fill(file.read(count * storage.values.element_size()))
        return content


def _member_name(archive: zipfile.ZipFile, ending: str) -> str:
    return next(name for name in archive.namelist() if f"/{name}".endswith(ending))


def _member(archive: zipfile.ZipFile, ending: str) -> bytes:
    return archive.read(_member_name(archive, ending))


def _named_tensors(content: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """Walk as `nn.Module.state_dict` does; a mapping may hold the state dict under its own key."""
    if isinstance(content, _Box):
        attributes = vars(content)
        parts = ("_parameters", "_buffers", "_modules")
        content = {key: value for part in parts for key, value in attributes.get(part, {}).items()}
    elif isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        return
    for key, value in content.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{key}", value
        elif isinstance(value, _Box):
            yield from _named_tensors(value, f"{prefix}{key}.")
