"""Spot venues and their markets: what is known of each besides what ccxt says, and what their answers mean.

Belongs here: names, limits, shapes and error texts. What is asked is in ``exchanges.py``, what is made of the answers
in ``exchange_records.py``. Source: ccxt 4.5.90, Binance's API documentation of 2026-07.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from crypto_assets.errors import UsageError
from crypto_assets.providers.ccxt_wire import decoded, refusal
from crypto_assets.resources.budget import Limit
from crypto_assets.resources.http import Outcome, Source, Verdict, retry_after_s
from crypto_assets.tables.trusted import INTERVALS
from crypto_assets.tables.window import DAY

NAME = "exchanges"
LISTING, TICKER, CANDLES, TRADES = "listing", "ticker", "candles", "trades"
# Binance's listing alone has some 15 MB.
MAX_BYTES = 64_000_000
# Binance's shortest ban; its header says it better.
_BAN_S = 120
# Characters of tickers; none of them can leave its place in an address.
_MARKET = re.compile(r"([a-z0-9_]{1,32}):([\w.$-]{1,32})/([\w.$-]{1,32})")


@dataclass(frozen=True)
class Venue:
    """What is known of a venue besides what ccxt says.

    Attributes:
        exchange: ccxt's name of it.
        limit: how many calls it takes; None: as many as ccxt would make.
        page, trades_page: most candles and trades of an answer; None: what ccxt says.
        named: its name of a market, of base and quote; None: its own listing is asked, once a connection.
        newest_only: whether it serves the newest ``page`` candles and nothing before.
        omits_quiet: whether it is known to have no candle for a time without trades; elsewhere a missing one is a gap.
        further: what its candles say besides the six usual numbers: our column, and the place in the record.
        stated_at: the field of its ticker that says when it was made.
        words: what its own error texts mean where ccxt does not know them.
    """

    exchange: str
    limit: Limit | None = None
    page: int | None = None
    trades_page: int | None = None
    named: Callable[[str, str], str] | None = None
    newest_only: bool = False
    omits_quiet: bool = False
    further: Mapping[str, int] = field(default_factory=dict)
    stated_at: str | None = None
    words: Mapping[bytes, Outcome] = field(default_factory=dict)


# Kraken's old names, which its pairs keep.
_KRAKEN_TICKERS = {"BTC": "XBT", "DOGE": "XDG"}
VENUES: Mapping[str, Venue] = {
    "binance": Venue(
        "binance",
        # Of 6,000 weights a minute: a call weighs 4 at most but for the listing, which weighs 20 and is one a day.
        limit=Limit(1200, 60, "calls"),
        page=1000,
        trades_page=1000,
        named=lambda base, quote: base + quote,
        further={"volume_quote": 7, "n_trades": 8, "taker_buy_base": 9, "taker_buy_quote": 10},
        stated_at="closeTime",
    ),
    "kraken": Venue(
        "kraken",
        # A call a second, as ccxt makes them.
        limit=Limit(1, 1, "calls"),
        page=720,
        trades_page=1000,
        named=lambda base, quote: _KRAKEN_TICKERS.get(base, base) + _KRAKEN_TICKERS.get(quote, quote),
        newest_only=True,
        further={"n_trades": 7},
        words={
            b"Unknown asset pair": Outcome.NOT_FOUND,
            b"Throttled": Outcome.RATE_LIMITED,
            b"Temporary lockout": Outcome.RATE_LIMITED,
        },
    ),
    "coinbase": Venue(
        "coinbaseexchange",
        # Ten public calls a second and address.
        limit=Limit(10, 1, "calls"),
        page=300,
        trades_page=1000,
        named=lambda base, quote: f"{base}-{quote}",
        omits_quiet=True,
        stated_at="time",
    ),
}


# What is reckoned with before ccxt is asked for a venue's pace; nearly all allow more.
UNKNOWN_PACE = Limit(1, 1, "calls")


def venues_of(markets: Iterable[str]) -> list[str]:
    """The venues of markets, each once, in their order."""
    return list(dict.fromkeys(market.partition(":")[0] for market in markets))


def venue_of(name: str) -> Venue:
    """The venue of that name, known more closely or by ccxt alone."""
    return VENUES.get(name) or Venue(name)


def source(name: str, base_url: str, asked: Any) -> Source:
    """What the HTTP client needs to know of a venue at this address; ``asked`` is ccxt's exchange."""
    venue = venue_of(name)
    return Source(
        name=name,
        base_url=base_url,
        limits=(venue.limit or Limit(1, max(1, math.ceil(asked.rateLimit / 1000)), "calls"),),
        secret=None,
        auth_header=None,
        credits=lambda _: 0,
        classify=partial(classify, venue, asked),
        max_bytes=MAX_BYTES,
    )


