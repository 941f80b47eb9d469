"""Athena's answers as frames: texts and types of Athena's, values and dtypes of the local engine's.

What belongs here: which dtype an Athena type is, how its text is read, and how arrays, maps and rows are asked for so
that they can be read back: as JSON, with decimals as text in it. Asking is ``athena.py``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from crypto_assets.errors import DataError
from crypto_assets.resources.query import outer_tables

if TYPE_CHECKING:
    from sqlglot import exp

_SAFE: Final = "no table was changed"


@dataclass(frozen=True)
class Column:
    name: str
    kind: str
    precision: int
    scale: int


_PLAIN: Final[Mapping[str, pl.DataType]] = {
    "tinyint": pl.Int8(),
    "smallint": pl.Int16(),
    "integer": pl.Int32(),
    "bigint": pl.Int64(),
    "float": pl.Float32(),
    "real": pl.Float32(),
    "double": pl.Float64(),
}
_MOMENT: Final = "%Y-%m-%d %H:%M:%S%.f"
_MICROSECOND: Final = 26  # signs of a time, as far as its microseconds


def as_text() -> Any:
    """pyathena's values as Athena wrote them: whole columns are converted at once, whichever way they came."""
    from pyathena.converter import Converter

    class AsText(Converter):
        def __init__(self) -> None:
            super().__init__(mappings={})

        def convert(self, type_: str, value: str | None, type_hint: str | None = None) -> str | None:
            return value

    return AsText()


def typed(texts: pl.Series, column: Column, nested: exp.DataType | None) -> pl.Series:
    """A column of texts in its type."""
    try:
        if nested is not None:
            values = [None if text is None else _plain(json.loads(text, parse_float=Decimal), nested) for text in texts]
            return pl.Series(column.name, values, dtype=_dtype(nested), strict=True)
        return _scalars(texts, column)
    except (pl.exceptions.PolarsError, ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"column {column.name} holds what is no {column.kind} ({type(error).__name__})",
            where="athena's answer",
            safe=_SAFE,
            hint="cast the column to varchar to see its values, and report it",
        ) from None


def _scalars(texts: pl.Series, column: Column) -> pl.Series:
    kind = column.kind
    if kind in _PLAIN:
        return texts.cast(_PLAIN[kind])
    if kind == "decimal":
        return texts.cast(pl.Decimal(column.precision, column.scale))
    if kind == "boolean":
        return texts.replace_strict({"true": True, "false": False}, return_dtype=pl.Boolean)
    if kind == "date":
        return texts.str.to_date("%Y-%m-%d")
    if kind == "timestamp":
        return texts.str.slice(0, _MICROSECOND).str.to_datetime(_MOMENT, time_unit="us", time_zone="UTC")
    if kind == "timestamp with time zone":
        if texts.str.ends_with(" UTC").all():
            return _scalars(texts.str.strip_suffix(" UTC"), Column(column.name, "timestamp", 0, 0))
        return pl.Series(texts.name, [_moment(text) for text in texts], dtype=pl.Datetime("us", "UTC"))
    if kind == "time":
        return texts.str.slice(0, 15).str.to_time("%H:%M:%S%.f")
    if kind == "varbinary":
        return texts.str.replace_all(" ", "").str.decode("hex")
    return texts


def _moment(text: str | None) -> datetime | None:
    from pyathena.converter import DefaultTypeConverter

    if text is None:
        return None
    value = DefaultTypeConverter().convert("timestamp with time zone", text)
    return value.astimezone(UTC) if isinstance(value, datetime) else None


def nested_in(
    tree: exp.Expr, names: Mapping[int, str], columns: Mapping[str, Mapping[str, str]]
) -> dict[str, exp.DataType]:
    """The answer's arrays, maps and rows by their names, as far as their types can be told from the tables' columns."""
    from sqlglot import exp
    from sqlglot.errors import SqlglotError
    from sqlglot.optimizer.annotate_types import annotate_types
    from sqlglot.optimizer.qualify import qualify
    from sqlglot.schema import MappingSchema

    if not isinstance(tree, exp.Select) or any(column.is_star for column in tree.expressions):
        return {}
    schema: dict[str, dict[str, dict[str, exp.DataType]]] = {}
    for table in outer_tables(tree):
        zone, bare = names[id(table)].split(".")
        held = {name: exp.DataType.build(kind, dialect="spark") for name, kind in columns[names[id(table)]].items()}
        schema.setdefault(zone, {})[bare] = held
    copy = tree.copy()
    for original, table in zip(outer_tables(tree), outer_tables(copy), strict=True):
        zone, bare = names[id(original)].split(".")
        table.set("catalog", None)
        table.set("db", exp.to_identifier(zone))
        table.set("this", exp.to_identifier(bare))
    try:
        known: Any = MappingSchema(dict(schema), dialect="trino")
        qualified = qualify(copy, schema=known, dialect="trino", validate_qualify_columns=False)
        typed = annotate_types(qualified, schema=known, dialect="trino")
    except (SqlglotError, RecursionError):
        return {}  # what is wrong with it, Athena says
    found = {}
    for i, (column, told) in enumerate(zip(tree.expressions, typed.expressions, strict=False)):
        kind = _kind(told.unalias())
        if kind is not None and kind.is_type(*exp.DataType.NESTED_TYPES) and _dtype(kind) is not None:
            found[heading(column, i)] = kind
    return found


