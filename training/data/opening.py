"""The one entrance to labelled images: what lies at a path decides how it is read."""

from __future__ import annotations

from pathlib import Path

from training.data.folders import open_class_folders, subfolders
from training.data.items import Source
from training.data.manifests import MANIFEST, ManifestTar, tar_name
from training.data.pictures import data_dir
from training.data.tables import open_table
from training.errors import TrainingDataError

ACCEPTED = (
    f"accepted are a tar or folder with {MANIFEST}, a folder with one folder for each class, a CSV "
    "file that names pictures or DICOM files, or the name of a published set"
)


def open_source(path: Path, *, group_column: str | None = None) -> Source:
    """Open labelled images.

    Parameters
    ----------
    path
        A tar or folder with `manifest.csv`, a folder for each class, a CSV file, or the bare name
        of a tar in `data_dir()`.
    group_column
        Column that says what must not be torn apart; None: the usual names are tried.

    Raises
    ------
    TrainingDataError
        There is none of these at `path`, or it cannot be read; lesser faults are the source's
        `problems`.
    """
    place = _resolved(path)
    if place.is_dir():
        return _open_folder(place, group_column)
    if place.suffix.lower() == ".csv":
        return open_table(place, group_column=group_column)
    if tar_name(place) != place.name:
        return ManifestTar(place, group_column)
    raise TrainingDataError(f"{place.name} is a file of another kind; {ACCEPTED}")


def _resolved(path: Path) -> Path:
    if path.exists():
        return path
    published = data_dir() / f"{path}.tar"
    if len(path.parts) == 1 and published.is_file():
        return published
    raise TrainingDataError(f"{path} does not exist and is no published set; {ACCEPTED}")


def _open_folder(path: Path, group_column: str | None) -> Source:
    if (path / MANIFEST).is_file():
        return open_table(path / MANIFEST, group_column=group_column, name=path.name)
    if not subfolders(path):
        raise TrainingDataError(
            f"{path.name} is a folder without {MANIFEST} and without class folders; {ACCEPTED}"
        )
    if group_column is not None:
        raise TrainingDataError(
            f"{path.name} has a folder for each class and so no column {group_column}; leave the "
            "group column out, or name the images in a CSV file"
        )
    return open_class_folders(path)
