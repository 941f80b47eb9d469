"""Bars of venues: equal to the venues' own, to a plain reading of the trades, and to themselves, however cut."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from crypto_assets.analytics import candles
from crypto_assets.analytics.candles import STEPS
from crypto_assets.tables.conform import conform
from crypto_assets.tables.contract import polars_schema
from crypto_assets.tables.refined import BARS, Ohlcv1m
from crypto_assets.tables.trusted import INTERVALS, Candles, Trades
from crypto_assets.tables.window import bucket
from tests.rows import rows_of
from tests.tape_rows import candles_of, day, trades_of

NO_TRADES = pl.DataFrame(schema=polars_schema(Trades))
NO_CANDLES = pl.DataFrame(schema=polars_schema(Candles))
MARKET = {"venue": "kraken", "market_id": "kraken:BTC/USD"}
LATE = day(28, month=12)
COARSE = [interval for interval, step in STEPS.items() if step.finer]


def minutes(trades: pl.DataFrame = NO_TRADES, stated: pl.DataFrame = NO_CANDLES) -> pl.DataFrame:
    return conform(Ohlcv1m, candles.minutes(trades.lazy(), stated.lazy()).collect())


def rolled(interval: str, finer: pl.DataFrame, stated: pl.DataFrame = NO_CANDLES) -> pl.DataFrame:
    return conform(BARS[interval], candles.rolled(interval, finer.lazy(), stated.lazy()).collect())


def every_length(shortest: pl.DataFrame, stated: pl.DataFrame = NO_CANDLES) -> dict[str, pl.DataFrame]:
    """Bars of all lengths from bars of a minute."""
    bars = {"1m": shortest}
    for interval, step in STEPS.items():
        if step.finer:
            bars[interval] = rolled(interval, bars[step.finer], stated)
    return bars


def candle(at: dt.datetime, price: str = "5", volume: str = "2", interval: str = "1m", **facts: Any) -> dict[str, Any]:
    prices = dict.fromkeys(("open", "high", "low", "close"), Decimal(price))
    value = {"volume_base": Decimal(volume), "volume_quote": Decimal(volume) * Decimal(price)}
    counts = {"n_trades": int(Decimal(volume) > 0), "taker_buy_base": Decimal(0), "interval": interval}
    return {**MARKET, "opened_at": at, **prices, **value, **counts, "ingested_at": LATE, **facts}


def stated(*rows: dict[str, Any]) -> pl.DataFrame:
    return rows_of(Candles, *({"month": day(1).date(), **row} for row in rows))


def trade(at: dt.datetime, number: int, price: str = "5", quantity: str = "2", **facts: Any) -> dict[str, Any]:
    plain = {"trade_id": str(number), "traded_at": at, "price": Decimal(price), "quantity": Decimal(quantity)}
    return {**MARKET, **plain, "taker_side": "buy", "ingested_at": LATE, **facts}


def traded(*rows: dict[str, Any]) -> pl.DataFrame:
    return rows_of(Trades, *({"date": row["traded_at"].date(), **row} for row in rows))


# ---- the venue's own candles are the oracle ----


@pytest.mark.parametrize("market_id", ["binance:BTC/USDT", "binance:SHIB/USDT", "kraken:XLM/USD", "coinbase:BTC/USD"])
def test_minutes_made_of_trades_equal_the_venues_own_candles_in_every_field(market_id: str) -> None:
    span = (day(1, 22), day(2, 20))
    from_trades = minutes(trades_of(market_id, *span))
    from_candles = minutes(stated=candles_of(market_id, "1m", *span))

    assert from_trades["source_kind"].unique().to_list() == ["trades"]
    assert from_candles["source_kind"].unique().to_list() == ["candles_1m"]
    assert from_trades.height > 300
    assert from_trades.drop("source_kind").equals(from_candles.drop("source_kind"))
    # Both together are the trades, minute by minute, and a venue's empty minutes stay what it says they are.
    filled = candles_of(market_id, "1m", *span, is_filled=True)
    both = minutes(trades_of(market_id, *span), filled)
    assert both.filter(pl.col("volume_base") > 0).equals(from_trades)
    empty = both.filter(pl.col("volume_base") == 0)
    assert set(empty["source_kind"].unique()) <= {"candles_1m"}
    assert both.height == filled.height
    assert empty["vwap"].null_count() == empty.height


@pytest.mark.parametrize("interval", COARSE)
@pytest.mark.parametrize("is_filled", [False, True])
def test_bars_made_of_minutes_equal_the_venues_own_coarser_candles(interval: str, is_filled: bool) -> None:
    # Two weeks and a day: a whole week, and a month of which only the middle is there.
    span = (day(5), day(20))
    market_id = "kraken:XLM/USD"
    bars = every_length(minutes(stated=candles_of(market_id, "1m", *span, is_filled=is_filled)))[interval]
    own = candles_of(market_id, interval, *span)
    facts = ["opened_at", "open", "high", "low", "close", "volume_base", "volume_quote", "n_trades", "taker_buy_base"]
    whole = bars.filter(pl.col("observed_at") <= span[1], pl.col("opened_at") >= span[0], pl.col("volume_base") > 0)
    ends = pl.col("opened_at").dt.offset_by(interval)

    ours = whole.filter(ends <= span[1]).select(facts).sort("opened_at")
    theirs = own.select(facts).sort("opened_at").with_columns(pl.col("n_trades").cast(pl.Int64))
    assert ours.equals(theirs)
    assert ours.height == {"1w": 2, "1mo": 0}.get(interval, ours.height)
    assert interval == "1mo" or ours.height


# ---- a plain reading of the trades is the oracle ----


class Seen(NamedTuple):
    second: int
    price: int
    quantity: int
    is_buy: bool | None
    n_trades: int


def plain_bars(seen: Sequence[tuple[dt.datetime, int, Seen]], interval: str) -> list[dict[str, Any]]:
    """Bars of trades in Python's own arithmetic: prices in hundredths, quantities in ten-thousandths."""
    found: dict[dt.datetime, list[tuple[dt.datetime, int, Seen]]] = defaultdict(list)
    for entry in seen:
        start = entry[0].replace(second=0, microsecond=0)
        found[bucket(start, interval)[0] if interval not in _MINUTES else floor(start, _MINUTES[interval])].append(
            entry
        )
    bars = []
    for opened_at in sorted(found):
        trades = [trade for *_, trade in sorted(found[opened_at])]
        volume = sum(trade.quantity for trade in trades)
        value = sum(trade.quantity * trade.price for trade in trades)
        is_told = all(trade.is_buy is not None for trade in trades)
        bought = sum(trade.quantity for trade in trades if trade.is_buy)
        n_obs = len({at.replace(second=0, microsecond=0) for at, *_ in found[opened_at]})
        bars.append(
            {
                "opened_at": opened_at,
                "open": Decimal(trades[0].price).scaleb(-2),
                "high": Decimal(max(trade.price for trade in trades)).scaleb(-2),
                "low": Decimal(min(trade.price for trade in trades)).scaleb(-2),
                "close": Decimal(trades[-1].price).scaleb(-2),
                "volume_base": Decimal(volume).scaleb(-4),
                "volume_quote": Decimal(value).scaleb(-6),
                "n_trades": sum(trade.n_trades for trade in trades),
                "taker_buy_base": Decimal(bought).scaleb(-4) if is_told else None,
                "n_obs": n_obs,
            }
        )
    return bars


