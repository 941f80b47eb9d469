"""Binance's REST in the sandbox: the tape over real sockets, in Binance's words, and as ccxt reads it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import ccxt
import httpx
import pytest

from crypto_assets.sandbox import Events, Fault, Hole, Listing, Market, Outage, Sandbox, serve
from crypto_assets.sandbox.tape import microseconds, tape_of

NOW = datetime(2025, 3, 1, 12, 0, 30, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
MARKET = Market(7)
TAPE = tape_of(MARKET, Events())
BTC = "binance:BTC/USDT"


def ms(at: datetime) -> int:
    return microseconds(at) // 1000


def ask(sandbox: Sandbox, http: httpx.Client, path: str, **params: object) -> Any:
    answer = http.get(f"{sandbox.url}/binance/api/v3/{path}", params={k: str(v) for k, v in params.items()})
    assert answer.status_code == 200, answer.text
    return answer.json()


def klines(sandbox: Sandbox, http: httpx.Client, symbol: str = "BTCUSDT", **params: object) -> list[list[Any]]:
    rows: list[list[Any]] = ask(sandbox, http, "klines", symbol=symbol, **{"interval": "1m", **params})
    return rows


def stated(row: list[Any]) -> dict[str, Any]:
    """A kline under the names of the tape's records."""
    names = ("open", "high", "low", "close", "volume_base")
    return {
        "opened_at": datetime.fromtimestamp(row[0] / 1000, UTC),
        **{name: Decimal(text) for name, text in zip(names, row[1:6], strict=True)},
        "volume_quote": Decimal(row[7]),
        "n_trades": row[8],
        "taker_buy_base": Decimal(row[9]),
        "taker_buy_quote": Decimal(row[10]),
    }


def test_klines_are_the_tapes_candles_in_every_field(sandbox: Sandbox, http: httpx.Client) -> None:
    start = NOW.replace(second=0) - 16 * HOUR
    rows = klines(sandbox, http, startTime=ms(start), endTime=ms(start + 10 * HOUR), limit=1000)
    truth = TAPE.candles(BTC, "1m", start, start + 10 * HOUR + MINUTE, is_filled=True).records()
    assert len(rows) == 601  # both ends are inclusive
    assert [stated(row) for row in rows] == truth
    assert {len(row) for row in rows} == {12}
    assert all(row[6] == row[0] + 59_999 and row[11] == "0" for row in rows)
    assert all(len(text.partition(".")[2]) == 8 for row in rows for text in (*row[1:6], row[7], row[9], row[10]))


@pytest.mark.parametrize(
    ("interval", "name"), [("1m", "1m"), ("3m", "3m"), ("1h", "1h"), ("1d", "1d"), ("1w", "1w"), ("1M", "1mo")]
)
def test_every_interval_rolls_up_the_same_trades(
    sandbox: Sandbox, http: httpx.Client, interval: str, name: str
) -> None:
    rows = klines(sandbox, http, interval=interval, limit=3)
    opened = datetime.fromtimestamp(rows[0][0] / 1000, UTC)
    truth = TAPE.candles(BTC, name, opened, NOW, until=NOW, is_filled=True).records()
    assert [stated(row) for row in rows] == truth
    assert len(rows) == 3
    assert rows[-1][6] >= ms(NOW)  # the last one is unfinished


def test_limits_and_ends_are_binances(sandbox: Sandbox, http: httpx.Client) -> None:
    assert len(klines(sandbox, http)) == 500
    assert len(klines(sandbox, http, limit=1000)) == 1000
    first = klines(sandbox, http, startTime=0, limit=2)
    assert [row[0] for row in first] == [
        ms(datetime(2018, 1, 1, tzinfo=UTC)),
        ms(datetime(2018, 1, 1, 0, 1, tzinfo=UTC)),
    ]
    exact = klines(sandbox, http, startTime=ms(NOW - HOUR), endTime=ms(NOW - HOUR + 2 * MINUTE))
    assert [row[0] for row in exact] == [ms(NOW.replace(second=0) - HOUR + n * MINUTE) for n in (1, 2)]
    before = klines(sandbox, http, endTime=ms(NOW.replace(second=0) - DAY), limit=1)
    assert [row[0] for row in before] == [ms(NOW.replace(second=0) - DAY)]
    assert klines(sandbox, http, startTime=ms(NOW + DAY)) == []


