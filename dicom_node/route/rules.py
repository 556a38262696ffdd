"""`config/routes.yaml`: which series and images go to which model, and why the others do not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from dicom_node.domain.study import Role
from dicom_node.errors import ConfigError
from dicom_node.route.clauses import CelCondition, Clause, Refusal, first_number
from dicom_node.store.routing import Decision, StoredInstance


class Route(BaseModel):
    """One route; `config/routes.yaml` comments every key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=64)
    model: str = Field(min_length=1, max_length=64)
    model_version: str | None = None
    input: Literal["images", "series"]
    when: tuple[Clause, ...] = Field(min_length=1)
    expression: str | None = None
    unless: tuple[Refusal, ...] = ()
    minimum_instances: int = Field(default=1, ge=1)
    priority: int = Field(default=50, ge=0, le=100)
    out_of_scope: Literal["refuse", "mark"] = "refuse"
    require_patient_id: bool = False
    results: tuple[Literal["SR", "SC"], ...] = ("SR", "SC")
    report_refusals: bool = True
    send_to: tuple[str, ...] | None = None
    _cel: CelCondition | None = PrivateAttr(default=None)

    def model_post_init(self, _context: Any) -> None:
        """Compile the expression, so that a mistake in it is an error at load."""
        if self.expression is not None:
            self._cel = CelCondition(self.expression)

    def keywords(self) -> set[str]:
        """Every DICOM keyword that the route reads."""
        clauses = [*self.when, *(clause for refusal in self.unless for clause in refusal.when)]
        found = set().union(*(clause.keywords() for clause in clauses))
        return found | (self._cel.keywords() if self._cel else set())

    def objection(self, instance: StoredInstance) -> str | None:
        """Why this instance is not for this route, or None if it is."""
        for clause in self.when:
            if not clause.holds(instance.header):
                return clause.explain(instance.header)
        if self._cel is not None and not self._cel.holds(instance.header):
            return f"not true: {self.expression}"
        for refusal in self.unless:
            if refusal.applies(instance.header):
                return refusal.reason
        return None


class Routes(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    routes: tuple[Route, ...] = Field(min_length=1)

    def keywords(self) -> frozenset[str]:
        """Every DICOM keyword that some route reads; the assembler records these."""
        return frozenset().union(*(route.keywords() for route in self.routes))


@dataclass(frozen=True, slots=True)
class Selection:
    """The instances of a study that a route sends to its model."""

    route: Route
    instances: tuple[StoredInstance, ...]


def load_routes(path: Path) -> Routes:
    """Read and compile the rules.

    Raises
    ------
    ConfigError
        No file, broken YAML, an unknown key or DICOM keyword, a type mistake; all at once.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the routes: {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:  # no UTF-8, a date that does not exist
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    try:
        routes = Routes.model_validate(raw)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except ValidationError as error:
        lines = [
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"
            for item in error.errors(include_url=False, include_input=False)
        ]
        raise ConfigError(f"{path}: " + "; ".join(lines)) from error
    names = [route.name for route in routes.routes]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"{path}: route names used twice: {', '.join(twice)}")
    return routes


def select(
    routes: Routes, instances: Sequence[StoredInstance]
) -> tuple[list[Selection], list[Decision]]:
    """Apply the rules to a complete study.

    Returns
    -------
    list of Selection
        What each route wants scored; at most one a route.
    list of Decision
        What was said to every series and image, with the reason of every "no".
    """
    selections, decisions = [], _other_results(instances)
    images = [item for item in instances if item.role is Role.IMAGE]
    for route in routes.routes:
        chosen, said = _apply(route, images)
        decisions += said
        if chosen:
            selections.append(Selection(route, tuple(chosen)))
    return selections, decisions


def _other_results(instances: Sequence[StoredInstance]) -> list[Decision]:
    return [
        Decision(
            "*",
            item.series_instance_uid,
            item.sop_instance_uid,
            accepted=False,
            reason=f"a result or presentation (Modality {item.header.get('Modality', '?')}), "
            "not an image to score",
        )
        for item in instances
        if item.role is Role.RESULT
    ]


def _apply(
    route: Route, images: Sequence[StoredInstance]
) -> tuple[list[StoredInstance], list[Decision]]:
    accepted: dict[str, list[StoredInstance]] = defaultdict(list)
    objections = {item: route.objection(item) for item in images}
    for item, objection in objections.items():
        if objection is None:
            accepted[item.series_instance_uid].append(item)
    decisions = _objections(route, objections)
    for series_instance_uid, items in list(accepted.items()):
        frames = _frames(items)
        if frames < route.minimum_instances:
            del accepted[series_instance_uid]
            reason = f"series has {frames} images, route needs {route.minimum_instances}"
            uid = series_instance_uid
            decisions.append(Decision(route.name, uid, None, accepted=False, reason=reason))
    if route.input == "series" and len(accepted) > 1:
        best = min(accepted, key=lambda uid: _series_rank(uid, accepted[uid]))
        for uid in [uid for uid in accepted if uid != best]:
            reason = "another series of the study has more or thinner images"
            decisions.append(Decision(route.name, uid, None, accepted=False, reason=reason))
            del accepted[uid]
    chosen = [item for items in accepted.values() for item in items]
    decisions += [
        Decision(route.name, uid, None, accepted=True, reason=f"{len(items)} images")
        for uid, items in accepted.items()
    ]
    return chosen, decisions


def _objections(route: Route, objections: Mapping[StoredInstance, str | None]) -> list[Decision]:
    """One decision a series where all its images got the same "no", else one an image."""
    by_series: dict[str, list[tuple[StoredInstance, str | None]]] = defaultdict(list)
    for item, objection in objections.items():
        by_series[item.series_instance_uid].append((item, objection))
    decisions = []
    for uid, said in by_series.items():
        reasons = {objection for _, objection in said}
        if len(reasons) == 1:
            (reason,) = reasons
            if reason is not None:
                decisions.append(Decision(route.name, uid, None, accepted=False, reason=reason))
            continue
        decisions += [
            Decision(route.name, uid, item.sop_instance_uid, accepted=False, reason=objection)
            for item, objection in said
            if objection is not None
        ]
    return decisions


def _series_rank(uid: str, items: Sequence[StoredInstance]) -> tuple[int, float, str]:
    """Most images first, then the thinnest slices; the UID settles ties for good."""
    thickness = first_number(items[0].header, "SliceThickness")
    return -_frames(items), thickness if thickness and thickness > 0 else float("inf"), uid


def _frames(items: Sequence[StoredInstance]) -> int:
    numbers = [first_number(item.header, "NumberOfFrames") for item in items]
    return sum(int(number) if number and number >= 1 else 1 for number in numbers)
