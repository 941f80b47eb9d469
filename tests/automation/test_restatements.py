"""Restated files: one that cannot be taken stops no other, and what a run left behind is found by the next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from crypto_assets.assets.handles import connected, provider_urls
from crypto_assets.assets.raw import binance_archive
from crypto_assets.automation.restatements import restatements
from crypto_assets.commands.run import execute
from crypto_assets.definitions import build_definitions
from crypto_assets.providers.registry import PROVIDERS
from crypto_assets.resources.clock import FixedClock
from crypto_assets.resources.lake import Lake
from crypto_assets.resources.settings import Settings
from crypto_assets.sandbox import Fault, Market, Sandbox, serve
from crypto_assets.sandbox.events import Events, Restatement
from crypto_assets.tables import raw, trusted
from crypto_assets.tables.window import Window

DAY = date(2025, 2, 4)
BEFORE, AFTER = datetime(2025, 2, 8, 6, tzinfo=UTC), datetime(2025, 2, 9, 6, tzinfo=UTC)
BTC, ETH = "binance:BTC/USDT", "binance:ETH/USDT"


@dataclass
class House:
    sandbox: Sandbox
    lake: Lake
    resources: dict[str, Any]
    instance: dg.DagsterInstance

    def look(self) -> tuple[bool, list[str]]:
        """Whether the job succeeded, and which files it said had changed a day."""
        done = restatements.execute_in_process(
            instance=self.instance, resources=self.resources, raise_on_error=False, run_config={}
        )
        events = done.get_asset_materialization_events()
        told = [event.step_materialization_data.materialization for event in events]
        assert {each.partition for each in told} <= {str(DAY)}
        return done.success, [str(each.metadata["restated"].value).split()[0] for each in told]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """Two held files of a day that are restated since."""
    clock = FixedClock(BEFORE)
    provider = PROVIDERS["binance_archive"]
    start = datetime(2025, 2, 4, tzinfo=UTC)
    since = datetime(2025, 2, 8, 12, tzinfo=UTC)
    events = [Restatement(market, start, start + timedelta(days=1), at=since) for market in (BTC, ETH)]
    with serve(Market(7)) as sandbox, dg.DagsterInstance.ephemeral() as instance:
        sandbox.set_now(BEFORE)
        sandbox.set_events(Events(restatements=tuple(events)))
        lake = Lake(str(tmp_path / "lake"))
        settings = Settings(
            lake_uri=lake.root,
            state_dir=tmp_path / "state",
            sandbox_url=sandbox.url,
            providers=("binance_archive",),
            markets=(BTC, ETH),
        )
        asked = {"markets": [BTC, ETH], "intervals": ["1h"]}
        urls = provider_urls(provider, sandbox.url)
        with connected(provider, tmp_path / "state", clock, urls=urls, key=None, asked=asked, is_local=True) as archive:
            resources = {"lake": lake, "clock": clock, "binance_archive": archive}
            keys = [dg.AssetKey(list(c.table.path)) for c in (raw.RawBinanceKlines, trusted.Candles)]
            defs = build_definitions(settings, resources)
            assert not execute(defs, instance, [DAY], keys, has_checks=False).failed
            clock.set(AFTER)
            sandbox.set_now(AFTER)
            yield House(sandbox, lake, resources, instance)


def test_a_restated_file_that_cannot_be_taken_does_not_stop_the_others(house: House) -> None:
    house.sandbox.set_faults([Fault("checksum_mismatch", "binance_archive.klines", subject="BTCUSDT")])
    assert house.look() == (False, [ETH])
    house.sandbox.set_faults([])
    assert house.look() == (True, [BTC, ETH]), "until the tables follow, the next run says so again"


def test_files_that_were_taken_by_a_run_that_ended_before_it_said_so_are_told_by_the_next(house: House) -> None:
    archive, window = house.resources["binance_archive"], Window.of_day(DAY)
    found = list(binance_archive.restated(archive, house.lake, window))
    assert len(found) == 2
    for each in found:
        binance_archive.repull(archive, house.lake, each)
    # Their checksums are the archive's now: nothing is taken again, and the tables are still of the files before.
    assert list(binance_archive.restated(archive, house.lake, window)) == []
    assert house.look() == (True, [BTC, ETH])
