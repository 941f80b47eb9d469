"""Alpha Vantage: what its answers mean, what is asked of it and how often, and what its answers become."""

from __future__ import annotations

import datetime as dt
import json
import logging
import multiprocessing
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from crypto_assets.errors import UsageError
from crypto_assets.providers import alpha_vantage
from crypto_assets.providers.alpha_vantage import PROVIDER, AlphaVantage, classify, ending, opening
from crypto_assets.providers.answers import Pull, raw_rows
from crypto_assets.resources.budget import BudgetExhausted
from crypto_assets.resources.clock import FixedClock
from crypto_assets.resources.http import Answer, Outcome
from crypto_assets.sandbox import Fault, Market, Sandbox
from crypto_assets.tables import trusted
from crypto_assets.tables.conform import Settled, settle
from crypto_assets.tables.contract import Contract
from crypto_assets.tables.window import Window
from tests.loopback import speaking

JSON = {"content-type": "application/json"}
NOW = dt.datetime(2026, 10, 14, 12, 34, 56, tzinfo=dt.UTC)
MARKET = Market(7)
ALL_TIME = Window.of_days(dt.date(2009, 1, 3), dt.date(2030, 1, 1))
KEY = "CANARY-Key-77aa10b2c3d4"
LIMIT = "our standard API rate limit is 25 requests per day. Please subscribe to any of the premium plans"
BURST = (
    "Please consider spreading out your free API requests more sparingly (1 request per second). You may subscribe to"
    " any of the premium plans to lift the free key rate limit (25 requests per day), raise the per-second burst limit,"
    " and instantly unlock all premium endpoints"
)
RATE = {
    "1. From_Currency Code": "BTC",
    "2. From_Currency Name": "Bitcoin",
    "3. To_Currency Code": "USD",
    "4. To_Currency Name": "United States Dollar",
    "5. Exchange Rate": "54367.51973628",
    "6. Last Refreshed": "2026-10-14 12:34:01",
    "7. Time Zone": "UTC",
    "8. Bid Price": "54362.1",
    "9. Ask Price": "54372.9",
}


def rate(**changes: Any) -> bytes:
    """A rate with fields changed by their words; None leaves one out."""
    words = {name.partition(". ")[2].lower().replace(" ", "_"): name for name in RATE}
    sent: dict[str, Any] = {**RATE, **{words[word]: value for word, value in changes.items()}}
    return json.dumps({"Realtime Currency Exchange Rate": {n: v for n, v in sent.items() if v != "absent"}}).encode()


def series(points: Mapping[str, Any], spacing: str = "Daily", zone: str = "UTC", market: str = "USD") -> bytes:
    """A series with these points."""
    meta = {"2. Digital Currency Code": "BTC", "4. Market Code": market, "7. Time Zone": zone}
    name = f"Time Series Crypto ({spacing})" if spacing.endswith("min") else f"Time Series (Digital Currency {spacing})"
    return json.dumps({"Meta Data": meta, name: points}).encode()


def point(price: float = 10, volume: Any = "1.5") -> dict[str, Any]:
    """A point with the new keys."""
    prices = {"1. open": price, "2. high": price + 2, "3. low": price - 2, "4. close": price + 1}
    return {**{name: f"{value:.8f}" for name, value in prices.items()}, "5. volume": volume}


def landed(body: bytes, *, at: dt.datetime = NOW, window: Window = ALL_TIME) -> pl.DataFrame:
    """The body as the raw row of a good pull."""
    endpoint = alpha_vantage.RATE if b"Realtime" in body else "digital_currency_daily"
    answer = Answer(endpoint, "GET /query", 200, Outcome.OK, body, at, "", 1)
    return raw_rows(
        [Pull("alpha_vantage", endpoint, "BTC/USD 1d", (answer,), True, at, (window.start, window.end), (0,))]
    )


def settled(contract: type[Contract], *frames: pl.DataFrame) -> Settled:
    parse = {trusted.Quotes: alpha_vantage.parse_rates, trusted.Candles: alpha_vantage.parse_series}[contract]
    return settle(contract, parse(pl.concat(frames)), ALL_TIME)


def quotes(body: bytes, at: dt.datetime = NOW) -> Settled:
    return settled(trusted.Quotes, landed(body, at=at))


def candles(body: bytes, at: dt.datetime = NOW, window: Window = ALL_TIME) -> Settled:
    return settled(trusted.Candles, landed(body, at=at, window=window))


# ---- what an answer means ----


