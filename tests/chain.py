"""The whole chain in one process for tests: a sandbox market, a lake in a directory, Dagster without a daemon."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from crypto_assets.assets.handles import coincap_at
from crypto_assets.assets.raw.pulls import land
from crypto_assets.automation import jobs
from crypto_assets.commands.run import fed
from crypto_assets.definitions import build_definitions
from crypto_assets.partitions import REFRESH_HOURS, REFRESH_TAG, range_tags
from crypto_assets.providers.coincap import CoinCap, Plan
from crypto_assets.resources.clock import FixedClock
from crypto_assets.resources.lake import Lake
from crypto_assets.resources.settings import Settings
from crypto_assets.sandbox import Market, serve
from crypto_assets.tables import ALL_TABLES, BY_NAME, raw, refined, trusted
from crypto_assets.tables.contract import Contract
from tests.line import Line

LIVE = {
    raw.RawCoincapAssets: CoinCap.assets,
    raw.RawCoincapExchanges: CoinCap.exchanges,
    raw.RawCoincapMarkets: CoinCap.markets,
    raw.RawCoincapRates: CoinCap.rates,
}


def _derived() -> tuple[type[Contract], ...]:
    settings = Settings(providers=("coincap",), coincap_base_url="http://127.0.0.1:1/v2")
    names = {".".join(key.path) for key in fed(build_definitions(settings))}
    return tuple(table for table in (*trusted.TABLES, *refined.TABLES) if table.table.full_name in names)


# The trusted and refined tables that CoinCap alone feeds.
DERIVED: tuple[type[Contract], ...] = _derived()


def at(day: int, hour: int = 0, minute: int = 0, month: int = 10) -> datetime:
    """A moment of October 2026."""
    return datetime(2026, month, day, hour, minute, tzinfo=UTC)


@dataclass
class Chain(Line):
    @property
    def coincap(self) -> CoinCap:
        client: CoinCap = self.providers["coincap"]
        return client

    def pull(self, now: datetime, contracts: Iterable[type[Contract]] = LIVE) -> None:
        """One round of live pulls, without Dagster."""
        self.set_now(now)
        for contract in contracts:
            land(self.lake, contract, [LIVE[contract](self.coincap)])

    def run(
        self,
        first: date,
        last: date | None = None,
        *,
        select: Sequence[type[Contract]] = DERIVED,
        has_checks: bool = True,
        config: Mapping[str, Any] | None = None,
        tick: bool = False,
    ) -> dg.ExecuteInProcessResult:
        """A run of the refresh job over the days; a failure is a result, not an exception."""
        tags = {REFRESH_TAG: REFRESH_HOURS} if tick else {}
        partition: dict[str, Any] = {"partition_key": str(first)}
        if last is not None:
            partition = {}
            tags |= range_tags(first, last)
        return self.execute(select, has_checks=has_checks, tags=tags, run_config=config, **partition)

    def content(self, tables: Iterable[type[Contract]] = DERIVED) -> dict[str, pl.DataFrame]:
        """Every row of the tables, in contract order."""
        return {contract.table.full_name: self.lake.read(contract) for contract in tables}

    def versions(self) -> dict[str, int]:
        """The Delta version of every table that exists."""
        states = {c.table.full_name: self.lake.state(c) for c in ALL_TABLES}
        return {name: state.version for name, state in states.items() if state}


@contextmanager
def chain(home: Path, *, n_assets: int = 50, lake: Lake | None = None) -> Iterator[Chain]:
    """A chain in a directory, with a market of ``n_assets``."""
    clock = FixedClock(at(1))
    with serve(Market(7, n_assets=n_assets)) as sandbox:
        lake = lake or Lake(str(home / "lake"))
        settings = Settings(
            lake_uri=str(home / "lake"),
            state_dir=home / "state",
            coincap_base_url=sandbox.v2,
            providers=("coincap",),
        )
        coincap = coincap_at(
            sandbox.v2, None, Plan(), home / "state", clock, is_local=True, assets=settings.history_assets
        )
        definitions = build_definitions(settings, {"lake": lake, "clock": clock, "coincap": coincap})
        with closing(coincap), dg.DagsterInstance.ephemeral() as instance:
            yield Chain(sandbox, settings, lake, clock, {"coincap": coincap}, definitions, instance)


def only(whole: dg.Definitions, tables: Collection[type[Contract]]) -> dg.Definitions:
    """The definitions of these tables and their checks alone: what is told to run all tables, runs so many."""
    keys = {dg.AssetKey(list(contract.table.path)) for contract in tables}
    return dg.Definitions(
        assets=[each for each in whole.assets or () if isinstance(each, dg.AssetsDefinition) and each.keys <= keys],
        asset_checks=[
            each
            for each in whole.asset_checks or ()
            if isinstance(each, dg.AssetChecksDefinition) and {key.asset_key for key in each.check_keys} <= keys
        ],
        jobs=[jobs.refresh],
        resources=whole.resources,
        executor=whole.executor,
    )


def failures(result: dg.ExecuteInProcessResult) -> dict[str, str]:
    """The failed steps' messages by table."""
    return {
        event.step_key.replace("__", ".", 1): event.step_failure_data.error.message
        for event in result.all_events
        if event.is_step_failure and event.step_key and event.step_failure_data.error
    }


def same(left: dict[str, pl.DataFrame], right: dict[str, pl.DataFrame], *, but: Sequence[str] = ()) -> list[str]:
    """The tables whose content differs, leaving out columns named in ``but``."""
    both = left.keys() & right.keys()
    differing = [n for n in both if not left[n].drop(but, strict=False).equals(right[n].drop(but, strict=False))]
    return differing + sorted(left.keys() ^ right.keys())


__all__ = ["BY_NAME", "DERIVED", "LIVE", "Chain", "at", "chain", "failures", "only", "same"]
