"""Trusted tables against raw: nothing lost, nothing twice, every digit as sent.

How raw is read for it is in ``readings/``, one module a provider. What looks at a table alone is in ``rules.py``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Container, Iterator, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import polars as pl

from crypto_assets.checks.readings import READINGS
from crypto_assets.checks.readings.reading import ANSWER, Reading, RowReading, text
from crypto_assets.checks.verdicts import Case, Finding
from crypto_assets.resources.lake import Lake
from crypto_assets.tables import quality
from crypto_assets.tables.contract import MONEY, Contract, fields, moment, primary_key
from crypto_assets.tables.trusted import RAW_OF
from crypto_assets.tables.window import HOUR, Window

# A rounded column is at most half a unit of its last stored digit away from the provider's text.
HALF_A_UNIT = Decimal("5e-19")
# Seconds of Python's own decimals, and far more than any slip of a parser needs to show.
MOST_COMPARED = 20_000

# A pull, and what finds a record inside it.
_Key = tuple[str | None, ...]


def reconciled(contract: type[Contract]) -> Callable[[Case], Finding]:
    """On every day, raw records = trusted rows + quarantined records + duplicates."""

    def judge(case: Case) -> Finding:
        windows = _settled(case)
        at = pl.col(moment(contract))
        sent: Counter[date] = Counter()
        refused: Counter[date] = Counter()
        for window in windows:
            for source in RAW_OF[contract]:
                sent += count_by_day(source, case.lake.scan(source, window, pinned=True), window)
            held = case.lake.scan(quality.Quarantine, window).filter(table_name=case.contract.table.full_name)
            refused.update(dict(held.group_by("date").len().collect().iter_rows()))
        inside = [at.is_between(pl.lit(w.start), pl.lit(w.end), closed="left") for w in windows]
        kept = (
            case.rows.filter(pl.any_horizontal(inside) if inside else pl.lit(value=False))
            .group_by("date")
            .agg(trusted=pl.len(), duplicates=pl.col("n_duplicates").sum())
        )
        days = pl.DataFrame(
            {
                "date": case.window.days,
                "raw": [sent[day] for day in case.window.days],
                "quarantined": [refused[day] for day in case.window.days],
            }
        )
        counts = days.join(kept, "date", "left").select(
            "date", pl.col("raw", "trusted", "quarantined", "duplicates").cast(pl.Int64).fill_null(0)
        )
        failing = counts.filter(pl.col("raw") != pl.sum_horizontal("trusted", "quarantined", "duplicates"))
        n = (failing if len(failing) else counts).drop("date").sum().row(0, named=True)
        verb = "is not" if len(failing) else "="
        told = f"raw {n['raw']} {verb} trusted {n['trusted']} + quarantined {n['quarantined']}"
        told += f" + duplicates {n['duplicates']}"
        return Finding(failing.is_empty(), told, "nothing lost, nothing twice, on every day", failing)

    return judge


def _settled(case: Case) -> list[Window]:
    """What of the case's window can be compared: of a table that streams fill, what it was computed from."""
    if case.hours:
        return [hour for hour in case.hours if case.window.start <= hour.start < case.window.end]
    if not is_streamed(case.lake, case.contract) or any(map(case.lake.is_pinned, RAW_OF[case.contract])):
        return [case.window]
    until = carried_until(case.lake, case.contract, case.window, case.now)
    return [Window(case.window.start, until)] if case.window.start < until else []


def is_streamed(lake: Lake, contract: type[Contract]) -> bool:
    """Whether a stream has filled a raw table of this one."""
    return any(isinstance(READINGS[source], RowReading) and lake.state(source) for source in RAW_OF[contract])


def carried_until(lake: Lake, contract: type[Contract], window: Window, now: datetime) -> datetime:
    """Up to when a table that streams fill was carried on from raw: the newest hour that it holds, never that of now.

    What streams have delivered since waits for its hour to be over, and is nothing lost.
    """
    newest = lake.scan(contract, window).select(pl.col(moment(contract)).max()).collect().item()
    if newest is None:
        return window.start
    opens: datetime = min(_hour(newest) + HOUR, _hour(now))
    return max(window.start, min(window.end, opens))


def _hour(at: datetime) -> datetime:
    return at.replace(minute=0, second=0, microsecond=0)


def count_by_day(source: type[Contract], answers: pl.LazyFrame, window: Window) -> Counter[date]:
    """How many records the complete good answers, or the rows of a stream, hold for each day of the window."""
    reading = READINGS[source]
    if isinstance(reading, RowReading):
        inside = pl.col("at").is_between(pl.lit(window.start), pl.lit(window.end), closed="left")
        counted = answers.select(at=reading.moment).filter(inside).group_by(pl.col("at").dt.date()).len()
        return Counter(dict(counted.collect().iter_rows()))
    counts: Counter[date] = Counter()
    for answer in _answers(answers):
        moments = (reading.moment(record, answer) for record in reading.records(answer))
        counts.update(told.date() for told in moments if window.start <= told < window.end)
    return counts


