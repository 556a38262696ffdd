"""Conditions over DICOM keywords: typed clauses and, where they do not suffice, CEL.

A condition answers with a sentence, so that every "no" can be shown to a person.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isfinite
from typing import Annotated, Any, Self

from cel_expr_python import cel
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydicom.datadict import dictionary_VR, tag_for_keyword

from dicom_node.errors import ConfigError

NUMERIC_VRS = frozenset({"DS", "IS", "US", "SS", "UL", "SL", "FL", "FD", "UV", "SV"})
# Multi-valued by PS3.6; every other keyword is offered to CEL as a single value.
MULTI_VALUED = frozenset({"ImageType", "SoftwareVersions", "PixelSpacing", "ImagerPixelSpacing"})
PATIENT_GROUP = 0x0010
PATIENT_KEYWORDS = frozenset(
    {"PatientAge", "PatientSex", "PatientSize", "PatientWeight", "PregnancyStatus"}
)
OPERATORS = ("any_of", "none_of", "contains", "at_least", "at_most", "present")

Header = Mapping[str, Any]


def checked_keyword(value: str) -> str:
    """Return a DICOM keyword unchanged.

    Raises
    ------
    ValueError
        PS3.6 has no such keyword, or it says who the patient is: what rules read is recorded and
        quoted in reasons.
    """
    tag = tag_for_keyword(value)
    if tag is None:
        raise ValueError(f"{value!r} is not a DICOM keyword (PS3.6); check the spelling")
    if tag >> 16 == PATIENT_GROUP and value not in PATIENT_KEYWORDS:
        raise ValueError(f"{value} says who the patient is; rules may not read it")
    return value


def _listed(value: Any) -> Any:
    return value if isinstance(value, list | tuple) or value is None else [value]


Listed = Annotated[tuple[str, ...] | None, BeforeValidator(_listed)]


class Clause(BaseModel):
    """One test of one attribute, or a group of clauses under `any`.

    Text is compared without regard to case; a multi-valued attribute passes if one of its values
    does (`none_of`: if none does). An absent attribute passes only `none_of` and `present: false`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    field: str | None = None
    any_of: Listed = None
    none_of: Listed = None
    contains: Listed = None
    at_least: float | None = None
    at_most: float | None = None
    present: bool | None = None
    any: tuple[Clause, ...] = ()

    @model_validator(mode="after")
    def _one_test(self) -> Self:
        used = [name for name in OPERATORS if getattr(self, name) is not None]
        if self.any:
            if self.field or used:
                raise ValueError("a clause has either 'any' or 'field', not both")
            return self
        if self.field is None or len(used) != 1:
            raise ValueError(f"a clause needs 'field' and exactly one of {', '.join(OPERATORS)}")
        checked_keyword(self.field)
        if used[0] in {"at_least", "at_most"} and dictionary_VR(self.field) not in NUMERIC_VRS:
            raise ValueError(f"{self.field} is not a number; {used[0]} cannot compare it")
        return self

    def keywords(self) -> set[str]:
        """Every DICOM keyword that this clause reads."""
        return {self.field} if self.field else set().union(*(c.keywords() for c in self.any))

    def holds(self, header: Header) -> bool:
        """Whether the header meets the clause."""
        if self.any:
            return any(clause.holds(header) for clause in self.any)
        assert self.field is not None, "checked by _one_test"
        values = _values(header, self.field)
        if self.present is not None:
            return bool(values) == self.present
        if self.none_of is not None:
            return not _matches_any(values, self.none_of)
        if self.any_of is not None:
            return _matches_any(values, self.any_of)
        if self.contains is not None:
            wanted = [item.casefold() for item in self.contains]
            return any(item in str(value).casefold() for value in values for item in wanted)
        if self.at_least is not None:
            return any(_number(value) >= self.at_least for value in values)
        assert self.at_most is not None, "checked by _one_test"
        return any(_number(value) <= self.at_most for value in values)

    def explain(self, header: Header) -> str:
        """Say what the clause wants and what the header has, e.g. for a refusal."""
        if self.any:
            return " and ".join(clause.explain(header) for clause in self.any)
        assert self.field is not None, "checked by _one_test"
        values = _values(header, self.field)
        found = "\\".join(str(value) for value in values) if values else "absent"
        return f"{self.field} is {found}, wanted {self._wanted()}"

    def _wanted(self) -> str:
        texts = {
            "any_of": ", ".join(self.any_of or ()),
            "none_of": "none of " + ", ".join(self.none_of or ()),
            "contains": "a text with " + " or ".join(self.contains or ()),
            "at_least": f">= {self.at_least:g}" if self.at_least is not None else "",
            "at_most": f"<= {self.at_most:g}" if self.at_most is not None else "",
            "present": "a value" if self.present else "no value",
        }
        return next(texts[name] for name in OPERATORS if getattr(self, name) is not None)


