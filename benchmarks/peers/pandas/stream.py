"""websockets, json and pandas: a Parquet file of every 100,000 trades. Doubles, no position, no log.

``each`` makes a frame of every message and puts them together at the end, as scripts do that handle a message at a
time; without it the messages' dicts are gathered, and are one frame.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from pathlib import Path

import pandas as pd
from websockets.asyncio.client import connect

_ROWS = 100_000


def serve(data: Path, out: Path, *_: str) -> None:
    """Start the server; it ends with this process."""
    command = [(data / "python.txt").read_text(), "-m", "benchmarks.stream_load", str(out), "--messages"]
    subprocess.Popen([*command, str(data / "messages.jsonl"), "--parent"], stdin=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not (out / "load.json").exists():
        if time.monotonic() > deadline:
            raise TimeoutError("the load server did not start")
        time.sleep(0.05)


def commit(data: Path, out: Path, how: str = "together") -> None:
    asyncio.run(_receive(out, is_each=how == "each"))


async def _receive(out: Path, *, is_each: bool) -> None:
    port = json.loads((out / "load.json").read_text())["port"]
    trades: list[dict[str, object]] = []
    frames: list[pd.DataFrame] = []
    n_rows = n_files = 0
    # Who makes frames for a second answers no ping meanwhile.
    async with connect(f"ws://127.0.0.1:{port}/finnhub/ws", compression=None, ping_interval=None) as socket:
        await socket.send("subscribe")
        async for message in socket:
            told = json.loads(message)["data"]
            n_rows += len(told)
            if is_each:
                frames.append(pd.DataFrame(told))
            else:
                trades += told
            if n_rows >= _ROWS:
                _write(pd.concat(frames) if is_each else pd.DataFrame(trades), out / f"part-{n_files:05}.parquet")
                trades, frames, n_rows, n_files = [], [], 0, n_files + 1
    if n_rows:
        _write(pd.concat(frames) if is_each else pd.DataFrame(trades), out / f"part-{n_files:05}.parquet")


def _write(frame: pd.DataFrame, path: Path) -> None:
    frame = frame.rename(columns={"s": "symbol", "p": "price", "v": "quantity"})
    frame["traded_at"] = pd.to_datetime(frame.pop("t"), unit="ms")
    frame.to_parquet(path, index=False)
