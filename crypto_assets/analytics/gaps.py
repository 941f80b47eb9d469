"""What is missing on a time spine, why, and what has become of it since.

A gap is an interval of consecutive missing times of one key (a market and interval, an asset). Its row on the ledger
keeps its bounds for ever: what is filled in between lowers ``n_missing``, and the last filled time closes it. What is
missing and lies in no row yet becomes rows of its own.

Causes are read from the answers in raw, never guessed: where an answer covers the gap and lacks the rows, the source
has none; where no answer covers it, nobody asked, or the one who was asked refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from crypto_assets.tables.contract import UTC_TIME, polars_schema
from crypto_assets.tables.quality import GapLedger
from crypto_assets.tables.window import Window, joined

# A repair asks every source once; three times is patience with an outage, more is a waste of somebody's quota.
MAX_ATTEMPTS = 3
OPEN = ("open", "queued")
# How the last bad answer is called on the ledger.
_CAUSES = {"rate_limited": "rate_limited", "quota_exhausted": "rate_limited"}


@dataclass(frozen=True)
class Evidence:
    """What is known besides the gap itself.

    Attributes:
        answers: key, source (raw table), window_start_at, window_end_at, outcome, detail, is_complete, ingested_at.
        first, last: the first and last time that each key ever had, by key.
        silent: the times at which no key of the key's group (its venue) has a row, by group; a group of one is none.
        group: the group of a key.
        sources: the raw tables that can be asked for a key, cheapest first.
        refused: key, moment of records that were stated and quarantined.
    """

    answers: pl.DataFrame
    first: Mapping[str, datetime]
    last: Mapping[str, datetime]
    silent: Mapping[str, frozenset[datetime]]
    group: Mapping[str, str]
    sources: Mapping[str, Sequence[str]]
    refused: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema={"key": pl.String, "moment": UTC_TIME}))


@dataclass(frozen=True)
class Verdict:
    """Why a gap is there, and whether asking again could fill it."""

    cause: str
    detail: str
    is_repairable: bool


def missing(keys: Sequence[str], held: pl.DataFrame, window: Window, every: timedelta) -> pl.DataFrame:
    """The times of the spine that are not held: ``key, moment``, in order. ``held`` has the same columns."""
    spine = pl.datetime_range(window.start, window.end, every, closed="left", time_unit="us", eager=True)
    expected = pl.DataFrame({"key": sorted(keys)}, schema={"key": pl.String}).join(
        spine.alias("moment").to_frame(), how="cross"
    )
    return expected.join(held.select("key", "moment"), ["key", "moment"], "anti").sort("key", "moment")


def intervals(moments: pl.DataFrame, every: timedelta) -> pl.DataFrame:
    """Consecutive missing times as ``key, gap_start_at, gap_end_at, n_missing``."""
    begins = (pl.col("moment").diff() != every).fill_null(value=True) | (pl.col("key") != pl.col("key").shift(1))
    return (
        moments.sort("key", "moment")
        .with_columns(run=begins.fill_null(value=True).cum_sum())
        .group_by("run", maintain_order=True)
        .agg(
            pl.col("key").first(),
            gap_start_at=pl.col("moment").first(),
            gap_end_at=pl.col("moment").last() + every,
            n_missing=pl.len().cast(pl.Int64),
        )
        .drop("run")
    )


def ledger(
    table_name: str, known: pl.DataFrame, moments: pl.DataFrame, *, every: timedelta, evidence: Evidence, now: datetime
) -> pl.DataFrame:
    """The ledger's rows that are new or changed.

    Args:
        table_name: the table with the gaps.
        known: the table's rows on the ledger that overlap the time looked at; ``moments`` must cover all of each.
        moments: what is missing (``missing``).
        every: the spine's step.
        now: our clock.
    """
    placed = _placed(known, moments)
    still = dict(placed.filter(pl.col("row").is_not_null()).group_by("row").len().iter_rows())
    rows = [
        _followed(row, still.get(number, 0), evidence, every, now)
        for number, row in enumerate(known.sort("key", "gap_start_at").iter_rows(named=True))
    ]
    for gap in intervals(placed.filter(pl.col("row").is_null()).select("key", "moment"), every).iter_rows(named=True):
        told = explain(gap, evidence, every)
        rows.append(
            {
                **gap,
                "table_name": table_name,
                "cause": told.cause,
                "state": "open" if told.is_repairable else "unrecoverable",
                "detail": told.detail,
                "attempts": 0,
                "run_id": None,
                "detected_at": now,
                "closed_at": None if told.is_repairable else now,
                "date": gap["gap_start_at"].date(),
            }
        )
    made = pl.DataFrame(rows, schema=polars_schema(GapLedger))
    return made.with_columns(pl.col(UTC_TIME).dt.truncate("1ms")).join(
        known, on=made.columns, how="anti", nulls_equal=True
    )


def holes(
    table_name: str, known: pl.DataFrame, stated: pl.DataFrame, answers: pl.DataFrame, now: datetime
) -> pl.DataFrame:
    """The ledger's rows, new or changed, of a table without a spine: of the times that a stream says it did not hear.

    Nobody knows how many rows are missing: ``n_missing`` is the seconds that no answer covers. A hole is repaired where
    answers cover all of it, be it that nothing was traded, and lost where the venue no longer has a part of it.

    Args:
        table_name: the table with the gaps.
        known: the table's rows on the ledger.
        stated: ``key, start, end, cause, detail`` of what streams missed.
        answers: as of ``Evidence``, about all of these times.
        now: our clock.
    """
    held = {(row["key"], row["gap_start_at"]): row for row in known.iter_rows(named=True)}
    for hole in stated.sort("key", "start", "end").iter_rows(named=True):
        place = hole["key"], hole["start"]
        before = held.get(place)
        if before is None or hole["end"] > before["gap_end_at"]:
            # Two streams may begin to miss one market at one moment: the longer hole is the one.
            held[place] = _hole(table_name, hole, now) | ({"detected_at": before["detected_at"]} if before else {})
    rows = [_heard(row, answers.filter(pl.col("key") == key), now) for (key, _), row in sorted(held.items())]
    made = pl.DataFrame(rows, schema=polars_schema(GapLedger)).with_columns(pl.col(UTC_TIME).dt.truncate("1ms"))
    return made.join(known, on=made.columns, how="anti", nulls_equal=True)


def _hole(table_name: str, hole: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    return {
        "table_name": table_name,
        "key": hole["key"],
        "gap_start_at": hole["start"],
        "gap_end_at": hole["end"],
        "n_missing": 0,
        "cause": hole["cause"],
        "state": "open",
        "detail": hole["detail"],
        "attempts": 0,
        "run_id": None,
        "detected_at": now,
        "closed_at": None,
        "date": hole["start"].date(),
    }


def _heard(row: Mapping[str, Any], answers: pl.DataFrame, now: datetime) -> dict[str, Any]:
    """A hole as it is now, by the answers about its market."""
    start, end = row["gap_start_at"], row["gap_end_at"]
    told = answers.filter(pl.col("window_start_at") < end, pl.col("window_end_at") > start)
    spans = covered(told.filter(pl.col("outcome").is_in(["ok", "empty"])))
    heard = sum((min(span.end, end) - max(span.start, start) for span in spans), timedelta(0))
    n_missing = -(-(end - start - heard) // timedelta(seconds=1))
    if row["state"] not in OPEN:
        return dict(row)
    if n_missing == 0:
        return {**row, "n_missing": 0, "state": "repaired", "closed_at": now}
    out_of_reach = told.filter(pl.col("is_complete"), pl.col("outcome") == "not_found").sort("ingested_at")
    bad = told.filter(~pl.col("is_complete")).sort("ingested_at")
    detail = row["detail"]
    if len(bad):
        outcome, why, source = bad.select("outcome", "detail", "source").row(-1)
        detail = f"{source} ended {outcome}: {why or 'no records'}"
    if len(out_of_reach):
        detail = f"the venue no longer has it: {out_of_reach['detail'].item(-1)}"
    elif row["attempts"] >= MAX_ATTEMPTS:
        detail = f"given up after {row['attempts']} repairs: {detail}"
    else:
        return {**row, "n_missing": n_missing, "state": "open", "detail": detail}
    return {**row, "n_missing": n_missing, "state": "unrecoverable", "detail": detail, "closed_at": now}


def explain(gap: Mapping[str, Any], evidence: Evidence, every: timedelta) -> Verdict:
    """Why the gap is there, from the answers that cover it."""
    key, start, end = gap["key"], gap["gap_start_at"], gap["gap_end_at"]
    inside = pl.col("moment").is_between(pl.lit(start), pl.lit(end), closed="left")
    if n_refused := len(evidence.refused.filter(pl.col("key") == key, inside)):
        # To ask again would bring the same; a mended contract and crypto-assets quarantine replay bring them in.
        return Verdict("provider_error", f"{n_refused} records of it are in quarantine", is_repairable=False)
    about = pl.col("window_start_at") < end, pl.col("window_end_at") > start
    answers = evidence.answers.filter(pl.col("key") == key, *about).sort("ingested_at")
    by_source = {name: part for (name,), part in answers.group_by("source", maintain_order=True)}
    complete = sorted(name for name, part in by_source.items() if covers(part, start, end))
    asked = {name for name, part in by_source.items() if is_answered(part, start, end)}
    unasked = [source for source in evidence.sources.get(key, ()) if source not in asked]
    told = ", ".join(complete)
    if complete:
        first, last = evidence.first.get(key), evidence.last.get(key)
        if first is not None and end <= first:
            return Verdict("not_listed", f"{told} has nothing before {first:%Y-%m-%d %H:%M}", is_repairable=False)
        moments = frozenset(_steps(start, end, every))
        if moments and moments <= evidence.silent.get(evidence.group.get(key, ""), frozenset()):
            return Verdict(
                "venue_outage", f"no market of the venue has anything; {told} was asked", is_repairable=False
            )
        if not unasked:
            out_of_reach = answers.filter(pl.col("is_complete"), pl.col("outcome") == "not_found")
            if len(out_of_reach):
                return Verdict("provider_error", str(out_of_reach["detail"].item(-1)), is_repairable=False)
            if last is not None and start > last:
                return Verdict("delisted", f"{told} has nothing after {last:%Y-%m-%d %H:%M}", is_repairable=False)
            return Verdict("no_trades", f"{told} states nothing for it", is_repairable=False)
    bad = answers.filter(~pl.col("is_complete"))
    if len(bad):
        outcome, detail, source = bad.select("outcome", "detail", "source").row(-1)
        ending = f"{source} ended {outcome}: {detail or 'no records'}"
        return Verdict(_CAUSES.get(outcome, "provider_error"), ending, is_repairable=True)
    if complete:
        return Verdict("provider_error", f"{told} lacks it; {', '.join(unasked)} was not asked", is_repairable=True)
    return Verdict("our_downtime", "nobody asked for all of it", is_repairable=True)


def covered(answers: pl.DataFrame) -> list[Window]:
    """The times that complete answers are about and were given after, as the fewest windows, in order."""
    spans = (
        answers.filter("is_complete")
        .select("window_start_at", end=pl.min_horizontal("window_end_at", "ingested_at"))
        .filter(pl.col("window_start_at") < pl.col("end"))
        .sort("window_start_at")
    )
    return joined(spans.iter_rows())


def covers(answers: pl.DataFrame, start: datetime, end: datetime) -> bool:
    """Whether complete answers, younger than it, are about all of the time."""
    return any(span.start <= start and end <= span.end for span in covered(answers))


def is_answered(answers: pl.DataFrame, start: datetime, end: datetime) -> bool:
    """Like ``covers``, where to say that there is nothing (a file that is not there) is an answer too."""
    told = answers.with_columns(is_complete=pl.col("is_complete") | (pl.col("outcome") == "not_found"))
    return covers(told, start, end)


def _placed(known: pl.DataFrame, moments: pl.DataFrame) -> pl.DataFrame:
    """Each missing time with the number of the ledger's row that it lies in, or null."""
    rows = known.sort("key", "gap_start_at").with_row_index("row").select("row", "key", "gap_start_at", "gap_end_at")
    found = moments.sort("moment").join_asof(
        rows.sort("gap_start_at"), left_on="moment", right_on="gap_start_at", by="key", check_sortedness=False
    )
    is_inside = pl.col("moment") < pl.col("gap_end_at")
    return found.with_columns(row=pl.when(is_inside).then("row")).sort("key", "moment")


