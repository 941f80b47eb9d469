"""From an address to a transport: ``direct``, ``kinesis://STREAM``, ``kafka://BROKER:PORT,.../TOPIC``.

An address holds no secret: Kinesis is reached as the AWS SDKs find their way (``AWS_*``), Kafka's credentials are in
``KAFKA_*`` (``kafka.py`` lists them).
"""

from __future__ import annotations

import os
import re
import secrets
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from crypto_assets.errors import NeedsYouError, UsageError
from crypto_assets.resources.clock import Clock, SystemClock
from crypto_assets.resources.lake import Lake
from crypto_assets.stream.blocks import app_of
from crypto_assets.stream.transport import Landed, NextOf, Sink, Source
from crypto_assets.tables.stream import RawTrades

DIRECT = "direct"
# What Kinesis and Kafka let a name be.
_STREAM = re.compile(r"[a-zA-Z0-9_.-]{1,128}")
_TOPIC = re.compile(r"[a-zA-Z0-9_.-]{1,249}")
_SERVERS = re.compile(r"[a-zA-Z0-9_.-]+(:\d{1,5})?(,[a-zA-Z0-9_.-]+(:\d{1,5})?)*|\[[0-9a-fA-F:]+\](:\d{1,5})?")


class Address(NamedTuple):
    """Of a transport: its scheme, Kafka's servers, and the stream or topic."""

    scheme: str
    servers: str = ""
    name: str = ""


def address_of(url: str) -> Address:
    """The parts of a transport's address.

    Raises:
        UsageError: it is none. What it says never repeats the address, which may hold a secret that belongs elsewhere.
    """
    scheme, separator, rest = url.partition("://")
    if url == DIRECT:
        return Address(DIRECT)
    if separator and scheme == "kinesis" and _STREAM.fullmatch(rest):
        return Address("kinesis", "", rest)
    servers, _, topic = rest.partition("/")
    if separator and scheme == "kafka" and _SERVERS.fullmatch(servers) and _TOPIC.fullmatch(topic):
        return Address("kafka", servers, topic)
    what = "the address of a transport holds no credentials" if "@" in rest else "this is no address of a transport"
    raise UsageError(
        what,
        where="stream",
        safe="nothing was started",
        hint="direct, kinesis://STREAM or kafka://BROKER:PORT/TOPIC; credentials are in AWS_* and KAFKA_*",
    )


def open_sink(url: str, *, clock: Clock | None = None, environment: Mapping[str, str] = os.environ) -> Sink:
    """Where a collector's blocks go; nothing is asked of it yet.

    Raises:
        UsageError: it is no address of a broker.
        NeedsYouError: the extra that speaks with it is not installed.
    """
    to = address_of(url)
    if to.scheme == "kinesis":
        from crypto_assets.stream.kinesis import KinesisSink

        return KinesisSink(to.name, clock=clock or SystemClock())
    if to.scheme == "kafka":
        with _extra():
            from crypto_assets.stream.kafka import KafkaSink

        return KafkaSink(to.servers, to.name, environment=environment)
    raise UsageError(
        "direct has no broker to send to",
        where="stream",
        safe="nothing was started",
        hint="the consumer reads the journal itself: stream consume --from direct",
    )


def open_source(
    url: str,
    landed: Landed,
    *,
    journals: Sequence[Path] = (),
    lake: Lake | None = None,
    clock: Clock | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Source:
    """Where a consumer's blocks come from; nothing is asked of it yet.

    Args:
        url: its address.
        landed: up to where the table has each channel.
        journals: the directories that ``direct`` reads.
        lake: where the blocks go. Consumers into one lake share the channels of a broker, those into another read all
            of them again.

    Raises:
        UsageError, NeedsYouError: as ``open_sink``.
    """
    of = address_of(url)
    if of.scheme == DIRECT:
        from crypto_assets.stream.direct import DirectSource

        return DirectSource(list(journals), landed, blocks_in(lake))
    if of.scheme == "kinesis":
        from crypto_assets.resources.lease import slot_of
        from crypto_assets.stream.group import Group
        from crypto_assets.stream.kinesis import KinesisSource

        clock = clock or SystemClock()
        slot = None if lake is None else slot_of(lake.root, lambda: lake.options, f"consumers-{of.name}.json")
        # In containers that share a host's name all are process 1.
        us = f"{socket.gethostname()[:100]}/{os.getpid()}/{secrets.token_hex(4)}"
        group = None if slot is None else Group(slot, us, clock)
        return KinesisSource(of.name, landed, group=group, clock=clock)
    with _extra():
        from crypto_assets.stream.kafka import KafkaSource, group_of

    of_lake = group_of("" if lake is None else lake.root)
    return KafkaSource(of.servers, of.name, landed, group=of_lake, environment=environment)


def blocks_in(lake: Lake | None) -> NextOf:
    """What the lake holds of a lane; nothing without one."""
    return lambda lane: None if lake is None else lake.landed(RawTrades, app_of(lane))


@contextmanager
def _extra() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "confluent_kafka":
            raise
        raise NeedsYouError(
            "confluent-kafka is not installed",
            where="stream",
            safe="nothing was started",
            hint="install the extra: pip install 'crypto-assets[kafka]'",
        ) from None
