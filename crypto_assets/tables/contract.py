"""What a table contract is, and everything that follows from one.

A contract is a dataframely schema (columns, rules) with a ``table`` attribute (zone, grain, write mode). From it
follow, with no second list anywhere: the Polars schema, the Delta schema with column comments, the Dagster column
schema and lineage, row validation, the checks and the data dictionary. Contracts themselves live beside this file,
one module a zone; how rows are made to fit one is in ``conform.py``. Nothing here does I/O.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any, ClassVar, Literal

import dataframely as dy
import polars as pl


class Zone(StrEnum):
    """The lake's zones; the Glue database of a zone is ``crypto_<zone>``."""

    RAW = "raw"
    TRUSTED = "trusted"
    REFINED = "refined"
    QUALITY = "quality"


class Write(StrEnum):
    """How rows reach a table. Only raw and streams append; a replaced window is a pure function of its upstream."""

    APPEND = "append"
    REPLACE = "replace"
    MERGE = "merge"


class Kind(StrEnum):
    """What may be computed from a column. A ``rolling_24h`` value is never summed or differenced over time."""

    KEY = "key"
    CLOCK = "clock"
    ATTRIBUTE = "attribute"
    INSTANT = "instant"
    INTERVAL = "interval"
    ROLLING_24H = "rolling_24h"
    CUMULATIVE = "cumulative"
    RATIO = "ratio"


# Partition columns longer than a day, and what `date` is truncated to for them.
PERIODS = {"month": "1mo", "year": "1y"}


@dataclass(frozen=True, kw_only=True)
class Table:
    """What the lake needs to know of a table besides its columns.

    Attributes:
        zone, name: the table is ``zone.name`` in SQL, ``zone/name`` in Dagster and on disk.
        group: the domain that it is shown under in the Dagster UI.
        cadence: how often rows are expected, in words.
        write: how rows reach it.
        partition_by: Delta partition columns, coarsest first; empty for small dimensions. Long narrow tables are
            partitioned by ``month`` or ``year`` (the first day of it), others by ``date``.
        sort_by: order of rows inside a file, so that readers skip row groups.
        retention: how long rows are kept, in words.
        owner: a Dagster owner (``team:...`` or an e-mail address).
        clock: the column by which windows finer than a day are replaced; without it a table is replaced by whole days.
        span: names of the two clocks that say which time a row covers, where a row covers more than its own date.
        batch: ``day`` or ``month``: how much of it is computed and judged at once where a range would not fit into
            memory; a table with a ``period`` goes by the month without it.
        bucket: what a row covers where that is longer than an hour, as Polars says it (``4h``, ``1d``, ``1w`` or
            ``1mo``): the table is computed, replaced and judged by whole buckets, whichever days are asked for.
        is_known_since_first: a row of several records says whence and when the first of them came that states the same,
            and not the last. What they state is the newest arrival's either way, of each column the newest that says
            anything.
    """

    zone: Zone
    name: str
    group: str
    cadence: str
    write: Write
    partition_by: tuple[str, ...] = ("date",)
    sort_by: tuple[str, ...] = ()
    retention: str = "for ever"
    owner: str = "team:market-data"
    clock: str | None = None
    span: tuple[str, str] | None = None
    batch: Literal["day", "month"] | None = None
    bucket: str | None = None
    is_known_since_first: bool = False

    @property
    def full_name(self) -> str:
        return f"{self.zone}.{self.name}"

    @property
    def path(self) -> tuple[str, str]:
        return (str(self.zone), self.name)

    @property
    def period(self) -> str | None:
        """``month`` or ``year`` where that is a partition: such tables are read, computed and judged by the month."""
        return next((name for name in PERIODS if name in self.partition_by), None)


class Contract(dy.Schema):
    """Base of all contracts: a dataframely schema with a ``table``; its docstring describes the table."""

    table: ClassVar[Table]


@dataclass(frozen=True)
class Field:
    """One column, as its contract declares it. ``sources`` are ``zone.table.column`` names it is computed from."""

    name: str
    dtype: pl.DataType
    nullable: bool
    is_key: bool
    description: str
    unit: str
    kind: Kind
    sources: tuple[str, ...]
    is_rounded: bool


MONEY = pl.Decimal(38, 18)
UTC_TIME = pl.Datetime("us", "UTC")


