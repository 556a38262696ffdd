"""The audit message schema of PS3.15 A.5.1 (RELAX NG there), as facts that a test can hold.

Elements in their order with how often each may occur, attributes with whether each must be there
and what it may hold. Values that the schema leaves to codes are checked for their form alone.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element

Check = Callable[[str], object]


def one_of(*values: str) -> Check:
    return lambda value: value in values


def numbers(last: int) -> Check:
    return one_of(*map(str, range(1, last + 1)))


def token(value: str) -> bool:
    return value == " ".join(value.split())


def date_time(value: str) -> object:
    return re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", value)


def base64_binary(value: str) -> bool:
    return base64.b64encode(base64.b64decode(value, validate=True)).decode() == value


def integer(value: str) -> object:
    return re.fullmatch(r"-?\d+", value)


def text(_value: str) -> bool:
    return True


boolean = one_of("true", "false", "0", "1")


@dataclass(frozen=True)
class Node:
    """Attributes as {name: (must be there, check)}; children as (name, least, most) in order."""

    attributes: dict[str, tuple[bool, Check]] = field(default_factory=dict)
    children: tuple[tuple[str, int, float], ...] = ()
    content: Check | None = None


MANY = float("inf")
CODED = Node(
    {
        "csd-code": (True, token),
        "codeSystemName": (True, token),
        "displayName": (False, token),
        "originalText": (True, token),
    }
)
SCHEMA: dict[str, Node] = {
    "AuditMessage": Node(
        children=(
            ("EventIdentification", 1, 1),
            ("ActiveParticipant", 1, MANY),
            ("AuditSourceIdentification", 1, 1),
            ("ParticipantObjectIdentification", 0, MANY),
        )
    ),
    "EventIdentification": Node(
        {
            "EventActionCode": (False, one_of("C", "R", "U", "D", "E")),
            "EventDateTime": (True, date_time),
            "EventOutcomeIndicator": (True, one_of("0", "4", "8", "12")),
        },
        (("EventID", 1, 1), ("EventTypeCode", 0, MANY), ("EventOutcomeDescription", 0, 1)),
    ),
    "EventID": CODED,
    "EventTypeCode": CODED,
    "EventOutcomeDescription": Node(content=text),
    "ActiveParticipant": Node(
        {
            "UserID": (True, text),
            "AlternativeUserID": (False, text),
            "UserName": (False, text),
            "UserIsRequestor": (True, boolean),
            "NetworkAccessPointID": (False, token),
            "NetworkAccessPointTypeCode": (False, numbers(5)),
        },
        (("RoleIDCode", 0, MANY), ("MediaIdentifier", 0, 1)),
    ),
    "RoleIDCode": CODED,
    "AuditSourceIdentification": Node(
        {"AuditEnterpriseSiteID": (False, token), "AuditSourceID": (True, token)},
        (("AuditSourceTypeCode", 0, MANY),),
    ),
    "AuditSourceTypeCode": Node({"csd-code": (True, numbers(9))}),
    "ParticipantObjectIdentification": Node(
        {
            "ParticipantObjectID": (True, token),
            "ParticipantObjectTypeCode": (False, numbers(4)),
            "ParticipantObjectTypeCodeRole": (False, numbers(26)),
            "ParticipantObjectDataLifeCycle": (False, numbers(15)),
            "ParticipantObjectSensitivity": (False, token),
        },
        (
            ("ParticipantObjectIDTypeCode", 1, 1),
            ("ParticipantObjectName", 1, 1),  # or ParticipantObjectQuery, which we never write
            ("ParticipantObjectDetail", 0, MANY),
            ("ParticipantObjectDescription", 0, MANY),
        ),
    ),
    "ParticipantObjectIDTypeCode": CODED,
    "ParticipantObjectName": Node(content=token),
    "ParticipantObjectDetail": Node({"type": (True, token), "value": (True, base64_binary)}),
    "ParticipantObjectDescription": Node(children=(("SOPClass", 0, MANY),)),
    "SOPClass": Node({"UID": (False, token), "NumberOfInstances": (True, integer)}),
}


def violations(element: Element) -> Iterator[str]:
    """Everything in a message that the schema does not allow."""
    node = SCHEMA.get(element.tag)
    if node is None:
        yield f"{element.tag} is not known"
        return
    for name, (required, check) in node.attributes.items():
        value = element.get(name)
        if value is None and required:
            yield f"{element.tag} lacks {name}"
        if value is not None and not check(value):
            yield f"{element.tag} {name}={value!r}"
    yield from (f"{element.tag} has {name}" for name in element.attrib.keys() - node.attributes)
    if element.text and (node.content is None or not node.content(element.text)):
        yield f"{element.tag} contains {element.text!r}"
    order = [name for name, _, _ in node.children]
    found = [child.tag for child in element]
    if [name for name in order for tag in found if tag == name] != found:
        yield f"{element.tag}: {found} are not in order"
    for name, least, most in node.children:
        if not least <= found.count(name) <= most:
            yield f"{element.tag} has {found.count(name)} {name}"
    for child in element:
        yield from violations(child)
