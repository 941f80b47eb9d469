"""What asset functions are handed: the lake, the providers, the clock, as Dagster resources.

Secrets come in as ``EnvVar`` only, so that Dagster shows the variable's name and never its value.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import dagster as dg
from pydantic import Field

from crypto_assets.providers.coincap import CoinCap, Plan, source
from crypto_assets.resources.budget import Budget
from crypto_assets.resources.clock import Clock, SystemClock
from crypto_assets.resources.http import Client
from crypto_assets.resources.lake import Lake
from crypto_assets.resources.settings import Settings, storage_options


class LakeHandle(dg.ConfigurableResource[Lake]):
    """The lake under one address; its store's keys come from ``AWS_*`` variables or the machine's role."""

    uri: str = Field(description="A directory, or s3://bucket/prefix.")

    def create_resource(self, context: dg.InitResourceContext) -> Lake:
        run = context.run
        return Lake(self.uri, storage_options=storage_options(), run_id=run.run_id if run else "")


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
    # A sandbox has a ledger of its own: its calls are not CoinCap's.
    budget = Budget(state_dir / ("sandbox.sqlite" if is_local else "providers.sqlite"), told.name, told.limits, clock)
    client = Client(told, budget=budget, clock=clock, random=random.SystemRandom(), allow_loopback=is_local)
    return CoinCap(client, told, assets)


def handles(settings: Settings) -> dict[str, object]:
    """The resources by the names that assets ask for. A provider that cannot run here is absent."""
    found: dict[str, object] = {"lake": LakeHandle(uri=settings.lake_root), "clock": SystemClock()}
    if settings.coincap_absence is None:
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
