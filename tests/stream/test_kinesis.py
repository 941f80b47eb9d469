"""Kinesis as a transport, on moto's server, into a real lake. What moto does not do is answered by a client between."""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from crypto_assets.errors import NeedsYouError, TransientError
from crypto_assets.providers.feeds import FEEDS
from crypto_assets.resources.clock import FixedClock, SystemClock
from crypto_assets.resources.lake import Lake
from crypto_assets.resources.lease import FileSlot
from crypto_assets.stream import kinesis as transport
from crypto_assets.stream.blocks import Block, Event
from crypto_assets.stream.collector import _Filling
from crypto_assets.stream.consumer import Consumer
from crypto_assets.stream.group import Group
from crypto_assets.stream.kinesis import END, KinesisSink, KinesisSource
from crypto_assets.stream.open import open_sink, open_source
from crypto_assets.tables.stream import RawStreamEvents
from tests.stream.brokers import (
    AWAY,
    FOREIGN,
    MISSING,
    MOVED,
    REFUSED,
    Kinesis,
    block,
    blocks,
    frame,
    free_port,
    held,
    kinesis,
    overtake,
    run,
    trades_of,
)

NOW = datetime(2024, 1, 1, tzinfo=UTC)


@pytest.fixture
def stream(kinesis_server: dict[str, str], request: pytest.FixtureRequest) -> Iterator[Kinesis]:
    """A stream of one shard, named like the test."""
    with kinesis(kinesis_server, re.sub(r"\W+", "-", request.node.name)[:120]) as made:
        yield made


class Between:
    """A client that is the real one but for what is put into its way, call by call."""

    def __init__(self, client: Any, **ways: list[Callable[..., Any] | Exception | None]) -> None:
        self._client, self._ways = client, ways
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._client, name)
        if name == "meta":
            return real

        def call(**arguments: Any) -> Any:
            self.calls.append((name, arguments))
            way = self._ways[name].pop(0) if self._ways.get(name) else None
            if isinstance(way, Exception):
                raise way
            return real(**arguments) if way is None else way(real, arguments)

        return call


def refusal(code: str, message: str = "no") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, "Any")


def source(stream: Kinesis, landed: Callable[[str], Any], **more: Any) -> KinesisSource:
    more = {"client": stream.client, "read_every_s": 0.01, "list_every_s": 0.2, **more}
    return KinesisSource(stream.stream, landed, **more)


def consumer(lake: Lake, stream: Kinesis, **more: Any) -> Consumer:
    return Consumer(lake, lambda landed: source(stream, landed, **more), FEEDS, SystemClock(), most_s=0.05)


def sink(stream: Kinesis, client: Any = None) -> KinesisSink:
    made = KinesisSink(stream.stream, client=client or stream.client, clock=FixedClock(NOW), rng=random.Random(1))  # noqa: S311
    assert made.open({}) == {}
    assert made.place.startswith("arn:aws:kinesis:us-east-1:")
    assert made.place.endswith(f":stream/{stream.stream}")
    return made


def test_blocks_arrive_once_and_the_next_consumer_goes_on_behind_them(lake: Lake, stream: Kinesis) -> None:
    out = sink(stream)
    out.put(blocks(range(4)))
    with consumer(lake, stream) as first:
        run(first, lambda: len(held(lake)) == 12)
    out.put(blocks(range(4, 6)))
    with consumer(lake, stream) as second:
        run(second, lambda: len(held(lake)) == 18)

    assert held(lake) == trades_of(range(6))


def test_blocks_of_a_lane_that_wait_travel_in_one_record_and_lanes_side_by_side(stream: Kinesis) -> None:
    client = Between(stream.client)
    sink(stream, client).put(blocks(range(10), lanes=4))

    (request,) = [told["Records"] for name, told in client.calls if name == "put_records"]
    found = {r["PartitionKey"]: [b.number for b in transport._blocks(r["Data"])] for r in request}
    assert found == {"c0ffee/0": [0, 4, 8], "c0ffee/1": [1, 5, 9], "c0ffee/2": [2, 6], "c0ffee/3": [3, 7]}


