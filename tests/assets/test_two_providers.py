"""CoinCap, CoinGecko and mempool.space through the chain: every record accounted for, one provider at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from crypto_assets.assets.handles import coincap_at, connected, provider_urls
from crypto_assets.checks.rules import rules_of
from crypto_assets.checks.verdicts import Case
from crypto_assets.commands.sql import engine
from crypto_assets.definitions import build_definitions
from crypto_assets.providers.coincap import Plan
from crypto_assets.providers.registry import PROVIDERS
from crypto_assets.resources.clock import FixedClock
from crypto_assets.resources.lake import Lake
from crypto_assets.resources.settings import Settings
from crypto_assets.sandbox import Fault, Market, Sandbox, serve
from crypto_assets.tables import quality, raw, refined, trusted
from crypto_assets.tables.contract import Contract
from crypto_assets.tables.window import Window
from tests.chain import at, failures

FIRST, SECOND = date(2026, 10, 1), date(2026, 10, 2)
COINCAP = (raw.RawCoincapAssets, raw.RawCoincapExchanges)
OTHERS = (raw.RawCoingeckoMarkets, raw.RawCoingeckoExchanges, raw.RawMempool)
DERIVED = (
    trusted.AssetSnapshots,
    trusted.ExchangeSnapshots,
    trusted.AssetAttributes,
    trusted.OnchainStats,
    trusted.ExchangeScores,
    refined.DimAsset,
    refined.AssetHourly,
    refined.LatestAssets,
    refined.MarketOverview,
    refined.Movers,
)


@dataclass
class Chain:
    sandbox: Sandbox
    lake: Lake
    clock: FixedClock
    definitions: dg.Definitions
    instance: dg.DagsterInstance

    def run(
        self, now: datetime, *tables: type[Contract], days: tuple[date, ...] | None = None
    ) -> dg.ExecuteInProcessResult:
        """Materialize the tables for the day of ``now``, or for the days from the first to the last."""
        self.clock.set(now)
        self.sandbox.set_now(now)
        first, last = (days or (now.date(),))[0], (days or (now.date(),))[-1]
        # Without the checks, which `verdicts` runs where a test asks for them.
        return dg.materialize(
            list(self.definitions.assets or ()),  # type: ignore[arg-type]
            selection=dg.AssetSelection.assets(*(dg.AssetKey(list(contract.table.path)) for contract in tables)),
            resources=dict(self.definitions.resources or {}),
            instance=self.instance,
            raise_on_error=False,
            tags={"dagster/asset_partition_range_start": str(first), "dagster/asset_partition_range_end": str(last)},
        )

    def verdicts(self, contract: type[Contract], first: date, last: date) -> dict[str, str]:
        """What failed of the table's own rules over the days, as read again now."""
        window = Window.of_days(first, last)
        case = Case(self.lake, contract, window, self.lake.read(contract, window), self.clock.now())
        return {v.check: v.observed for check in rules_of(contract) for v in check.judge(case) if not v.passed}


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Chain]:
    clock = FixedClock(at(1))
    with ExitStack() as stack:
        sandbox = stack.enter_context(serve(Market(7, n_assets=60)))
        settings = Settings(
            lake_uri=str(tmp_path / "lake"),
            state_dir=tmp_path / "state",
            coincap_base_url=sandbox.v2,
            sandbox_url=sandbox.url,
            providers=("coincap", "coingecko", "mempool"),
        )
        handed: dict[str, Any] = {"lake": Lake(settings.lake_root), "clock": clock}
        handed["coincap"] = coincap_at(sandbox.v2, None, Plan(), tmp_path / "state", clock, is_local=True)
        stack.callback(handed["coincap"].close)
        for name in ("coingecko", "mempool"):
            provider = PROVIDERS[name]
            urls = provider_urls(provider, sandbox.url)
            opened = connected(
                provider, tmp_path / "state", clock, urls=urls, key=None, asked=settings.asked, is_local=True
            )
            handed[name] = stack.enter_context(opened)
        instance = stack.enter_context(dg.DagsterInstance.ephemeral())
        yield Chain(sandbox, handed["lake"], clock, build_definitions(settings, handed), instance)


