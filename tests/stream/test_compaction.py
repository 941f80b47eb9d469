"""The open day of a stream: small files become few, beside a writer that goes on."""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable

from crypto_assets.resources.inspection import prove
from crypto_assets.resources.lake import Lake
from crypto_assets.tables.contract import polars_schema
from crypto_assets.tables.stream import RawTrades

_AT = datetime(2026, 11, 22, 12, tzinfo=UTC)
_APP = "block/c/0"


def _trades(block: int, n: int = 3) -> pl.DataFrame:
    rows = pl.DataFrame(
        {
            "pull_id": [f"c:{block}"] * n,
            "page": range(n),
            "provider": ["binance_stream"] * n,
            "ingested_at": [_AT] * n,
            "subject": ["binance:BTC/USDT"] * n,
            "symbol": ["BTCUSDT"] * n,
            "trade_id": [str(block * n + i) for i in range(n)],
            "price": ["97000.10"] * n,
            "quantity": ["0.1"] * n,
            "n_trades": [1] * n,
            "taker_side": ["buy"] * n,
            "conditions": [None] * n,
            "repeat": [0] * n,
            "traded_us": [1_790_000_000_000_000] * n,
            "traded_at": [_AT] * n,
            "date": [_AT.date()] * n,
        }
    )
    return rows.cast(polars_schema(RawTrades)).select(polars_schema(RawTrades).names())  # type: ignore[arg-type]


def _land(lake: Lake, block: int) -> None:
    lake.advance(RawTrades, _trades(block), expected={_APP: block or None}, after={_APP: block + 1})


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(str(tmp_path))
    for block in range(12):
        _land(lake, block)
    return lake


def test_many_files_of_a_day_become_one_and_no_row_changes(lake: Lake) -> None:
    before = lake.read(RawTrades)
    files = set(Path(lake.uri(RawTrades)).rglob("*.parquet"))
    assert lake.compact(RawTrades) == 12
    assert len(lake.live(RawTrades)) == 1
    assert lake.read(RawTrades).equals(before)
    # What readers of an older version hold is still there, and so is every entry of the log.
    assert files < set(Path(lake.uri(RawTrades)).rglob("*.parquet"))


def test_where_the_stream_was_read_up_to_survives_a_compaction(lake: Lake) -> None:
    lake.compact(RawTrades)
    assert Lake(lake.root).landed(RawTrades, _APP) == 12
    _land(lake, 12)
    assert len(lake.read(RawTrades)) == 13 * 3


def test_few_files_are_left_as_they_are(lake: Lake) -> None:
    lake.compact(RawTrades)
    version = DeltaTable(lake.uri(RawTrades)).version()
    assert lake.compact(RawTrades) == 0
    assert DeltaTable(lake.uri(RawTrades)).version() == version


def test_a_table_that_was_never_written_has_nothing_to_compact(tmp_path: Path) -> None:
    assert Lake(str(tmp_path)).compact(RawTrades) == 0


def _entries(lake: Lake) -> list[Path]:
    return sorted((Path(lake.uri(RawTrades)) / "_delta_log").glob("*.json"))


def test_a_day_of_commits_leaves_a_quarter_of_an_hour_of_the_log_and_a_table_that_knows_all(lake: Lake) -> None:
    for block in range(12, 25):
        _land(lake, block)
    old = datetime.now(UTC).timestamp() - 1200
    for entry in _entries(lake):
        os.utime(entry, (old, old))
    for block in range(25, 65):
        _land(lake, block)
    assert len(_entries(lake)) < 50
    fresh = Lake(lake.root)
    assert (fresh.landed(RawTrades, _APP), len(fresh.read(RawTrades))) == (65, 65 * 3)


def test_appends_and_compactions_at_the_same_time_lose_and_double_nothing(lake: Lake) -> None:
    def write() -> None:
        for block in range(12, 40):
            _land(lake, block)

    writer = threading.Thread(target=write)
    writer.start()
    n_merged = 0
    while writer.is_alive():
        n_merged += lake.compact(RawTrades)
    writer.join()
    assert n_merged >= 12
    ids = sorted(int(told) for told in lake.read(RawTrades)["trade_id"])
    assert ids == list(range(40 * 3))
    assert lake.landed(RawTrades, _APP) == 40


def test_a_look_of_another_thread_hides_no_other_writers_commit(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once this writer has seen the table, a zombie lands the same block and another thread asks where it stands."""

    def between(name: str) -> None:
        if name != "before_commit":
            return
        monkeypatch.undo()
        _land(Lake(lake.root), 12)
        asking = threading.Thread(target=lake.landed, args=(RawTrades, _APP))
        asking.start()
        asking.join(1)

    monkeypatch.setattr("crypto_assets.resources.lake.failpoint", between)
    _land(lake, 12)
    assert lake.read(RawTrades)["pull_id"].to_list().count("c:12") == 3


def test_a_streams_rows_are_read_and_a_file_that_cannot_be_is_told(lake: Lake) -> None:
    proof = prove(lake, RawTrades)
    assert (proof.n_rows, proof.n_proven, proof.errors) == (36, 0, [])
    file = next(Path(lake.uri(RawTrades)).rglob("*.parquet"))
    size = file.stat().st_size
    with file.open("r+b") as opened:
        opened.seek(4)
        opened.write(bytes(size // 2))
    (error,) = prove(lake, RawTrades).errors
    assert error.what.startswith("2026-11-22: ")
