"""Forty holes of known cause: found, explained, repaired by the sensor alone or declared, and nobody asked for ever."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from crypto_assets.analytics.gaps import MAX_ATTEMPTS
from crypto_assets.automation.repair import gap_repair
from crypto_assets.commands.run import Report, execute
from crypto_assets.sandbox import Fault
from crypto_assets.sandbox.events import Events, Hole, Listing, Outage
from crypto_assets.tables import quality, raw, trusted
from crypto_assets.tables.contract import Contract
from tests.line import Line, line

DAYS = [date(2025, 2, 3), date(2025, 2, 6)]
NOW = datetime(2025, 2, 8, 6, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
TRADED = tuple(f"binance:{base}/USDT" for base in ("BTC", "ETH", "SOL", "XRP", "ADA", "DOGE"))
LISTED, DELISTED = "binance:AVAX/USDT", "binance:LINK/USDT"
MARKETS = (*TRADED, LISTED, DELISTED)
ARCHIVE = ("daily", "monthly")
EVERYWHERE = ("rest", "daily", "monthly")
TABLES: tuple[type[Contract], ...] = (trusted.Candles, quality.GapLedger)


def at(day: int, hour: int = 0, minute: int = 0) -> datetime:
    return datetime(2025, 2, day, hour, minute, tzinfo=UTC)


@dataclass(frozen=True)
class Injected:
    """A hole that was made on purpose, and what must become of it."""

    market_id: str
    start: datetime
    end: datetime
    cause: str
    state: str

    @property
    def row(self) -> tuple[str, datetime, datetime, str, str]:
        return (f"{self.market_id} 1m", self.start, self.end, self.cause, self.state)


def in_the_archive() -> Iterator[Injected]:
    """Holes of the archive's files that the venue's own interface does not have."""
    for i, market in enumerate(TRADED):
        yield Injected(market, at(3, 2 + i, 7), at(3, 2 + i, 12 + i), "provider_error", "repaired")
        yield Injected(market, at(4, 9 + i, 30), at(4, 9 + i, 50), "provider_error", "repaired")
    # Over midnight: two files, one hole.
    yield Injected(TRADED[0], at(3, 23, 50), at(4, 0, 5), "provider_error", "repaired")
    # Days whose whole file is missing.
    for market in TRADED[1:3]:
        yield Injected(market, at(6), at(7), "provider_error", "repaired")


def everywhere() -> Iterator[Injected]:
    for i, market in enumerate(TRADED):
        yield Injected(market, at(3, 12 + i, 11), at(3, 12 + i, 14 + i), "no_trades", "unrecoverable")
        yield Injected(market, at(4, 2, 3 + 8 * i), at(4, 2, 7 + 8 * i), "no_trades", "unrecoverable")


def others() -> Iterator[Injected]:
    for market in MARKETS:
        yield Injected(market, at(5, 4), at(5, 4, 45), "venue_outage", "unrecoverable")
    yield Injected(TRADED[0], at(5, 9), at(5, 9, 30), "no_trades", "unrecoverable")
    yield Injected(LISTED, at(3), at(4, 12), "not_listed", "unrecoverable")
    yield Injected(DELISTED, at(5, 12), at(7), "delisted", "unrecoverable")
    # Nobody asked for these.
    for market in TRADED[4:6]:
        yield Injected(market, at(6), at(7), "our_downtime", "repaired")


def events() -> Events:
    return Events(
        outages=(
            Outage(venue="binance", start=at(5, 4), end=at(5, 4, 45)),
            Outage(venue="binance", start=at(5, 9), end=at(5, 9, 30), market_id=TRADED[0]),
        ),
        listings=(Listing(LISTED, start=at(4, 12)), Listing(DELISTED, end=at(5, 12))),
        holes=(
            *(Hole(hole.market_id, hole.start, hole.end, ARCHIVE) for hole in in_the_archive()),
            *(Hole(hole.market_id, hole.start, hole.end, EVERYWHERE) for hole in everywhere()),
        ),
    )


class House(Line):
    def pull(self, days: list[date], markets: tuple[str, ...]) -> Report:
        """Take the archive's files of the markets and days."""
        config = {"raw__binance_klines": {"config": {"subjects": [f"{market} 1m" for market in markets]}}}
        keys = [dg.AssetKey(list(raw.RawBinanceKlines.table.path))]
        return execute(self.definitions, self.instance, days, keys, config=config, has_checks=False)

    def look(self) -> None:
        """Compute the candles of all days, and what they lack."""
        keys = [dg.AssetKey(list(contract.table.path)) for contract in TABLES]
        assert not execute(self.definitions, self.instance, DAYS, keys, has_checks=False).failed

    def tick(self) -> list[dg.RunRequest]:
        """The sensor's requests, as the daemon would launch them."""
        context = dg.build_sensor_context(
            instance=self.instance,
            repository_def=self.definitions.get_repository_def(),
            resources={"lake": self.lake, "clock": self.clock},
        )
        told = gap_repair(self.settings)(context)
        return list(told.run_requests or []) if isinstance(told, dg.SensorResult) else []

    def launch(self, request: dg.RunRequest) -> None:
        names = {contract.table.path for contract in (raw.RawBinanceKlines, raw.RawExchangeCandles, *TABLES)}
        keys = [key for key in request.asset_selection or [] if tuple(key.path) in names]
        span = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
        days = [date.fromisoformat(request.tags[name]) for name in span]
        execute(self.definitions, self.instance, days, keys, config=request.run_config["ops"], has_checks=False)

    def ledger(self) -> pl.DataFrame:
        return self.lake.read(quality.GapLedger).filter(table_name=trusted.Candles.table.full_name)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with line(tmp_path, NOW, "binance_archive", "exchanges", kind=House, events=events(), markets=MARKETS) as on:
        yield on


