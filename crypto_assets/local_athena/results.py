"""A frame as Athena gives it: types, values, the CSV and its ``.metadata``.

Values are text. A ``double`` is written as Java does (``1.0E10``), a timestamp with three digits of a second and its
zone, an array ``[1, 2]``, a map ``{k=v}``, a row ``{a=1, b=x}``, bytes as ``01 ff``; a null is a missing value in the
API, an empty field in the CSV (an empty text is ``""``) and ``null`` within an array. A map's entries are in the order
of their keys.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import polars as pl

Row = tuple[str | None, ...]

_ANY_LENGTH: Final = 2_147_483_647
_BYTES_LENGTH: Final = 1_073_741_824
# Athena's type, precision and scale by the frame's type.
_SCALARS: Final[dict[pl.DataType, tuple[str, int, int]]] = {
    pl.Boolean(): ("boolean", 0, 0),
    pl.Int8(): ("tinyint", 3, 0),
    pl.Int16(): ("smallint", 5, 0),
    pl.UInt8(): ("smallint", 5, 0),
    pl.Int32(): ("integer", 10, 0),
    pl.UInt16(): ("integer", 10, 0),
    pl.Int64(): ("bigint", 19, 0),
    pl.UInt32(): ("bigint", 19, 0),
    pl.UInt64(): ("bigint", 19, 0),
    pl.Float32(): ("float", 17, 0),
    pl.Float64(): ("double", 17, 0),
    pl.String(): ("varchar", _ANY_LENGTH, 0),
    pl.Binary(): ("varbinary", _BYTES_LENGTH, 0),
    pl.Date(): ("date", 0, 0),
    pl.Time(): ("time", 3, 0),
    pl.Null(): ("unknown", 0, 0),
}


@dataclass(frozen=True)
class Column:
    """A column of an answer: its name, and its type as ``ResultSetMetadata`` tells it."""

    name: str
    type: str
    precision: int = 0
    scale: int = 0

    def body(self) -> dict[str, Any]:
        return {
            "CatalogName": "hive",
            "SchemaName": "",
            "TableName": "",
            "Name": self.name,
            "Label": self.name,
            "Type": self.type,
            "Precision": self.precision,
            "Scale": self.scale,
            "Nullable": "UNKNOWN",
            "CaseSensitive": self.type in {"varchar", "char"},
        }


@dataclass(frozen=True)
class Answer:
    """What a statement gave: columns, rows of text, and whether the rows are a SELECT's (header, CSV) or a DDL's."""

    columns: tuple[Column, ...] = ()
    rows: tuple[Row, ...] = ()
    is_select: bool = False
    bytes_scanned: int = 0
    planning_ms: int = 0

    def file(self) -> bytes:
        """The object at OutputLocation: CSV with a header of a SELECT, the bare lines of anything else."""
        if self.is_select:
            lines = [_csv_line([column.name for column in self.columns]), *map(_csv_line, self.rows)]
            return "".join(lines).encode()
        return "\n".join("\t".join(value or "" for value in row) for row in self.rows).encode()

    def metadata(self, query_id: str) -> bytes:
        """The object beside it, in protobuf: the query's id, then one message a column.

        AWS publishes no schema; the numbers of the fields are those that the burtcorp/athena-jdbc driver reads.
        """
        columns = [
            _field(1, "hive")
            + _field(4, column.name)
            + _field(5, column.name)
            + _field(6, column.type)
            + _field(7, column.precision)
            + _field(8, column.scale)
            + _field(9, _NULLABLE_UNKNOWN)
            + _field(10, int(column.type in {"varchar", "char"}))
            for column in self.columns
        ]
        return _field(1, query_id) + b"".join(_field(4, column) for column in columns)

    def page(self, start: int, size: int) -> tuple[list[dict[str, Any]], int | None]:
        """At most ``size`` rows from ``start``, and where the next page starts; a SELECT's row 0 is its header."""
        header: Sequence[Row] = [tuple(column.name for column in self.columns)] if self.is_select else []
        n_rows = len(header) + len(self.rows)
        stop = min(start + size, n_rows)
        shown = [*header, *self.rows[: stop - len(header)]][start:] if start == 0 else self._body(start, stop)
        rows = [{"Data": [{} if value is None else {"VarCharValue": value} for value in row]} for row in shown]
        return rows, stop if stop < n_rows else None

    def _body(self, start: int, stop: int) -> Sequence[Row]:
        shift = int(self.is_select)
        return self.rows[start - shift : stop - shift]


_NULLABLE_UNKNOWN: Final = 3