def heading(column: exp.Expr, place: int) -> str:
    """What Athena calls a column of the answer."""
    from sqlglot import exp

    return column.alias_or_name if isinstance(column, exp.Alias | exp.Column) else f"_col{place}"


def without_decimals(kind: exp.DataType) -> exp.DataType:
    from sqlglot import exp

    types = exp.DataType.Type
    return kind.transform(
        lambda node: exp.DataType(this=types.VARCHAR) if getattr(node, "this", None) == types.DECIMAL else node
    )


def _kind(value: exp.Expr) -> exp.DataType | None:
    """The type that was found for a value; of ``map_agg`` too, which the parser knows only by name."""
    from sqlglot import exp

    inner = [part.type for part in value.expressions]
    if isinstance(value, exp.Anonymous) and value.name.lower() == "map_agg" and None not in inner:
        return exp.DataType(this=exp.DataType.Type.MAP, expressions=inner, nested=True)
    return value.type


def _dtype(kind: exp.DataType) -> pl.DataType | None:
    """The local engine's type for Athena's; None where it cannot be told."""
    from sqlglot import exp

    types = exp.DataType.Type
    plain: Mapping[Any, pl.DataType] = {
        types.BOOLEAN: pl.Boolean(),
        types.TINYINT: pl.Int8(),
        types.SMALLINT: pl.Int16(),
        types.INT: pl.Int32(),
        types.BIGINT: pl.Int64(),
        types.FLOAT: pl.Float32(),
        types.DOUBLE: pl.Float64(),
        types.VARCHAR: pl.String(),
        types.TEXT: pl.String(),
        types.CHAR: pl.String(),
        types.DATE: pl.Date(),
        types.TIMESTAMP: pl.Datetime("us", "UTC"),
        types.TIMESTAMPTZ: pl.Datetime("us", "UTC"),
    }
    if kind.this == types.DECIMAL and len(kind.expressions) == 2:
        return pl.Decimal(*(int(size.name) for size in kind.expressions))
    parts = [_dtype(part) for part in _parts(kind).values()]
    if not parts or None in parts:
        return plain.get(kind.this)
    if kind.this in {types.ARRAY, types.LIST}:
        return pl.List(parts[0])  # type: ignore[arg-type]
    if kind.this == types.MAP:
        return pl.Map(*parts)  # type: ignore[arg-type]
    return pl.Struct(dict(zip(_parts(kind), parts, strict=True)))  # type: ignore[arg-type]


def _parts(kind: exp.DataType) -> dict[str, exp.DataType]:
    """The types within an array (``element``), a map (``key``, ``value``) or a row (its fields)."""
    from sqlglot import exp

    types = exp.DataType.Type
    inner = kind.expressions
    if kind.this in {types.ARRAY, types.LIST} and len(inner) == 1:
        return {"element": inner[0]}
    if kind.this == types.MAP and len(inner) == 2:
        return {"key": inner[0], "value": inner[1]}
    if kind.this == types.STRUCT and all(isinstance(part, exp.ColumnDef) and part.kind for part in inner):
        return {part.name: part.kind for part in inner}
    return {}


def _plain(value: Any, kind: exp.DataType) -> Any:
    """A value out of JSON in the Python type of its own."""
    from sqlglot import exp

    types, parts = exp.DataType.Type, _parts(kind)
    if value is None:
        return None
    if "element" in parts:
        return [_plain(item, parts["element"]) for item in value]
    if kind.this == types.MAP:
        return {_plain(key, parts["key"]): _plain(item, parts["value"]) for key, item in value.items()}
    if parts:
        fields = value if isinstance(value, dict) else dict(zip(parts, value, strict=True))
        return {name: _plain(fields[name], part) for name, part in parts.items()}
    if kind.this in {types.TIMESTAMP, types.TIMESTAMPTZ}:
        moment = datetime.fromisoformat(value.replace(" UTC", "+00:00"))
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    if kind.this == types.DATE:
        return date.fromisoformat(value)
    if kind.this == types.DECIMAL:
        return Decimal(value)
    if kind.this in {types.FLOAT, types.DOUBLE}:
        return float(value)
    # A map's keys are text in JSON.
    return int(value) if isinstance(_dtype(kind), pl.Int8 | pl.Int16 | pl.Int32 | pl.Int64) else value
