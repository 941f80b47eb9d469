"""What providers cost and how they answered, counted by hand."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

from crypto_assets.analytics import operations
from crypto_assets.resources.http import Outcome
from crypto_assets.tables.conform import conform
from crypto_assets.tables.quality import CreditLedger, Lateness, SourceHealth
from crypto_assets.tables.raw import RawCoincapAssets

RowsOf = Callable[..., pl.DataFrame]


def at(day: int, month: int = 2) -> dt.datetime:
    return dt.datetime(2024, month, day, 12, tzinfo=dt.UTC)


@pytest.fixture
def answers(rows_of: RowsOf) -> Callable[..., pl.DataFrame]:
    def build(*rows: dict[str, Any]) -> pl.DataFrame:
        plain = {"provider": "coincap", "endpoint": "assets", "outcome": "ok", "ingested_at": at(1), "n_bytes": 10}
        return rows_of(RawCoincapAssets, *({**plain, "page": i, **row} for i, row in enumerate(rows)))

    return build


def health(frame: pl.DataFrame) -> pl.DataFrame:
    return conform(SourceHealth, operations.source_health(frame.lazy()).collect())


def ledger(frame: pl.DataFrame) -> pl.DataFrame:
    return conform(CreditLedger, operations.credit_ledger(frame.lazy()).collect())


def test_every_outcome_counts_as_good_limited_or_failed(answers: Any) -> None:
    (row,) = health(answers(*({"outcome": str(outcome)} for outcome in Outcome))).to_dicts()

    assert (row["n_calls"], row["n_ok"], row["n_limited"], row["n_failed"]) == (9, 3, 2, 4)
    assert row["n_bytes"] == 90
    assert row["score"] == 3 / 9


def test_health_is_told_by_endpoint_and_day_of_arrival(answers: Any) -> None:
    late = dt.datetime(2024, 2, 1, 23, 59, 59, 999000, tzinfo=dt.UTC)
    rows = health(
        answers(
            {"ingested_at": late, "observed_at": at(9)},
            {"ingested_at": late + dt.timedelta(milliseconds=1)},
            {"endpoint": "rates"},
        )
    )

    assert rows.select("endpoint", "date", "n_calls").rows() == [
        ("assets", dt.date(2024, 2, 1), 1),
        ("rates", dt.date(2024, 2, 1), 1),
        ("assets", dt.date(2024, 2, 2), 1),
    ]


def test_the_last_good_answer_is_the_newest_good_one_or_unknown(answers: Any) -> None:
    bad = {"outcome": "unavailable", "ingested_at": at(1) + dt.timedelta(hours=3)}

    assert health(answers({}, bad))["last_ok_at"].to_list() == [at(1)]
    assert health(answers(bad))["last_ok_at"].to_list() == [None]


def test_credits_add_up_through_a_calendar_month_and_start_again_in_the_next(answers: Any) -> None:
    spent = [(at(1), 10), (at(1), 5), (at(3), 5), (at(29), 9), (at(1, 3), 7)]
    rows = ledger(answers(*({"ingested_at": day, "credits": price} for day, price in spent)))

    assert rows.select("date", "n_calls", "credits", "credits_month").rows() == [
        (dt.date(2024, 2, 1), 2, 15, 15),
        (dt.date(2024, 2, 3), 1, 5, 20),
        (dt.date(2024, 2, 29), 1, 9, 29),
        (dt.date(2024, 3, 1), 1, 7, 7),
    ]


def test_the_forecast_carries_the_month_so_far_to_its_end(answers: Any) -> None:
    rows = ledger(answers({"ingested_at": at(1), "credits": 10}, {"ingested_at": at(10), "credits": 10}))

    assert rows["forecast_month_end"].to_list() == [290.0, 58.0]


def test_providers_do_not_pay_for_each_other(answers: Any) -> None:
    rows = ledger(answers({"credits": 3}, {"provider": "other", "credits": 4}))

    assert rows.select("provider", "credits_month").rows() == [("coincap", 3), ("other", 4)]


def test_no_answers_are_no_rows(answers: Any) -> None:
    assert len(health(answers())) == len(ledger(answers())) == 0


def facts(*late_s: float) -> pl.LazyFrame:
    known = at(1)
    rows = [
        {
            "table_name": "trusted.quotes",
            "provider": "exchanges",
            "known_at": known,
            "ingested_at": known + dt.timedelta(seconds=late),
            "date": known.date(),
        }
        for late in late_s
    ]
    return pl.LazyFrame(rows)


def test_lateness_is_counted_in_quantiles_without_what_was_backfilled() -> None:
    year = 365 * 86_400
    told = conform(Lateness, operations.lateness(facts(*range(1, 1001), year)).collect())
    assert told.select("n_rows", "p50_s", "p99_s", "p999_s", "highest_s").row(0) == (1000, 501.0, 991.0, 1000.0, 1000.0)


def test_a_fact_that_arrives_before_its_time_by_a_clock_that_is_ahead_is_not_late() -> None:
    assert operations.lateness(facts(-3, -2)).collect()["highest_s"].to_list() == [0.0]


@pytest.mark.parametrize(
    ("p999_s", "days"), [([], 1), ([12.0], 1), ([86_401.0], 2), ([10.0, 3.5 * 86_400], 4), ([9e9], 7)]
)
def test_the_look_back_covers_the_latest_that_was_measured(p999_s: list[float], days: int) -> None:
    assert operations.look_back(pl.DataFrame({"p999_s": p999_s}, schema={"p999_s": pl.Float64})) == days
