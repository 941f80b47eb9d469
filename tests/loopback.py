"""A provider of the registry that speaks with a sandbox on loopback, in the types of the test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from crypto_assets.assets.handles import connected, provider_urls
from crypto_assets.providers.provider import Connected, Provider
from crypto_assets.resources.clock import Clock

Kind = TypeVar("Kind", bound=Connected)


@contextmanager
def speaking(
    provider: Provider,
    kind: type[Kind],
    url: str,
    state_dir: Path,
    clock: Clock,
    *,
    key: str | None = None,
    asked: Mapping[str, Sequence[str]] | None = None,
) -> Iterator[Kind]:
    """The provider, which is a ``kind``, connected to the sandbox at ``url`` while the block runs."""
    urls = provider_urls(provider, url)
    with connected(provider, state_dir, clock, urls=urls, key=key, asked=asked or {}, is_local=True) as opened:
        assert isinstance(opened, kind)
        yield opened
