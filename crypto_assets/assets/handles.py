"""What asset functions are handed: the lake, the providers, the clock, as Dagster resources.

Secrets come in as ``EnvVar`` only, so that Dagster shows the variable's name and never its value.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from crypto_assets.providers import coincap
from crypto_assets.providers.coincap import CoinCap, Plan, source
from crypto_assets.providers.provider import Connected, Connection, Provider
from crypto_assets.providers.registry import PROVIDERS
from crypto_assets.resources.budget import Budget, Limit
from crypto_assets.resources.catalog import catalog_of
from crypto_assets.resources.clock import Clock, SystemClock
from crypto_assets.resources.http import Client, Source
from crypto_assets.resources.lake import Lake
from crypto_assets.resources.settings import Settings, storage_options


class LakeHandle(dg.ConfigurableResource[Lake]):
    """The lake under one address; its store's keys come from ``AWS_*`` variables or the machine's role."""

    uri: str = Field(description="A directory, or s3://bucket/prefix.")
    catalog: str = Field(default="none", description="Where tables are registered: none, or glue.")
    catalog_prefix: str = Field(default="crypto_", description="What the zones' Glue databases begin with.")

    def create_resource(self, context: dg.InitResourceContext) -> Lake:
        run = context.run
        return Lake(
            self.uri,
            storage_options=storage_options(),
            run_id=run.run_id if run else "",
            catalog=catalog_of(self.catalog, self.catalog_prefix),
        )


class CoinCapHandle(dg.ConfigurableResource[CoinCap]):
    """CoinCap at one address, within the plan's limits, which all processes on this machine share."""

    base_url: str = Field(description="CoinCap's address; the path's last part is the API's version.")
    api_key: str | None = Field(default=None, description="The key; from the environment only.")
    calls_per_minute: int = Field(description="The plan's calls a minute.")
    credits_per_month: int = Field(description="The plan's credits a month.")
    state_dir: str = Field(description="Where budgets and breaker states are kept.")
    history_assets: list[str] = Field(default=[], description="Asset ids whose daily history is pulled.")
    is_local: bool = Field(default=False, description="Whether the address may be this machine (the sandbox).")

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[CoinCap]:
        del context
        plan = Plan(self.calls_per_minute, self.credits_per_month)
        state, clock = Path(self.state_dir), SystemClock()
        with closing(
            coincap_at(
                self.base_url, self.api_key, plan, state, clock, is_local=self.is_local, assets=self.history_assets
            )
        ) as coincap:
            yield coincap


def coincap_at(
    base_url: str,
    key: str | None,
    plan: Plan,
    state_dir: Path,
    clock: Clock,
    *,
    is_local: bool,
    assets: Sequence[str] = (),
) -> CoinCap:
    """CoinCap with its client, budget and breaker."""
    told = source(base_url, key=key, plan=plan)
    state_dir.mkdir(parents=True, exist_ok=True)
    budget = Budget(_ledger(state_dir, is_local=is_local), told.name, told.limits, clock)
    client = Client(told, budget=budget, clock=clock, random=random.SystemRandom(), allow_loopback=is_local)
    return CoinCap(client, told, assets)


class ProviderHandle(dg.ConfigurableResource[Connected]):
    """Any provider of the registry, with its clients, budgets and breakers, which all processes here share."""

    name: str = Field(description="The provider's name.")
    urls: dict[str, str] = Field(description="The address of each of its services.")
    api_key: str | None = Field(default=None, description="The key; from the environment only.")
    asked: dict[str, list[str]] = Field(default={}, description="Markets, intervals and pairs to ask for.")
    state_dir: str = Field(description="Where budgets and breaker states are kept.")
    is_local: bool = Field(default=False, description="Whether the addresses may be this machine (the sandbox).")

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[Connected]:
        del context
        with connected(
            PROVIDERS[self.name],
            Path(self.state_dir),
            SystemClock(),
            urls=self.urls,
            key=self.api_key,
            asked=self.asked,
            is_local=self.is_local,
        ) as provider:
            yield provider


@contextmanager
def connected(
    provider: Provider,
    state_dir: Path,
    clock: Clock,
    *,
    urls: Mapping[str, str],
    key: str | None,
    asked: Mapping[str, Sequence[str]],
    is_local: bool,
) -> Iterator[Connected]:
    """A provider of the registry with open connections, closed at the end."""
    state_dir.mkdir(parents=True, exist_ok=True)
    state = _ledger(state_dir, is_local=is_local)

    def open_client(told: Source) -> Client:
        budget = Budget(state, told.name, told.limits, clock)
        return Client(told, budget=budget, clock=clock, random=random.SystemRandom(), allow_loopback=is_local)

    with closing(provider.connect(Connection(open_client, urls, key, clock, asked))) as opened:
        yield opened


