"""Spot venues: pages to the end of a window, finished candles only, every refusal by its name, every digit as sent."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import polars as pl
import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from crypto_assets.assets.handles import connected, provider_urls
from crypto_assets.errors import UsageError
from crypto_assets.providers.answers import Pull, raw_rows
from crypto_assets.providers.exchange_records import parse_candles, parse_tickers, parse_trades
from crypto_assets.providers.exchanges import PROVIDER, Exchanges
from crypto_assets.providers.venues import VENUES
from crypto_assets.resources.budget import BudgetExhausted
from crypto_assets.resources.clock import FixedClock
from crypto_assets.resources.http import Outcome
from crypto_assets.sandbox import Market, Sandbox
from crypto_assets.sandbox.events import Events, Hole, Outage
from crypto_assets.sandbox.faults import Fault, Kind
from crypto_assets.sandbox.tape import Tape, microseconds, tape_of
from crypto_assets.tables import trusted
from crypto_assets.tables.conform import Settled, settle
from crypto_assets.tables.window import DAY, HOUR, Window

NOW = dt.datetime(2026, 10, 2, 12, 3, 30, tzinfo=dt.UTC)
MARKET = Market(7)
YESTERDAY = Window.of_day(dt.date(2026, 10, 1))
MARKETS = ("binance:BTC/USDT", "kraken:BTC/USD", "coinbase:BTC/USD")
QUIET_MARKETS = ("binance:STX/USDT", "kraken:ADA/USD", "coinbase:DOGE/USD")
FURTHER = ("volume_quote", "n_trades", "taker_buy_base", "taker_buy_quote")
SIX = ("opened_at", "open", "high", "low", "close", "volume_base")


@pytest.fixture(scope="module")
def tape() -> Tape:
    return tape_of(MARKET, Events())


@contextmanager
def venues(
    home: Path,
    urls: Mapping[str, str],
    *,
    markets: Sequence[str] = MARKETS,
    interval: str = "1m",
    now: dt.datetime = NOW,
    clock: FixedClock | None = None,
) -> Iterator[Exchanges]:
    clock = clock or FixedClock(now)
    asked = {"markets": markets, "intervals": [interval]}
    with connected(PROVIDER, home / "state", clock, urls=urls, key=None, asked=asked, is_local=True) as opened:
        assert isinstance(opened, Exchanges)
        yield opened


@pytest.fixture
def exchanges(sandbox: Sandbox, tmp_path: Path) -> Iterator[Exchanges]:
    with venues(tmp_path, provider_urls(PROVIDER, sandbox.url)) as opened:
        yield opened


def settled(
    pulls: Sequence[Pull], window: Window, *, parse: Any = parse_candles, table: Any = trusted.Candles
) -> Settled:
    return settle(table, parse(raw_rows(pulls)), window)


def requests(pulls: Sequence[Pull]) -> list[dict[str, str]]:
    """The parameters of every call."""
    answers = [answer for pull in pulls for answer in pull.answers if answer.status is not None]
    return [{k: v[0] for k, v in parse_qs(urlsplit(a.request).query).items()} for a in answers]


def endings(pulls: Sequence[Pull]) -> list[tuple[bool, Outcome]]:
    return [(pull.is_complete, pull.ending.outcome) for pull in pulls]


# ---- candles ----


@pytest.mark.parametrize("market", [*MARKETS, *QUIET_MARKETS])
def test_candles_are_the_truth_in_every_field(exchanges: Exchanges, tape: Tape, market: str) -> None:
    pulls = list(exchanges.candles(f"{market} 1m", Window(NOW - 36 * HOUR, NOW)))
    whole = Window(NOW - DAY - DAY, NOW)
    found = settled(pulls, whole)
    venue = VENUES[market.partition(":")[0]]
    good = [pull for pull in pulls if pull.ending.outcome is Outcome.OK]
    truth = tape.candles(market, "1m", good[0].window[0], good[-1].window[1], is_filled=not venue.omits_quiet)
    expected = truth.records()
    assert len(expected) > 650
    assert len(found.rejected) == 0
    stated = [*SIX, *venue.further]
    assert found.rows.select(stated).rows() == [tuple(row[name] for name in stated) for row in expected]
    never_stated = found.rows.select(name for name in FURTHER if name not in venue.further)
    assert all(column.is_null().all() for column in never_stated)
    facts = ["venue", "market_id", "interval", "base_symbol", "quote_symbol", "provider"]
    base, _, quote = market.partition(":")[2].partition("/")
    assert found.rows.select(facts).unique().rows() == [
        (market[: market.index(":")], market, "1m", base, quote, "exchanges")
    ]


@pytest.mark.parametrize("interval", ["5m", "1h", "6h", "1d"])
@pytest.mark.parametrize("market", ["binance:ETH/USDT", "coinbase:ETH/USD"])
def test_longer_candles_are_the_truth_too(exchanges: Exchanges, tape: Tape, market: str, interval: str) -> None:
    window = Window(YESTERDAY.start - 9 * DAY, YESTERDAY.end)
    found = settled(list(exchanges.candles(f"{market} {interval}", window)), window)
    truth = tape.candles(market, interval, window.start, window.end, is_filled=True).records()
    assert found.rows.select(SIX).rows() == [tuple(row[name] for name in SIX) for row in truth]


@pytest.mark.parametrize(("market", "most"), [("binance:BTC/USDT", 1000), ("coinbase:BTC/USD", 300)])
def test_a_window_is_asked_for_in_pages_of_what_the_venue_gives(exchanges: Exchanges, market: str, most: int) -> None:
    pulls = list(exchanges.candles(f"{market} 1m", Window(YESTERDAY.start - DAY, YESTERDAY.end)))
    assert [pull.window for pull in pulls] == [(day, day + DAY) for day in (YESTERDAY.start - DAY, YESTERDAY.start)]
    assert [len(pull.answers) for pull in pulls] == [-(-1440 // most)] * 2
    assert endings(pulls) == [(True, Outcome.OK)] * 2
    assert all(len(json.loads(answer.body)) <= most for pull in pulls for answer in pull.answers)
    cost = exchanges.candles_cost(f"{market} 1m", Window(YESTERDAY.start - DAY, YESTERDAY.end))
    assert cost.calls == 2 * -(-1440 // most)
    assert cost.n_bytes > sum(len(a.body) for pull in pulls for a in pull.answers)


def test_as_many_days_as_an_answer_holds_are_one_pull(exchanges: Exchanges) -> None:
    pulls = list(exchanges.candles("binance:BTC/USDT 1h", Window(YESTERDAY.end - 100 * DAY, YESTERDAY.end)))
    assert [(pull.window[1] - pull.window[0]) // DAY for pull in pulls] == [41, 41, 18]
    assert [len(pull.answers) for pull in pulls] == [1, 1, 1]


@pytest.mark.parametrize("market", MARKETS)
@pytest.mark.parametrize(
    ("second", "last"), [(0, 2), (0.001, 2), (59.999, 2), (60, 3)], ids=["at_its_end", "after", "before", "next"]
)
def test_the_candle_that_is_not_over_is_in_no_window(
    sandbox: Sandbox, tmp_path: Path, market: str, second: float, last: int
) -> None:
    now = dt.datetime(2026, 10, 2, 12, 3, tzinfo=dt.UTC) + dt.timedelta(seconds=second)
    sandbox.set_now(now)
    with venues(tmp_path, provider_urls(PROVIDER, sandbox.url), now=now) as exchanges:
        window = Window(now - HOUR, now + HOUR)
        pulls = list(exchanges.candles(f"{market} 1m", window))
        found = settled(pulls, Window(window.start - HOUR, window.end))
    assert found.rows["opened_at"].max() == dt.datetime(2026, 10, 2, 12, last, tzinfo=dt.UTC)
    assert (found.rows["opened_at"] + dt.timedelta(minutes=1) <= found.rows["ingested_at"]).all()
    assert len(found.rejected) == 0
    assert not list(exchanges.candles(f"{market} 1m", Window(now + HOUR, now + 2 * HOUR)))


def test_of_kraken_what_is_older_than_its_newest_720_is_said_to_be_unreachable(
    exchanges: Exchanges, sandbox: Sandbox
) -> None:
    old, new = exchanges.candles("kraken:BTC/USD 1m", Window(YESTERDAY.start, NOW))
    reach = dt.datetime(2026, 10, 2, 0, 5, tzinfo=dt.UTC)
    assert (old.window, new.window) == ((YESTERDAY.start, reach), (reach, NOW.replace(second=0)))
    (answer,) = old.answers
    assert (answer.outcome, answer.attempts, answer.status) == (Outcome.NOT_FOUND, 0, None)
    assert answer.detail == "history unreachable: kraken serves its newest 720 candles only"
    assert old.is_complete
    assert old.is_hopeless
    assert len(settled([old], YESTERDAY).rows) == 0
    assert endings([new]) == [(True, Outcome.OK)]
    assert sandbox.calls()["calls"] == {"kraken.ohlc": 1}
    assert exchanges.candles_cost("kraken:BTC/USD 1m", YESTERDAY).calls == 0


def test_a_page_that_fails_leaves_the_day_unpublished_and_the_others_whole(
    exchanges: Exchanges, sandbox: Sandbox
) -> None:
    sandbox.set_faults([Fault("html", "coinbase.candles", after=6, times=2)])
    window = Window(YESTERDAY.start - 2 * DAY, YESTERDAY.end)
    pulls = list(exchanges.candles("coinbase:BTC/USD 1m", window))
    assert endings(pulls) == [(True, Outcome.OK), (False, Outcome.MALFORMED), (True, Outcome.OK)]
    assert [len(pull.answers) for pull in pulls] == [5, 2, 5]
    assert sorted(settled(pulls, window).rows["date"].unique()) == [window.days[0], window.days[2]]


@pytest.mark.parametrize("kind", ["out_of_order", "duplicate_rows"])
@pytest.mark.parametrize("market", MARKETS)
def test_any_order_and_repeats_give_the_same_candles(
    exchanges: Exchanges, sandbox: Sandbox, market: str, kind: Kind
) -> None:
    window = Window(NOW - 6 * HOUR, NOW)
    clean = settled(list(exchanges.candles(f"{market} 1m", window)), Window(window.start - HOUR, NOW))
    sandbox.set_faults([Fault(kind, "*")])
    spoiled = settled(list(exchanges.candles(f"{market} 1m", window)), Window(window.start - HOUR, NOW))
    ours = ["pull_id", "n_duplicates", "ingested_at"]
    assert spoiled.rows.drop(ours).equals(clean.rows.drop(ours))
    assert (spoiled.rows["n_duplicates"].sum() > 0) == (kind == "duplicate_rows")


@pytest.mark.parametrize("market", MARKETS)
@pytest.mark.parametrize(
    ("kind", "reason"),
    [("negative_price", "close|min"), ("huge_digits", "cast:close"), ("not_a_record", "cast:opened_at")],
)
def test_a_bad_record_is_refused_with_its_own_text_and_the_others_stay(
    exchanges: Exchanges, sandbox: Sandbox, market: str, kind: Kind, reason: str
) -> None:
    window = Window(NOW - 6 * HOUR, NOW)
    sandbox.set_faults([Fault(kind, "*")])
    pulls = list(exchanges.candles(f"{market} 1m", window))
    found = settled(pulls, Window(window.start - HOUR, NOW))
    n_answers = sum(len(pull.answers) for pull in pulls)
    assert len(found.rejected) == n_answers
    reason = "opened_at|nullability" if kind == "not_a_record" else reason
    assert all(reason in told.split(",") for told in found.rejected["reasons"])
    bodies = b"".join(answer.body for pull in pulls for answer in pull.answers).replace(b" ", b"")
    assert all(told.encode() in bodies for told in found.rejected["record"])
    assert len(found.rows) > 300


def test_a_halt_is_a_hole_where_a_venue_prints_quiet_time(exchanges: Exchanges, sandbox: Sandbox) -> None:
    start = YESTERDAY.start + 5 * HOUR
    sandbox.set_events(Events(outages=(Outage("binance", start, start + HOUR, "binance:BTC/USDT"),)))
    pulls = list(exchanges.candles("binance:BTC/USDT 1m", YESTERDAY))
    opened = settled(pulls, YESTERDAY).rows["opened_at"]
    assert len(opened) == 1440 - 60
    assert not opened.is_between(start, start + HOUR, closed="left").any()
    assert endings(pulls) == [(True, Outcome.OK)]


def test_a_day_without_any_candle_is_empty_and_complete(exchanges: Exchanges, sandbox: Sandbox) -> None:
    sandbox.set_events(Events(holes=(Hole("coinbase:BTC/USD", YESTERDAY.start, YESTERDAY.end),)))
    (pull,) = exchanges.candles("coinbase:BTC/USD 1m", YESTERDAY)
    assert pull.is_complete
    assert {answer.outcome for answer in pull.answers} == {Outcome.EMPTY}


# ---- trades ----


@pytest.mark.parametrize("market", [*MARKETS, *QUIET_MARKETS])
def test_trades_are_the_truth_in_every_field(exchanges: Exchanges, tape: Tape, market: str) -> None:
    window = Window(YESTERDAY.start + 5 * HOUR, YESTERDAY.start + 8 * HOUR + dt.timedelta(minutes=30))
    pulls = list(exchanges.trades(market, window))
    assert [(pull.window, pull.is_complete) for pull in pulls] == [((window.start, window.end), True)]
    found = settled(pulls, window, parse=parse_trades, table=trusted.Trades)
    is_binance = market.startswith("binance")
    truth = tape.trades(market, window.start, window.end)
    truth = truth if is_binance else truth.split()
    expected = [
        (
            str(row["trade_id"] if is_binance else row["first_id"]),
            row["traded_us"] // 1000,
            None if is_binance else row["traded_us"],
            row["price"],
            row["quantity"],
            row["n_trades"],
            row["taker_side"],
        )
        for row in truth.records()
    ]
    assert len(expected) > 50
    assert len(found.rejected) == 0
    assert found.rows["n_duplicates"].sum() == 0
    sides = found.rows.select(
        "trade_id", pl.col("traded_at").dt.epoch("ms"), "traded_us", "price", "quantity", "n_trades", "taker_side"
    )
    assert sorted(sides.rows()) == sorted(expected)


@pytest.fixture
def short_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty trades an answer and four answers a pull, so that hours of trades are many pulls."""
    monkeypatch.setattr(Exchanges, "_trades_page", lambda *_: 50)
    monkeypatch.setattr("crypto_assets.providers.exchanges.ANSWERS", 4)


