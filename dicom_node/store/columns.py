"""What the tables are made of: kinds of columns, and how constraints and indices are named."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, Column, DateTime, Dialect, String, TypeDecorator

UID = String(64)
DIGEST = String(64)


class UtcDateTime(TypeDecorator[datetime]):
    """Aware datetimes in, aware UTC datetimes out; stored as naive UTC so that both engines sort
    them alike."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive datetime cannot be stored")
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


def one_of(column: str, values: Iterable[str]) -> str:
    """Make the condition that a column holds one of the values."""
    return f"{column} IN ({', '.join(repr(str(value)) for value in values)})"


def pruned() -> tuple[Column[datetime], Column[int]]:
    """Make the columns that tell of retention.

    `pruned_at`: it gave the bytes up, the row stays; `pruned_bytes`: how many, absent until the
    files are gone.
    """
    return Column("pruned_at", UtcDateTime), Column("pruned_bytes", BigInteger)