def selected(frame: pl.DataFrame) -> Answer:
    """A SELECT's answer in Athena's types and values."""
    columns = tuple(_column(name, dtype) for name, dtype in frame.schema.items())
    texts = [_texts(frame.get_column(name)) for name in frame.columns]
    return Answer(columns, tuple(zip(*texts, strict=True)) if texts else (), is_select=True)


def _column(name: str, dtype: pl.DataType) -> Column:
    return Column(name, *_athena_type(dtype))


def _athena_type(dtype: pl.DataType) -> tuple[str, int, int]:
    if isinstance(dtype, pl.Decimal):
        return "decimal", dtype.precision or 38, dtype.scale
    if isinstance(dtype, pl.Datetime):
        return "timestamp with time zone" if dtype.time_zone else "timestamp", 3, 0
    if isinstance(dtype, (pl.List, pl.Array)):
        return "array", 0, 0
    if isinstance(dtype, pl.Map):
        return "map", 0, 0
    if isinstance(dtype, pl.Struct):
        return "row", 0, 0
    return _SCALARS[dtype]


def _texts(series: pl.Series) -> list[str | None]:
    dtype = series.dtype
    if isinstance(dtype, (pl.Boolean, pl.Date, pl.Decimal, pl.String)) or dtype.is_integer():
        return series.cast(pl.String).to_list()
    write = _writer(dtype)
    return [None if value is None else write(value) for value in series.to_list()]


def _writer(dtype: pl.DataType) -> Callable[[Any], str]:
    """How a value of the type is written, nulls left out."""
    if dtype == pl.Float64():
        return java_double
    if dtype == pl.Float32():
        return _java_float
    if isinstance(dtype, pl.Datetime):
        zone = " UTC" if dtype.time_zone else ""
        return lambda value: f"{_clock(value)}{zone}"
    if isinstance(dtype, pl.Map):
        key, value_of = _nested(dtype.key), _nested(dtype.value)
        return lambda entries: _braced(f"{key(k)}={value_of(entries[k])}" for k in sorted(entries))
    if isinstance(dtype, (pl.List, pl.Array)):
        inner: Any = dtype.inner
        item = _nested(inner)
        return lambda values: "[" + ", ".join(map(item, values)) + "]"
    if isinstance(dtype, pl.Struct):
        if [field.name for field in dtype.fields] == [f"_{i}" for i in range(len(dtype.fields))]:  # row(1, 'x')
            unnamed = [(field.name, _nested(field.dtype)) for field in dtype.fields]
            return lambda row: _braced(write(row[name]) for name, write in unnamed)
        members = [(field.name, _nested(field.dtype)) for field in dtype.fields]
        return lambda row: _braced(f"{name}={write(row[name])}" for name, write in members)
    if isinstance(dtype, pl.Binary):
        return lambda value: value.hex(" ")
    if isinstance(dtype, pl.Boolean):
        return lambda value: "true" if value else "false"
    if isinstance(dtype, pl.Time):
        return lambda value: value.isoformat("milliseconds")
    return str if not isinstance(dtype, pl.Decimal) else _plain_decimal


def _nested(dtype: Any) -> Callable[[Any], str]:
    write = _writer(dtype)
    return lambda value: "null" if value is None else write(value)


def _braced(parts: Iterable[str]) -> str:
    return "{" + ", ".join(parts) + "}"


def _plain_decimal(value: Decimal) -> str:
    return f"{value:f}"


def _clock(value: dt.datetime) -> str:
    return value.replace(tzinfo=None).isoformat(" ", "milliseconds")


def java_double(value: float) -> str:
    """A double as Java writes it: ``1.5``, ``1.0E10``, ``1.0E-4``, ``NaN``, ``-Infinity``."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return _java(repr(value), value)


def _java_float(value: float) -> str:
    import numpy as np

    return java_double(value) if not math.isfinite(value) else _java(str(np.float32(value)), value)


def _java(shortest: str, value: float) -> str:
    if value == 0 or 1e-3 <= abs(value) < 1e7:
        plain = f"{Decimal(shortest):f}"
        return plain if "." in plain else f"{plain}.0"
    sign, digits, exponent = Decimal(shortest).as_tuple()
    text = "".join(map(str, digits)).rstrip("0") or "0"
    power = len(digits) - 1 + int(exponent)
    return f"{'-' if sign else ''}{text[0]}.{text[1:] or '0'}E{power}"


def _csv_line(values: Sequence[str | None]) -> str:
    return ",".join("" if value is None else '"' + value.replace('"', '""') + '"' for value in values) + "\n"


def _field(number: int, value: str | bytes | int) -> bytes:
    """A field of protobuf's wire format: a varint, or bytes with their length."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    content = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