def test_times_may_be_asked_for_in_microseconds(sandbox: Sandbox, http: httpx.Client) -> None:
    answer = http.get(
        f"{sandbox.url}/binance/api/v3/klines?symbol=BTCUSDT&interval=1m&limit=1",
        headers={"X-MBX-TIME-UNIT": "MICROSECOND"},
    )
    [row] = answer.json()
    assert (row[0], row[6]) == (microseconds(NOW.replace(second=0)), microseconds(NOW.replace(second=0)) + 59_999_999)
    same = klines(sandbox, http, startTime=row[0], endTime=row[6])
    assert [r[0] for r in same] == [row[0] // 1000]


@pytest.mark.parametrize(
    ("path", "code", "message"),
    [
        ("klines?symbol=BTCUSDT&interval=1m&limit=1001", -1130, "Data sent for parameter 'limit' is not valid."),
        ("klines?symbol=BTCUSDT&interval=1m&limit=0", -1130, "Data sent for parameter 'limit' is not valid."),
        (
            "klines?symbol=BTCUSDT&interval=1m&limit=None",
            -1100,
            "Illegal characters found in parameter 'limit'; legal range is '^[0-9]{1,20}$'.",
        ),
        ("klines?symbol=NOBODY&interval=1m", -1121, "Invalid symbol."),
        ("klines?symbol=BTCUSDT&interval=7m", -1120, "Invalid interval."),
        ("klines?symbol=BTCUSDT&interval=1mo", -1120, "Invalid interval."),
        (
            "klines?interval=1m",
            -1102,
            "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed.",
        ),
        ("aggTrades?symbol=BTCUSDT&limit=5000", -1130, "Data sent for parameter 'limit' is not valid."),
        ("aggTrades?symbol=BTCUSDT&fromId=1&startTime=1", -1128, "Combination of optional parameters invalid."),
        ("ticker/24hr?symbol=NOBODY", -1121, "Invalid symbol."),
    ],
)
def test_errors_are_binances_own(sandbox: Sandbox, http: httpx.Client, path: str, code: int, message: str) -> None:
    answer = http.get(f"{sandbox.url}/binance/api/v3/{path}")
    assert (answer.status_code, answer.json()) == (400, {"code": code, "msg": message})


def test_aggregate_trades_are_the_tapes_by_time_and_by_id(sandbox: Sandbox, http: httpx.Client) -> None:
    start, end = NOW - 2 * HOUR, NOW - HOUR
    truth = TAPE.trades(BTC, start, end)
    rows = ask(sandbox, http, "aggTrades", symbol="BTCUSDT", startTime=ms(start), endTime=ms(end) - 1, limit=1000)
    assert len(rows) == len(truth) < 1000
    for row, trade in zip(rows, truth.records(), strict=True):
        assert (row["a"], row["f"], row["l"]) == (trade["trade_id"], trade["first_id"], trade["last_id"])
        assert (Decimal(row["p"]), Decimal(row["q"])) == (trade["price"], trade["quantity"])
        assert (row["T"], row["m"], row["M"]) == (trade["traded_us"] // 1000, trade["taker_side"] == "sell", True)
    by_id = ask(sandbox, http, "aggTrades", symbol="BTCUSDT", fromId=rows[10]["a"], limit=20)
    assert by_id == rows[10:30]
    latest = ask(sandbox, http, "aggTrades", symbol="BTCUSDT")
    assert len(latest) == 500
    assert latest[-1]["T"] <= ms(NOW)


def test_raw_trades_are_the_aggregates_parts(sandbox: Sandbox, http: httpx.Client) -> None:
    raw = ask(sandbox, http, "trades", symbol="BTCUSDT", limit=300)
    assert [trade["id"] for trade in raw] == list(range(raw[0]["id"], raw[0]["id"] + 300))
    assert all(Decimal(trade["quoteQty"]) == Decimal(trade["price"]) * Decimal(trade["qty"]) for trade in raw)
    aggregates = ask(sandbox, http, "aggTrades", symbol="BTCUSDT", limit=50)
    for one in aggregates:
        parts = [trade for trade in raw if one["f"] <= trade["id"] <= one["l"]]
        assert sum((Decimal(trade["qty"]) for trade in parts), Decimal()) == Decimal(one["q"])


def test_the_ticker_of_a_day_is_the_days_trades(sandbox: Sandbox, http: httpx.Client) -> None:
    row = ask(sandbox, http, "ticker/24hr", symbol="BTCUSDT")
    trades = TAPE.trades(BTC, NOW - DAY, NOW).records()
    assert Decimal(row["openPrice"]) == trades[0]["price"]
    assert Decimal(row["lastPrice"]) == trades[-1]["price"]
    assert Decimal(row["highPrice"]) == max(trade["price"] for trade in trades)
    assert Decimal(row["lowPrice"]) == min(trade["price"] for trade in trades)
    assert Decimal(row["volume"]) == sum(trade["quantity"] for trade in trades)
    value = sum(trade["quantity"] * trade["price"] for trade in trades)
    assert Decimal(row["quoteVolume"]) == value
    assert abs(Decimal(row["weightedAvgPrice"]) - value / Decimal(row["volume"])) < Decimal("1e-8")
    change = trades[-1]["price"] - trades[0]["price"]
    assert Decimal(row["priceChange"]) == change
    assert abs(Decimal(row["priceChangePercent"]) - 100 * change / trades[0]["price"]) <= Decimal("0.0005")
    assert (row["count"], row["firstId"], row["lastId"]) == (
        sum(trade["n_trades"] for trade in trades),
        trades[0]["first_id"],
        trades[-1]["last_id"],
    )
    assert Decimal(row["bidPrice"]) < Decimal(row["askPrice"])
    book = ask(sandbox, http, "ticker/bookTicker", symbol="BTCUSDT")
    assert book == {"symbol": "BTCUSDT", **{k: row[k] for k in ("bidPrice", "bidQty", "askPrice", "askQty")}}
    assert ask(sandbox, http, "ticker/price", symbol="BTCUSDT")["price"] == row["lastPrice"]


def test_tickers_of_all_and_of_some(sandbox: Sandbox, http: httpx.Client) -> None:
    everything = ask(sandbox, http, "ticker/24hr")
    assert len(everything) == 27
    some = ask(sandbox, http, "ticker/bookTicker", symbols='["ETHUSDT","BTCUSDT"]')
    assert [row["symbol"] for row in some] == ["ETHUSDT", "BTCUSDT"]
    delisted = next(row for row in everything if row["symbol"] == "DAIUSDT")
    assert (delisted["count"], delisted["firstId"], delisted["volume"]) == (0, -1, "0.00000000")


def test_shapes_are_those_of_the_recorded_samples(sandbox: Sandbox, http: httpx.Client, recorded: Path) -> None:
    def sample(name: str) -> Any:
        return json.loads((recorded.parent / "binance" / "spot_http" / f"{name}_response.json").read_text())

    def shape(value: Any) -> Any:
        return {key: type(inner) for key, inner in value.items()} if isinstance(value, dict) else type(value)

    assert shape(ask(sandbox, http, "avgPrice", symbol="BTCUSDT")) == shape(sample("avg_price"))
    assert shape(ask(sandbox, http, "ticker/24hr", symbol="BTCUSDT")) == shape(sample("ticker_24hr"))
    assert shape(ask(sandbox, http, "trades", symbol="BTCUSDT", limit=1)[0]) == shape(sample("trades")[0])
    assert [type(x) for x in klines(sandbox, http, limit=1)[0]] == [type(x) for x in sample("klines")[0]]
    info, sampled = ask(sandbox, http, "exchangeInfo"), sample("exchange_info")
    assert set(sampled) - set(info) == {"sors"}
    assert set(info["symbols"][0]) == set(sampled["symbols"][0])


def test_exchange_info_tells_who_trades(sandbox: Sandbox, http: httpx.Client) -> None:
    symbols = {row["symbol"]: row for row in ask(sandbox, http, "exchangeInfo")["symbols"]}
    assert symbols["BTCUSDT"]["status"] == "TRADING"
    assert symbols["DAIUSDT"]["status"] == "BREAK"
    assert {"baseAsset": "ETH", "quoteAsset": "BTC"}.items() <= symbols["ETHBTC"].items()
    sandbox.set_now(datetime(2020, 1, 1, tzinfo=UTC))
    assert "SHIBUSDT" not in {row["symbol"] for row in ask(sandbox, http, "exchangeInfo")["symbols"]}
    answer = http.get(f"{sandbox.url}/binance/api/v3/klines?symbol=SHIBUSDT&interval=1d")
    assert answer.json()["code"] == -1121
    assert len(klines(sandbox, http, symbol="ETHUSDT", interval="1d", limit=1)) == 1


def test_a_delisted_market_keeps_its_history(sandbox: Sandbox, http: httpx.Client) -> None:
    rows = klines(sandbox, http, symbol="DAIUSDT", interval="1h", limit=2)
    assert [row[0] for row in rows] == [ms(datetime(2024, 8, 6, hour, tzinfo=UTC)) for hour in (1, 2)]


def test_weight_is_counted_and_its_limit_is_429_and_then_418(http: httpx.Client) -> None:
    real = [NOW]
    with serve(MARKET, clock=lambda: real[0]) as sandbox:
        sandbox.state.limits["binance"] = 6
        url = f"{sandbox.url}/binance/api/v3/klines?symbol=BTCUSDT&interval=1m&limit=1"
        answers = [http.get(url) for _ in range(15)]
        assert [answer.status_code for answer in answers] == [200] * 3 + [429] * 10 + [418] * 2
        assert [answer.headers["X-MBX-USED-WEIGHT-1M"] for answer in answers[:4]] == ["2", "4", "6", "8"]
        assert (answers[3].headers["Retry-After"], answers[3].json()["code"]) == ("30", -1003)
        assert (answers[13].headers["Retry-After"], answers[13].json()["code"]) == ("120", -1003)
        real[0] += 30 * timedelta(seconds=1)
        assert http.get(url).status_code == 200
        sandbox.forget_calls()
        assert http.get(f"{sandbox.url}/binance/api/v3/exchangeInfo").status_code == 429
        assert sandbox.calls()["calls"] == {"binance.exchange_info": 1}


@pytest.mark.parametrize(
    ("kind", "status", "text"),
    [
        ("geo_block", 451, "restricted location"),
        ("ban", 418, "IP banned"),
        ("rate_limited_minute", 429, "Too much request weight"),
        ("server_error", 500, '"code":-1000'),
        ("html", 200, "<!DOCTYPE html>"),
    ],
)
def test_faults_answer_in_binances_words(
    sandbox: Sandbox, http: httpx.Client, kind: Any, status: int, text: str
) -> None:
    sandbox.set_faults([Fault(kind=kind, endpoint="binance.klines", subject="ETH")])
    url = f"{sandbox.url}/binance/api/v3/klines?interval=1m&limit=1&symbol="
    answer = http.get(url + "ETHUSDT")
    assert answer.status_code == status
    assert text in answer.text
    assert ("retry-after" in answer.headers) == (status in (418, 429))
    assert http.get(url + "BTCUSDT").status_code == 200


def test_faults_spoil_klines(sandbox: Sandbox, http: httpx.Client) -> None:
    clean = klines(sandbox, http, limit=20)
    url = f"{sandbox.url}/binance/api/v3/klines?interval=1m&limit=20&symbol=BTCUSDT"

    def spoiled(kind: Any) -> httpx.Response:
        sandbox.set_faults([Fault(kind=kind, endpoint="binance.klines")])
        return http.get(url)

    assert spoiled("duplicate_rows").json() == [*clean, *clean[:2]]
    assert spoiled("out_of_order").json() == clean[::-1]
    assert spoiled("empty_list").json() == []
    assert spoiled("negative_price").json()[10][4] == "-" + clean[10][4]
    assert spoiled("not_a_record").json()[10] == 42
    text = json.dumps(clean, separators=(",", ":")).encode()
    assert spoiled("truncated").content == text[: len(text) // 2]
    with pytest.raises(httpx.RemoteProtocolError):
        spoiled("short_body")


def test_a_venue_that_is_down_refuses_and_leaves_a_gap(sandbox: Sandbox, http: httpx.Client) -> None:
    start = NOW.replace(second=0) - HOUR
    sandbox.set_events(Events(outages=(Outage("binance", start, start + 10 * MINUTE),)))
    rows = klines(sandbox, http, startTime=ms(start - 2 * MINUTE), limit=4)
    assert [row[0] for row in rows] == [ms(start + n * MINUTE) for n in (-2, -1, 10, 11)]
    sandbox.set_now(start + MINUTE)
    assert http.get(f"{sandbox.url}/binance/api/v3/ping").status_code == 503
    assert http.get(f"{sandbox.url}/kraken/0/public/Time").status_code == 200


def test_a_hole_is_not_served_until_it_heals(sandbox: Sandbox, http: httpx.Client) -> None:
    start = NOW.replace(second=0) - HOUR
    asked: dict[str, object] = {"startTime": ms(start), "endTime": ms(start + 4 * MINUTE)}
    whole = klines(sandbox, http, **asked)
    hole = Hole(BTC, start + MINUTE, start + 3 * MINUTE, ("rest",), healed_at=NOW + MINUTE)
    sandbox.set_events(Events(holes=(hole,)))
    assert klines(sandbox, http, **asked) == [whole[0], *whole[3:]]
    trades = ask(sandbox, http, "aggTrades", symbol="BTCUSDT", **asked)
    assert {(trade["T"] - ms(start)) // 60_000 for trade in trades} & {1, 2} == set()
    sandbox.set_now(NOW + MINUTE)
    assert klines(sandbox, http, **asked) == whole


def test_events_are_set_over_http_too(sandbox: Sandbox, http: httpx.Client) -> None:
    listing = {"market_id": BTC, "start": "2025-03-01T11:00:00Z"}
    answer = http.put(f"{sandbox.url}/_sandbox/events", json={"listings": [listing]})
    assert answer.status_code == 200
    assert sandbox.state.events == Events(listings=(Listing(BTC, datetime(2025, 3, 1, 11, tzinfo=UTC)),))
    assert klines(sandbox, http)[0][0] == ms(datetime(2025, 3, 1, 11, tzinfo=UTC))
    assert http.put(f"{sandbox.url}/_sandbox/events", json={"nonsense": 1}).status_code == 400


def test_ccxt_reads_it_as_binance(sandbox: Sandbox) -> None:
    venue = ccxt.binance({"options": {"fetchMarkets": {"types": ["spot"]}, "fetchCurrencies": False}})
    venue.urls["api"]["public"] = f"{sandbox.url}/binance/api/v3"
    markets = venue.load_markets()
    assert len(markets) == 27
    assert markets["BTC/USDT"]["precision"] == {"amount": 1e-05, "price": 0.01, "base": 1e-08, "quote": 1e-08}
    assert [symbol for symbol, facts in markets.items() if not facts["active"]] == ["DAI/USDT"]
    start = NOW.replace(second=0) - HOUR
    candles = venue.fetch_ohlcv("BTC/USDT", "1m", since=ms(start), limit=5)
    truth = TAPE.candles(BTC, "1m", start, start + 5 * MINUTE, is_filled=True).records()
    assert candles == [
        [ms(row["opened_at"]), *(float(row[name]) for name in ("open", "high", "low", "close", "volume_base"))]
        for row in truth
    ]
    trade = venue.fetch_trades("BTC/USDT", limit=1)[0]
    last = TAPE.last_trades(BTC, 1, microseconds(NOW)).records()[0]
    assert (trade["id"], trade["side"], trade["timestamp"]) == (
        str(last["trade_id"]),
        last["taker_side"],
        last["traded_us"] // 1000,
    )
    ticker = venue.fetch_ticker("BTC/USDT")
    assert ticker["bid"] < ticker["ask"]
    assert ticker["last"] == float(last["price"])
    assert set(venue.fetch_tickers()) == set(markets)
    sandbox.set_faults([Fault(kind="ban", endpoint="binance.klines")])
    with pytest.raises(ccxt.DDoSProtection):
        venue.fetch_ohlcv("BTC/USDT")
