"""Kinesis as a transport: a lane is a partition key, a channel is a shard, a position is a sequence number.

Kinesis keeps the order of records that were put one after the other, and no order within one request that half fails.
So a request carries at most one record of a lane: as many of its next blocks as fit, each compressed. Only when that
record is safe the lane's next one is put.

A shard that was split or merged ends, and its lanes go on in other shards. Those are begun when the end of all their
parents is in the lake, or in our own hand. The end is a position too: the last there can be.

A stream's name, and when it was made, are in the channel's: a stream that was made anew begins anew.
"""

from __future__ import annotations

import logging
import os
import random
import zlib
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import msgspec
from botocore.exceptions import BotoCoreError, ClientError

from crypto_assets.errors import CryptoAssetsError, DataError, NeedsYouError, TransientError
from crypto_assets.resources import aws
from crypto_assets.resources.clock import Clock, SystemClock
from crypto_assets.stream.blocks import Block, decode, encode
from crypto_assets.stream.group import Group
from crypto_assets.stream.transport import ChannelsChanged, Delivery, IsOver, Landed, Position, never

log = logging.getLogger(__name__)

# Of PutRecords; a record's size is that of its data and its key. The request's is 5 MiB, with its JSON left aside.
_MOST_RECORDS = 500
_MOST_RECORD_BYTES = 2**20
_MOST_REQUEST_BYTES = 5 * 2**20
# A key is a collector's id and its lane; and what msgpack puts around each block.
_KEY_BYTES, _AROUND_BYTES = 64, 8
# A record says what it is; those of other producers on the stream do not.
_MAGIC = b"CAB1"
# What a record of a MiB may become: repeated text shrinks a thousandfold, and messages hold at most a few MiB a block.
_MOST_UNPACKED_BYTES = 64 * 2**20
# How long an answer is waited for, and how often it is asked for. Who puts tries again by itself.
_READ_S, _READ_ATTEMPTS = 10.0, 2
_PUT_S, _PUT_ATTEMPTS = 5.0, 1
# Full jitter below 0.1, 0.2, 0.4 ... s: what a shard's second of throughput needs to be free again.
_PUT_TRIES, _FIRST_PUT_WAIT_S, _LONGEST_PUT_WAIT_S = 8, 0.1, 5.0
# A shard answers five reads a second, shared by all who read it; two lakes may.
_READ_EVERY_S = 0.4
_READ_BYTES_PER_S = 2e6
_THROTTLED_WAIT_S = (1.0, 3.0)
# Records of one poll, beyond which it ends; a read answers with 10 MB at most.
_POLL_BYTES = 8 * 2**20
_READ_RECORDS = 1000
_LIST_EVERY_S = 30.0
_DIGITS = 18
_PARTS = 4
END: Position = (10**_DIGITS - 1,) * _PARTS
"""The position of a shard that has ended and was read to its end."""

# What boto3 raises: its own, the network's under it, and at an endpoint that is no address.
_ERRORS = (BotoCoreError, ClientError, OSError, ValueError)
_SAFE_PUT = "the journal keeps what was not acknowledged"
_SAFE_READ = "what was not read stays on the stream, as long as its retention says"