_MINUTES = {"1m": 1, "5m": 5, "15m": 15, "1h": 60}


def floor(moment: dt.datetime, length: int) -> dt.datetime:
    passed = moment.hour * 60 + moment.minute
    return moment - dt.timedelta(minutes=passed % length)


# Seconds of ten weeks; many trades fall into the same few, so that the order within a moment matters.
SECONDS = st.one_of(st.integers(0, 600), st.integers(0, 70 * 86_400))
SEEN = st.builds(
    Seen, SECONDS, st.integers(1, 10**7), st.integers(1, 10**7), st.none() | st.booleans(), st.integers(1, 3)
)


@settings(max_examples=60)
@given(seen=st.lists(SEEN, min_size=1, max_size=60))
@example(seen=[Seen(0, 1, 1, True, 1), Seen(0, 3, 1, True, 1)] * 6)
def test_bars_of_every_length_equal_a_plain_reading_of_the_trades(seen: list[Seen]) -> None:
    # Ids count up from 8, so that 10 follows 9 in truth and precedes it as a text.
    placed = [(day(20, 12) + dt.timedelta(seconds=t.second), 8 + n, t) for n, t in enumerate(seen)]
    rows = [
        trade(
            at,
            number,
            price=str(Decimal(t.price).scaleb(-2)),
            quantity=str(Decimal(t.quantity).scaleb(-4)),
            taker_side=None if t.is_buy is None else "buy" if t.is_buy else "sell",
            n_trades=t.n_trades,
        )
        for at, number, t in placed
    ]
    bars = every_length(minutes(traded(*reversed(rows))))

    for interval, table in bars.items():
        expected = plain_bars(placed, interval)
        assert table.select(list(expected[0])).to_dicts() == expected, interval
        _hold(table)
    for interval, step in STEPS.items():
        if step.finer:
            assert total(bars[interval], "volume_base") == total(bars["1m"], "volume_base")
            assert total(bars[interval], "volume_quote") == total(bars["1m"], "volume_quote")
            assert bars[interval].row(-1, named=True)["close"] == bars["1m"].row(-1, named=True)["close"]