@pytest.mark.parametrize(
    ("sent", "outcome", "told"),
    [
        (rate(), Outcome.OK, ""),
        (series({"2026-10-13": point()}), Outcome.OK, ""),
        (series({"2026-10-13 15:35:00": point(volume=1840)}, "5min"), Outcome.OK, ""),
        ({"Error Message": "the parameter apikey is invalid"}, Outcome.DENIED, "ALPHAVANTAGE_API_KEY"),
        ({"Error Message": "This API function (NOPE) does not exist."}, Outcome.DENIED, "no longer has"),
        ({"Error Message": "Invalid API call. Please retry"}, Outcome.NOT_FOUND, "rejects the pair"),
        ({"Note": "call frequency is 5 calls per minute and 500 calls per day"}, Outcome.RATE_LIMITED, "minute"),
        # Keys were renamed before: the words say what is used up. A day's limit asked again costs the next day's.
        ({"Information": "call frequency is 5 calls per minute and 500 per day"}, Outcome.RATE_LIMITED, "minute"),
        ({"Note": LIMIT}, Outcome.QUOTA_EXHAUSTED, "day's calls"),
        ({"Information": "This is a premium endpoint. You may subscribe"}, Outcome.DENIED, "premium: the plan"),
        ({"Information": "The **demo** API key is for demo purposes only"}, Outcome.DENIED, "demo key"),
        ({"Information": f"We have detected your API key as X and {LIMIT}"}, Outcome.QUOTA_EXHAUSTED, "day's calls"),
        ({"Information": "API key rate limit exceeded"}, Outcome.QUOTA_EXHAUSTED, "day's calls"),
        ({"Information": BURST}, Outcome.RATE_LIMITED, "too fast"),
        ({}, Outcome.NOT_FOUND, "no data for this pair"),
        ({"Global Quote": {}}, Outcome.NOT_FOUND, "no data for this pair"),
        ({"Realtime Currency Exchange Rate": {}}, Outcome.NOT_FOUND, "no data for this pair"),
        ({"Meta Data": {"1. Information": "x"}}, Outcome.NOT_FOUND, "no data for this pair"),
        (series({}), Outcome.NOT_FOUND, "no data for this pair"),
        ({"Error Message": "the apikey", "Note": "n", "Information": "i"}, Outcome.DENIED, "key is refused"),
        ({"Note": "n", "Information": "premium endpoint"}, Outcome.RATE_LIMITED, "minute"),
        ({**json.loads(rate()), "Information": LIMIT}, Outcome.OK, ""),
        ({"surprise": "x"}, Outcome.MALFORMED, "neither data nor an error"),
        ({"items": "0", "feed": []}, Outcome.MALFORMED, "neither data nor an error"),
        (b"timestamp,open\n", Outcome.MALFORMED, "not the JSON object"),
        (b"<html>", Outcome.MALFORMED, "not the JSON object"),
        (b"[]", Outcome.MALFORMED, "not the JSON object"),
        (b"", Outcome.MALFORMED, "not the JSON object"),
    ],
)
def test_an_answer_is_named_by_the_data_that_it_has_and_then_by_what_it_says(
    sent: Any, outcome: Outcome, told: str
) -> None:
    body = sent if isinstance(sent, bytes) else json.dumps(sent).encode()
    verdict = classify(200, JSON, body)
    assert (verdict.outcome, told in verdict.detail) == (outcome, True)
    waits = {Outcome.RATE_LIMITED: {2, 60}, Outcome.QUOTA_EXHAUSTED: {86_400}}
    assert verdict.retry_after in waits.get(outcome, {None})


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(429, Outcome.RATE_LIMITED), (401, Outcome.DENIED), (403, Outcome.DENIED), (404, Outcome.MALFORMED)],
)
def test_a_status_that_the_provider_never_sends_is_named_all_the_same(status: int, outcome: Outcome) -> None:
    assert classify(status, JSON, b"{}").outcome is outcome


@pytest.mark.recorded
def test_every_recorded_error_is_named(recorded: Path) -> None:
    told = json.loads((recorded.parent / "alpha_vantage" / "errors_http200.json").read_bytes())
    found = {error["kind"]: classify(200, JSON, json.dumps(error["body"]).encode()) for error in told}
    assert {kind: verdict.outcome for kind, verdict in found.items()} == {
        "demo_key": Outcome.DENIED,
        "daily_limit_2024+": Outcome.QUOTA_EXHAUSTED,
        "daily_limit_alt": Outcome.QUOTA_EXHAUSTED,
        "minute_limit_old": Outcome.RATE_LIMITED,
        "premium": Outcome.DENIED,
        "bad_function": Outcome.DENIED,
        "bad_apikey": Outcome.DENIED,
        "empty_result": Outcome.NOT_FOUND,
    }
    assert found["premium"].detail.startswith("premium")
    assert "demo" in found["demo_key"].detail