@pytest.mark.usefixtures("short_pages")
@pytest.mark.parametrize("market", MARKETS)
def test_busy_times_are_paged_to_their_end_a_few_answers_a_pull(exchanges: Exchanges, tape: Tape, market: str) -> None:
    window = Window(YESTERDAY.start + 5 * HOUR, YESTERDAY.start + 7 * HOUR)
    pulls = sorted(exchanges.trades(market, window), key=lambda pull: pull.window)
    assert len(pulls) > 3
    assert all(pull.is_complete and len(pull.answers) <= 4 for pull in pulls)
    # One ends where the next begins: nothing is asked twice, nothing never.
    edges = [window.start, *(pull.window[1] for pull in pulls)]
    assert [pull.window for pull in pulls] == list(itertools.pairwise(edges))
    assert edges[-1] == window.end
    found = settled(pulls, window, parse=parse_trades, table=trusted.Trades)
    truth = tape.trades(market, window.start, window.end)
    truth = truth if market.startswith("binance") else truth.split()
    assert len(found.rows) == len(truth) > 500
    assert found.rows["n_duplicates"].sum() == 0


def test_coinbases_trades_of_a_past_hour_are_found_without_reading_all_since(
    exchanges: Exchanges, sandbox: Sandbox, tape: Tape
) -> None:
    window = Window(NOW - 30 * DAY, NOW - 30 * DAY + HOUR)
    (pull,) = exchanges.trades("coinbase:BTC/USD", window)
    assert sandbox.calls()["calls"]["coinbase.trades"] < 40
    found = settled([pull], window, parse=parse_trades, table=trusted.Trades)
    assert len(found.rows) == len(tape.trades("coinbase:BTC/USD", window.start, window.end).split()) > 100


