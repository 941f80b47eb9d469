"""Pulls of several venues: one that is down fails the run, and holds up nothing of the others."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import dagster as dg

from crypto_assets.commands.run import execute
from crypto_assets.sandbox import Fault
from crypto_assets.tables import raw, trusted
from tests.line import Line, line

NOW, DAY = datetime(2025, 2, 8, 6, tzinfo=UTC), date(2025, 2, 7)
MARKETS = ("binance:BTC/USDT", "kraken:BTC/USD")


def test_what_landed_of_a_pull_that_failed_is_carried_on(tmp_path: Path) -> None:
    with line(tmp_path, NOW, "exchanges", kind=Line, markets=MARKETS, candle_interval="1h") as on:
        source, table = (dg.AssetKey(list(c.table.path)) for c in (raw.RawExchangeCandles, trusted.Candles))
        chain = dg.AssetSelection.assets(source, table)
        looked = dg.evaluate_automation_conditions(on.definitions, on.instance, chain)

        on.sandbox.set_faults([Fault("server_error", "kraken.ohlc")])
        report = execute(on.definitions, on.instance, [DAY], [source, table], has_checks=False)
        assert [failed.exit_code for failed in report.failed] == [3], "the venue is out of order, and the run says so"
        assert on.lake.read(trusted.Candles).is_empty()

        # What the daemon would launch: Binance's candles wait for nobody.
        looked = dg.evaluate_automation_conditions(on.definitions, on.instance, chain, cursor=looked.cursor)
        assert {str(each) for each in looked.get_requested_partitions(table)} == {str(DAY)}
        assert not execute(on.definitions, on.instance, [DAY], [table], has_checks=False).failed
        assert on.lake.read(trusted.Candles).group_by("market_id").len().rows() == [("binance:BTC/USDT", 24)]