# ---- rates ----


def test_a_rate_is_a_quote_with_all_nine_columns() -> None:
    result = quotes(rate())
    assert result.rejected.is_empty()
    row = result.rows.row(0, named=True)
    assert row["market_id"] == "alpha_vantage:BTC/USD"
    assert row["observed_at"] == dt.datetime(2026, 10, 14, 12, 34, 1, tzinfo=dt.UTC)
    assert [row[column] for column in alpha_vantage.RATE_FIELDS] == [
        "BTC",
        "Bitcoin",
        "USD",
        "United States Dollar",
        Decimal("54367.51973628"),
        "2026-10-14 12:34:01",
        "UTC",
        Decimal("54362.1"),
        Decimal("54372.9"),
    ]


@pytest.mark.parametrize(
    ("zone", "stamp", "utc"),
    [
        ("US/Eastern", "2026-07-01 08:00:00", "2026-07-01T12:00:00"),
        ("US/Eastern", "2026-01-15 08:00:00", "2026-01-15T13:00:00"),
        ("Asia/Tokyo", "2026-03-01 03:00:00", "2026-02-28T18:00:00"),
    ],
)
def test_the_time_zone_of_a_rate_is_honoured(zone: str, stamp: str, utc: str) -> None:
    """D3: no local time passes for UTC, in summer and in winter."""
    row = quotes(rate(time_zone=zone, last_refreshed=stamp)).rows.row(0, named=True)
    assert row["observed_at"] == dt.datetime.fromisoformat(utc).replace(tzinfo=dt.UTC)
    assert (row["last_refreshed"], row["time_zone"]) == (stamp, zone)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"last_refreshed": "soon"}, "observed_at|nullability"),
        ({"time_zone": "Mars/Olympus"}, "observed_at|nullability"),
        ({"time_zone": "../../etc/passwd"}, "observed_at|nullability"),
        ({"time_zone": "US/Eastern", "last_refreshed": "2025-11-02 01:30:00"}, "observed_at|nullability"),
        ({"time_zone": "US/Eastern", "last_refreshed": "2026-03-08 02:30:00"}, "observed_at|nullability"),
        ({"last_refreshed": "2026-10-15 12:00:00"}, "observed_at|nullability"),
        ({"last_refreshed": "1970-01-01 00:00:00"}, "observed_at|nullability"),
        ({"exchange_rate": "1e40"}, "cast:exchange_rate"),
        ({"exchange_rate": "-1.5"}, "exchange_rate|min"),
        ({"exchange_rate": None}, "exchange_rate|nullability"),
        ({"bid_price": "-"}, "cast:bid_price"),
        ({"from_currency_code": "B/C"}, "market_id|regex"),
    ],
)
def test_a_rate_that_cannot_be_is_quarantined_with_its_reason(changes: dict[str, Any], reason: str) -> None:
    result = quotes(rate(**changes))
    assert result.rows.is_empty()
    assert reason in result.rejected["reasons"].item().split(",")
    assert "Exchange Rate" in result.rejected["record"].item()


def test_names_bid_and_ask_may_be_missing_and_codes_in_small_letters() -> None:
    sent = rate(from_currency_code="btc", from_currency_name=None, bid_price="absent", ask_price="absent")
    row = quotes(sent).rows.row(0, named=True)
    assert (row["market_id"], row["from_currency_code"]) == ("alpha_vantage:BTC/USD", "btc")
    assert [row["from_currency_name"], row["bid_price"], row["ask_price"]] == [None, None, None]


def test_keys_are_found_by_their_words_whatever_their_numbers() -> None:
    shuffled = rate()
    for old, new in ((b'"6. Last', b'"17. Last'), (b'"5. Exchange', b'"1. Exchange'), (b'"7. Time', b'"6. Time')):
        shuffled = shuffled.replace(old, new)
    left, right = quotes(rate()).rows, quotes(shuffled).rows
    assert left.drop("pull_id").equals(right.drop("pull_id"))
    sent = series({"2026-10-12": point()}).replace(b'"7. Time Zone"', b'"12. Time Zone"')
    assert len(candles(sent).rows) == 1


# ---- series ----


def opened(result: Settled) -> list[str]:
    return [f"{moment:%Y-%m-%d %H:%M}" for moment in result.rows["opened_at"]]