def test_a_quiet_day_of_trades_is_empty_and_complete(exchanges: Exchanges, sandbox: Sandbox) -> None:
    for market, n_calls in (("binance:BTC/USDT", 24), ("kraken:BTC/USD", 1), ("coinbase:BTC/USD", 40)):
        outage = Outage(market.partition(":")[0], YESTERDAY.start, YESTERDAY.end, market)
        sandbox.set_events(Events(outages=(outage,)))
        sandbox.forget_calls()
        (pull,) = exchanges.trades(market, YESTERDAY)
        assert (pull.is_complete, {answer.outcome for answer in pull.answers}) == (True, {Outcome.EMPTY})
        assert sum(sandbox.calls()["calls"].values()) <= n_calls


@pytest.mark.usefixtures("short_pages")
@pytest.mark.parametrize("market", MARKETS)
def test_a_failed_page_of_trades_leaves_its_time_unpublished(
    exchanges: Exchanges, sandbox: Sandbox, market: str
) -> None:
    # Coinbase's first calls look for where the time ends.
    sandbox.set_faults([Fault("truncated", "*", after=5 if market[0] != "c" else 40)])
    pulls = list(exchanges.trades(market, Window(YESTERDAY.start, YESTERDAY.start + 3 * HOUR)))
    assert endings(pulls) == [(True, Outcome.OK)] * (len(pulls) - 1) + [(False, Outcome.MALFORMED)]
    assert len(pulls) > 1