class KinesisSink:
    """Puts blocks on a stream.

    Args:
        stream: its name.
        client: boto3's; made as the AWS SDKs find their way without.
        clock: waits between tries.
        rng: jitter.
    """

    def __init__(
        self, stream: str, *, client: Any = None, clock: Clock | None = None, rng: random.Random | None = None
    ) -> None:
        self.name = f"kinesis://{stream}"
        self.place = ""
        self._stream = stream
        self._given = client
        self._client: Any = client
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not secrets
        # The newest block of each lane that is safe: what is put again because of another lane's failure.
        self._safe: dict[str, int] = {}

    def open(self, memory: Mapping[str, int]) -> dict[str, int]:
        """See ``transport.Sink``."""
        if self._client is None:
            self._client = _client(self._stream, _SAFE_PUT, _PUT_S, _PUT_ATTEMPTS)
        try:
            told = self._client.describe_stream_summary(StreamName=self._stream)
        except _ERRORS as error:
            raise _explained(error, self._client, self._stream, _SAFE_PUT) from error
        self.place = str(told["StreamDescriptionSummary"]["StreamARN"])
        return {}

    def put(self, blocks: Sequence[Block], is_over: IsOver = never) -> None:
        """See ``transport.Sink``."""
        lanes: dict[str, deque[tuple[int, bytes]]] = {}
        for block in blocks:
            if block.number > self._safe.get(block.lane, -1):
                lanes.setdefault(block.lane, deque()).append((block.number, self._packed(block)))
        n_failures = 0
        while lanes:
            request, sizes = _request(lanes)
            taken, problem = self._request(request)
            for entry, is_taken in zip(request, taken, strict=True):
                lane = entry["PartitionKey"]
                if is_taken:
                    for _ in range(sizes[lane]):
                        self._safe[lane] = lanes[lane].popleft()[0]
                    if not lanes[lane]:
                        del lanes[lane]
            if problem is None:
                n_failures = 0
                continue
            n_failures += 1
            if n_failures >= _PUT_TRIES or isinstance(problem, NeedsYouError) or is_over():
                raise problem
            longest = min(_LONGEST_PUT_WAIT_S, _FIRST_PUT_WAIT_S * 2**n_failures)
            self._clock.sleep(self._rng.uniform(0, longest))
            if is_over():
                raise problem

    def close(self) -> None:
        """See ``transport.Sink``."""
        if self._client is not None and self._given is None:
            self._client.close()
            self._client = None

    def _packed(self, block: Block) -> bytes:
        # The fastest level: what it leaves out, of messages that repeat themselves, is a tenth.
        told = zlib.compress(encode(block), 1)
        size = len(_record([told])) + _KEY_BYTES
        if size > _MOST_RECORD_BYTES:
            raise NeedsYouError(
                f"a block has {size:,} bytes, more than a record may have",
                where=self.name,
                safe=_SAFE_PUT,
                hint="let the collector write smaller blocks",
            )
        return told

    def _request(self, request: list[dict[str, Any]]) -> tuple[list[bool], CryptoAssetsError | None]:
        """Put records: which of them are safe, and what the others met with."""
        try:
            answer = self._client.put_records(StreamName=self._stream, Records=request)
        except _ERRORS as error:
            return [False] * len(request), _explained(error, self._client, self._stream, _SAFE_PUT)
        codes = [record.get("ErrorCode") for record in answer["Records"]]
        failed = [code for code in codes if code]
        if not failed:
            return [True] * len(request), None
        problem = TransientError(
            f"{len(failed)} of {len(request)} records were not taken ({failed[0]})",
            where=self.name,
            safe=_SAFE_PUT,
            hint="add shards where it throttles for long; it is tried again",
        )
        return [not code for code in codes], problem


def _request(lanes: Mapping[str, deque[tuple[int, bytes]]]) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """One record a lane: as many of its next blocks as fit; and how many these are."""
    request: list[dict[str, Any]] = []
    counts: dict[str, int] = {}
    left = _MOST_REQUEST_BYTES
    for lane, waiting in lanes.items():
        size, n_blocks = _KEY_BYTES + len(_record([])), 0
        for _, told in waiting:
            if n_blocks and size + len(told) + _AROUND_BYTES > _MOST_RECORD_BYTES:
                break
            size += len(told) + _AROUND_BYTES
            n_blocks += 1
        if request and (size > left or len(request) == _MOST_RECORDS):
            break
        left -= size
        counts[lane] = n_blocks
        taken = [told for _, told in islice(waiting, n_blocks)]
        request.append({"Data": _record(taken), "PartitionKey": lane})
    return request, counts


def _record(blocks: Sequence[bytes]) -> bytes:
    return _MAGIC + msgspec.msgpack.encode(list(blocks))


def _blocks(record: bytes) -> list[Block]:
    """The blocks that a record holds.

    Raises:
        DataError: it is none of ours, or damaged.
    """
    try:
        if record[: len(_MAGIC)] == _MAGIC:
            packed = msgspec.msgpack.decode(memoryview(record)[len(_MAGIC) :], type=list[bytes])
            return [decode(_inflated(told)) for told in packed]
    except (msgspec.DecodeError, zlib.error):
        pass
    raise DataError(
        f"a record of {len(record)} bytes is none of a collector's",
        where="stream",
        safe="it was left out, the others go on",
        hint="keep other producers off this stream",
    )


def _inflated(told: bytes) -> bytes:
    unpacking = zlib.decompressobj()
    found = unpacking.decompress(told, _MOST_UNPACKED_BYTES)
    if not unpacking.eof:
        raise zlib.error("cut short, or larger than any block")
    return found