def test_a_series_is_read_oldest_first_and_its_unfinished_candle_is_dropped() -> None:
    sent = series({"2026-10-14": point(30), "2026-10-13": point(20), "2026-10-12": point(10)})
    result = candles(sent)
    assert opened(result) == ["2026-10-12 00:00", "2026-10-13 00:00"]
    assert result.rows["open"].to_list() == [Decimal(10), Decimal(20)]
    row = result.rows.row(0, named=True)
    assert [row[c] for c in ("venue", "market_id", "interval", "base_symbol", "quote_symbol", "volume_base")] == [
        "alpha_vantage",
        "alpha_vantage:BTC/USD",
        "1d",
        "BTC",
        "USD",
        Decimal("1.5"),
    ]
    assert [row[c] for c in ("volume_quote", "n_trades", "taker_buy_base", "taker_buy_quote")] == [None] * 4


def test_the_newest_candle_rests_for_an_hour_after_its_end() -> None:
    sent = series({"2026-10-13": point()})
    assert opened(candles(sent, at=dt.datetime(2026, 10, 14, 0, 59, tzinfo=dt.UTC))) == []
    assert opened(candles(sent, at=dt.datetime(2026, 10, 14, 1, 0, tzinfo=dt.UTC))) == ["2026-10-13 00:00"]
    both = series({"2026-10-14": point(), "2026-10-13": point()})
    assert opened(candles(both, at=dt.datetime(2026, 10, 14, 0, 1, tzinfo=dt.UTC))) == ["2026-10-13 00:00"]


@pytest.mark.parametrize(
    ("spacing", "stamps", "interval", "opens"),
    [
        # The newest week and month are in progress and bear today's date.
        ("Weekly", ["2026-10-14", "2026-10-11", "2026-10-04"], "1w", ["2026-09-28 00:00", "2026-10-05 00:00"]),
        ("Monthly", ["2026-10-14", "2026-09-30", "2026-02-28"], "1mo", ["2026-02-01 00:00", "2026-09-01 00:00"]),
        # Stamped by their first days instead, they are the same weeks and months.
        ("Weekly", ["2026-10-12", "2026-10-05", "2026-09-28"], "1w", ["2026-09-28 00:00", "2026-10-05 00:00"]),
        ("Monthly", ["2026-10-01", "2026-09-01", "2026-02-01"], "1mo", ["2026-02-01 00:00", "2026-09-01 00:00"]),
        ("60min", ["2026-10-14 12:00:00", "2026-10-14 11:00:00"], "1h", ["2026-10-14 11:00"]),
        ("1min", ["2026-10-14 12:34:00", "2026-10-14 12:33:00"], "1m", ["2026-10-14 12:33"]),
    ],
)
def test_a_bucket_opens_where_it_begins_whichever_of_its_days_is_its_stamp(
    spacing: str, stamps: list[str], interval: str, opens: list[str]
) -> None:
    result = candles(series({stamp: point() for stamp in stamps}, spacing))
    assert opened(result) == opens
    assert set(result.rows["interval"]) == {interval}


def test_buckets_meet_without_gap_or_overlap_for_six_years() -> None:
    for interval in ("1d", "1w", "1mo"):
        day, edges = dt.datetime(2020, 1, 1, tzinfo=dt.UTC), set()
        for _ in range(6 * 366):
            start = opening(day, interval)
            end = ending(start, interval)
            assert start <= day < end
            edges.add((start, end))
            day += dt.timedelta(days=1)
        ordered = sorted(edges)
        assert all(left[1] == right[0] for left, right in pairwise(ordered))
        assert all(start.weekday() == 0 for start, _ in ordered) or interval != "1w"


def test_a_days_candle_in_another_time_zone_opens_at_its_own_midnight() -> None:
    stamps = {"2026-10-13": point(), "2026-10-12": point()}
    assert opened(candles(series(stamps, zone="US/Eastern"))) == ["2026-10-12 04:00", "2026-10-13 04:00"]


OLD = {
    "1a. open (CNY)": "70",
    "1b. open (USD)": "10",
    "2a. high (CNY)": "84",
    "2b. high (USD)": "12",
    "3a. low (CNY)": "63",
    "3b. low (USD)": "9",
    "4a. close (CNY)": "77",
    "4b. close (USD)": "11",
    "5. volume": "3.25",
    "6. market cap (USD)": "35.75",
}


def test_old_keys_give_the_markets_own_currency() -> None:
    row = candles(series({"2023-10-12": OLD}, market="CNY")).rows.row(0, named=True)
    assert [row[c] for c in ("open", "high", "low", "close", "volume_base")] == [
        Decimal(70),
        Decimal(84),
        Decimal(63),
        Decimal(77),
        Decimal("3.25"),
    ]


