"""The truth of the spot markets: every trade as a pure function of the market's seed, the market id and the time.

    tape = tape_of(Market(7), Events())                        # cached; a sandbox's own: tape_of(market, state.events)
    tape.markets                                               # {"binance:BTC/USDT": SpotMarket, ...}
    tape.trades(market_id, start, end)  -> Trades              # aggregate trades in [start, end), by time
    tape.candles(market_id, interval, start, end, until=now, is_filled=False) -> Candles   # opened in [start, end)
    tape.quote(market_id, microseconds(at)) -> Quote | None    # bid and ask at a moment; None before the first trade
    tape.is_open(market_id, at), tape.is_listed(market_id, at), tape.is_down(venue, at)
    aggregate(trades, interval) -> Candles                     # what these trades make
    INTERVALS                                                  # 1s to 1mo
    candles.records(), trades.records()                        # rows as dicts of Decimals and aware datetimes

All numbers are integers: prices in ticks, amounts in steps, values in ticks times steps (``SpotMarket`` has the
places), times in microseconds since 1970. Candles are computed from the trades and from nothing else, exactly. Any
range can be asked in any order; the answers agree, as trades are made by the UTC day.

A minute without trades has no candle. ``is_filled`` adds what Binance and Kraken print for it while the market is open:
open, high, low and close are the close before, everything else is zero. In an outage, before the first trade and after
delisting there is no candle of any kind.

Belongs here: what is true. Who is listed is in ``spot.py``, what happened in ``events.py``; what the venues make of it
(limits, names, holes in what they serve) is theirs.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from crypto_assets.sandbox.events import Events, Place
from crypto_assets.sandbox.market import Market
from crypto_assets.sandbox.noise import scrambled, scrambled_at
from crypto_assets.sandbox.spot import OPENED, SpotMarket, spot_markets

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Spans = Sequence[tuple[int, int]]

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
DAY_US = 86_400 * SECOND_US

INTERVALS: dict[str, int | None] = {
    "1s": SECOND_US,
    "1m": MINUTE_US,
    "3m": 3 * MINUTE_US,
    "5m": 5 * MINUTE_US,
    "15m": 15 * MINUTE_US,
    "30m": 30 * MINUTE_US,
    "1h": 60 * MINUTE_US,
    "2h": 120 * MINUTE_US,
    "4h": 240 * MINUTE_US,
    "6h": 360 * MINUTE_US,
    "8h": 480 * MINUTE_US,
    "12h": 720 * MINUTE_US,
    "1d": DAY_US,
    "1w": 7 * DAY_US,
    "1mo": None,
}
"""Length in microseconds, counted from the epoch (weeks from Monday); a month is as long as it is."""
_FIRST_MONDAY_US = 4 * DAY_US

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_GRID = 144  # the market's own price is asked every ten minutes; its fastest wave takes eleven
_MINUTE_NOISE = 4e-4
_VENUE_NOISE = 3e-4  # by how much venues differ, for half an hour or so
_TRADE_NOISE = 4e-5
_HALF_SPREAD = 2e-5
_EXTRAS = 4  # one raw trade more for every so many aggregates
_TAIL = 0.99  # amounts spread over two decades
_MISSING = 16  # a file before its restatement lacks one trade in so many


def within(times: Ints, spans: Spans) -> Bools:
    """Which times lie in one of the spans [start, end)."""
    found = np.zeros(len(times), dtype=np.bool_)
    for start, end in spans:
        found |= (times >= start) & (times < end)
    return found


def microseconds(at: datetime) -> int:
    """Microseconds since 1970 of an aware datetime, exact."""
    gone = at - _EPOCH
    return (gone.days * 86_400 + gone.seconds) * SECOND_US + gone.microseconds


def moment(us: int) -> datetime:
    """The aware datetime of microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=us)


def scaled(units: int, places: int) -> Decimal:
    """Units of 10**-places as an exact number."""
    return Decimal(units).scaleb(-places)