@dataclass
class _Shard:
    """A shard that is being read."""

    channel: str
    position: Position | None
    iterator: str | None = None
    due: float = 0.0
    is_throttled: bool = False


@dataclass
class _Known:
    """What the stream says of its shards."""

    at: float = float("-inf")
    parents: dict[str, tuple[str, ...]] = field(default_factory=dict)
    closed: frozenset[str] = frozenset()


class KinesisSource:
    """Reads blocks from a stream's shards, parents before children.

    Args:
        stream: its name.
        landed: up to where the lake has each shard.
        group: shares the shards with other consumers; without it all are read.
        client: boto3's; made as the AWS SDKs find their way without.
        clock: waits, and decides when a shard is read again.
        rng: jitter.
        list_every_s, read_every_s: how often shards are listed, and each is read.
    """

    n_parts = _PARTS

    def __init__(
        self,
        stream: str,
        landed: Landed,
        *,
        group: Group | None = None,
        client: Any = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        list_every_s: float = _LIST_EVERY_S,
        read_every_s: float = _READ_EVERY_S,
    ) -> None:
        self._stream = stream
        self._landed = landed
        self._group = group
        self._given = client
        self._client: Any = client
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not secrets
        self._list_every_s, self._read_every_s = list_every_s, read_every_s
        self._prefix = ""
        self._known = _Known()
        self._ours: frozenset[str] = frozenset()
        self._beat = float("-inf")
        self._reading: dict[str, _Shard] = {}
        # Read to their end: those whose end is in our hand or in the lake, and those of them where it is in the lake.
        self._ended: set[str] = set()
        self._over: set[str] = set()
        self._is_stale = True
        self._is_due = True
        self._problem: CryptoAssetsError | None = None

    def poll(self, seconds: float) -> list[Delivery]:
        """See ``transport.Source``."""
        deadline = self._clock.monotonic() + seconds
        self._complain()
        self._look()
        if self._is_stale or self._is_due:
            self._begin()
        while True:
            found = self._read_all()
            now = self._clock.monotonic()
            if found or now >= deadline:
                return found
            self._complain()
            due = min((shard.due for shard in self._reading.values()), default=deadline)
            self._clock.sleep(max(0.01, min(due, deadline) - now))

    def _complain(self) -> None:
        problem, self._problem = self._problem, None
        if problem is not None:
            raise problem

    def rewind(self) -> None:
        """See ``transport.Source``."""
        self._is_stale = True

    def passed(self, positions: dict[str, Position]) -> None:
        """See ``transport.Source``. What was read expires on the stream by itself."""
        for channel, position in positions.items():
            if position == END:
                self._over.add(channel.rpartition("/")[2])

    def close(self) -> None:
        """See ``transport.Source``."""
        self._reading.clear()
        if self._group is not None:
            try:
                self._group.leave()
            except CryptoAssetsError as error:
                log.info("%s", error)
        if self._client is not None and self._given is None:
            self._client.close()
            self._client = None

    # ---- which shards ----

    def _look(self) -> None:
        """List the shards, and take our share of them, where it is time for it."""
        now = self._clock.monotonic()
        is_listed = now - self._known.at < self._list_every_s
        beat_every_s = self._list_every_s if self._group is None else self._group.beat_every_s
        if is_listed and now - self._beat < beat_every_s:
            return
        self._is_due = True
        self._beat = now
        try:
            if not is_listed:
                self._list(now)
            ours = self._share()
        except CryptoAssetsError as error:
            if not self._reading:
                self._known.at = float("-inf")
                raise
            # What is known is read on; the next beat asks again.
            self._known.at = now
            self._problem = error
            return
        gone, new = self._ours - ours - self._ended, ours - self._ours
        self._ours = ours
        # Without a group a new shard is a child of ours, or an orphan: nobody else has read it meanwhile.
        if self._group is not None and (gone or new):
            self._is_stale = True
            raise ChannelsChanged

    def _share(self) -> frozenset[str]:
        if self._group is None:
            return frozenset(self._known.parents)
        for shard in self._known.closed - self._reading.keys() - self._ended:
            # Every consumer sees alike which shards are over, and none takes one to find that out.
            self._is_over(shard)
        return self._group.share([shard for shard in self._known.parents if shard not in self._over])

    def _list(self, now: float) -> None:
        if self._client is None:
            self._client = _client(self._stream, _SAFE_READ, _READ_S, _READ_ATTEMPTS)
        try:
            summary = self._client.describe_stream_summary(StreamName=self._stream)["StreamDescriptionSummary"]
            shards: list[dict[str, Any]] = []
            more: dict[str, str] = {"StreamName": self._stream}
            while more:
                answer = self._client.list_shards(**more)
                shards += answer["Shards"]
                more = {"NextToken": answer["NextToken"]} if answer.get("NextToken") else {}
        except _ERRORS as error:
            raise _explained(error, self._client, self._stream, _SAFE_READ) from error
        prefix = f"kinesis/{self._stream}@{summary['StreamCreationTimestamp'].timestamp():.0f}"
        if self._prefix not in ("", prefix):
            log.warning("kinesis://%s was made anew: it is read from its beginning", self._stream)
            self._is_stale = True
            self._over.clear()
        self._prefix = prefix
        self._known = _Known(
            now,
            {
                shard["ShardId"]: tuple(
                    shard[name] for name in ("ParentShardId", "AdjacentParentShardId") if shard.get(name)
                )
                for shard in shards
            },
            frozenset(shard["ShardId"] for shard in shards if shard["SequenceNumberRange"].get("EndingSequenceNumber")),
        )

    def _begin(self) -> None:
        """Begin those of our shards that are not read yet and may be."""
        if self._is_stale:
            self._reading.clear()
            self._ended.clear()
            self._is_stale = False
        self._is_due = False
        try:
            for shard in sorted(self._ours - self._reading.keys() - self._ended):
                channel = f"{self._prefix}/{shard}"
                position = self._landed(channel)
                if position == END:
                    self._ended.add(shard)
                    self._over.add(shard)
                elif all(self._is_over(parent) for parent in self._known.parents.get(shard, ())):
                    self._reading[shard] = _Shard(channel, position)
        except BaseException:
            # Half of them were begun by what the lake said then, the others would be by what it says later.
            self._is_stale = True
            raise

    def _is_over(self, shard: str) -> bool:
        """Whether nothing of it can still come: it is read to its end, or has left the stream."""
        if shard in self._ended or shard in self._over or shard not in self._known.parents:
            return True
        if shard in self._reading or self._landed(f"{self._prefix}/{shard}") != END:
            return False
        self._over.add(shard)
        return True

    # ---- records ----

    def _read_all(self) -> list[Delivery]:
        """What those of the shards have that are due; an error of one is raised when the others were read."""
        found: list[Delivery] = []
        size = 0
        # Those that have waited longest come first, where the others fill the poll.
        for shard in sorted(self._reading, key=lambda shard: self._reading[shard].due):
            reading = self._reading[shard]
            if size >= _POLL_BYTES:
                break
            if reading.due > self._clock.monotonic():
                continue
            try:
                records, is_over = self._read(shard, reading)
            except CryptoAssetsError as error:
                reading.due = self._clock.monotonic() + self._rng.uniform(*_THROTTLED_WAIT_S)
                self._problem = error
                continue
            size += sum(len(record["Data"]) for record in records)
            found += self._delivered(reading, records)
            if is_over:
                found.append(Delivery(reading.channel, END, None))
                del self._reading[shard]
                self._ended.add(shard)
                # Its children are on the stream by now.
                self._known.at = float("-inf")
        return found

    def _read(self, shard: str, reading: _Shard) -> tuple[list[dict[str, Any]], bool]:
        """A shard's next records, and whether it has ended.

        Raises:
            TransientError, NeedsYouError: as ``transport.Source``.
        """
        reading.due = self._clock.monotonic() + self._read_every_s
        try:
            if reading.iterator is None:
                reading.iterator = self._iterator(shard, reading)
            answer = self._client.get_records(ShardIterator=reading.iterator, Limit=_READ_RECORDS)
        except _ERRORS as error:
            code = aws.code_of(error)
            if code == "ExpiredIteratorException":
                # It is made anew at the next read, from the position: five minutes without one are a long commit.
                reading.iterator = None
                reading.due = 0.0
                return [], False
            if code in {"ProvisionedThroughputExceededException", "LimitExceededException"}:
                reading.due = self._clock.monotonic() + self._rng.uniform(*_THROTTLED_WAIT_S)
                if not reading.is_throttled:
                    log.warning("kinesis://%s: %s throttles its readers; it is read more slowly", self._stream, shard)
                reading.is_throttled = True
                return [], False
            reading.iterator = None
            raise _explained(error, self._client, self._stream, _SAFE_READ) from error
        records = answer["Records"]
        reading.is_throttled = False
        reading.iterator = answer.get("NextShardIterator")
        if records:
            reading.position = _parts(int(records[-1]["SequenceNumber"]))
            if answer.get("MillisBehindLatest"):
                # Whoever is behind asks again as soon as the shard's throughput allows.
                size = sum(len(record["Data"]) for record in records)
                wait = max(self._read_every_s / 2, size / _READ_BYTES_PER_S)
                reading.due = self._clock.monotonic() + wait
        return records, not reading.iterator

    def _iterator(self, shard: str, reading: _Shard) -> str:
        place = {"StreamName": self._stream, "ShardId": shard}
        if reading.position is not None:
            after = str(_number(reading.position))
            try:
                answer = self._client.get_shard_iterator(
                    **place, ShardIteratorType="AFTER_SEQUENCE_NUMBER", StartingSequenceNumber=after
                )
                return str(answer["ShardIterator"])
            except _ERRORS as error:
                if aws.code_of(error) != "InvalidArgumentException":
                    raise
            log.warning(
                "kinesis://%s: %s no longer holds what follows its position; it is read from the oldest record that is "
                "left, and what never comes is noted as blocks_lost",
                self._stream,
                shard,
            )
        return str(self._client.get_shard_iterator(**place, ShardIteratorType="TRIM_HORIZON")["ShardIterator"])

    def _delivered(self, reading: _Shard, records: Iterable[Mapping[str, Any]]) -> list[Delivery]:
        found: list[Delivery] = []
        n_foreign = 0
        for record in records:
            position = _parts(int(record["SequenceNumber"]))
            try:
                found += [Delivery(reading.channel, position, block) for block in _blocks(record["Data"])]
            except DataError as error:
                n_foreign += 1
                problem = f"{error}{f' (with {n_foreign - 1} before it)' if n_foreign > 1 else ''}"
                # One line for all of a poll.
                found = [told for told in found if not told.problem]
                found.append(Delivery(reading.channel, position, None, problem))
        return found