def test_two_providers_of_one_table_are_settled_reconciled_and_told_apart(chain: Chain) -> None:
    assert failures(chain.run(at(1, 10), *COINCAP, *OTHERS, *DERIVED)) == {}
    rows = chain.lake.read(trusted.AssetSnapshots)
    counts = dict(rows.group_by("provider").len().iter_rows())
    assert counts == {"coincap": 60, "coingecko": 60}
    # The same assets under the same ids of ours, whatever each provider calls them.
    ids = {provider: set(rows.filter(provider=provider)["asset_id"]) for provider in counts}
    assert ids["coincap"] == ids["coingecko"]
    prices = rows.filter(provider="coincap").join(rows.filter(provider="coingecko"), "asset_id", suffix="_gecko")
    off = (pl.col("price_usd_gecko").cast(pl.Float64) / pl.col("price_usd").cast(pl.Float64) - 1).abs().max()
    assert prices.select(off).item() < 1e-5
    for contract in (trusted.AssetSnapshots, trusted.OnchainStats, trusted.ExchangeScores, *OTHERS):
        assert chain.verdicts(contract, FIRST, FIRST) == {}, contract.table.full_name


def test_a_provider_that_fails_for_hours_is_stood_in_for_hour_by_hour(chain: Chain) -> None:
    for hour, fault in ((9, None), (10, "assets"), (11, "coingecko.markets"), (12, None)):
        chain.sandbox.set_faults([Fault("html", fault)] if fault else [])
        chain.run(at(1, hour), *COINCAP, raw.RawCoingeckoMarkets)
    chain.sandbox.set_faults([])
    assert failures(chain.run(at(1, 12, 30), *DERIVED)) == {}
    overview = chain.lake.read(refined.MarketOverview)
    assert overview.select(pl.col("opened_at").dt.hour(), "provider", "n_assets").rows() == [
        (9, "coincap", 58),
        (10, "coingecko", 58),
        (11, "coincap", 58),
        (12, "coincap", 58),
    ]
    # One market, whoever states it: nothing is counted twice.
    caps = overview["total_market_cap_usd"].cast(pl.Float64)
    assert float(caps.max() or 0) < 1.2 * float(caps.min() or 0)  # type: ignore[arg-type]
    latest = chain.lake.read(refined.LatestAssets)
    assert (len(latest), latest["provider"].unique().to_list()) == (60, ["coincap"])
    assert chain.lake.read(refined.Movers)["provider"].unique().to_list() == ["coincap"]
    hours = dict(chain.lake.read(refined.AssetHourly).group_by("provider").len().iter_rows())
    assert hours == {"coincap": 3 * 60, "coingecko": 3 * 60}
    dim = chain.lake.read(refined.DimAsset)
    assert (len(dim), dim["explorer_url"].null_count()) == (60, 1)
    assert chain.verdicts(trusted.AssetSnapshots, FIRST, FIRST) == {}


def test_without_coincap_everything_is_coingeckos_and_a_later_key_takes_over(chain: Chain) -> None:
    assert failures(chain.run(at(1, 23), raw.RawCoingeckoMarkets, *DERIVED)) == {}
    latest = chain.lake.read(refined.LatestAssets)
    assert latest["provider"].unique().to_list() == ["coingecko"]
    assert latest.filter(asset_id="binance-coin").select("symbol", "rank").row(0) == ("BNB", 5)
    assert latest.filter(asset_id="steth")["rank"].to_list() == [None]
    assert chain.verdicts(trusted.AssetSnapshots, FIRST, FIRST) == {}

    assert failures(chain.run(at(2, 1), *COINCAP, raw.RawCoingeckoMarkets, *DERIVED)) == {}
    latest = chain.lake.read(refined.LatestAssets)
    assert (len(latest), latest["provider"].unique().to_list()) == (60, ["coincap"])
    bitcoin = chain.lake.read(refined.DimAsset).filter(asset_id="bitcoin").sort("version")
    assert bitcoin.select(pl.col("valid_from").dt.date(), "explorer_url").rows() == [
        (FIRST, None),
        (SECOND, "https://blockchain.info/"),
    ]
    assert chain.verdicts(trusted.AssetSnapshots, FIRST, SECOND) == {}


def test_views_of_snapshots_hold_one_provider_an_asset_and_hour(chain: Chain) -> None:
    chain.run(at(1, 9), *COINCAP, raw.RawCoingeckoMarkets)
    chain.run(at(1, 10), raw.RawCoingeckoMarkets)
    chain.run(at(1, 10, 30), *DERIVED)
    with engine(chain.lake) as asked:
        told = asked.query("select \"timestamp\" from refined.crypto_data where currency_id = 'bitcoin' order by 1")
        assert [row[0].astimezone(UTC) for row in told.rows()] == [at(1, 9), at(1, 10)]
        for view, n_rows in (("facts_coins", 2 * 60), ("dim_coins", 60), ("stg_coinsdata", 60)):
            assert asked.query(f"select count(*) from refined.{view}").rows()[0][0] == n_rows