def test_old_keys_with_usd_as_the_market_say_everything_twice_and_a_cap_that_is_the_volume() -> None:
    twice = {name.replace("CNY", "USD"): value for name, value in OLD.items()}
    twice |= {name.replace("b.", "a."): value for name, value in OLD.items() if "b." in name}
    twice = {name.replace("CNY", "USD"): value for name, value in twice.items()} | {"6. market cap (USD)": "3.25"}
    row = candles(series({"2023-10-12": twice})).rows.row(0, named=True)
    assert [row["open"], row["close"], row["volume_base"], row["volume_quote"]] == [10, 11, Decimal("3.25"), None]


def test_an_integer_volume_is_read_as_it_was_sent() -> None:
    assert candles(series({"2026-10-13": point(volume=1840)})).rows["volume_base"].to_list() == [Decimal(1840)]


@pytest.mark.parametrize(
    ("stamp", "sent", "reason"),
    [
        ("yesterday", point(), "opened_at|nullability"),
        ("2026-13-45", point(), "opened_at|nullability"),
        ("2026-10-12", {**point(), "2. high": "1"}, "well_formed"),
        ("2026-10-12", {**point(), "4. close": "n/a"}, "cast:close"),
        ("2026-10-12", {**point(), "1. open": None}, "open|nullability"),
        ("2026-10-12", {**point(), "5. volume": "-1"}, "volume_base|min"),
        ("2026-10-12", "a text", "open|nullability"),
        ("2026-10-12", {**point(), "4. close": "1." + "1" * 19}, "precision:close"),
    ],
)
def test_a_point_that_cannot_be_is_quarantined_alone(stamp: str, sent: Any, reason: str) -> None:
    result = candles(series({"2026-10-13": point(), "2026-10-11": point(), stamp: sent}))
    assert opened(result) == ["2026-10-11 00:00", "2026-10-13 00:00"]
    assert reason in result.rejected["reasons"].item().split(",")
    assert stamp in result.rejected["record"].item()


def test_a_series_whose_points_lost_their_close_has_drifted_and_is_refused_whole() -> None:
    points = {f"2026-10-{day:02}": {k: v for k, v in point().items() if "close" not in k} for day in range(1, 10)}
    result = candles(series(points))
    assert result.rows.is_empty()
    assert all("pull_refused" in reasons for reasons in result.rejected["reasons"])


def test_an_answer_counts_for_its_own_window_only() -> None:
    sent = series({f"2026-10-{day:02}": point(day + 10) for day in range(14, 0, -1)})
    first = landed(sent, window=Window.of_days(dt.date(2009, 1, 3), dt.date(2026, 10, 9)))
    rest = Window.of_days(dt.date(2026, 10, 10), dt.date(2026, 10, 13))
    then = landed(sent, at=NOW + dt.timedelta(days=1), window=rest)
    result = settled(trusted.Candles, first, then)
    assert len(result.rows) == 13
    assert result.rows["n_duplicates"].sum() == 0


# ---- recorded answers ----

OLD_STYLE = "old_style_2017-2021"


@pytest.mark.recorded
@pytest.mark.parametrize(
    ("name", "market", "observed_at", "price"),
    [
        ("currency_exchange_rate_BTC_CNY_2017-12", "BTC/CNY", "2017-12-20T19:23:21", "109631.430607"),
        (
            f"{OLD_STYLE}/exchange_rate_btc_usd_null_names_2017-11",
            "BTC/USD",
            "2017-11-05T19:04:16",
            "7534.84533924",
        ),
    ],
)
def test_recorded_rates_become_quotes(recorded: Path, name: str, market: str, observed_at: str, price: str) -> None:
    at = dt.datetime.fromisoformat(observed_at).replace(tzinfo=dt.UTC)
    body = (recorded.parent / "alpha_vantage" / f"{name}.json").read_bytes()
    assert classify(200, JSON, body).outcome is Outcome.OK
    result = quotes(body, at=at + dt.timedelta(seconds=30))
    row = result.rows.row(0, named=True)
    told = (row["market_id"], row["observed_at"], row["exchange_rate"])
    assert told == (f"alpha_vantage:{market}", at, Decimal(price))
    assert row["bid_price"] is None