def _parts(number: int) -> Position:
    """A sequence number, of up to 56 digits, as numbers that a Delta application transaction can hold."""
    parts = []
    for _ in range(_PARTS):
        number, part = divmod(number, 10**_DIGITS)
        parts.append(part)
    return tuple(reversed(parts))


def _number(position: Position) -> int:
    number = 0
    for part in position:
        number = number * 10**_DIGITS + part
    return number


def _client(stream: str, safe: str, answer_s: float, n_attempts: int) -> Any:
    import boto3

    try:
        # A session of its own: the forwarder is a thread, and the default session is not made for them. boto3 reads
        # AWS_DEFAULT_REGION only; the lake is found by AWS_REGION.
        return boto3.session.Session().client(
            "kinesis", region_name=os.environ.get("AWS_REGION") or None, config=_config(answer_s, n_attempts)
        )
    except _ERRORS as error:
        raise _explained(error, None, stream, safe) from error


def _config(answer_s: float, n_attempts: int) -> Any:
    from botocore.config import Config

    retries = {"mode": "standard", "total_max_attempts": n_attempts}
    return Config(connect_timeout=5, read_timeout=answer_s, retries=retries)


def _explained(error: BaseException, client: Any, stream: str, safe: str) -> CryptoAssetsError:
    where = f"kinesis://{stream}"
    code = aws.code_of(error)
    if code == "ResourceNotFoundException":
        hint = "create the stream, or correct its name, AWS_REGION or the account"
        return NeedsYouError("there is no such stream", where=where, safe=safe, hint=hint)
    if code.startswith("KMS"):
        hint = "let this role use the stream's key"
        return NeedsYouError(f"the stream's key cannot be used ({code})", where=where, safe=safe, hint=hint)
    if code == "ProvisionedThroughputExceededException":
        hint = "add shards where it throttles for long; it is tried again"
        return TransientError("the stream throttles us", where=where, safe=safe, hint=hint)
    region = None if client is None else client.meta.region_name
    return aws.explained(error, "Kinesis", where=where, safe=safe, region=region)
