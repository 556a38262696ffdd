"""What may be installed: the node is Apache 2.0 and ships in images, so no GPL beside it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib import metadata

# Used as libraries, replaceable by the user, named in README: the LGPL asks for no more.
DECLARED_LGPL = frozenset({"psycopg", "psycopg-binary"})


def licence_names(distribution: metadata.Distribution) -> list[str]:
    """Every short statement of a licence in the metadata; a full text gives its first line."""
    fields = distribution.metadata.json
    stated = [str(fields.get("license_expression") or fields.get("license") or "")]
    stated += [item for item in fields.get("classifier", ()) if item.startswith("License")]
    return [text.strip().splitlines()[0] for text in stated if text.strip()]


def is_gpl(name: str) -> bool:
    """Whether the only reading of a statement is GPL or AGPL (LGPL is another matter)."""
    alternatives = re.split(r"\bOR\b", name)
    return all(
        re.search(r"(?<![L])A?GPL|(?<!Lesser )General Public", one, re.IGNORECASE)
        for one in alternatives
    )


def is_lgpl(name: str) -> bool:
    """Whether a statement names the LGPL."""
    return bool(re.search(r"LGPL|Lesser General Public", name, re.IGNORECASE))


def installed(test: object) -> Iterable[tuple[str, str]]:
    """Name and licence of each installed distribution for which `test` holds."""
    assert callable(test)
    for distribution in metadata.distributions():
        for name in licence_names(distribution):
            if test(name):
                yield distribution.name.lower(), name


def test_no_installed_distribution_is_under_the_gpl() -> None:
    assert sorted(installed(is_gpl)) == []


def test_every_distribution_under_the_lgpl_is_declared() -> None:
    assert {name for name, _ in installed(is_lgpl)} <= DECLARED_LGPL


def test_the_gate_tells_the_licences_apart() -> None:
    gpl = ["GPL-3.0-only", "GPLv2", "AGPL-3.0-or-later", "GNU General Public License v3 (GPLv3)"]
    other = [
        "LGPL-3.0-only",
        "MIT",
        "GNU Lesser General Public License v3",
        "Apache-2.0 OR GPL-2.0",
    ]
    assert all(is_gpl(name) for name in gpl)
    assert not any(is_gpl(name) for name in other)
    assert is_lgpl("LGPL-3.0-only")