@pytest.mark.recorded
@pytest.mark.parametrize(
    ("name", "interval", "market", "opens", "ohlcv"),
    [
        (
            "digital_currency_daily_BTC_EUR_2024-06-02_truncated",
            "1d",
            "BTC/EUR",
            "2024-06-02",
            ("62445.22", "62571.94", "62409.93", "62557.06", "1.26747903"),
        ),
        (
            f"{OLD_STYLE}/crypto_daily",
            "1d",
            "BTC/CNY",
            "2017-11-08",
            ("47522.8635156", "50612.14484694", "47481.89173071", "50610.55297109", "1.18515089"),
        ),
        (
            f"{OLD_STYLE}/crypto_weekly",
            "1w",
            "BTC/CNY",
            "2017-11-06",
            ("50004.89", "50612.1448469", "47481.8917307", "50610.5529711", "15.1913188"),
        ),
        (
            f"{OLD_STYLE}/crypto_monthly",
            "1mo",
            "BTC/CNY",
            "2017-11-01",
            ("40403.2310795", "50785.8975899", "40403.2310795", "50610.5529711", "31.83540897"),
        ),
        (
            f"{OLD_STYLE}/crypto_intraday",
            "5m",
            "ETH/USD",
            "2021-10-23T15:35",
            ("4091.71", "4094.52", "4083.51", "4088.99", "1840"),
        ),
    ],
)
def test_recorded_series_become_candles(
    recorded: Path, name: str, interval: str, market: str, opens: str, ohlcv: tuple[str, ...]
) -> None:
    """The one point of each, which is dropped as unfinished on its day, and taken when its bucket is long over."""
    body = (recorded.parent / "alpha_vantage" / f"{name}.json").read_bytes()
    assert classify(200, JSON, body).outcome is Outcome.OK
    begins = dt.datetime.fromisoformat(opens).replace(tzinfo=dt.UTC)
    assert candles(body, at=begins + dt.timedelta(minutes=4)).rows.is_empty()
    row = candles(body, at=begins + dt.timedelta(days=33)).rows.row(0, named=True)
    assert (row["market_id"], row["interval"], row["opened_at"]) == (f"alpha_vantage:{market}", interval, begins)
    assert tuple(row[c] for c in ("open", "high", "low", "close", "volume_base")) == tuple(map(Decimal, ohlcv))


# ---- asking, against the sandbox ----


@contextmanager
def asking(
    sandbox: Sandbox, home: Path, *, key: str | None, clock: FixedClock | None = None, **asked: Any
) -> Iterator[AlphaVantage]:
    told = {"pairs": ["BTC/USD", "ETH/USD"], "intervals": ["1m"], **asked}
    clock = clock or FixedClock(NOW)
    with speaking(PROVIDER, AlphaVantage, sandbox.url, home, clock, key=key, asked=told) as opened:
        yield opened


def n_calls(sandbox: Sandbox) -> int:
    return sum(n for name, n in sandbox.calls()["calls"].items() if name.startswith("alpha_vantage."))


def test_rates_are_asked_a_call_a_pair_and_cover_refresh_to_arrival(sandbox: Sandbox, tmp_path: Path) -> None:
    with asking(sandbox, tmp_path, key="a-free-key-1") as av:
        pulls = list(av.rates())
    assert [pull.subject for pull in pulls] == ["BTC/USD", "ETH/USD"]
    assert all(pull.is_complete and pull.window[0] <= pull.observed_at < pull.window[1] for pull in pulls)
    result = settled(trusted.Quotes, raw_rows(pulls))
    truth = [MARKET.price(asset, NOW) for asset in ("bitcoin", "ethereum")]
    assert [float(price) for price in result.rows["exchange_rate"]] == pytest.approx(truth, rel=1e-9)


@pytest.mark.parametrize("subject", ["BTC/USD 1d", "BTC/USD 1w", "ETH/EUR 1mo"])
@pytest.mark.parametrize("now", [NOW, NOW.replace(year=2023)], ids=["new keys", "old keys"])
def test_series_are_the_markets_truth_in_either_key_style(
    sandbox: Sandbox, tmp_path: Path, subject: str, now: dt.datetime
) -> None:
    sandbox.set_now(now)
    with asking(sandbox, tmp_path, key="a-free-key-2", clock=FixedClock(now)) as av:
        (pull,) = av.series(subject, ALL_TIME)
    assert (b"1a. open" in pull.answers[0].body) is (now.year == 2023)
    rows = settled(trusted.Candles, raw_rows([pull])).rows
    pair, interval = subject.split()
    assert set(rows["market_id"]) == {f"alpha_vantage:{pair}"}
    assert len(rows) == {"1d": 999, "1w": 142, "1mo": 32}[interval]
    assert pull.window[1] == opening(now, interval)
    base, quote = {"BTC": ("bitcoin", None), "ETH": ("ethereum", "euro")}[pair[:3]]
    for row in (rows.row(0, named=True), rows.row(-1, named=True)):
        for price, moment in (("open", row["opened_at"]), ("close", ending(row["opened_at"], interval))):
            truth = (MARKET.price(base, moment) or 0) / ((MARKET.price(quote, moment) or 1) if quote else 1)
            assert float(row[price]) == pytest.approx(truth, rel=1e-9)
    opens, ends = rows["opened_at"].to_list(), [ending(at, interval) for at in rows["opened_at"]]
    assert opens[1:] == ends[:-1]