# ---- tickers and listings ----


def test_tickers_become_quotes_with_all_nine_columns(exchanges: Exchanges, tape: Tape) -> None:
    pulls = list(exchanges.tickers())
    assert [pull.subject for pull in pulls] == list(MARKETS)
    found = settled(pulls, Window(NOW - HOUR, NOW + HOUR), parse=parse_tickers, table=trusted.Quotes)
    assert len(found.rejected) == 0
    rows = {row["market_id"]: row for row in found.rows.to_dicts()}
    for market in MARKETS:
        truth, row = tape.quote(market, microseconds(NOW)), rows[market]
        assert truth is not None
        unit = Decimal(1).scaleb(-tape.markets[market].price_places)
        assert (row["bid_price"], row["ask_price"], row["exchange_rate"]) == (
            truth.bid * unit,
            truth.ask * unit,
            truth.last * unit,
        )
        assert (row["from_currency_code"], row["to_currency_code"]) == ("BTC", market.partition("/")[2])
        assert (row["from_currency_name"], row["to_currency_name"], row["time_zone"]) == (None, None, "UTC")
    assert rows["binance:BTC/USDT"]["last_refreshed"] == str(round(NOW.timestamp() * 1000))
    # Kraken's ticker says no time; Coinbase's is that of the last trade.
    assert rows["kraken:BTC/USD"]["last_refreshed"] == rows["kraken:BTC/USD"]["observed_at"].isoformat()
    assert rows["coinbase:BTC/USD"]["last_refreshed"].startswith("2026-10-02T12:03:")