def _values(header: Header, keyword: str) -> list[Any]:
    value = header.get(keyword)
    values = value if isinstance(value, list) else [value]
    return [item for item in values if item is not None and item != ""]


def _matches_any(values: list[Any], wanted: tuple[str, ...]) -> bool:
    folded = {item.casefold() for item in wanted}
    return any(str(value).casefold() in folded for value in values)


def first_number(header: Header, keyword: str) -> float | None:
    """First finite number of an attribute, or None; headers may hold several, or none at all."""
    numbers = [_number(value) for value in _values(header, keyword)]
    return next((number for number in numbers if isfinite(number)), None)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")  # compares false with everything: not met


class CelCondition:
    """A compiled CEL expression over DICOM keywords; a mistake is an error when it is compiled.

    Parameters
    ----------
    source
        E.g. `Modality == "CT" && SliceThickness <= 2.5`.

    Raises
    ------
    ConfigError
        A keyword that PS3.6 does not have, a type mistake, or a result that is not true or false.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._keywords = frozenset(_cel_identifiers(source))
        try:
            for keyword in sorted(self._keywords):
                checked_keyword(keyword)
        except ValueError as error:
            raise ConfigError(f"expression: {error}") from error
        variables = {keyword: _cel_type(keyword) for keyword in self._keywords}
        try:
            self._expression = cel.NewEnv(variables=variables).compile(source)
        except RuntimeError as error:
            message = (
                str(error).removeprefix("INVALID_ARGUMENT: ").removesuffix(" [INVALID_ARGUMENT]")
            )
            raise ConfigError(f"expression: {message}") from error
        if self._expression.return_type() != cel.Type.BOOL:
            raise ConfigError(f"expression: {source!r} gives no true or false")

    def keywords(self) -> set[str]:
        """Every DICOM keyword that the expression reads."""
        return set(self._keywords)

    def holds(self, header: Header) -> bool:
        """Whether the expression is true; false if an attribute that it needs is absent."""
        data = {key: _cel_value(key, header[key]) for key in self._keywords if key in header}
        return self._expression.eval(data=data).plain_value() is True


def _cel_identifiers(source: str) -> set[str]:

    without_text = re.sub(r"\"[^\"]*\"|'[^']*'", "", source)
    return {
        word
        for word in re.findall(r"(?<![.\w])[A-Z][A-Za-z0-9]*", without_text)
        if tag_for_keyword(word) is not None
    }


def _cel_type(keyword: str) -> Any:
    single = cel.Type.DOUBLE if dictionary_VR(keyword) in NUMERIC_VRS else cel.Type.STRING
    return cel.Type.List(single) if keyword in MULTI_VALUED else single


def _cel_value(keyword: str, value: Any) -> Any:
    number = dictionary_VR(keyword) in NUMERIC_VRS
    values = value if isinstance(value, list) else [value]
    converted = [_number(item) if number else str(item) for item in values]
    return converted if keyword in MULTI_VALUED else converted[0]


class Refusal(BaseModel):
    """Clauses that exclude an image or series, with the reason to record."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reason: str = Field(min_length=3)
    when: tuple[Clause, ...] = Field(min_length=1)

    def applies(self, header: Header) -> bool:
        """Whether every clause holds."""
        return all(clause.holds(header) for clause in self.when)
