"""Options that several commands share, and how they become configuration."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from dicom_node.config import NodeConfig, load_config

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2

out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)

Home = Annotated[
    Path | None,
    typer.Option("--home", help="Folder of database, inbox and store.  (config: home)"),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="YAML settings.  (default: HOME/node.yaml if there)"),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
Supervised = Annotated[bool, typer.Option("--supervised", hidden=True)]
AeTitleOption = Annotated[str | None, typer.Option(help="Our AE title.  (config: ae_title)")]
DicomPort = Annotated[
    int | None, typer.Option(help="Port of the C-STORE SCP; 0: any.  (config: dicom.port)")
]
DicomHost = Annotated[str | None, typer.Option(help="Address to listen on.  (config: dicom.host)")]
WebPort = Annotated[
    int | None, typer.Option(help="Port of the web server; 0: any.  (config: web.port)")
]
SendTo = Annotated[
    list[str] | None,
    typer.Option(
        help="Where results go: AET@HOST:PORT, the name of a configured destination, or sender; "
        "may be repeated.  (config: send_to)"
    ),
]


def overrides_from(**flags: Any) -> dict[str, Any]:
    """Nest the flags that were given: `dicom__port=104` becomes `{"dicom": {"port": 104}}`."""
    nested: dict[str, Any] = {}
    for name, value in flags.items():
        if value is None or value == []:
            continue
        *parents, leaf = name.split("__")
        target = nested
        for parent in parents:
            target = target.setdefault(parent, {})
        target[leaf] = value
    return nested


def read_config(home: Path | None, config_file: Path | None, **flags: Any) -> NodeConfig:
    """Load the settings for one command."""
    return load_config(config_file, overrides_from(home=home, **flags))


def print_json(value: Any) -> None:
    """Print one JSON document, and nothing else, on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def fail(message: str, code: int = EXIT_FAILED) -> NoReturn:
    """Say what is wrong on standard error and end with `code`."""
    err.print(f"[bold red]error:[/] {message}", highlight=False)
    raise typer.Exit(code)
