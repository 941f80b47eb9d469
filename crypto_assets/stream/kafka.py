"""Kafka as a transport: a lane is a key, a channel is a partition, a position is the next offset.

The producer is idempotent and waits for as long as it takes: what it has in hand is neither given up nor overtaken. A
lane stays in the partition that it began in, whatever partitions a topic is given later; the forwarder remembers how
many there were.

Consumers of one lake are one group, which shares out the partitions. On every change of that all begin where the Delta
table says. Offsets are committed to Kafka too, for the tools that show lag; nothing reads them here.

How a broker is reached beyond its address is said by ``KAFKA_<PROPERTY>``, e.g. ``KAFKA_SECURITY_PROTOCOL=SASL_SSL``,
``KAFKA_SASL_MECHANISM``, ``KAFKA_SASL_USERNAME``, ``KAFKA_SASL_PASSWORD``, ``KAFKA_SSL_CA_LOCATION``.
"""

from __future__ import annotations

import hashlib
import logging
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka import TopicCollection as Topics
from confluent_kafka.admin import AdminClient

from crypto_assets.errors import CryptoAssetsError, DataError, NeedsYouError, TransientError
from crypto_assets.stream.blocks import Block, decode, encode
from crypto_assets.stream.transport import ChannelsChanged, Delivery, IsOver, Landed, Position, never

log = logging.getLogger(__name__)

# librdkafka's settings that the environment may say; its other settings are ours.
_PROPERTIES = (
    "security.protocol",
    "sasl.mechanism",
    "sasl.username",
    "sasl.password",
    "sasl.kerberos.service.name",
    "sasl.kerberos.principal",
    "sasl.kerberos.keytab",
    "ssl.ca.location",
    "ssl.certificate.location",
    "ssl.key.location",
    "ssl.key.password",
    "ssl.endpoint.identification.algorithm",
)
_ASK_S = 5.0
# How long a put waits for a broker that is away, before it says so; what was given to librdkafka stays on its way.
_PATIENCE_S = 15.0
# After so many of them the producer is made anew: a broker that lost its memory waits for numbers that never come.
_MOST_LATE = 2
# Larger than any block; what the broker takes, compressed, is its message.max.bytes.
_MOST_MESSAGE_BYTES = 8 * 2**20
# More than one put may hold, so that it never waits for room.
_QUEUE_KBYTES = 64 * 1024
# What one poll takes, and librdkafka reads ahead.
_POLL_BYTES, _POLL_RECORDS = 8 * 2**20, 256
_AHEAD_KBYTES = 16 * 1024
# Who was killed holds its partitions for so long; a commit to the lake does not count, it is in another thread.
_SESSION_MS, _HEARTBEAT_MS = 10_000, 3_000
_SAFE_PUT = "the journal keeps what was not acknowledged"
_SAFE_READ = "what was not read stays on the topic, as long as its retention says"
_REFUSED = {
    KafkaError._AUTHENTICATION,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError._SSL,
}
_UNKNOWN = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}


