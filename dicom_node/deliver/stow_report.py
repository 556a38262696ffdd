"""What an answer to STOW-RS says of each object: Store Instances Response (PS3.18 annex I)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from xml.etree import ElementTree

_REFERENCED_SOP_SEQUENCE: Final = "00081199"
_FAILED_SOP_SEQUENCE: Final = "00081198"
_REFERENCED_SOP_INSTANCE_UID: Final = "00081155"
_WARNING_REASON: Final = "00081196"
_FAILURE_REASON: Final = "00081197"
_XML: Final = frozenset({"application/dicom+xml", "application/xml", "text/xml"})


@dataclass(frozen=True, slots=True)
class StoreReport:
    """Which objects are stored and which are not.

    Attributes
    ----------
    stored
        SOP Instance UID to Warning Reason (0008,1196); None: stored without one. What the answer
        also calls failed is not among it.
    failed
        SOP Instance UID to Failure Reason (0008,1197); None: it gives none.
    """

    stored: Mapping[str, int | None]
    failed: Mapping[str, int | None]


def read_report(media_type: str, body: bytes) -> StoreReport | None:
    """Read the body of an answer, JSON or XML (PS3.18 annexes F and H).

    Parameters
    ----------
    media_type
        In small letters, without parameters; all but those of XML are tried as JSON.

    Returns
    -------
    StoreReport or None
        None: it cannot be read.
    """
    try:
        model = _from_xml(body) if media_type in _XML else json.loads(body)
    except (ElementTree.ParseError, RecursionError, ValueError):
        return None
    if isinstance(model, list) and len(model) == 1:  # as in an answer to QIDO-RS
        (model,) = model
    if not isinstance(model, dict):
        return None
    stored = dict(_references(model, _REFERENCED_SOP_SEQUENCE, _WARNING_REASON))
    failed = dict(_references(model, _FAILED_SOP_SEQUENCE, _FAILURE_REASON))
    return StoreReport({uid: reason for uid, reason in stored.items() if uid not in failed}, failed)


def first_value(item: Any, tag: str) -> Any:
    """The first value of an attribute in the DICOM JSON Model (PS3.18 F.2.2); None: it has none."""
    attribute = item.get(tag) if isinstance(item, dict) else None
    values = attribute.get("Value") if isinstance(attribute, dict) else None
    return values[0] if isinstance(values, list) and values else None


def _references(
    model: dict[str, Any], sequence: str, reason: str
) -> Iterator[tuple[str, int | None]]:
    attribute = model.get(sequence)
    items = attribute.get("Value") if isinstance(attribute, dict) else None
    for item in items if isinstance(items, list) else ():
        uid = first_value(item, _REFERENCED_SOP_INSTANCE_UID)
        if isinstance(uid, str):
            yield uid.strip(" \0"), _number(first_value(item, reason))


def _number(value: Any) -> int | None:
    """16 bits; some write them as text."""
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if 0 <= number <= 0xFFFF else None


class _WithoutDoctype(ElementTree.TreeBuilder):
    """Refuses document type declarations, for those define what unpacks to anything."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("a document type declaration")


def _from_xml(body: bytes) -> dict[str, Any]:
    """The Native DICOM Model (PS3.19 A.1) as the JSON one, two levels deep."""
    parser = ElementTree.XMLParser(target=_WithoutDoctype())
    root = ElementTree.fromstring(body, parser=parser)
    return {
        tag: {"Value": [dict(_plain(item)) for item in _children(sequence, "Item")]}
        for tag, sequence in _attributes(root)
    }


def _plain(item: ElementTree.Element) -> Iterator[tuple[str, dict[str, list[str]]]]:
    for tag, attribute in _attributes(item):
        yield tag, {"Value": [value.text or "" for value in _children(attribute, "Value")]}


def _attributes(parent: ElementTree.Element) -> Iterator[tuple[str, ElementTree.Element]]:
    for child in _children(parent, "DicomAttribute"):
        yield child.get("tag", "").upper(), child


def _children(parent: ElementTree.Element, name: str) -> Iterator[ElementTree.Element]:
    """With or without the namespace."""
    return (child for child in parent if child.tag.rpartition("}")[2] == name)
