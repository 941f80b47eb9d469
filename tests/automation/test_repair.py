"""Which gaps are asked of whom, and when that ends."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from crypto_assets.analytics.gaps import MAX_ATTEMPTS
from crypto_assets.automation.repair import REPAIR_TAG, gap_repair, requests
from crypto_assets.resources import lease
from crypto_assets.resources.clock import FixedClock
from crypto_assets.resources.lake import Lake
from crypto_assets.resources.settings import Settings
from crypto_assets.tables import raw
from crypto_assets.tables.contract import polars_schema
from crypto_assets.tables.quality import GapLedger

NOW = datetime(2025, 2, 8, 6, tzinfo=UTC)
START = datetime(2025, 2, 3, 5, tzinfo=UTC)
REST: dict[type[raw.RawAnswers], list[dg.AssetKey]] = {
    raw.RawExchangeCandles: [dg.AssetKey(["raw", "exchange_candles"])]
}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def note(lake: Lake, **changes: Any) -> None:
    """A gap of ten minutes on the ledger."""
    gap = {
        "table_name": "trusted.candles",
        "key": "binance:BTC/USDT 1m",
        "gap_start_at": START,
        "gap_end_at": START + timedelta(minutes=10),
        "n_missing": 10,
        "cause": "our_downtime",
        "state": "open",
        "detail": "nobody asked for all of it",
        "attempts": 0,
        "run_id": None,
        "detected_at": NOW,
        "closed_at": None,
        "date": date(2025, 2, 3),
    }
    lake.merge(GapLedger, pl.DataFrame([gap | changes], schema=polars_schema(GapLedger)), delete_missing=False)


def gap(lake: Lake) -> dict[str, Any]:
    return lake.read(GapLedger).row(0, named=True)


def test_a_source_whose_provider_is_absent_has_no_turn(lake: Lake) -> None:
    note(lake)
    asked = list(requests(lake, REST, NOW))
    assert [request.tags[REPAIR_TAG] for request in asked] == ["raw.exchange_candles"]
    assert (gap(lake)["state"], gap(lake)["attempts"]) == ("queued", 1)


def test_a_gap_that_no_present_source_serves_waits_and_costs_no_attempt(lake: Lake) -> None:
    note(lake)
    assert list(requests(lake, {}, NOW)) == []
    assert (gap(lake)["state"], gap(lake)["attempts"]) == ("open", 0)


def test_a_gap_whose_last_repair_failed_before_the_ledger_is_declared(lake: Lake) -> None:
    """A run that fails as it asks never comes to the ledger's asset: the gap stayed queued for ever."""
    note(lake, state="queued", attempts=MAX_ATTEMPTS)
    assert list(requests(lake, REST, NOW)) == []
    told = gap(lake)
    assert (told["state"], told["closed_at"], told["attempts"]) == ("unrecoverable", NOW, MAX_ATTEMPTS)
    assert told["detail"] == "given up after 3 repairs, the last of which failed: nobody asked for all of it"


def test_an_installation_that_does_not_hold_the_lease_repairs_nothing(lake: Lake, tmp_path: Path) -> None:
    """Two sensors that looked at once asked for the same gap, and noted one attempt."""
    clock = FixedClock(NOW)
    note(lake)
    other = lease.this_installation(tmp_path / "other")
    lease.hold(lease.slot_of(lake.root, {}), other, clock, timedelta(hours=1))
    sensor = gap_repair(Settings(lake_uri=lake.root, state_dir=tmp_path / "state"))
    with dg.DagsterInstance.ephemeral() as instance:
        told = sensor(dg.build_sensor_context(instance=instance, resources={"lake": lake, "clock": clock}))
    assert isinstance(told, dg.SkipReason)
    assert "holds them until" in str(told.skip_message)
    assert (gap(lake)["state"], gap(lake)["attempts"]) == ("open", 0)


def test_a_gap_over_more_days_than_one_run_is_asked_for_whole(lake: Lake) -> None:
    """Two markets that miss every other day make runs of single days: none of a noted gap may be left out."""
    for key, first in (("kraken:BTC/USD 1m", 1), ("kraken:ETH/USD 1m", 2)):
        for day in range(first, 21, 2):
            start = datetime(2025, 1, day, tzinfo=UTC)
            end = start + timedelta(days=1)
            note(lake, key=key, gap_start_at=start, gap_end_at=end, date=start.date())
    whole = datetime(2025, 1, 1, tzinfo=UTC)
    note(lake, key="kraken:SOL/USD 1m", gap_start_at=whole, gap_end_at=whole + timedelta(days=20), date=whole.date())
    asked = list(requests(lake, REST, NOW))
    days = [
        date.fromisoformat(request.tags["dagster/asset_partition_range_start"])
        for request in asked
        if "kraken:SOL/USD 1m" in request.run_config["ops"]["raw__exchange_candles"]["config"]["subjects"]
    ]
    assert sorted(days) == [date(2025, 1, day) for day in range(1, 21)]
    assert set(lake.read(GapLedger)["attempts"]) == {1}
