"""Kafka as a transport, on the Tansu broker, into a real lake; what Tansu lacks on librdkafka's own mock cluster.

Tansu keeps all in memory: what was stopped is empty when it starts again. A broker that is away for a while and keeps
its records is one that is stopped by a signal, and goes on.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import polars as pl
import pytest
from confluent_kafka import KafkaError, Producer, TopicPartition

from crypto_assets.errors import NeedsYouError, TransientError, UsageError
from crypto_assets.providers.feeds import FEEDS
from crypto_assets.resources.clock import SystemClock
from crypto_assets.resources.lake import Lake
from crypto_assets.stream import kafka as transport
from crypto_assets.stream.consumer import Consumer
from crypto_assets.stream.kafka import KafkaSink, KafkaSource, group_of, settings_of
from crypto_assets.stream.open import address_of, open_sink, open_source
from crypto_assets.tables.contract import polars_schema
from crypto_assets.tables.stream import RawStreamEvents, RawTrades
from tests.stream.brokers import (
    AWAY,
    FOREIGN,
    MISSING,
    MOVED,
    REFUSED,
    SECRET,
    Broker,
    blocks,
    free_port,
    held,
    overtake,
    run,
    tansu,
    trades_of,
)


@pytest.fixture(scope="module")
def running() -> Iterator[Broker]:
    with tansu(n_partitions=3) as broker:
        yield broker


@pytest.fixture
def broker(running: Broker) -> Broker:
    """A broker whose topic is empty."""
    running.delete("trades")
    running.create("trades")
    return running


@pytest.fixture
def own() -> Iterator[Broker]:
    """A broker that the test may stop."""
    with tansu(n_partitions=3) as made:
        yield made


PLACE = "kafka/lab/trades"


def sink(broker: Broker, *, patience_s: float = 10.0, n_partitions: int = 3) -> KafkaSink:
    made = KafkaSink(broker.servers, "trades", environment={}, patience_s=patience_s)
    assert made.open({PLACE: n_partitions}) == {PLACE: n_partitions}
    return made


def consumer(lake: Lake, broker: Broker, group: str = "") -> Consumer:
    def connect(landed: Callable[[str], Any]) -> KafkaSource:
        told = group or group_of(lake.root)
        return KafkaSource(broker.servers, "trades", landed, group=told, environment={}, session_ms=6000)

    return Consumer(lake, connect, FEEDS, SystemClock(), most_s=0.05)


def test_blocks_arrive_once_and_the_next_consumer_goes_on_behind_them(lake: Lake, broker: Broker) -> None:
    out = sink(broker)
    out.put(blocks(range(8), lanes=4))
    with consumer(lake, broker) as first:
        run(first, lambda: len(held(lake)) == 24)
    out.put(blocks(range(8, 12), lanes=4))
    # Another group's id: what decides is the lake, not what Kafka remembers of a group.
    with consumer(lake, broker, "another") as second:
        run(second, lambda: len(held(lake)) == 36)
    out.close()

    assert held(lake) == trades_of(range(12))
    assert "blocks_lost" not in lake.read(RawStreamEvents)["kind"].to_list()


def test_what_is_put_twice_is_landed_once(lake: Lake, broker: Broker) -> None:
    for _ in range(2):
        out = sink(broker)
        out.put(blocks(range(6), lanes=2))
        out.put(blocks(range(4, 8), lanes=2))
        out.close()
    with consumer(lake, broker) as reading:
        run(reading, lambda: len(held(lake)) == 24)
        for _ in range(5):
            reading.step(0.1)

    assert held(lake) == trades_of(range(8))


@MOVED
def test_a_lane_stays_in_its_partition_when_a_topic_is_given_more(broker: Broker) -> None:
    out = sink(broker, n_partitions=2)
    out.put(blocks(range(20), lanes=20))
    out.close()

    reading = KafkaSource(broker.servers, "trades", lambda _: None, group="all", environment={})
    found: dict[str, str] = {}
    while len(found) < 20:
        try:
            found |= {told.block.lane: told.channel[-2:] for told in reading.poll(0.5) if told.block}
        except transport.ChannelsChanged:
            reading.rewind()
    reading.close()
    assert set(found.values()) == {"/0", "/1"}


@MOVED
def test_a_cluster_that_is_named_by_other_servers_is_known_again_and_another_is_not(broker: Broker) -> None:
    more = KafkaSink(f"{broker.servers},127.0.0.1:{free_port()}", "trades", environment={})
    assert more.open({PLACE: 2, "kafka/another/trades": 1}) == {PLACE: 2}
    assert more.place == PLACE
    assert more.open({"kafka/another/trades": 1}) == {PLACE: 3}
    more.close()


def test_offsets_are_committed_to_kafka_for_the_tools_that_show_lag(lake: Lake, broker: Broker) -> None:
    out = sink(broker)
    out.put(blocks(range(5)))
    out.close()
    with consumer(lake, broker) as reading:
        run(reading, lambda: len(held(lake)) == 15)
        source: Any = reading._source
        places = [TopicPartition("trades", partition) for partition in range(3)]

        def is_committed() -> bool:
            return 5 in {told.offset for told in source._consumer.committed(places, timeout=10)}

        run(reading, is_committed)


def test_two_consumers_share_the_partitions_and_a_rebalance_loses_and_doubles_nothing(
    lake: Lake, broker: Broker
) -> None:
    out = sink(broker)
    with consumer(lake, broker) as first:
        out.put(blocks(range(9), lanes=9))
        run(first, lambda: len(held(lake)) == 27)
        n = 9
        with consumer(lake, broker) as second:
            a, b = first._source, second._source

            def is_shared() -> bool:
                return len(a._partitions) + len(b._partitions) == 3 and bool(b._partitions)  # type: ignore[attr-defined]

            while not is_shared():
                out.put(blocks(range(n, n + 9), lanes=9))
                n += 9
                first.step(0.2)
                second.step(0.2)
            for _ in range(5):
                out.put(blocks(range(n, n + 9), lanes=9))
                n += 9
                first.step(0.1)
                second.step(0.1)
            assert {*a._partitions, *b._partitions} == {0, 1, 2}  # type: ignore[attr-defined]
        run(first, lambda: len(held(lake)) == n * 3, seconds=60)
    out.close()

    assert held(lake) == trades_of(range(n))
    assert "blocks_lost" not in lake.read(RawStreamEvents)["kind"].to_list()


def test_of_two_that_read_the_same_partitions_the_later_goes_on_from_where_the_other_landed(
    lake: Lake, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    out = sink(broker)
    with consumer(Lake(lake.root), broker, "late") as late:
        overtake(late, consumer(lake, broker, "first"), out, lake, caplog)
    out.close()


@AWAY
def test_a_broker_that_is_away_is_said_and_its_blocks_are_neither_lost_nor_put_twice(lake: Lake, own: Broker) -> None:
    out = sink(own)
    out.put(blocks(range(3)))
    own.signal(signal.SIGSTOP)
    out._patience_s = 1
    with pytest.raises(TransientError, match="the broker cannot be reached; the journal keeps"):
        out.put(blocks(range(3, 6)))
    own.signal(signal.SIGCONT)
    out._patience_s = 20
    out.put(blocks(range(3, 9)))
    out.close()

    with consumer(lake, own) as reading:
        run(reading, lambda: len(held(lake)) == 27)
        source: Any = reading._source
        newest = max(p.offset for p in source._consumer.position([TopicPartition("trades", p) for p in range(3)]))
    assert held(lake) == trades_of(range(9))
    assert newest == 9, "each block is on the topic once"


@AWAY
def test_a_put_waits_no_longer_than_it_is_told_to(own: Broker) -> None:
    out = sink(own, patience_s=250)
    own.signal(signal.SIGSTOP)
    with pytest.raises(TransientError, match="the broker cannot be reached"):
        out.put(blocks(range(3)), lambda: True)
    out.close()


@AWAY
def test_a_consumer_commits_what_it_has_while_the_broker_is_away_and_goes_on_when_it_is_back(
    lake: Lake, own: Broker
) -> None:
    out = sink(own)
    with consumer(lake, own) as reading:
        out.put(blocks(range(3)))
        reading._most_s = 300
        while reading._batch.n_rows + reading._batch.n_unread < 9:
            reading.step(0.1)
        own.signal(signal.SIGSTOP)
        reading._most_s = 0.05
        while not held(lake):
            with suppress(TransientError):
                reading.step(0.1)
        assert held(lake) == trades_of(range(3))
        own.signal(signal.SIGCONT)
        out.put(blocks(range(3, 6)))
        run(reading, lambda: len(held(lake)) == 18, seconds=60)
    out.close()

    assert held(lake) == trades_of(range(6))


@MISSING
def test_a_broker_that_lost_its_records_is_read_from_its_new_beginning(lake: Lake, own: Broker) -> None:
    out = sink(own, patience_s=3)
    with consumer(lake, own) as reading:
        out.put(blocks(range(5)))
        run(reading, lambda: len(held(lake)) == 15)
        own.stop()
        own.start()
        # The producer's session is gone with the broker's memory; the forwarder repeats until it is taken.
        for _ in range(20):
            try:
                out.open({PLACE: 3})
                out.put(blocks(range(5, 8)))
                break
            except TransientError:
                continue
        out.close()

    with consumer(lake, own) as another:
        run(another, lambda: len(held(lake)) == 24, seconds=60)
    assert held(lake) == trades_of(range(8))


@FOREIGN
def test_records_of_others_are_left_out_in_one_line(
    lake: Lake, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    for foreign in (b"hello", b"", b"\x00" * 300):
        broker.put(foreign)
    out = sink(broker, n_partitions=1)
    out.put(blocks(range(2)))
    out.close()
    with caplog.at_level(logging.WARNING), consumer(lake, broker) as reading:
        run(reading, lambda: len(held(lake)) == 6)

    assert held(lake) == trades_of(range(2))
    lines = [record.getMessage() for record in caplog.records if "is no block of a collector" in record.getMessage()]
    assert len(lines) == 1
    assert "(with 2 before it)" in lines[0]


@MISSING
def test_a_topic_that_is_not_there_needs_a_person(broker: Broker) -> None:
    with pytest.raises(NeedsYouError, match=r"there is no such topic; .* create the topic"):
        KafkaSink(broker.servers, "nowhere", environment={}).open({})
    reading = KafkaSource(broker.servers, "nowhere", lambda _: None, group="g", environment={})
    with pytest.raises(NeedsYouError, match="there is no such topic"):
        _poll_until_it_says(reading)
    reading.close()


@AWAY
def test_a_broker_that_is_not_there_is_waited_for() -> None:
    servers = f"127.0.0.1:{free_port()}"
    with pytest.raises(TransientError, match="the broker cannot be reached"):
        KafkaSink(servers, "trades", environment={}).open({})
    reading = KafkaSource(servers, "trades", lambda _: None, group="g", environment={})
    with pytest.raises(TransientError, match="the broker cannot be reached"):
        _poll_until_it_says(reading)
    reading.close()


def _poll_until_it_says(reading: KafkaSource) -> None:
    for _ in range(100):
        try:
            reading.poll(0.2)
        except transport.ChannelsChanged:
            reading.rewind()


# ---- credentials and addresses ----


@REFUSED
def test_credentials_come_from_the_environment_and_are_in_no_line(caplog: pytest.LogCaptureFixture) -> None:
    environment = {
        "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "KAFKA_SASL_MECHANISM": "PLAIN",
        "KAFKA_SASL_USERNAME": "someone",
        "KAFKA_SASL_PASSWORD": SECRET,
        "KAFKA_NONSENSE": "x",
    }
    told = settings_of("b:9092", environment)
    assert (told["sasl.username"], told["sasl.password"]) == ("someone", SECRET)
    assert "nonsense" not in str(told)

    with caplog.at_level(logging.DEBUG):
        out = open_sink(f"kafka://127.0.0.1:{free_port()}/t", environment=environment)
        with pytest.raises(TransientError) as said:
            out.open({})
    assert SECRET not in str(said.value) + caplog.text + out.name


@REFUSED
def test_a_password_that_is_refused_needs_a_person_and_is_not_shown() -> None:
    """A broker that answers the handshake and refuses the password, as any with SASL does."""
    with _refusing_broker() as servers:
        environment = {
            "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
            "KAFKA_SASL_MECHANISM": "PLAIN",
            "KAFKA_SASL_USERNAME": "someone",
            "KAFKA_SASL_PASSWORD": SECRET,
        }
        with pytest.raises(NeedsYouError, match="the broker refuses us") as said:
            KafkaSink(servers, "trades", environment=environment).open({})
        reading = KafkaSource(servers, "trades", lambda _: None, group="g", environment=environment)
        with pytest.raises(NeedsYouError, match="the broker refuses us"):
            _poll_until_it_says(reading)
        reading.close()
    assert SECRET not in str(said.value)


@REFUSED
@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"KAFKA_SECURITY_PROTOCOL": SECRET}, "KAFKA_SECURITY_PROTOCOL cannot be used"),
        (
            {"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SSL_CA_LOCATION": f"/nowhere/{SECRET}"},
            "KAFKA_SSL_CA_LOCATION cannot be used",
        ),
        (
            {
                "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
                "KAFKA_SASL_MECHANISM": SECRET,
                "KAFKA_SASL_USERNAME": "someone",
                "KAFKA_SASL_PASSWORD": SECRET,
            },
            "KAFKA_SASL_MECHANISM cannot be used",
        ),
        (
            {
                "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
                "KAFKA_SASL_MECHANISM": "PLAIN",
                "KAFKA_SASL_PASSWORD": SECRET,
            },
            "KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD cannot be used",
        ),
    ],
)
def test_a_setting_that_cannot_be_used_is_named_and_not_repeated(environment: dict[str, str], named: str) -> None:
    reading = KafkaSource("127.0.0.1:1", "trades", lambda _: None, group="g", environment=environment)
    out = KafkaSink("127.0.0.1:1", "trades", environment=environment)
    for use in (lambda: out.open({}), lambda: reading.poll(0)):
        with pytest.raises(NeedsYouError, match=f"kafka://127.0.0.1:1/trades: {named}; ") as said:
            use()
        assert SECRET not in str(said.value)


class _refusing_broker:  # noqa: N801 - a context manager, used like a function
    """Speaks as much of Kafka's protocol as a client needs to be refused."""

    def __enter__(self) -> str:
        import socketserver
        import struct

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                while len(head := self._take(4)) == 4:
                    request = self._take(struct.unpack(">i", head)[0])
                    api, version, correlation = struct.unpack(">hhi", request[:8])
                    self._answer(correlation, api, version)

            def _take(self, n: int) -> bytes:
                found = b""
                while len(found) < n and (more := self.request.recv(n - len(found))):
                    found += more
                return found

            def _answer(self, correlation: int, api: int, version: int) -> None:
                if api == 18:
                    # Versions of ApiVersions, SaslHandshake, SaslAuthenticate, Metadata; 35 is "ask for less".
                    known = [(18, 0, 0), (17, 0, 1), (36, 0, 0), (3, 0, 1)]
                    body = struct.pack(">hi", 35 if version else 0, len(known))
                    body += b"".join(struct.pack(">hhh", *one) for one in known)
                elif api == 17:
                    body = struct.pack(">hi", 0, 1) + struct.pack(">h", 5) + b"PLAIN"
                else:
                    body = struct.pack(">h", 58) + struct.pack(">h", 6) + b"denied" + struct.pack(">i", 0)
                self.request.sendall(struct.pack(">ii", len(body) + 4, correlation) + body)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return f"127.0.0.1:{self._server.server_address[1]}"

    def __exit__(self, *told: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("direct", ("direct", "", "")),
        ("kinesis://trades", ("kinesis", "", "trades")),
        (
            "kafka://b-1.example:9096,b-2.example:9096/live.trades",
            ("kafka", "b-1.example:9096,b-2.example:9096", "live.trades"),
        ),
        ("kafka://[::1]:9092/t", ("kafka", "[::1]:9092", "t")),
    ],
)
def test_an_address_names_a_transport(url: str, parts: tuple[str, str, str]) -> None:
    assert address_of(url) == parts


