"""Commands that judge models: evaluate, explain, compare, card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from dicom_node.errors import BadInput
from dicom_node.score.bundle import CARD, read_bundle
from dicom_node.score.transforms import Pipeline
from training.cli.loading import label_map_for, load_labelled, warn_of_learned
from training.cli.options import (
    MODELS,
    DataName,
    GroupColumn,
    Json,
    LabelMap,
    Model,
    Models,
    Split,
    model_folder,
    out,
    print_json,
    warn_of_left_out,
)
from training.data import open_source

_SHOWN = ("accuracy", "sensitivity", "specificity", "precision", "recall", "f1", "auc")
_SHOWN_OF_GROUPS = ("accuracy", "sensitivity", "specificity", "auc")

GroupBy = Annotated[
    str | None, typer.Option(help="Column of the data whose values are measured apart.")
]
OperatingPoint = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Call by this threshold of the model: high_sensitivity, balanced or high_specificity."
        "  (default: the one in use)",
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Of the bootstrap.")]
Predictions = Annotated[
    Path | None, typer.Option(help="CSV file to write the score of each picture to.")
]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command("evaluate")(evaluate_model)
    app.command("explain")(explain_model)
    app.command("compare")(compare_models)
    app.command("card")(show_card)


def evaluate_model(
    model: Model,
    data: DataName,
    split: Split = "test",
    group_by: GroupBy = None,
    operating_point: OperatingPoint = None,
    label_map: LabelMap = None,
    group_column: GroupColumn = None,
    seed: Seed = 20261121,
    predictions: Predictions = None,
    models: Models = MODELS,
    json: Json = False,
) -> None:
    """Measure a model on labelled pictures as the node would score them, with 95 % intervals."""
    from training.evaluate import evaluate

    if predictions is not None and not predictions.parent.is_dir():
        raise BadInput(f"--predictions {predictions}: there is no such folder")
    folder = model_folder(model, models)
    source = open_source(Path(data), group_column=group_column)
    report = evaluate(
        folder,
        source,
        split=split,
        label_map=label_map_for(source, split, label_map),
        group_by=group_by,
        operating_point=operating_point,
        seed=seed,
        predictions_csv=predictions,
        progress=not json,
    )
    warn_of_left_out(report["problems"], report["problem_count"])
    warn_of_left_out(
        [f"label {label!r}, n {count}" for label, count in report["unknown_labels"].items()],
        len(report["unknown_labels"]),
    )
    warn_of_learned([folder], source, split)
    if json:
        print_json(report)
        return
    out.print(_figures_table(model, report))
    if "groups" in report:
        out.print(_groups_table(group_by, report["groups"]))


def explain_model(
    model: Model,
    data: DataName,
    to: Annotated[Path, typer.Option("--out", help="Folder for the pictures.")],
    lungs: Annotated[
        bool,
        typer.Option(
            "--lungs",
            help="Find the lungs of films with a U-Net, fetched once, and measure what the model "
            "makes of the film without them.",
        ),
    ] = False,
    split: Split = "test",
    label_map: LabelMap = None,
    group_column: GroupColumn = None,
    models: Models = MODELS,
    json: Json = False,
) -> None:
    """Draw right and wrong cases with what the model looked at, and the greatest failures."""
    from training.explain import explain
    from training.shortcuts import PARTS_SHOWN

    folder = model_folder(model, models)
    bundle = read_bundle(folder)
    source = open_source(Path(data), group_column=group_column)
    warn_of_learned([folder], source, split)
    pictures = load_labelled(
        source,
        Pipeline(bundle.inference.preprocessing),
        bundle.metadata.dicom_node.labels,
        label_map=label_map,
        split=split,
    )
    report = explain(folder, pictures, to, segment=lungs)
    if json:
        print_json(report)
    else:
        out.print(f"{report['n']} pictures: {', '.join(report['files'])} in {to}")
        for part, auc in report.get("shortcuts", {}).get("auc", {}).items():
            out.print(f"AUC {auc:.3f} {PARTS_SHOWN[part]}")


def compare_models(
    chosen: Annotated[list[str], typer.Argument(metavar="MODEL MODEL...", help="Two or more.")],
    data: Annotated[str, typer.Option(help="A tar, folder or CSV, or a published set.")],
    split: Split = "test",
    label_map: LabelMap = None,
    group_column: GroupColumn = None,
    models: Models = MODELS,
    json: Json = False,
) -> None:
    """Measure models on the same pictures; differences by DeLong and McNemar."""
    from training.compare import compare, render

    folders = [model_folder(name, models) for name in chosen]
    source = open_source(Path(data), group_column=group_column)
    report = compare(
        folders,
        source,
        split=split,
        label_map=label_map_for(source, split, label_map),
        progress=not json,
    )
    warn_of_left_out(report["problems"], len(report["problems"]))
    warn_of_learned(folders, source, split)
    if json:
        print_json(report)
    else:
        out.print(render(report), markup=False, highlight=False)


def show_card(model: Model, models: Models = MODELS, json: Json = False) -> None:
    """Print a model's card; as JSON, what the folder declares of itself."""
    folder = model_folder(model, models)
    if json:
        print_json(read_bundle(folder).metadata.model_dump(mode="json"))
        return
    text = (folder / CARD).read_text(encoding="utf-8")
    out.print(text, markup=False, highlight=False)


def _figures_table(model: str, report: Mapping[str, Any]) -> Table:
    parts = {"all": report, "without the refused": report["accepted"]}
    point = f" ({report['operating_point']})" if report["operating_point"] else ""
    title = f"{model} on {report['data']}, split {report['split']}"
    table = Table("", *parts, title=f"{title}, threshold {report['threshold']}{point}")
    table.add_row("n", *(str(part["n"]) for part in parts.values()))
    table.add_row("with the finding", *(str(part["n_positive"]) for part in parts.values()))
    for figure in _SHOWN:
        table.add_row(figure, *(_with_interval(part, figure) for part in parts.values()))
    table.add_row("refused by the scope gate", str(report["refused"]))
    if report["refused_by_header"]:
        table.add_row("refused by header, counted all the same", str(report["refused_by_header"]))
    for label, count in report["unknown_labels"].items():
        table.add_row(f"left out: label {label}", str(count))
    if report["unreadable"]:
        table.add_row("left out: unreadable", str(report["unreadable"]))
    return table


def _groups_table(column: str | None, groups: Mapping[str, Mapping[str, Any]]) -> Table:
    """One row a group, so that many groups stay readable on a narrow screen."""
    table = Table(Column(column or "", overflow="fold"), "n", "refused", *_SHOWN_OF_GROUPS)
    for name, part in groups.items():
        cells = [_in_two_lines(part, figure) for figure in _SHOWN_OF_GROUPS]
        table.add_row(name, str(part["n"]), str(part["refused"]), *cells)
    return table


def _with_interval(part: Mapping[str, Any], figure: str) -> str:
    return _cell(part, figure, "{:.3f}", " ({:.3f} to {:.3f})")


def _in_two_lines(part: Mapping[str, Any], figure: str) -> str:
    return _cell(part, figure, "{:.2f}", "\n{:.2f}-{:.2f}")


def _cell(part: Mapping[str, Any], figure: str, value_form: str, interval_form: str) -> str:
    value, interval = part[figure], part["ci95"][figure]
    if value is None:
        return "-"
    return value_form.format(value) + (interval_form.format(*interval) if interval else "")
