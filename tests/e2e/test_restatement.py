"""A file that the venue restated: found by its checksum, taken again, and only what it changes computed anew."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from crypto_assets.assets.lake_asset import content_by_day
from crypto_assets.commands.run import execute
from crypto_assets.sandbox.events import Events, Restatement
from crypto_assets.tables import quality, raw, refined, trusted
from tests.line import Line, line

FIRST, LAST, RESTATED = date(2025, 2, 3), date(2025, 2, 6), date(2025, 2, 4)
BEFORE, AFTER = datetime(2025, 2, 8, 6, tzinfo=UTC), datetime(2025, 2, 9, 6, tzinfo=UTC)
BTC, ETH = "binance:BTC/USDT", "binance:ETH/USDT"
BARS = (refined.Ohlcv1m, refined.Ohlcv5m, refined.Ohlcv15m, refined.Ohlcv1h, refined.Ohlcv4h, refined.Ohlcv1d)
CHAIN = (trusted.Candles, *BARS)


@pytest.mark.e2e
def test_a_restated_day_is_found_taken_again_and_followed_by_that_day_alone(tmp_path: Path) -> None:
    midnight = datetime(2025, 2, 4, tzinfo=UTC)
    restated = Restatement(BTC, midnight, midnight + timedelta(days=1), at=datetime(2025, 2, 8, 12, tzinfo=UTC))
    events = Events(restatements=(restated,))
    with line(tmp_path, BEFORE, "binance_archive", kind=Line, events=events, markets=(BTC, ETH)) as on:
        keys = [dg.AssetKey(list(c.table.path)) for c in (raw.RawBinanceKlines, *CHAIN)]
        assert not execute(on.definitions, on.instance, [FIRST, LAST], keys, has_checks=False).failed
        before = {contract: content_by_day(on.lake.read(contract)) for contract in CHAIN}
        assert on.lake.read(quality.RevisionLedger).is_empty()
        chain = dg.AssetSelection.assets(*keys)
        looked = dg.evaluate_automation_conditions(on.definitions, on.instance, asset_selection=chain)
        assert looked.total_requested == 0

        on.set_now(AFTER)
        job = on.definitions.resolve_job_def("restatements")
        assert job.execute_in_process(instance=on.instance).success

        # What the daemon would launch, until nothing is left to follow.
        followed: dict[dg.AssetKey, set[str]] = {}
        while True:
            looked = dg.evaluate_automation_conditions(on.definitions, on.instance, chain, cursor=looked.cursor)
            if not looked.total_requested:
                break
            for key in keys:
                for partition in sorted(looked.get_requested_partitions(key)):
                    followed.setdefault(key, set()).add(str(partition))
                    day = date.fromisoformat(str(partition))
                    assert not execute(on.definitions, on.instance, [day], [key], has_checks=False).failed
        # A second look finds nothing more, and takes nothing again.
        n_files = on.lake.scan(raw.RawBinanceKlines).select(pl.len()).collect().item()
        assert job.execute_in_process(instance=on.instance).success
        assert on.lake.scan(raw.RawBinanceKlines).select(pl.len()).collect().item() == n_files

    assert followed == {key: {str(RESTATED)} for key in keys[1:]}
    for contract in CHAIN:
        after = content_by_day(on.lake.read(contract))
        differing = {day for day in after if after[day] != before[contract][day]}
        assert differing == {RESTATED}, contract.table.full_name
    revisions = on.lake.read(quality.RevisionLedger)
    assert set(revisions["table_name"]) == {"trusted.candles"}
    assert set(revisions["date"]) == {RESTATED}
    assert revisions["row_key"].str.starts_with(f"binance|{BTC}|1m|2025-02-04T").all()
    assert {"volume_base", "n_trades"} <= set(revisions["column_name"])
    # The files before had lacked trades: amounts only grow.
    grown = revisions.filter(pl.col("column_name") == "volume_base")
    assert (grown["relative_change"] > 0).all()
    assert (grown["new_available_at"] > grown["old_available_at"]).all()
    print(f"{len(revisions)} changed values of {grown.height} candles on the revision ledger, all of {RESTATED}")
