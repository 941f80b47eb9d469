"""Whether the streams speak: a stream that runs and says nothing is an alarm, one that was stopped is not.

What a stream says of itself is in ``raw.stream_events``. The check is evaluated by the sensor in
``automation/streams.py``, every minute; who wants to know sooner runs it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import dagster as dg
import polars as pl

from crypto_assets.resources.clock import Clock
from crypto_assets.resources.lake import Lake
from crypto_assets.stream.blocks import TOLD_TO_STOP
from crypto_assets.tables.stream import RawStreamEvents, RawStreamPrices, RawTrades
from crypto_assets.tables.trusted import CLOCK_SKEW
from crypto_assets.tables.window import DAY, HOUR, Window

# A large market trades every second; a connection that broke off is tried again within a minute, and what was said
# lands within seconds. Five such minutes are no bad luck.
SILENT_AFTER = timedelta(minutes=5)
# A collector that was killed for good says nothing of it: it is missed for so long.
_REMEMBERED = 2 * DAY

KEY = dg.AssetKey(list(RawTrades.table.path))
NAME = "speaking"


@dataclass(frozen=True)
class Heard:
    """A stream that runs: its provider, and when its newest message had arrived; or since when it runs, where nothing
    was heard of it for an hour."""

    provider: str
    at: datetime

    def is_silent(self, now: datetime) -> bool:
        """Whether that is too long ago."""
        return now - self.at > SILENT_AFTER


def running(lake: Lake, now: datetime) -> list[Heard]:
    """The streams that run, by what they have said of themselves."""
    lately = Window(now - _REMEMBERED, now + CLOCK_SKEW)
    events = lake.scan(RawStreamEvents, lately).select("provider", "kind", "detail", "ends_at").collect()
    # The last thing that a collector says is that it has stopped; one that failed is to be missed.
    told = events.filter(kind="stopped", detail=TOLD_TO_STOP)
    stopped = told.group_by("provider").agg(stopped=pl.col("ends_at").max())
    since = (
        events.join(stopped, "provider", "left")
        .filter(pl.col("stopped").is_null() | (pl.col("ends_at") > pl.col("stopped")))
        .group_by("provider")
        .agg(since=pl.col("ends_at").min())
    )
    newest = [
        # Of the last hour alone: a day may hold millions.
        lake.scan(contract, Window(now - HOUR, lately.end))
        .group_by("provider")
        .agg(newest=pl.col("ingested_at").max())
        .collect()
        for contract in (RawTrades, RawStreamPrices)
    ]
    said = pl.concat(newest).group_by("provider").agg(pl.col("newest").max())
    at = pl.max_horizontal("since", "newest")
    heard = since.join(said, "provider", "left").select("provider", at=at).sort("provider")
    return [Heard(provider, moment) for provider, moment in heard.iter_rows()]


def verdict(streams: Sequence[Heard], now: datetime) -> tuple[list[str], dict[str, Any]]:
    """The providers of those that run and are silent, and what is to be shown of each."""
    told = {stream.provider: f"last heard {(now - stream.at).total_seconds():.0f} s ago" for stream in streams}
    return [stream.provider for stream in streams if stream.is_silent(now)], told or {"streams": "none runs"}


def _speaking(lake: dg.ResourceParam[Lake], clock: dg.ResourceParam[Clock]) -> dg.AssetCheckResult:
    now = clock.now()
    silent, told = verdict(running(lake, now), now)
    return dg.AssetCheckResult(passed=not silent, severity=dg.AssetCheckSeverity.WARN, metadata=told)


speaking: dg.AssetChecksDefinition = dg.asset_check(
    asset=KEY,
    name=NAME,
    description=f"Every stream that runs has said something within {SILENT_AFTER}.",
)(_speaking)
