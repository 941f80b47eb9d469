"""Alpha Vantage's answers, as received.

Source: Alpha Vantage (needs a key; a free one may ask 25 times a day). ``rates`` are live only, in rounds that the
day's calls last for. ``series`` are the daily, weekly and monthly candles of each pair and, where the plan has them,
intraday ones: an answer is a whole series, so that one call a day and series serves every day that is asked for.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime

import polars as pl

from crypto_assets.assets.raw.pulls import History, held_days, live_asset
from crypto_assets.partitions import FIRST_DAY
from crypto_assets.providers.alpha_vantage import (
    INTRADAY,
    INTRADAY_INTERVALS,
    NAME,
    AlphaVantage,
    check_subject,
    ending,
    opening,
    parse_series,
)
from crypto_assets.resources.http import Outcome
from crypto_assets.resources.lake import Lake
from crypto_assets.tables import raw
from crypto_assets.tables.trusted import GENESIS
from crypto_assets.tables.window import Window

# An outcome after which the same question has the same answer for the rest of the day.
_FINAL = [Outcome.OK, Outcome.NOT_FOUND, Outcome.DENIED]


@dataclass(frozen=True)
class Series(History):
    """Series that come whole: whatever is asked for, the answer lands for all of the time that raw does not hold yet.

    The windows of a series' answers follow each other from the genesis block on, so that each candle counts in one
    answer, and a day is computed from one however many there are.
    """

    def missing(
        self, lake: Lake, subject: str, window: Window, now: datetime, *, again: bool = False
    ) -> Iterator[Window]:
        """At most one window, of finished candles; none where raw holds those, or the day's question was asked."""
        interval = check_subject(subject)[1]
        end = opening(now.replace(hour=0, minute=0, second=0, microsecond=0), interval)
        if again:
            start, last = opening(window.start, interval), Window.of_day(window.days[-1]).start
            stop = window.end if interval in INTRADAY_INTERVALS else ending(opening(last, interval), interval)
            if start < end:
                yield Window(start, min(stop, end))
            return
        if window.start >= end or self._is_answered(lake, subject, interval, now):
            return
        wanted = Window(window.start, min(window.end, end))
        if held_days(lake, self.contract, subject, wanted).issuperset(wanted.days):
            return
        opens = window.start if interval in INTRADAY_INTERVALS else Window.of_day(GENESIS.date()).start
        whole = Window(opens, end)
        held = held_days(lake, self.contract, subject, whole)
        yield Window(next(Window.of_day(day).start for day in whole.days if day not in held), end)

    def reached(self, lake: Lake, since: datetime, window: Window) -> set[date]:
        """The Mondays and firsts on which landed weeks and months open that end with the window.

        Not the rest of the past, which came along: that is computed where somebody asks for it.
        """
        landed = lake.scan(self.contract).filter(pl.col("ingested_at") >= pl.lit(since).dt.truncate("1ms")).collect()
        candles = parse_series(landed).frame.select("interval", "opened_at").drop_nulls().unique()
        return {
            opened.date()
            for interval, opened in candles.iter_rows()
            if opened < window.start < ending(opened, interval) and str(opened.date()) >= FIRST_DAY
        }

    def _is_answered(self, lake: Lake, subject: str, interval: str, now: datetime) -> bool:
        """Whether today's answer to the question has come: data, none, or that the plan has no intraday series."""
        answers = lake.scan(self.contract).filter(
            pl.col("ingested_at") >= pl.lit(datetime(now.year, now.month, now.day, tzinfo=UTC)),
            pl.col("outcome").is_in([str(outcome) for outcome in _FINAL]),
        )
        is_ours = pl.col("subject") == subject
        if interval in INTRADAY_INTERVALS:
            is_ours |= (pl.col("endpoint") == INTRADAY) & (pl.col("outcome") == Outcome.DENIED)
        return not answers.filter(is_ours).head(1).collect().is_empty()


alpha_vantage_rates = live_asset(raw.RawAlphaVantageRates, NAME, AlphaVantage.rates)

HISTORY = Series(
    raw.RawAlphaVantageSeries,
    NAME,
    subjects=lambda provider: provider.subjects,
    pull=AlphaVantage.series,
    cost=AlphaVantage.series_cost,
)
alpha_vantage_series = HISTORY.asset()
