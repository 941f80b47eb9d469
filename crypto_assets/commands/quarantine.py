"""``quarantine show`` and ``quarantine replay``: the records that were refused, and giving them another chance.

Belongs here: reading ``quality.quarantine`` and running the days that hold refused records again. What is refused, and
why, is decided by the contracts (``tables/conform.py``).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from crypto_assets.commands import output
from crypto_assets.commands import run as runs
from crypto_assets.errors import UsageError

if TYPE_CHECKING:
    import polars as pl

    from crypto_assets.resources.lake import Lake

_COLUMNS = ("table_name", "date", "observed_at", "reasons", "record", "pull_id", "page", "position")


def show(table: str | None, day: str | None, limit: int, form: output.Format) -> int:
    """The refused records, the newest first."""
    import polars as pl

    from crypto_assets.resources.clock import SystemClock
    from crypto_assets.resources.settings import Settings

    if limit < 1:
        raise UsageError("a limit is at least 1", where="--limit", safe="nothing was read", hint="leave it out for 20")
    held = _held(runs.lake_of(Settings()), table)
    if day is not None:
        held = held.filter(pl.col("date") == runs.parsed_day(day, "--day", SystemClock()))
    newest = held.sort("observed_at", "table_name", "page", "position", descending=[True, False, False, False])
    found = newest.select(_COLUMNS).head(limit).collect()
    output.rows(found.iter_rows(named=True), form, columns=_COLUMNS)
    return 0


def replay(table: str | None) -> int:
    """Compute the days that hold refused records again, and what is downstream of them."""
    import dagster as dg

    from crypto_assets.resources.settings import Settings
    from crypto_assets.tables.window import contiguous

    settings = Settings()
    lake = runs.lake_of(settings)
    before = _held(lake, table).select("table_name", "date", "pull_id", "page", "position").collect()
    if before.is_empty():
        output.line("quarantine holds nothing" + (f" of {table}" if table else ""))
        return 0
    defs = runs.definitions(settings)
    graph = defs.resolve_asset_graph()
    code = 0
    steps = output.Steps(sys.stdout)
    with runs.instance_at(runs.dagster_home(settings)) as instance:
        for (name,), records in sorted(before.group_by("table_name"), key=lambda group: str(group[0])):
            root = dg.AssetSelection.assets(dg.AssetKey(str(name).split(".")))
            keys = (root | root.downstream()).resolve(graph)
            for window in contiguous(records["date"].to_list()):
                with steps.step(str(name)) as step:
                    report = runs.execute(defs, instance, window.days, keys)
                    step.detail = f"{window.days[0]} to {window.days[-1]} and what follows, {len(keys)} assets"
                    step.is_failed = report.exit_code != 0
                for failed in report.failed:
                    output.failure(failed.error)
                code = code or report.exit_code
    after = _held(lake, table).select(before.columns).collect()
    n_stay = len(before.join(after, before.columns, "semi"))
    output.line(f"{len(before) - n_stay} records released, {n_stay} stay in quarantine")
    return code


def _held(lake: Lake, table: str | None) -> pl.LazyFrame:
    import polars as pl

    from crypto_assets.tables.quality import Quarantine
    from crypto_assets.tables.trusted import RAW_OF

    held = lake.scan(Quarantine)
    if table is None:
        return held
    names = [contract.table.full_name for contract in RAW_OF]
    name = table.replace("/", ".").lower()
    if name not in names:
        raise runs.unknown(table, names, "--table")
    return held.filter(pl.col("table_name") == name)
