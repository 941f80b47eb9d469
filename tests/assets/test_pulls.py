"""Pulls of several venues: one that is down fails the run, and holds up nothing of the others."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import dagster as dg

from crypto_assets.assets.handles import connected, provider_urls
from crypto_assets.commands.run import execute
from crypto_assets.definitions import build_definitions
from crypto_assets.providers.registry import PROVIDERS
from crypto_assets.resources.clock import FixedClock
from crypto_assets.resources.lake import Lake
from crypto_assets.resources.settings import Settings
from crypto_assets.sandbox import Fault, Market, serve
from crypto_assets.tables import raw, trusted

NOW, DAY = datetime(2025, 2, 8, 6, tzinfo=UTC), date(2025, 2, 7)
MARKETS = ("binance:BTC/USDT", "kraken:BTC/USD")


def test_what_landed_of_a_pull_that_failed_is_carried_on(tmp_path: Path) -> None:
    clock, provider = FixedClock(NOW), PROVIDERS["exchanges"]
    with serve(Market(7)) as sandbox, dg.DagsterInstance.ephemeral() as instance:
        sandbox.set_now(NOW)
        lake = Lake(str(tmp_path / "lake"))
        settings = Settings(
            lake_uri=lake.root,
            state_dir=tmp_path / "state",
            sandbox_url=sandbox.url,
            providers=("exchanges",),
            markets=MARKETS,
        )
        asked: dict[str, Any] = {"markets": MARKETS, "intervals": ["1h"], "pairs": []}
        urls = provider_urls(provider, sandbox.url)
        with connected(provider, tmp_path / "state", clock, urls=urls, key=None, asked=asked, is_local=True) as venues:
            defs = build_definitions(settings, {"lake": lake, "clock": clock, "exchanges": venues})
            source, table = (dg.AssetKey(list(c.table.path)) for c in (raw.RawExchangeCandles, trusted.Candles))
            chain = dg.AssetSelection.assets(source, table)
            looked = dg.evaluate_automation_conditions(defs, instance, chain)

            sandbox.set_faults([Fault("server_error", "kraken.ohlc")])
            report = execute(defs, instance, [DAY], [source, table], has_checks=False)
            assert [failed.exit_code for failed in report.failed] == [3], (
                "the venue is out of order, and the run says so"
            )
            assert lake.read(trusted.Candles).is_empty()

            # What the daemon would launch: Binance's candles wait for nobody.
            looked = dg.evaluate_automation_conditions(defs, instance, chain, cursor=looked.cursor)
            assert {str(each) for each in looked.get_requested_partitions(table)} == {str(DAY)}
            assert not execute(defs, instance, [DAY], [table], has_checks=False).failed
            assert lake.read(trusted.Candles).group_by("market_id").len().rows() == [("binance:BTC/USDT", 24)]