def provider_urls(provider: Provider, sandbox_url: str | None) -> dict[str, str]:
    """The addresses of the provider's services: its own, or the sandbox's."""
    if sandbox_url is None:
        return dict(provider.urls)
    return {service: f"{sandbox_url.rstrip('/')}/{service}" for service in provider.urls}


def accounts(name: str, settings: Settings) -> Mapping[str, Sequence[Limit]]:
    """How much may be asked of a provider, by its budgets' names: its own, or its venues'."""
    if name == coincap.NAME:
        plan = Plan(settings.coincap_calls_per_minute, settings.coincap_credits_per_month)
        return {name: source(settings.coincap_base_url, key=None, plan=plan).limits}
    provider = PROVIDERS[name]
    return provider.limits(_has_key(provider), settings.asked)


def budget_of(name: str, account: str, settings: Settings, clock: Clock) -> Budget:
    """One of a provider's budgets on this machine."""
    return Budget(budget_path(name, settings), account, accounts(name, settings)[account], clock)


def budget_path(name: str, settings: Settings) -> Path:
    """The file of a provider's budgets and breakers."""
    is_local = settings.is_coincap_local if name == coincap.NAME else settings.sandbox_url is not None
    return _ledger(settings.state_dir, is_local=is_local)


@contextmanager
def opened(name: str, settings: Settings, clock: Clock) -> Iterator[Any]:
    """A provider as its assets are handed it. Opening makes no call."""
    if name == coincap.NAME:
        plan = Plan(settings.coincap_calls_per_minute, settings.coincap_credits_per_month)
        key = settings.coincap_api_key.get_secret_value() if settings.coincap_api_key else None
        with closing(
            coincap_at(
                settings.coincap_base_url,
                key,
                plan,
                settings.state_dir,
                clock,
                is_local=settings.is_coincap_local,
                assets=settings.history_assets,
            )
        ) as provider:
            yield provider
        return
    told = PROVIDERS[name]
    with connected(
        told,
        settings.state_dir,
        clock,
        urls=provider_urls(told, settings.sandbox_url),
        key=_key_of(told),
        asked=settings.asked,
        is_local=settings.sandbox_url is not None,
    ) as provider:
        yield provider


def _ledger(state_dir: Path, *, is_local: bool) -> Path:
    # A sandbox has a ledger of its own: its calls are nobody else's.
    return state_dir / ("sandbox.sqlite" if is_local else "providers.sqlite")


def _key_of(provider: Provider) -> str | None:
    """The provider's key in the environment, where it takes one and has one."""
    return os.environ.get(provider.key_name or "", "").strip() or None


def _has_key(provider: Provider) -> bool:
    return _key_of(provider) is not None


def absence(name: str, settings: Settings) -> str | None:
    """Why a provider cannot run under these settings, or None where it can."""
    if name not in settings.providers:
        return f"{name} is not among CRYPTO_ASSETS_PROVIDERS"
    if name == coincap.NAME:
        return settings.coincap_absence
    provider = PROVIDERS[name]
    if provider.needs_key and settings.sandbox_url is None and not _has_key(provider):
        return f"{name} needs a key: set {provider.key_name}"
    return None


def handles(settings: Settings) -> dict[str, object]:
    """The resources by the names that assets ask for. A provider that cannot run here is absent."""
    lake = LakeHandle(uri=settings.lake_root, catalog=settings.catalog, catalog_prefix=settings.catalog_prefix)
    found: dict[str, object] = {"lake": lake, "clock": SystemClock()}
    for name, provider in PROVIDERS.items():
        if absence(name, settings) is None:
            found[name] = ProviderHandle(
                name=name,
                urls=provider_urls(provider, settings.sandbox_url),
                api_key=dg.EnvVar(provider.key_name) if provider.key_name and _has_key(provider) else None,
                asked=settings.asked,
                state_dir=str(settings.state_dir.resolve()),
                is_local=settings.sandbox_url is not None,
            )
    if absence(coincap.NAME, settings) is None:
        found["coincap"] = CoinCapHandle(
            base_url=settings.coincap_base_url,
            api_key=dg.EnvVar("COINCAP_API_KEY") if settings.coincap_api_key else None,
            calls_per_minute=settings.coincap_calls_per_minute,
            credits_per_month=settings.coincap_credits_per_month,
            state_dir=str(settings.state_dir.resolve()),
            history_assets=list(settings.history_assets),
            is_local=settings.is_coincap_local,
        )
    return found