def lossless(contract: type[Contract]) -> Callable[[Case], Finding]:
    """The numbers of each entity's newest row of each day equal the raw text: decimals digit by digit, by Python's own
    decimals, and doubles as the nearest one.

    Where an entity is as short-lived as a trade these are too many: ``MOST_COMPARED`` rows then, evenly spread.
    """
    money = [f.name for f in fields(contract) if f.dtype in (MONEY, pl.Float64())]
    rounded = {f.name for f in fields(contract) if f.is_rounded}
    when = moment(contract)
    entity = [name for name in primary_key(contract) if name != when]

    def judge(case: Case) -> Finding:
        newest = case.rows.filter(pl.col(when) == pl.col(when).max().over("date", *entity))
        newest = newest.gather_every(max(1, -(-len(newest) // MOST_COMPARED)))
        n_compared = 0
        differing: list[dict[str, str]] = []
        for source in RAW_OF[contract]:
            reading = READINGS[source]
            columns = {name: reading.decimals[name] for name in money if name in reading.decimals}
            answers = case.lake.scan(source, case.window)
            held = answers.select(pl.col("pull_id").unique()).collect()["pull_id"]
            rows = newest.filter(pl.col("pull_id").is_in(held.implode()))
            # Rows of pulls that no source holds are told by the last one.
            newest = newest.filter(~pl.col("pull_id").is_in(held.implode()))
            rows = pl.concat([rows, newest]) if source is RAW_OF[contract][-1] else rows
            n_compared += len(rows) * len(columns)
            names = dict.fromkeys([*entity, *reading.found_by, *columns])
            stored = [(_key(row, reading), row) for row in rows.select("pull_id", *names).to_dicts()]
            theirs = answers.filter(pl.col("pull_id").is_in(rows["pull_id"].unique().implode()))
            wanted = {key for key, _ in stored}
            if isinstance(reading, RowReading):
                sent = _sent_rows(reading, theirs, wanted)
            else:
                sent = _sent(reading, theirs, wanted)
            for key, row in stored:
                label = "/".join(str(row[part]) for part in entity)
                found = _differences(row, sent.get(key, []), columns, rounded)
                differing += [{"key": label, **difference} for difference in found]
        failing = pl.DataFrame(differing, schema=dict.fromkeys(("key", "column", "stored", "sent"), pl.String))
        told = f"{n_compared} values compared, {len(failing)} differ"
        return Finding(failing.is_empty(), told, "every digit as sent", failing)

    return judge


def _answers(answers: pl.LazyFrame) -> Iterator[Mapping[str, Any]]:
    """The answers whose records count, each once."""
    good = answers.filter(pl.col("n_pages").is_not_null(), pl.col("outcome") == "ok").unique(["pull_id", "page"])
    yield from good.select(ANSWER).collect().iter_rows(named=True)


def _sent(reading: Reading, answers: pl.LazyFrame, wanted: Container[_Key]) -> dict[_Key, list[Mapping[str, Any]]]:
    """The records that were sent, by pull and key; only those that are wanted: a month has too many to hold."""
    sent: dict[_Key, list[Mapping[str, Any]]] = {}
    for answer in _answers(answers):
        for record in reading.records(answer):
            if isinstance(record, dict):
                key = (answer["pull_id"], *reading.key(record, answer))
                if key in wanted:
                    sent.setdefault(key, []).append(record)
    return sent


def _sent_rows(
    reading: RowReading, rows: pl.LazyFrame, wanted: Collection[_Key]
) -> dict[_Key, list[Mapping[str, Any]]]:
    """The same of rows that are records themselves."""
    names = ["pull_id", *(f"key {n}" for n in range(len(reading.key)))]
    keys = pl.LazyFrame(list(wanted), schema=dict.fromkeys(names, pl.String), orient="row")
    found = rows.with_columns(part.alias(name) for name, part in zip(names[1:], reading.key, strict=True))
    sent: dict[_Key, list[Mapping[str, Any]]] = {}
    for row in found.join(keys, names, "semi").collect().iter_rows(named=True):
        sent.setdefault(tuple(row[name] for name in names), []).append(row)
    return sent


def _differences(
    row: Mapping[str, Any], records: list[Mapping[str, Any]], fields_of: Mapping[str, str], rounded: set[str]
) -> Iterator[dict[str, str]]:
    def differing(record: Mapping[str, Any]) -> list[str]:
        return [
            name
            for name, sent in fields_of.items()
            if not _equal(row[name], text(record.get(sent)), is_rounded=name in rounded)
        ]

    # An id may be repeated inside a pull: the row came whole from one of the records.
    tried = [(differing(record), record) for record in records]
    wrong, record = min(tried, key=lambda pair: len(pair[0]), default=(list(fields_of), None))
    for name in wrong:
        told = "no such record" if record is None else _plain(text(record.get(fields_of[name])))
        yield {"column": name, "stored": _plain(row[name]), "sent": told}


def _key(row: Mapping[str, Any], reading: Reading | RowReading) -> _Key:
    """What finds a row's record: its pull, and inside it what the provider's record says itself."""
    return (row["pull_id"], *(_stored_text(row[name]) for name in reading.found_by))


def _stored_text(value: Any) -> str:
    """A key of ours as the provider writes it."""
    return str(round(value.timestamp() * 1000)) if isinstance(value, datetime) else str(value)


def _plain(value: Decimal | str | None) -> str:
    return format(value, "f") if isinstance(value, Decimal) else str(value)


def _equal(stored: Decimal | float | None, sent: str | None, *, is_rounded: bool) -> bool:
    if stored is None or sent is None:
        return stored is None and sent is None
    try:
        if isinstance(stored, float):
            return stored == float(Decimal(sent))
        return abs(stored - Decimal(sent)) <= HALF_A_UNIT if is_rounded else stored == Decimal(sent)
    except ArithmeticError:
        return False