def test_a_record_holds_no_more_than_a_stream_takes(stream: Kinesis) -> None:
    client = Between(stream.client)
    sink(stream, client).put([block(n, range(n, n + 1), padding=700_000) for n in range(12)])

    requests = [told["Records"] for name, told in client.calls if name == "put_records"]
    assert all(len(r["Data"]) + len(r["PartitionKey"]) <= 2**20 for request in requests for r in request)
    assert [b.number for request in requests for r in request for b in transport._blocks(r["Data"])] == list(range(12))


def test_a_request_is_at_most_5_mib_of_many_lanes(stream: Kinesis) -> None:
    client = Between(stream.client)
    sink(stream, client).put([block(n, range(n, n + 1), lanes=12, padding=1_600_000) for n in range(12)])

    requests = [told["Records"] for name, told in client.calls if name == "put_records"]
    assert [len(request) for request in requests] == [5, 5, 2]
    assert all(sum(len(r["Data"]) for r in request) <= 5 * 2**20 for request in requests)


def test_a_block_that_no_record_can_hold_is_said_and_nothing_of_it_is_put(stream: Kinesis) -> None:
    with pytest.raises(NeedsYouError, match=r"a block has .* bytes, more than a record may have"):
        sink(stream).put([block(0, range(1), padding=4_000_000)])
    assert stream.client.get_records(ShardIterator=_from_start(stream))["Records"] == []


@AWAY
def test_what_a_shard_does_not_take_is_put_again_before_what_follows_in_its_lane(lake: Lake, stream: Kinesis) -> None:
    def half(real: Callable[..., Any], told: dict[str, Any]) -> Any:
        real(StreamName=told["StreamName"], Records=told["Records"][1:])
        taken = [{"SequenceNumber": "1", "ShardId": "shardId-000000000000"}] * (len(told["Records"]) - 1)
        return {"FailedRecordCount": 1, "Records": [{"ErrorCode": "ProvisionedThroughputExceededException"}, *taken]}

    client = Between(stream.client, put_records=[half, refusal("ProvisionedThroughputExceededException"), None])
    out = sink(stream, client)
    out.put(blocks(range(6), lanes=2))
    out.put(blocks(range(4, 8), lanes=2))

    with consumer(lake, stream) as reading:
        run(reading, lambda: len(held(lake)) == 24)
    assert held(lake) == trades_of(range(8))
    assert not lake.read(RawStreamEvents)["kind"].to_list(), "no block was missed"


@AWAY
def test_a_stream_that_keeps_throttling_is_said_and_the_blocks_may_be_put_again(lake: Lake, stream: Kinesis) -> None:
    client = Between(stream.client, put_records=[refusal("ProvisionedThroughputExceededException")] * 8)
    out = sink(stream, client)
    with pytest.raises(TransientError, match="the stream throttles us; the journal keeps"):
        out.put(blocks(range(2)))
    out.put(blocks(range(2)))

    with consumer(lake, stream) as reading:
        run(reading, lambda: len(held(lake)) == 6)
    assert held(lake) == trades_of(range(2))


@AWAY
def test_an_answer_that_was_lost_leaves_each_trade_once(lake: Lake, stream: Kinesis) -> None:
    def unheard(real: Callable[..., Any], told: dict[str, Any]) -> Any:
        real(**told)
        raise refusal("InternalFailure")

    sink(stream, Between(stream.client, put_records=[unheard, unheard])).put(blocks(range(3)))
    with consumer(lake, stream) as reading:
        run(reading, lambda: len(held(lake)) >= 9)
        reading.step(0.2)

    assert held(lake) == trades_of(range(3))


