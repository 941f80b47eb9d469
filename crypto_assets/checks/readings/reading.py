"""How raw answers are read a second time, to check what the parsers made of them.

Readings use Python's own JSON, CSV and decimals, never the code of ``providers/`` that parsed the answers: one slip
must not hide in both. One module a provider lies beside this one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import polars as pl

from crypto_assets.tables.trusted import CLOCK_SKEW, GENESIS

# What a reading may know of an answer besides its body.
ANSWER = (
    *("pull_id", "endpoint", "body", "subject", "request"),
    *("window_start_at", "window_end_at", "observed_at", "ingested_at"),
)
Answer = Mapping[str, Any]


@dataclass(frozen=True)
class Reading:
    """How one raw table's records are found, placed in time and compared.

    Attributes:
        records: the records of an answer, whatever they are.
        moment: the time that a record belongs to.
        decimals: our decimal columns, and the record's field that each is read from.
        found_by: our columns that find a row's record inside its pull.
        key: the same of a record, as text.
        known: the fields that are known of each endpoint's records, so that a new one is noticed.
    """

    records: Callable[[Answer], Iterator[Any]]
    moment: Callable[[Any, Answer], datetime]
    decimals: Mapping[str, str]
    found_by: tuple[str, ...]
    key: Callable[[Mapping[str, Any], Answer], tuple[str | None, ...]]
    known: Mapping[str, frozenset[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class RowReading:
    """The same of a raw table whose rows are records themselves: millions of them, found and counted by Polars.

    Attributes:
        moment: the time that a row belongs to.
        decimals: as of a ``Reading``; what they are compared with is Python's own decimals here too.
        found_by: as of a ``Reading``.
        key: the same of a row, as text.
    """

    moment: pl.Expr
    decimals: Mapping[str, str]
    found_by: tuple[str, ...]
    key: tuple[pl.Expr, ...]


def json_records(answer: Answer) -> Iterator[Any]:
    """The records of an envelope or a bare array, numbers as the text that was sent.

    A body that is no envelope of records holds none; bytes that are no text are replaced, as in quarantine.
    """
    told = json.loads(answer["body"].decode(errors="replace"), parse_float=str, parse_int=str)
    data = told.get("data") if isinstance(told, dict) else told
    if data is not None:
        yield from data if isinstance(data, list) else [data]


def at_the_answer(record: Any, answer: Answer) -> datetime:
    """A record of now belongs to its answer's time."""
    del record
    moment: datetime = answer["observed_at"]
    return moment


def milliseconds(sent: Any) -> int | None:
    """Milliseconds since the epoch, where a whole number was sent: the tables take no other."""
    # Nineteen digits are what 64 bits hold; Python refuses to read some thousands.
    return int(sent) if isinstance(sent, str) and re.fullmatch(r"[+-]?[0-9]{1,19}", sent) else None


def inside(told: int | None, answer: Answer) -> datetime:
    """The moment of these milliseconds, or the start of what was asked for where they are none that can be."""
    opens: datetime = answer["window_start_at"]
    try:
        moment = None if told is None else datetime.fromtimestamp(told / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return opens
    can_be = moment is not None and GENESIS <= moment <= answer["ingested_at"] + CLOCK_SKEW
    return moment if moment is not None and can_be and opens <= moment < answer["window_end_at"] else opens


def text(sent: Any) -> str | None:
    """A JSON value as text: strings and numbers as sent, null as None."""
    return sent if sent is None or isinstance(sent, str) else json.dumps(sent)


def by_fields(*names: str) -> Callable[[Mapping[str, Any], Answer], tuple[str | None, ...]]:
    """The key of a record that its own fields make."""
    return lambda record, _: tuple(text(record.get(name)) for name in names)
