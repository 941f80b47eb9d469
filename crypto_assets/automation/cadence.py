"""How often each provider is asked: by arithmetic from what its plan affords to the month's end, and nowhere else.

Belongs here: what a round of live pulls takes, how far apart rounds are, and which are due at a moment. Does not: ticks
and runs (``schedules.py``), and keeping the limits, which every call does by itself, however it came about
(``resources/budget.py``). No state is kept: what is due follows from the settings and the time of day, so that restarts
and several processes agree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from crypto_assets.assets.handles import absence, accounts, budget_of
from crypto_assets.providers import alpha_vantage, coincap, coingecko, exchanges, mempool
from crypto_assets.providers.answers import Cost
from crypto_assets.providers.venues import venues_of
from crypto_assets.resources.budget import SHORT_S, Limit
from crypto_assets.resources.clock import Clock
from crypto_assets.resources.settings import Settings
from crypto_assets.tables import raw

# Cron can say these periods exactly, and each divides the day; others would bunch up at the hour or at midnight.
PERIODS = (5, 10, 15, 20, 30, 60, 120, 180, 240, 360, 480, 720, 1440)
# Prices move all the time, but answers are of a minute and more, and a tick takes seconds.
OFTEN, HOURLY, DAILY = 5, 60, 1440
_DAY_S = 86_400
_NOTHING = Cost()

# Of CoinCap v3, from the sizes of recorded rows: 1,000 assets 225, 2,300 markets 300, rates and exchanges 25 and 10.
CREDITS_PER_ROUND = 560
_CALLS_PER_ROUND = 5
# One asset's points of a day, of about 100 bytes.
_CREDITS_PER_HISTORY = coincap.credits_of(100)

# Pulled where somebody asks for them by name: a busy market's trades are a hundred times its candles.
ON_REQUEST: tuple[type[raw.RawAnswers], ...] = (raw.RawExchangeTrades, raw.RawBinanceTrades)
# Pulled for days that are over, when their answers are to be had.
DAILY_HISTORIES: Mapping[str, tuple[type[raw.RawAnswers], ...]] = {
    coincap.NAME: (raw.RawCoincapHistory,),
    "binance_archive": (raw.RawBinanceKlines,),
    alpha_vantage.NAME: (raw.RawAlphaVantageSeries,),
}


@dataclass(frozen=True)
class Feed:
    """Raw tables that are pulled together by the clock.

    Attributes:
        name: what people call it.
        provider: whose it is.
        contracts: the tables.
        wish: minutes between rounds that would do, did they cost nothing.
        takes: what a round takes, by the budget that it is taken from.
        phase: minutes after midnight of a day's first round, where not at midnight.
        takes_daily: what else of these budgets is spoken for each day.
    """

    name: str
    provider: str
    contracts: tuple[type[raw.RawAnswers], ...]
    wish: int
    takes: Mapping[str, Cost]
    phase: int = 0
    takes_daily: Mapping[str, Cost] = field(default_factory=dict)


@dataclass(frozen=True)
class Rounds:
    """A feed with its period; ``minutes`` is None where the plan does not afford a round a day."""

    feed: Feed
    minutes: int | None

    def is_due(self, moment: datetime) -> bool:
        """Whether a round is due at this minute of the day."""
        if self.minutes is None:
            return False
        return (moment.hour * 60 + moment.minute - self.feed.phase) % self.minutes == 0

    def following(self, moment: datetime) -> datetime | None:
        """When the next round after this moment is due."""
        if self.minutes is None:
            return None
        opens = moment.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(minutes=self.feed.phase)
        period = timedelta(minutes=self.minutes)
        return opens + ((moment - opens) // period + 1) * period


def period(limits: Sequence[Limit], takes: Cost, daily: Cost = _NOTHING, wish: int = OFTEN) -> int | None:
    """The shortest of ``PERIODS``, not below ``wish``, at which rounds and the day's other pulls fit every limit.

    None where not even a round a day fits: runs are then started by hand.
    """
    for minutes in PERIODS:
        if minutes >= wish and all(_fits(limit, minutes, takes, daily) for limit in limits):
            return minutes
    return None


def _fits(limit: Limit, minutes: int, takes: Cost, daily: Cost) -> bool:
    a_round, a_day = (cost.calls if limit.unit == "calls" else cost.credits for cost in (takes, daily))
    if limit.seconds <= SHORT_S:
        # It only takes time, and is to be over when half of the time to the next round is.
        return a_round * limit.seconds / limit.amount <= minutes * 60 / 2
    # A window may begin anywhere and a tick may come late: it can hold a round more than divide it.
    n_rounds = math.ceil(limit.seconds / (minutes * 60)) + 1
    return n_rounds * a_round + math.ceil(limit.seconds / _DAY_S) * a_day <= limit.amount


def rounds(settings: Settings) -> list[Rounds]:
    """Every feed of the providers that can run under these settings, with its period."""
    return [
        Rounds(feed, _period_of(feed, accounts(feed.provider, settings)))
        for name, feeds in _FEEDS.items()
        if absence(name, settings) is None
        for feed in feeds(settings)
    ]


def _period_of(feed: Feed, limits: Mapping[str, Sequence[Limit]]) -> int | None:
    periods = [
        period(limits[account], takes, feed.takes_daily.get(account, _NOTHING), feed.wish)
        for account, takes in feed.takes.items()
    ]
    known = [minutes for minutes in periods if minutes is not None]
    return max(known) if known and len(known) == len(periods) else None


def tick_minutes(found: Iterable[Rounds]) -> int | None:
    """How far apart ticks must be to meet every round; None where there are no rounds."""
    numbers = [n for each in found if each.minutes for n in (each.minutes, each.feed.phase) if n]
    return math.gcd(*numbers) if numbers else None


def due(settings: Settings, moment: datetime) -> list[Feed]:
    """The feeds with a round at this minute."""
    return [each.feed for each in rounds(settings) if each.is_due(moment)]


def affords(settings: Settings, feed: Feed, clock: Clock) -> bool:
    """Whether what is left of its budgets, after whatever people asked meanwhile, is enough for a round of the feed."""
    return all(
        budget_of(feed.provider, account, settings, clock).affords(takes.calls, takes.credits)
        for account, takes in feed.takes.items()
    )


def daily_histories(settings: Settings) -> list[type[raw.RawAnswers]]:
    """The raw tables of finished days that the present providers fill."""
    return [table for name, tables in DAILY_HISTORIES.items() if absence(name, settings) is None for table in tables]


def _coincap(settings: Settings) -> list[Feed]:
    contracts = (raw.RawCoincapAssets, raw.RawCoincapExchanges, raw.RawCoincapRates, raw.RawCoincapMarkets)
    n_history = len(settings.history_assets)
    return [
        Feed(
            coincap.NAME,
            coincap.NAME,
            contracts,
            OFTEN,
            {coincap.NAME: Cost(_CALLS_PER_ROUND, CREDITS_PER_ROUND)},
            takes_daily={coincap.NAME: Cost(n_history, n_history * _CREDITS_PER_HISTORY)},
        )
    ]


def _exchanges(settings: Settings) -> list[Feed]:
    markets = settings.markets
    each = {venue: sum(market.startswith(f"{venue}:") for market in markets) for venue in venues_of(markets)}
    # A ticker and the newest candles of each market.
    now = {venue: Cost(2 * n) for venue, n in each.items()}
    listing = {venue: Cost(1) for venue in each}
    quotes = (raw.RawExchangeTickers, raw.RawExchangeCandles)
    return [
        Feed("quotes and candles", exchanges.NAME, quotes, OFTEN, now),
        # Listings are large and change by the day; not at midnight, when much else begins.
        Feed("listings", exchanges.NAME, (raw.RawExchangeMarkets,), DAILY, listing, phase=4 * 60),
    ]


def _coingecko(settings: Settings) -> list[Feed]:
    # Its answers are minutes old anyway, and keyless limits are not stated: it is asked gently.
    takes = of_a_day = {coingecko.NAME: Cost(settings.coingecko_pages)}
    markets = (raw.RawCoingeckoMarkets,)
    return [
        Feed("coins", coingecko.NAME, markets, HOURLY, takes, takes_daily=of_a_day),
        # Half an hour from the coins: together they are more than a minute's calls.
        Feed("exchange scores", coingecko.NAME, (raw.RawCoingeckoExchanges,), DAILY, takes, phase=4 * 60 + 30),
    ]


def _mempool(_: Settings) -> list[Feed]:
    # What it measures moves by the block, six an hour.
    return [Feed(mempool.NAME, mempool.NAME, (raw.RawMempool,), HOURLY, {mempool.NAME: Cost(len(mempool.LIVE))})]


def _alpha_vantage(settings: Settings) -> list[Feed]:
    name, pairs = alpha_vantage.NAME, settings.alpha_vantage_pairs
    series = alpha_vantage.series_of(pairs, settings.asked["intervals"])
    takes, takes_daily = {name: Cost(len(pairs))}, {name: Cost(len(series))}
    return [Feed("rates", name, (raw.RawAlphaVantageRates,), OFTEN, takes, takes_daily=takes_daily)]


_FEEDS: Mapping[str, Callable[[Settings], list[Feed]]] = {
    coincap.NAME: _coincap,
    exchanges.NAME: _exchanges,
    coingecko.NAME: _coingecko,
    mempool.NAME: _mempool,
    alpha_vantage.NAME: _alpha_vantage,
}
