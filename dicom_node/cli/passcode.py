"""`passcode`: the line of `dicom.users_file` for one user."""

from __future__ import annotations

import secrets
import sys
from typing import Annotated

import typer

from dicom_node.cli.options import fail

SALT_BYTES = 16


def passcode(
    user: Annotated[str, typer.Argument(metavar="USER", help="User name that senders offer.")],
) -> None:
    """Ask for a passcode (or read it from a pipe) and print the user's line of dicom.users_file."""
    import yaml

    from dicom_node.receive.users import hash_passcode

    if sys.stdin.isatty():
        secret: str = typer.prompt("passcode", hide_input=True, confirmation_prompt=True)
    else:
        secret = sys.stdin.readline().rstrip("\n")
    if not secret:
        fail("the passcode is empty")
    made = hash_passcode(secret.encode("utf-8"), secrets.token_bytes(SALT_BYTES))
    sys.stdout.write(yaml.safe_dump({user: made}, allow_unicode=True, width=1000))


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(passcode)
