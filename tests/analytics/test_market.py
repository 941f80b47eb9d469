"""The market as a whole, counted by hand."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from crypto_assets.analytics import market
from crypto_assets.tables.conform import conform
from crypto_assets.tables.refined import ExchangeDaily, LatestAssets, LatestExchanges, MarketOverview, Movers
from crypto_assets.tables.trusted import AssetSnapshots, ExchangeSnapshots

RowsOf = Callable[..., pl.DataFrame]
DAY = dt.date(2024, 1, 1)
SECONDS = dt.timedelta(seconds=2)


def at(hour: int, minute: int = 0, day: int = 1) -> dt.datetime:
    return dt.datetime(2024, 1, day, hour, minute, tzinfo=dt.UTC)


@pytest.fixture
def assets(rows_of: RowsOf) -> Callable[..., pl.DataFrame]:
    """Snapshots of one time, by ``asset=market cap``, or by facts."""

    def build(time: dt.datetime, **caps: int | str | Mapping[str, Any] | None) -> pl.DataFrame:
        common = {"provider": "coincap", "observed_at": time, "ingested_at": time + SECONDS}
        rows = []
        for asset, told in caps.items():
            facts = told if isinstance(told, Mapping) else {"market_cap_usd": None if told is None else Decimal(told)}
            rows.append({**common, "asset_id": asset.replace("_", "-"), **facts})
        return rows_of(AssetSnapshots, *rows)

    return build


@pytest.fixture
def exchanges(rows_of: RowsOf) -> Callable[..., pl.DataFrame]:
    """Snapshots of one time, by ``exchange=volume``."""

    def build(time: dt.datetime, **volumes: int | str | None) -> pl.DataFrame:
        common = {"provider": "coincap", "observed_at": time, "ingested_at": time + SECONDS}
        return rows_of(
            ExchangeSnapshots,
            *(
                {**common, "exchange_id": e, "volume_usd_24h": None if v is None else Decimal(v)}
                for e, v in volumes.items()
            ),
        )

    return build


def overview(assets: pl.DataFrame, exchanges: pl.DataFrame) -> pl.DataFrame:
    return conform(MarketOverview, market.overview(assets.lazy(), exchanges.lazy()).collect())


def movers(snapshots: pl.DataFrame) -> pl.DataFrame:
    return conform(Movers, market.movers(snapshots.lazy()).collect())


# ---- overview ----


def test_the_market_is_summed_and_shared_out(assets: Any, exchanges: Any) -> None:
    volumes = {"a": 40, "b": 20, "c": 20, "d": 10, "e": 10, "silent": 0, "unknown": None}
    (row,) = overview(assets(at(5, 10), bitcoin=50, ethereum=30, tether=20), exchanges(at(5, 20), **volumes)).to_dicts()

    assert row == {
        "provider": "coincap",
        "opened_at": at(5),
        "observed_at": at(5, 10),
        "n_assets": 3,
        "total_market_cap_usd": Decimal(100),
        "total_volume_usd_24h": Decimal(0),
        "btc_dominance": 0.5,
        "eth_dominance": 0.3,
        "top10_share": 1.0,
        "asset_hhi": pytest.approx(0.38, abs=1e-15),
        "n_exchanges": 5,
        "exchange_hhi": pytest.approx(0.26, abs=1e-15),
        "exchange_cr4": 0.9,
        "available_at": at(5, 20) + SECONDS,
        "date": DAY,
    }


def test_wrapped_tokens_and_unknown_caps_are_not_counted(assets: Any, exchanges: Any) -> None:
    frame = assets(at(5), bitcoin=60, ethereum=40, wrapped_bitcoin=60, lido_staked_ether=40, weth=1, mystery=None)
    (row,) = overview(frame, exchanges(at(5))).to_dicts()

    assert (row["n_assets"], row["total_market_cap_usd"], row["btc_dominance"]) == (2, Decimal(100), 0.6)


def test_the_last_snapshot_of_each_asset_in_an_hour_counts_even_if_the_hours_last_pull_lacks_it(
    assets: Any, exchanges: Any
) -> None:
    frames = [assets(at(5, 0), bitcoin=3, ethereum=9), assets(at(5, 55), ethereum=1), assets(at(6), bitcoin=5)]
    venues = pl.concat([exchanges(at(5, 0), a=9, b=1), exchanges(at(5, 50), a=1)])
    rows = overview(pl.concat(frames), venues)

    assert rows.select("opened_at", "n_assets", "total_market_cap_usd", "btc_dominance").rows() == [
        (at(5), 2, Decimal(4), 0.75),
        (at(6), 1, Decimal(5), 1.0),
    ]
    assert rows["exchange_hhi"].to_list() == [0.5, None]


def test_the_ten_largest_of_twelve_equal_assets_hold_ten_twelfths(assets: Any, exchanges: Any) -> None:
    (row,) = overview(assets(at(5), **{f"a{i}": 7 for i in range(12)}), exchanges(at(5))).to_dicts()

    assert row["top10_share"] == pytest.approx(10 / 12, rel=1e-15)
    assert row["asset_hhi"] == pytest.approx(1 / 12, rel=1e-15)
    assert (row["btc_dominance"], row["eth_dominance"]) == (None, None)


def test_exchanges_that_nobody_observed_are_unknown_and_not_zero(assets: Any, exchanges: Any) -> None:
    (row,) = overview(assets(at(5), bitcoin=1), exchanges(at(6), a=5)).to_dicts()

    assert [row[c] for c in ("n_exchanges", "exchange_hhi", "exchange_cr4")] == [None, None, None]
    assert row["available_at"] == at(5) + SECONDS


def test_a_market_without_a_single_cap_has_no_row(assets: Any, exchanges: Any) -> None:
    assert len(overview(assets(at(5), a=None, b=0), exchanges(at(5), a=1))) == 0


def test_an_overview_is_the_same_bit_by_bit_in_any_order(assets: Any, exchanges: Any) -> None:
    caps = {f"a{i}": f"{i * 7919 % 99991 + 1}.{i * 104729 % 10**9:018}" for i in range(400)}
    frame = pl.concat([assets(at(h), **caps) for h in range(6)])
    venues = pl.concat([exchanges(at(h), **caps) for h in range(6)])
    first = overview(frame, venues)

    for seed in range(6):
        shuffled = [f.sample(fraction=1, shuffle=True, seed=seed) for f in (frame, venues)]
        assert_frame_equal(overview(*shuffled), first, check_exact=True)


# ---- movers ----


def liquid(change: str | None, volume: int = 10**6, cap: int | None = 10**7) -> dict[str, Any]:
    return {
        "change_pct_24h": None if change is None else Decimal(change),
        "volume_usd_24h": Decimal(volume),
        "market_cap_usd": None if cap is None else Decimal(cap),
    }


def test_movers_are_ranked_by_change_and_by_volume(assets: Any) -> None:
    frame = assets(at(5), up=liquid("5", 2 * 10**6), down=liquid("-7", 3 * 10**6), flat=liquid("0"))

    assert movers(frame).select("asset_id", "gainer_rank", "loser_rank", "volume_rank").rows() == [
        ("up", 1, 3, 2),
        ("flat", 2, 2, 3),
        ("down", 3, 1, 1),
    ]


def test_assets_below_a_threshold_or_with_an_unknown_change_do_not_move(assets: Any) -> None:
    frame = assets(
        at(5),
        edge=liquid("1"),
        thin=liquid("99", 10**6 - 1),
        small=liquid("99", cap=10**7 - 1),
        unknown=liquid("99", cap=None),
        unchanged=liquid(None),
    )

    assert movers(frame)["asset_id"].to_list() == ["edge"]


def test_ties_are_ordered_by_asset_id_in_any_order_of_the_rows(assets: Any) -> None:
    frame = assets(at(5), **{name: liquid("1") for name in "dbca"})

    for seed in range(5):
        rows = movers(frame.sample(fraction=1, shuffle=True, seed=seed))
        assert rows["asset_id"].to_list() == ["a", "b", "c", "d"]
        for rank in ("gainer_rank", "loser_rank", "volume_rank"):
            assert rows[rank].to_list() == [1, 2, 3, 4]


def test_the_last_snapshot_of_a_day_moves_and_what_was_not_seen_for_an_hour_does_not(assets: Any) -> None:
    frames = [assets(at(5), a=liquid("50"), gone=liquid("60")), assets(at(6), a=liquid("1")),
              assets(at(1, 0, 2), a=liquid("2"))]  # fmt: skip
    rows = movers(pl.concat(frames))

    assert rows.select("date", "asset_id", "change_pct_24h", "gainer_rank").rows() == [
        (DAY, "a", Decimal(1), 1),
        (dt.date(2024, 1, 2), "a", Decimal(2), 1),
    ]
    assert rows["available_at"].to_list() == [at(6) + SECONDS, at(1, 0, 2) + SECONDS]


# ---- exchanges by day, and the newest of all ----


def test_an_exchanges_day_is_its_last_snapshot_and_its_mean_share(rows_of: RowsOf) -> None:
    shares = [(at(5), "10", 3), (at(6), None, 4), (at(7), "30", 1), (at(7, 0, 2), None, 2)]
    frame = rows_of(
        ExchangeSnapshots,
        *(
            {"exchange_id": "a", "observed_at": t, "ingested_at": t, "rank": rank, "volume_share_pct": s and Decimal(s)}
            for t, s, rank in shares
        ),
    )
    rows = conform(ExchangeDaily, market.exchange_days(frame.sample(fraction=1, shuffle=True, seed=1).lazy()).collect())

    columns = ("date", "volume_share_pct", "mean_share_pct", "rank", "n_obs", "observed_at")
    assert rows.select(columns).rows() == [
        (DAY, Decimal(30), 20.0, 1, 3, at(7)),
        (dt.date(2024, 1, 2), None, None, 2, 1, at(7, 0, 2)),
    ]


def test_the_newest_row_of_each_asset_stays_though_it_left_the_list(assets: Any) -> None:
    frame = pl.concat([assets(at(6), a=2), assets(at(5), a=1, gone=9)])
    rows = conform(LatestAssets, market.latest(frame.lazy(), "asset_id").collect())

    assert rows.sort("asset_id").select("asset_id", "market_cap_usd", "observed_at", "available_at").rows() == [
        ("a", Decimal(2), at(6), at(6) + SECONDS),
        ("gone", Decimal(9), at(5), at(5) + SECONDS),
    ]


def test_the_newest_row_of_each_exchange(exchanges: Any) -> None:
    frame = pl.concat([exchanges(at(6), a=2), exchanges(at(5), a=1)])
    rows = conform(LatestExchanges, market.latest(frame.lazy(), "exchange_id").collect())

    assert rows["volume_usd_24h"].to_list() == [Decimal(2)]