def test_one_market_or_venue_that_fails_does_not_stop_the_others(sandbox: Sandbox, tmp_path: Path) -> None:
    markets = (
        "binance:NO/PE",
        "nowhere:BTC/USD",
        "kraken:NO/PE",
        "coinbase:BTC/USD",
        "not a market",
        "binance:BTC/USDT",
    )
    with venues(tmp_path, provider_urls(PROVIDER, sandbox.url), markets=markets) as exchanges:
        pulls = []
        with pytest.raises(UsageError, match="the sandbox does not speak nowhere"):
            pulls.extend(_collected(exchanges.tickers(), pulls))
    assert {str(pull.subject): pull.ending.outcome for pull in pulls} == {
        "binance:NO/PE": Outcome.NOT_FOUND,
        "kraken:NO/PE": Outcome.NOT_FOUND,
        "coinbase:BTC/USD": Outcome.OK,
        "binance:BTC/USDT": Outcome.OK,
    }


def _collected(pulls: Iterator[Pull], into: list[Pull]) -> Iterator[Pull]:
    for pull in pulls:
        into.append(pull)
    yield from ()


def test_each_venue_is_asked_for_its_markets_once(exchanges: Exchanges, sandbox: Sandbox) -> None:
    pulls = list(exchanges.listings())
    assert [(pull.subject, *endings([pull])[0]) for pull in pulls] == [
        (venue, True, Outcome.OK) for venue in ("binance", "kraken", "coinbase")
    ]
    assert sandbox.calls()["calls"] == {"binance.exchange_info": 1, "coinbase.products": 1, "kraken.asset_pairs": 1}
    assert b'"BTCUSDT"' in pulls[0].answers[0].body


# ---- refusals ----


@pytest.mark.parametrize("market", ["binance:NO/PE", "kraken:NO/PE", "coinbase:NO/PE"])
def test_an_unknown_symbol_is_not_found_in_one_line_and_one_call(
    exchanges: Exchanges, sandbox: Sandbox, market: str
) -> None:
    for pulls in (
        list(exchanges.candles(f"{market} 1m", Window(NOW - 3 * HOUR, NOW))),
        list(exchanges.trades(market, YESTERDAY)),
    ):
        (pull,) = pulls
        assert endings(pulls) == [(False, Outcome.NOT_FOUND)]
        assert pull.is_hopeless
        assert pull.ending.detail == f"unknown symbol: no market {market}"
    assert sum(sandbox.calls()["calls"].values()) == 2


@pytest.mark.parametrize(
    ("kind", "outcome", "n_calls"),
    [
        ("geo_block", Outcome.DENIED, 1),
        ("ban", Outcome.QUOTA_EXHAUSTED, 1),
        ("rate_limited_minute", Outcome.RATE_LIMITED, 4),
        ("server_error", Outcome.UNAVAILABLE, 4),
        ("html", Outcome.MALFORMED, 2),
        ("truncated", Outcome.MALFORMED, 2),
        ("short_body", Outcome.UNAVAILABLE, 4),
    ],
)
def test_binance_refuses(exchanges: Exchanges, sandbox: Sandbox, kind: Kind, outcome: Outcome, n_calls: int) -> None:
    sandbox.set_faults([Fault(kind, "binance.klines")])
    (pull,) = exchanges.candles("binance:BTC/USDT 1m", Window(NOW - 3 * HOUR, NOW))
    assert endings([pull]) == [(False, outcome)]
    assert sandbox.calls()["calls"] == {"binance.klines": n_calls}
    assert "\n" not in pull.ending.detail
    assert pull.ending.detail


@pytest.mark.parametrize(
    ("market", "endpoint"), [("kraken:BTC/USD", "kraken.ohlc"), ("coinbase:BTC/USD", "coinbase.candles")]
)
@pytest.mark.parametrize(
    ("kind", "outcome"),
    [
        ("geo_block", Outcome.DENIED),
        ("rate_limited_minute", Outcome.RATE_LIMITED),
        ("server_error", Outcome.UNAVAILABLE),
        ("html", Outcome.MALFORMED),
    ],
)
def test_the_others_refuse(
    exchanges: Exchanges, sandbox: Sandbox, market: str, endpoint: str, kind: Kind, outcome: Outcome
) -> None:
    sandbox.set_faults([Fault(kind, endpoint)])
    (pull,) = exchanges.candles(f"{market} 1m", Window(NOW - 3 * HOUR, NOW))
    assert endings([pull]) == [(False, outcome)]


