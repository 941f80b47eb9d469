"""Trusted tables against raw: nothing lost, nothing twice, every digit as sent.

Raw bodies are read here with Python's own JSON parser and decimals, never with the code that parsed them: one slip must
not hide in both. Checks that look at a table alone are in ``rules.py``.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import polars as pl

from crypto_assets.checks.verdicts import Case, Finding
from crypto_assets.providers import coincap
from crypto_assets.tables import quality, raw, trusted
from crypto_assets.tables.contract import MONEY, fields, primary_key
from crypto_assets.tables.window import Window

# A rounded column is at most half a unit of its last stored digit away from the provider's text.
HALF_A_UNIT = Decimal("5e-19")

# How a trusted row is found again in its pull: our column, and the fields that it is read from, by preference.
_FOUND_BY: Mapping[type[raw.RawAnswers], Mapping[str, tuple[str, ...]]] = {
    raw.RawCoincapAssets: {"provider_asset_id": ("id",)},
    # Answers of 2018 call the id ``id``.
    raw.RawCoincapExchanges: {"exchange_id": ("exchangeId", "id")},
    raw.RawCoincapMarkets: {"exchange_id": ("exchangeId",), "base_id": ("baseId",), "quote_id": ("quoteId",)},
    raw.RawCoincapRates: {"currency_id": ("id",)},
    raw.RawCoincapHistory: {"observed_at": ("time",)},
}
_FIELDS: Mapping[type[raw.RawAnswers], Mapping[str, str]] = {
    raw.RawCoincapAssets: coincap.ASSET_FIELDS,
    raw.RawCoincapExchanges: coincap.EXCHANGE_FIELDS,
    raw.RawCoincapMarkets: coincap.MARKET_FIELDS,
    raw.RawCoincapRates: coincap.RATE_FIELDS,
    raw.RawCoincapHistory: coincap.HISTORY_FIELDS,
}
_RENAMED = ("base_id", "quote_id")


def reconciled(source: type[raw.RawAnswers], time_field: str | None) -> Callable[[Case], Finding]:
    """On every day, raw records = trusted rows + quarantined records + duplicates."""

    def judge(case: Case) -> Finding:
        sent = count_by_day(case.lake.scan(source, case.window).collect(), case.window, time_field)
        kept = case.rows.group_by("date").agg(trusted=pl.len(), duplicates=pl.col("n_duplicates").sum())
        refused = (
            case.lake.scan(quality.Quarantine, case.window)
            .filter(table_name=case.contract.table.full_name)
            .group_by("date")
            .agg(quarantined=pl.len())
            .collect()
        )
        days = pl.DataFrame({"date": case.window.days, "raw": [sent[day] for day in case.window.days]})
        counts = (
            days.join(kept, "date", "left")
            .join(refused, "date", "left")
            .select("date", pl.col("raw", "trusted", "quarantined", "duplicates").cast(pl.Int64).fill_null(0))
        )
        failing = counts.filter(pl.col("raw") != pl.sum_horizontal("trusted", "quarantined", "duplicates"))
        n = (failing if len(failing) else counts).drop("date").sum().row(0, named=True)
        verb = "is not" if len(failing) else "="
        told = f"raw {n['raw']} {verb} trusted {n['trusted']} + quarantined {n['quarantined']}"
        told += f" + duplicates {n['duplicates']}"
        return Finding(failing.is_empty(), told, "nothing lost, nothing twice, on every day", failing)

    return judge


def count_records(answers: pl.DataFrame, window: Window, time_field: str | None) -> int:
    """How many records the complete good answers hold for the window."""
    return sum(count_by_day(answers, window, time_field).values())


def count_by_day(answers: pl.DataFrame, window: Window, time_field: str | None) -> Counter[date]:
    """How many records the complete good answers hold for each day of the window, counted with only a JSON parser.

    A record with a ``time_field`` belongs to the time that it names, or to its answer's start where it names none that
    can be or one outside the answer's window; other records belong to their answer's time.
    """
    counts: Counter[date] = Counter()
    columns = ("body", "window_start_at", "window_end_at", "observed_at", "ingested_at")
    for body, opens, closes, observed, arrived in _good(answers.lazy()).select(columns).collect().rows():
        for record in _records(body):
            moment = _moment(record, time_field, opens, arrived) if time_field else observed
            moment = moment if not time_field or opens <= moment < closes else opens
            counts[moment.date()] += window.start <= moment < window.end
    return counts


def lossless(source: type[raw.RawAnswers]) -> Callable[[Case], Finding]:
    """The decimals of each entity's newest row of each day equal the raw text, by Python's own decimals."""
    contract = trusted.BY_RAW[source]
    sent_as = {f.name: _FIELDS[source][f.name] for f in fields(contract) if f.dtype == MONEY}
    rounded = {f.name for f in fields(contract) if f.is_rounded}
    found_by = _FOUND_BY[source]
    entity = [name for name in primary_key(contract) if name != "observed_at"]

    def differences(row: Mapping[str, Any], record: Mapping[str, Any]) -> list[str]:
        return [
            column
            for column, field in sent_as.items()
            if not _equal(row[column], _text(record.get(field)), is_rounded=column in rounded)
        ]

    def judge(case: Case) -> Finding:
        newest = case.rows.filter(pl.col("observed_at") == pl.col("observed_at").max().over("date", *entity))
        newest = newest.select("pull_id", *dict.fromkeys([*entity, *found_by]), *sent_as)
        pulls = newest["pull_id"].unique().to_list()
        answers = _good(case.lake.scan(source, case.window).filter(pl.col("pull_id").is_in(pulls)))
        sent: dict[tuple[str | None, ...], list[dict[str, Any]]] = {}
        for pull_id, body in answers.select("pull_id", "body").collect().rows():
            for record in _records(body):
                if isinstance(record, dict):
                    sent.setdefault((pull_id, *_sent_key(record, found_by)), []).append(record)
        differing: list[dict[str, str]] = []
        for row in newest.iter_rows(named=True):
            records = sent.get((row["pull_id"], *(_stored_text(row[name]) for name in found_by)), [])
            # An id may be repeated inside a pull: the row came whole from one of the records.
            tried = [(differences(row, record), record) for record in records]
            columns, record = min(tried, key=lambda pair: len(pair[0]), default=(list(sent_as), None))
            differing += [
                {
                    "key": "/".join(row[name] for name in entity),
                    "column": column,
                    "stored": _plain(row[column]),
                    "sent": "no such record" if record is None else _plain(_text(record.get(sent_as[column]))),
                }
                for column in columns
            ]
        failing = pl.DataFrame(differing, schema=dict.fromkeys(("key", "column", "stored", "sent"), pl.String))
        told = f"{len(newest) * len(sent_as)} values compared, {len(failing)} differ"
        return Finding(failing.is_empty(), told, "every digit as sent", failing)

    return judge


def _good(answers: pl.LazyFrame) -> pl.LazyFrame:
    """The answers whose records count, each once."""
    return answers.filter(pl.col("n_pages").is_not_null(), pl.col("outcome") == "ok").unique(["pull_id", "page"])


def _records(body: bytes) -> Iterator[Any]:
    """The records of an answer, whatever they are: of an envelope or a bare array, numbers as the text that was sent.

    A body that is no envelope of records holds none; bytes that are no text are replaced, as in quarantine.
    """
    told = json.loads(body.decode(errors="replace"), parse_float=str, parse_int=str)
    data = told.get("data") if isinstance(told, dict) else told
    if data is not None:
        yield from data if isinstance(data, list) else [data]


def _moment(record: Any, field: str, fallback: datetime, arrived: datetime) -> datetime:
    told = _milliseconds(record.get(field)) if isinstance(record, dict) else None
    try:
        moment = None if told is None else datetime.fromtimestamp(told / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return fallback
    can_be = moment is not None and trusted.GENESIS <= moment <= arrived + trusted.CLOCK_SKEW
    return moment if moment is not None and can_be else fallback


def _milliseconds(sent: Any) -> int | None:
    """Milliseconds since the epoch, where a whole number was sent: the tables take no other."""
    # Nineteen digits are what 64 bits hold; Python refuses to read some thousands.
    return int(sent) if isinstance(sent, str) and re.fullmatch(r"[+-]?[0-9]{1,19}", sent) else None


def _sent_key(record: Mapping[str, Any], found_by: Mapping[str, tuple[str, ...]]) -> tuple[str | None, ...]:
    key = []
    for column, names in found_by.items():
        told = next((text for name in names if (text := _text(record.get(name))) is not None), None)
        if column == "observed_at":
            told = _text(_milliseconds(told))
        key.append(coincap.RENAMED_IDS.get(told, told) if told is not None and column in _RENAMED else told)
    return tuple(key)


def _stored_text(value: Any) -> str:
    """A key of ours as the provider writes it."""
    return str(round(value.timestamp() * 1000)) if isinstance(value, datetime) else str(value)


def _text(sent: Any) -> str | None:
    """A JSON value as text: strings and numbers as sent, null as None."""
    return sent if sent is None or isinstance(sent, str) else json.dumps(sent)


def _plain(value: Decimal | str | None) -> str:
    return format(value, "f") if isinstance(value, Decimal) else str(value)


def _equal(stored: Decimal | None, sent: str | None, *, is_rounded: bool) -> bool:
    if stored is None or sent is None:
        return stored is None and sent is None
    try:
        return abs(stored - Decimal(sent)) <= HALF_A_UNIT if is_rounded else stored == Decimal(sent)
    except ArithmeticError:
        return False
