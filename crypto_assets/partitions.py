"""When data are for: the one partitions definition and the one backfill policy of the whole chain.

Assets, symbols and venues are rows, never partitions, so that one selection of days is one run from raw to refined.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime

import dagster as dg

from crypto_assets.tables.window import HOUR, Window

# Partitioned checks and single-run backfills are marked preview and beta; tests/test_upstream.py pins what we rely on.
# Here, because every module that makes an asset or a check imports this one first.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)

# Before CoinCap's first history; a year of days costs Dagster milliseconds.
FIRST_DAY = "2018-01-01"
# The day in progress is a partition too: the schedule refreshes it until it is over.
DAILY = dg.DailyPartitionsDefinition(start_date=FIRST_DAY, timezone="UTC", end_offset=1)
# A range of days is one run: measured 16 to 87 ms a day, against seconds for a run each.
SINGLE_RUN = dg.BackfillPolicy.single_run()
# A run with this tag refreshes only the hours that hold something new; without it, whole days.
REFRESH_TAG = "crypto_assets/refresh"
REFRESH_HOURS = "hours"
# A run with this tag computes these hours, and no others, of tables that know hours: a stream's hours that are over.
HOURS_TAG = "crypto_assets/hours"


def hours_tag(hours: Iterable[datetime]) -> dict[str, str]:
    """The tag for these hours, each by its beginning."""
    return {HOURS_TAG: ",".join(f"{hour:%Y-%m-%dT%H}" for hour in sorted(hours))}


def hours_of(tags: Mapping[str, str]) -> tuple[Window, ...]:
    """The hours that a run's tags name, in order; none where all of its days are meant."""
    told = (datetime.strptime(f"{hour}+0000", "%Y-%m-%dT%H%z") for hour in tags.get(HOURS_TAG, "").split(",") if hour)
    return tuple(Window(hour.astimezone(UTC), hour.astimezone(UTC) + HOUR) for hour in told)


def range_tags(first: date, last: date) -> dict[str, str]:
    """The tags of one run over the days from ``first`` to ``last``, both included."""
    return {"dagster/asset_partition_range_start": str(first), "dagster/asset_partition_range_end": str(last)}