def classify(venue: Venue, asked: Any, status: int, headers: Mapping[str, str], body: bytes) -> Verdict:
    """What an answer means: by its status, by the venue's words, and then by ccxt's table of the venue's errors.

    A ban (418) closes the venue for as long as it says: asking on would make it longer.
    """
    if status == 451:
        return Verdict(Outcome.DENIED, "the venue does not serve this country (HTTP 451)")
    if status in (401, 403):
        return Verdict(Outcome.DENIED, f"the venue refuses (HTTP {status})")
    if status == 418:
        # The header is a number of seconds; a date would need a clock to be read by.
        wait = retry_after_s(headers.get("retry-after"), datetime.max.replace(tzinfo=UTC))
        return Verdict(Outcome.QUOTA_EXHAUSTED, "the venue has banned us for our rate (HTTP 418)", wait or _BAN_S)
    if status == 429:
        return Verdict(Outcome.RATE_LIMITED, "the venue asks for patience (HTTP 429)")
    told = next((outcome for words, outcome in venue.words.items() if words in body[:500]), None)
    if told is not None:
        return Verdict(told, _WORDS[told])
    kind = refusal(asked, status, headers, body)
    told = Outcome.NOT_FOUND if status == 404 else _OUTCOMES.get(kind or "")
    if told is not None:
        return Verdict(told, _WORDS[told])
    if status >= 400 or kind:
        return Verdict(Outcome.MALFORMED, f"the venue rejects the request (HTTP {status}, {kind or 'no reason'})")
    try:
        decoded(body)
    except (ValueError, RecursionError):
        came = headers.get("content-type", "").split(";")[0] or "no type"
        return Verdict(Outcome.MALFORMED, f"an answer of {came} that is not the JSON that was due")
    return Verdict(Outcome.OK)


_OUTCOMES = {
    "BadSymbol": Outcome.NOT_FOUND,
    "RateLimitExceeded": Outcome.RATE_LIMITED,
    "DDoSProtection": Outcome.RATE_LIMITED,
    "OnMaintenance": Outcome.UNAVAILABLE,
    "ExchangeNotAvailable": Outcome.UNAVAILABLE,
    "NetworkError": Outcome.UNAVAILABLE,
    "AuthenticationError": Outcome.DENIED,
}
_WORDS = {
    Outcome.NOT_FOUND: "unknown symbol: the venue lists no such market",
    Outcome.RATE_LIMITED: "the venue asks for patience",
    Outcome.UNAVAILABLE: "the venue is not available",
    Outcome.DENIED: "the venue refuses without a key",
}


@dataclass(frozen=True)
class Spot:
    """A market: its venue's name, and the venue's tickers of base and quote."""

    venue: str
    base: str
    quote: str

    def __str__(self) -> str:
        return f"{self.venue}:{self.base}/{self.quote}"

    @property
    def symbol(self) -> str:
        return f"{self.base}/{self.quote}"


def spot_of(market_id: str) -> Spot:
    """The market of ``venue:BASE/QUOTE``. Raises UsageError for what is none."""
    found = _MARKET.fullmatch(market_id)
    if found is None:
        raise UsageError(
            f"{market_id[:80]!r} is not a market",
            where=NAME,
            safe="no call was made",
            hint="markets are venue:BASE/QUOTE in the venue's own tickers, e.g. kraken:BTC/USD",
        )
    return Spot(*found.groups())


def candles_of(subject: str) -> tuple[Spot, str]:
    """Market and interval of ``venue:BASE/QUOTE INTERVAL``. Raises UsageError where that is not what is said."""
    market_id, _, interval = subject.partition(" ")
    length = INTERVALS.get(interval)
    if length is None or timedelta(milliseconds=length) > DAY:
        raise UsageError(
            f"{subject[:80]!r} names no interval that venues are asked for",
            where=f"{NAME} candles",
            safe="no call was made",
            # Kraken's weeks begin on Thursday, and months differ in length.
            hint=f"candles are asked for as {market_id} 1m, of up to 1d; longer ones are rolled up",
        )
    return spot_of(market_id), interval