@MOVED
@pytest.mark.parametrize("lanes", [1, 5])
def test_shards_that_split_and_merge_lose_and_double_nothing(lake: Lake, stream: Kinesis, lanes: int) -> None:
    out = sink(stream)
    numbers = count()

    def put(n: int) -> None:
        for number in islice(numbers, n):
            out.put(blocks(range(number, number + 1), lanes))

    put(7)
    with consumer(lake, stream) as reading:
        run(reading, lambda: len(held(lake)) == 21)
        for reshape in (stream.split, stream.split, stream.merge, stream.split):
            put(3)
            reshape()
            put(4)
            reading.step(0.05)
        run(reading, lambda: len(held(lake)) == 35 * 3)
    put(5)
    with consumer(lake, stream) as another:
        run(another, lambda: len(held(lake)) == 40 * 3)

    assert held(lake) == trades_of(range(40))
    assert "blocks_lost" not in lake.read(RawStreamEvents)["kind"].to_list()


@MOVED
def test_a_child_waits_until_another_consumer_has_its_parents_end_in_the_lake(stream: Kinesis) -> None:
    sink(stream).put(blocks(range(3)))
    stream.split()
    sink(stream).put(blocks(range(3, 6)))
    parent, *children = (s["ShardId"] for s in stream.shards())
    known: dict[str, Any] = {}

    class OfChildren:
        beat_every_s = 0.0

        def share(self, shards: list[str]) -> frozenset[str]:
            return frozenset(shards) & set(children)

        def leave(self) -> None: ...

    reading = source(stream, lambda channel: known.get(channel.rpartition("/")[2]), group=OfChildren())
    with pytest.raises(transport.ChannelsChanged):
        reading.poll(0)
    assert reading.poll(0.1) == []

    known[parent] = END
    found = [told.block.number for told in reading.poll(1) if told.block]
    assert found == [3, 4, 5]


def test_two_consumers_share_the_shards_and_one_that_leaves_leaves_its_own(
    lake: Lake, stream: Kinesis, tmp_path: Path
) -> None:
    stream.split()
    stream.split()
    slot = FileSlot(tmp_path / "group.json")

    def member(name: str) -> Group:
        return Group(slot, name, SystemClock(), silent_after=timedelta(seconds=5), beat_every_s=0.1)

    out = sink(stream)
    with consumer(lake, stream, group=member("b")) as second:
        with consumer(lake, stream, group=member("a")) as first:
            mine, theirs = first._source._reading, second._source._reading  # type: ignore[attr-defined]
            n = 0
            while n < 20 or sorted((len(mine), len(theirs))) != [1, 2] or mine.keys() & theirs.keys():
                out.put(blocks(range(n, n + 5), lanes=5))
                n += 5
                first.step(0.1)
                second.step(0.1)
            first.flush()
        run(second, lambda: len(held(lake)) == n * 3)

    assert held(lake) == trades_of(range(n))
    assert "blocks_lost" not in lake.read(RawStreamEvents)["kind"].to_list()


def test_of_two_that_read_the_same_shards_the_later_goes_on_from_where_the_other_landed(
    lake: Lake, stream: Kinesis, caplog: pytest.LogCaptureFixture
) -> None:
    out = sink(stream)
    with consumer(Lake(lake.root), stream) as late:
        overtake(late, consumer(lake, stream), out, lake, caplog)


@MOVED
def test_an_iterator_that_expired_is_made_anew_from_the_position(lake: Lake, stream: Kinesis) -> None:
    out = sink(stream)
    out.put(blocks(range(2)))
    client = Between(stream.client, get_records=[None, refusal("ExpiredIteratorException"), None])
    with consumer(lake, stream, client=client) as reading:
        run(reading, lambda: len(held(lake)) == 6)
        out.put(blocks(range(2, 4)))
        run(reading, lambda: len(held(lake)) == 12)

    asked = [told["ShardIteratorType"] for name, told in client.calls if name == "get_shard_iterator"]
    assert asked == ["TRIM_HORIZON", "AFTER_SEQUENCE_NUMBER"]
    assert held(lake) == trades_of(range(4))