@pytest.mark.parametrize(
    "url",
    [
        "",
        "kinesis:trades",
        "kinesis://",
        "kinesis://a/b",
        "kafka://broker",
        "kafka:///topic",
        "kafka://broker/a/b",
        "kafka://broker/t?x=1",
        "s3://bucket/x",
        f"kafka://me:{SECRET}@broker:9092/t",
        f"kinesis://{SECRET}@stream",
        f"kafka://broker:9092/t\n{SECRET}",
    ],
)
def test_what_is_no_address_is_refused_and_not_repeated(url: str) -> None:
    for opened in (open_sink, lambda told: open_source(told, lambda _: None)):
        with pytest.raises(UsageError) as said:
            opened(url)  # type: ignore[operator]
        assert SECRET not in str(said.value)
        assert "kafka://BROKER:PORT/TOPIC" in str(said.value)


def test_direct_has_no_sink() -> None:
    with pytest.raises(UsageError, match="direct has no broker to send to"):
        open_sink("direct")


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    monkeypatch.delitem(sys.modules, "crypto_assets.stream.kafka")
    monkeypatch.delattr("crypto_assets.stream.kafka")
    with pytest.raises(NeedsYouError, match=r"crypto-assets\[kafka\]"):
        open_sink("kafka://broker:9092/t")


