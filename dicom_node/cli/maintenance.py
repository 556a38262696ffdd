"""`models list|verify|pull` and `db upgrade`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from dicom_node.cli.options import EXIT_FAILED, ConfigFile, Home, Json, out, print_json, read_config
from dicom_node.node import prepare


class Device(StrEnum):
    """`scoring.device` as a flag."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


models_app = typer.Typer(help="The models under models/.", no_args_is_help=True)
db_app = typer.Typer(help="The database.", no_args_is_help=True)


@models_app.command("list")
def list_models(home: Home = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """List the model folders: what they find, for whom, and why one is refused."""
    from dicom_node.score.bundle import find_bundles
    from dicom_node.score.catalog import describe

    settings = read_config(home, config)
    bundles, refused = find_bundles(settings.models_dir)
    if as_json:
        print_json(
            [describe(bundle) | {"state": "usable", "reason": None} for bundle in bundles]
            + [{"name": name, "state": "refused", "reason": why} for name, why in refused.items()]
        )
        return
    table = Table("model", "version", "finds", "intended use", "state", box=None)
    for bundle in bundles:
        facts = describe(bundle)
        table.add_row(
            facts["name"],
            facts["version"],
            ", ".join(item["meaning"] for item in facts["findings"]),
            facts["intended_use"],
            "[green]usable[/]",
        )
    for name, why in refused.items():
        table.add_row(name, "", "", "", f"[bold red]refused:[/] {why}")
    out.print(table)


@models_app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="A model folder.")],
    device: Annotated[Device, typer.Option(help="Where to run it.")] = Device.AUTO,
) -> None:
    """Verify a model folder: its form, its hashes, and its golden sample on this machine."""
    from dicom_node.score.bundle import read_bundle
    from dicom_node.score.engine import open_classifier

    bundle = read_bundle(folder)
    classifier = open_classifier(bundle, device=device.value)
    out.print(f"{bundle.name} {bundle.version}: usable, golden scores agree on {classifier.engine}")


@models_app.command()
def pull(
    name: Annotated[str, typer.Argument(help="xrv_densenet121: 18 findings, adults.")],
    file: Annotated[
        Path | None, typer.Option(help="The published file, fetched on another machine.")
    ] = None,
    sha256: Annotated[str | None, typer.Option(help="What that file must have.")] = None,
    home: Home = None,
    config: ConfigFile = None,
) -> None:
    """Fetch a published network, convert it to a model folder and verify that."""
    from dicom_node.score.bundle import read_bundle
    from dicom_node.score.pull import pull as pull_model
    from dicom_node.score.pull import source_of

    settings = read_config(home, config)
    folder = pull_model(name, settings.models_dir, file=file, sha256=sha256)
    bundle = read_bundle(folder)
    out.print(f"{bundle.name} {bundle.version}: usable, in {folder}", highlight=False)
    out.print(f"{bundle.name} {bundle.version}: {source_of(folder)}", highlight=False, markup=False)


@db_app.command()
def upgrade(home: Home = None, config: ConfigFile = None) -> None:
    """Bring the database to the newest schema; every command does this by itself at start."""
    database = prepare(read_config(home, config))
    found, head = database.schema_state()
    out.print(f"schema {found}" + (" (newest)" if found == head else f", newest is {head}"))
    if found != head:
        raise typer.Exit(EXIT_FAILED)


def add_to(root: typer.Typer) -> None:
    """Register the commands."""
    root.add_typer(models_app, name="models")
    root.add_typer(db_app, name="db")