@MOVED
def test_a_position_that_was_trimmed_is_said_and_what_never_comes_is_noted(
    lake: Lake, stream: Kinesis, caplog: pytest.LogCaptureFixture
) -> None:
    out = sink(stream)
    out.put(blocks(range(2)))
    with consumer(lake, stream) as reading:
        run(reading, lambda: len(held(lake)) == 6)
    # Blocks 2 to 4 are gone with the retention; the stream's oldest record is of block 5.
    out.put(blocks(range(5, 7)))
    client = Between(stream.client, get_shard_iterator=[refusal("InvalidArgumentException"), None])
    with consumer(lake, stream, client=client) as reading:
        run(reading, lambda: len(held(lake)) == 12)

    assert held(lake) == [*trades_of(range(2)), *trades_of(range(5, 7))]
    assert lake.read(RawStreamEvents).select("kind", "n").rows() == [("blocks_lost", 3)]
    assert "no longer holds what follows its position" in caplog.text


@FOREIGN
def test_records_of_others_are_left_out_in_one_line(
    lake: Lake, stream: Kinesis, caplog: pytest.LogCaptureFixture
) -> None:
    out = sink(stream)
    out.put(blocks(range(1)))
    for foreign in (b"hello", b"", b"CAB1", b"CAB1\x91\xc4\x03abc", b"CAB1" + b"\x91" * 50_000):
        stream.put(foreign)
    out.put(blocks(range(1, 2)))
    with caplog.at_level(logging.WARNING), consumer(lake, stream) as reading:
        run(reading, lambda: len(held(lake)) == 6)

    assert held(lake) == trades_of(range(2))
    lines = [record.getMessage() for record in caplog.records if "none of a collector's" in record.getMessage()]
    assert len(lines) == 1
    assert "(with 4 before it)" in lines[0]


@FOREIGN
def test_a_bomb_is_not_unpacked() -> None:
    import zlib

    import msgspec

    bomb = b"CAB1" + msgspec.msgpack.encode([zlib.compress(bytes(200 * 2**20), 1)])
    assert len(bomb) < 2**20
    with pytest.raises(transport.DataError):
        transport._blocks(bomb)


@AWAY
def test_a_shard_that_throttles_its_readers_is_read_more_slowly_and_the_others_go_on(
    stream: Kinesis, caplog: pytest.LogCaptureFixture
) -> None:
    stream.split()
    sink(stream).put(blocks(range(20), lanes=20))
    client = Between(stream.client, get_records=[refusal("ProvisionedThroughputExceededException"), None, None, None])
    reading = source(stream, lambda _: None, client=client, clock=FixedClock(NOW))

    found: list[int] = []
    while len(found) < 20:
        found += [told.block.number for told in reading.poll(0.5) if told.block]
    assert sorted(found) == list(range(20))
    assert caplog.text.count("throttles its readers") == 1


@REFUSED
@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (refusal("ExpiredTokenException"), NeedsYouError, "the credentials have expired"),
        (refusal("UnrecognizedClientException"), NeedsYouError, "does not know the access key"),
        (refusal("AccessDeniedException", "not authorized to perform: kinesis:X"), NeedsYouError, "may not kinesis:X"),
        (refusal("KMSAccessDeniedException"), NeedsYouError, "the stream's key cannot be used"),
        (refusal("InternalFailure"), TransientError, "failed with InternalFailure"),
    ],
)
def test_what_kinesis_refuses_is_one_line_for_the_sender_and_for_the_reader(
    stream: Kinesis, error: ClientError, kind: type[Exception], says: str
) -> None:
    out = sink(stream, Between(stream.client, put_records=[error] * 8))
    with pytest.raises(kind, match=says):
        out.put(blocks(range(1)))
    client = Between(stream.client, get_records=[error])
    reading = source(stream, lambda _: None, client=client, clock=FixedClock(NOW))
    sink(stream).put(blocks(range(1)))
    with pytest.raises(kind, match=says):
        reading.poll(0.1)
    assert [told.block.number for told in reading.poll(5) if told.block] == [0]


