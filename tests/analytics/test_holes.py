"""What streams did not hear: on the ledger until the venue has answered for it, or no longer can."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from crypto_assets.analytics.gaps import MAX_ATTEMPTS, holes
from crypto_assets.tables.contract import UTC_TIME, polars_schema
from crypto_assets.tables.quality import GapLedger
from tests.analytics.answers import ANSWER

KEY, OTHER = "binance:BTC/USDT", "coinbase:BTC/USD"
T0 = datetime(2026, 1, 1, 10, tzinfo=UTC)
NOW = T0 + timedelta(hours=3)
EMPTY = pl.DataFrame(schema=polars_schema(GapLedger))
SPAN = {"key": pl.String, "start": UTC_TIME, "end": UTC_TIME, "cause": pl.String, "detail": pl.String}


def at(second: int) -> datetime:
    return T0 + timedelta(seconds=second)


def stated(*spans: tuple[int, int], key: str = KEY) -> pl.DataFrame:
    rows = [(key, at(start), at(end), "venue_outage", "binance_stream: silent for 30 s") for start, end in spans]
    return pl.DataFrame(rows, schema=SPAN, orient="row")


def answers(*spans: tuple[int, int], outcome: str = "ok", **facts: Any) -> pl.DataFrame:
    told = [
        {
            "key": KEY,
            "source": "raw.exchange_trades",
            "window_start_at": at(start),
            "window_end_at": at(end),
            "outcome": outcome,
            "detail": "",
            "is_complete": outcome in ("ok", "empty", "not_found"),
            "ingested_at": NOW - timedelta(minutes=5),
            **facts,
        }
        for start, end in spans
    ]
    return pl.DataFrame(told, schema=ANSWER)


def told(ledger: pl.DataFrame) -> list[tuple[Any, ...]]:
    columns = ("key", "gap_start_at", "gap_end_at", "state", "n_missing", "closed_at")
    return ledger.select(columns).rows()


def heard(known: pl.DataFrame, spans: pl.DataFrame, given: pl.DataFrame, now: datetime = NOW) -> pl.DataFrame:
    return holes("trusted.trades", known, spans, given, now)


def test_a_hole_is_open_with_the_seconds_that_nobody_answered_for() -> None:
    found = heard(EMPTY, stated((0, 90), (200, 230)), answers((60, 210)))
    assert told(found) == [(KEY, at(0), at(90), "open", 60, None), (KEY, at(200), at(230), "open", 20, None)]
    assert found["cause"].to_list() == ["venue_outage"] * 2
    # Looked at again, nothing has changed.
    assert heard(found, stated((0, 90), (200, 230)), answers((60, 210)), NOW + timedelta(hours=1)).is_empty()


def test_a_hole_that_answers_cover_is_repaired_and_stays_so() -> None:
    known = heard(EMPTY, stated((0, 90)), answers())
    found = heard(known, stated(), answers((0, 40), (40, 90), outcome="empty"))
    assert told(found) == [(KEY, at(0), at(90), "repaired", 0, NOW)]
    assert heard(found, stated((0, 90)), answers(), NOW + timedelta(hours=1)).is_empty()


def test_an_answer_for_a_time_that_was_not_over_does_not_count() -> None:
    found = heard(EMPTY, stated((0, 90)), answers((0, 90), ingested_at=at(30)))
    assert told(found) == [(KEY, at(0), at(90), "open", 60, None)]


def test_what_the_venue_no_longer_has_is_lost_with_the_reason() -> None:
    out = answers((30, 90), outcome="not_found").with_columns(detail=pl.lit("its newest 1000 trades only"))
    found = heard(EMPTY, stated((0, 90)), pl.concat([answers((0, 30)), out]))
    assert told(found) == [(KEY, at(0), at(90), "unrecoverable", 60, NOW)]
    assert found["detail"].item() == "the venue no longer has it: its newest 1000 trades only"


def test_a_hole_is_given_up_when_it_was_asked_for_often_enough() -> None:
    known = heard(EMPTY, stated((0, 90)), answers()).with_columns(attempts=pl.lit(MAX_ATTEMPTS, pl.Int32))
    bad = answers((0, 90), outcome="unavailable").with_columns(detail=pl.lit("HTTP 503"))
    found = heard(known, stated(), bad)
    assert told(found) == [(KEY, at(0), at(90), "unrecoverable", 90, NOW)]
    assert found["detail"].item() == "given up after 3 repairs: raw.exchange_trades ended unavailable: HTTP 503"


def test_other_markets_answers_are_no_answer() -> None:
    found = heard(EMPTY, pl.concat([stated((0, 90)), stated((0, 90), key=OTHER)]), answers((0, 90)))
    assert [row[3] for row in told(found)] == ["repaired", "open"]


def test_of_two_streams_holes_of_one_beginning_the_longer_counts() -> None:
    known = heard(EMPTY, stated((0, 90)), answers((0, 90)))
    assert known["state"].item() == "repaired"
    later = NOW + timedelta(hours=1)
    found = heard(known, stated((0, 30), (0, 300)), answers((0, 90)), later)
    assert told(found) == [(KEY, at(0), at(300), "open", 210, None)]
    assert found["detected_at"].item() == NOW