def _hold(bars: pl.DataFrame) -> None:
    """The invariants of every bar."""
    top, bottom = pl.max_horizontal("open", "close"), pl.min_horizontal("open", "close")
    assert bars.filter((pl.col("high") < top) | (pl.col("low") > bottom) | (pl.col("low") <= 0)).is_empty()
    # The quotient is rounded to 18 digits, which never leads past a price of as many.
    assert bars.filter(~pl.col("vwap").is_between(pl.col("low"), pl.col("high"))).is_empty()
    assert bars.filter(pl.col("n_obs") > pl.col("n_expected")).is_empty()
    assert bars.filter(pl.col("available_at") < pl.col("observed_at")).is_empty()


def total(bars: pl.DataFrame, column: str) -> Decimal:
    return sum(bars[column], Decimal(0))


@settings(max_examples=25)
@given(
    seen=st.lists(SEEN, min_size=1, max_size=40),
    arrives=st.integers(0, 80 * 24),
    cut=st.sampled_from(["1h", "4h", "1d"]),
)
def test_a_table_computed_bucket_by_bucket_equals_the_table_computed_at_once(
    seen: list[Seen], arrives: int, cut: str
) -> None:
    at = [day(20, 12) + dt.timedelta(seconds=t.second) for t in seen]
    rows = [
        trade(moment, n, price=str(t.price), ingested_at=moment + dt.timedelta(seconds=arrives * 7 % 400))
        for n, (moment, t) in enumerate(zip(at, seen, strict=True))
    ]
    frame = traded(*rows)
    at_once = every_length(minutes(frame))
    parts = frame.group_by(pl.col("traded_at").dt.truncate(cut)).agg(pl.len())["traded_at"].to_list()
    apart = [
        every_length(minutes(frame.filter(pl.col("traded_at").dt.truncate(cut) == part))) for part in sorted(parts)
    ]

    for interval in [i for i in STEPS if i not in ("1w", "1mo") and _length(i) <= _length(cut)]:
        assert pl.concat(part[interval] for part in apart).equals(at_once[interval]), interval


def _length(interval: str) -> dt.timedelta:
    start, end = bucket(day(1), interval) if interval not in _MINUTES else (day(1), day(1))
    return dt.timedelta(minutes=_MINUTES[interval]) if interval in _MINUTES else end - start


# ---- where sources meet ----


def test_a_minute_whose_trades_do_not_add_up_is_the_venues_candle() -> None:
    rows = [trade(day(1, 9, 0), 1), trade(day(1, 9, 1), 2), trade(day(1, 9, 2), 3, quantity="1.5")]
    own = stated(candle(day(1, 9, 0)), candle(day(1, 9, 2)), candle(day(1, 9, 3)))
    bars = minutes(traded(*rows), own)

    kinds = dict(zip(bars["opened_at"].dt.minute(), bars["source_kind"], strict=True))
    assert kinds == {0: "trades", 1: "trades", 2: "candles_1m", 3: "candles_1m"}
    assert bars["volume_base"].to_list() == [2, 2, 2, 2]


def test_a_volume_that_a_venue_added_up_in_doubles_still_agrees_with_its_trades() -> None:
    rows = [trade(day(1, 9, minute), n, quantity="0.1") for n, minute in enumerate([0, 0, 0, 1, 1, 1])]
    own = stated(candle(day(1, 9, 0), volume="0.30000000000000004"), candle(day(1, 9, 1), volume="0.300000001"))
    bars = minutes(traded(*rows), own)
    assert bars.select("source_kind", "volume_base").rows() == [
        ("trades", Decimal("0.3")),
        ("candles_1m", Decimal("0.300000001")),
    ]


