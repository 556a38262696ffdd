"""Cases to report on, made of pydicom-data's files: `python -m tests.unit.report.cases FOLDER`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

from dicom_node.domain.findings import (
    Code,
    Finding,
    KeyImage,
    Level,
    ModelIdentity,
    Prediction,
)
from dicom_node.report.build import ReportContext, ResultObject, build_results

LUNG = Code("39607008", "SCT", "Lung")
PNEUMONIA = Code("233604007", "SCT", "Pneumonia")
COVID = Code("840539006", "SCT", "COVID-19")
MODEL = ModelIdentity("CXR-PNA", "1.4.2", "Model Maker", "cd" * 32, "ef" * 32, "12" * 32)
CONTEXT = ReportContext(
    manufacturer="Node Maker",
    product_name="dicom_node",
    device_serial_number="7",
    node_version="0.1.0",
    ae_title="DICOM_NODE",
    series_number_base=9000,
    completed_at=datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC),
    revision=1,
    input_digest="ab" * 32,
)
REASON = "the patient is 64 years old; the model is meant for patients of 1 to 5 years"
MARK = "outside intended use: patient of 64 years, model for 1 to 5 years"
Mutation = Callable[[Dataset], None]


@dataclass(frozen=True)
class Case:
    """Arguments of `build_results`."""

    prediction: Prediction
    arrays: Mapping[str, NDArray[Any]]
    sources: Sequence[Path]
    context: ReportContext = CONTEXT

    def build(self, *kinds: str) -> tuple[ResultObject, ...]:
        return build_results(
            self.context, self.prediction, self.arrays, self.sources, kinds or ("SR", "SC")
        )

    def store(self, folder: Path, *kinds: str) -> dict[str, Path]:
        """Write the results; paths by kind."""
        folder.mkdir(parents=True, exist_ok=True)
        paths: dict[str, Path] = {}
        for item in self.build(*kinds):
            paths[item.kind] = folder / f"{item.kind}.dcm"
            paths[item.kind].write_bytes(item.content)
        return paths


def chest_path() -> Path:
    """RG1: a real CR, MONOCHROME1, with a pixel spacing of 0."""
    found = get_testdata_file("RG1_UNCR.dcm")
    assert isinstance(found, str)
    return Path(found)


def chest_header(folder: Path, mutate: Mutation) -> Path:
    """RG1's header after a mutation, without its pixels (a report does not read them)."""
    dataset = dcmread(chest_path(), stop_before_pixels=True)
    mutate(dataset)
    path = folder / "source.dcm"
    dataset.save_as(path)
    return path


def heat(row: int, column: int) -> NDArray[np.float32]:
    """A heat map with its maximum, 1, at a place of a 224 x 224 grid."""
    down, across = np.mgrid[0:224, 0:224]
    bump = np.exp(-((down - row) ** 2 + (across - column) ** 2) / 1500)
    return np.asarray(bump, dtype=np.float32)


def chest_case(source: Path | None = None) -> Case:
    """Two findings on one radiograph, outside the intended use."""
    path = source or chest_path()
    header = dcmread(path, stop_before_pixels=True)
    main = Finding(
        code=PNEUMONIA,
        site=LUNG,
        probability=0.8731,
        threshold=0.42,
        level=Level.IMAGE,
        sop_instance_uid=str(header.SOPInstanceUID),
        instance_number=1,
        frame_number=None,
        rows=1955,
        columns=1841,
        box=(300.0, 900.0, 900.0, 1700.0),
    )
    other = replace(main, code=COVID, probability=0.123, box=None)
    key = KeyImage(0, main.sop_instance_uid, 1, None, 0.8731, has_heat=True)
    display = np.tile(np.arange(230, dtype=np.uint8), (244, 1))
    return Case(
        Prediction(MODEL, (main, other), (key,), None, (MARK,), "onnxruntime cpu fp32"),
        {"display_0": display, "heat_0": heat(150, 70)},
        [path],
    )


def many_case(count: int = 18, present: int = 4) -> Case:
    """As many findings as a multi-label network has, the last ones present, none of them main."""
    case = chest_case()
    main = replace(case.prediction.findings[0], probability=0.1)
    others = tuple(
        replace(
            main,
            code=Code(f"7{number:04}", "99TEST", f"Finding number {number} of {count}"),
            probability=0.9 if number > count - present else 0.2,
            threshold=0.5,
            box=None if number % 2 else main.box,
        )
        for number in range(2, count + 1)
    )
    return replace(case, prediction=replace(case.prediction, findings=(main, *others)))


def refused_case(source: Path | None = None) -> Case:
    """A radiograph that was not analysed."""
    case = chest_case(source)
    prediction = replace(case.prediction, findings=(), not_analysed=REASON, marks=())
    return replace(case, prediction=prediction)


def ct_slices(folder: Path, count: int = 8) -> list[Path]:
    """A series of slices derived from a real CT (a head); the pixels are dropped."""
    found = get_testdata_file("693_UNCI.dcm")
    assert isinstance(found, str)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(1, count + 1):
        dataset = dcmread(found, stop_before_pixels=True)
        dataset.SOPInstanceUID = generate_uid(entropy_srcs=["slice", str(number)])
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.InstanceNumber = number
        dataset.ImagePositionPatient = [-122.5, -112.4, 5.0 * number]
        paths.append(folder / f"{number:03}.dcm")
        dataset.save_as(paths[-1])
    return paths


def ct_case(folder: Path, count: int = 8) -> Case:
    """One series-level finding and the four slices that decided it."""
    paths = ct_slices(folder, count)
    chosen = [dcmread(path, stop_before_pixels=True) for path in paths[-4:]]
    slices = tuple(
        Finding(
            code=COVID,
            site=LUNG,
            probability=0.9 - 0.1 * i,
            threshold=0.5,
            level=Level.SLICE,
            sop_instance_uid=str(item.SOPInstanceUID),
            instance_number=int(item.InstanceNumber),
            frame_number=None,
            rows=512,
            columns=512,
            box=(100.0 + 20 * i, 200.0, 250.0, 400.0),
        )
        for i, item in enumerate(chosen)
    )
    series = replace(slices[0], level=Level.SERIES)
    keys = tuple(
        KeyImage(i, item.sop_instance_uid, item.instance_number, None, item.probability, True)
        for i, item in enumerate(slices)
    )
    arrays: dict[str, NDArray[Any]] = {}
    for i in range(len(keys)):
        arrays[f"display_{i}"] = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
        arrays[f"heat_{i}"] = heat(60 + 40 * i, 112)
    return Case(Prediction(MODEL, (series, *slices), keys, None, (), "torch cpu"), arrays, paths)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    chest_case().store(target / "chest")
    refused_case().store(target / "refused")
    ct_case(target / "slices").store(target / "ct")