def _followed(
    row: Mapping[str, Any], n_missing: int, evidence: Evidence, every: timedelta, now: datetime
) -> dict[str, Any]:
    """A known gap as it is now."""
    if n_missing == 0:
        if row["state"] == "repaired":
            return dict(row)
        return {**row, "n_missing": 0, "state": "repaired", "closed_at": now}
    told = explain(row, evidence, every) if row["state"] in OPEN else None
    if told is None:
        # A gap that was closed is open again where its rows went away: nothing but a lost file does that.
        state = "open" if row["state"] == "repaired" else row["state"]
        return {
            **row,
            "n_missing": n_missing,
            "state": state,
            "closed_at": None if state == "open" else row["closed_at"],
        }
    is_given_up = told.is_repairable and row["attempts"] >= MAX_ATTEMPTS
    is_over = is_given_up or not told.is_repairable
    detail = f"given up after {row['attempts']} repairs: {told.detail}" if is_given_up else told.detail
    return {
        **row,
        "n_missing": n_missing,
        "cause": told.cause,
        "state": "unrecoverable" if is_over else "open",
        "detail": detail,
        "closed_at": now if is_over else None,
    }


def _steps(start: datetime, end: datetime, every: timedelta) -> Iterator[datetime]:
    moment = start
    while moment < end:
        yield moment
        moment += every