def test_intraday_of_a_premium_key_has_whole_volumes(sandbox: Sandbox, tmp_path: Path) -> None:
    with asking(sandbox, tmp_path, key="premium-key-1") as av:
        (pull,) = av.series("BTC/USD 5m", Window.of_days(dt.date(2026, 10, 12), dt.date(2026, 10, 13)))
    rows = settled(trusted.Candles, raw_rows([pull])).rows
    assert len(rows) == 576
    assert set(rows["interval"]) == {"5m"}
    assert all(volume == volume.to_integral_value() for volume in rows["volume_base"])
    assert pull.window == (dt.datetime(2026, 10, 12, tzinfo=dt.UTC), dt.datetime(2026, 10, 14, tzinfo=dt.UTC))


def test_intraday_of_a_free_key_is_denied_as_premium(sandbox: Sandbox, tmp_path: Path) -> None:
    with asking(sandbox, tmp_path, key="a-free-key-3") as av:
        (pull,) = av.series("BTC/USD 1m", ALL_TIME)
    assert (pull.ending.outcome, pull.is_hopeless, pull.ending.attempts) == (Outcome.DENIED, True, 1)
    assert pull.ending.detail == "premium: the plan does not include this function"


def test_an_unknown_pair_is_terminal_for_itself_and_asked_once(sandbox: Sandbox, tmp_path: Path) -> None:
    with asking(sandbox, tmp_path, key="a-free-key-4", pairs=["NOPE/USD", "BTC/USD"]) as av:
        bad, good = av.rates()
        (series_of_bad,) = av.series("NOPE/USD 1d", ALL_TIME)
    assert (bad.ending.outcome, bad.ending.detail) == (Outcome.NOT_FOUND, "no data for this pair")
    assert bad.is_hopeless
    assert (series_of_bad.ending.outcome, good.is_complete) == (Outcome.NOT_FOUND, True)
    assert n_calls(sandbox) == 3