@pytest.mark.e2e
@pytest.mark.timeout(300)
def test_forty_holes_are_found_explained_and_repaired_or_declared(house: House) -> None:
    holes = [*in_the_archive(), *everywhere(), *others()]
    assert len(holes) == 40

    house.pull([DAYS[0], date(2025, 2, 5)], MARKETS)
    house.pull([DAYS[-1]], tuple(market for market in MARKETS if market not in TRADED[4:6]))
    house.look()
    assert set(house.ledger()["attempts"]) == {0}

    # The first repairs meet a venue that fails.
    house.sandbox.set_faults([Fault(kind="server_error", endpoint="binance.klines")])
    n_rounds = 0
    while requests := house.tick():
        n_rounds += 1
        assert n_rounds < 20, "the sensor never comes to an end"
        for request in requests:
            house.launch(request)
        house.clock.set(house.clock.now() + timedelta(minutes=10))
        house.sandbox.set_faults([])

    told = house.ledger()
    ours = {hole.row for hole in holes}
    theirs = set(told.select("key", "gap_start_at", "gap_end_at", "cause", "state").iter_rows())
    hits = len(ours & theirs)
    print(f"{len(theirs)} gaps on the ledger, {len(ours)} injected, {hits} equal in bounds, cause and state;")
    print(f"precision {hits / len(theirs):.3f}, recall {hits / len(ours):.3f}, in {n_rounds} rounds of repairs")
    assert (theirs - ours, ours - theirs) == (set(), set())

    assert told["attempts"].max() <= MAX_ATTEMPTS
    asked = pl.concat(
        house.lake.scan(source).select("subject", "endpoint", "window_start_at", "window_end_at", "pull_id").collect()
        for source in (raw.RawBinanceKlines, raw.RawExchangeCandles)
    ).unique()
    most = asked.group_by("subject", "endpoint", "window_start_at", "window_end_at").len()["len"].max()
    assert isinstance(most, int)
    assert most <= 1 + MAX_ATTEMPTS
    print(f"no window was asked for more than {most} times")
    assert house.tick() == []