def _facts(unit: str, kind: Kind, sources: str | Sequence[str], rounded: bool = False) -> dict[str, Any]:
    named = (sources,) if isinstance(sources, str) else tuple(sources)
    return {"unit": unit, "kind": kind, "sources": named, "rounded": rounded}


# Ids become parts of paths and requests: nothing that means something there may be in one.
SLUG = r"^[a-z0-9][a-z0-9._-]{0,63}$"
# Currencies are called são-tomé-and-príncipe-dobra-(pre-2018): letters of any script, but nothing of a path either.
CURRENCY_SLUG = r"^[\p{L}\p{N}][\p{L}\p{N}().'-]{0,127}$"


def key(description: str, *, sources: str | Sequence[str] = ()) -> dy.String:
    """A text column of the primary key."""
    return dy.String(primary_key=True, min_length=1, description=description, metadata=_facts("1", Kind.KEY, sources))


def slug(description: str, *, pattern: str = SLUG, sources: str | Sequence[str] = ()) -> dy.String:
    """An id in the primary key, of the characters that ``pattern`` admits."""
    return dy.String(primary_key=True, regex=pattern, description=description, metadata=_facts("1", Kind.KEY, sources))


def text(
    description: str,
    *,
    nullable: bool = False,
    kind: Kind = Kind.ATTRIBUTE,
    sources: str | Sequence[str] = (),
) -> dy.String:
    """A text column."""
    return dy.String(nullable=nullable, description=description, metadata=_facts("1", kind, sources))


def clock(
    description: str, *, primary_key: bool = False, nullable: bool = False, sources: str | Sequence[str] = ()
) -> dy.Datetime:
    """A UTC time with millisecond values: Athena shows no finer, and the Delta log's statistics hold no finer."""
    return dy.Datetime(
        time_zone="UTC",
        time_unit="us",
        resolution="1ms",
        nullable=nullable,
        primary_key=primary_key,
        description=description,
        metadata=_facts("UTC", Kind.CLOCK, sources),
    )


def day(description: str = "UTC day of observed_at; the partition.", *, primary_key: bool = False) -> dy.Date:
    """A UTC calendar day."""
    return dy.Date(primary_key=primary_key, description=description, metadata=_facts("UTC", Kind.CLOCK, ()))


def period(description: str) -> dy.Date:
    """The first day of a UTC month or year, as a partition of a long table."""
    return dy.Date(description=description, metadata=_facts("UTC", Kind.CLOCK, ()))


def money(
    description: str,
    *,
    unit: str = "USD",
    kind: Kind = Kind.INSTANT,
    nullable: bool = False,
    low: Decimal | int | None = 0,
    high: Decimal | int | None = None,
    rounded: bool = False,
    sources: str | Sequence[str] = (),
) -> dy.Decimal:
    """An exact decimal number with 20 integer and 18 fractional digits.

    ``rounded`` admits values with more than 18 fractional digits (a provider's printed doubles) and rounds them;
    elsewhere such a value rejects its row, because it could not be stored as it was sent.
    """
    return dy.Decimal(
        38,
        18,
        nullable=nullable,
        min=low,
        max=high,
        description=description,
        metadata=_facts(unit, kind, sources, rounded),
    )


def number(
    description: str,
    *,
    unit: str,
    kind: Kind = Kind.RATIO,
    nullable: bool = False,
    low: float | None = None,
    high: float | None = None,
    sources: str | Sequence[str] = (),
) -> dy.Float64:
    """A statistic in double precision; never NaN or infinite (null means unknown)."""
    return dy.Float64(
        nullable=nullable, min=low, max=high, description=description, metadata=_facts(unit, kind, sources)
    )


def count(
    description: str,
    *,
    unit: str = "1",
    kind: Kind = Kind.INSTANT,
    nullable: bool = False,
    primary_key: bool = False,
    low: int | None = 0,
    wide: bool = False,
    sources: str | Sequence[str] = (),
) -> dy.Int32 | dy.Int64:
    """A whole number, 32 bits unless ``wide``."""
    column = dy.Int64 if wide else dy.Int32
    return column(
        nullable=nullable,
        primary_key=primary_key,
        min=low,
        description=description,
        metadata=_facts(unit, kind, sources),
    )


def flag(description: str, *, nullable: bool = False, sources: str | Sequence[str] = ()) -> dy.Bool:
    """True or false."""
    return dy.Bool(nullable=nullable, description=description, metadata=_facts("1", Kind.ATTRIBUTE, sources))