def test_a_note_is_waited_for_a_minute_and_asked_once_more(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.set_faults([Fault("rate_limited_minute", "alpha_vantage.currency_exchange_rate", times=1)])
    clock = FixedClock(NOW)
    with asking(sandbox, tmp_path, key="a-free-key-5", clock=clock) as av:
        pull = av.rate("BTC/USD")
    assert (pull.ending.outcome, pull.ending.attempts) == (Outcome.OK, 2)
    assert clock.now() >= NOW + dt.timedelta(seconds=60)


def test_a_used_up_quota_ends_all_calls_until_the_next_day(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.set_faults([Fault("quota_429", "alpha_vantage.currency_exchange_rate", times=1)])
    clock = FixedClock(NOW)
    with asking(sandbox, tmp_path, key=KEY, clock=clock) as av:
        pull = av.rate("BTC/USD")
        assert (pull.ending.outcome, pull.ending.attempts) == (Outcome.QUOTA_EXHAUSTED, 1)
        assert b"API key as [redacted]" in pull.ending.body
        with pytest.raises(BudgetExhausted, match="2026-10-15"):
            av.rate("ETH/USD")
    clock.set(NOW + dt.timedelta(days=1))
    with asking(sandbox, tmp_path, key=KEY, clock=clock) as av:
        assert av.rate("ETH/USD").is_complete
    assert n_calls(sandbox) == 2


def test_the_key_goes_in_the_query_and_comes_back_nowhere(
    sandbox: Sandbox, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The quota's words repeat the key: they are landed without it, and so is everything else."""
    caplog.set_level(logging.DEBUG)
    sandbox.set_faults([Fault("quota_429", "alpha_vantage.digital_currency_daily", times=1)])
    with asking(sandbox, tmp_path, key=KEY) as av:
        pulls = [av.rate("BTC/USD"), *av.series("BTC/USD 1d", ALL_TIME)]
        with pytest.raises(BudgetExhausted) as refusal:
            av.rate("BTC/USD")
    assert [pull.ending.outcome for pull in pulls] == [Outcome.OK, Outcome.QUOTA_EXHAUSTED]
    rows = raw_rows(pulls)
    query = "function=CURRENCY_EXCHANGE_RATE&from_currency=BTC&to_currency=USD"
    assert rows["request"].to_list()[0] == f"GET /alpha_vantage/query?{query}"
    seen = repr(pulls) + repr(rows.to_dicts()) + caplog.text + str(refusal.value) + repr(av.__dict__)
    seen += b"".join(path.read_bytes() for path in tmp_path.iterdir()).decode(errors="replace")
    assert KEY not in seen
    assert "/alpha_vantage/query: ok" in caplog.text


@pytest.mark.parametrize("pair", ["BTCUSD", "BTC/", "btc/usd", "BTC/USD/EUR", "B TC/USD", "BTC/USD&function=X"])
def test_a_pair_that_is_none_is_refused_before_any_call(sandbox: Sandbox, tmp_path: Path, pair: str) -> None:
    with pytest.raises(UsageError, match="is not a pair"), asking(sandbox, tmp_path, key=None, pairs=[pair]):
        pass
    with asking(sandbox, tmp_path, key=None) as av, pytest.raises(UsageError):
        list(av.series(f"{pair} 1d", ALL_TIME))
    assert n_calls(sandbox) == 0


def test_a_series_of_no_such_interval_is_refused_before_any_call(sandbox: Sandbox, tmp_path: Path) -> None:
    with asking(sandbox, tmp_path, key=None) as av, pytest.raises(UsageError, match="not a series"):
        list(av.series("BTC/USD 4h", ALL_TIME))
    assert n_calls(sandbox) == 0


# ---- 25 calls a day, five a minute ----


def test_no_minute_has_more_than_five_calls(sandbox: Sandbox, tmp_path: Path) -> None:
    clock = FixedClock(NOW)
    moments = []
    with asking(sandbox, tmp_path, key="premium-key-2", clock=clock) as av:
        for _ in range(12):
            av.rate("BTC/USD")
            moments.append(clock.now())
    sixth = zip(moments, moments[5:], strict=False)
    assert all(later - earlier >= dt.timedelta(seconds=60) for earlier, later in sixth)


def test_the_26th_call_of_a_day_is_made_by_nobody_after_any_restart(sandbox: Sandbox, tmp_path: Path) -> None:
    """Each round is a process's own client on the shared ledger; the key is one that the provider lets ask for ever."""
    clock = FixedClock(NOW)
    made = refused = 0
    for _ in range(9):
        with asking(sandbox, tmp_path, key="premium-key-3", clock=clock) as av:
            for pair in ("BTC/USD", "ETH/USD", "DOGE/USD"):
                try:
                    av.rate(pair)
                    made += 1
                except BudgetExhausted:
                    refused += 1
        clock.sleep(3600)
    assert (made, refused, n_calls(sandbox)) == (25, 2, 25)
    clock.set(NOW + dt.timedelta(days=1, seconds=1))
    with asking(sandbox, tmp_path, key="premium-key-3", clock=clock) as av:
        assert av.rate("BTC/USD").is_complete


def _greedy(url: str, home: Path, minutes: int) -> None:
    """A process that asks as often as it may, in a day that lasts a moment."""
    clock = FixedClock(NOW + dt.timedelta(minutes=minutes))
    told = {"pairs": ["BTC/USD"]}
    with speaking(PROVIDER, AlphaVantage, url, home, clock, key="premium-key-4", asked=told) as av:
        for _ in range(40):
            try:
                av.rate("BTC/USD")
            except BudgetExhausted:
                return
            clock.sleep(13)


def test_two_processes_and_two_threads_share_25_calls(sandbox: Sandbox, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers: list[Any] = [context.Process(target=_greedy, args=(sandbox.url, tmp_path, n)) for n in (0, 1)]
    workers += [threading.Thread(target=_greedy, args=(sandbox.url, tmp_path, n)) for n in (2, 3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert n_calls(sandbox) == 25


def test_the_limits_are_the_free_plans() -> None:
    told = alpha_vantage.source(alpha_vantage.URL, key=KEY)
    assert [str(limit) for limit in told.limits] == ["5 calls per 60 seconds", "25 calls per 1 days"]
    assert KEY not in repr(told)
    assert PROVIDER.needs_key
    assert PROVIDER.key_name == "ALPHAVANTAGE_API_KEY"