def test_every_interval_that_a_venue_may_state_enters_at_one_length() -> None:
    entered = [interval for step in STEPS.values() for interval in step.candles]
    assert sorted(entered) == sorted(INTERVALS)
    assert list(STEPS) == list(BARS)


def test_a_coarser_candle_stands_in_where_minutes_are_missing_and_only_there() -> None:
    first = [candle(day(1, 9, minute)) for minute in range(60)]
    second = [candle(day(1, 10, minute)) for minute in range(0, 60, 2)]
    hours = [candle(day(1, hour), volume="120", interval="1h", taker_buy_base=None) for hour in (9, 10, 11)]
    bars = every_length(minutes(stated=stated(*first, *second)), stated(*hours))

    told = bars["1h"].select("source_kind", "n_obs", "completeness", "volume_base", "taker_buy_base").rows()
    assert told == [
        ("candles_1m", 60, 1.0, 120, 0),
        ("candles_1h", 60, 1.0, 120, None),
        ("candles_1h", 60, 1.0, 120, None),
    ]
    assert bars["15m"]["completeness"].to_list() == [1.0] * 4 + [8 / 15, 7 / 15] * 2
    (of_day,) = bars["1d"].to_dicts()
    assert (of_day["source_kind"], of_day["n_obs"], of_day["n_expected"]) == ("candles_1h", 180, 1440)
    assert of_day["volume_base"] == 360
    # The sum of what is known of takers is not what they bought.
    assert of_day["taker_buy_base"] is None


def test_the_source_that_covers_most_is_taken_where_none_covers_all() -> None:
    halves = [candle(day(1, 9), volume="7", interval="30m")]
    bars = every_length(minutes(stated=stated(candle(day(1, 9, 31)), candle(day(1, 9, 1)))), stated(*halves))
    assert bars["1h"].select("source_kind", "n_obs", "volume_base").rows() == [("candles_30m", 30, 7)]


def test_a_candle_that_begins_between_two_buckets_is_no_bar() -> None:
    sunday = candle(day(5), interval="1w")
    assert every_length(minutes(), stated(sunday, candle(day(1, 9, 1), interval="5m")))["5m"].is_empty()
    assert every_length(minutes(), stated(sunday))["1w"].is_empty()
    assert every_length(minutes(), stated(candle(day(6), interval="1w")))["1w"].height == 1


def test_an_empty_minute_is_an_observation_whose_price_is_none_of_the_hours() -> None:
    """The venue repeats the price before; its own hour opens with the first trade."""
    rows = [candle(day(1, 9, 0), price="99", volume="0"), candle(day(1, 9, 1), price="5"), candle(day(1, 9, 2), "6")]
    (hour,) = every_length(minutes(stated=stated(*rows)))["1h"].to_dicts()
    prices = [hour[name] for name in ("open", "high", "low", "close", "vwap")]
    assert prices == [5, 6, 5, 6, Decimal("5.5")]
    assert (hour["n_obs"], hour["volume_base"], hour["n_trades"]) == (3, 4, 2)
    (quiet,) = every_length(minutes(stated=stated(rows[0])))["1h"].to_dicts()
    assert (quiet["open"], quiet["close"], quiet["vwap"], quiet["n_trades"]) == (99, 99, None, 0)


def test_what_a_venue_does_not_state_is_unknown_in_every_longer_bar() -> None:
    rows = [candle(day(1, 9, 0)), candle(day(1, 9, 1), volume_quote=None, n_trades=None)]
    (hour,) = every_length(minutes(stated=stated(*rows)))["1h"].to_dicts()
    assert (hour["volume_base"], hour["volume_quote"], hour["vwap"], hour["n_trades"]) == (4, None, None, None)


def test_a_vwap_is_weighted_by_volume_again_and_never_averaged() -> None:
    rows = [candle(day(1, 9, 0), price="10", volume="3"), candle(day(1, 9, 1), price="20", volume="1")]
    assert every_length(minutes(stated=stated(*rows)))["5m"]["vwap"].to_list() == [Decimal("12.5")]


# ---- time ----


