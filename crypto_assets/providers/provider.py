"""What a provider is to the house: its addresses, its key, and how it is put together.

Each provider file ends with one ``PROVIDER``; ``REGISTRY`` lists them, and settings, resources and the command line
follow from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from crypto_assets.resources.budget import Limit
from crypto_assets.resources.clock import Clock
from crypto_assets.resources.http import Client, Source


class Connected(Protocol):
    """A provider with open connections."""

    def close(self) -> None:
        """Close the connections."""
        ...


@dataclass(frozen=True)
class Connection:
    """What a provider is put together from.

    Attributes:
        open: a client for a source, within its budget and behind its breaker.
        urls: the address of each of the provider's services.
        key: its key, or None.
        clock: the time.
        asked: what the settings ask of it, e.g. ``{"markets": ["binance:BTC/USDT"]}``.
    """

    open: Callable[[Source], Client]
    urls: Mapping[str, str]
    key: str | None
    clock: Clock
    asked: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Provider:
    """A provider.

    Attributes:
        name: also the name of its resource and of its pool.
        urls: its services' addresses; a sandbox serves each at ``/<service>``.
        connect: puts it together.
        limits: how much may be asked of it by its budgets' names, for whether there is a key and what is asked.
        key_name: the environment variable of its key, if it takes one.
        needs_key: whether it is absent without.
        unlocks: what a key brings, in one line, for those who have none.
    """

    name: str
    urls: Mapping[str, str]
    connect: Callable[[Connection], Connected]
    limits: Callable[[bool, Mapping[str, Sequence[str]]], Mapping[str, Sequence[Limit]]]
    key_name: str | None = None
    needs_key: bool = False
    unlocks: str = ""
