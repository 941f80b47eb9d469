"""Spot venues through ccxt: listings, best bid and ask, candles and trades; no key.

Any venue that ccxt knows is asked for by naming a market of it (``okx:BTC/USDT``). Three are known more closely:
Binance through its market-data host, Kraken and Coinbase Exchange (``coinbase``). ccxt says what to ask and what an
answer means; every call is made by our client, and raw holds the bytes as they came (``ccxt_wire.py``). Source: ccxt
4.5.90, Binance's API documentation of 2026-07, recorded answers.

A window ends with the last candle that was over when it was asked for, so that no unfinished candle is ever in one.
Binance and Kraken print a flat candle for a minute without trades, Coinbase omits it: inside a window that raw holds
whole, a missing candle is quiet time where ``omits_quiet`` says so and a halt of the venue elsewhere; outside of every
such window it is a hole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

from crypto_assets.errors import CryptoAssetsError, UsageError
from crypto_assets.providers.answers import Cost, Pull, moment_of
from crypto_assets.providers.ccxt_wire import exchange, fetch_candles, fetch_ticker, fetch_trades, stub, unreadable
from crypto_assets.providers.provider import Connection, Provider
from crypto_assets.providers.venues import (
    CANDLES,
    LISTING,
    NAME,
    TICKER,
    TRADES,
    UNKNOWN_PACE,
    Spot,
    candles_of,
    source,
    spot_of,
    venue_of,
    venues_of,
)
from crypto_assets.resources.http import Answer, Client, Outcome
from crypto_assets.tables.trusted import INTERVALS
from crypto_assets.tables.window import DAY, Window

__all__ = ["NAME", "PROVIDER", "Exchanges"]

# Trades of fifty answers are some 6 MB and a commit: what breaks off costs no more than that.
ANSWERS = 50
# No venue has had a million trades in one millisecond, nor a day of a thousand quiet answers: a loop, not a market.
MAX_PAGES = 1000
# Bytes of a candle and of a trade, about, and trades of a busy market a day: for estimates of cost.
_CANDLE_BYTES, _TRADE_BYTES, _TRADES_A_DAY = 170, 120, 500_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _NoDataError(Exception):
    """A call ended without data; its answer is on the list of the pull."""


class _Line:
    """ccxt's exchange of one venue, and our clients that make its calls: one a host, within one budget."""

    def __init__(self, connection: Connection, venue: str, *, is_sandbox: bool) -> None:
        self._connection = connection
        self._venue = venue
        self._clients: dict[str, Client] = {}
        self._endpoint = ""
        self._answers: list[Answer] = []
        if is_sandbox and venue not in connection.urls:
            raise UsageError(
                f"the sandbox does not speak {venue}",
                where=NAME,
                safe="no call was made",
                hint=f"ask for markets of {', '.join(connection.urls)}, or unset CRYPTO_ASSETS_SANDBOX_URL",
            )
        self.asked = exchange(venue_of(venue).exchange, self._wire)

    def close(self) -> None:
        for client in self._clients.values():
            client.close()

    def ask(self, endpoint: str, method: Callable[..., Any]) -> tuple[list[Answer], Any]:
        """What ccxt makes of the calls that ``method`` needs, with their answers; None where they end badly."""
        self._endpoint, self._answers = endpoint, []
        try:
            told = method(asked=self.asked)
        except _NoDataError:
            return self._answers, None
        except unreadable() as error:
            if not self._answers:
                raise UsageError(
                    f"{self._venue} cannot be asked for this ({type(error).__name__})",
                    where=f"{NAME} {endpoint}",
                    safe="no call was made",
                    hint="look at what ccxt says the venue has",
                ) from None
            self.misread(f"the answer is not what was due ({type(error).__name__})")
            return self._answers, None
        return self._answers, told

    def misread(self, detail: str) -> None:
        """Call the last answer of ``ask`` malformed."""
        self._answers[-1] = replace(self._answers[-1], outcome=Outcome.MALFORMED, detail=detail)

    def take_up(self, spot: Spot) -> Answer | None:
        """Make ccxt know the market; the answer that is in the way of it where there is one."""
        named = venue_of(self._venue).named
        if named is not None:
            self.asked.set_markets([stub(named(spot.base, spot.quote), spot.base, spot.quote)])
            return None
        answers, markets = self.ask(LISTING, lambda asked: asked.load_markets())
        if markets is None:
            return answers[-1]
        for market in markets.values():
            if market.get("spot") and (market["baseId"], market["quoteId"]) == (spot.base, spot.quote):
                markets[spot.symbol] = market
        if not (markets.get(spot.symbol) or {}).get("spot"):
            # Where the listing is at hand already nothing was asked.
            last = answers[-1] if answers else _unasked(self._connection.clock.now(), LISTING, str(spot))
            return replace(last, outcome=Outcome.NOT_FOUND, body=b"")
        return None

    def _wire(self, url: str) -> bytes:
        parts = urlsplit(url)
        params = dict(parse_qsl(parts.query, keep_blank_values=True))
        answer = self._client(parts).get(self._endpoint, parts.path, params)
        self._answers.append(answer)
        if answer.outcome is not Outcome.OK:
            raise _NoDataError
        return answer.body

    def _client(self, parts: SplitResult) -> Client:
        base = self._connection.urls.get(self._venue) or f"{parts.scheme}://{parts.netloc}"
        if base not in self._clients:
            self._clients[base] = self._connection.open(source(self._venue, base, self.asked))
        return self._clients[base]