@MISSING
def test_a_stream_that_is_not_there_needs_a_person(stream: Kinesis) -> None:
    with pytest.raises(NeedsYouError, match="kinesis://nowhere: there is no such stream"):
        KinesisSink("nowhere", client=stream.client).open({})
    with pytest.raises(NeedsYouError, match="kinesis://nowhere: there is no such stream"):
        KinesisSource("nowhere", lambda _: None, client=stream.client).poll(0)


@AWAY
def test_an_endpoint_that_does_not_answer_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(TransientError, match="kinesis://s: Kinesis in us-east-1 cannot be reached"):
        open_sink("kinesis://s").open({})
    with pytest.raises(TransientError, match="kinesis://s: Kinesis in us-east-1 cannot be reached"):
        open_source("kinesis://s", lambda _: None).poll(0)


@MISSING
def test_a_stream_that_was_made_anew_is_read_from_its_beginning(lake: Lake, stream: Kinesis) -> None:
    sink(stream).put(blocks(range(3)))
    with consumer(lake, stream) as reading:
        run(reading, lambda: len(held(lake)) == 9)
        stream.client.delete_stream(StreamName=stream.stream)
        # Its channels carry the second in which it was made.
        _wait_for_the_next_second()
        stream.client.create_stream(StreamName=stream.stream, ShardCount=1)
        sink(stream).put(blocks(range(2, 5)))
        run(reading, lambda: len(held(lake)) == 15)

    assert held(lake) == trades_of(range(5))


@pytest.mark.parametrize("number", [0, 1, 10**18, 49546986683135544286507457936321625675700192471156785154])
def test_a_sequence_number_fits_four_numbers_of_a_delta_transaction(number: int) -> None:
    parts = transport._parts(number)
    assert transport._number(parts) == number
    assert len(parts) == 4
    assert all(0 <= part < 2**63 for part in parts)
    assert parts < END


def _from_start(stream: Kinesis) -> str:
    answer = stream.client.get_shard_iterator(
        StreamName=stream.stream, ShardId="shardId-000000000000", ShardIteratorType="TRIM_HORIZON"
    )
    return str(answer["ShardIterator"])


def _wait_for_the_next_second() -> None:
    import time

    time.sleep(1.05)


def test_what_waited_for_a_disk_becomes_blocks_that_a_record_can_hold(stream: Kinesis) -> None:
    """The collector's 16 MiB of messages, all on its disk at once, and compressible as little as messages are."""
    rng = random.Random(1)  # noqa: S311
    filling = _Filling(events=[Event("full", 1, 2)])
    for i in range(60_000):
        filling.frames.append(frame(i)[:-2] + f', "x": "{rng.getrandbits(400):x}"}}}}'.encode())
        filling.received_us.append(i)
    filling.n_bytes = sum(map(len, filling.frames))
    parts = filling.parts()

    assert [f for part in parts for f in part.frames] == filling.frames
    assert [us for part in parts for us in part.received_us] == filling.received_us
    assert [len(part.events) for part in parts] == [1] + [0] * (len(parts) - 1)
    assert all(part.n_bytes == sum(map(len, part.frames)) <= 2**20 for part in parts)
    assert sum(part.n_bytes for part in parts) > 12 * 2**20
    sink(stream).put(
        [Block("c0ffee", n, 1, "binance_stream", {}, p.received_us, p.frames, p.events) for n, p in enumerate(parts)]
    )


def test_a_moment_without_messages_is_one_part_with_its_events() -> None:
    (part,) = _Filling(events=[Event("lost", 1, 1)]).parts()
    assert (part.frames, part.events) == ([], [Event("lost", 1, 1)])
