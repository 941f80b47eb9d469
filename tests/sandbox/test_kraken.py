"""Kraken in the sandbox: the tape over real sockets in Kraken's words, and as ccxt reads it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import ccxt
import httpx
import pytest

from crypto_assets.sandbox import Events, Fault, Hole, Market, Outage, Sandbox
from crypto_assets.sandbox.tape import microseconds, tape_of

NOW = datetime(2025, 3, 1, 12, 0, 30, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
MARKET = Market(7)
TAPE = tape_of(MARKET, Events())
BTC = "kraken:BTC/USD"


def ask(sandbox: Sandbox, http: httpx.Client, path: str, **params: object) -> dict[str, Any]:
    answer = http.get(f"{sandbox.url}/kraken/0/public/{path}", params={k: str(v) for k, v in params.items()})
    assert answer.status_code == 200
    body = answer.json()
    assert body["error"] == []
    result: dict[str, Any] = body["result"]
    return result


def seconds(at: datetime) -> int:
    return microseconds(at) // 1_000_000


@pytest.mark.parametrize(("minutes", "name"), [(1, "1m"), (5, "5m"), (60, "1h"), (240, "4h")])
def test_candles_are_the_tapes_with_the_mean_price(
    sandbox: Sandbox, http: httpx.Client, minutes: int, name: str
) -> None:
    since = NOW - 40 * minutes * MINUTE
    result = ask(sandbox, http, "OHLC", pair="XBTUSD", interval=minutes, since=seconds(since))
    truth = TAPE.candles(BTC, name, since, NOW, until=NOW, is_filled=True).records()
    rows = result["XXBTZUSD"]
    assert len(rows) == len(truth) == 40
    for row, candle in zip(rows, truth, strict=True):
        assert row[0] == seconds(candle["opened_at"])
        prices = (candle["open"], candle["high"], candle["low"], candle["close"])
        assert tuple(Decimal(text) for text in row[1:5]) == prices
        assert (Decimal(row[6]), row[7]) == (candle["volume_base"], candle["n_trades"])
        mean = candle["volume_quote"] / candle["volume_base"] if candle["n_trades"] else Decimal()
        assert abs(Decimal(row[5]) - mean) <= Decimal("0.005")
    assert result["last"] == rows[-2][0]


def test_a_minute_without_trades_is_flat(sandbox: Sandbox, http: httpx.Client) -> None:
    rows = ask(sandbox, http, "OHLC", pair="XLMUSD", interval=1)["XXLMZUSD"]
    flat = [(before, row) for before, row in pairwise(rows) if row[7] == 0]
    assert len(flat) > 100
    for before, row in flat:
        assert row[1:] == [before[4]] * 4 + ["0.00000", "0.00000000", 0]


def test_only_the_latest_720_are_reached(sandbox: Sandbox, http: httpx.Client) -> None:
    for since in (None, 0, seconds(NOW - 100 * DAY)):
        rows = ask(sandbox, http, "OHLC", pair="XXBTZUSD", **({} if since is None else {"since": since}))["XXBTZUSD"]
        assert len(rows) == 720
        assert rows[-1][0] == seconds(NOW.replace(second=0))
        assert rows[0][0] == rows[-1][0] - 719 * 60
    polled = ask(sandbox, http, "OHLC", pair="XXBTZUSD", since=rows[-2][0])["XXBTZUSD"]
    assert polled == rows[-1:]  # since is exclusive


def test_trades_are_paged_by_the_nanosecond_without_loss(sandbox: Sandbox, http: httpx.Client) -> None:
    start = NOW - 2 * HOUR
    truth = TAPE.trades(BTC, start, NOW).split().records()
    found: list[list[Any]] = []
    since = str(microseconds(start) * 1000 - 1)
    while True:
        result = ask(sandbox, http, "Trades", pair="XBT/USD", since=since, count=37)
        if not result["XXBTZUSD"]:
            break
        found += result["XXBTZUSD"]
        since = result["last"]
    assert [row[6] for row in found] == [trade["first_id"] for trade in truth]
    for row, trade in zip(found, truth, strict=True):
        assert (Decimal(row[0]), Decimal(row[1])) == (trade["price"], trade["quantity"])
        assert round(row[2] * 1e6) == trade["traded_us"]
        assert row[3] == trade["taker_side"][0]
    assert since == result["last"]


def test_trades_without_a_since_are_the_latest(sandbox: Sandbox, http: httpx.Client) -> None:
    latest = ask(sandbox, http, "Trades", pair="XXBTZUSD")["XXBTZUSD"]
    assert len(latest) == 1000
    assert latest[-1][6] == TAPE.last_trades(BTC, 1, microseconds(NOW)).last_id[0]
    by_seconds = ask(sandbox, http, "Trades", pair="XXBTZUSD", since=seconds(NOW - HOUR))["XXBTZUSD"]
    assert by_seconds[0][2] > seconds(NOW - HOUR)
    assert by_seconds == ask(sandbox, http, "Trades", pair="XXBTZUSD", since=seconds(NOW - HOUR) * 10**9)["XXBTZUSD"]


def test_the_ticker_has_today_and_the_last_24_hours(sandbox: Sandbox, http: httpx.Client) -> None:
    row = ask(sandbox, http, "Ticker", pair="XBTUSD,ETHUSD")["XXBTZUSD"]
    midnight = NOW.replace(hour=0, minute=0, second=0)
    for n, start in enumerate((midnight, NOW - DAY)):
        trades = TAPE.trades(BTC, start, NOW).records()
        volume = sum(trade["quantity"] for trade in trades)
        assert Decimal(row["v"][n]) == volume
        assert Decimal(row["h"][n]) == max(trade["price"] for trade in trades)
        assert Decimal(row["l"][n]) == min(trade["price"] for trade in trades)
        assert row["t"][n] == sum(trade["n_trades"] for trade in trades)
        value = sum(trade["quantity"] * trade["price"] for trade in trades)
        assert abs(Decimal(row["p"][n]) - value / volume) <= Decimal("0.005")
    assert Decimal(row["o"]) == TAPE.trades(BTC, midnight, NOW).records()[0]["price"]
    assert Decimal(row["b"][0]) < Decimal(row["a"][0])
    assert len(ask(sandbox, http, "Ticker")) == 16


def test_pairs_have_the_old_names(sandbox: Sandbox, http: httpx.Client) -> None:
    pairs = ask(sandbox, http, "AssetPairs")
    assert {"XXBTZUSD", "XETHZUSD", "XETHXXBT", "XDGUSD", "SOLUSD", "USDTZUSD", "XXBTZEUR"} <= set(pairs)
    assert {"altname": "XBTUSD", "wsname": "XBT/USD", "base": "XXBT", "quote": "ZUSD"}.items() <= pairs[
        "XXBTZUSD"
    ].items()
    assert list(ask(sandbox, http, "AssetPairs", pair="XBTUSD")) == ["XXBTZUSD"]
    assert ask(sandbox, http, "Time")["unixtime"] == seconds(NOW)


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("OHLC?pair=NOBODY", "EQuery:Unknown asset pair"),
        ("OHLC", "EGeneral:Invalid arguments"),
        ("OHLC?pair=XBTUSD&interval=7", "EGeneral:Invalid arguments:interval"),
        ("Trades?pair=XBTUSD&count=1001", "EGeneral:Invalid arguments:count"),
        ("Trades?pair=XBTUSD&since=yesterday", "EGeneral:Invalid arguments:since"),
        ("Ticker?pair=XBTUSD,NOBODY", "EQuery:Unknown asset pair"),
    ],
)
def test_errors_come_with_http_200(sandbox: Sandbox, http: httpx.Client, path: str, error: str) -> None:
    answer = http.get(f"{sandbox.url}/kraken/0/public/{path}")
    assert (answer.status_code, answer.json()) == (200, {"error": [error]})


def test_limits_faults_and_outages_are_told_in_krakens_words(sandbox: Sandbox, http: httpx.Client) -> None:
    def said(kind: Any) -> tuple[int, Any]:
        sandbox.set_faults([Fault(kind=kind, endpoint="kraken.ohlc", subject="XBT")])
        answer = http.get(f"{sandbox.url}/kraken/0/public/OHLC?pair=XBTUSD")
        return answer.status_code, answer.json()

    assert said("rate_limited_minute") == (200, {"error": ["EAPI:Rate limit exceeded"]})
    assert said("ban") == (200, {"error": ["EGeneral:Temporary lockout"]})
    assert said("server_error") == (520, {"error": ["EService:Unavailable"]})
    assert said("geo_block")[0] == 451
    status, body = said("duplicate_rows")
    assert (status, len(body["result"]["XXBTZUSD"])) == (200, 792)
    assert said("empty_list")[1]["result"]["XXBTZUSD"] == []
    sandbox.set_faults([])
    sandbox.set_events(Events(outages=(Outage("kraken", NOW - MINUTE, NOW + MINUTE),)))
    assert http.get(f"{sandbox.url}/kraken/0/public/Time").json() == {"error": ["EService:Unavailable"]}
    sandbox.set_events(Events())
    sandbox.state.limits["kraken"] = 1
    sandbox.forget_calls()
    answers = [http.get(f"{sandbox.url}/kraken/0/public/Time").json()["error"] for _ in range(2)]
    assert answers == [[], ["EAPI:Rate limit exceeded"]]


def test_holes_are_left_out(sandbox: Sandbox, http: httpx.Client) -> None:
    start = NOW.replace(second=0) - HOUR
    whole = ask(sandbox, http, "OHLC", pair="XBTUSD", since=seconds(start) - 1)["XXBTZUSD"]
    sandbox.set_events(Events(holes=(Hole(BTC, start, start + 5 * MINUTE),)))
    assert ask(sandbox, http, "OHLC", pair="XBTUSD", since=seconds(start) - 1)["XXBTZUSD"] == whole[5:]
    trades = ask(sandbox, http, "Trades", pair="XBTUSD", since=seconds(start), count=1)["XXBTZUSD"]
    assert trades[0][2] >= seconds(start + 5 * MINUTE)


def test_ccxt_reads_it_as_kraken(sandbox: Sandbox) -> None:
    venue = ccxt.kraken({"rateLimit": 1})
    venue.urls["api"]["public"] = f"{sandbox.url}/kraken"
    markets = venue.load_markets()
    assert len(markets) == 16
    assert markets["BTC/USD"]["id"] == "XXBTZUSD"
    assert {"DOGE/USD", "ETH/BTC", "USDT/USD"} <= set(markets)
    start = NOW.replace(second=0) - HOUR
    candles = venue.fetch_ohlcv("BTC/USD", "1m", since=microseconds(start) // 1000, limit=5)
    truth = TAPE.candles(BTC, "1m", start, start + 5 * MINUTE, is_filled=True).records()
    assert candles == [
        [
            seconds(row["opened_at"]) * 1000,
            *(float(row[name]) for name in ("open", "high", "low", "close", "volume_base")),
        ]
        for row in truth
    ]
    trade = venue.fetch_trades("BTC/USD", limit=1)[0]
    last = TAPE.last_trades(BTC, 1, microseconds(NOW)).split().records()[-1]
    assert (trade["id"], trade["side"], trade["timestamp"]) == (
        str(last["first_id"]),
        last["taker_side"],
        last["traded_us"] // 1000,
    )
    ticker = venue.fetch_ticker("BTC/USD")
    assert ticker["bid"] < ticker["ask"]
    assert ticker["last"] == float(last["price"])
    assert set(venue.fetch_tickers()) == set(markets)
