"""Processes that carry blocks from a journal to a broker and from there into a lake, for tests to kill.

Forked as ``worker.py``'s are. Nothing here may touch Polars or deltalake at import.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from crypto_assets.errors import TransientError
from crypto_assets.providers.feeds import FEEDS
from crypto_assets.resources.clock import SystemClock
from crypto_assets.resources.failpoints import VARIABLE
from crypto_assets.resources.lake import Lake
from crypto_assets.resources.lease import FileSlot
from crypto_assets.stream.consumer import Consumer
from crypto_assets.stream.forward import Forwarder
from crypto_assets.stream.group import Group
from crypto_assets.stream.open import address_of, open_sink
from crypto_assets.stream.transport import Landed, Source
from tests.faults.worker import context

# A member that is killed or stopped for longer than this loses its shards to the other.
SILENT_S = 1.5


def forward(url: str, environment: Mapping[str, str], directory: str) -> None:
    """Send the journal's blocks until killed."""
    os.environ.update(environment)
    sink = open_sink(url)
    clock = SystemClock()
    with Forwarder(Path(directory), sink, landed=lambda _: 0, clock=clock, tell=lambda _: None, look_every_s=0.01):
        threading.Event().wait()


def consume(
    url: str,
    environment: Mapping[str, str],
    root: str,
    notes: str,
    name: str,
    group: str,
    failpoint: str = "",
    most_s: float = 0.1,
) -> None:
    """Land blocks until killed, or at the failpoint; a byte in ``notes`` for each landing."""
    os.environ.update(environment)
    if failpoint:
        os.environ[VARIABLE] = failpoint
    lake = Lake(root, run_id=name)
    with Consumer(lake, _connect(url, root, name, group), FEEDS, SystemClock(), most_s=most_s) as consumer:
        while True:
            try:
                landed = consumer.step(0.05)
            except TransientError:
                time.sleep(0.1)
                continue
            if landed:
                with Path(notes).open("a", encoding="ascii") as file:
                    file.write("x" * len(landed))


def _connect(url: str, root: str, name: str, group: str) -> Callable[[Landed], Source]:
    of = address_of(url)
    if of.scheme == "kinesis":
        from crypto_assets.stream.kinesis import KinesisSource

        slot = FileSlot(Path(root) / "_lease" / "stream.json")
        member = Group(
            slot,
            f"{name}/{os.getpid()}",
            SystemClock(),
            silent_after=timedelta(seconds=SILENT_S),
            beat_every_s=SILENT_S / 5,
        )
        return lambda landed: KinesisSource(of.name, landed, group=member, read_every_s=0.02, list_every_s=0.5)
    from crypto_assets.stream.kafka import KafkaSource

    return lambda landed: KafkaSource(of.servers, of.name, landed, group=group, environment={}, session_ms=6000)


def carriers() -> Any:
    """Processes that start with this module imported, and what it needs."""
    made = context()
    made.set_forkserver_preload(
        [__name__, "botocore.session", "boto3.session", "confluent_kafka", "tests.faults.worker"]
    )
    return made
