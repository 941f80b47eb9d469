"""From journals to final bars: a stream with holes, duplicates and disorder ends as the market's own list."""

from __future__ import annotations

import json
import random
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
import msgspec
import polars as pl
import pytest

from crypto_assets.assets.quality.gaps import find_holes
from crypto_assets.automation.rebuild import rebuild
from crypto_assets.automation.repair import REPAIR_TAG, gap_repair
from crypto_assets.automation.streams import GRACE, Cursor, closed_hours, due
from crypto_assets.partitions import HOURS_TAG
from crypto_assets.providers.exchanges import PROVIDER
from crypto_assets.providers.feeds import FEEDS
from crypto_assets.resources import lease
from crypto_assets.resources.clock import FixedClock
from crypto_assets.sandbox import Market
from crypto_assets.sandbox.events import Events
from crypto_assets.sandbox.tape import tape_of
from crypto_assets.stream.blocks import TOLD_TO_STOP, Block, Event
from crypto_assets.stream.consumer import Consumer
from crypto_assets.stream.direct import DirectSource
from crypto_assets.stream.journal import Journal
from crypto_assets.stream.transport import Delivery, Position
from crypto_assets.tables import quality, raw, refined, trusted
from crypto_assets.tables.contract import Contract
from crypto_assets.tables.stream import RawStreamEvents, RawTrades
from crypto_assets.tables.window import DAY, HOUR, Window
from tests.line import Line, line

MARKET = Market(7, n_assets=30)
TAPE = tape_of(MARKET, Events())
TEN = datetime(2026, 10, 3, 10, tzinfo=UTC)
MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)
BTC, ETH, USD = "binance:BTC/USDT", "binance:ETH/USDT", "coinbase:BTC/USD"
TABLES: tuple[type[Contract], ...] = (trusted.Trades, refined.TradeBars1s, refined.TradeBars1m, quality.GapLedger)
# What a stream loses around an interruption is looked for beyond its edges.
MARGIN = 5 * SECOND


def us(at: datetime) -> int:
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def tape(market: str, start: datetime, end: datetime) -> list[dict[str, Any]]:
    """The market's own list: aggregates of Binance, single trades of Coinbase."""
    trades = TAPE.trades(market, start, end)
    if market.startswith("binance"):
        return trades.records()
    return [{**record, "trade_id": record["first_id"], "n_trades": 1} for record in trades.split().records()]


def binance(record: Mapping[str, Any]) -> bytes:
    trade = {
        "s": "BTCUSDT",
        "a": record["trade_id"],
        "p": f"{record['price']:f}",
        "q": f"{record['quantity']:f}",
        "f": record["first_id"],
        "l": record["last_id"],
        "T": record["traded_us"] // 1000,
        "m": record["taker_side"] == "sell",
    }
    return json.dumps({"stream": "btcusdt@aggTrade", "data": trade}).encode()


def coinbase(record: Mapping[str, Any]) -> bytes:
    told = {
        "type": "match",
        "trade_id": record["trade_id"],
        "side": {"buy": "sell", "sell": "buy"}[record["taker_side"]],
        "size": f"{record['quantity']:f}",
        "price": f"{record['price']:f}",
        "product_id": "BTC-USD",
        "time": record["traded_at"].isoformat().replace("+00:00", "Z"),
    }
    return json.dumps(told, separators=(",", ":")).encode()


