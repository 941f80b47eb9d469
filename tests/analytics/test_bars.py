"""Bars of prices: what was seen is told exactly, what was not seen is not told."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Callable, Iterable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from crypto_assets.analytics import bars, exact
from crypto_assets.tables.conform import conform
from crypto_assets.tables.contract import MONEY
from crypto_assets.tables.refined import AssetDaily, AssetHourly
from crypto_assets.tables.trusted import AssetHistory, AssetSnapshots

RowsOf = Callable[..., pl.DataFrame]
DAY = dt.date(2024, 1, 1)
Seen = tuple[str, dt.datetime, str]


def at(hour: int, minute: int = 0, day: int = 1) -> dt.datetime:
    return dt.datetime(2024, 1, day, hour, minute, tzinfo=dt.UTC)


@pytest.fixture(scope="session")
def snapshots(rows_of: RowsOf) -> Callable[[Iterable[Seen]], pl.DataFrame]:
    """Snapshots, each ``(asset, time, price)``; they arrive two seconds later, and their cap is the price times 2."""

    def build(seen: Iterable[Seen]) -> pl.DataFrame:
        return rows_of(
            AssetSnapshots,
            *(
                {
                    "provider": "coincap",
                    "asset_id": asset,
                    "observed_at": time,
                    "ingested_at": time + dt.timedelta(seconds=2),
                    "price_usd": Decimal(price),
                    "market_cap_usd": Decimal(price) * 2,
                    "rank": 1 + time.minute,
                }
                for asset, time, price in seen
            ),
        )

    return build


def hourly(frame: pl.DataFrame) -> pl.DataFrame:
    return conform(AssetHourly, bars.hourly(frame.lazy()).collect())


def daily(frame: pl.DataFrame, history: pl.DataFrame) -> pl.DataFrame:
    return conform(AssetDaily, bars.daily(hourly(frame).lazy(), history.lazy()).collect())


def test_an_hour_tells_its_first_highest_lowest_and_last_price(snapshots: Any) -> None:
    seen = [
        ("a", at(5, 0), "3"),
        ("a", at(5, 20), "9.000000000000000001"),
        ("a", at(5, 40), "1"),
        ("a", at(5, 59), "4"),
    ]
    (bar,) = hourly(snapshots(seen)).to_dicts()

    assert bar == {
        "provider": "coincap",
        "asset_id": "a",
        "opened_at": at(5),
        "open_usd": Decimal(3),
        "high_usd": Decimal("9.000000000000000001"),
        "low_usd": Decimal(1),
        "close_usd": Decimal(4),
        "mean_usd": 4.25,
        "n_obs": 4,
        "market_cap_usd": Decimal(8),
        "supply": None,
        "volume_usd_24h": None,
        "rank": 60,
        "observed_at": at(5, 59),
        "available_at": at(5, 59) + dt.timedelta(seconds=2),
        "date": DAY,
    }


def test_an_hour_holds_its_start_and_not_its_end(snapshots: Any) -> None:
    last = at(5, 59) + dt.timedelta(seconds=59, milliseconds=999)
    rows = hourly(snapshots([("a", at(5), "1"), ("a", last, "2"), ("a", at(6), "3")]))

    assert rows.select("opened_at", "close_usd", "n_obs").rows() == [(at(5), Decimal(2), 2), (at(6), Decimal(3), 1)]


def test_an_hour_without_a_snapshot_has_no_bar(snapshots: Any) -> None:
    rows = hourly(snapshots([("a", at(5), "1"), ("a", at(9), "2"), ("b", at(7), "3")]))

    assert rows.select("asset_id", "opened_at").rows() == [("a", at(5)), ("a", at(9)), ("b", at(7))]


def test_the_last_snapshot_of_an_hour_decides_even_where_it_is_null(rows_of: RowsOf) -> None:
    facts = [{"market_cap_usd": Decimal(5)}, {"market_cap_usd": None}]
    frame = rows_of(AssetSnapshots, *({"observed_at": at(5, i), **fact} for i, fact in enumerate(facts)))

    assert hourly(frame)["market_cap_usd"].to_list() == [None]


def test_a_bar_is_available_when_the_last_of_its_inputs_had_arrived(rows_of: RowsOf) -> None:
    late = at(8)
    frame = rows_of(
        AssetSnapshots,
        {"observed_at": at(5, 1), "ingested_at": late},
        {"observed_at": at(5, 2), "ingested_at": at(5, 2)},
    )

    assert hourly(frame)["available_at"].to_list() == [late]


def test_a_day_is_made_of_its_hours_and_weighs_every_snapshot_alike(snapshots: Any, rows_of: RowsOf) -> None:
    seen = [("a", at(5), "2"), ("a", at(5, 30), "4"), ("a", at(9), "9"), ("a", at(1, 0, 2), "7")]
    rows = daily(snapshots(seen), rows_of(AssetHistory))
    first = rows.row(0, named=True)

    assert rows["date"].to_list() == [DAY, dt.date(2024, 1, 2)]
    assert (first["open_usd"], first["high_usd"], first["low_usd"], first["close_usd"]) == (2, 9, 2, 9)
    assert (first["mean_usd"], first["n_obs"], first["n_hours"]) == (5.0, 3, 2)
    assert (first["source_kind"], first["market_cap_usd"], first["rank"]) == ("snapshots", 18, 1)
    assert first["available_at"] == at(9) + dt.timedelta(seconds=2)


def test_history_speaks_only_for_days_that_nobody_observed(snapshots: Any, rows_of: RowsOf) -> None:
    stated = {"provider": "coincap", "asset_id": "a", "interval": "d1", "ingested_at": at(7, 0, 9)}
    history = rows_of(
        AssetHistory,
        {**stated, "observed_at": at(0), "price_usd": Decimal(100)},
        {**stated, "observed_at": at(0, 0, 2), "price_usd": Decimal(200), "circulating_supply": Decimal(21)},
        {**stated, "observed_at": at(0, 0, 3), "price_usd": Decimal(300), "interval": "h1"},
    )
    rows = daily(snapshots([("a", at(5), "1")]), history)

    assert rows.select("date", "source_kind", "close_usd").rows() == [
        (DAY, "snapshots", Decimal(1)),
        (dt.date(2024, 1, 2), "history", Decimal(200)),
    ]
    told = rows.row(1, named=True)
    assert (told["open_usd"], told["high_usd"], told["low_usd"], told["mean_usd"]) == (200, 200, 200, 200.0)
    assert (told["n_obs"], told["n_hours"], told["supply"], told["market_cap_usd"], told["rank"]) == (
        1,
        0,
        21,
        None,
        None,
    )
    assert told["available_at"] == at(7, 0, 9)


def test_nothing_seen_is_no_bar(rows_of: RowsOf) -> None:
    assert len(hourly(rows_of(AssetSnapshots))) == 0
    assert len(daily(rows_of(AssetSnapshots), rows_of(AssetHistory))) == 0


# ---- against an oracle, and against itself ----

PRICES = st.decimals(0, 10**9, places=18).map(lambda price: f"{price:f}")
TIMES = st.integers(0, 2 * 1440 - 1).map(lambda minute: at(0) + dt.timedelta(minutes=minute))
SEEN = st.lists(st.tuples(st.sampled_from(["a", "b"]), TIMES, PRICES), max_size=30, unique_by=lambda s: s[:2])


def oracle(seen: Iterable[Seen], length: str) -> dict[tuple[str, Any], tuple[Any, ...]]:
    """The bars by plain Python: open, high, low, close, mean and number, by asset and hour or day."""
    groups: dict[tuple[str, Any], list[tuple[dt.datetime, Decimal]]] = defaultdict(list)
    for asset, time, price in seen:
        label = time.replace(minute=0) if length == "hour" else time.date()
        groups[asset, label].append((time, Decimal(price)))
    told = {}
    for label, points in groups.items():
        prices = [price for _, price in sorted(points)]
        mean = float(sum(Fraction(price) for price in prices) / len(prices))
        told[label] = (
            prices[0],
            max(prices),
            min(prices),
            prices[-1],
            pytest.approx(mean, rel=1e-12, abs=1e-18),
            len(prices),
        )
    return told


OHLC = ("open_usd", "high_usd", "low_usd", "close_usd", "mean_usd", "n_obs")


@settings(max_examples=40)
@given(SEEN)
def test_bars_are_what_plain_arithmetic_says(snapshots: Any, rows_of: RowsOf, seen: list[Seen]) -> None:
    frame = snapshots(seen)
    hours, days = hourly(frame), daily(frame, rows_of(AssetHistory))

    assert {(r["asset_id"], r["opened_at"]): tuple(r[c] for c in OHLC) for r in hours.to_dicts()} == oracle(
        seen, "hour"
    )
    assert {(r["asset_id"], r["date"]): tuple(r[c] for c in OHLC) for r in days.to_dicts()} == oracle(seen, "day")


@settings(max_examples=40)
@given(SEEN, st.randoms(use_true_random=False))
def test_two_days_at_once_in_any_order_are_the_two_days_one_by_one(
    snapshots: Any, rows_of: RowsOf, seen: list[Seen], rng: Any
) -> None:
    history = rows_of(
        AssetHistory,
        *({"provider": "coincap", "asset_id": "a", "interval": "d1", "observed_at": at(0, 0, d)} for d in (1, 2)),
    )
    frame = snapshots(rng.sample(seen, len(seen)))
    by_day = [(frame.filter(date=day), history.filter(date=day)) for day in (DAY, dt.date(2024, 1, 2))]

    assert_frame_equal(hourly(frame), pl.concat(hourly(f) for f, _ in by_day), check_exact=True)
    assert_frame_equal(daily(frame, history), pl.concat(daily(f, h) for f, h in by_day), check_exact=True)


# ---- bit by bit ----


@pytest.fixture(scope="module")
def busy_day(snapshots: Any) -> pl.DataFrame:
    """Prices whose sum of doubles depends on the order of addition: 40 assets, every 5 minutes."""
    return snapshots(
        (f"a{a}", at(0) + dt.timedelta(minutes=5 * i), f"{(i * 7919 + a * 104729) % 99991}.{(i * i + a) % 10**9:018}")
        for a in range(40)
        for i in range(288)
    )  # type: ignore[no-any-return]


def test_bars_are_the_same_bit_by_bit_on_every_run_and_in_any_order(busy_day: pl.DataFrame, rows_of: RowsOf) -> None:
    history = rows_of(AssetHistory)
    hours, days = hourly(busy_day), daily(busy_day, history)

    for seed in range(10):
        shuffled = busy_day.sample(fraction=1, shuffle=True, seed=seed)
        shuffled_hours = hourly(shuffled).sample(fraction=1, shuffle=True, seed=seed)
        assert_frame_equal(hourly(shuffled), hours, check_exact=True)
        assert_frame_equal(
            conform(AssetDaily, bars.daily(shuffled_hours.lazy(), history.lazy()).collect()), days, check_exact=True
        )


def test_the_mean_of_nothing_is_unknown_and_nulls_do_not_count() -> None:
    frame = pl.DataFrame({"g": [1, 1, 2], "x": pl.Series([Decimal(1), None, None], dtype=MONEY)})

    assert frame.group_by("g").agg(exact.mean(pl.col("x"))).sort("g")["x"].to_list() == [1.0, None]


def test_a_total_of_doubles_is_the_sum_of_each_at_18_digits() -> None:
    frame = pl.DataFrame({"x": [0.1] * 10 + [1e9, 1e-18]})

    assert frame.select(exact.total(pl.col("x"))).item() == 1_000_000_001.0
