"""``doctor``: whether this machine, the lake and its tables are as they should be.

Belongs here: questions that can be answered by looking. It repairs nothing. What a table should be is its contract's
business, and what was checked when a table was written is in ``quality.check_results``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from crypto_assets.commands import output
from crypto_assets.commands import run as runs
from crypto_assets.commands.demo import MARKER
from crypto_assets.errors import CryptoAssetsError, DataError, NeedsYouError

if TYPE_CHECKING:
    from crypto_assets.resources.lake import Lake
    from crypto_assets.tables.contract import Contract

# Every answer of these days is parsed again; older days were reconciled when they were written.
_RECONCILED_DAYS = 7


@dataclass(frozen=True)
class Finding:
    """One look: what was looked at, whether it is well, and what was seen."""

    subject: str
    is_well: bool
    seen: str
    error: CryptoAssetsError | None = None


def doctor(form: output.Format) -> int:
    """Look at everything; the exit code is the kind of the gravest finding, 0 where all is well."""
    from crypto_assets.resources.settings import Settings

    settings = Settings()
    lake = runs.lake_of(settings)
    findings = [*_environment(), _look("lake", lambda: _reached(lake))]
    if findings[-1].is_well:
        # Without the lake, every table would only say the same again.
        findings += [*_tables(lake), _look("counts", lambda: _reconciled(lake)), _foreign(lake)]
    output.rows(
        [{"subject": f.subject, "ok": f.is_well, "seen": f.seen} for f in findings],
        form,
        columns=["subject", "ok", "seen"],
    )
    errors = [finding.error for finding in findings if finding.error is not None]
    for error in errors:
        output.failure(error)
    return max((error.exit_code for error in errors), default=0)


def _look(subject: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(subject, True, look())
    except CryptoAssetsError as error:
        return Finding(subject, False, error.what, error)


def _environment() -> Iterator[Finding]:
    yield Finding("python", True, sys.version.split()[0])
    yield _look("query engine", _engine)


def _engine() -> str:
    import duckdb

    from crypto_assets.resources.query import QueryEngine

    with QueryEngine({}) as engine:
        engine.query("select 1 as one")
    return f"duckdb {duckdb.__version__} with its extensions"


def _reached(lake: Lake) -> str:
    if "://" not in lake.root and not Path(lake.root).exists():
        raise NeedsYouError(
            "there is no lake yet",
            where=lake.root,
            safe="nothing was made",
            hint="run crypto-assets demo or run, or set CRYPTO_ASSETS_LAKE_URI",
        )
    lake.probe()
    return f"{lake.root} can be read and written"


def _tables(lake: Lake) -> Iterator[Finding]:
    from crypto_assets.tables import ALL_TABLES

    for contract in ALL_TABLES:

        def look(contract: type[Contract] = contract) -> str:
            state = lake.state(contract)
            if state is None:
                return "not written yet"
            # The whole of a table would take long; its newest partition shows that files can be read.
            days = lake.days(contract) if "date" in contract.table.partition_by else []
            rows = lake.scan(contract)
            if days:
                rows = rows.filter(date=days[-1])
            rows.collect()
            return f"version {state.version}, {state.n_rows:,} rows, {output.size(state.n_bytes)}"

        yield _look(contract.table.full_name, look)


def _reconciled(lake: Lake) -> str:
    from crypto_assets.commands.reconcile import counts
    from crypto_assets.tables.trusted import RAW_OF
    from crypto_assets.tables.window import Window

    days = sorted({day for contract in RAW_OF for day in lake.days(contract)})
    if not days:
        return "nothing to count yet"
    first = max(days[0], days[-1] - timedelta(days=_RECONCILED_DAYS - 1))
    found = list(counts(lake, Window.of_days(first, days[-1])))
    wrong = [count for count in found if not count.is_equal]
    if wrong:
        told = "; ".join(
            f"{c.table} raw {c.n_raw} is not {c.n_trusted} + {c.n_quarantined} + {c.n_duplicates}" for c in wrong
        )
        raise DataError(
            told,
            where=f"{first} to {days[-1]}",
            safe="raw holds every answer",
            hint=f"compute the days again: crypto-assets backfill --from {first} --to {days[-1]}",
        )
    n_raw = sum(count.n_raw for count in found)
    return f"{n_raw:,} raw records = trusted + quarantined + duplicates, {first} to {days[-1]}"


def _foreign(lake: Lake) -> Finding:
    """Files that no table owns: somebody's, or a table's whose contract is gone. Reported, never touched."""
    from crypto_assets.tables import ALL_TABLES

    if "://" in lake.root:
        return Finding("foreign files", True, "not looked for in a bucket")
    root = Path(lake.root)
    ours = {contract.table.path for contract in ALL_TABLES}
    zones = {zone for zone, _ in ours}
    foreign = [path.name for path in root.iterdir() if path.name not in zones and path.name != MARKER]
    for zone in sorted(zones):
        if (root / zone).is_dir():
            foreign += [f"{zone}/{path.name}" for path in (root / zone).iterdir() if (zone, path.name) not in ours]
    seen = f"left alone: {', '.join(sorted(foreign))}" if foreign else "none"
    return Finding("foreign files", not foreign, seen)