def content(description: str, *, nullable: bool = False) -> dy.Binary:
    """Bytes, exactly as they came."""
    return dy.Binary(nullable=nullable, description=description, metadata=_facts("bytes", Kind.ATTRIBUTE, ()))


def fields(contract: type[Contract]) -> tuple[Field, ...]:
    """The contract's columns in order."""
    return tuple(
        Field(
            name=name,
            dtype=column.dtype,
            nullable=column.nullable,
            is_key=column.primary_key,
            description=column.description or "",
            unit=(column.metadata or {}).get("unit", ""),
            kind=(column.metadata or {}).get("kind", Kind.ATTRIBUTE),
            sources=(column.metadata or {}).get("sources", ()),
            is_rounded=(column.metadata or {}).get("rounded", False),
        )
        for name, column in contract.columns().items()
    )


def polars_schema(contract: type[Contract]) -> pl.Schema:
    """Column names and exact dtypes, as every frame written to the table must have them."""
    return pl.Schema({field.name: field.dtype for field in fields(contract)})


def primary_key(contract: type[Contract]) -> tuple[str, ...]:
    """The columns that identify a row (the grain)."""
    return tuple(field.name for field in fields(contract) if field.is_key)


def moment(contract: type[Contract]) -> str:
    """The column that says when a row's fact was: the table's clock, else the clock in its key."""
    return contract.table.clock or next(f.name for f in fields(contract) if f.is_key and f.dtype == UTC_TIME)


def description(contract: type[Contract]) -> str:
    """The contract's docstring as one paragraph."""
    return " ".join((contract.__doc__ or "").split())


_DELTA_TYPES: dict[pl.DataType, str] = {
    pl.String(): "string",
    pl.Binary(): "binary",
    pl.Boolean(): "boolean",
    pl.Int32(): "integer",
    pl.Int64(): "long",
    pl.Float64(): "double",
    pl.Date(): "date",
    UTC_TIME: "timestamp",
    MONEY: "decimal(38,18)",
}
_HIVE_TYPES = {"integer": "int", "long": "bigint"}


def delta_type(dtype: pl.DataType) -> str:
    """The Delta type of a contract dtype. Raises KeyError for dtypes that a contract may not use (DESIGN: no
    Categorical, Enum, UInt64, Time, Duration or naive Datetime, which readers understand differently)."""
    return _DELTA_TYPES[dtype]


def hive_type(dtype: pl.DataType) -> str:
    """The Glue and Athena DDL type of a contract dtype."""
    return hive_name(delta_type(dtype))


def hive_name(delta: str) -> str:
    """The same of a Delta type."""
    return _HIVE_TYPES.get(delta, delta)


def delta_schema_json(contract: type[Contract]) -> str:
    """The table's Delta schema as protocol JSON, with column comments.

    Every column is nullable for Delta: nullability is the contract's to check before a write, and a NOT NULL column
    could not be relaxed later without rewriting the table.
    """
    return json.dumps(
        {
            "type": "struct",
            "fields": [
                {
                    "name": field.name,
                    "type": delta_type(field.dtype),
                    "nullable": True,
                    "metadata": {"comment": comment(field)},
                }
                for field in fields(contract)
            ],
        }
    )


def comment(field: Field) -> str:
    """A column's comment for Delta and Glue: what it is, its unit and its measure kind."""
    return f"{field.description} [{field.unit}; {field.kind}]"


def skipping_columns(contract: type[Contract]) -> tuple[str, ...]:
    """Columns whose bounds the Delta log keeps: keys, clocks and doubles, never a Decimal.

    delta-rs writes Decimal bounds as JSON doubles, and readers then skip files that do hold the value.
    """
    return tuple(
        field.name
        for field in fields(contract)
        if field.name not in contract.table.partition_by
        and (field.kind in (Kind.KEY, Kind.CLOCK) or field.dtype == pl.Float64())
    )


def fingerprint(contract: type[Contract]) -> str:
    """Sixteen hex digits that change when names, dtypes, nullability or keys of the table change."""
    facts = [(f.name, str(f.dtype), f.nullable, f.is_key) for f in fields(contract)]
    return hashlib.sha256(json.dumps([contract.table.full_name, facts]).encode()).hexdigest()[:16]
