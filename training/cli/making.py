"""Commands that make models: list, prepare, lr-find, fit, export, all."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE
from rich.table import Column, Table

from dicom_node.errors import BadInput
from training.changes import customised
from training.cli.exporting import export_run
from training.cli.loading import Wanted, counts, counts_table, load_splits
from training.cli.options import (
    MODELS,
    RUNS,
    Data,
    Fallback,
    GroupColumn,
    Json,
    LabelMap,
    Models,
    RecipeName,
    Runs,
    Settings,
    Sha256,
    WeightsFile,
    out,
    print_json,
    recipe_named,
    settings_of,
)
from training.names import check_name
from training.recipes import RECIPES, SHIPPED
from training.runs import CONFIG, HISTORY, PLANES, made_from, read_json

Run = Annotated[Path | None, typer.Option(help="Folder of this run.  (default: RUNS/NAME)")]
Name = Annotated[
    str | None, typer.Option(help="Name of your run and model.  (default: the recipe's)")
]
Resume = Annotated[bool, typer.Option(help="Go on after the last finished epoch.")]
Overwrite = Annotated[bool, typer.Option(help="Train anew where a run of that name is.")]
Version = Annotated[
    str | None,
    typer.Option(
        help="Version of the model; a node scores a study once with each.  (default: the project's)"
    ),
]
Device = Annotated[
    str,
    typer.Option(help="auto, cpu, cuda (of several GPUs each takes a part of a batch) or cuda:N."),
]
Logs = Annotated[
    list[str] | None,
    typer.Option(
        "--log", help="Send the figures of each epoch to tensorboard or mlflow, too; repeatable."
    ),
]
Workers = Annotated[int, typer.Option(min=0, help="Processes that prepare batches.")]
Steps = Annotated[int, typer.Option(min=10, help="Learning rates to try.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command("list")(list_recipes)
    app.command()(prepare)
    app.command("lr-find")(find_learning_rate)
    app.command("fit")(fit_recipe)
    app.command("export")(export_model)
    app.command("all")(make_all)


def list_recipes(json: Json = False) -> None:
    """Show what can be trained, and what was published."""
    if json:
        print_json(
            {
                name: {
                    "title": recipe.title,
                    "data_set": recipe.data_set,
                    "architecture": recipe.architecture,
                    "weights": recipe.weights,
                    "epochs": recipe.epochs,
                    "published": dict(recipe.published),
                }
                for name, recipe in RECIPES.items()
            }
        )
        return
    heads = (Column(name, no_wrap=True) for name in ("recipe", "data", "network", "published"))
    table = Table(*heads, box=SIMPLE, padding=(0, 1, 0, 0))
    for name, recipe in RECIPES.items():
        figures = "\n".join(f"{key} {value:.3g}" for key, value in recipe.published.items())
        table.add_row(name, recipe.data_set, recipe.architecture, figures)
    out.print(table)


def prepare(
    recipe: RecipeName,
    data: Data = None,
    label_map: LabelMap = None,
    group_column: GroupColumn = None,
    settings: Settings = None,
    runs: Runs = RUNS,
    json: Json = False,
) -> None:
    """Check a recipe's data, divide them and keep them prepared for training."""
    base, wanted = recipe_named(recipe), Wanted(data, group_column, label_map, runs)
    source = wanted.source(base)
    chosen = customised(
        base, changes=settings_of(settings), fallback=False, own_data=wanted.own_data(source)
    )
    splits = load_splits(chosen, wanted, source)
    if chosen.guided:
        from training.lungs import lungs_on

        planes = [picture.plane for picture in splits.train]
        lungs_on(chosen.kind, planes, cache=runs / PLANES, progress=not json)
    if json:
        print_json(counts(chosen, splits))
    else:
        out.print(counts_table(chosen, splits, wanted))


def find_learning_rate(
    recipe: RecipeName,
    data: Data = None,
    name: Name = None,
    label_map: LabelMap = None,
    group_column: GroupColumn = None,
    settings: Settings = None,
    fallback: Fallback = False,
    weights_file: WeightsFile = None,
    sha256: Sha256 = None,
    steps: Steps = 100,
    device: Device = "auto",
    runs: Runs = RUNS,
    json: Json = False,
) -> None:
    """Try rising learning rates on the first phase; writes lr_find.json and lr_find.png."""
    from training.lr_find import lr_find

    base, wanted = recipe_named(recipe), Wanted(data, group_column, label_map, runs)
    _check_run_name(name, base.name, data)
    source = wanted.source(base)
    chosen = customised(
        base,
        name=name,
        changes=settings_of(settings),
        fallback=fallback,
        own_data=wanted.own_data(source),
    )
    splits = load_splits(chosen, wanted, source)
    folder = runs / chosen.name
    curve = lr_find(
        chosen,
        splits,
        folder,
        weights_file=weights_file,
        sha256=sha256,
        steps=steps,
        device=device,
    )
    if json:
        print_json(curve)
    else:
        out.print(f"the loss falls fastest at {curve['suggestion']:.2e}; see {folder}/lr_find.png")


