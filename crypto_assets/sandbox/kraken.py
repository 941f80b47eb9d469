"""Kraken's public market data from the tape: ``/0/public``, always HTTP 200 with ``{"error":[...],"result":{...}}``.

Source: docs.kraken.com and the samples in ccxt. Candles reach back 720 intervals and no further, whatever ``since``
says; ``since`` is exclusive. The last candle is unfinished, and ``last`` names the one before it. Trades come 1,000 at
a time from a moment on, which is seconds or nanoseconds. A candle without a trade is flat with zeros. Weeks begin on
Monday (where Kraken's begin could not be verified).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from crypto_assets.sandbox.faults import Fault, spoil_columns
from crypto_assets.sandbox.market import Market
from crypto_assets.sandbox.replies import broken_off, json_reply
from crypto_assets.sandbox.spot import SpotMarket
from crypto_assets.sandbox.state import SandboxState
from crypto_assets.sandbox.tape import DAY_US, SECOND_US, Candles, Ints, Tape, first_of, microseconds, tape_of
from crypto_assets.sandbox.texts import text, texts

VENUE = "kraken"
MAX_CANDLES = 720
MAX_TRADES = 1000
_NEVER = 1 << 61
# The first assets have an X or a Z before their ticker, and two tickers of their own.
_ALTNAMES = {"BTC": "XBT", "DOGE": "XDG"}
_LEGACY = {
    "BTC": "XXBT",
    "ETH": "XETH",
    "XRP": "XXRP",
    "LTC": "XLTC",
    "XLM": "XXLM",
    "DOGE": "XXDG",
    "USD": "ZUSD",
    "EUR": "ZEUR",
}
_LEGACY_PAIRS = ("BTC", "ETH", "XRP", "LTC", "XLM")
_MINUTES = {1: "1m", 5: "5m", 15: "15m", 30: "30m", 60: "1h", 240: "4h", 1440: "1d", 10080: "1w"}
_OHLC_NAMES = ("time", "open", "high", "low", "close", "vwap", "volume", "count")
_TRADE_NAMES = ("close", "volume", "time", "side", "kind", "misc", "id")
_FEES = [[0, 0.4], [10_000, 0.35]]
_FEES_MAKER = [[0, 0.25], [10_000, 0.2]]


class _RefusedError(Exception):
    """Kraken's own error, e.g. ``EQuery:Unknown asset pair``."""


@dataclass(frozen=True, slots=True)
class _Question:
    """One call, read."""

    tape: Tape
    now: datetime
    query: Mapping[str, str]

    @property
    def until(self) -> int:
        return microseconds(self.now)

    def spots(self) -> list[SpotMarket]:
        """The pairs asked for, or all."""
        listed = [
            spot
            for spot in self.tape.markets.values()
            if spot.venue == VENUE and self.tape.is_listed(spot.market_id, self.now)
        ]
        wanted = self.query.get("pair")
        if not wanted:
            return listed
        by_name = {name: spot for spot in listed for name in (pair_of(spot), _altname(spot), _wsname(spot))}
        found = [by_name.get(name.strip()) for name in wanted.split(",")]
        if None in found:
            raise _RefusedError("EQuery:Unknown asset pair")
        return [spot for spot in found if spot is not None]

    def spot(self) -> SpotMarket:
        if not self.query.get("pair"):
            raise _RefusedError("EGeneral:Invalid arguments")
        return self.spots()[0]

    def whole(self, name: str, default: int) -> int:
        said = self.query.get(name)
        if said is None:
            return default
        if not re.fullmatch(r"[0-9]{1,20}", said):
            raise _RefusedError(f"EGeneral:Invalid arguments:{name}")
        return int(said)

    def since_ns(self) -> int | None:
        """``since`` in nanoseconds; short numbers are seconds, as the documentation's own examples are."""
        said = self.query.get("since")
        if not said:
            return None
        if not re.fullmatch(r"[0-9]{1,20}(\.[0-9]{1,9})?", said):
            raise _RefusedError("EGeneral:Invalid arguments:since")
        number = Decimal(said)
        return min(int(number * 10**9 if number < 10**12 else number), _NEVER * 1000)


def pair_of(spot: SpotMarket) -> str:
    """Kraken's id of a pair: XXBTZUSD where both assets are of the first ones, SOLUSD where not."""
    if spot.base in _LEGACY_PAIRS and spot.quote in _LEGACY:
        return _LEGACY[spot.base] + _LEGACY[spot.quote]
    return "USDTZUSD" if spot.base == "USDT" else _altname(spot)


def _altname(spot: SpotMarket) -> str:
    return _ALTNAMES.get(spot.base, spot.base) + _ALTNAMES.get(spot.quote, spot.quote)


