"""The seeded market: what is true at any moment, as a pure function of the seed and the time.

Belongs here: how prices, supplies, volumes, rates and listings move, and the records made of them. There is
no stored state: any moment from 2018 on can be asked in any order, by any process, and the answer is the same.
Who exists is in ``catalogue.py``, how a number is written in ``digits.py``, HTTP in ``app.py``.

All amounts are USD; all times are UTC.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Generic

import numpy as np
from numpy.typing import NDArray

from crypto_assets.sandbox.catalogue import (
    CRYPTO_SIGNS,
    CURRENCIES,
    EXCHANGES,
    HANDOVER_SLOTS,
    N_HEAD,
    RATE_COINS,
    Coin,
    Currency,
    Exchange,
    coins,
    newcomer,
)
from crypto_assets.sandbox.digits import padded, percentages, shortest
from crypto_assets.sandbox.noise import DAY, Numbers, digest, exp, pick, sin, uniform, value_noise, walk
from crypto_assets.sandbox.source import Row, Version, iso, milliseconds

_EPOCH_2018 = datetime(2018, 1, 1, tzinfo=UTC).timestamp()
_EPOCH_2025 = datetime(2025, 1, 1, tzinfo=UTC).timestamp()
_YEAR = 365.25 * DAY

_MINUTE_MS = 60_000
HISTORY_INTERVALS = {
    "m1": _MINUTE_MS,
    "m5": 5 * _MINUTE_MS,
    "m15": 15 * _MINUTE_MS,
    "m30": 30 * _MINUTE_MS,
    "h1": 60 * _MINUTE_MS,
    "h2": 120 * _MINUTE_MS,
    "h6": 360 * _MINUTE_MS,
    "h12": 720 * _MINUTE_MS,
    "d1": 1440 * _MINUTE_MS,
}
"""Interval name to milliseconds. All divide a UTC day, so the grid is counted from the epoch."""
CANDLE_INTERVALS = {
    **HISTORY_INTERVALS,
    "h4": 240 * _MINUTE_MS,
    "h8": 480 * _MINUTE_MS,
    "w1": 7 * 1440 * _MINUTE_MS,
}
# Without a range the real d1 answer held 364 points and ended with the last full day; intraday holds a day.
_RECENT_DAYS = 364
_DAY_MS = 1440 * _MINUTE_MS
# 1970-01-01 was a Thursday; weekly candles open on Monday.
_FIRST_MONDAY_MS = 4 * _DAY_MS

# How often the real answers have no value.
_SILENT_EXCHANGES = 0.32
_UNPRICED_MARKETS = 0.11
_UNCOUNTED_TRADES = 0.43
_UNSIGNED_CURRENCIES = 0.29

_N_MARKETS = 600
_MARKET_BASES = 80
_QUOTES = ("tether", "united-states-dollar", "usd-coin", "bitcoin", "euro", "ethereum", "binance-coin")
_ALWAYS_PRICED = 2
_DAILY_TURNOVER = 9.0e10  # USD over all reporting exchanges
_RESTLESS = 12  # assets of the tail whose describing facts change now and then
_WELL_KNOWN_EXCHANGES = 5  # the largest always report

_Change = tuple[str, float, float]  # what changes, first time (epoch s), every so many seconds


@dataclass(frozen=True, slots=True)
class Change:
    """A fact that changed at a moment: the truth that a slowly changing dimension must find.

    ``field`` is ``name``, ``explorer``, ``maxSupply`` or ``listed`` (``"yes"`` or
    ``"no"``); ``maxSupply`` is written as v3 does.
    """

    at: datetime
    asset_id: str
    field: str
    old: str | None
    new: str | None


@dataclass(frozen=True, slots=True)
class _Pair:
    exchange: Exchange
    base: Coin
    quote_id: str
    quote_symbol: str
    weight: float  # share of the exchange's volume, sums to 1 per exchange
    rank: int
    key: int


@dataclass(frozen=True, slots=True)
class _Moment(Generic[Numbers]):
    """What every price at one epoch second, or at each of several, shares; worked out once."""

    seconds: Numbers
    market: Numbers  # the log move of the whole market


class Market:
    """A market of ``n_assets`` assets made from ``seed``; at every moment exactly so many are listed.

    With 40 assets or more the last four places pass from a delisted asset to a newly listed one now and then.
    Every method takes aware datetimes and raises nothing of its own. ``activity`` is how many times as often the spot
    markets trade; all trades of a market's day are made at once, a million of them in a second or two.
    """

    def __init__(self, seed: int = 7, *, n_assets: int = 250, activity: float = 1.0) -> None:
        self.seed, self.activity = seed, activity
        n_fixed = n_assets - (HANDOVER_SLOTS if n_assets >= 40 else 0)
        self._coins = coins(seed, n_fixed)
        self._by_id = {coin.id: coin for coin in self._coins}
        self._handovers = [self._handover(place) for place in range(n_fixed, n_assets)]
        self._market_key = digest(seed, "whole-market")
        self._market_phase = 2.0 * math.pi * uniform(seed, "phase")
        tail = [coin.id for coin in self._coins[N_HEAD + 2 :] if coin.explorer and coin.max_supply]
        restless = sorted(pick(tail, min(1.0, _RESTLESS / max(1, len(tail))), seed, "restless"))
        self._changes = {asset_id: self._schedule(n, asset_id) for n, asset_id in enumerate(restless)}
        self._currencies = {currency.id: currency for currency in CURRENCIES}
        lesser = [exchange.id for exchange in EXCHANGES[_WELL_KNOWN_EXCHANGES:]]
        share = _SILENT_EXCHANGES * len(EXCHANGES) / len(lesser)
        self._silent = pick(lesser, share, seed, "silent")
        self._pairs = self._all_pairs()
        labels = [_label(pair) for pair in self._pairs]
        # An exchange's first pairs are always priced; the missing prices are spread over the others.
        lesser = [_label(pair) for pair in self._pairs if pair.rank > _ALWAYS_PRICED]
        share = min(1.0, _UNPRICED_MARKETS * len(labels) / max(1, len(lesser)))
        self._unpriced = pick(lesser, share, seed, "unpriced")
        self._uncounted = pick(labels, _UNCOUNTED_TRADES, seed, "uncounted")
        rate_ids = [currency.id for currency in CURRENCIES] + [coin.id for coin in self._coins[:RATE_COINS]]
        # The best-known signs are always there; the missing ones are spread over the others.
        lesser = [rate_id for rate_id in rate_ids[5:] if rate_id not in CRYPTO_SIGNS]
        share = min(1.0, _UNSIGNED_CURRENCIES * len(rate_ids) / len(lesser))
        self._unsigned = pick(lesser, share, seed, "unsigned")

    # The truth as numbers

    def price(self, asset_id: str, at: datetime) -> float | None:
        """The USD price of an asset or currency, or None where the id is unknown at that time."""
        moment = self._moment(at.timestamp())
        if asset_id in self._currencies:
            return self._currency_rate(self._currencies[asset_id], moment.seconds)
        coin = self._listed(asset_id, moment.seconds)
        return None if coin is None else self._price(coin, moment)

    def prices(self, item: str, seconds: NDArray[np.float64]) -> NDArray[np.float64]:
        """The USD prices of a lasting asset or currency at these epoch seconds. Raises ``KeyError`` for another."""
        moment = self._moment(seconds)
        if item in self._currencies:
            return self._currency_rate(self._currencies[item], moment.seconds)
        return self._price(self._by_id[item], moment)

    def base_price(self, item: str) -> float | None:
        """The USD price that an asset or currency moves around, or None where it is not among the lasting ones."""
        if item in self._currencies:
            return self._currencies[item].rate
        return self._by_id[item].price if item in self._by_id else None

    def changes(self, start: datetime, end: datetime) -> list[Change]:
        """Every change of name, explorer, maxSupply and listing in [start, end), by time."""
        first, last = start.timestamp(), end.timestamp()
        found = list(self._handed_over(first, last))
        for asset_id, (field, origin, every) in self._changes.items():
            coin = self._by_id[asset_id]
            for number in _occurrences(origin, every, first, last):
                old, new = self._fact(coin, field, number - 1), self._fact(coin, field, number)
                found.append(Change(_moment_at(origin + number * every), asset_id, field, old, new))
        return sorted(found, key=lambda change: (change.at, change.asset_id, change.new or ""))

    # The provider's records

    def assets(self, at: datetime, version: Version = "v3") -> list[Row]:
        """Every listed asset by market cap, rank 1..n; supply times price is the cap up to rounding."""
        now, noon, yesterday = self._three_moments(at)
        valued = []
        for coin in self._listing(now.seconds):
            price, supply = self._price(coin, now), _supply(coin, now.seconds)
            valued.append((price * supply, price, supply, coin))
        valued.sort(key=lambda entry: (-entry[0], entry[3].id))
        return [
            self._asset_row(
                coin,
                rank=rank,
                cap=cap,
                price=price,
                supply=supply,
                moments=(now, noon, yesterday),
                version=version,
            )
            for rank, (cap, price, supply, coin) in enumerate(valued, 1)
        ]

    def asset(self, asset_id: str, at: datetime, version: Version = "v3") -> Row | None:
        """The asset's record, or None where it is not listed at that time."""
        return next((row for row in self.assets(at, version) if row["id"] == asset_id), None)

    def rates(self, at: datetime, version: Version = "v3") -> list[Row]:
        """About 60 conversion rates: fiat currencies and the largest assets, ordered by digest as if unsorted."""
        moment = self._moment(at.timestamp())
        rates = [
            (currency.id, currency.symbol, currency.sign, "fiat", self._currency_rate(currency, moment.seconds))
            for currency in CURRENCIES
        ]
        rates += [
            (coin.id, coin.symbol, CRYPTO_SIGNS.get(coin.id, coin.symbol), "crypto", self._price(coin, moment))
            for coin in self._coins[:RATE_COINS]
        ]
        rows: list[Row] = [
            {
                "id": rate_id,
                "symbol": symbol,
                "currencySymbol": None if rate_id in self._unsigned else sign,
                "type": kind,
                "rateUsd": padded(rate, version),
            }
            for rate_id, symbol, sign, kind, rate in rates
        ]
        return sorted(rows, key=lambda row: digest(self.seed, "rate-order", row["id"]))

    def rate(self, rate_id: str, at: datetime, version: Version = "v3") -> Row | None:
        """One rate, or None where there is none."""
        return next((row for row in self.rates(at, version) if row["id"] == rate_id), None)

    def exchanges(self, at: datetime, version: Version = "v3") -> list[Row]:
        """Every exchange by volume; those that do not report have nulls and come last."""
        volumes = self._exchange_volumes(at.timestamp())
        reporting = sorted((exchange for exchange in EXCHANGES if exchange.id in volumes), key=lambda e: -volumes[e.id])
        texts = [padded(volumes[exchange.id], version) for exchange in reporting]
        n_pairs = {exchange.id: 0 for exchange in EXCHANGES}
        for pair in self._pairs:
            n_pairs[pair.exchange.id] += 1
        rows: list[Row] = [
            {
                "exchangeId": exchange.id,
                "name": exchange.name,
                "rank": str(rank),
                "percentTotalVolume": percent,
                "volumeUsd": volume,
                "tradingPairs": str(n_pairs[exchange.id]),
                "socket": exchange.socket,
                "exchangeUrl": exchange.url,
                "updated": self._updated(at, "exchange", exchange.id),
            }
            for rank, (exchange, volume, percent) in enumerate(
                zip(reporting, texts, percentages(texts), strict=True), 1
            )
        ]
        silent = [exchange for exchange in EXCHANGES if exchange.id in self._silent]
        rows += [
            {
                "exchangeId": exchange.id,
                "name": exchange.name,
                "rank": str(rank),
                "percentTotalVolume": None,
                "volumeUsd": None,
                "tradingPairs": "0",
                "socket": None,
                "exchangeUrl": exchange.url,
                "updated": 0,
            }
            for rank, exchange in enumerate(silent, len(rows) + 1)
        ]
        return rows

    def markets(self, at: datetime, version: Version = "v3") -> list[Row]:
        """Every pair of every reporting exchange; ``rank`` is the pair's place within its exchange."""
        moment = self._moment(at.timestamp())
        volumes = self._exchange_volumes(moment.seconds)
        prices = self._pair_prices(moment)
        rows = []
        for pair in self._pairs:
            label = _label(pair)
            usd = prices[pair.base.id] * self._spread(pair, moment.seconds)
            volume = volumes[pair.exchange.id] * pair.weight
            is_priced = label not in self._unpriced
            rows.append(
                {
                    "exchangeId": pair.exchange.id,
                    "rank": str(pair.rank),
                    "baseSymbol": pair.base.symbol,
                    "baseId": pair.base.id,
                    "quoteSymbol": pair.quote_symbol,
                    "quoteId": pair.quote_id,
                    "priceQuote": padded(usd / prices[pair.quote_id], version),
                    "priceUsd": padded(usd, version) if is_priced else None,
                    "volumeUsd24Hr": padded(volume, version) if is_priced else None,
                    "percentExchangeVolume": padded(pair.weight * 100.0, version),
                    "tradesCount24Hr": None if label in self._uncounted else str(1 + int(volume / 950.0)),
                    "updated": self._updated(at, "market", label),
                }
            )
        return rows

    def asset_markets(self, asset_id: str, at: datetime, version: Version = "v3") -> list[Row] | None:
        """The pairs with this base by volume, ``exchangeId`` being the display name; None when not listed."""
        if self._listed(asset_id, at.timestamp()) is None:
            return None
        display = {exchange.id: exchange.name for exchange in EXCHANGES}
        rows = [row for row in self.markets(at, version) if row["baseId"] == asset_id]
        rows.sort(key=lambda row: -float(row["volumeUsd24Hr"] or 0.0))
        whole = sum(float(row["volumeUsd24Hr"] or 0.0) for row in rows)
        return [
            {
                "exchangeId": display[row["exchangeId"]],
                "baseId": row["baseId"],
                "quoteId": row["quoteId"],
                "baseSymbol": row["baseSymbol"],
                "quoteSymbol": row["quoteSymbol"],
                "volumeUsd24Hr": row["volumeUsd24Hr"],
                "priceUsd": row["priceUsd"],
                "volumePercent": row["volumeUsd24Hr"] and padded(100.0 * float(row["volumeUsd24Hr"]) / whole, version),
            }
            for row in rows
        ]

    def history(
        self,
        asset_id: str,
        interval: str,
        start: datetime | None = None,
        end: datetime | None = None,
        *,
        now: datetime,
        version: Version = "v3",
    ) -> list[Row] | None:
        """Points stamped in [start, end) on the interval's grid whose interval is over at ``now``.

        Without a range: the most recent 364 days for d1, the most recent 24 hours otherwise. A point is the
        price at its stamp. None where the asset is not listed at ``now``. ``interval`` is a key of
        ``HISTORY_INTERVALS``.
        """
        coin = self._listed(asset_id, now.timestamp())
        if coin is None:
            return None
        step = HISTORY_INTERVALS[interval]
        since = max(_EPOCH_2018, self._listed_since(coin, now.timestamp()))
        rows = []
        recent = _RECENT_DAYS * _DAY_MS if interval == "d1" else _DAY_MS
        for stamp in _grid(step, (start, end), now=now, recent=recent):
            if stamp / 1000 < since:
                continue
            moment = self._moment(stamp / 1000)
            row: Row = {"priceUsd": padded(self._price(coin, moment), version), "time": stamp}
            if interval != "d1":
                row["circulatingSupply"] = padded(_supply(coin, moment.seconds), version)
            row["date"] = iso(stamp)
            rows.append(row)
        return rows

    def candles(
        self,
        exchange_id: str,
        interval: str,
        base_id: str,
        quote_id: str,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        now: datetime,
    ) -> list[Row]:
        """Finished candles in quote units, or the last day's (100 for h12 and longer); empty for no such pair."""
        wanted = (exchange_id, base_id, quote_id)
        pair = next((p for p in self._pairs if (p.exchange.id, p.base.id, p.quote_id) == wanted), None)
        if pair is None:
            return []
        step = CANDLE_INTERVALS[interval]
        recent = max(_DAY_MS, 100 * step) if step >= _DAY_MS // 2 else _DAY_MS
        offset = _FIRST_MONDAY_MS if interval == "w1" else 0
        rows: list[Row] = []
        for stamp in _grid(step, (start, end), now=now, recent=recent, offset=offset):
            # Eight samples see the swings; the next candle opens where this one closes.
            samples = [self._pair_price(pair, (stamp + step * part / 8) / 1000) for part in range(9)]
            volume = self._exchange_volumes(stamp / 1000)[exchange_id] * pair.weight * step / _DAY_MS
            usd = self.price(base_id, _moment_at(stamp / 1000)) or 1.0
            rows.append(
                {
                    "open": padded(samples[0], "v2"),
                    "high": padded(max(samples), "v2"),
                    "low": padded(min(samples), "v2"),
                    "close": padded(samples[-1], "v2"),
                    "volume": padded(volume / usd, "v2"),
                    "period": stamp,
                }
            )
        return rows

    def answered_at(self, endpoint: str, item: str | None, at: datetime) -> int:
        """The moment of the question, in epoch milliseconds."""
        return milliseconds(at)

    # Prices

    def _moment(self, seconds: Numbers) -> _Moment[Numbers]:
        # The whole market: a four-year cycle, half-year swings, and a walk of 2.5 % a day that all coins share.
        phase = self._market_phase
        market = (
            0.45 * sin(2.0 * math.pi * seconds / (4.0 * _YEAR) + phase)
            + 0.12 * sin(2.0 * math.pi * seconds / (160.0 * DAY) + 2.0 * phase)
            + 0.025 * walk(self._market_key, seconds)
        )
        return _Moment(seconds, market)

    def _three_moments(self, at: datetime) -> tuple[_Moment[float], _Moment[float], _Moment[float]]:
        seconds = at.timestamp()
        return self._moment(seconds), self._moment(seconds - DAY / 2), self._moment(seconds - DAY)

    def _price(self, coin: Coin, moment: _Moment[Numbers]) -> Numbers:
        seconds = moment.seconds
        if coin.kind == "usd":  # stays within 0.1 % of a dollar and comes back
            noise = 0.0006 * value_noise(coin.key, seconds / DAY) + 0.0003 * value_noise(coin.key + 1, seconds / 3600.0)
            return coin.price * exp(noise)
        if coin.peg is not None:  # a wrapped coin follows its own within 0.2 %
            followed = self._by_id[coin.peg]
            return self._price(followed, moment) * exp(0.002 * value_noise(coin.key, seconds / DAY))
        slow = 0.25 * value_noise(coin.key + 1, seconds / (700.0 * DAY))
        return coin.price * exp(coin.beta * moment.market + slow + coin.sigma * walk(coin.key, seconds))

    def _currency_rate(self, currency: Currency, seconds: Numbers) -> Numbers:
        if currency.id == "united-states-dollar":
            return 1.0 + 0.0 * seconds
        return currency.rate * exp(0.004 * walk(digest(self.seed, "currency", currency.id), seconds))

    def _pair_prices(self, moment: _Moment[float]) -> dict[str, float]:
        wanted = {pair.base.id for pair in self._pairs} | {pair.quote_id for pair in self._pairs}
        return {
            item: self._currency_rate(self._currencies[item], moment.seconds)
            if item in self._currencies
            else self._price(self._by_id[item], moment)
            for item in sorted(wanted)
        }

    def _pair_price(self, pair: _Pair, seconds: float) -> float:
        moment = self._moment(seconds)
        quote = self._currencies.get(pair.quote_id)
        per_quote = self._currency_rate(quote, seconds) if quote else self._price(self._by_id[pair.quote_id], moment)
        return self._price(pair.base, moment) * self._spread(pair, seconds) / per_quote

    def _spread(self, pair: _Pair, seconds: float) -> float:
        # Venues differ from the whole market's price by up to 0.1 %, for half an hour or so.
        return math.exp(0.001 * value_noise(pair.key, seconds / 1800.0))

    def _exchange_volumes(self, seconds: float) -> dict[str, float]:
        weights = {
            exchange.id: (place + 1) ** -1.1
            * math.exp(0.3 * value_noise(digest(self.seed, "volume", exchange.id), seconds / (2 * DAY)))
            for place, exchange in enumerate(EXCHANGES)
            if exchange.id not in self._silent
        }
        whole = sum(weights.values())
        turnover = _DAILY_TURNOVER * math.exp(0.4 * value_noise(digest(self.seed, "turnover"), seconds / DAY))
        return {exchange_id: turnover * weight / whole for exchange_id, weight in weights.items()}

    # Records

    def _asset_row(
        self,
        coin: Coin,
        *,
        rank: int,
        cap: float,
        price: float,
        supply: float,
        moments: tuple[_Moment[float], _Moment[float], _Moment[float]],
        version: Version,
    ) -> Row:
        now, noon, yesterday = moments
        before = self._price(coin, yesterday)
        mean = (price + 2.0 * self._price(coin, noon) + before) / 4.0
        volume = cap * coin.turnover * math.exp(0.5 * value_noise(coin.key + 2, now.seconds / DAY))
        row: Row = {
            "id": coin.id,
            "rank": str(rank),
            "symbol": coin.symbol,
            "name": coin.name,
            "supply": padded(supply, version),
            "maxSupply": coin.max_supply and padded(coin.max_supply, version),
            "marketCapUsd": padded(cap, version),
            "volumeUsd24Hr": padded(volume, version),
            "priceUsd": padded(price, version),
            "changePercent24Hr": shortest((price / before - 1.0) * 100.0, version),
            "vwap24Hr": shortest(mean, version),
            "explorer": coin.explorer,
        }
        changing = self._changes.get(coin.id)
        if changing is not None:
            field, origin, every = changing
            row[field] = self._fact(coin, field, math.floor((now.seconds - origin) / every), version)
        if version == "v3":
            row["tokens"] = coin.tokens
        return row

    def _updated(self, at: datetime, *label: str) -> int:
        return milliseconds(at) - digest(self.seed, "updated", *label) % _MINUTE_MS

    # Listings and changing facts

    def _handover(self, place: int) -> tuple[int, float, float]:
        # Whole hours, so that the moment of a change is exact as a float and as a datetime.
        hours = 24 * (240 + digest(self.seed, "handover", place) % 240)
        origin = _EPOCH_2018 - 3600.0 * (digest(self.seed, "handover-phase", place) % hours)
        return place, origin, 3600.0 * hours

    def _schedule(self, number: int, asset_id: str) -> _Change:
        field = ("name", "explorer", "maxSupply")[number % 3]
        hours = 24 * (45 + digest(self.seed, "change", asset_id) % 105)
        origin = _EPOCH_2018 - 3600.0 * (digest(self.seed, "change-phase", asset_id) % hours)
        return field, origin, 3600.0 * hours

    def _fact(self, coin: Coin, field: str, number: int, version: Version = "v3") -> str:
        """The describing fact after so many changes; it goes to and fro, and only the explorer never repeats."""
        if field == "name":
            return f"{coin.name} Network" if number % 2 else coin.name
        if field == "explorer":
            return f"https://explorer{number}.{coin.id}.example/"
        return padded((coin.max_supply or 0.0) * (1.25 if number % 2 else 1.0), version)

    def _newcomers(self, seconds: float) -> list[tuple[Coin, float]]:
        return [
            (newcomer(self.seed, place, generation), origin + generation * every)
            for place, origin, every in self._handovers
            for generation in [max(0, math.floor((seconds - origin) / every))]
        ]

    def _listing(self, seconds: float) -> list[Coin]:
        return self._coins + [coin for coin, _ in self._newcomers(seconds)]

    def _listed(self, asset_id: str, seconds: float) -> Coin | None:
        fixed = self._by_id.get(asset_id)
        if fixed is not None:
            return fixed
        return next((coin for coin, _ in self._newcomers(seconds) if coin.id == asset_id), None)

    def _listed_since(self, coin: Coin, seconds: float) -> float:
        return next((since for known, since in self._newcomers(seconds) if known.id == coin.id), _EPOCH_2018)

    def _handed_over(self, first: float, last: float) -> Iterator[Change]:
        for place, origin, every in self._handovers:
            for number in _occurrences(origin, every, first, last):
                at = _moment_at(origin + number * every)
                yield Change(at, newcomer(self.seed, place, number - 1).id, "listed", "yes", "no")
                yield Change(at, newcomer(self.seed, place, number).id, "listed", "no", "yes")

    # Trading pairs

    def _all_pairs(self) -> list[_Pair]:
        bases = self._coins[:_MARKET_BASES]
        quotes = {quote: self._symbol(quote) for quote in _QUOTES if quote in self._currencies or quote in self._by_id}
        reporting = [exchange for exchange in EXCHANGES if exchange.id not in self._silent]
        sizes = [(place + 1) ** -0.6 for place in range(len(reporting))]
        pairs: list[_Pair] = []
        for exchange, size in zip(reporting, sizes, strict=True):
            # The largest coins and quotes first, with enough chance that no two exchanges list the same.
            scores = {
                (place, quote): place / 40 + order / 3 + 1.5 * uniform(self.seed, "pair", exchange.id, base.id, quote)
                for place, base in enumerate(bases)
                for order, quote in enumerate(quotes)
                if base.id != quote
            }
            chosen = sorted(scores, key=scores.__getitem__)[: max(2, round(_N_MARKETS * size / sum(sizes)))]
            weights = [(place + 1) ** -0.9 for place in range(len(chosen))]
            for rank, ((place, quote), weight) in enumerate(zip(chosen, weights, strict=True), 1):
                base = bases[place]
                key = digest(self.seed, "spread", exchange.id, base.id, quote)
                pairs.append(_Pair(exchange, base, quote, quotes[quote], weight / sum(weights), rank, key))
        return pairs

    def _symbol(self, item: str) -> str:
        return self._currencies[item].symbol if item in self._currencies else self._by_id[item].symbol


def _label(pair: _Pair) -> str:
    return f"{pair.exchange.id}:{pair.base.id}/{pair.quote_id}"


def _supply(coin: Coin, seconds: float) -> float:
    supply = coin.supply * (1.0 + coin.growth * (seconds - _EPOCH_2025) / _YEAR)
    return min(supply, coin.max_supply) if coin.max_supply else supply


def _moment_at(seconds: float) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)


def _occurrences(origin: float, every: float, first: float, last: float) -> range:
    return range(math.ceil((first - origin) / every), math.ceil((last - origin) / every))


def _grid(
    step: int, window: tuple[datetime | None, datetime | None], *, now: datetime, recent: int, offset: int = 0
) -> range:
    """Stamps (epoch ms) of the grid in [start, end) whose interval is over at ``now``."""
    start, end = window
    over = (milliseconds(now) - offset) // step * step + offset
    if start is None or end is None:
        return range(over - max(step, recent // step * step), over, step)
    # The market begins in 2018: a question from the epoch on costs no walk over what never was.
    begin = max(milliseconds(start), int(_EPOCH_2018) * 1000)
    first = -((offset - begin) // step) * step + offset
    return range(first, min(over, milliseconds(end)), step)
