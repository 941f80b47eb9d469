"""The archive through Dagster: a range is one run an asset, months land on their own, one bad file stops no other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, date, datetime
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from benchmarks import archive_year
from crypto_assets.assets.raw.binance_archive import KLINES
from crypto_assets.providers.binance_archive import NAME
from crypto_assets.sandbox import Market, serve
from crypto_assets.sandbox.faults import Fault
from crypto_assets.tables import quality, raw, trusted
from crypto_assets.tables.contract import Contract
from crypto_assets.tables.window import Window
from tests.line import Line, line

MARKETS = ("binance:BTC/USDT", "binance:ETH/USDT")
# The switch to microseconds, and a month that is not over.
NOW = datetime(2025, 2, 4, 12, tzinfo=UTC)
FIRST, LAST = date(2024, 12, 1), date(2025, 2, 3)


class Archive(Line):
    def take(self, *tables: type[Contract], first: date = FIRST, last: date = LAST) -> dg.ExecuteInProcessResult:
        return self.run(first, last, select=tables, has_checks=True)

    def failed_verdicts(self) -> list[tuple[str, str]]:
        return self.lake.read(quality.CheckResults).filter(~pl.col("passed")).select("table_name", "check_name").rows()


def at_work(home: Path, *, markets: Sequence[str] = MARKETS) -> AbstractContextManager[Archive]:
    return line(home, NOW, NAME, kind=Archive, markets=tuple(markets), candle_interval="1h")


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    with at_work(tmp_path) as made:
        yield made


def test_months_and_days_land_as_gapless_candles_and_every_check_passes(archive: Archive) -> None:
    assert archive.take(raw.RawBinanceKlines).success
    assert archive.take(trusted.Candles).success

    rows = archive.lake.read(trusted.Candles)
    hours = pl.datetime_range(
        datetime(2024, 12, 1, tzinfo=UTC), datetime(2025, 2, 4, tzinfo=UTC), "1h", closed="left", eager=True
    )
    for market in MARKETS:
        assert rows.filter(market_id=market)["opened_at"].to_list() == hours.to_list()
    assert archive.failed_verdicts() == []
    # Two months and three days, a checksum each.
    assert archive.sandbox.calls()["calls"] == {
        "binance_archive.klines": 10,
        "binance_archive.klines_checksum": 10,
    }
    state = archive.lake.state(trusted.Candles)
    assert state is not None
    assert (state.version, state.n_files) == (3, 3)


def test_what_is_held_is_not_asked_for_again(archive: Archive) -> None:
    archive.take(raw.RawBinanceKlines)
    archive.sandbox.forget_calls()

    assert archive.take(raw.RawBinanceKlines).success

    assert archive.sandbox.calls()["calls"] == {}


def test_a_file_that_differs_from_its_checksum_stops_no_other_file(archive: Archive) -> None:
    bad = Fault(kind="checksum_mismatch", endpoint="binance_archive.klines", subject="BTCUSDT-1h-2024-12")
    archive.sandbox.set_faults([bad])

    result = archive.take(raw.RawBinanceKlines)

    assert not result.success
    held = archive.lake.scan(raw.RawBinanceKlines).filter(pl.col("n_pages").is_not_null(), pl.col("page") == 1)
    assert dict(held.group_by("subject").len().collect().rows()) == {f"{MARKETS[0]} 1h": 4, f"{MARKETS[1]} 1h": 5}
    missing = Window.of_days(FIRST, date(2024, 12, 31))
    assert list(KLINES.missing(archive.lake, f"{MARKETS[0]} 1h", Window.of_days(FIRST, LAST), NOW)) == [missing]
    archive.sandbox.set_faults([])
    assert archive.take(raw.RawBinanceKlines).success
    assert list(KLINES.missing(archive.lake, f"{MARKETS[0]} 1h", Window.of_days(FIRST, LAST), NOW)) == []


def test_a_missing_day_is_skipped_and_asked_for_again_by_the_next_run(archive: Archive) -> None:
    archive.sandbox.set_faults(
        [Fault(kind="missing_day", endpoint="binance_archive.klines", subject="BTCUSDT-1h-2025-02-02")]
    )

    assert archive.take(raw.RawBinanceKlines).success

    gaps = list(KLINES.missing(archive.lake, f"{MARKETS[0]} 1h", Window.of_days(FIRST, LAST), NOW))
    assert gaps == [Window.of_day(date(2025, 2, 2))]
    found = archive.lake.read(raw.RawBinanceKlines).filter(outcome="not_found")
    assert found["request"].str.contains("2025-02-02.zip.CHECKSUM", literal=True).to_list() == [True]


def test_a_closed_country_is_a_persons_business_and_nothing_is_published(archive: Archive) -> None:
    archive.sandbox.set_faults([Fault(kind="geo_block", endpoint="*")])

    result = archive.take(raw.RawBinanceKlines)

    (failure,) = result.get_step_failure_events()
    assert "denied (the archive refuses (HTTP 451): it may be closed to this country)" in str(
        failure.event_specific_data
    )
    assert archive.lake.read(raw.RawBinanceKlines)["n_pages"].null_count() == 2


def test_trades_of_a_day_land_with_both_units_of_time(tmp_path: Path) -> None:
    switch = (date(2024, 12, 31), date(2025, 1, 1))
    with at_work(tmp_path, markets=MARKETS[:1]) as archive:
        assert archive.take(raw.RawBinanceTrades, first=switch[0], last=switch[1]).success
        assert archive.take(trusted.Trades, first=switch[0], last=switch[1]).success

        rows = archive.lake.read(trusted.Trades)
        by_day = rows.group_by("date").agg(fine=pl.col("traded_us").is_not_null().all(), n=pl.len()).sort("date")
        assert by_day.select("date", "fine").rows() == [(switch[0], False), (switch[1], True)]
        assert (by_day["n"] > 1000).all()
        ids = rows.sort(pl.col("trade_id").cast(pl.Int64))
        assert ids["trade_id"].cast(pl.Int64).diff().drop_nulls().unique().to_list() == [1]
        assert ids["traded_at"].is_sorted()
        assert archive.failed_verdicts() == []


@pytest.mark.e2e
def test_a_range_of_months_is_one_run_an_asset_and_one_replace_a_month(tmp_path: Path) -> None:
    """The benchmark ``archive_year`` in small, and that its counts are of what was sent."""
    window = archive_year.months_from(date(2025, 1, 1), 2)
    with serve(Market(7)) as sandbox:
        pulled, computed = archive_year.run(tmp_path, sandbox.url, ("BTC", "ETH"), window)

    assert pulled.n_rows == computed.n_rows == 2 * len(window.days) * 1440
    assert (pulled.n_commits, computed.n_commits) == (4, 2)
    assert (pulled.n_failed, computed.n_failed) == (0, 0)
    assert computed.n_verdicts >= 10 * len(window.days)