def test_a_ban_closes_the_venue_for_as_long_as_it_says_and_no_other(sandbox: Sandbox, tmp_path: Path) -> None:
    clock = FixedClock(NOW)
    window = Window(NOW - HOUR, NOW)
    with venues(tmp_path, provider_urls(PROVIDER, sandbox.url), clock=clock) as exchanges:
        sandbox.set_faults([Fault("ban", "binance.klines", times=1)])
        assert endings(list(exchanges.candles("binance:BTC/USDT 1m", window))) == [(False, Outcome.QUOTA_EXHAUSTED)]
        with pytest.raises(BudgetExhausted, match="12:05:30 UTC"):
            list(exchanges.candles("binance:BTC/USDT 1m", window))
        assert endings(list(exchanges.candles("coinbase:BTC/USD 1m", window))) == [(True, Outcome.OK)]
        clock.sleep(121)
        assert endings(list(exchanges.candles("binance:BTC/USDT 1m", window))) == [(True, Outcome.OK)]
    assert sandbox.calls()["calls"]["binance.klines"] == 2


def test_a_429_is_asked_again_after_what_it_says(httpserver: HTTPServer, tmp_path: Path) -> None:
    clock = FixedClock(NOW)
    waits = iter([Response(b"{}", 429, headers={"Retry-After": "37"})])
    httpserver.expect_request("/api/v3/klines").respond_with_handler(lambda _: next(waits, Response(b"[]", 200)))
    with venues(tmp_path, {"binance": httpserver.url_for("").rstrip("/")}, clock=clock) as exchanges:
        (pull,) = exchanges.candles("binance:BTC/USDT 1m", Window(NOW - HOUR, NOW))
    assert (pull.is_complete, pull.ending.outcome, pull.ending.attempts) == (True, Outcome.EMPTY, 2)
    assert clock.now() == NOW + dt.timedelta(seconds=37)


# ---- what is asked for ----


@pytest.mark.parametrize(
    "subject",
    [
        "binance:BTC/USDT",
        "binance:BTC/USDT 1w",
        "binance:BTC/USDT 1mo",
        "binance:BTC/USDT 7m",
        "binance 1m",
        "BINANCE:BTC/USDT 1m",
        "binance:BTC/US/DT 1m",
        "binance:../../x/USDT 1m",
        "binance:B?C/USDT 1m",
        "binance:B%2fC/USDT 1m",
        "kraken:BTC/USD 3m",
        "okx:BTC/USDT 1m",
    ],
)
def test_what_cannot_be_asked_for_is_said_before_a_call(exchanges: Exchanges, sandbox: Sandbox, subject: str) -> None:
    with pytest.raises(UsageError, match="no call was made"):
        list(exchanges.candles(subject, YESTERDAY))
    assert sandbox.calls()["calls"] == {}


def test_the_settings_name_markets_and_interval(exchanges: Exchanges) -> None:
    assert exchanges.markets == MARKETS
    assert exchanges.candle_subjects == tuple(f"{market} 1m" for market in MARKETS)


def test_the_addresses_are_the_venues_public_ones() -> None:
    assert PROVIDER.urls["binance"] == "https://data-api.binance.vision"
    assert {url.partition("://")[0] for url in PROVIDER.urls.values()} == {"https"}
    assert not PROVIDER.needs_key


# ---- shapes ----


Serve = Callable[..., dict[str, str]]


@pytest.fixture
def answering(httpserver: HTTPServer) -> Serve:
    """A venue that gives this body for every question."""

    def serve_body(venue: str, body: bytes | Callable[[Request], bytes], status: int = 200) -> dict[str, str]:
        def respond(request: Request) -> Response:
            sent = body if isinstance(body, bytes) else body(request)
            return Response(sent, status, content_type="application/json")

        httpserver.expect_request(re.compile(".*")).respond_with_handler(respond)
        return {venue: httpserver.url_for("").rstrip("/")}

    return serve_body


AT = round(YESTERDAY.start.timestamp())
FIRST_MINUTES = Window(YESTERDAY.start, YESTERDAY.start + dt.timedelta(minutes=3))


def test_numbers_of_coinbase_arrive_digit_by_digit(answering: Serve, tmp_path: Path) -> None:
    body = (
        f"[[{AT + 120},0.000000000000000001,1e-8,1E-8,0.00000001,12345678901234.123456789012345],"
        f"[{AT + 60},1,2.50,1.5,2.1000000000000000000000,0],[{AT},35000.1,35000.3,35000.2,35000.3,0.1]]"
    ).encode()
    with venues(tmp_path, answering("coinbase", body)) as exchanges:
        pulls = list(exchanges.candles("coinbase:BTC/USD 1m", FIRST_MINUTES))
    assert pulls[0].answers[0].body == body
    rows = settled(pulls, YESTERDAY).rows.select("open", "low", "close", "volume_base").rows()
    assert rows == [
        (Decimal("35000.2"), Decimal("35000.1"), Decimal("35000.3"), Decimal("0.1")),
        (Decimal("1.5"), Decimal(1), Decimal("2.1"), Decimal(0)),
        (Decimal("1e-8"), Decimal("1e-18"), Decimal("1e-8"), Decimal("12345678901234.123456789012345")),
    ]


