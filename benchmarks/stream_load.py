"""A websocket server that sends trades at a rate, as Finnhub and Binance do, and counts what it has sent.

``python -m benchmarks.stream_load HOME --rate 1000 [--per-message 3] [--seconds 60]``, a process of its own. Each
connection is sent the whole rate, in the words of the provider in its path, from when it has said what it wants. What
is counted stands in ``HOME/load.json``, written anew every half second.

``--messages FILE`` sends the lines of a file instead, as fast as they are taken, and closes.

Trades are numbered from 1: Binance's by their id, Finnhub's, which have none, by their quantity in millionths. The time
of a trade is the moment at which it was sent.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "BNBUSDT")
SENT = "load.json"
_PRICES = (97123.41, 3241.07, 187.522, 612.9)
# Prices are walks of so many steps, made before the clock starts.
_STEPS = 4096
_WAKE_S = 0.002
# A reader that is behind is waited for.
_MOST_UNSENT_BYTES = 8 * 2**20


def walks() -> list[list[str]]:
    """For each symbol the prices of its trades, as text."""
    rng = Random(7)  # noqa: S311 - prices, not secrets
    made = []
    for first in _PRICES:
        price, told = first, []
        for _ in range(_STEPS):
            price *= 1 + rng.gauss(0, 2e-5)
            told.append(f"{price:.2f}" if first > 1000 else f"{price:.4f}")
        made.append(told)
    return made


def finnhub_messages(per_message: int, walks: list[list[str]]) -> Callable[[int, int], bytes]:
    """``(first number, milliseconds) -> message`` of so many trades."""

    def trade(number: int, ms: int) -> str:
        which = number % 4
        price = walks[which][number % _STEPS]
        amount = f"{number // 1_000_000}.{number % 1_000_000:06d}"
        return f'{{"c":null,"p":{price},"s":"BINANCE:{SYMBOLS[which]}","t":{ms},"v":{amount}}}'

    def message(number: int, ms: int) -> bytes:
        told = ",".join([trade(n, ms) for n in range(number, number + per_message)])
        return f'{{"data":[{told}],"type":"trade"}}'.encode()

    return message


def binance_messages(walks: list[list[str]]) -> Callable[[int, int], bytes]:
    """``(number, milliseconds) -> message`` of one trade."""

    def message(number: int, ms: int) -> bytes:
        which = number % 4
        price, symbol = walks[which][number % _STEPS], SYMBOLS[which]
        return (
            f'{{"stream":"{symbol.lower()}@aggTrade","data":{{"e":"aggTrade","E":{ms},"s":"{symbol}","a":{number},'
            f'"p":"{price}","q":"0.{number % 100000:05d}000","f":{number},"l":{number},"T":{ms},'
            f'"m":{"true" if number % 3 else "false"},"M":true}}}}'
        ).encode()

    return message


@dataclass
class Load:
    """What is sent, and what has been."""

    rate: float
    seconds: float
    per_message: int
    sent: dict[str, int]
    n_messages: int = 0
    n_open: int = 0
    left: asyncio.Event = field(default_factory=asyncio.Event)
    is_over: bool = False
    started: float = 0.0


class _Lines(WSListener):
    """Sends what is in a file, once it is spoken to."""

    def __init__(self, lines: list[bytes]) -> None:
        self._lines = lines
        self._sending: asyncio.Task[None] | None = None

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.TEXT and self._sending is None:
            self._sending = asyncio.create_task(self._send(transport))
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()

    async def _send(self, transport: WSTransport) -> None:
        for n, line in enumerate(self._lines):
            transport.send(WSMsgType.TEXT, line)
            if n % 256 == 0:
                await asyncio.sleep(0)
                while transport.underlying_transport.get_write_buffer_size() > _MOST_UNSENT_BYTES:  # noqa: ASYNC110 - no event says so
                    await asyncio.sleep(_WAKE_S)
        transport.send_close(WSCloseCode.OK)


class _Connection(WSListener):
    def __init__(self, load: Load, service: str, made: list[list[str]]) -> None:
        self._load = load
        self._service = service
        self._is_finnhub = service == "finnhub"
        self._message = finnhub_messages(load.per_message, made) if self._is_finnhub else binance_messages(made)
        self._sending: asyncio.Task[None] | None = None

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._load.n_open += 1
        self._load.left.clear()
        if not self._is_finnhub:
            self._sending = asyncio.create_task(self._send(transport))

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.TEXT and self._sending is None:
            self._sending = asyncio.create_task(self._send(transport))
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self._load.n_open -= 1
        if not self._load.n_open:
            self._load.left.set()
        if self._sending is not None:
            self._sending.cancel()

    async def _send(self, transport: WSTransport) -> None:
        load, service = self._load, self._service
        size = load.per_message if self._is_finnhub else 1
        load.started = load.started or time.perf_counter()
        began, n = time.perf_counter(), 0
        while not load.is_over:
            now = time.perf_counter()
            if load.seconds and now - load.started >= load.seconds:
                load.is_over = True
            due = int((now - began) * load.rate)
            if transport.underlying_transport.get_write_buffer_size() < _MOST_UNSENT_BYTES:
                number, ms = load.sent.get(service, 0) + 1, time.time_ns() // 1_000_000
                while n + size <= due:
                    transport.send(WSMsgType.TEXT, self._message(number, ms))
                    n, number, load.n_messages = n + size, number + size, load.n_messages + 1
                load.sent[service] = number - 1
            else:
                # What could not be sent in its time is not sent at all.
                n = due
            await asyncio.sleep(_WAKE_S)


async def serve(home: Path, load: Load, lines: list[bytes], *, is_child: bool) -> None:
    """Serve until SIGTERM, and write down what was sent."""
    made = walks()
    if is_child:
        threading.Thread(target=_end_with_parent, daemon=True).start()

    def listener(request: WSUpgradeRequest) -> WSListener:
        if lines:
            return _Lines(lines)
        return _Connection(load, request.path.decode().strip("/").split("/")[0], made)

    server = await ws_create_server(listener, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    while not stop.is_set():
        _write(home, load, port)
        try:
            await asyncio.wait_for(stop.wait(), 0.5)
        except TimeoutError:
            continue
    load.is_over = True
    _write(home, load, port)
    # Nobody is cut off: whoever has been sent something may still be reading it.
    if load.n_open:
        await load.left.wait()


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


def _write(home: Path, load: Load, port: int) -> None:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    told = {
        "port": port,
        "sent": load.sent,
        "messages": load.n_messages,
        "is_over": load.is_over,
        "cpu_s": usage.ru_utime + usage.ru_stime,
    }
    scratch = home / f"{SENT}.new"
    scratch.write_text(json.dumps(told))
    scratch.replace(home / SENT)


def frames(n_messages: int, per_message: int, *, first_ms: int, per_ms: int = 20) -> Iterator[bytes]:
    """So many messages of Finnhub's, ``per_ms`` of them a millisecond."""
    message = finnhub_messages(per_message, walks())
    for n in range(n_messages):
        yield message(1 + n * per_message, first_ms + n // per_ms)


def main() -> None:
    """``python -m benchmarks.stream_load``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stream_load", description="Trades at a rate.")
    parser.add_argument("home", type=Path)
    parser.add_argument("--rate", type=float, default=1000, help="trades a second, of each connection")
    parser.add_argument("--per-message", type=int, default=3, help="Finnhub's trades a message")
    parser.add_argument("--seconds", type=float, default=0, help="0: until stopped")
    parser.add_argument("--messages", type=Path, help="a file of messages, one a line")
    parser.add_argument("--parent", action="store_true", help="end when standard input does")
    asked = parser.parse_args()
    lines = asked.messages.read_bytes().splitlines() if asked.messages else []
    asyncio.run(serve(asked.home, Load(asked.rate, asked.seconds, asked.per_message, {}), lines, is_child=asked.parent))


if __name__ == "__main__":
    main()
