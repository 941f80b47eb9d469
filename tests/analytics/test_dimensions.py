"""Slow facts through time: versions meet, and days may be processed in any order."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from crypto_assets.analytics import dimensions
from crypto_assets.analytics.dimensions import ASSET_FACTS, EXCHANGE_FACTS
from crypto_assets.tables.conform import conform
from crypto_assets.tables.refined import AssetAvailability, AssetVenuesDaily, DimAsset, DimExchange
from crypto_assets.tables.trusted import (
    AssetAttributes,
    AssetSnapshots,
    ExchangeAttributes,
    ExchangeSnapshots,
    MarketSnapshots,
)

RowsOf = Callable[..., pl.DataFrame]
Seen = tuple[str, dt.datetime, Mapping[str, Any]]


def at(day: int, hour: int = 0) -> dt.datetime:
    return dt.datetime(2024, 1, day, hour, tzinfo=dt.UTC)


def on(day: int) -> dt.date:
    return dt.date(2024, 1, day)


@pytest.fixture(scope="session")
def snapshots(rows_of: RowsOf) -> Callable[..., pl.DataFrame]:
    """Snapshots, each ``(asset, time, facts)``."""

    def build(*seen: Seen) -> pl.DataFrame:
        common = {"provider": "coincap", "symbol": "X", "name": "X"}
        return rows_of(AssetSnapshots, *({**common, "asset_id": a, "observed_at": t, **facts} for a, t, facts in seen))

    return build


def runs(frame: pl.DataFrame) -> pl.DataFrame:
    return conform(AssetAttributes, dimensions.attribute_runs(frame.lazy(), "asset_id", ASSET_FACTS).collect())


def versions(frame: pl.DataFrame) -> pl.DataFrame:
    return conform(DimAsset, dimensions.versions(frame.lazy(), "asset_id", ASSET_FACTS).collect())


# ---- digests of a day ----


def test_a_day_without_a_change_is_one_stretch(snapshots: Any) -> None:
    rows = runs(snapshots(*(("a", at(1, h), {}) for h in (9, 5, 7))))

    assert rows.select("observed_at", "last_observed_at").rows() == [(at(1, 5), at(1, 9))]


def test_a_change_and_a_change_back_are_stretches_of_their_own(snapshots: Any) -> None:
    names = ["Old", "Old", "New", "Old"]
    rows = runs(snapshots(*(("a", at(1, h), {"name": name}) for h, name in enumerate(names))))

    assert rows.select("name", "observed_at", "last_observed_at").rows() == [
        ("Old", at(1, 0), at(1, 1)),
        ("New", at(1, 2), at(1, 2)),
        ("Old", at(1, 3), at(1, 3)),
    ]


def test_a_fact_that_becomes_null_has_changed_and_two_nulls_are_equal(snapshots: Any) -> None:
    supplies = [None, None, Decimal(21), None]
    rows = runs(snapshots(*(("a", at(1, h), {"max_supply": s}) for h, s in enumerate(supplies))))

    assert rows["max_supply"].to_list() == [None, Decimal(21), None]


def test_price_and_rank_are_no_slow_facts(snapshots: Any) -> None:
    rows = runs(snapshots(*(("a", at(1, h), {"price_usd": Decimal(h), "rank": h + 1}) for h in range(4))))

    assert len(rows) == 1


def test_days_and_assets_are_digested_apart(snapshots: Any) -> None:
    rows = runs(snapshots(("a", at(1), {}), ("b", at(1), {}), ("a", at(2), {})))

    assert rows.select("date", "asset_id").rows() == [(on(1), "a"), (on(1), "b"), (on(2), "a")]


# ---- versions ----


def test_versions_meet_and_exactly_one_is_current(snapshots: Any) -> None:
    frame = snapshots(
        ("a", at(1, 5), {"name": "Old"}),
        ("a", at(2, 5), {"name": "Old"}),
        ("a", at(3, 5), {"name": "New"}),
        ("a", at(4, 5), {"name": "Newest"}),
        ("b", at(4, 5), {}),
    )
    rows = versions(runs(frame)).filter(asset_id="a")

    assert rows.select("version", "name", "valid_from", "valid_to", "is_current").rows() == [
        (1, "Old", at(1, 5), at(3, 5), False),
        (2, "New", at(3, 5), at(4, 5), False),
        (3, "Newest", at(4, 5), None, True),
    ]
    assert rows["first_seen_on"].unique().to_list() == [on(1)]
    assert rows["last_seen_on"].unique().to_list() == [on(4)]
    assert rows["status"].unique().to_list() == ["active"]


def test_unchanged_facts_make_no_version_however_many_days_they_last(snapshots: Any) -> None:
    rows = versions(runs(snapshots(*(("a", at(d), {}) for d in range(1, 20)))))

    assert rows.select("version", "valid_from", "valid_to").rows() == [(1, at(1), None)]


def test_a_fact_that_comes_back_is_a_version_with_the_hash_of_the_first(snapshots: Any) -> None:
    facts = [{"max_supply": None}, {"max_supply": Decimal(21)}, {"max_supply": None}]
    rows = versions(runs(snapshots(*(("a", at(d), f) for d, f in enumerate(facts, 1)))))
    hashes = rows["row_hash"].to_list()

    assert rows["version"].to_list() == [1, 2, 3]
    assert hashes[0] == hashes[2] != hashes[1]


def test_hashes_tell_a_null_from_an_empty_text_and_one_column_from_the_next(snapshots: Any) -> None:
    facts = [
        {"explorer_url": None},
        {"explorer_url": ""},
        {"symbol": "XX", "name": ""},
        {"symbol": "X", "name": "X", "explorer_url": "X"},
    ]
    rows = versions(runs(snapshots(*(("a", at(d), f) for d, f in enumerate(facts, 1)))))

    assert rows["row_hash"].n_unique() == 4


def test_an_asset_missing_from_the_newest_two_days_is_delisted_and_keeps_its_facts(snapshots: Any) -> None:
    seen = (("gone", at(1), {}), ("late", at(2), {}), ("a", at(1), {}), ("a", at(3), {}))
    rows = versions(runs(snapshots(*seen)))

    assert rows.select("asset_id", "status", "last_seen_on", "is_current").rows() == [
        ("a", "active", on(3), True),
        ("gone", "delisted", on(1), True),
        ("late", "active", on(2), True),
    ]


def test_exchanges_have_versions_too(rows_of: RowsOf) -> None:
    seen = [(at(1), True), (at(1, 5), None), (at(2), False)]
    frame = rows_of(
        ExchangeSnapshots, *({"exchange_id": "kraken", "observed_at": t, "has_socket": socket} for t, socket in seen)
    )
    digest = conform(
        ExchangeAttributes, dimensions.attribute_runs(frame.lazy(), "exchange_id", EXCHANGE_FACTS).collect()
    )
    rows = conform(DimExchange, dimensions.versions(digest.lazy(), "exchange_id", EXCHANGE_FACTS).collect())

    assert rows.select("has_socket", "valid_from", "valid_to").rows() == [
        (True, at(1), at(1, 5)),
        (None, at(1, 5), at(2)),
        (False, at(2), None),
    ]


SEEN = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c"]),
        st.integers(0, 5 * 24 - 1).map(lambda hours: at(1) + dt.timedelta(hours=hours)),
        st.fixed_dictionaries({"name": st.sampled_from(["N", "M"]), "explorer_url": st.sampled_from([None, "u"])}),
    ),
    min_size=1,
    max_size=25,
    unique_by=lambda seen: seen[:2],
)


def oracle(seen: Sequence[Seen]) -> list[tuple[Any, ...]]:
    """The dimension by plain Python, from all snapshots in the order of time."""
    told = []
    newest = max(time for _, time, _ in seen).date()
    for asset in sorted({a for a, _, _ in seen}):
        points = sorted((time, (facts["name"], facts["explorer_url"])) for a, time, facts in seen if a == asset)
        starts = [p for i, p in enumerate(points) if i == 0 or p[1] != points[i - 1][1]]
        ends: list[Any] = [time for time, _ in starts[1:]] + [None]
        status = "active" if points[-1][0].date() >= newest - dt.timedelta(days=1) else "delisted"
        for version, ((start, facts), end) in enumerate(zip(starts, ends, strict=True), 1):
            told.append((asset, version, start, end, end is None, *facts, status))
    return told


COLUMNS = ("asset_id", "version", "valid_from", "valid_to", "is_current", "name", "explorer_url", "status")


@settings(max_examples=40)
@given(SEEN, st.randoms(use_true_random=False))
def test_days_digested_in_any_order_are_the_dimension_of_all_snapshots(
    snapshots: Any, seen: list[Seen], rng: Any
) -> None:
    frame = snapshots(*rng.sample(seen, len(seen)))
    days = rng.sample(digested := [runs(day) for day in frame.partition_by("date")], len(digested))
    at_once, by_day = versions(runs(frame)), versions(pl.concat(days))

    assert_frame_equal(by_day, at_once)
    assert at_once.select(COLUMNS).rows() == oracle(seen)


# ---- venues ----


@pytest.fixture
def markets(rows_of: RowsOf) -> Callable[..., pl.DataFrame]:
    """Market snapshots, each ``(exchange, base, quote, time, volume)``, which arrive an hour later."""

    def build(*seen: tuple[str, str, str, dt.datetime, int | None]) -> pl.DataFrame:
        names = ("exchange_id", "base_id", "quote_id", "observed_at", "volume_usd_24h")
        rows = [dict(zip(names, row, strict=True)) for row in seen]
        return rows_of(
            MarketSnapshots,
            *(
                {
                    **row,
                    "provider": "coincap",
                    "volume_usd_24h": None if row["volume_usd_24h"] is None else Decimal(row["volume_usd_24h"]),
                    "ingested_at": row["observed_at"] + dt.timedelta(hours=1),
                }
                for row in rows
            ),
        )

    return build


def venue_days(frame: pl.DataFrame) -> pl.DataFrame:
    return conform(AssetVenuesDaily, dimensions.venue_days(frame.lazy()).collect())


def availability(frame: pl.DataFrame) -> pl.DataFrame:
    return conform(AssetAvailability, dimensions.availability(frame.lazy()).collect())


def test_a_venues_day_counts_pairs_seen_and_volume_of_the_last_snapshot(markets: Any) -> None:
    rows = venue_days(
        markets(
            ("kraken", "bitcoin", "euro", at(1, 5), 1000),
            ("kraken", "bitcoin", "euro", at(1, 9), 10),
            ("kraken", "bitcoin", "tether", at(1, 9), 5),
            ("kraken", "bitcoin", "yen", at(1, 9), None),
            ("kraken", "ethereum", "euro", at(1, 5), 7),
            ("okx", "bitcoin", "yen", at(1, 9), None),
        )
    )

    assert rows.select("asset_id", "exchange_id", "n_markets", "volume_usd_24h").rows() == [
        ("bitcoin", "kraken", 3, Decimal(15)),
        ("bitcoin", "okx", 1, None),
        ("ethereum", "kraken", 1, None),
    ]
    assert rows.select("first_seen_at", "last_seen_at", "available_at").row(0) == (at(1, 5), at(1, 9), at(1, 10))


def test_availability_tells_the_first_and_last_day_and_whether_it_is_listed_still(markets: Any) -> None:
    seen = [("kraken", "bitcoin", "euro", 1, 10), ("kraken", "bitcoin", "euro", 3, 30), ("okx", "bitcoin", "yen", 1, 5)]
    frame = venue_days(markets(*((e, b, q, at(day), volume) for e, b, q, day, volume in seen)))

    for days in (frame, frame[::-1]):
        assert availability(days).drop("provider").rows() == [
            ("bitcoin", "kraken", on(1), on(3), 2, 1, Decimal(30), True),
            ("bitcoin", "okx", on(1), on(1), 1, 1, Decimal(5), False),
        ]


def test_nothing_seen_is_nowhere_available(markets: Any, snapshots: Any) -> None:
    assert len(availability(venue_days(markets()))) == 0
    assert len(versions(runs(snapshots()))) == 0