def settings_of(servers: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """librdkafka's settings for a broker: its address and what the environment says of it. They may hold secrets."""
    told = {name: environment.get(_variable(name), "").strip() for name in _PROPERTIES}
    return {
        "bootstrap.servers": servers,
        "client.id": "crypto-assets",
        # Its lines would repeat each second what is said once.
        "log_level": 0,
        "topic.metadata.refresh.interval.ms": 30_000,
        "reconnect.backoff.max.ms": 5_000,
        "socket.keepalive.enable": True,
        **{name: value for name, value in told.items() if value},
    }


def _variable(name: str) -> str:
    return f"KAFKA_{name.upper().replace('.', '_')}"


@contextmanager
def _configured(where: str, safe: str) -> Iterator[None]:
    """Name the variables that librdkafka does not take; never what it says of them, which holds their values."""
    try:
        yield
    except KafkaException as error:
        said = str(error.args[0]).replace("SASL mechanism", "sasl.mechanism")
        names = [_variable(name) for name in _PROPERTIES if name in said]
        what = f"{' and '.join(names) or 'what KAFKA_* says'} cannot be used"
        hint = "set it as the broker wants it; a file must be there and readable"
        raise NeedsYouError(what, where=where, safe=safe, hint=hint) from None


def group_of(root: str) -> str:
    """The consumer group of a lake: consumers into one lake share a topic, another lake reads all of it again."""
    return f"crypto-assets-{hashlib.sha256(root.encode()).hexdigest()[:8]}"


class KafkaSink:
    """Puts blocks on a topic.

    Args:
        servers: ``host:port``, several with commas.
        topic: its name; it must be there.
        environment: where ``KAFKA_*`` is looked up.
        patience_s: how long a put waits for the broker.
    """

    def __init__(
        self, servers: str, topic: str, *, environment: Mapping[str, str], patience_s: float = _PATIENCE_S
    ) -> None:
        self.name = f"kafka://{servers}/{topic}"
        self.place = ""
        self._topic = topic
        self._settings = settings_of(servers, environment)
        self._patience_s = patience_s
        self._producer: Producer | None = None
        self._n_partitions = 0
        # Given to librdkafka and not acknowledged, by lane and number; and the newest of each lane that is.
        self._pending: set[tuple[str, int]] = set()
        self._safe: dict[str, int] = {}
        self._n_late = 0
        self._failure: KafkaError | None = None
        self._noticed: KafkaError | None = None

    def open(self, memory: Mapping[str, int]) -> dict[str, int]:
        """See ``transport.Sink``. What is to be known again is how many partitions the lanes are dealt to."""
        producer = self._started()
        try:
            found = producer.list_topics(timeout=_ASK_S)
        except KafkaException as error:
            # What was noticed meanwhile is told while it polls.
            producer.poll(0)
            raise _explained(_noticed(self._noticed, error), self.name, _SAFE_PUT) from None
        if self._topic not in found.topics:
            raise _explained(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART), self.name, _SAFE_PUT)
        self.place = f"kafka/{found.cluster_id}/{self._topic}"
        n_partitions = len(found.topics[self._topic].partitions)
        # A topic never has fewer than it had: it is another one by now, and so are its lanes.
        pinned = memory.get(self.place, n_partitions)
        self._n_partitions = pinned if 0 < pinned <= n_partitions else n_partitions
        return {self.place: self._n_partitions}

    def put(self, blocks: Sequence[Block], is_over: IsOver = never) -> None:
        """See ``transport.Sink``. Blocks that are on their way from an earlier call are waited for, not put again."""
        producer = self._started()
        deadline = time.monotonic() + self._patience_s
        wanted = set()
        for block in blocks:
            key = (block.lane, block.number)
            if block.number <= self._safe.get(block.lane, -1):
                continue
            wanted.add(key)
            if key not in self._pending:
                self._pending.add(key)
                self._produce(producer, block)
        while wanted & self._pending and self._failure is None and time.monotonic() < deadline and not is_over():
            producer.poll(0.1)
        if self._failure is not None:
            failure, self._failure = self._failure, None
            self._restart()
            raise _explained(_noticed(self._noticed, failure), self.name, _SAFE_PUT)
        if wanted & self._pending:
            self._n_late += 1
            if self._n_late >= _MOST_LATE:
                self._restart()
            raise _explained(self._noticed or KafkaError(KafkaError._TRANSPORT), self.name, _SAFE_PUT)
        self._n_late = 0
        self._noticed = None

    def close(self) -> None:
        """See ``transport.Sink``. What is on its way may still arrive, and is put again by whoever comes next."""
        self._restart()

    def _started(self) -> Producer:
        if self._producer is None:
            settings = {
                **self._settings,
                "enable.idempotence": True,
                # A block that is refused stops those behind it, which would overtake it otherwise.
                "enable.gapless.guarantee": True,
                "acks": "all",
                "message.timeout.ms": 0,
                "message.max.bytes": _MOST_MESSAGE_BYTES,
                "compression.type": "zstd",
                "linger.ms": 5,
                "queue.buffering.max.kbytes": _QUEUE_KBYTES,
                "error_cb": self._notice,
            }
            with _configured(self.name, _SAFE_PUT):
                self._producer = Producer(settings)
        return self._producer

    def _produce(self, producer: Producer, block: Block) -> None:
        place = zlib.crc32(block.lane.encode()) % self._n_partitions
        value, number, lane = encode(block), block.number, block.lane

        def told(error: KafkaError | None, message: Message) -> None:
            del message
            if error is None:
                self._safe[lane] = max(number, self._safe.get(lane, -1))
                self._pending.discard((lane, number))
            else:
                self._failure = self._failure or error

        while True:
            try:
                producer.produce(self._topic, value, key=lane, partition=place, on_delivery=told)
                return
            except BufferError:
                producer.poll(0.1)
                if self._failure is not None:
                    return
            except KafkaException as error:
                self._failure = error.args[0]
                return

    def _restart(self) -> None:
        """Forget the producer with all that it has in hand."""
        producer, self._producer = self._producer, None
        self._pending.clear()
        self._n_late = 0
        if producer is not None:
            producer.purge()
            producer.flush(1.0)
            self._failure = None

    def _notice(self, error: KafkaError) -> None:
        if error.fatal():
            self._failure = error
        self._noticed = _telling(self._noticed, error)


