"""Finnhub's trade messages, three trades each, from a websocket on loopback to an exact Delta table.

Ours is the collector and then the consumer in one process: every message on disk and synced in its block, decoded, and
committed as the stream commits, with the position. ``websockets`` with ``json`` only decodes. With pandas it writes a
Parquet file of every 100,000 trades, of dicts that it gathers, or, as many scripts do, of a frame a message; neither
keeps a position, and both lose and repeat what a kill costs. The server is a process of its own, whose CPU is nobody's.

Every variant's trades are compared, in order: symbol, price, amount and time.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from benchmarks import stream_load
from benchmarks.case import Case, Save, Variant
from benchmarks.checks import Result
from benchmarks.data import CACHE, ROOT, Size
from crypto_assets.providers import finnhub
from crypto_assets.providers.feeds import FEEDS
from crypto_assets.resources.clock import SystemClock
from crypto_assets.resources.lake import Lake
from crypto_assets.stream.collector import Collector, Subscription
from crypto_assets.stream.consumer import Consumer
from crypto_assets.stream.direct import DirectSource
from crypto_assets.stream.journal import Journal
from crypto_assets.tables.stream import RawTrades

_N_MESSAGES = {"S": 5_000, "M": 100_000, "L": 400_000}
_PER_MESSAGE = 3
_FIRST_MS = 1_790_000_000_000
_PYTHON, _MESSAGES = "python.txt", "messages.jsonl"
_COLUMNS = {"pull_id": pl.String, "page": pl.Int64, "symbol": pl.String, "price": pl.Float64, "quantity": pl.Float64}
_COLUMNS |= {"traded_us": pl.Int64}


def prepare(size: Size) -> Path:
    """The messages as lines, the trades that they hold, and the interpreter that serves them."""
    n = _N_MESSAGES[size.name]
    told = f"{n} {_PER_MESSAGE}".encode() + Path(__file__).read_bytes() + Path(stream_load.__file__).read_bytes()
    home = CACHE / "data" / f"stream-{size.name}-{hashlib.sha256(told).hexdigest()[:16]}"
    if not home.exists():
        making = home.with_suffix(".making")
        making.mkdir(parents=True, exist_ok=True)
        messages = list(stream_load.frames(n, _PER_MESSAGE, first_ms=_FIRST_MS))
        (making / _MESSAGES).write_bytes(b"".join(message + b"\n" for message in messages))
        _frame([json.loads(message) for message in messages]).write_parquet(making / "expected.parquet")
        making.rename(home)
    (home / _PYTHON).write_text(sys.executable)
    return home


def serve(data: Path, out: Path, *_: str) -> None:
    """Start the server; it ends with this process."""
    command = [(data / _PYTHON).read_text(), "-m", "benchmarks.stream_load", str(out), "--messages"]
    watched = [*command, str(data / _MESSAGES), "--parent"]
    subprocess.Popen(watched, cwd=ROOT, stdin=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not (out / stream_load.SENT).exists():
        if time.monotonic() > deadline:
            raise TimeoutError("the load server did not start")
        time.sleep(0.05)


def _address(out: Path) -> str:
    port = json.loads((out / stream_load.SENT).read_text())["port"]
    return f"ws://127.0.0.1:{port}/finnhub/ws"


def ours(data: Path, out: Path) -> None:
    markets = {f"BINANCE:{name}": f"binance:{name.removesuffix('USDT')}/USDT" for name in stream_load.SYMBOLS}
    with Journal(out / "journal") as journal:
        asyncio.run(_collect(Subscription(finnhub.FEED, markets, _address(out)), journal))
    lake = Lake(str(out / "lake"))
    with Consumer(lake, lambda landed: DirectSource([out / "journal"], landed), FEEDS, SystemClock()) as consumer:
        wanted = journal.next_number
        n_landed = 0
        while n_landed < wanted:
            for landing in consumer.step(0.0) or consumer.flush():
                n_landed = max(n_landed, *(position[0] for position in landing.positions.values()))


async def _collect(subscription: Subscription, journal: Journal) -> None:
    stop = asyncio.Event()
    collector = Collector(
        subscription,
        journal,
        clock=SystemClock(),
        rng=random.Random(7),  # noqa: S311 - jitter, not secrets
        # It is told that the connection has ended: all has been sent.
        tell=lambda _: stop.set(),
    )
    await collector.run(stop)


def websockets_json(data: Path, out: Path) -> Save:
    return _decoded(out, json.loads)


def websockets_msgspec(data: Path, out: Path) -> Save:
    """The same with the decoder that ours has, into objects, not columns."""
    return _decoded(out, msgspec.json.Decoder(finnhub._Message).decode)


def _decoded(out: Path, decode: Any) -> Save:
    from websockets.asyncio.client import connect

    async def receive() -> list[Any]:
        async with connect(_address(out), compression=None, ping_interval=None) as socket:
            await socket.send("subscribe")
            return [decode(message) async for message in socket]

    told = asyncio.run(receive())
    return lambda path: _frame([msgspec.to_builtins(message) for message in told]).write_parquet(path)


def _frame(messages: list[dict[str, Any]]) -> pl.DataFrame:
    trades = [trade for message in messages for trade in message["data"]]
    columns = {"symbol": "s", "price": "p", "quantity": "v"}
    made = pl.DataFrame(
        {
            "pull_id": ["all"] * len(trades),
            "page": range(len(trades)),
            **{name: [trade[key] for trade in trades] for name, key in columns.items()},
            "traded_us": [trade["t"] * 1000 for trade in trades],
        }
    )
    return made.cast(_COLUMNS)  # type: ignore[arg-type]


def _expected(data: Path, variant: Variant) -> Result:
    return {RawTrades: pl.read_parquet(data / "expected.parquet")}


def _read(out: Path, variant: Variant) -> Result:
    if variant.name == "ours":
        rows = Lake(str(out / "lake")).scan(RawTrades).collect()
        number = pl.col("pull_id").str.split(":").list.last().cast(pl.Int64)
        return {RawTrades: _numbered(rows.sort(number, "page"))}
    if variant.peer:
        parts = [pl.read_parquet(path) for path in sorted(out.glob("part-*.parquet"))]
        times = pl.col("traded_at").cast(pl.Datetime("us")).to_physical()
        return {RawTrades: _numbered(pl.concat(parts).with_columns(traded_us=times))} if parts else {}
    return {RawTrades: pl.read_parquet(out / "result.parquet")}


def _numbered(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(pull_id=pl.lit("all"), page=pl.int_range(pl.len())).select(_COLUMNS.keys()).cast(_COLUMNS)  # type: ignore[arg-type]


CASE = Case(
    name="stream_commit",
    title="trade messages (3 trades each; S 5,000, M 100,000, L 400,000) from a websocket -> exact Delta table",
    variants=(
        Variant("ours", f"{__name__}:ours", setup="serve"),
        Variant("websockets_json", f"{__name__}:websockets_json", setup="serve"),
        Variant("websockets_msgspec", f"{__name__}:websockets_msgspec", setup="serve"),
        Variant("websockets_pandas", "benchmarks.peers.pandas.stream:commit", peer="pandas", setup="serve"),
        Variant(
            "websockets_pandas_each",
            "benchmarks.peers.pandas.stream:commit",
            peer="pandas",
            setup="serve",
            arguments=("each",),
        ),
    ),
    prepare=prepare,
    expected=_expected,
    read=_read,
)
