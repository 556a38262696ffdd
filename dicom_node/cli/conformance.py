"""`conformance`: the DICOM conformance statement of this node, for whoever connects to it."""

from __future__ import annotations

import sys

import typer

from dicom_node.cli.options import ConfigFile, Home, read_config


def conformance(home: Home = None, config: ConfigFile = None) -> None:
    """Print the DICOM conformance statement (PS3.2) of this configuration, in Markdown."""
    from dicom_node.cli.conformance_statement import conformance_statement

    sys.stdout.write(conformance_statement(read_config(home, config)))


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(conformance)
