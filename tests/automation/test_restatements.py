"""Restated files: one that cannot be taken stops no other, and what a run left behind is found by the next."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from crypto_assets.assets.raw import binance_archive
from crypto_assets.automation.restatements import restatements
from crypto_assets.sandbox import Fault
from crypto_assets.sandbox.events import Events, Restatement
from crypto_assets.tables import raw, trusted
from crypto_assets.tables.window import Window
from tests.line import Line, line

DAY = date(2025, 2, 4)
BEFORE, AFTER = datetime(2025, 2, 8, 6, tzinfo=UTC), datetime(2025, 2, 9, 6, tzinfo=UTC)
BTC, ETH = "binance:BTC/USDT", "binance:ETH/USDT"


class House(Line):
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
    start = datetime(2025, 2, 4, tzinfo=UTC)
    since = datetime(2025, 2, 8, 12, tzinfo=UTC)
    restated = tuple(Restatement(market, start, start + timedelta(days=1), at=since) for market in (BTC, ETH))
    with line(
        tmp_path,
        BEFORE,
        "binance_archive",
        kind=House,
        events=Events(restatements=restated),
        markets=(BTC, ETH),
        candle_interval="1h",
    ) as on:
        assert on.run(DAY, select=[raw.RawBinanceKlines, trusted.Candles]).success
        on.set_now(AFTER)
        yield on


def test_a_restated_file_that_cannot_be_taken_does_not_stop_the_others(house: House) -> None:
    house.sandbox.set_faults([Fault("checksum_mismatch", "binance_archive.klines", subject="BTCUSDT")])
    assert house.look() == (False, [ETH])
    house.sandbox.set_faults([])
    assert house.look() == (True, [BTC, ETH]), "until the tables follow, the next run says so again"


def test_files_that_were_taken_by_a_run_that_ended_before_it_said_so_are_told_by_the_next(house: House) -> None:
    archive, window = house.providers["binance_archive"], Window.of_day(DAY)
    found = list(binance_archive.restated(archive, house.lake, window))
    assert len(found) == 2
    for each in found:
        binance_archive.repull(archive, house.lake, each)
    # Their checksums are the archive's now: nothing is taken again, and the tables are still of the files before.
    assert list(binance_archive.restated(archive, house.lake, window)) == []
    assert house.look() == (True, [BTC, ETH])