def test_a_digit_that_cannot_be_kept_is_refused_and_not_rounded(answering: Serve, tmp_path: Path) -> None:
    body = f"[[{AT},1,2,1,1.5,0.1234567890123456789]]".encode()
    with venues(tmp_path, answering("coinbase", body)) as exchanges:
        found = settled(list(exchanges.candles("coinbase:BTC/USD 1m", FIRST_MINUTES)), YESTERDAY)
    assert found.rejected.select("reasons", "record").rows() == [("precision:volume_base", body.decode()[1:-1])]


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"data":[]}',
        b'"text"',
        b"17",
        b"null",
        b"[[]]",
        b"[1,2]",
        b'[{"a":1}]',
        b'[["x","1","1","1","1","1"]]',
        b'[[1e400,"1","1","1","1","1"]]',
        b"[" * 50_000,
        b"[NaN]",
        b'[[0,"1","1","1","1","1",0,"1",1,"1","1","0"]]',
        b'[[17907648000000000,"1","1","1","1","1",0,"1",1,"1","1","0"]]',
    ],
)
@pytest.mark.parametrize("venue", ["binance", "kraken", "coinbase"])
def test_what_is_no_answer_to_the_question_is_no_success(
    answering: Serve, tmp_path: Path, venue: str, body: bytes
) -> None:
    sent = b'{"error":[],"result":{"XXBTZUSD":%s,"last":0}}' % body if venue == "kraken" and body[:2] == b"[[" else body
    with venues(tmp_path, answering(venue, sent)) as exchanges:
        window = Window(NOW - HOUR, NOW)
        (pull,) = exchanges.candles(f"{venue}:BTC/USD 1m", window)
    assert endings([pull]) == [(False, Outcome.MALFORMED)]


def test_a_time_in_the_year_56000_is_refused_and_never_lost(answering: Serve, tmp_path: Path) -> None:
    good, bad = ([at, "1", "2", "1", "1", "5", 0, "5", 1, "1", "1", "0"] for at in (AT * 1000, AT * 1_000_000))
    with venues(tmp_path, answering("binance", json.dumps([good, bad]).encode())) as exchanges:
        found = settled(list(exchanges.candles("binance:BTC/USDT 1m", FIRST_MINUTES)), YESTERDAY)
    assert len(found.rows) == 1
    assert found.rejected["reasons"].to_list() == ["not_from_the_future"]