def fit_recipe(
    recipe: RecipeName,
    data: Data = None,
    name: Name = None,
    run: Run = None,
    label_map: LabelMap = None,
    group_column: GroupColumn = None,
    settings: Settings = None,
    fallback: Fallback = False,
    weights_file: WeightsFile = None,
    sha256: Sha256 = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    device: Device = "auto",
    workers: Workers = 1,
    log: Logs = None,
    runs: Runs = RUNS,
    json: Json = False,
) -> None:
    """Train a recipe on its own set, or on your data; the best epoch is kept.

    Examples:

    fit vgg16_covid_cxr --fallback --set epochs=3

    fit cxr_pneumonia --data labels.csv --name our_pneumonia  (a CSV that names DICOM files)
    """
    from training.fit import chosen_device, fit
    from training.logs import check_logs

    base = recipe_named(recipe)
    # Said before the data are read.
    chosen_device(device)
    check_logs(log or [])
    wanted = Wanted(data, group_column, label_map, runs)
    _check_run_name(name, base.name, data)
    if resume and overwrite:
        raise BadInput("--resume goes on with a run and --overwrite replaces it: choose one")
    source = wanted.source(base)
    own_data = wanted.own_data(source)
    changes = settings_of(settings)
    chosen = customised(base, name=name, changes=changes, fallback=fallback, own_data=own_data)
    folder = run or runs / chosen.name
    if any(folder.rglob(CONFIG)) and not (resume or overwrite):
        raise BadInput(
            f"{folder} holds a run: --resume goes on with it, --overwrite trains anew in its place,"
            " and another --name keeps it"
        )
    splits = load_splits(chosen, wanted, source)
    if not json:
        out.print(counts_table(chosen, splits, wanted))
    fit(
        chosen,
        splits,
        folder,
        weights_file=weights_file,
        sha256=sha256,
        resume=resume,
        device=device,
        workers=workers,
        logs=log or [],
        made_from=made_from(
            base.name,
            chosen.name,
            changes=changes,
            fallback=fallback,
            own_data=own_data,
            group_column=wanted.group_column,
            label_map=wanted.label_map,
        ),
    )
    history = read_json(folder, HISTORY)
    if json:
        print_json({"run": str(folder), "n": counts(chosen, splits), "history": history})
        return
    words = _export_words(chosen.name, wanted, run)
    out.print(
        f"trained, epochs: {len(history)}: {folder}; next: python -m training {words}",
        markup=False,
        highlight=False,
    )


def _check_run_name(name: str | None, recipe: str, data: str | None) -> None:
    """Refuse a name that is another recipe's or, of a person's own data, any recipe's or none."""
    if data is not None and name is None:
        raise BadInput("give the model of your own data a --name of its own")
    if name is not None:
        check_name(name)
        if name == PLANES or (name in RECIPES and (data is not None or name != recipe)):
            raise BadInput(f"--name {name} is taken: choose a name of your own")


def _export_words(name: str, wanted: Wanted, run: Path | None) -> str:
    """The `export` of a run for a shell, with whatever its division of the data hangs on."""
    options = {
        "--data": wanted.data,
        "--label-map": wanted.label_map,
        "--group-column": wanted.group_column,
        "--run": run,
        "--runs": None if wanted.runs == RUNS else wanted.runs,
    }
    given = [(option, str(value)) for option, value in options.items() if value is not None]
    return shlex.join(["export", name, *(word for pair in given for word in pair)])


def export_model(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of a run.")],
    data: Data = None,
    run: Run = None,
    label_map: LabelMap = None,
    group_column: GroupColumn = None,
    runs: Runs = RUNS,
    models: Models = MODELS,
    version: Version = None,
    json: Json = False,
) -> None:
    """Write a run as a model folder that the node serves: calibrated, gated, with its card."""
    check_name(name)
    wanted = Wanted(data, group_column, label_map, runs)
    folder = models / name
    report = export_run(run or runs / name, wanted, folder, version)
    if json:
        print_json(report)
    else:
        out.print(f"exported: {folder}; its card: {folder}/docs/README.md")


def make_all(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RECIPE]...", help="Default: those in models/."),
    ] = None,
    fallback: Fallback = False,
    settings: Settings = None,
    resume: Resume = False,
    device: Device = "auto",
    runs: Runs = RUNS,
    models: Models = MODELS,
) -> None:
    """Train and export recipes on their own sets, one after the other."""
    recipes = [recipe_named(name) for name in names or SHIPPED]
    for recipe in recipes:
        fit_recipe(
            recipe.name,
            fallback=fallback,
            settings=settings,
            resume=resume,
            overwrite=not resume,
            device=device,
            runs=runs,
        )
        export_model(recipe.name, runs=runs, models=models)
