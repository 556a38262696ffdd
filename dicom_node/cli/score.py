"""`score`: files in, scores and result objects out, without network or database."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from dicom_node import __version__
from dicom_node.cli.options import ConfigFile, Json, fail, out, print_json, read_config
from dicom_node.config import NodeConfig
from dicom_node.domain.findings import Prediction
from dicom_node.observe.logs import configure_logging
from dicom_node.process import utc_now


def score(
    files: Annotated[list[Path], typer.Argument(help="DICOM files of one study, or its folder.")],
    model: Annotated[str, typer.Option(help="Name of a folder under models/.")],
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="Write SR, SC and its PNG here.")
    ] = None,
    mark: Annotated[
        bool, typer.Option("--mark", help="Score outside the intended use, too, marked as such.")
    ] = False,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Score files without network: prints the scores and, with --out, writes SR and SC."""
    from dicom_node.score.lean import import_monai_lean

    import_monai_lean()
    from dicom_node.score.bundle import read_bundle
    from dicom_node.score.engine import open_classifier
    from dicom_node.score.study import score_files

    settings = read_config(None, config)
    configure_logging(settings.log, "score")
    paths = [path for place in files for path in _dicom_files(place)]
    if not paths:
        fail("no DICOM file among these")
    bundle = read_bundle(settings.models_dir / model)
    classifier = open_classifier(bundle, device=settings.scoring.device)
    outcome = score_files(bundle, classifier, paths, out_of_scope="mark" if mark else "refuse")
    prediction = outcome.prediction
    written = _write(settings, prediction, outcome.arrays, paths, out_dir) if out_dir else []
    if as_json:
        print_json(_document(prediction, written))
        return
    if prediction.not_analysed:
        out.print(f"[yellow]not analysed:[/] {prediction.not_analysed}", highlight=False)
    for item in prediction.findings:
        verdict = "[bold]PRESENT[/]" if item.present else "absent"
        out.print(
            f"{item.code.meaning}: {item.probability:.1%} (threshold {item.threshold:.1%}) "
            f"{verdict}, {item.level.value}",
            highlight=False,
        )
    for text in prediction.marks:
        out.print(f"[yellow]{text}[/]", highlight=False)
    for path in written:
        out.print(str(path), highlight=False)


def _dicom_files(place: Path) -> list[Path]:
    from pydicom.misc import is_dicom

    found = sorted(place.rglob("*")) if place.is_dir() else [place]
    return [path for path in found if path.is_file() and is_dicom(path)]


def _document(prediction: Prediction, written: list[Path]) -> dict[str, Any]:
    return {
        "model": asdict(prediction.model),
        "engine": prediction.engine,
        "not_analysed": prediction.not_analysed,
        "marks": list(prediction.marks),
        "findings": [
            {
                "code": item.code.value,
                "scheme": item.code.scheme,
                "meaning": item.code.meaning,
                "probability": item.probability,
                "threshold": item.threshold,
                "present": item.present,
                "level": item.level.value,
                "sop_instance_uid": item.sop_instance_uid,
                "box": item.box,
            }
            for item in prediction.findings
        ],
        "results": [str(path) for path in written],
    }


def _write(
    settings: NodeConfig, prediction: Prediction, arrays: Any, paths: list[Path], out_dir: Path
) -> list[Path]:
    from dicom_node.assemble.header import Arrival, read_header
    from dicom_node.domain.study import input_digest
    from dicom_node.report.build import ReportContext, build_results

    now = utc_now()
    headers = [read_header(path, Arrival("files", now)) for path in paths]
    context = ReportContext(
        manufacturer=settings.report.manufacturer,
        product_name=settings.report.product_name,
        device_serial_number=settings.report.device_serial_number,
        node_version=__version__,
        ae_title=settings.ae_title,
        series_number_base=settings.report.series_number_base,
        completed_at=now,
        revision=1,
        input_digest=input_digest((item.sop_instance_uid, item.digest) for item in headers),
        previous_sr=None,
        previous_sc=None,
    )
    out_dir.mkdir(parents=True, exist_ok=True)
    written = []
    for item in build_results(context, prediction, arrays, paths):
        path = out_dir / f"{item.kind.lower()}.dcm"
        path.write_bytes(item.content)
        written.append(path)
        if item.png is not None:
            path.with_suffix(".png").write_bytes(item.png)
            written.append(path.with_suffix(".png"))
    return written


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(score)
