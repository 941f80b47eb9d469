"""One provider at a time: for sums and ranks, for the latest rows, and for facts through time."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from crypto_assets.analytics import dimensions, market
from crypto_assets.analytics.preference import HOUR, SILENCE, preferred
from crypto_assets.tables.conform import conform
from crypto_assets.tables.contract import polars_schema
from crypto_assets.tables.refined import DimAsset, LatestAssets, MarketOverview, Movers
from crypto_assets.tables.trusted import AssetAttributes, AssetSnapshots, ExchangeSnapshots

RowsOf = Callable[..., pl.DataFrame]
CAP, GECKO = "coincap", "coingecko"


def at(hour: int, minute: int = 0, day: int = 1) -> dt.datetime:
    return dt.datetime(2024, 1, day, hour, minute, tzinfo=dt.UTC)


@pytest.fixture
def snapshots(rows_of: RowsOf) -> Callable[..., pl.DataFrame]:
    """Snapshots by ``(provider, time, asset, cap)``; volumes and changes are liquid."""

    def build(*told: tuple[str, dt.datetime, str, int]) -> pl.DataFrame:
        return rows_of(
            AssetSnapshots,
            *(
                {
                    "provider": provider,
                    "observed_at": time,
                    "ingested_at": time + dt.timedelta(seconds=1),
                    "asset_id": asset,
                    "market_cap_usd": Decimal(cap) * 10**9,
                    "volume_usd_24h": Decimal(cap) * 10**8,
                    "change_pct_24h": Decimal(cap),
                }
                for provider, time, asset, cap in told
            ),
        )

    return build


@pytest.fixture
def hours(snapshots: Any) -> pl.DataFrame:
    """Both at 5, CoinGecko alone at 6, CoinCap alone at 7; each counts caps its own way and has an asset of its own."""
    return snapshots(
        *((CAP, at(5, 10), asset, cap) for asset, cap in (("bitcoin", 50), ("ethereum", 30), ("only-cap", 20))),
        *((GECKO, at(5, 20), asset, cap) for asset, cap in (("bitcoin", 51), ("ethereum", 31), ("only-gecko", 18))),
        *((GECKO, at(6, 20), asset, cap) for asset, cap in (("bitcoin", 52), ("ethereum", 32), ("only-gecko", 16))),
        *((CAP, at(7, 10), asset, cap) for asset, cap in (("bitcoin", 53), ("ethereum", 33), ("only-cap", 14))),
    )


def test_coincap_is_preferred_where_it_is_there_then_coingecko_then_names(snapshots: Any) -> None:
    rows = snapshots(*((p, at(5), "bitcoin", 1) for p in ("zeta", "alpha", GECKO, CAP)))
    chosen = []
    while len(rows):
        (provider,) = preferred(rows.lazy(), [HOUR]).collect()["provider"]
        chosen.append(provider)
        rows = rows.filter(pl.col("provider") != provider)
    assert chosen == [CAP, GECKO, "alpha", "zeta"]


def test_every_hour_of_the_market_is_one_providers_and_no_sum_holds_two(hours: pl.DataFrame) -> None:
    nothing = pl.LazyFrame(schema=polars_schema(ExchangeSnapshots))
    rows = conform(MarketOverview, market.overview(hours.lazy(), nothing).collect())
    assert rows.select("opened_at", "provider", "n_assets", "total_market_cap_usd").rows() == [
        (at(5), CAP, 3, Decimal(100) * 10**9),
        (at(6), GECKO, 3, Decimal(100) * 10**9),
        (at(7), CAP, 3, Decimal(100) * 10**9),
    ]
    assert rows["btc_dominance"].to_list() == [0.5, 0.52, 0.53]


def test_an_hour_computed_alone_is_the_same(hours: pl.DataFrame) -> None:
    nothing = pl.LazyFrame(schema=polars_schema(ExchangeSnapshots))
    whole = conform(MarketOverview, market.overview(hours.lazy(), nothing).collect())
    for hour in (5, 6, 7):
        alone = hours.filter(pl.col("observed_at").dt.hour() == hour)
        rows = conform(MarketOverview, market.overview(alone.lazy(), nothing).collect())
        assert_frame_equal(rows, whole.filter(opened_at=at(hour)))


def test_exchanges_are_those_of_the_hours_provider(hours: pl.DataFrame, rows_of: RowsOf) -> None:
    venues = rows_of(
        ExchangeSnapshots,
        *(
            {"provider": CAP, "observed_at": at(hour), "exchange_id": "a", "volume_usd_24h": Decimal(7)}
            for hour in (5, 6)
        ),
    )
    rows = conform(MarketOverview, market.overview(hours.lazy(), venues.lazy()).collect())
    assert rows.select("provider", "n_exchanges").rows() == [(CAP, 1), (GECKO, None), (CAP, None)]


def test_a_days_movers_are_ranked_by_one_provider_the_one_of_its_last_hour(snapshots: Any) -> None:
    early = [(CAP, at(5), "bitcoin", 1), (CAP, at(5), "ethereum", 2)]
    late = [(GECKO, at(9), "bitcoin", 4), (GECKO, at(9), "ethereum", 3)]
    rows = conform(Movers, market.movers(snapshots(*early, *late).lazy()).collect())
    assert rows.select("provider", "asset_id", "gainer_rank").rows() == [(GECKO, "bitcoin", 1), (GECKO, "ethereum", 2)]
    both = [(CAP, at(8, 30), "bitcoin", 1), (CAP, at(8, 30), "ethereum", 2)]
    rows = conform(Movers, market.movers(snapshots(*early, *both, *late).lazy()).collect())
    assert rows.select("provider", "asset_id", "gainer_rank").rows() == [(CAP, "ethereum", 1), (CAP, "bitcoin", 2)]


def test_the_latest_row_of_an_asset_is_one_of_the_preferred_provider_in_its_newest_hour(hours: pl.DataFrame) -> None:
    def latest(rows: pl.DataFrame) -> list[tuple[str, str, dt.datetime]]:
        found = conform(LatestAssets, market.latest(rows.lazy(), "asset_id").collect())
        return found.sort("asset_id").select("asset_id", "provider", "observed_at").rows()

    of_their_own = [("only-cap", CAP, at(7, 10)), ("only-gecko", GECKO, at(6, 20))]
    assert latest(hours) == [("bitcoin", CAP, at(7, 10)), ("ethereum", CAP, at(7, 10)), *of_their_own]
    until_6 = hours.filter(pl.col("observed_at") < at(7))
    assert latest(until_6)[:2] == [("bitcoin", GECKO, at(6, 20)), ("ethereum", GECKO, at(6, 20))]
    # Seconds apart in one hour, the later answer of the less preferred one is no news.
    until_5 = hours.filter(pl.col("observed_at") < at(6))
    assert latest(until_5)[:2] == [("bitcoin", CAP, at(5, 10)), ("ethereum", CAP, at(5, 10))]


# ---- facts through time ----


@pytest.fixture
def dim(rows_of: RowsOf) -> Callable[..., list[tuple[Any, ...]]]:
    """Versions (valid_from, name, status) of an asset that both providers name in their own way, by days observed."""

    def build(shuffled: int | None = None, **days: list[int]) -> list[tuple[Any, ...]]:
        seconds = {CAP: 2, GECKO: 1}  # CoinGecko answers first
        told = [
            {
                "provider": provider,
                "asset_id": asset,
                "observed_at": (start := at(0) + dt.timedelta(days=day, seconds=seconds[provider])),
                "last_observed_at": start + dt.timedelta(hours=20),
                "date": start.date(),
                "symbol": "XRP",
                "name": f"name by {provider}",
            }
            for what, observed in days.items()
            for provider, _, asset in (what.partition("_"),)
            for day in observed
        ]
        rows = rows_of(AssetAttributes, *told)
        rows = rows if shuffled is None else rows.sample(fraction=1, shuffle=True, seed=shuffled)
        found = dimensions.versions(rows.lazy(), "asset_id", dimensions.ASSET_FACTS).collect()
        versions = conform(DimAsset, found)
        versions = versions.filter(asset_id="a").sort("version")
        return versions.select("valid_from", "name", "status", "first_seen_on", "last_seen_on").rows()

    return build


def begins(day: int, provider: str) -> dt.datetime:
    return at(0) + dt.timedelta(days=day, seconds={CAP: 2, GECKO: 1}[provider])


def test_both_providers_together_make_one_version_with_the_preferred_ones_facts(dim: Any) -> None:
    days = list(range(10))
    ((valid_from, name, status, first, last),) = dim(coincap_a=days, coingecko_a=days)
    assert (valid_from, name, status) == (begins(0, CAP), "name by coincap", "active")
    assert (first, last) == (dt.date(2024, 1, 1), dt.date(2024, 1, 10))


def test_an_outage_of_the_preferred_provider_makes_no_version(dim: Any) -> None:
    days = list(range(60))
    seen = [day for day in days if not 10 <= day < 10 + SILENCE.days - 1]
    assert [version[1] for version in dim(coincap_a=seen, coingecko_a=days)] == ["name by coincap"]


def test_a_provider_that_is_gone_hands_over_and_takes_back(dim: Any) -> None:
    days = list(range(100))
    seen = [day for day in days if day < 10 or day >= 80]
    assert [version[:2] for version in dim(coincap_a=seen, coingecko_a=days)] == [
        (begins(0, CAP), "name by coincap"),
        (begins(9 + SILENCE.days + 1, GECKO), "name by coingecko"),
        (begins(80, CAP), "name by coincap"),
    ]


def test_a_key_that_comes_later_keeps_the_history_before_it(dim: Any) -> None:
    versions = dim(coincap_a=list(range(5, 10)), coingecko_a=list(range(10)))
    assert [version[:2] for version in versions] == [
        (begins(0, GECKO), "name by coingecko"),
        (begins(5, CAP), "name by coincap"),
    ]


@pytest.mark.parametrize("seed", range(3))
def test_versions_do_not_depend_on_the_order_of_the_days(dim: Any, seed: int) -> None:
    days = {"coincap_a": [0, 1, 5, 90], "coingecko_a": list(range(0, 95, 3)), "coingecko_b": [0, 94]}
    assert dim(seed, **days) == dim(**days)


def test_what_one_provider_no_longer_lists_another_may(dim: Any) -> None:
    days = list(range(10))
    listed = {"coincap_b": days, "coingecko_b": days}
    assert dim(**listed, coincap_a=days[:5], coingecko_a=days)[0][2] == "active"
    assert dim(**listed, coincap_a=days[:5], coingecko_a=days[:6])[0][2] == "delisted"


def test_a_provider_that_is_not_asked_any_more_has_delisted_nothing(dim: Any) -> None:
    days = list(range(40))
    assert dim(coincap_a=days[:5], coincap_b=days[:5], coingecko_b=days)[0][2] == "active"