class Exchanges:
    """The venues' endpoints as pulls. Every method returns what was answered, good or bad; none raises for an answer.

    ``markets`` are those of the settings; ``candle_subjects`` are these with each interval (``binance:BTC/USDT 1m``).
    Methods raise UsageError for a market, interval or venue that is none.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._clock = connection.clock
        self._lines: dict[str, _Line] = {}
        self.markets = tuple(connection.asked.get("markets", ()))
        self.candle_subjects = tuple(
            f"{market} {interval}" for market in self.markets for interval in connection.asked.get("intervals", ())
        )

    def close(self) -> None:
        """Close the connections."""
        for line in self._lines.values():
            line.close()

    def archived_until(self, subject: str, now: datetime) -> datetime | None:
        """Until when a venue's archive, one file for a thousand answers, has a subject; None without one.

        Yesterday's file may still be on its way.
        """
        is_archived = subject.partition(":")[0] in self._connection.asked.get("archives", ())
        return _floor(now, DAY) - DAY if is_archived else None

    def listings(self) -> Iterator[Pull]:
        """Every market of each venue of the settings, a pull a venue."""
        return self._each(venues_of(self.markets), self._listing)

    def tickers(self) -> Iterator[Pull]:
        """Best bid and ask and the last price of each market of the settings, a pull a market."""
        return self._each(self.markets, self._ticker)

    def candles(self, subject: str, window: Window) -> Iterator[Pull]:
        """Finished candles of a market and interval (``kraken:BTC/USD 1m``) that open in the window.

        A pull a day, or as many days as an answer holds. Of a venue that serves the newest candles only, what is older
        is a pull of its own without a call, complete with the outcome not_found.
        """
        spot, interval = candles_of(subject)
        step = timedelta(milliseconds=INTERVALS[interval] or 0)
        page = self._page(spot, interval)
        now = self._clock.now()
        start, end = _floor(window.start, step), min(_floor(window.end, step), _floor(now, step))
        if venue_of(spot.venue).newest_only:
            # The newest of them is not over yet, and another may begin before the answer is made.
            reach = _floor(now, step) - (page - 2) * step
            if start < min(reach, end):
                yield self._unreachable(spot, subject, (start, min(reach, end)), page)
                start = min(reach, end)
        for part in _days(start, end, max(1, page * step // DAY)):
            pull = self._candles_of(spot, interval, subject, part, page)
            yield pull
            if pull.ending.outcome is Outcome.NOT_FOUND:
                return

    def candles_cost(self, subject: str, window: Window) -> Cost:
        """What ``candles`` would take, once a candle is over for all of the window."""
        spot, interval = candles_of(subject)
        step = timedelta(milliseconds=INTERVALS[interval] or 0)
        page = self._page(spot, interval)
        start, end = _floor(window.start, step), _floor(window.end, step)
        if venue_of(spot.venue).newest_only:
            start = max(start, min(end, _floor(self._clock.now(), step) - (page - 2) * step))
        parts = list(_days(start, end, max(1, page * step // DAY)))
        calls = sum(math.ceil((part.end - part.start) / (page * step)) for part in parts)
        return Cost(calls=calls, n_bytes=_CANDLE_BYTES * ((end - start) // step))

    def trades(self, market_id: str, window: Window) -> Iterator[Pull]:
        """Trades of a market in the window, ``ANSWERS`` answers a pull; the newest first of a venue read backwards."""
        spot = spot_of(market_id)
        start, end = window.start, min(window.end, _floor(self._clock.now(), timedelta(seconds=1)))
        if start >= end:
            return
        if spot.venue == "coinbase":
            yield from self._trades_backwards(spot, Window(start, end))
            return
        while start < end:
            pull = self._trades_from(spot, Window(start, end))
            yield pull
            if not pull.is_complete:
                return
            start = pull.window[1]

    def trades_cost(self, market_id: str, window: Window) -> Cost:
        """What ``trades`` would take; markets differ a thousandfold in size, the estimate is of a large one."""
        page = self._trades_page(spot_of(market_id))
        days = (window.end - window.start) / DAY
        return Cost(calls=math.ceil(days * _TRADES_A_DAY / page), n_bytes=round(days * _TRADES_A_DAY * _TRADE_BYTES))

    def _each(self, subjects: Iterable[str], pull: Callable[[str], Pull]) -> Iterator[Pull]:
        """A pull each. One that cannot even be asked for does not stop the others; its error is raised at the end."""
        errors = []
        for subject in subjects:
            try:
                yield pull(subject)
            except CryptoAssetsError as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def _listing(self, venue: str) -> Pull:
        # Without the lists of account types, which are most of what Binance sends.
        params = {"showPermissionSets": "false"} if venue == "binance" else {}
        answers, markets = self._line(venue).ask(LISTING, lambda asked: asked.fetch_markets(params))
        if markets is not None and not markets:
            answers[-1] = replace(answers[-1], outcome=Outcome.EMPTY, detail="no markets")
        return self._pull(LISTING, venue, answers, is_complete=bool(markets))

    def _ticker(self, market_id: str) -> Pull:
        spot = spot_of(market_id)
        line = self._line(spot.venue)
        if (obstacle := line.take_up(spot)) is not None:
            return self._pull(TICKER, market_id, [obstacle], is_complete=False)
        answers, ticker = line.ask(TICKER, partial(fetch_ticker, spot.symbol))
        if ticker is not None and not any(ticker.get(name) for name in ("last", "bid", "ask")):
            line.misread("the answer holds no price")
            ticker = None
        observed_at = moment_of(ticker["timestamp"], answers[0].received_at) if ticker else None
        return self._pull(TICKER, market_id, answers, is_complete=ticker is not None, observed_at=observed_at)

    def _candles_of(self, spot: Spot, interval: str, subject: str, part: Window, page: int) -> Pull:
        line = self._line(spot.venue)
        if (obstacle := line.take_up(spot)) is not None:
            return self._pull(CANDLES, subject, [obstacle], is_complete=False, window=part)
        venue = venue_of(spot.venue)
        step = INTERVALS[interval] or 0
        last = _ms(part.end)
        answers: list[Answer] = []
        for since in range(_ms(part.start), last, page * step):
            upto = min(since + page * step, last)
            until = {} if venue.newest_only else {"until": upto - 1}
            n = page if venue.newest_only else (upto - since) // step
            fetch = partial(fetch_candles, spot.symbol, interval, since, n, until)
            told, candles = line.ask(CANDLES, fetch)
            times = None if candles is None else [made[0] for _, made in candles if made and isinstance(made[0], int)]
            if candles is not None and candles and not (times and any(since <= time < upto for time in times)):
                line.misread("the answer holds no candle of the time that was asked for")
                times = None
            answers += told if times is None else _quiet(told, is_quiet=not times)
            if times is None:
                return self._pull(CANDLES, subject, answers, is_complete=False, window=part)
        return self._pull(CANDLES, subject, answers, is_complete=True, window=part)

    def _unreachable(self, spot: Spot, subject: str, span: tuple[datetime, datetime], page: int) -> Pull:
        """No call: time passing never brings such history back, and so the window counts as answered."""
        told = f"history unreachable: {spot.venue} serves its newest {page} candles only"
        answer = replace(_unasked(self._clock.now(), CANDLES, subject), outcome=Outcome.NOT_FOUND, detail=told)
        return self._pull(CANDLES, subject, [answer], is_complete=True, window=Window(*span))

    def _trades_from(self, spot: Spot, span: Window) -> Pull:
        """Trades from the start of the span, oldest first; where it is long, of as much of it as the answers tell."""
        line = self._line(spot.venue)
        subject = str(spot)
        if (obstacle := line.take_up(spot)) is not None:
            return self._pull(TRADES, subject, [obstacle], is_complete=False, window=span)
        page = self._trades_page(spot)
        start, end = _ms(span.start), _ms(span.end)
        paging = _PAGINGS.get(spot.venue, _BY_TIME)
        known = start  # every trade before this moment has been told
        since, params = paging.first(start, end)
        answers: list[Answer] = []
        while len(answers) < ANSWERS or known == start:
            told, trades = line.ask(TRADES, partial(fetch_trades, spot.symbol, since, page, params))
            times = _times(trades)
            if trades is not None and paging is _BY_TIME and not _says(told, since):
                line.misread("ccxt cannot ask the venue for a time: it serves its newest trades only")
                trades = None
            elif trades and not (times and max(times) >= known):
                line.misread("the answer holds no trade of the time that was asked for")
                trades = None
            answers += told if trades is None else _quiet(told, is_quiet=not any(start <= t < end for t in times))
            if trades is None or len(answers) > MAX_PAGES:
                return self._pull(TRADES, subject, answers, is_complete=False, window=span)
            if not times:
                known = min(known + paging.reach, end)
            elif len(trades) < page:
                # A short page need not be the last one: what the venue left out of it is counted by some.
                known = max(times) + 1
            else:
                known = max(times)
            if known >= end:
                return self._pull(TRADES, subject, answers, is_complete=True, window=span)
            is_full = len(trades) >= page
            asked_before = (since, params)
            since, params = paging.following(trades) if is_full else paging.first(known, end)
            if (since, params) == asked_before:
                crowd = "more trades at one time than an answer holds"
                answers[-1] = replace(answers[-1], outcome=Outcome.MALFORMED, detail=crowd)
                return self._pull(TRADES, subject, answers, is_complete=False, window=span)
        return self._pull(TRADES, subject, answers, is_complete=True, window=Window(span.start, _at(known)))

    def _trades_backwards(self, spot: Spot, span: Window) -> Iterator[Pull]:
        """Coinbase pages from an id backwards and knows no time: the end of the span is found by bisection."""
        line = self._line(spot.venue)
        line.take_up(spot)
        cursor, obstacle = self._first_id_from(line, spot, _ms(span.end))
        if obstacle is not None:
            yield self._pull(TRADES, str(spot), [obstacle], is_complete=False, window=span)
            return
        end = span.end
        while span.start < end:
            pull, cursor = self._trades_before(line, spot, Window(span.start, end), cursor)
            yield pull
            if not pull.is_complete:
                return
            end = pull.window[0]

    def _trades_before(self, line: _Line, spot: Spot, span: Window, cursor: int) -> tuple[Pull, int]:
        """Trades to the end of the span, newest first, of as much of it as the answers tell, and the cursor before."""
        start, end = _ms(span.start), _ms(span.end)
        page, subject = self._trades_page(spot), str(spot)
        known = end  # every trade from this moment on has been told
        answers: list[Answer] = []
        found: dict[int, int] = {}
        before = cursor
        while len(answers) < ANSWERS or known == end:
            told, trades = line.ask(TRADES, partial(fetch_trades, spot.symbol, None, page, {"after": before}))
            page_of = {int(made["id"]): made["timestamp"] for _, made in trades or () if made and made["timestamp"]}
            if trades and not (page_of and max(page_of) < before):
                line.misread("the answer holds no trade before the one that was asked for")
                trades = None
            is_quiet = not any(start <= at < end for at in page_of.values())
            answers += told if trades is None else _quiet(told, is_quiet=is_quiet)
            if trades is None or len(answers) > MAX_PAGES:
                return self._pull(TRADES, subject, answers, is_complete=False, window=span), cursor
            found |= page_of
            before = min([before, *page_of])
            known = min([known, *(at + 1 for at in page_of.values())])
            if before <= 1 or not page_of or known <= start:
                return self._pull(TRADES, subject, answers, is_complete=True, window=span), before
        cursor = min([cursor, *(trade_id for trade_id, at in found.items() if at >= known)])
        return self._pull(TRADES, subject, answers, is_complete=True, window=Window(_at(known), span.end)), cursor

    def _first_id_from(self, line: _Line, spot: Spot, moment: int) -> tuple[int, Answer | None]:
        """The lowest trade id at ``moment`` (ms) or later, in some thirty small calls; and what is in the way of it."""

        def before(cursor: int | None) -> tuple[list[Answer], Any]:
            params = {} if cursor is None else {"after": cursor}
            return line.ask(TRADES, partial(fetch_trades, spot.symbol, None, 1, params))

        answers, trades = before(None)
        if trades is None:
            return 1, answers[-1]
        newest = next((trade for _, trade in trades if trade and trade["timestamp"]), None)
        if newest is None:
            return 1, None
        if newest["timestamp"] < moment:
            return int(newest["id"]) + 1, None
        low, high = 1, int(newest["id"])
        while low < high:
            middle = (low + high) // 2
            answers, trades = before(middle + 1)
            if trades is None:
                return 1, answers[-1]
            told = next((trade for _, trade in trades if trade and trade["timestamp"]), None)
            if told is None or told["timestamp"] < moment:
                low = middle + 1
            else:
                high = min(middle, int(told["id"]))
        return low, None

    def _line(self, venue: str) -> _Line:
        if venue not in self._lines:
            is_sandbox = dict(self._connection.urls) != dict(PROVIDER.urls)
            self._lines[venue] = _Line(self._connection, venue, is_sandbox=is_sandbox)
        return self._lines[venue]

    def _page(self, spot: Spot, interval: str) -> int:
        """Candles of an answer. Raises UsageError where the venue has no such interval."""
        asked = self._line(spot.venue).asked
        if not asked.has.get("fetchOHLCV") or not (asked.timeframes or {}).get(interval):
            raise UsageError(
                f"{spot.venue} has no candles of {interval}",
                where=f"{NAME} candles",
                safe="no call was made",
                hint=f"it has {', '.join(name for name in asked.timeframes or {} if name in INTERVALS) or 'none'}",
            )
        return venue_of(spot.venue).page or _stated_limit(asked, "fetchOHLCV")

    def _trades_page(self, spot: Spot) -> int:
        return venue_of(spot.venue).trades_page or _stated_limit(self._line(spot.venue).asked, "fetchTrades")

    def _pull(
        self,
        endpoint: str,
        subject: str,
        answers: Sequence[Answer],
        *,
        is_complete: bool,
        window: Window | None = None,
        observed_at: datetime | None = None,
    ) -> Pull:
        ending = answers[-1]
        if ending.outcome is Outcome.NOT_FOUND and not ending.detail.startswith("history"):
            answers = [*answers[:-1], replace(ending, detail=f"unknown symbol: no market {subject.partition(' ')[0]}")]
        seen = observed_at or answers[0].received_at
        span = (seen, seen) if window is None else (window.start, window.end)
        return Pull(NAME, endpoint, subject, tuple(answers), is_complete, seen, span, (0,) * len(answers))


@dataclass(frozen=True)
class _Paging:
    """How a venue's trades are read page by page.

    Attributes:
        first: what is asked of a span (ms): ccxt's ``since`` and further parameters.
        following: what is asked after a full page.
        reach: how long a time (ms) an answer to ``first`` speaks for.
    """

    first: Callable[[int, int], tuple[int | None, Mapping[str, Any]]]
    following: Callable[[Sequence[tuple[Any, Any]]], tuple[int | None, Mapping[str, Any]]]
    reach: int = 2**62


_HOUR_MS = 3_600_000
_BY_TIME = _Paging(lambda start, _: (start, {}), lambda trades: (max(_times(trades)), {}))
_PAGINGS = {
    # By time first, of an hour at most, and then by the aggregate's id.
    "binance": _Paging(
        lambda start, end: (start, {"until": min(start + _HOUR_MS, end) - 1}),
        lambda trades: (None, {"fromId": max(int(made["id"]) for _, made in trades if made) + 1}),
        _HOUR_MS,
    ),
    # By nanoseconds, after which the answer begins; its own `last` (which ccxt puts at the end of the last trade) is
    # what the next page begins after.
    "kraken": _Paging(
        lambda start, _: (None, {"since": str(start * 10**6 - 1)}),
        lambda trades: (None, {"since": str(trades[-1][0][-1])}),
    ),
}


def _times(trades: Sequence[tuple[Any, Any]] | None) -> list[int]:
    return [made["timestamp"] for _, made in trades or () if made and made["timestamp"]]


def _says(answers: Sequence[Answer], since: int | None) -> bool:
    """Whether a request says this moment (ms), or the one before it, in seconds or any part of them: without it the
    answer is of now, and says nothing of what was asked for."""
    return since is not None and any(
        str(ms // 1000) in answer.request for answer in answers for ms in (since, since - 1)
    )


def _quiet(answers: Sequence[Answer], *, is_quiet: bool) -> list[Answer]:
    return [replace(answer, outcome=Outcome.EMPTY) for answer in answers] if is_quiet else list(answers)


def _unasked(now: datetime, endpoint: str, subject: str) -> Answer:
    return Answer(endpoint, f"no call for {endpoint} of {subject}", None, Outcome.NOT_FOUND, b"", now, "", 0)


def _stated_limit(asked: Any, method: str) -> int:
    """The most records of an answer by ccxt's account; a hundred, which every venue gives, where it has none."""
    spot = (asked.features or {}).get("spot") or {}
    return (spot.get(method) or {}).get("limit") or 100


def _ms(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def _at(ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=ms)


def _floor(moment: datetime, step: timedelta) -> datetime:
    return moment - (moment - _EPOCH) % step


def _days(start: datetime, end: datetime, n: int) -> Iterator[Window]:
    """The span cut at every n-th midnight from its first day's on."""
    while start < end:
        until = min(_floor(start, DAY) + n * DAY, end)
        yield Window(start, until)
        start = until


PROVIDER = Provider(
    name=NAME,
    # Binance's host for market data alone: its others are closed to some countries.
    urls={
        "binance": "https://data-api.binance.vision",
        "kraken": "https://api.kraken.com",
        "coinbase": "https://api.exchange.coinbase.com",
    },
    connect=Exchanges,
    limits=lambda _, asked: {
        venue: (venue_of(venue).limit or UNKNOWN_PACE,) for venue in venues_of(asked.get("markets", ()))
    },
)
