"""websockets, json and pandas: a frame and a Parquet file of every 100,000 trades. Doubles, no position, no log."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from pathlib import Path

import pandas as pd
from websockets.asyncio.client import connect

_ROWS = 100_000


def serve(data: Path, out: Path) -> None:
    """Start the server; it ends with this process."""
    command = [(data / "python.txt").read_text(), "-m", "benchmarks.stream_load", str(out), "--messages"]
    subprocess.Popen([*command, str(data / "messages.jsonl"), "--parent"], stdin=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not (out / "load.json").exists():
        if time.monotonic() > deadline:
            raise TimeoutError("the load server did not start")
        time.sleep(0.05)


def commit(data: Path, out: Path) -> None:
    asyncio.run(_receive(out))


async def _receive(out: Path) -> None:
    port = json.loads((out / "load.json").read_text())["port"]
    trades: list[dict[str, object]] = []
    n_files = 0
    async with connect(f"ws://127.0.0.1:{port}/finnhub/ws", compression=None) as socket:
        await socket.send("subscribe")
        async for message in socket:
            trades += json.loads(message)["data"]
            if len(trades) >= _ROWS:
                _write(trades, out / f"part-{n_files:05}.parquet")
                trades, n_files = [], n_files + 1
    if trades:
        _write(trades, out / f"part-{n_files:05}.parquet")


def _write(trades: list[dict[str, object]], path: Path) -> None:
    frame = pd.DataFrame(trades).rename(columns={"s": "symbol", "p": "price", "v": "quantity"})
    frame["traded_at"] = pd.to_datetime(frame.pop("t"), unit="ms")
    frame.to_parquet(path, index=False)
