"""What carries blocks from collectors to consumers, and back to where they were: direct, Kinesis, Kafka.

A transport is a ``Sink`` for the collector and a ``Source`` for the consumer. It may repeat blocks, and keeps the order
of each lane. Its shards or partitions are called channels here; where a channel was read up to is a ``Position``, kept
in the Delta log of the table and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from crypto_assets.stream.blocks import Block

Position = tuple[int, ...]
"""Where a channel was read up to, as numbers of at most 63 bits: what a Delta application transaction can hold."""

Landed = Callable[[str], Position | None]
"""Where the table says that a channel was read up to."""

NextOf = Callable[[str], int | None]
"""The number of a lane's next block, by what the lake holds; None where it holds none."""

IsOver = Callable[[], bool]
"""Whether the time that was left is over."""


def never() -> bool:
    """For who has all the time."""
    return False


@dataclass(frozen=True)
class Delivery:
    """One record of a channel, and the position after it.

    The block is None where the record is none, and ``problem`` says why; without a problem only the position moves.
    """

    channel: str
    position: Position
    block: Block | None
    problem: str = ""


class ChannelsChanged(Exception):  # noqa: N818 (it says what happened)
    """A source has won or lost channels to another consumer: what was read and is not in the lake is read anew, by
    whoever has its channel now."""


class Sink(Protocol):
    """Where a collector's blocks go."""

    name: str
    """Its address, without secrets."""

    place: str
    """What keeps the blocks, by whatever address it is reached: known when it is open."""

    def open(self, memory: Mapping[str, int]) -> dict[str, int]:
        """Get in touch, before the first ``put``. What it returns it is given again after a restart, as ``memory``,
        among what other sinks have returned.

        Raises as ``put``.
        """
        ...

    def put(self, blocks: Sequence[Block], is_over: IsOver = never) -> None:
        """Hand over blocks in order, and return when all of them are safe there. Once ``is_over`` it waits no longer
        than for the request under way.

        Raises:
            TransientError: the transport is out of reach; none, some or all are there, and they may be put again.
            NeedsYouError: it refuses until a person helps.
        """
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


class Source(Protocol):
    """Where a consumer's blocks come from."""

    n_parts: int
    """Of how many numbers its positions are."""

    def poll(self, seconds: float) -> list[Delivery]:
        """What has come since, waiting at most so long for something. Channels that are new here begin where ``landed``
        says. What one poll returns is taken as a whole: several blocks may come with the same position.

        Raises as ``Sink.put``, with nothing lost: the next poll goes on. Raises ChannelsChanged."""
        ...

    def rewind(self) -> None:
        """Forget what was read and begin each channel anew where ``landed`` says."""
        ...

    def passed(self, positions: dict[str, Position]) -> None:
        """These positions are in the lake: what lies before them is not needed again."""
        ...

    def close(self) -> None:
        """Let go of connections, and of channels for others."""
        ...
