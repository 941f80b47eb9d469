"""When data are for: the one partitions definition and the one backfill policy of the whole chain.

Assets, symbols and venues are rows, never partitions, so that one selection of days is one run from raw to refined.
"""

from __future__ import annotations

import warnings
from datetime import date

import dagster as dg

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


def range_tags(first: date, last: date) -> dict[str, str]:
    """The tags of one run over the days from ``first`` to ``last``, both included."""
    return {"dagster/asset_partition_range_start": str(first), "dagster/asset_partition_range_end": str(last)}
