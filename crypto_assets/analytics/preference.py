"""Which provider is listened to where several state the same thing. Pure functions of frames.

Two providers differ in prices by their venues, in caps by their supplies, and in universes by what they list: a sum
over both counts everything twice, and a history that takes turns changes with each outage. So one of them is chosen for
each thing and moment, and the rows of the others are left out. Bars stay apart by provider and need no choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import polars as pl

from crypto_assets.tables.trusted import PREFERENCE, RELAYS

# A provider that is silent for less than this is out of order, and its last words on slow facts stand; after that it
# is gone (a key that was not renewed), and the next one speaks.
SILENCE = timedelta(days=30)

_PLACE = pl.col("provider").replace({name: f" {place}" for place, name in enumerate(PREFERENCE)})
HOUR = pl.col("observed_at").dt.truncate("1h")


def preferred(rows: pl.LazyFrame, by: Sequence[pl.Expr]) -> pl.LazyFrame:
    """The rows of the one preferred provider among those that each group of ``by`` has rows of.

    ``[HOUR]`` chooses for all assets together, as sums and ranks need it; ``[pl.col("asset_id"), HOUR]`` for each.
    """
    return rows.filter(_PLACE.eq(_PLACE.min().over(by)))


def of_venues(trades: pl.LazyFrame) -> pl.LazyFrame:
    """Rows of ``trusted.trades`` without those that a relay states of a market and hour in which its venue is heard.

    A relay has no ids of the venue's: its trades and the venue's own cannot be told to be the same, and both together
    would count everything twice.
    """
    is_relayed = pl.col("provider").is_in(RELAYS)
    return trades.filter(is_relayed == is_relayed.min().over("market_id", pl.col("traded_at").dt.truncate("1h")))


def speaking(runs: pl.LazyFrame, entity: str) -> pl.LazyFrame:
    """The daily stretches of slow facts (``dimensions.attribute_runs``) that count, of one provider at a time.

    A stretch counts unless a more preferred provider described the entity on the same day, or within ``SILENCE``
    before it. What counts on a day never depends on later days.
    """
    places = runs.with_columns(place=_PLACE)
    for place in [f" {n}" for n in range(len(PREFERENCE))]:
        # On one day the more preferred provider comes first, whatever the time of its first observation.
        heard = pl.when(pl.col("place") == place).then("date").forward_fill().over(entity)
        is_outspoken = (pl.col("place") > place) & (pl.col("date") - heard <= SILENCE)
        places = places.sort(entity, "date", "place", "observed_at").filter(~is_outspoken.fill_null(value=False))
    return places.drop("place")