class KafkaSource:
    """Reads blocks from the partitions of a topic that the group gives us.

    Args:
        servers: ``host:port``, several with commas.
        topic: its name.
        landed: up to where the lake has each partition.
        group: the consumer group's id.
        environment: where ``KAFKA_*`` is looked up.
        session_ms: how long the group waits for a member that is silent.
    """

    n_parts = 1

    def __init__(
        self,
        servers: str,
        topic: str,
        landed: Landed,
        *,
        group: str,
        environment: Mapping[str, str],
        session_ms: int = _SESSION_MS,
    ) -> None:
        self._where = f"kafka://{servers}/{topic}"
        self._topic = topic
        self._landed = landed
        self._settings = settings_of(servers, environment)
        self._group = {
            "group.id": group,
            "session.timeout.ms": session_ms,
            "heartbeat.interval.ms": min(_HEARTBEAT_MS, session_ms // 3),
        }
        self._consumer: Consumer | None = None
        self._prefix = ""
        self._partitions: list[int] = []
        # Those whose position the broker no longer holds, until they are begun anew.
        self._trimmed: set[int] = set()
        self._is_stale = False
        self._is_changed = False
        self._noticed: KafkaError | None = None
        self._problem: CryptoAssetsError | None = None

    def poll(self, seconds: float) -> list[Delivery]:
        """See ``transport.Source``."""
        self._complain()
        consumer = self._started()
        if self._is_stale and not self._is_changed:
            self._begin(consumer)
        found = self._delivered(self._taken(consumer, seconds))
        if self._is_changed:
            self._is_changed = False
            raise ChannelsChanged
        if found:
            self._noticed = None
        elif self._noticed is not None and self._noticed.code() != KafkaError._TRANSPORT:
            noticed, self._noticed = self._noticed, None
            raise _explained(noticed, self._where, _SAFE_READ)
        if not found:
            self._complain()
        return found

    def _complain(self) -> None:
        problem, self._problem = self._problem, None
        if problem is not None:
            raise problem

    def rewind(self) -> None:
        """See ``transport.Source``."""
        self._is_stale = True

    def passed(self, positions: dict[str, Position]) -> None:
        """See ``transport.Source``."""
        ours = {self._channel(partition): partition for partition in self._partitions}
        offsets = [
            TopicPartition(self._topic, ours[channel], offset)
            for channel, (offset,) in positions.items()
            if channel in ours
        ]
        if offsets and self._consumer is not None:
            try:
                self._consumer.commit(offsets=offsets, asynchronous=True)
            except KafkaException as error:
                log.debug("offsets were not committed to Kafka: %s", error.args[0].name())

    def close(self) -> None:
        """See ``transport.Source``."""
        consumer, self._consumer = self._consumer, None
        self._partitions = []
        if consumer is not None:
            consumer.close()

    def _started(self) -> Consumer:
        if self._consumer is None:
            settings = {
                **self._settings,
                **self._group,
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                # A position that is gone is told of, and begun anew by us.
                "auto.offset.reset": "error",
                "allow.auto.create.topics": False,
                "queued.max.messages.kbytes": _AHEAD_KBYTES,
                "error_cb": self._notice,
            }
            with _configured(self._where, _SAFE_READ):
                consumer = Consumer(settings)
            consumer.subscribe([self._topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked)
            self._consumer = consumer
        return self._consumer

    def _assigned(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        self._partitions = [told.partition for told in partitions]
        self._is_changed = self._is_stale = True
        # Nothing is read before the lake was asked, which may fail, and not in here.
        consumer.assign([])

    def _revoked(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        del partitions
        self._partitions = []
        self._is_changed = self._is_stale = True
        consumer.unassign()

    def _begin(self, consumer: Consumer) -> None:
        """Read each of our partitions from where the lake says."""
        if not self._partitions:
            self._is_stale = False
            return
        self._prefix = self._identity(consumer)
        places = []
        for partition in self._partitions:
            # Asked in any case: the consumer commits from there.
            position = self._landed(self._channel(partition))
            start = OFFSET_BEGINNING if position is None or partition in self._trimmed else position[0]
            places.append(TopicPartition(self._topic, partition, start))
        consumer.assign(places)
        self._trimmed.clear()
        self._is_stale = False

    def _identity(self, consumer: Consumer) -> str:
        """What this topic's channels begin with. A topic that was deleted and made again has another id, where the
        broker knows ids."""
        try:
            cluster = consumer.list_topics(self._topic, timeout=_ASK_S).cluster_id
            # It must live until it has answered.
            admin = AdminClient(self._settings)
            told = admin.describe_topics(Topics([self._topic]), request_timeout=_ASK_S)
            topic_id = str(told[self._topic].result(2 * _ASK_S).topic_id)
        except TimeoutError:
            raise _explained(KafkaError(KafkaError._TIMED_OUT), self._where, _SAFE_READ) from None
        except KafkaException as error:
            problem = error.args[0]
            if problem.code() != KafkaError._UNSUPPORTED_FEATURE:
                raise _explained(_noticed(self._noticed, error), self._where, _SAFE_READ) from None
            topic_id = ""
        return f"kafka/{cluster}/{self._topic}{f'@{topic_id}' if topic_id else ''}"

    def _channel(self, partition: int) -> str:
        return f"{self._prefix}/{partition}"

    def _taken(self, consumer: Consumer, seconds: float) -> list[Message]:
        """What has come: waits for the first, and takes those that are there then."""
        first = consumer.poll(seconds)
        found = [] if first is None else [first]
        size = 0
        while found and size < _POLL_BYTES:
            more = consumer.consume(_POLL_RECORDS, 0)
            found += more
            size += sum(len(message.value() or b"") for message in more)
            if len(more) < _POLL_RECORDS:
                break
        return found

    def _delivered(self, messages: Iterable[Message]) -> list[Delivery]:
        found: list[Delivery] = []
        foreign: dict[str, int] = {}
        for message in messages:
            error = message.error()
            if error is not None:
                self._complained(error, message)
                continue
            channel, position = self._channel(_int(message.partition())), (_int(message.offset()) + 1,)
            try:
                found.append(Delivery(channel, position, decode(message.value() or b"")))
            except DataError as refused:
                n = foreign[channel] = foreign.get(channel, 0) + 1
                # One line for all of a poll.
                found = [told for told in found if not (told.problem and told.channel == channel)]
                problem = f"{refused}{f' (with {n - 1} before it)' if n > 1 else ''}"
                found.append(Delivery(channel, position, None, problem))
        return found

    def _complained(self, error: KafkaError, message: Message) -> None:
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            partition = _int(message.partition())
            log.warning(
                "%s: partition %d no longer holds what follows its position; it is read from the oldest record that is "
                "left, and what never comes is noted as blocks_lost",
                self._where,
                partition,
            )
            self._trimmed.add(partition)
            self._is_changed = True
        elif error.code() != KafkaError._PARTITION_EOF:
            self._problem = _explained(error, self._where, _SAFE_READ)

    def _notice(self, error: KafkaError) -> None:
        self._noticed = _telling(self._noticed, error)


def _int(told: int | None) -> int:
    """Of a message that was delivered both are there."""
    return -1 if told is None else told


def _telling(known: KafkaError | None, error: KafkaError) -> KafkaError:
    """Which of two says more: a refusal, before that all brokers are down, before that one of them is."""

    def rank(told: KafkaError) -> int:
        return 2 if told.code() in _REFUSED else int(told.code() == KafkaError._ALL_BROKERS_DOWN)

    return error if known is None or rank(error) >= rank(known) else known


def _noticed(noticed: KafkaError | None, error: KafkaException | KafkaError) -> KafkaError:
    """The refusal that was noticed before, which says more than what followed from it."""
    if noticed is not None and noticed.code() in _REFUSED:
        return noticed
    found: KafkaError = error.args[0] if isinstance(error, KafkaException) else error
    return found


def _explained(error: KafkaError, where: str, safe: str) -> CryptoAssetsError:
    """Our error for librdkafka's, by its name: its text holds addresses, and foreign words."""
    if error.code() in _UNKNOWN:
        hint = "create the topic, or correct its name"
        return NeedsYouError("there is no such topic", where=where, safe=safe, hint=hint)
    if error.code() in _REFUSED:
        hint = "check KAFKA_SECURITY_PROTOCOL, KAFKA_SASL_* and KAFKA_SSL_*, and what this user may do"
        return NeedsYouError(f"the broker refuses us ({error.name()})", where=where, safe=safe, hint=hint)
    if error.code() in {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE}:
        hint = "raise the topic's max.message.bytes"
        return NeedsYouError("a block is larger than the topic allows", where=where, safe=safe, hint=hint)
    hint = "check the address and the network; it is tried again"
    if error.code() in {
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._RESOLVE,
        KafkaError._TIMED_OUT,
        KafkaError._MSG_TIMED_OUT,
    }:
        return TransientError("the broker cannot be reached", where=where, safe=safe, hint=hint)
    return TransientError(f"the broker says {error.name()}", where=where, safe=safe, hint=hint)
