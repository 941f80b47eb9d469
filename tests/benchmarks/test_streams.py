"""The benchmarks of streams measure what runs, and tell a missing trade from a whole table."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from benchmarks.stream_load import binance_messages, finnhub_messages, walks
from benchmarks.stream_programs import committed, wrong
from crypto_assets.providers import binance_stream, finnhub
from crypto_assets.providers.feed import Feed, Messages
from crypto_assets.resources.clock import FixedClock
from crypto_assets.resources.lake import Lake
from crypto_assets.stream.consumer import Landing
from crypto_assets.stream.program import _told
from crypto_assets.tables.stream import RawTrades

_MS = 1_790_000_000_000


def _rows(feed: Feed, messages: list[bytes]) -> pl.DataFrame:
    arrived = [_MS * 1000 + 5_000_000] * len(messages)
    assert all(feed.is_data(message) for message in messages)
    told = feed.decode(Messages(feed.name, "c:0", messages, arrived, {}))
    assert not told.bad
    return told.trades


def _land(tmp_path: Path, *frames: pl.DataFrame) -> str:
    lake = Lake(str(tmp_path))
    rows = pl.concat(frames)
    lake.advance(RawTrades, rows, expected={"a": None}, after={"a": 1})
    return lake.uri(RawTrades)


@pytest.fixture(scope="module")
def trades() -> list[pl.DataFrame]:
    made = walks()
    of_finnhub, of_binance = finnhub_messages(3, made), binance_messages(made)
    return [
        _rows(finnhub.FEED, [of_finnhub(1 + 3 * n, _MS) for n in range(4)]),
        _rows(binance_stream.FEED, [of_binance(1 + n, _MS) for n in range(7)]),
    ]


def test_the_line_that_a_consumer_says_of_a_commit_is_what_the_benchmarks_read() -> None:
    clock = FixedClock(datetime(2026, 11, 22, 12, tzinfo=UTC))
    newest = int(clock.now().timestamp() * 1e6) - 1_500_000
    said = _told(Landing(12_345, 0, 2, 7, {}, newest, 0.25), clock)
    (found,) = committed(f"something else\n{said}\n")
    assert (found.version, found.n_trades, found.behind_s, found.took_s) == (7, 12_345, 1.5, 0.25)


def test_what_the_load_server_sends_is_read_as_the_providers_are_and_is_whole(
    tmp_path: Path, trades: list[pl.DataFrame]
) -> None:
    assert wrong(_land(tmp_path, *trades), {"finnhub": 12, "binance_stream": 7}) == []


def test_a_trade_that_is_missing_or_doubled_is_named(tmp_path: Path, trades: list[pl.DataFrame]) -> None:
    first, second = trades
    lost = first.filter(pl.int_range(pl.len()) != 5)
    (said,) = wrong(_land(tmp_path / "lost", lost, second), {"finnhub": 12, "binance_stream": 7})
    assert said.startswith("finnhub: (11, 11, 1, 12)")
    (said,) = wrong(_land(tmp_path / "doubled", first, second, second.head(1)), {"finnhub": 12, "binance_stream": 7})
    assert said.startswith("binance_stream: (8, 7, 1, 7)")