def test_candles_at_the_edges_of_a_day_are_of_one_day_each(answering: Serve, tmp_path: Path) -> None:
    """A venue that answers one candle too many on either side, as some do: none is doubled and none is missing."""

    def generous(request: Request) -> bytes:
        first, last = (int(request.args[name]) // 60_000 for name in ("startTime", "endTime"))
        minutes = range(first - 1, last + 2)
        return json.dumps([[m * 60_000, "1", "2", "1", "1", "5", 0, "5", 1, "1", "1", "0"] for m in minutes]).encode()

    window = Window(YESTERDAY.start - DAY, YESTERDAY.end)
    with venues(tmp_path, answering("binance", generous)) as exchanges:
        pulls = list(exchanges.candles("binance:BTC/USDT 1m", window))
    both = settled(pulls, window)
    assert both.rows.group_by("date").len().sort("date")["len"].to_list() == [1440, 1440]
    alone = [settled([pull], Window(*pull.window)).rows for pull in pulls]
    assert pl.concat(alone).equals(both.rows)
    assert len(both.rejected) == 0


def test_a_candle_that_is_missing_at_the_edge_of_a_day_is_not_made_up(answering: Serve, tmp_path: Path) -> None:
    def forgetful(request: Request) -> bytes:
        first, last = (int(request.args[name]) // 60_000 for name in ("startTime", "endTime"))
        kept = [m for m in range(first, last + 1) if m % 1440]
        return json.dumps([[m * 60_000, "1", "2", "1", "1", "5", 0, "5", 1, "1", "1", "0"] for m in kept]).encode()

    with venues(tmp_path, answering("binance", forgetful)) as exchanges:
        found = settled(list(exchanges.candles("binance:BTC/USDT 1m", YESTERDAY)), YESTERDAY)
    assert len(found.rows) == 1439
    assert found.rows["opened_at"].min() == YESTERDAY.start + dt.timedelta(minutes=1)


def test_any_venue_of_ccxt_is_asked_for_by_a_market_of_it(answering: Serve, tmp_path: Path) -> None:
    def okx(request: Request) -> bytes:
        if request.path.endswith("/instruments"):
            kind = {"instType": "SPOT", "instId": "BTC-USDT", "baseCcy": "BTC", "quoteCcy": "USDT", "state": "live"}
            listed = [{**kind, "tickSz": "0.1", "lotSz": "0.00000001", "minSz": "0.00001"}]
            return json.dumps(
                {"code": "0", "msg": "", "data": listed if request.args["instType"] == "SPOT" else []}
            ).encode()
        rows = [[str((AT + 60 * m) * 1000), "1.10", "2", "1", "1.5", "7", "8", "9", "1"] for m in (2, 1, 0)]
        return json.dumps({"code": "0", "msg": "", "data": rows}).encode()

    with ExitStack() as stack:
        urls = answering("okx", okx)
        exchanges = stack.enter_context(venues(tmp_path, urls, markets=["okx:BTC/USDT"]))
        pulls = list(exchanges.candles("okx:BTC/USDT 1m", FIRST_MINUTES))
        assert endings(pulls) == [(True, Outcome.OK)]
        rows = settled(pulls, YESTERDAY).rows
        assert (
            rows.select("market_id", "open", "volume_base").rows() == [("okx:BTC/USDT", Decimal("1.1"), Decimal(7))] * 3
        )
        (unknown,) = exchanges.candles("okx:NO/PE 1m", FIRST_MINUTES)
        assert endings([unknown]) == [(False, Outcome.NOT_FOUND)]


def test_trades_of_a_venue_that_knows_no_time_are_not_taken_for_a_past_that_was_empty(
    answering: Serve, tmp_path: Path
) -> None:
    def kucoin(request: Request) -> bytes:
        if request.path.endswith("/histories"):
            newest = {"sequence": "1", "price": "1", "size": "1", "side": "buy", "time": (AT + 10 * 86_400) * 10**9}
            return json.dumps({"code": "200000", "data": [newest]}).encode()
        listed = {"symbol": "BTC-USDT", "baseCurrency": "BTC", "quoteCurrency": "USDT", "enableTrading": True}
        is_list = request.path.endswith("/symbols")
        return json.dumps({"code": "200000", "data": [listed] if is_list else {"ticker": []}}).encode()

    with venues(tmp_path, answering("kucoin", kucoin), markets=["kucoin:BTC/USDT"]) as exchanges:
        pulls = list(exchanges.trades("kucoin:BTC/USDT", YESTERDAY))
    assert endings(pulls) == [(False, Outcome.MALFORMED)]
    assert pulls[0].ending.detail == "ccxt cannot ask the venue for a time: it serves its newest trades only"


@pytest.mark.recorded
def test_the_recorded_answers_of_binance_are_read(answering: Serve, tmp_path: Path, recorded: Path) -> None:
    folder = recorded.parent / "binance" / "spot_http"
    candle = (folder / "klines_response.json").read_bytes()
    opened = dt.datetime(2017, 7, 3, tzinfo=dt.UTC)
    with venues(tmp_path, answering("binance", candle), interval="1d") as exchanges:
        pulls = list(exchanges.candles("binance:ETH/BTC 1d", Window(opened, opened + DAY)))
    (row,) = settled(pulls, Window(opened, opened + DAY)).rows.to_dicts()
    told = [row[name] for name in (*SIX, *FURTHER)]
    numbers = ("0.01634790", "0.80000000", "0.01575800", "0.01577100", "148976.11427815", "2434.19055334")
    taken = ("1756.87402397", "28.46694368")
    expected = [opened, *map(Decimal, numbers[:5]), Decimal(numbers[5]), 308, *map(Decimal, taken)]
    assert told == expected


@pytest.mark.recorded
def test_the_recorded_ticker_and_trades_of_binance_are_read(answering: Serve, tmp_path: Path, recorded: Path) -> None:
    folder = recorded.parent / "binance" / "spot_http"

    def respond(request: Request) -> bytes:
        if request.path.endswith("/24hr"):
            return (folder / "ticker_24hr_response.json").read_bytes()
        is_first = int(request.args["startTime"]) <= 1499865549590
        return (folder / "trades_response.json").read_bytes() if is_first else b"[]"

    moment = dt.datetime(2017, 7, 12, 13, tzinfo=dt.UTC)
    with venues(tmp_path, answering("binance", respond), markets=["binance:BNB/BTC"]) as exchanges:
        (pull,) = exchanges.tickers()
        assert pull.observed_at == dt.datetime(2017, 7, 12, 14, 31, 39, 40_000, tzinfo=dt.UTC)
        quotes = settled([pull], Window.of_day(moment.date()), parse=parse_tickers, table=trusted.Quotes)
        assert quotes.rows.select("exchange_rate", "bid_price", "ask_price").rows() == [
            (Decimal("4.00000200"), Decimal(4), Decimal("4.00000200"))
        ]
        (trades,) = exchanges.trades("binance:BNB/BTC", Window(moment, moment + HOUR))
    found = settled([trades], Window(moment, moment + HOUR), parse=parse_trades, table=trusted.Trades)
    told = found.rows.select("trade_id", "price", "quantity", "n_trades", "taker_side").rows()
    assert told == [("28457", Decimal("4.00000100"), Decimal(12), 1, "sell")]
