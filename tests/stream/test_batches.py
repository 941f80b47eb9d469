"""Blocks that are decoded together become the rows that each of them alone would become."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import polars as pl
import pytest

from benchmarks.stream_load import binance_messages, finnhub_messages, walks
from crypto_assets.providers.feeds import FEEDS
from crypto_assets.resources.clock import SystemClock
from crypto_assets.resources.lake import Lake
from crypto_assets.stream import blocks, collector, consumer
from crypto_assets.stream.blocks import Block, Event
from crypto_assets.stream.consumer import Consumer
from crypto_assets.stream.direct import DirectSource
from crypto_assets.stream.journal import Journal
from crypto_assets.tables.stream import RawStreamEvents, RawStreamPrices, RawTrades

_MS = 1_790_000_000_000
_US = _MS * 1000
_BAD = b'{"data":[{"p":"no price"}],"type":"trade"}'
_PRICE = b'{"data":[{"p":7,"s":"BINANCE:BTCUSDT","t":1790000000000,"v":0}],"type":"trade"}'
_MARKETS = {"finnhub": {"BINANCE:BTCUSDT": "binance:BTC/USDT"}, "binance_stream": {"ETHUSDT": "binance:ETH/USDT"}}


def _collected(home: Path, feed: str, contents: list[list[bytes]]) -> str:
    with Journal(home / feed) as journal:
        for number, frames in enumerate(contents):
            events = [Event("opened", _US, _US)] if number == 0 else []
            arrived = [_US + 1000 * (number * 10 + i) for i in range(len(frames))]
            journal.append(Block(journal.collector, number, 1, feed, _MARKETS[feed], arrived, frames, events))
        return journal.collector


def _landed(home: Path, feeds: tuple[str, ...], *, at_once: bool) -> list[pl.DataFrame]:
    lake = Lake(str(home / f"lake-{at_once}"))
    journals = [home / feed for feed in feeds]
    rows = 100_000 if at_once else 1
    with Consumer(lake, lambda landed: DirectSource(journals, landed), FEEDS, SystemClock(), most_rows=rows) as reading:
        reading.step(0.0)
        reading.flush()
    tables = (RawTrades, RawStreamPrices, RawStreamEvents)
    return [lake.scan(table).sort("pull_id", "page").collect() for table in tables]


def test_blocks_of_two_feeds_that_come_together_keep_their_names_places_and_faults(tmp_path: Path) -> None:
    made = walks()
    finnhub, binance = finnhub_messages(3, made), binance_messages(made)
    one = _collected(
        tmp_path,
        "finnhub",
        [[finnhub(1, _MS), finnhub(4, _MS)], [], [_PRICE, finnhub(7, _MS), _BAD], [_BAD, finnhub(10, _MS)], [_PRICE]],
    )
    other = _collected(tmp_path, "binance_stream", [[binance(1, _MS)], [binance(2, _MS), binance(3, _MS)]])

    trades, prices, events = _landed(tmp_path, ("finnhub", "binance_stream"), at_once=True)

    places = {(pull_id, page) for pull_id, page in trades.select("pull_id", "page").iter_rows()}
    sizes = {f"{one}:0": 6, f"{one}:2": 3, f"{one}:3": 3, f"{other}:0": 1, f"{other}:1": 2}
    assert places == {(name, page) for name, n in sizes.items() for page in range(n)}
    assert prices.select("pull_id", "page", "price").rows() == [(f"{one}:2", 0, "7.0"), (f"{one}:4", 0, "7.0")]
    bad = events.filter(kind="bad").select("pull_id", "starts_at").rows()
    assert [(name, int(at.timestamp() * 1e6) - _US) for name, at in bad] == [(f"{one}:2", 22_000), (f"{one}:3", 30_000)]
    assert trades.filter(symbol="ETHUSDT")["subject"].unique().to_list() == ["binance:ETH/USDT"]
    strangers = {"SOLUSDT", "BNBUSDT", "BINANCE:ETHUSDT", "BINANCE:SOLUSDT", "BINANCE:BNBUSDT"}
    assert set(trades.filter(pl.col("subject").is_null())["symbol"]) == strangers


def test_a_compaction_that_breaks_is_said_and_the_stream_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def breaks(*_: object) -> None:
        raise OSError("no such file")

    monkeypatch.setattr(consumer, "_COMPACT_EVERY", 1)
    monkeypatch.setattr(Lake, "compact", breaks)
    message = binance_messages(walks())
    _collected(tmp_path, "binance_stream", [[message(n, _MS)] for n in range(3)])
    trades, _, _ = _landed(tmp_path, ("binance_stream",), at_once=False)
    assert len(trades) == 3
    assert "small files were left, reads become slower: OSError('no such file')" in caplog.text


def test_every_kind_of_event_is_told_by_the_table_and_no_other() -> None:
    modules = (blocks, collector, consumer)
    made = {name for module in modules for name in re.findall(r'Event\(\s*"(\w+)"', inspect.getsource(module))}
    told = RawStreamEvents.columns()["kind"].description
    assert told is not None
    assert set(re.findall(r"\w+", told)) - {"or"} == made


def test_a_batch_of_one_row_lands_as_soon_as_it_is_there(tmp_path: Path) -> None:
    _collected(tmp_path, "binance_stream", [[binance_messages(walks())(1, _MS)]])
    trades, _, _ = _landed(tmp_path, ("binance_stream",), at_once=False)
    assert trades["trade_id"].to_list() == ["1"]