def test_weeks_begin_on_monday_and_months_are_the_calendars() -> None:
    rows = [candle(day(5)), candle(day(6)), candle(day(31, 23, 59)), candle(day(1, month=2))]
    bars = every_length(minutes(stated=stated(*rows)))
    monday = day(30).replace(year=2024, month=12)
    assert bars["1w"]["opened_at"].to_list() == [monday, day(6), day(27)]
    assert bars["1w"]["year"].to_list() == [dt.date(2024, 1, 1), dt.date(2025, 1, 1), dt.date(2025, 1, 1)]
    assert bars["1mo"].select("opened_at", "n_expected", "n_obs").rows() == [
        (day(1), 31 * 1440, 3),
        (day(1, month=2), 28 * 1440, 1),
    ]


@pytest.mark.parametrize(
    ("arrived_at", "closed"),
    [
        (day(1, 9, 0), []),
        (day(1, 9, 1), ["1m"]),
        (day(1, 9, 5), ["1m", "5m"]),
        (day(1, 10), ["1m", "5m", "15m", "1h"]),
        (day(2), ["1m", "5m", "15m", "1h", "4h", "1d"]),
        (day(1, month=2), list(STEPS)),
    ],
)
def test_a_bar_is_closed_once_something_of_it_arrived_after_its_end(arrived_at: dt.datetime, closed: list[str]) -> None:
    bars = every_length(minutes(traded(trade(day(1, 9, 0), 1, ingested_at=arrived_at))))
    assert [interval for interval, table in bars.items() if table["is_closed"].item()] == closed
    for interval, table in bars.items():
        (bar,) = table.to_dicts()
        end = bar["opened_at"] + dt.timedelta(minutes=bar["n_expected"])
        assert bar["available_at"] == max(end, arrived_at), interval


def test_microseconds_and_numbers_of_ids_decide_what_came_first() -> None:
    at = day(1, 9)
    us = round(at.timestamp() * 1e6)
    rows = [
        trade(at, 9, price="1", traded_us=us + 700),
        trade(at, 10, price="2", traded_us=us + 700),
        trade(at, 11, price="3", traded_us=us + 100),
        trade(at, 0, price="4", trade_id="x", traded_us=us + 700),
    ]
    (bar,) = minutes(traded(*rows)).to_dicts()
    assert (bar["open"], bar["close"]) == (3, 4)
    (bar,) = minutes(traded(*rows[:3])).to_dicts()
    assert (bar["open"], bar["close"]) == (3, 2)


def test_two_venues_of_one_pair_are_two_markets() -> None:
    other = {"venue": "coinbase", "market_id": "coinbase:BTC/USD"}
    bars = minutes(stated=stated(candle(day(1)), candle(day(1), price="7", **other)))
    assert bars.select("market_id", "close").rows() == [("coinbase:BTC/USD", 7), ("kraken:BTC/USD", 5)]


def test_a_month_of_twenty_markets_is_rolled_up_in_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    from time import perf_counter, process_time

    n_markets, n_minutes = 20, 31 * 1440
    opened = pl.datetime_range(day(1), day(1, month=2), "1m", closed="left", eager=True, time_unit="us")
    one = stated(candle(day(1))).drop("opened_at", "market_id")
    grid = pl.DataFrame({"opened_at": opened}).join(
        pl.DataFrame({"market_id": [f"kraken:C{n}/USD" for n in range(n_markets)]}), how="cross"
    )
    month = grid.join(one, how="cross").select(polars_schema(Candles).names())

    start, start_cpu = perf_counter(), process_time()
    shortest = minutes(stated=month)
    minute_s = perf_counter() - start
    bars = every_length(shortest, month)
    seconds, cpu_s = perf_counter() - start, process_time() - start_cpu
    with capsys.disabled():
        print(f"\n{len(month)} candles of a minute to bars in {minute_s:.2f} s, to all lengths in {seconds:.2f} s")
    assert {interval: len(table) for interval, table in bars.items()} == {
        "1m": n_markets * n_minutes,
        "5m": n_markets * n_minutes // 5,
        "15m": n_markets * n_minutes // 15,
        "1h": n_markets * 31 * 24,
        "4h": n_markets * 31 * 6,
        "1d": n_markets * 31,
        "1w": n_markets * 5,
        "1mo": n_markets,
    }
    # Measured 3 s on two cores. Other work on the machine costs time and none of this; five times that would be ours.
    assert cpu_s < 15