# ---- on librdkafka's mock cluster ----


@pytest.fixture
def mock() -> Iterator[str]:
    """Its address; the topic is ``trades``, with four partitions."""
    owner = Producer({"bootstrap.servers": "ignored", "test.mock.num.brokers": 1, "log_level": 0})
    found = owner.list_topics(timeout=10)
    (told,) = found.brokers.values()
    yield f"{told.host}:{told.port}"
    owner.purge()
    owner.flush(5)


@MOVED
def test_a_position_that_was_trimmed_is_said_and_what_is_left_lands(
    lake: Lake, mock: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The mock knows no topics' ids.
    monkeypatch.setattr(KafkaSource, "_identity", lambda *_: "kafka/mock/trades")
    lake.advance(
        RawTrades,
        pl.DataFrame(schema=polars_schema(RawTrades)),
        expected={"kafka/mock/trades/0#0": None, "block/c0ffee/0": None},
        after={"kafka/mock/trades/0#0": 900, "block/c0ffee/0": 3},
    )
    writing = Producer({"bootstrap.servers": mock, "log_level": 0})
    for number in range(5, 8):
        writing.produce("trades", transport.encode(blocks(range(number, number + 1))[0]), partition=0)
    assert writing.flush(10) == 0

    def connect(landed: Callable[[str], Any]) -> KafkaSource:
        return KafkaSource(mock, "trades", landed, group="g", environment={})

    with Consumer(lake, connect, FEEDS, SystemClock(), most_s=0.05) as reading:
        run(reading, lambda: len(held(lake)) == 9)

    assert held(lake) == trades_of(range(5, 8))
    assert lake.landed(RawTrades, "kafka/mock/trades/0#0") == 3
    assert lake.read(RawStreamEvents).select("kind", "n").rows() == [("blocks_lost", 2)]
    assert "partition 0 no longer holds what follows its position" in caplog.text


@pytest.mark.parametrize(
    ("code", "kind", "says"),
    [
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, NeedsYouError, "refuses us"),
        (KafkaError._SSL, NeedsYouError, "refuses us"),
        (KafkaError.MSG_SIZE_TOO_LARGE, NeedsYouError, "raise the topic's max.message.bytes"),
        (KafkaError._RESOLVE, TransientError, "cannot be reached"),
        (KafkaError.NOT_ENOUGH_REPLICAS, TransientError, "the broker says NOT_ENOUGH_REPLICAS"),
    ],
)
def test_what_a_broker_says_is_one_line(code: int, kind: type[Exception], says: str) -> None:
    said = transport._explained(KafkaError(code, SECRET), "kafka://b/t", "nothing is lost")
    assert isinstance(said, kind)
    assert says in str(said)
    assert SECRET not in str(said)
