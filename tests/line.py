"""Some providers in one process for tests: a sandbox's market, a lake in a directory, Dagster without a daemon.

``chain.py`` has CoinCap's whole chain.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, TypeVar

import dagster as dg

from crypto_assets.assets.handles import connected, provider_urls
from crypto_assets.checks.rules import rules_of
from crypto_assets.checks.verdicts import Case
from crypto_assets.definitions import build_definitions
from crypto_assets.partitions import range_tags
from crypto_assets.providers.registry import PROVIDERS
from crypto_assets.resources.clock import FixedClock
from crypto_assets.resources.lake import Lake
from crypto_assets.resources.settings import Settings
from crypto_assets.sandbox import Events, Market, Sandbox, serve
from crypto_assets.tables.contract import Contract
from crypto_assets.tables.window import Window


@dataclass
class Line:
    """A sandbox, a lake, and the definitions of the providers between them by name."""

    sandbox: Sandbox
    settings: Settings
    lake: Lake
    clock: FixedClock
    providers: Mapping[str, Any]
    definitions: dg.Definitions
    instance: dg.DagsterInstance

    @property
    def resources(self) -> dict[str, Any]:
        """What assets are handed."""
        return {"lake": self.lake, "clock": self.clock, **self.providers}

    def set_now(self, now: datetime) -> None:
        self.clock.set(now)
        self.sandbox.set_now(now)

    def run(
        self,
        first: date,
        last: date | None = None,
        *,
        select: Sequence[type[Contract]],
        has_checks: bool = False,
        config: Mapping[str, Any] | None = None,
    ) -> dg.ExecuteInProcessResult:
        """A run of the refresh job over the days; ``config`` is by table. A failure is a result, not an exception."""
        # No two runs begin at one moment.
        self.clock.sleep(0.001)
        ops = {name.replace(".", "__"): {"config": told} for name, told in (config or {}).items()}
        return self.execute(
            select,
            has_checks=has_checks,
            tags=range_tags(first, last or first),
            run_config={"ops": ops} if ops else None,
        )

    def execute(self, select: Sequence[type[Contract]], *, has_checks: bool, **how: Any) -> dg.ExecuteInProcessResult:
        """A run of the tables in the refresh job, told ``how`` in Dagster's words."""
        keys = frozenset(dg.AssetKey(list(contract.table.path)) for contract in select)
        job = self.definitions.resolve_job_def("refresh")
        part = job.get_subset(asset_selection=keys, asset_check_selection=None if has_checks else frozenset())
        return part.execute_in_process(instance=self.instance, raise_on_error=False, **how)

    def n_calls(self) -> int:
        return sum(self.sandbox.calls()["calls"].values())

    def verdicts(self, contract: type[Contract], window: Window) -> dict[str, tuple[bool, str]]:
        """What each rule of the table's says."""
        case = Case(self.lake, contract, window, self.lake.read(contract, window), self.clock.now())
        return {check.name: (v.passed, v.observed) for check in rules_of(contract) for v in check.judge(case)}


Kind = TypeVar("Kind", bound=Line)


@contextmanager
def line(
    home: Path,
    now: datetime,
    *names: str,
    kind: type[Kind],
    market: Market | None = None,
    events: Events | None = None,
    key: str | None = None,
    **settings: Any,
) -> Iterator[Kind]:
    """A line of the named providers at ``now``, with these settings."""
    clock = FixedClock(now)
    with serve(market or Market(7)) as sandbox, ExitStack() as stack:
        sandbox.set_now(now)
        sandbox.set_events(events or Events())
        told = Settings(
            lake_uri=str(home / "lake"),
            state_dir=home / "state",
            sandbox_url=sandbox.url,
            providers=names,
            **settings,
        )
        lake, providers = Lake(told.lake_root), {}
        for name in names:
            urls = provider_urls(PROVIDERS[name], sandbox.url)
            opened = connected(
                PROVIDERS[name], told.state_dir, clock, urls=urls, key=key, asked=told.asked, is_local=True
            )
            providers[name] = stack.enter_context(opened)
        definitions = build_definitions(told, {"lake": lake, "clock": clock, **providers})
        instance = stack.enter_context(dg.DagsterInstance.ephemeral())
        yield kind(sandbox, told, lake, clock, providers, definitions, instance)
