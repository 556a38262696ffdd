"""A folder for each class, perhaps below folders for training, validation and test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from training.data.items import Item
from training.data.manifests import SPLIT_NAMES
from training.data.pictures import DICOM_BEGINNING, is_dicom
from training.data.tables import PICTURES, FileSource
from training.errors import TrainingDataError

_READ = PICTURES | {".dcm"}


def open_class_folders(path: Path) -> FileSource:
    """Take the pictures and DICOM files below each class folder, labelled by its name.

    If all folders are named train, val, validation or test, the class folders lie in those. Who
    the patient is, only DICOM files say.

    Raises
    ------
    TrainingDataError
        Folders of splits lie beside others.
    """
    items: list[Item] = []
    problems = []
    for split, folder in _class_folders(path):
        files = [file for file in sorted(folder.rglob("*")) if _is_read(file)]
        if not files:
            problems.append(
                f"{path.name}: class folder {folder.relative_to(path).as_posix()} holds no picture "
                "and no DICOM file"
            )
        items += [Item(file.relative_to(path).as_posix(), folder.name, split) for file in files]
    return FileSource(path.name, path, items, problems)


def _is_read(file: Path) -> bool:
    if file.name[0] == "." or not file.is_file():
        return False
    if file.suffix.lower() in _READ:
        return True
    with file.open("rb") as content:  # archives export DICOM files without a suffix
        return is_dicom(content.read(DICOM_BEGINNING))


def subfolders(path: Path) -> list[Path]:
    """Folders in a folder, by name, but for hidden ones and what macOS packs beside."""
    folders = (item for item in sorted(path.iterdir()) if item.is_dir())
    return [item for item in folders if item.name[0] != "." and item.name != "__MACOSX"]


def _class_folders(path: Path) -> Iterator[tuple[str, Path]]:
    """Split and folder of each class."""
    folders = subfolders(path)
    splits = [folder.name for folder in folders if folder.name.lower() in SPLIT_NAMES]
    others = [folder.name for folder in folders if folder.name not in splits]
    if len(splits) > 1 and others:
        raise TrainingDataError(
            f"{path.name}: beside {' and '.join(splits)} lies {', '.join(others)}; a folder holds "
            "either splits or classes: name another folder, or move the others away"
        )
    if others:
        yield from (("", folder) for folder in folders)
        return
    for split in folders:
        yield from ((SPLIT_NAMES[split.name.lower()], folder) for folder in subfolders(split))