def first_of(column: Ints, default: int = 0) -> int:
    """The first number of a column, where it has one."""
    return int(column[0]) if len(column) else default


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows of one market as columns of one length, which are the fields after ``spot``."""

    spot: SpotMarket

    def __len__(self) -> int:
        return len(self.columns()[0])

    def columns(self) -> list[NDArray[Any]]:
        """The columns in the order of the fields."""
        return [getattr(self, field.name) for field in fields(self)[1:]]

    def where(self, chosen: Bools | Ints | slice) -> Self:
        """The rows chosen, by a mask, by their places (each as often as it is named) or by a slice."""
        return type(self)(self.spot, *(column[chosen] for column in self.columns()))

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The rows of all parts, of which there is one at least, one part after the other."""
        columns = zip(*(part.columns() for part in parts), strict=True)
        return cls(parts[0].spot, *map(np.concatenate, columns))


@dataclass(frozen=True, slots=True)
class Trades(_Rows):
    """Aggregate trades of one market by time, as columns of one length; ``is_buyer_maker`` says that the taker sold.

    ``first_id`` and ``last_id`` are the raw trades in the aggregate; all ids are dense from 0 at the listing.
    """

    agg_id: Ints
    time_us: Ints
    price: Ints
    amount: Ints
    first_id: Ints
    last_id: Ints
    is_buyer_maker: Bools

    def split(self) -> Trades:
        """The raw trades in the aggregates: one time, price and side, amounts that add up; ``first_id`` is the id."""
        n_raw = self.last_id - self.first_id + 1
        parent = np.repeat(np.arange(len(self), dtype=np.int64), n_raw)
        number = self.first_id[parent] + np.arange(len(parent), dtype=np.int64) - (np.cumsum(n_raw) - n_raw)[parent]
        share = (self.amount // n_raw)[parent]
        share[np.cumsum(n_raw) - n_raw] += self.amount % n_raw  # the first takes what does not divide
        return replace(self.where(parent), amount=share, first_id=number, last_id=number)

    def records(self) -> list[dict[str, Any]]:
        """One dict a trade, numbers exact."""
        spot = self.spot
        return [
            {
                "trade_id": agg_id,
                "traded_at": moment(us),
                "traded_us": us,
                "price": scaled(price, spot.price_places),
                "quantity": scaled(amount, spot.amount_places),
                "n_trades": last - first + 1,
                "first_id": first,
                "last_id": last,
                "taker_side": "sell" if is_buyer_maker else "buy",
            }
            for agg_id, us, price, amount, first, last, is_buyer_maker in zip(
                *(column.tolist() for column in self.columns()), strict=True
            )
        ]


@dataclass(frozen=True, slots=True)
class Candles(_Rows):
    """Candles of one market by opening time, as columns of one length; ``n_trades`` counts raw trades.

    ``volume`` is in steps, ``value`` in ticks times steps; the taker's columns are what takers bought.
    """

    opened_us: Ints
    open: Ints
    high: Ints
    low: Ints
    close: Ints
    volume: Ints
    value: Ints
    n_trades: Ints
    taker_volume: Ints
    taker_value: Ints

    def records(self) -> list[dict[str, Any]]:
        """One dict a candle under the names of the lake's candles, numbers exact."""
        spot = self.spot
        places = (*[spot.price_places] * 4, spot.amount_places, spot.value_places)
        names = ("open", "high", "low", "close", "volume_base", "volume_quote")
        rows = []
        for opened, *numbers, n_trades, taker, taker_value in zip(*(c.tolist() for c in self.columns()), strict=True):
            rows.append(
                {
                    "opened_at": moment(opened),
                    **{n: scaled(x, p) for n, x, p in zip(names, numbers, places, strict=True)},
                    "n_trades": n_trades,
                    "taker_buy_base": scaled(taker, spot.amount_places),
                    "taker_buy_quote": scaled(taker_value, spot.value_places),
                }
            )
        return rows


class Quote(NamedTuple):
    """The book's best at a moment: ticks and steps; ``last`` and ``last_amount`` are the trade before."""

    bid: int
    bid_amount: int
    ask: int
    ask_amount: int
    last: int
    last_amount: int
    last_id: int
    last_us: int


class _Day(NamedTuple):
    """Every trade that a UTC day has room for, before outages and listings are taken out."""

    time_us: Ints
    price: Ints
    amount: Ints
    n_raw: Ints
    is_buyer_maker: Bools
    first_rank: int
    first_raw_rank: int


class Tape:
    """The trades of all spot markets of ``market``, with what ``events`` did to them.

    Methods raise ``KeyError`` for an unknown market id; a range that ends before it begins is empty.
    """

    def __init__(self, market: Market, events: Events) -> None:
        self.market, self.events = market, events
        self.markets = spot_markets(market)
        self._dead = {market_id: self._dead_spans(spot) for market_id, spot in self.markets.items()}
        self._days = lru_cache(maxsize=96)(self._make_day)
        self._minute_days = lru_cache(maxsize=512)(self._make_minutes)
        self._prices = lru_cache(maxsize=512)(self._make_prices)

    # What happened when

    def is_open(self, market_id: str, at: datetime) -> bool:
        """Whether the market trades at that time."""
        us = microseconds(at)
        return not any(start <= us < end for start, end in self._dead[market_id])

    def is_listed(self, market_id: str, at: datetime) -> bool:
        """Whether the market has begun and not ended at that time, halted or not."""
        listed, delisted = self._life(self.markets[market_id])
        return listed <= microseconds(at) < delisted

    def begun(self, venue: str, us: int) -> list[SpotMarket]:
        """The venue's markets that have been listed by then, in microseconds; those that ended are still there."""
        return [s for s in self.markets.values() if s.venue == venue and self._life(s)[0] <= us]

    def is_down(self, venue: str, at: datetime) -> bool:
        """Whether the whole venue is out at that time."""
        return any(o.venue == venue and o.market_id is None and o.start <= at < o.end for o in self.events.outages)

    # Trades

    def trades(self, market_id: str, start: datetime, end: datetime) -> Trades:
        """Aggregate trades with start <= time < end."""
        return self.trades_us(market_id, microseconds(start), microseconds(end))

    def trades_us(self, market_id: str, start: int, end: int) -> Trades:
        """As ``trades``, in microseconds."""
        spot = self.markets[market_id]
        listed, delisted = self._life(spot)
        start, end = max(start, listed), min(end, delisted)
        if end <= start:
            return _no_trades(spot)
        parts = [self._alive(spot, day) for day in range(start // DAY_US, -(-end // DAY_US))]
        first = int(np.searchsorted(parts[0].time_us, start))
        parts[0] = parts[0].where(slice(first, None))
        last = int(np.searchsorted(parts[-1].time_us, end))
        parts[-1] = parts[-1].where(slice(None, last))
        return parts[0] if len(parts) == 1 else Trades.joined(parts)

    def first_trades(self, market_id: str, start: int, end: int, n: int, hidden: Spans = ()) -> Trades:
        """The first ``n`` aggregate trades in [start, end) microseconds; those in hidden spans are not there."""
        spot = self.markets[market_id]
        listed, delisted = self._life(spot)
        start, end = max(start, listed), min(end, delisted)
        found = [_no_trades(spot)]
        while start < end and sum(map(len, found)) < n:
            stop = min(end, (start // DAY_US + 1) * DAY_US)
            part = self.trades_us(market_id, start, stop)
            found.append(part.where(~within(part.time_us, hidden)))
            start = stop
        return Trades.joined(found).where(slice(None, n))

    def trades_from_id(self, market_id: str, agg_id: int, n: int, until: int, hidden: Spans = ()) -> Trades:
        """Up to ``n`` aggregate trades from an id on, before ``until`` microseconds and outside hidden spans."""
        spot = self.markets[market_id]
        day = self._day_of(spot, 0, agg_id, until)
        # What is left of that day may be fewer than wanted: its first trades are skipped, not counted.
        skipped = max(0, agg_id - self._ids_before(spot, day)[0])
        found = self.first_trades(market_id, day * DAY_US, until, n + skipped, hidden)
        return found.where(found.agg_id >= agg_id).where(slice(None, n))

    def time_of_raw(self, market_id: str, raw_id: int, until: int) -> int:
        """The microsecond of the first raw trade with this id or a higher one; ``until`` where there is none before."""
        spot = self.markets[market_id]
        day = self._day_of(spot, 1, raw_id, until)
        trades = self.first_trades(market_id, day * DAY_US, until, 1 + raw_id - self._ids_before(spot, day)[1])
        place = int(np.searchsorted(trades.last_id, raw_id))
        return int(trades.time_us[place]) if place < len(trades) else until

    def last_trades(self, market_id: str, n: int, until: int, hidden: Spans = ()) -> Trades:
        """The ``n`` aggregate trades before ``until`` microseconds, by time; fewer where there were no more."""
        spot = self.markets[market_id]
        found = [_no_trades(spot)]
        listed, delisted = self._life(spot)
        end = min(until, delisted)
        while end > listed and sum(map(len, found)) < n:
            start = (end - 1) // DAY_US * DAY_US
            part = self.trades_us(market_id, start, end)
            found.insert(0, part.where(~within(part.time_us, hidden)))
            end = start
        joined = Trades.joined(found)
        return joined.where(slice(max(0, len(joined) - n), None))

    def as_published(self, trades: Trades, unpublished: Spans) -> Trades:
        """What a file said of these trades while the spans had not been corrected: one in sixteen is missing there."""
        is_missing = within(trades.time_us, unpublished)
        is_missing &= scrambled_at(trades.spot.key ^ _MISSING, trades.agg_id) % np.uint64(_MISSING) == 0
        return trades.where(~is_missing)

    def unpublished(self, market_id: str, now: datetime) -> tuple[tuple[int, int], ...]:
        """The spans (us) of the archive that are still to be restated at that time."""
        return tuple(
            (microseconds(each.start), microseconds(each.end))
            for each in self.events.restatements
            if each.market_id == market_id and now < each.at
        )

    # Candles

    def candles(
        self,
        market_id: str,
        interval: str,
        start: datetime,
        end: datetime,
        *,
        until: datetime | None = None,
        is_filled: bool = False,
        unpublished: Spans = (),
    ) -> Candles:
        """Candles with start <= opening time < end, of the trades before ``until`` (None: of all).

        The one that holds ``until`` is as far as it got; none opens at ``until`` or later. In the spans of
        ``unpublished`` they are those of ``as_published``.
        """
        spot = self.markets[market_id]
        first, last = grid(interval, microseconds(start), microseconds(end))
        known = last if until is None else min(last, microseconds(until))
        listed, delisted = self._life(spot)
        low, high = max(first, opening(interval, listed)), min(known, delisted)
        if high <= low:
            return _no_candles(spot)
        if interval == "1s" or unpublished:
            made = aggregate(self.as_published(self.trades_us(market_id, low, high), unpublished), interval)
        else:
            made = rolled_up(self._minutes(spot, low, high), interval)
        return self._filled(made, interval, low, high) if is_filled else made

    def first_candles(
        self, market_id: str, interval: str, start: int, end: int, *, n: int, until: int, hidden: Spans
    ) -> Candles:
        """The first ``n`` filled candles opened in [start, end) us, of the trades before ``until``.

        ``hidden`` are spans whose candles are left out, and do not count.
        """
        spot = self.markets[market_id]
        listed, delisted = self._life(spot)
        start, end = max(start, opening(interval, listed)), min(end, until, delisted)
        width = (n + 1) * (INTERVALS[interval] or 31 * DAY_US)
        found = [_no_candles(spot)]
        while start < end and sum(map(len, found)) < n:
            stop = min(end, start + width)
            made = self.candles(market_id, interval, moment(start), moment(stop), until=moment(until), is_filled=True)
            found.append(made.where(~within(made.opened_us, hidden)))
            start, width = stop, 2 * width
        return Candles.joined(found).where(slice(None, n))

    def last_candles(self, market_id: str, interval: str, end: int, *, n: int, until: int, hidden: Spans) -> Candles:
        """The last ``n`` filled candles opened before ``end`` us, of the trades before ``until``; as above."""
        spot = self.markets[market_id]
        listed, delisted = self._life(spot)
        first, end = opening(interval, listed), min(end, until, delisted)
        width = (n + 1) * (INTERVALS[interval] or 31 * DAY_US)
        found = [_no_candles(spot)]
        while first < end and sum(map(len, found)) < n:
            start = max(first, end - width)
            made = self.candles(market_id, interval, moment(start), moment(end), until=moment(until), is_filled=True)
            found.insert(0, made.where(~within(made.opened_us, hidden)))
            end, width = start, 2 * width
        joined = Candles.joined(found)
        return joined.where(slice(max(0, len(joined) - n), None))

    def hidden(self, market_id: str, place: Place, now: datetime) -> tuple[tuple[int, int], ...]:
        """The spans (us) whose rows are not served at this place now."""
        return tuple(
            (microseconds(hole.start), microseconds(hole.end))
            for hole in self.events.holes
            if hole.market_id == market_id and place in hole.places and (hole.healed_at is None or now < hole.healed_at)
        )

    def _minutes(self, spot: SpotMarket, start: int, end: int) -> Candles:
        """Minutes with a trade in [start, end); the ends may lie within a minute."""
        parts = []
        for day in range(start // DAY_US, -(-end // DAY_US)):
            first, last = day * DAY_US, (day + 1) * DAY_US
            if start <= first and last <= end:
                parts.append(self._minute_days(spot.market_id, day))
            else:
                parts.append(aggregate(self.trades_us(spot.market_id, max(start, first), min(end, last)), "1m"))
        return parts[0] if len(parts) == 1 else Candles.joined(parts)

    def _make_minutes(self, market_id: str, day: int) -> Candles:
        return aggregate(self.trades_us(market_id, day * DAY_US, (day + 1) * DAY_US), "1m")

    def _filled(self, made: Candles, interval: str, start: int, end: int) -> Candles:
        spot = made.spot
        opens = openings(interval, start, end)
        ends = np.append(opens[1:], end)
        is_dead = np.zeros(len(opens), dtype=np.bool_)
        for dead_start, dead_end in self._dead[spot.market_id]:
            is_dead |= (opens >= dead_start) & (ends <= dead_end)
        is_traded = np.isin(opens, made.opened_us)
        wanted = opens[is_traded | ~is_dead]
        # The candle before each wanted one, or the trade before the range where there is none in it.
        place = np.searchsorted(made.opened_us, wanted, side="right") - 1
        if len(wanted) and place[0] < 0:
            before = self.last_trades(spot.market_id, 1, int(wanted[0]))
            if len(before):
                close_before = int(before.price[0])
            else:
                wanted, place = wanted[place >= 0], place[place >= 0]
                close_before = 0
        else:
            close_before = 0
        closes = np.append(made.close, close_before)[place]  # place -1 takes the appended one
        is_real = np.zeros(len(wanted), dtype=np.bool_)
        is_real[np.searchsorted(wanted, made.opened_us)] = True
        columns = [wanted]
        for name in ("open", "high", "low", "close", "volume", "value", "n_trades", "taker_volume", "taker_value"):
            flat = closes.copy() if name in ("open", "high", "low", "close") else np.zeros(len(wanted), dtype=np.int64)
            flat[is_real] = getattr(made, name)
            columns.append(flat)
        return Candles(spot, *columns)

    # The book and the day

    def quote(self, market_id: str, at: int) -> Quote | None:
        """Best bid and ask at a moment (microseconds), around the last trade; None before there was one."""
        last = self.last_trades(market_id, 1, at)
        if not len(last):
            return None
        price, agg_id = int(last.price[0]), int(last.agg_id[0])
        spread = max(1, round(2 * _HALF_SPREAD * price))
        bid, ask = (price, price + spread) if last.is_buyer_maker[0] else (price - spread, price)
        spot = last.spot
        depth = [1 + scrambled(spot.key + 4 * agg_id + side) % (20 * spot.typical_steps) for side in (2, 3)]
        return Quote(
            max(1, bid), depth[0], ask, depth[1], price, int(last.amount[0]), int(last.last_id[0]), int(last.time_us[0])
        )

    def statistics(self, market_id: str, start: int, end: int) -> tuple[Candles, Trades]:
        """The one candle that [start, end) microseconds make, none without trades; and the trades."""
        trades = self.trades_us(market_id, start, end)
        return _bundled(trades, np.zeros(min(1, len(trades)), dtype=np.int64)), trades

    # How trades are made

    def _life(self, spot: SpotMarket) -> tuple[int, int]:
        start, end = spot.listed_at, spot.delisted_at
        for listing in self.events.listings:
            if listing.market_id == spot.market_id:
                start, end = listing.start or start, listing.end or end
        return microseconds(max(start, OPENED)), 1 << 62 if end is None else microseconds(end)

    def _dead_spans(self, spot: SpotMarket) -> list[tuple[int, int]]:
        """When nothing trades: before the listing, after delisting, in outages; merged, by time."""
        listed, delisted = self._life(spot)
        spans = [(microseconds(OPENED), listed), (delisted, 1 << 62)]
        spans += [
            (max(listed, microseconds(outage.start)), min(delisted, microseconds(outage.end)))
            for outage in self.events.outages
            if outage.venue == spot.venue and outage.market_id in (None, spot.market_id)
        ]
        merged: list[tuple[int, int]] = []
        for start, end in sorted(span for span in spans if span[0] < span[1]):
            if merged and start <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            else:
                merged.append((start, end))
        return merged

    def _ranks(self, spot: SpotMarket, day: int) -> tuple[int, int]:
        """How many aggregates and raw trades there is room for before a day: closed form, so that ids are dense."""
        since = day - microseconds(OPENED) // DAY_US
        base = round(spot.trades_per_minute * 1440)
        extra = base // _EXTRAS
        wobble = scrambled(spot.key + 7919 * day)
        start = scrambled(spot.key + 7919 * (day - since))
        n_aggregates = base * since + wobble % (base // 3) - start % (base // 3)
        wobble, start = wobble >> 32, start >> 32
        n_extras = extra * since + wobble % (extra // 3) - start % (extra // 3)
        return n_aggregates, n_aggregates + n_extras

    def _make_day(self, market_id: str, day: int) -> _Day:
        spot = self.markets[market_id]
        rank, raw_rank = self._ranks(spot, day)
        next_rank, next_raw_rank = self._ranks(spot, day + 1)
        n = next_rank - rank
        n_extras = next_raw_rank - raw_rank - n
        seed = scrambled(spot.key ^ day)
        number = np.arange(n, dtype=np.int64)
        u = (scrambled_at(seed, number) >> np.uint64(11)) * 2.0**-53
        # Busier at the day's ends; a polynomial, as it is the same on every machine.
        u += 0.6 * u * (1.0 - u) * (1.0 - 2.0 * u)
        u.sort()
        gone = np.minimum((u * DAY_US).astype(np.int64), DAY_US - 1)
        bits = scrambled_at(scrambled(seed), number)
        is_buyer_maker = (bits & np.uint64(1)) == 0
        micro = ((bits >> np.uint64(1)) & np.uint64(0xFFFFF)) * 2.0**-19 - 1.0
        size = (bits >> np.uint64(40)) * 2.0**-24
        n_raw = 1 + np.bincount(
            (scrambled_at(scrambled(seed + 1), np.arange(n_extras, dtype=np.int64)) % np.uint64(n)).astype(np.int64),
            minlength=n,
        )
        amount = np.maximum((spot.typical_steps / (5.0 * (1.0 - _TAIL * size))).astype(np.int64) + 1, n_raw)
        price = self._path(spot, day, gone)
        side = np.where(is_buyer_maker, -_HALF_SPREAD, _HALF_SPREAD)
        price *= 1.0 + spot.roughness * (_TRADE_NOISE * micro + side)
        ticks = np.maximum(np.rint(price * 10.0**spot.price_places).astype(np.int64), 1)
        return _Day(gone + day * DAY_US, ticks, amount, n_raw, is_buyer_maker, rank, raw_rank)

    def _path(self, spot: SpotMarket, day: int, gone: Ints) -> NDArray[np.float64]:
        """The price at each microsecond of the day: the market's own, the minute's noise and the venue's distance."""
        base, quote = self._prices(spot.base_id, day), self._prices(spot.quote_id, day)
        path = np.interp(gone, np.linspace(0.0, DAY_US, _GRID + 1), base / quote)
        for step, size, salt in ((MINUTE_US, _MINUTE_NOISE, 1), (30 * MINUTE_US, _VENUE_NOISE, 2)):
            first = day * (DAY_US // step)
            knots = np.arange(first, first + DAY_US // step + 1, dtype=np.int64)
            noise = scrambled_at(scrambled(spot.key + salt), knots) * 2.0**-63 - 1.0
            place, rest = np.divmod(gone, step)
            path *= 1.0 + spot.roughness * size * (noise[place] + (noise[place + 1] - noise[place]) * (rest / step))
        return path

    def _make_prices(self, asset_id: str, day: int) -> NDArray[np.float64]:
        return self.market.prices(asset_id, 86_400.0 * (day + np.linspace(0.0, 1.0, _GRID + 1)))

    def _rank_at(self, spot: SpotMarket, us: int) -> tuple[int, int]:
        """How many aggregates and raw trades there is room for before a moment."""
        day, rest = divmod(us, DAY_US)
        if not rest:
            return self._ranks(spot, day)
        made = self._days(spot.market_id, day)
        place = int(np.searchsorted(made.time_us, us))
        return made.first_rank + place, made.first_raw_rank + int(made.n_raw[:place].sum())

    def _ids_before(self, spot: SpotMarket, day: int) -> tuple[int, int]:
        """The ids that the day's first aggregate and raw trade would have."""
        start = day * DAY_US
        agg_id, raw_id = self._ranks(spot, day)
        for dead_start, dead_end in self._dead[spot.market_id]:
            if dead_start < start:
                first, last = self._rank_at(spot, dead_start), self._rank_at(spot, min(dead_end, start))
                agg_id, raw_id = agg_id - (last[0] - first[0]), raw_id - (last[1] - first[1])
        return agg_id, raw_id

    def _day_of(self, spot: SpotMarket, which: Literal[0, 1], wanted: int, until: int) -> int:
        """The last day, up to that of ``until``, whose first id (of ``_ids_before``) is not above the one wanted."""
        days = range(microseconds(OPENED) // DAY_US, until // DAY_US + 1)
        place = bisect_right(days, wanted, key=lambda day: self._ids_before(spot, day)[which])
        return days.start + max(0, place - 1)

    def _alive(self, spot: SpotMarket, day: int) -> Trades:
        made = self._days(spot.market_id, day)
        agg_id, raw_id = self._ids_before(spot, day)
        alive = np.ones(len(made.time_us), dtype=np.bool_)
        for dead_start, dead_end in self._dead[spot.market_id]:
            alive &= (made.time_us < dead_start) | (made.time_us >= dead_end)
        n_raw = made.n_raw[alive]
        next_id = raw_id + np.cumsum(n_raw)
        return Trades(
            spot,
            agg_id + np.arange(len(n_raw), dtype=np.int64),
            made.time_us[alive],
            made.price[alive],
            made.amount[alive],
            next_id - n_raw,
            next_id - 1,
            made.is_buyer_maker[alive],
        )


@lru_cache(maxsize=4)
def tape_of(market: Market, events: Events) -> Tape:
    """The tape of a market and its events; asked again it is the same one, with what it remembers."""
    return Tape(market, events)


# Grids of candles


def opening(interval: str, us: int) -> int:
    """When the candle opened that holds this microsecond."""
    step = INTERVALS[interval]
    if step is None:
        at = moment(us)
        return microseconds(at.replace(day=1, hour=0, minute=0, second=0, microsecond=0))
    offset = _FIRST_MONDAY_US if interval == "1w" else 0
    return (us - offset) // step * step + offset


def closing(interval: str, opened: int) -> int:
    """When the candle that opened then is over (exclusive)."""
    step = INTERVALS[interval]
    if step is not None:
        return opened + step
    return opening(interval, opened + 31 * DAY_US)


def grid(interval: str, start: int, end: int) -> tuple[int, int]:
    """The first opening at or after ``start`` and the first at or after ``end``."""
    first, last = opening(interval, start), opening(interval, end)
    return (
        first if first == start else closing(interval, first),
        last if last == end else closing(interval, last),
    )


def openings(interval: str, start: int, end: int) -> Ints:
    """Every opening in [start, end)."""
    first, last = grid(interval, start, end)
    step = INTERVALS[interval]
    if step is not None:
        return np.arange(first, last, step, dtype=np.int64)
    found = []
    while first < last:
        found.append(first)
        first = closing(interval, first)
    return np.array(found, dtype=np.int64)


def _opened(interval: str, time_us: Ints) -> Ints:
    step = INTERVALS[interval]
    if step is None:
        return time_us.astype("datetime64[us]").astype("datetime64[M]").astype("datetime64[us]").astype(np.int64)
    offset = _FIRST_MONDAY_US if interval == "1w" else 0
    return (time_us - offset) // step * step + offset


def _starts(opened: Ints) -> Ints:
    """Where each run of one opening begins."""
    if not len(opened):
        return np.zeros(0, dtype=np.int64)
    return np.concatenate([[0], np.flatnonzero(opened[1:] != opened[:-1]) + 1]).astype(np.int64)


def aggregate(trades: Trades, interval: str) -> Candles:
    """The candles that these trades make, exactly; an interval without a trade has none."""
    return _bundled(trades, _starts(_opened(interval, trades.time_us)), interval)


def _bundled(trades: Trades, starts: Ints, interval: str | None = None) -> Candles:
    if not len(starts):
        return _no_candles(trades.spot)
    value = trades.price * trades.amount
    bought = ~trades.is_buyer_maker
    ends = np.append(starts[1:], len(trades)) - 1
    opened = trades.time_us[starts]
    return Candles(
        trades.spot,
        opened if interval is None else _opened(interval, opened),
        trades.price[starts],
        np.maximum.reduceat(trades.price, starts),
        np.minimum.reduceat(trades.price, starts),
        trades.price[ends],
        np.add.reduceat(trades.amount, starts),
        np.add.reduceat(value, starts),
        np.add.reduceat(trades.last_id - trades.first_id + 1, starts),
        np.add.reduceat(trades.amount * bought, starts),
        np.add.reduceat(value * bought, starts),
    )


def rolled_up(minutes: Candles, interval: str) -> Candles:
    """Longer candles of finer ones: first open, highest, lowest, last close, and sums; exact."""
    if interval == "1m":
        return minutes
    opened = _opened(interval, minutes.opened_us)
    starts = _starts(opened)
    if not len(starts):
        return minutes
    ends = np.append(starts[1:], len(minutes)) - 1
    sums = (minutes.volume, minutes.value, minutes.n_trades, minutes.taker_volume, minutes.taker_value)
    return Candles(
        minutes.spot,
        opened[starts],
        minutes.open[starts],
        np.maximum.reduceat(minutes.high, starts),
        np.minimum.reduceat(minutes.low, starts),
        minutes.close[ends],
        *(np.add.reduceat(column, starts) for column in sums),
    )


def _no_trades(spot: SpotMarket) -> Trades:
    empty = np.zeros(0, dtype=np.int64)
    return Trades(spot, empty, empty, empty, empty, empty, empty, np.zeros(0, dtype=np.bool_))


def _no_candles(spot: SpotMarket) -> Candles:
    return Candles(spot, *[np.zeros(0, dtype=np.int64)] * 10)