def test_the_chains_past_is_asked_for_once_and_lands_on_its_own_days(chain: Chain) -> None:
    days = (date(2026, 9, 1), date(2026, 9, 29))
    result = chain.run(at(1, 10), raw.RawMempool, trusted.OnchainStats, days=days)
    assert failures(result) == {}
    answers = chain.lake.read(raw.RawMempool)
    assert answers.select("endpoint", "request").rows() == [
        ("block_fees", "GET /mempool/v1/mining/blocks/fees/3m"),
        ("hashrate", "GET /mempool/v1/mining/hashrate/3m"),
    ]
    rows = chain.lake.read(trusted.OnchainStats)
    assert rows.filter(metric="hashrate")["date"].to_list() == Window.of_days(*days).days
    assert set(rows["metric"]) == {"hashrate", "difficulty", "block_fees"}
    assert chain.verdicts(trusted.OnchainStats, *days) == {}

    # Again, and with a day before: only that day is asked for, and the others are as they were.
    wider = (days[0] - timedelta(days=1), days[1])
    chain.sandbox.forget_calls()
    assert failures(chain.run(at(1, 11), raw.RawMempool, trusted.OnchainStats, days=wider)) == {}
    assert chain.sandbox.calls()["calls"] == {"mempool.block_fees": 1, "mempool.hashrate": 1}
    again = chain.lake.read(trusted.OnchainStats)
    assert again.filter(pl.col("date") >= days[0]).equals(rows)
    assert again.filter(metric="hashrate")["date"].to_list() == Window.of_days(*wider).days
    assert chain.verdicts(trusted.OnchainStats, *wider) == {}


def test_live_and_past_of_the_chain_meet_in_one_table(chain: Chain) -> None:
    assert failures(chain.run(at(1, 10), raw.RawMempool, trusted.OnchainStats)) == {}
    live = chain.lake.read(trusted.OnchainStats)
    assert (live["observed_at"].unique().to_list(), live["height"].is_not_null().sum()) == ([at(1, 10)], 1)
    # The day is closed on the next one: its series join what was seen live, and are not asked for twice.
    for _ in range(2):
        result = chain.run(at(2, 0, 5), raw.RawMempool, trusted.OnchainStats, days=(FIRST,))
        assert failures(result) == {}
    closed = chain.lake.read(trusted.OnchainStats)
    assert closed.filter(pl.col("observed_at") == at(1, 10)).equals(live)
    assert closed.filter(metric="hashrate")["observed_at"].to_list() == [at(1)]
    assert closed.filter(metric="block_fees")["date"].unique().to_list() == [FIRST]
    assert chain.sandbox.calls()["calls"]["mempool.block_fees"] == 1
    assert chain.verdicts(trusted.OnchainStats, FIRST, FIRST) == {}
    assert chain.verdicts(raw.RawMempool, FIRST, FIRST) == {}


def test_a_bent_measurement_and_a_lost_one_are_seen(chain: Chain) -> None:
    chain.run(at(1, 10), raw.RawMempool, trusted.OnchainStats)
    rows = chain.lake.read(trusted.OnchainStats)
    is_tip = pl.col("metric") == "tip_height"
    bent = rows.with_columns(value=pl.when(is_tip).then(pl.col("value") + 1).otherwise("value"))
    chain.lake.replace(trusted.OnchainStats, bent, Window.of_day(FIRST))
    told = chain.verdicts(trusted.OnchainStats, FIRST, FIRST)
    assert told == {"lossless": f"{len(rows)} values compared, 1 differ"}
    chain.lake.replace(trusted.OnchainStats, rows.filter(~is_tip), Window.of_day(FIRST))
    told = chain.verdicts(trusted.OnchainStats, FIRST, FIRST)
    assert told == {
        "reconciled": f"raw {len(rows)} is not trusted {len(rows) - 1} + quarantined 0 + duplicates 0",
    }


def test_spoiled_records_are_quarantined_and_counted(chain: Chain) -> None:
    chain.sandbox.set_faults([Fault("null_id", "coingecko.markets"), Fault("not_a_record", "coingecko.exchanges")])
    assert failures(chain.run(at(1, 10), *OTHERS, *DERIVED)) == {}
    refused = chain.lake.read(quality.Quarantine)
    assert sorted(refused["table_name"]) == ["trusted.asset_snapshots", "trusted.exchange_scores"]
    for contract in (trusted.AssetSnapshots, trusted.ExchangeScores):
        assert "reconciled" not in chain.verdicts(contract, FIRST, FIRST)