def finnhub(record: Mapping[str, Any]) -> bytes:
    told = {"p": float(record["price"]), "s": "BINANCE:ETHUSDT", "t": record["traded_us"] // 1000}
    return json.dumps({"data": [{**told, "v": float(record["quantity"])}], "type": "trade"}).encode()


STREAMS = {
    BTC: ("binance_stream", "BTCUSDT", binance),
    USD: ("coinbase_stream", "BTC-USD", coinbase),
    ETH: ("finnhub", "BINANCE:ETHUSDT", finnhub),
}


class House(Line):
    """A lake that streams fill, by hand-made journals, and what Dagster makes of it."""

    cursor: str | None = None
    launched: list[dict[str, Any]]

    def deliver(self, market: str, records: Sequence[Mapping[str, Any]], *events: Event, seed: int = 1) -> None:
        """The records, in disorder and some twice, as blocks of a collector's journal, moments after their trades."""
        rng = random.Random(seed)  # noqa: S311 - disorder, not secrets
        feed, symbol, message = STREAMS[market]
        told = [record for record in records for _ in range(1 + (rng.random() < 0.05))]
        told.sort(key=lambda record: record["traded_us"] + rng.randrange(4_000_000))
        directory = self.settings.state_dir / "stream" / feed
        with Journal(directory) as journal:
            for block in [told[n : n + 40] for n in range(0, len(told), 40)] or [[]]:
                received = us(block[-1]["traded_at"]) + 4_000_000 if block else us(self.clock.now())
                is_last = not told or block[-1] is told[-1]
                journal.append(
                    Block(
                        journal.collector,
                        journal.next_number,
                        journal.lanes,
                        feed,
                        {symbol: market},
                        [received] * len(block),
                        [message(record) for record in block],
                        list(events) if is_last else [],
                        since=journal.since,
                    )
                )
        self.consume()

    def consume(self) -> None:
        """What is in the journals."""
        directories = sorted((self.settings.state_dir / "stream").iterdir())
        with Consumer(
            self.lake, lambda landed: DirectSource(directories, landed), FEEDS, self.clock, most_s=0
        ) as consumer:
            consumer.step()
            consumer.flush()

    def take(self, block: Block) -> pl.DataFrame:
        """A block from a broker that holds no other; what happened by then."""
        with Consumer(self.lake, lambda _: Handed(block), FEEDS, self.clock, most_s=0) as consumer:
            consumer.step()
            consumer.flush()
        return self.lake.read(RawStreamEvents)

    def found_holes(self) -> list[tuple[Any, ...]]:
        found = find_holes(self.lake, Window.of_day(TEN.date()), self.clock.now())
        columns = ("key", "gap_start_at", "gap_end_at", "cause", "state", "detail")
        return found.sort("key", "gap_start_at").select(columns).rows()

    def tick(self, sensor: dg.SensorDefinition, cursor: str | None = None) -> dg.SensorResult | dg.SkipReason:
        context = dg.build_sensor_context(
            instance=self.instance,
            cursor=cursor,
            repository_def=self.definitions.get_repository_def(),
            resources={"lake": self.lake, "clock": self.clock},
        )
        told: dg.SensorResult | dg.SkipReason = sensor(context)
        return told

    def carry_on(self) -> list[dg.RunRequest]:
        """A tick of the sensor of closed hours, and its runs."""
        told = self.tick(closed_hours(self.settings), self.cursor)
        assert isinstance(told, dg.SensorResult)
        self.cursor = told.cursor
        return self.launch(told.run_requests or [])

    def repair(self) -> list[dg.RunRequest]:
        told = self.tick(gap_repair(self.settings))
        return self.launch(told.run_requests or []) if isinstance(told, dg.SensorResult) else []

    def launch(self, requests: Iterable[dg.RunRequest]) -> list[dg.RunRequest]:
        """What the daemon would run, of these tables and their checks."""
        asked = list(requests)
        for request in asked:
            tables = [raw.RawExchangeTrades, *TABLES]
            named = [
                table for table in tables if dg.AssetKey(list(table.table.path)) in (request.asset_selection or [])
            ]
            partition = {"partition_key": request.partition_key} if request.partition_key else {}
            tags = {**request.tags, "dagster/run_key": request.run_key or ""}
            result = self.execute(named, has_checks=True, tags=tags, run_config=request.run_config or None, **partition)
            assert result.success
        return asked

    def trades(self, market: str, window: Window) -> list[tuple[Any, ...]]:
        held = self.lake.read(trusted.Trades, window).filter(market_id=market)
        columns = ("trade_id", "traded_at", "traded_us", "price", "quantity", "n_trades", "taker_side")
        return sorted(held.select(columns).rows(), key=lambda row: int(row[0]))

    def failed(self) -> list[tuple[str, str, str]]:
        held = self.lake.read(quality.CheckResults).filter(~pl.col("passed"))
        return held.select("table_name", "check_name", "observed").rows()

    def holes(self) -> list[tuple[str, datetime, datetime, str, str, int]]:
        ledger = self.lake.read(quality.GapLedger).filter(table_name=trusted.Trades.table.full_name)
        columns = ("key", "gap_start_at", "gap_end_at", "cause", "state", "n_missing")
        return ledger.sort("key", "gap_start_at").select(columns).rows()


def expected(market: str, start: datetime, end: datetime) -> list[tuple[Any, ...]]:
    """The market's own list as ``trusted.trades`` has it."""
    is_fine = market.startswith("coinbase")
    return [
        (
            str(r["trade_id"]),
            r["traded_at"].replace(microsecond=r["traded_us"] % 10**6 // 1000 * 1000),
            r["traded_us"] if is_fine else None,
            r["price"],
            r["quantity"],
            r["n_trades"],
            r["taker_side"],
        )
        for r in sorted(tape(market, start, end), key=lambda r: r["trade_id"])
    ]


def bars_by_hand(market: str, start: datetime, end: datetime, length: timedelta) -> dict[datetime, tuple[Any, ...]]:
    """Open, high, low, close, volume and trades of each bar of the market's own list."""
    groups: dict[datetime, list[Mapping[str, Any]]] = defaultdict(list)
    for record in sorted(tape(market, start, end), key=lambda r: (r["traded_us"], r["trade_id"])):
        groups[start + (record["traded_at"] - start) // length * length].append(record)
    return {
        opened: (
            group[0]["price"],
            max(r["price"] for r in group),
            min(r["price"] for r in group),
            group[-1]["price"],
            sum((r["quantity"] for r in group), Decimal(0)),
            sum((r["quantity"] * r["price"] for r in group), Decimal(0)),
            sum(r["n_trades"] for r in group),
        )
        for opened, group in groups.items()
    }


def bars(house: House, contract: type[Contract], market: str) -> dict[datetime, tuple[Any, ...]]:
    held = house.lake.read(contract).filter(market_id=market)
    columns = ("opened_at", "open", "high", "low", "close", "volume_base", "volume_quote", "n_trades")
    return {row[0]: row[1:] for row in held.select(columns).iter_rows()}


def hole(market: str, start: datetime, end: datetime, why: str = "closed by the provider (1001)") -> Event:
    return Event("hole", us(start), us(end), why, subject=market)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with line(tmp_path, TEN, PROVIDER.name, kind=House, market=MARKET, markets=(BTC, ETH, USD)) as on:
        yield on


@pytest.mark.timeout(300)
def test_a_broken_stream_ends_as_the_markets_own_list(house: House) -> None:
    ten, eleven = Window(TEN, TEN + HOUR), Window(TEN + HOUR, TEN + 2 * HOUR)
    away = Window(TEN + 20 * MINUTE, TEN + 25 * MINUTE)
    heard = [r for r in tape(BTC, TEN, TEN + 90 * MINUTE) if not away.start <= r["traded_at"] < away.end]
    relayed = [r for r in tape(ETH, TEN, TEN + HOUR) if not 40 <= r["traded_at"].minute < 42]
    house.set_now(TEN + 90 * MINUTE)
    house.deliver(BTC, heard, hole(BTC, away.start - MARGIN, away.end + MARGIN))
    late = tape(USD, TEN, TEN + HOUR)
    house.deliver(USD, late[:-3], Event("opened", us(TEN), us(TEN), "1 symbols"))
    house.deliver(ETH, relayed, hole(ETH, TEN + 40 * MINUTE, TEN + 42 * MINUTE, "the collector was not running"))

    # The hour that is over is carried on, that of now is not.
    house.set_now(TEN + 90 * MINUTE)
    [request] = house.carry_on()
    assert (request.partition_key, request.tags[HOURS_TAG]) == ("2026-10-03", "2026-10-03T10")
    held = house.lake.read(trusted.Trades)
    assert held["traded_at"].max() < eleven.start
    assert house.failed() == []
    assert house.holes() == [
        (BTC, away.start - MARGIN, away.end + MARGIN, "venue_outage", "open", 310),
        (ETH, TEN, TEN + HOUR, "our_downtime", "open", 3600),
    ]
    assert house.trades(USD, ten) == expected(USD, TEN, TEN + HOUR)[:-3]
    # Of a relayed market nothing but what was relayed is known so far.
    assert set(held.filter(market_id=ETH)["provider"]) == {"finnhub"}
    assert house.lake.read(refined.TradeBars1m).filter(market_id=ETH)["n_trades"].sum() == len(relayed)
    assert house.carry_on() == []

    # What was not heard is asked of the venue, and only that of BTC.
    calls = house.n_calls()
    [refill] = house.repair()
    assert refill.tags[REPAIR_TAG] == "raw.exchange_trades"
    assert house.n_calls() > calls
    asked = house.lake.read(raw.RawExchangeTrades).filter(subject=BTC)
    assert (asked["window_start_at"].min(), asked["window_end_at"].max()) == (
        away.start - MARGIN,
        away.end + MARGIN,
    )
    assert [row[4:] for row in house.holes()] == [("repaired", 0), ("repaired", 0)]
    assert house.repair() == []
    assert house.trades(BTC, ten) == expected(BTC, TEN, TEN + HOUR)
    assert house.failed() == []

    # A trade that comes late makes its hour due again.
    house.set_now(TEN + 2 * HOUR + 5 * MINUTE)
    house.deliver(USD, late[-3:])
    house.deliver(BTC, tape(BTC, TEN + 90 * MINUTE, TEN + 2 * HOUR), seed=2)
    [request] = house.carry_on()
    assert request.tags[HOURS_TAG] == "2026-10-03T10,2026-10-03T11"
    for market, window in ((BTC, ten), (BTC, eleven), (USD, ten)):
        assert house.trades(market, window) == expected(market, window.start, window.end)
    assert house.failed() == []
    assert house.carry_on() == []

    for contract, length in ((refined.TradeBars1s, SECOND), (refined.TradeBars1m, MINUTE)):
        assert bars(house, contract, BTC) == bars_by_hand(BTC, TEN, TEN + 2 * HOUR, length)
        assert bars(house, contract, USD) == bars_by_hand(USD, TEN, TEN + HOUR, length)
        # The venue was asked for the relay's hour: its trades count, the relay's do not as well.
        assert bars(house, contract, ETH) == bars_by_hand(ETH, TEN, TEN + HOUR, length)
    assert house.lake.read(quality.RevisionLedger).is_empty()
    delivered = house.lake.scan(RawTrades).filter(subject=USD).group_by("trade_id")
    late_ms = (pl.col("ingested_at") - pl.col("traded_at")).dt.total_milliseconds().max()
    slowest = delivered.agg(late_ms=late_ms).select(pl.col("late_ms").max()).collect().item()
    assert house.lake.read(refined.TradeBars1s).filter(market_id=USD)["latency_max_ms"].max() == slowest


@pytest.mark.timeout(120)
def test_with_its_last_hour_a_day_is_computed_as_a_whole(house: House) -> None:
    eleven_pm = TEN + 13 * HOUR
    house.set_now(eleven_pm)
    house.deliver(BTC, [*tape(BTC, TEN, TEN + 5 * MINUTE), *tape(BTC, eleven_pm, eleven_pm + 5 * MINUTE)])
    house.set_now(eleven_pm + HOUR - SECOND)
    [request] = house.carry_on()
    assert request.tags[HOURS_TAG] == "2026-10-03T10"
    house.set_now(eleven_pm + HOUR + GRACE - SECOND)
    assert house.carry_on() == []
    house.set_now(eleven_pm + HOUR + GRACE)
    [request] = house.carry_on()
    assert (request.partition_key, HOURS_TAG in request.tags) == ("2026-10-03", False)
    assert len(house.lake.live(trusted.Trades)) == 1
    assert house.carry_on() == []


@pytest.mark.timeout(120)
def test_what_a_failed_run_was_to_carry_on_is_due_again(house: House) -> None:
    house.set_now(TEN + HOUR + 3 * MINUTE)
    house.deliver(BTC, tape(BTC, TEN, TEN + 5 * MINUTE))
    sensor, cursor, asked = closed_hours(house.settings), None, []
    for _ in range(5):
        house.clock.sleep(60)
        told = house.tick(sensor, cursor)
        assert isinstance(told, dg.SensorResult)
        cursor = told.cursor
        for request in told.run_requests or []:
            asked.append(request.tags[HOURS_TAG])
            tags = {**request.tags, "dagster/run_key": str(request.run_key)}
            house.instance.add_run(dg.DagsterRun(job_name="refresh", tags=tags, status=dg.DagsterRunStatus.FAILURE))
    assert asked == ["2026-10-03T10"] * 3


def test_no_hour_is_carried_on_while_others_are(house: House) -> None:
    house.set_now(TEN + HOUR + 3 * MINUTE)
    house.deliver(BTC, tape(BTC, TEN, TEN + 5 * MINUTE))
    tags = {"crypto_assets/launched_by": "closed_hours"}
    house.instance.add_run(dg.DagsterRun(job_name="refresh", tags=tags, status=dg.DagsterRunStatus.STARTED))
    told = house.tick(closed_hours(house.settings))
    assert isinstance(told, dg.SensorResult)
    assert not told.run_requests


def test_another_installations_lease_keeps_hours_from_being_carried_on_here(house: House) -> None:
    house.deliver(BTC, tape(BTC, TEN, TEN + 5 * MINUTE))
    other = lease.this_installation(house.settings.state_dir / "other")
    lease.hold(lease.slot_of(house.lake.root, {}), other, FixedClock(TEN), timedelta(hours=9))
    told = house.tick(closed_hours(house.settings))
    assert isinstance(told, dg.SkipReason)
    assert "holds them until" in str(told.skip_message)


@pytest.mark.timeout(120)
def test_hourly_replaces_keep_the_number_of_files_flat(house: House) -> None:
    records = tape(BTC, TEN - 10 * HOUR, TEN + 14 * HOUR)
    house.set_now(TEN + 15 * HOUR)
    house.deliver(BTC, records)
    hours = [TEN - 10 * HOUR + n * HOUR for n in range(24)]
    tables = (trusted.Trades, refined.TradeBars1s, refined.TradeBars1m)
    counts = []
    for opens in [*hours, *hours]:
        result = house.execute(
            tables,
            has_checks=False,
            tags={HOURS_TAG: f"{opens:%Y-%m-%dT%H}"},
            partition_key="2026-10-03",
        )
        assert result.success
        counts.append([len(house.lake.live(table)) for table in tables])
    assert counts[23] == [24] * 3
    assert counts[47] == [24] * 3
    before = [house.lake.read(table) for table in tables]
    for table in tables:
        house.lake.maintain(table, closed_before=(TEN + DAY).date())
    assert [len(house.lake.live(table)) for table in tables] == [1] * 3
    assert all(house.lake.read(table).equals(rows) for table, rows in zip(tables, before, strict=True))
    assert len(before[0]) == len(records)


def test_a_lost_cursor_asks_for_every_day_again(house: House) -> None:
    house.set_now(TEN + 2 * DAY)
    house.deliver(BTC, [*tape(BTC, TEN, TEN + MINUTE), *tape(BTC, TEN + DAY, TEN + DAY + MINUTE)])
    cursor = Cursor()
    assert due(house.lake, cursor, house.clock.now()) == {TEN.date(): [], (TEN + DAY).date(): []}
    assert due(house.lake, cursor, house.clock.now()) == {}


def test_an_hour_whose_file_goes_on_beyond_it_is_due_when_it_is_over(house: House) -> None:
    """A compacted file of the day holds hours that were over at the last look, and the one that ended since."""
    eleven, twelve = TEN + HOUR, TEN + 2 * HOUR
    house.set_now(twelve + MINUTE)
    house.deliver(BTC, [*tape(BTC, TEN, TEN + MINUTE), *tape(BTC, twelve - MINUTE, twelve + MINUTE)])
    assert len(house.lake.live(RawTrades)) == 1
    cursor = Cursor()
    assert due(house.lake, cursor, house.clock.now()) == {TEN.date(): [TEN]}
    assert due(house.lake, cursor, twelve + GRACE) == {TEN.date(): [eleven]}
    assert due(house.lake, cursor, twelve + GRACE + MINUTE) == {}


def observations(told: dg.SensorResult | dg.SkipReason) -> dict[str, dict[str, Any]]:
    assert isinstance(told, dg.SensorResult)
    return {
        ".".join(event.asset_key.path): {name: value.value for name, value in event.metadata.items()}
        for event in told.asset_events
        if isinstance(event, dg.AssetObservation)
    }


def verdicts(told: dg.SensorResult | dg.SkipReason) -> list[tuple[bool, dict[str, Any]]]:
    assert isinstance(told, dg.SensorResult)
    return [
        (event.passed, {name: value.value for name, value in event.metadata.items()})
        for event in told.asset_events
        if isinstance(event, dg.AssetCheckEvaluation)
    ]


def test_dagster_sees_how_the_streams_do(house: House) -> None:
    sensor = closed_hours(house.settings)
    told = house.tick(sensor)
    assert isinstance(told, dg.SkipReason)
    assert "no stream" in str(told.skip_message)
    first = tape(BTC, TEN - 10 * MINUTE, TEN)
    house.deliver(BTC, first, Event("opened", us(TEN), us(TEN), "1 symbols"))
    told = house.tick(sensor)
    seen = observations(told)
    assert set(seen) == {"raw.trades", "raw.stream_events"}
    n_first = house.lake.scan(RawTrades).select(pl.len()).collect().item()
    assert seen["raw.trades"]["dagster/row_count"] == n_first
    assert "rows_per_second" not in seen["raw.trades"]
    assert isinstance(told, dg.SensorResult)
    # Nothing new is nothing to say; what is new is said at most every five minutes.
    assert observations(house.tick(sensor, told.cursor)) == {}
    house.set_now(TEN + 10 * MINUTE)
    house.deliver(BTC, tape(BTC, TEN, TEN + 10 * MINUTE), seed=3)
    again = observations(house.tick(sensor, told.cursor))["raw.trades"]
    n_new = again["dagster/row_count"] - n_first
    assert again["rows_per_second"] == round(n_new / 600, 3)
    newest = house.lake.scan(RawTrades).select(pl.col("traded_at").max(), pl.col("ingested_at").max()).collect()
    assert again["newest_traded_at"] == newest["traded_at"].item().isoformat()
    assert again["lag_seconds"] == (house.clock.now() - newest["ingested_at"].item()).total_seconds()
    assert again["delta_version"] == house.lake.state(RawTrades).version  # type: ignore[union-attr]


def test_a_stream_that_runs_and_is_silent_is_an_alarm_and_a_stopped_one_is_not(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    sensor = closed_hours(house.settings)
    house.deliver(BTC, tape(BTC, TEN - 2 * MINUTE, TEN), Event("opened", us(TEN), us(TEN), "1 symbols"))
    house.set_now(TEN + 4 * MINUTE)
    told = house.tick(sensor)
    assert verdicts(told) == []
    assert isinstance(told, dg.SensorResult)
    house.set_now(TEN + 6 * MINUTE)
    alarm = house.tick(sensor, told.cursor)
    [(passed, said)] = verdicts(alarm)
    assert not passed
    assert said == {"binance_stream": "last heard 360 s ago"}
    assert "stream binance_stream is silent" in caplog.text
    assert isinstance(alarm, dg.SensorResult)
    # Once is enough.
    assert verdicts(house.tick(sensor, alarm.cursor)) == []
    stopped = TEN + 6 * MINUTE
    house.deliver(BTC, [], Event("stopped", us(stopped), us(stopped), "told to stop"))
    assert house.lake.read(RawStreamEvents)["kind"].to_list()[-1] == "stopped"
    house.set_now(TEN + 30 * MINUTE)
    [(passed, said)] = verdicts(house.tick(sensor, alarm.cursor))
    assert passed
    assert said == {"streams": "none runs"}


def test_each_stream_that_falls_silent_is_an_alarm_of_its_own(house: House, caplog: pytest.LogCaptureFixture) -> None:
    sensor = closed_hours(house.settings)
    opened = Event("opened", us(TEN), us(TEN), "1 symbols")
    house.deliver(BTC, tape(BTC, TEN - 2 * MINUTE, TEN), opened)
    house.deliver(USD, tape(USD, TEN - 2 * MINUTE, TEN + 3 * MINUTE), opened)
    # Of a version that knew less.
    cursor: str | None = '{"is_well":false}'
    said = []
    for minute in (6, 7, 9, 10):
        house.set_now(TEN + minute * MINUTE)
        told = house.tick(sensor, cursor)
        assert isinstance(told, dg.SensorResult)
        cursor = told.cursor
        said.append(verdicts(told))
        caplog.clear() if minute == 7 else None
    assert [[passed for passed, _ in each] for each in said] == [[False], [], [False], []]
    assert "stream coinbase_stream is silent" in caplog.text
    assert "binance_stream" not in caplog.text


def test_a_stream_that_failed_is_missed_and_one_that_was_stopped_is_not(house: House) -> None:
    end = us(TEN + MINUTE)
    house.deliver(BTC, tape(BTC, TEN, TEN + MINUTE), Event("stopped", end, end, TOLD_TO_STOP))
    house.deliver(USD, tape(USD, TEN, TEN + MINUTE), Event("stopped", end, end, "failed"))
    house.set_now(TEN + 10 * MINUTE)
    [(passed, said)] = verdicts(house.tick(closed_hours(house.settings)))
    assert not passed
    assert list(said) == ["coinbase_stream"]


def test_the_alarm_reaches_dagster(house: House) -> None:
    """The check is one that a person can run, and its verdicts by the sensor are the same check's."""
    house.deliver(BTC, tape(BTC, TEN - 2 * MINUTE, TEN), Event("opened", us(TEN), us(TEN), "1 symbols"))
    house.set_now(TEN + 10 * MINUTE)
    graph = house.definitions.resolve_asset_graph()
    told = house.tick(closed_hours(house.settings))
    assert isinstance(told, dg.SensorResult)
    [event] = [event for event in told.asset_events if isinstance(event, dg.AssetCheckEvaluation)]
    assert event.asset_check_key in graph.asset_check_keys
    house.instance.report_runless_asset_event(event)
    found = house.instance.event_log_storage.get_latest_asset_check_execution_by_key([event.asset_check_key])
    assert [record.status.value for record in found.values()] == ["FAILED"]


@pytest.mark.timeout(120)
def test_what_was_not_carried_on_yet_is_no_difference_to_a_rebuild(house: House) -> None:
    house.set_now(TEN + 90 * MINUTE)
    house.deliver(BTC, tape(BTC, TEN, TEN + 80 * MINUTE))
    house.carry_on()
    found = rebuild(house.lake)
    of_trades = {each.table: each for each in found.compared if "trade" in each.table}
    assert [each.differing for each in of_trades.values()] == [[]] * 3
    n_held = house.lake.scan(trusted.Trades).select(pl.len()).collect().item()
    assert of_trades["trusted.trades"].n_rebuilt == n_held == len(tape(BTC, TEN, TEN + HOUR))


def test_what_streams_append_starts_no_run_of_whole_days(house: House) -> None:
    """Dagster would compute a day of millions of trades again with each observation of the stream's table."""
    chain = dg.AssetSelection.assets(["trusted", "trades"], ["refined", "trade_bars_1s"])
    looked = dg.evaluate_automation_conditions(house.definitions, house.instance, chain)
    house.deliver(BTC, tape(BTC, TEN, TEN + MINUTE))
    told = house.tick(closed_hours(house.settings))
    assert isinstance(told, dg.SensorResult)
    for event in told.asset_events:
        house.instance.report_runless_asset_event(event)
    house.instance.report_runless_asset_event(
        dg.AssetMaterialization(dg.AssetKey(list(RawTrades.table.path)), partition=str(TEN.date()))
    )
    looked = dg.evaluate_automation_conditions(house.definitions, house.instance, chain, cursor=looked.cursor)
    assert looked.total_requested == 0
    # An answer of the venue itself is carried on.
    house.instance.report_runless_asset_event(
        dg.AssetMaterialization(dg.AssetKey(list(raw.RawExchangeTrades.table.path)), partition=str(TEN.date()))
    )
    looked = dg.evaluate_automation_conditions(house.definitions, house.instance, chain, cursor=looked.cursor)
    assert looked.get_num_requested(dg.AssetKey(["trusted", "trades"])) == 1


@pytest.mark.timeout(200)
def test_stream_venue_and_archive_say_the_same_of_a_trade(tmp_path: Path) -> None:
    """One row a trade whichever way it came: ids, times and amounts agree, so that nothing is revised."""
    sources = (PROVIDER.name, "binance_archive")
    with line(tmp_path, TEN, *sources, kind=House, market=MARKET, markets=(BTC, USD)) as on:
        minutes = Window(TEN, TEN + 20 * MINUTE)
        on.set_now(TEN + HOUR + 5 * MINUTE)
        for market in (BTC, USD):
            heard = [r for r in tape(market, minutes.start, minutes.end) if r["traded_at"].minute != 3]
            on.deliver(market, heard, hole(market, minutes.start, minutes.start + 5 * MINUTE))
        on.carry_on()
        assert len(on.repair()) == 1
        providers = on.lake.read(trusted.Trades).group_by("market_id", "provider").len()
        assert {name for _, name, _ in providers.iter_rows()} == {"exchanges", "binance_stream", "coinbase_stream"}
        on.set_now(TEN + DAY + 4 * HOUR)
        ask = {"raw.binance_trades": {"subjects": [BTC]}}
        assert on.run(TEN.date(), select=[raw.RawBinanceTrades, trusted.Trades], config=ask, has_checks=True).success
        for market in (BTC, USD):
            told = [(*row[:2], *row[3:]) for row in on.trades(market, minutes)]
            assert told == [(*row[:2], *row[3:]) for row in expected(market, minutes.start, minutes.end)]
        held = on.lake.read(trusted.Trades, minutes)
        assert held.filter(market_id=BTC)["n_duplicates"].min() >= 1
        # Of equal statements the first to arrive is the row.
        by_refill = held["traded_at"].dt.minute() == 3
        assert set(held.filter(by_refill)["provider"]) == {"exchanges"}
        assert set(held.filter(~by_refill)["provider"]) == {"binance_stream", "coinbase_stream"}
        assert (held.filter(~by_refill)["ingested_at"] - held.filter(~by_refill)["traded_at"]).max() < 5 * MINUTE
        assert on.lake.read(quality.RevisionLedger).is_empty()
        assert on.failed() == []


def test_blocks_that_never_came_are_a_hole_from_the_last_one_before_them(house: House) -> None:
    records = tape(BTC, TEN, TEN + 30 * MINUTE)
    parts = [records[n : n + 50] for n in range(0, 250, 50)]
    house.set_now(TEN + 30 * MINUTE)
    for part in parts[:2]:
        house.deliver(BTC, part)
    # Two blocks, and their journal, are gone for good.
    journal = house.settings.state_dir / "stream" / "binance_stream"
    before = house.lake.scan(RawTrades).select(pl.col("ingested_at").max()).collect().item()
    with Journal(journal) as held:
        first, collector = held.next_number, held.collector
        received = us(TEN + 25 * MINUTE)
        markets = {"BTCUSDT": BTC}
        frames = [binance(parts[4][0])]
        house.take(Block(collector, first + 2, 1, "binance_stream", markets, [received], frames, []))
    why = f"binance_stream: blocks {first} to {first + 2} of {collector} never came"
    assert house.found_holes() == [(BTC, before - MARGIN, TEN + 25 * MINUTE + MARGIN, "our_downtime", "open", why)]


@pytest.mark.parametrize("has_messages", [True, False])
def test_blocks_that_were_lost_in_days_of_absence_are_a_hole_of_all_that_time(
    house: House, *, has_messages: bool
) -> None:
    """Also where the first block after them says nothing but that a connection was opened."""
    old = tape(BTC, TEN - 5 * DAY, TEN - 5 * DAY + MINUTE)
    heard, back = us(TEN - 5 * DAY + MINUTE), us(TEN + 25 * MINUTE)
    house.set_now(TEN + 30 * MINUTE)
    house.take(block_of(0, [binance(record) for record in old], heard))
    opened = Event("opened", back, back, "1 symbols", n=1)
    frames = [binance(record) for record in tape(BTC, TEN + 24 * MINUTE, TEN + 25 * MINUTE)]
    events = house.take(block_of(2, frames if has_messages else [], back, opened))
    assert events.filter(kind="blocks_lost")["ends_at"].to_list() == [TEN + 25 * MINUTE]
    why = "binance_stream: blocks 1 to 2 of c0ffee never came"
    since = TEN - 5 * DAY + MINUTE - MARGIN
    assert house.found_holes() == [(BTC, since, TEN + 25 * MINUTE + MARGIN, "our_downtime", "open", why)]


@pytest.mark.parametrize(
    ("number", "since", "lost"),
    [(0, 0, []), (3, 0, []), (4, 0, [1]), (11, 0, [2]), (11, 11, []), (14, 11, []), (15, 11, [1])],
)
def test_what_came_before_a_lake_knew_of_a_lane_is_lost_to_it(
    house: House, number: int, since: int, lost: list[int]
) -> None:
    """Whoever had it: another table or lake, or a broker that forgot. A lane begins with its own number, and not
    before its collector's first one."""
    record = tape(BTC, TEN, TEN + MINUTE)[0]
    block = msgspec.structs.replace(block_of(number, [binance(record)], us(TEN + MINUTE)), lanes=4, since=since)
    events = house.take(block)
    assert events.filter(kind="blocks_lost")["n"].to_list() == lost
    # Nobody knows since when, so that the ledger names no time.
    assert house.found_holes() == []


def test_a_journal_that_was_copied_goes_on_under_another_name_and_nothing_of_it_is_lost(house: House) -> None:
    """Its numbers go on, and its new collector had none before."""
    records = tape(BTC, TEN, TEN + 10 * MINUTE)
    half = len(records) // 2
    house.deliver(BTC, records[:half])
    journal = house.settings.state_dir / "stream" / "binance_stream"
    copy = house.settings.state_dir / "copy"
    shutil.copytree(journal, copy)
    shutil.rmtree(journal)
    copy.rename(journal)
    house.deliver(BTC, records[half:])
    named = house.lake.scan(RawTrades).select(pl.col("pull_id").str.split(":").list.first().n_unique()).collect()
    assert named.item() == 2
    assert "blocks_lost" not in house.lake.read(RawStreamEvents)["kind"].to_list()


@pytest.mark.timeout(120)
def test_an_unreadable_message_is_kept_and_its_trades_are_asked_of_the_venue(house: House) -> None:
    minutes = Window(TEN, TEN + 5 * MINUTE)
    records = tape(BTC, minutes.start, minutes.end)
    poisoned = records[7]
    frames = [binance(record) for record in records]
    frames[7] = frames[7].replace(f'"{poisoned["price"]:f}"'.encode(), b"null")
    house.set_now(TEN + HOUR + 3 * MINUTE)
    received = [us(record["traded_at"]) + 200_000 for record in records]
    markets = {"BTCUSDT": BTC, "ETHUSDT": ETH}
    events = house.take(Block("c0ffee", 0, 1, "binance_stream", markets, received, frames, []))
    [bad] = events.filter(kind="bad").to_dicts()
    assert (bad["body"], bad["n"], bad["detail"]) == (
        frames[7],
        1,
        "unreadable: Expected `str`, got `null` - at `$.data.p`",
    )
    # Of the market that it names, and of no other.
    [hole] = events.filter(kind="hole").to_dicts()
    arrived = bad["starts_at"]
    assert (hole["subject"], hole["starts_at"], hole["ends_at"]) == (BTC, arrived - MARGIN, arrived + MARGIN)
    assert hole["body"] is None
    house.carry_on()
    assert house.trades(BTC, minutes) == [row for row in expected(BTC, *bounds(minutes)) if row[0] != told_id(poisoned)]
    assert [row[3:5] for row in house.holes()] == [("provider_error", "open")]
    house.repair()
    assert [row[3:5] for row in house.holes()] == [("provider_error", "repaired")]
    assert house.trades(BTC, minutes) == expected(BTC, *bounds(minutes))
    assert house.failed() == []


def test_a_message_that_names_no_market_is_a_hole_of_each_and_a_changed_format_one_an_hour(house: House) -> None:
    markets = {"BTCUSDT": BTC, "ETHUSDT": ETH}
    house.set_now(TEN + 2 * HOUR)
    changed = b'{"stream":"@aggTrade","payload":[]}'
    with Journal(house.settings.state_dir / "stream" / "binance_stream") as journal:
        for n in range(60):
            received = [us(TEN + 30 * MINUTE + n * MINUTE) + second * 10**6 for second in range(0, 60, 5)]
            journal.append(
                Block(journal.collector, n, 1, "binance_stream", markets, received, [changed] * len(received), [])
            )
    house.consume()
    assert house.lake.read(RawStreamEvents).group_by("kind").len().sort("kind").rows() == [("bad", 720), ("hole", 120)]
    why = "binance_stream: unreadable messages"
    first = TEN + 30 * MINUTE - MARGIN, TEN + HOUR + MINUTE
    second = TEN + HOUR + MINUTE - MARGIN, TEN + 90 * MINUTE
    assert house.found_holes() == [
        (market, *span, "provider_error", "open", why) for market in (BTC, ETH) for span in (first, second)
    ]


def test_a_clock_that_is_behind_the_venues_costs_holes_that_are_asked_for(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    """Trades of what is the future to us are refused: they are asked for once our clock says that they were."""
    minutes = Window(TEN + 10 * MINUTE, TEN + 12 * MINUTE)
    records = tape(BTC, *bounds(minutes))
    behind = [binance(record) for record in records]
    house.set_now(TEN + HOUR + 3 * MINUTE)
    events = house.take(block_of(0, behind, us(minutes.end - 8 * MINUTE)))
    [hole] = events.to_dicts()
    assert (hole["kind"], hole["subject"], hole["detail"]) == ("hole", BTC, "our clock was behind the venue's")
    first, last = (record["traded_us"] // 1000 * 1000 for record in (records[0], records[-1]))
    assert (us(hole["starts_at"]) + 5_000_000, us(hole["ends_at"]) - 5_000_000) == (first, last)
    assert "binance_stream: our clock is 4" in caplog.text
    assert "set this machine's clock" in caplog.text
    house.carry_on()
    assert [row[3:5] for row in house.holes()] == [("our_downtime", "open")]
    house.repair()
    assert [row[3:5] for row in house.holes()] == [("our_downtime", "repaired")]
    assert house.trades(BTC, minutes) == expected(BTC, *bounds(minutes))


def block_of(number: int, frames: Sequence[bytes], received_us: int, *events: Event) -> Block:
    markets = {"BTCUSDT": BTC}
    received = [received_us] * len(frames)
    return Block("c0ffee", number, 1, "binance_stream", markets, received, list(frames), list(events))


def bounds(window: Window) -> tuple[datetime, datetime]:
    return window.start, window.end


def told_id(record: Mapping[str, Any]) -> str:
    return str(record["trade_id"])


class Handed:
    """A source of one block, that of a broker which forgot those before it."""

    n_parts = 1

    def __init__(self, block: Block) -> None:
        self._deliveries = [Delivery(f"broker/{block.pull_id}", (1,), block)]

    def poll(self, _: float) -> list[Delivery]:
        told, self._deliveries = self._deliveries, []
        return told

    def rewind(self) -> None:
        raise AssertionError("nothing was lost on the way")

    def passed(self, positions: dict[str, Position]) -> None:
        assert positions

    def close(self) -> None:
        assert not self._deliveries