def _wsname(spot: SpotMarket) -> str:
    return f"{_ALTNAMES.get(spot.base, spot.base)}/{_ALTNAMES.get(spot.quote, spot.quote)}"


_Ask = Callable[[_Question], dict[str, object]]


def _time(asked: _Question) -> dict[str, object]:
    return {"unixtime": asked.until // SECOND_US, "rfc1123": f"{asked.now:%a, %d %b %y %H:%M:%S +0000}"}


def _status(asked: _Question) -> dict[str, object]:
    return {"status": "online", "timestamp": f"{asked.now:%Y-%m-%dT%H:%M:%SZ}"}


def _assets(asked: _Question) -> dict[str, object]:
    tickers = sorted({ticker for spot in asked.spots() for ticker in (spot.base, spot.quote)})
    return {
        _LEGACY.get(ticker, ticker): {
            "aclass": "currency",
            "altname": _ALTNAMES.get(ticker, ticker),
            "decimals": 4 if ticker in ("USD", "EUR") else 10,
            "display_decimals": 2 if ticker in ("USD", "EUR") else 5,
            "status": "enabled",
        }
        for ticker in tickers
    }


def _asset_pairs(asked: _Question) -> dict[str, object]:
    return {
        pair_of(spot): {
            "altname": _altname(spot),
            "wsname": _wsname(spot),
            "aclass_base": "currency",
            "base": _LEGACY.get(spot.base, spot.base),
            "aclass_quote": "currency",
            "quote": _LEGACY.get(spot.quote, spot.quote),
            "lot": "unit",
            "cost_decimals": 5,
            "pair_decimals": spot.price_places,
            "lot_decimals": 8,
            "lot_multiplier": 1,
            "leverage_buy": [],
            "leverage_sell": [],
            "fees": _FEES,
            "fees_maker": _FEES_MAKER,
            "fee_volume_currency": "ZUSD",
            "margin_call": 80,
            "margin_stop": 40,
            "ordermin": text(1, spot.amount_places, None),
            "costmin": "0.5",
            "tick_size": text(1, spot.price_places, None),
            "status": "online",
        }
        for spot in asked.spots()
    }


def _ohlc(asked: _Question) -> dict[str, object]:
    spot = asked.spot()
    minutes = asked.whole("interval", 1)
    if minutes not in _MINUTES:
        raise _RefusedError("EGeneral:Invalid arguments:interval")
    since = asked.since_ns()
    hidden = asked.tape.hidden(spot.market_id, "rest", asked.now)
    candles = asked.tape.last_candles(
        spot.market_id, _MINUTES[minutes], asked.until, n=MAX_CANDLES, until=asked.until, hidden=hidden
    )
    opened = candles.opened_us.tolist()
    last = (opened[-2] if len(opened) > 1 else 0) // SECOND_US
    if since is not None:
        candles = candles.where(candles.opened_us * 1000 > since)
    return {pair_of(spot): _ohlc_rows(candles), "last": last}


def _ohlc_rows(candles: Candles) -> list[list[object]]:
    spot = candles.spot
    prices = (texts(getattr(candles, name), spot.price_places, None) for name in ("open", "high", "low", "close"))
    columns = zip(
        (candles.opened_us // SECOND_US).tolist(),
        *prices,
        texts(_mean(candles.value, candles.volume), spot.price_places, None),
        texts(candles.volume, spot.amount_places),
        candles.n_trades.tolist(),
        strict=True,
    )
    return [list(row) for row in columns]


def _mean(value: Ints, volume: Ints) -> Ints:
    """Value by volume in ticks, rounded half up; zero where nothing was traded."""
    safe = np.maximum(volume, 1)
    mean: Ints = (2 * value + safe) // (2 * safe) * (volume > 0)
    return mean


def _trades(asked: _Question) -> dict[str, object]:
    spot, since = asked.spot(), asked.since_ns()
    n = asked.whole("count", MAX_TRADES)
    if not 1 <= n <= MAX_TRADES:
        raise _RefusedError("EGeneral:Invalid arguments:count")
    tape, until = asked.tape, asked.until
    hidden = tape.hidden(spot.market_id, "rest", asked.now)
    if since is None:
        trades = tape.last_trades(spot.market_id, n, until, hidden).split()
        trades = trades.where(slice(max(0, len(trades) - n), None))
    else:
        # Trades of the same microsecond as since may be new, and up to three raw ones may have been seen.
        trades = tape.first_trades(spot.market_id, since // 1000, until, n + 8, hidden).split()
    ns = _nanoseconds(trades.time_us)
    is_new = ns > (-1 if since is None else since)
    trades, ns = trades.where(is_new).where(slice(None, n)), ns[is_new][:n]
    rows = [
        [price, amount, us / SECOND_US, "s" if sold else "b", "m" if number % 3 else "l", "", number]
        for price, amount, us, sold, number in zip(
            texts(trades.price, spot.price_places, None),
            texts(trades.amount, spot.amount_places),
            trades.time_us.tolist(),
            trades.is_buyer_maker.tolist(),
            trades.first_id.tolist(),
            strict=True,
        )
    ]
    return {pair_of(spot): rows, "last": str(int(ns[-1]) if len(ns) else since or until * 1000)}


def _nanoseconds(time_us: Ints) -> Ints:
    """Each trade's own nanosecond, so that a page may end between two of one microsecond."""
    place = np.arange(len(time_us), dtype=np.int64)
    return time_us * 1000 + place - np.searchsorted(time_us, time_us)


def _ticker(asked: _Question) -> dict[str, object]:
    return {pair_of(spot): _ticker_of(spot, asked) for spot in asked.spots()}


def _ticker_of(spot: SpotMarket, asked: _Question) -> dict[str, object]:
    tape, until = asked.tape, asked.until
    midnight = until // DAY_US * DAY_US
    both = [tape.statistics(spot.market_id, start, until)[0] for start in (midnight, until - DAY_US)]
    quote = tape.quote(spot.market_id, until)
    last, bid, ask = (quote.last, quote.bid, quote.ask) if quote else (0, 0, 0)
    places, amounts = spot.price_places, spot.amount_places

    def price(name: str) -> list[str]:
        return [text(first_of(getattr(day, name), last), places, None) for day in both]

    def book(side: int, amount: int) -> list[str]:
        return [text(side, places, None), str(amount // 10**amounts), text(amount, amounts, 3)]

    return {
        "a": book(ask, quote.ask_amount if quote else 0),
        "b": book(bid, quote.bid_amount if quote else 0),
        "c": [text(last, places, None), text(quote.last_amount if quote else 0, amounts)],
        "v": [text(first_of(day.volume), amounts) for day in both],
        "p": [text(first_of(_mean(day.value, day.volume)), places, None) for day in both],
        "t": [first_of(day.n_trades) for day in both],
        "l": price("low"),
        "h": price("high"),
        "o": price("open")[0],
    }


# Endpoint (as faults and counts know it), path, how it is answered, the columns where records are lists
_ENDPOINTS: tuple[tuple[str, str, _Ask, tuple[str, ...]], ...] = (
    ("time", "/Time", _time, ()),
    ("system_status", "/SystemStatus", _status, ()),
    ("assets", "/Assets", _assets, ()),
    ("asset_pairs", "/AssetPairs", _asset_pairs, ()),
    ("ohlc", "/OHLC", _ohlc, _OHLC_NAMES),
    ("trades", "/Trades", _trades, _TRADE_NAMES),
    ("ticker", "/Ticker", _ticker, ()),
)


def routes(market: Market, state: SandboxState) -> list[Route]:
    """Kraken's public market data. ``state.limits["kraken"]`` is the number of calls a minute; none is set."""

    def route(name: str, path: str, ask: _Ask, names: tuple[str, ...]) -> Route:
        async def respond(request: Request) -> Response:
            refused, struck = await state.met(f"kraken.{name}", request.query_params.get("pair", ""))
            used, _ = state.metered(VENUE, 1)
            if used > state.limits.get(VENUE, used):
                return _error("EAPI:Rate limit exceeded")
            return _refusal(struck) or refused or _answer(request, ask, names, struck)

        return Route(f"/0/public{path}", respond, methods=["GET", "POST"], name=f"kraken.{name}")

    def _answer(request: Request, ask: _Ask, names: tuple[str, ...], struck: list[Fault]) -> Response:
        now, tape = state.now(), tape_of(market, state.events)
        if tape.is_down(VENUE, now):
            return _error("EService:Unavailable")
        try:
            result = ask(_Question(tape, now, request.query_params))
        except _RefusedError as refused:
            return _error(str(refused))
        for fault in struck:
            result = {
                key: spoil_columns(fault.kind, names, rows) if names and isinstance(rows, list) else rows
                for key, rows in result.items()
            }
        return broken_off(json_reply(200, {"error": [], "result": result}), struck)

    return [route(name, path, ask, names) for name, path, ask, names in _ENDPOINTS]


def _error(words: str) -> Response:
    return json_reply(200, {"error": [words]})


def _refusal(struck: list[Fault]) -> Response | None:
    kinds = {fault.kind for fault in struck}
    if kinds & {"rate_limited_minute", "quota_429", "quota_403"}:
        return _error("EAPI:Rate limit exceeded")
    if "ban" in kinds:
        return _error("EGeneral:Temporary lockout")
    if "geo_block" in kinds:
        return json_reply(451, {"error": ["EGeneral:Permission denied"]})
    if "server_error" in kinds:
        return json_reply(520, {"error": ["EService:Unavailable"]})
    return None
