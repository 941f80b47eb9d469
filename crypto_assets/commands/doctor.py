"""``doctor``: whether this machine, the lake and its tables are as they should be.

Belongs here: questions that can be answered by looking, with ``--deep`` at every byte. It repairs nothing that takes
judgement: ``--fix`` removes what misleads readers of a log that is whole, ``--gc`` what no version of a table names.
How files are looked at is ``resources/inspection.py``. What a table should be is its contract's business, and what was
checked when a table was written is in ``quality.check_results``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from crypto_assets.commands import output
from crypto_assets.commands import run as runs
from crypto_assets.commands.demo import MARKER
from crypto_assets.errors import CryptoAssetsError, DataError, NeedsYouError, UsageError

if TYPE_CHECKING:
    from crypto_assets.resources.catalog import Catalog
    from crypto_assets.resources.inspection import Files
    from crypto_assets.resources.lake import Lake
    from crypto_assets.resources.settings import Settings
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


def doctor(
    form: output.Format,
    *,
    is_deep: bool = False,
    is_mending: bool = False,
    is_collecting: bool = False,
    is_agreed: bool = False,
) -> int:
    """Look at everything; the exit code is the kind of the gravest finding, 0 where all is well."""
    from crypto_assets.resources.clock import SystemClock
    from crypto_assets.resources.settings import Settings
    from crypto_assets.resources.store_errors import store_errors

    if is_agreed and not is_collecting:
        raise UsageError("--yes agrees to --gc only", where="--yes", safe="nothing was done", hint="say --gc --yes")
    settings = Settings()
    lake, now = runs.lake_of(settings), SystemClock().now()
    findings = [*_environment(settings), _look("lake", lambda: _reached(lake))]
    if findings[-1].is_well:
        # Without the lake, every table would only say the same again.
        with store_errors("doctor", "no row was changed", lake.root):
            if is_mending:
                findings += _mended(lake)
            if is_collecting:
                findings += _collected(lake, now, is_agreed=is_agreed)
            findings += [*_tables(lake), _look("counts", lambda: _reconciled(lake, now)), _foreign(lake)]
            if catalog := lake.catalog:
                findings.append(_look("catalog", lambda: _registered(catalog, lake)))
            if is_deep or "://" not in lake.root:
                # Every entry of every log is read, which is a request each in a bucket.
                findings += _quirks(lake)
            if is_deep:
                findings += _proofs(lake)
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


def _environment(settings: Settings) -> Iterator[Finding]:
    yield Finding("python", True, sys.version.split()[0])
    yield _look("query engine", _engine)
    if settings.query_engine == "athena":
        yield _look("athena", lambda: _athena(settings))


def _engine() -> str:
    import duckdb

    from crypto_assets.resources.query import QueryEngine

    with QueryEngine({}) as engine:
        engine.query("select 1 as one")
    return f"duckdb {duckdb.__version__} with its extensions"


def _athena(settings: Settings) -> str:
    from contextlib import closing

    from crypto_assets.commands.sql import athena

    with closing(athena(settings)) as engine:
        return engine.check()


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


def _proofs(lake: Lake) -> Iterator[Finding]:
    """Every file against the log, and every row against its commit, table by table."""
    from crypto_assets.resources.inspection import prove
    from crypto_assets.tables import ALL_TABLES

    for contract in ALL_TABLES:
        subject = f"{contract.table.full_name} deep"
        try:
            proof = prove(lake, contract)
        except CryptoAssetsError as error:
            yield Finding(subject, False, error.what, error)
            continue
        yield from (Finding(subject, False, error.what, error) for error in proof.errors)
        if proof.n_files and not proof.errors:
            bodies = f", {proof.n_bodies:,} bodies match" if proof.n_bodies else ""
            proven = f"{proof.n_proven:,} of {proof.n_rows:,} rows proven by sha256"
            yield Finding(subject, True, f"{proof.n_files} files of the right size, {proven}{bodies}")


def _mended(lake: Lake) -> Iterator[Finding]:
    from crypto_assets.resources.inspection import mend

    done = [f"{name}: {told}" for name, files in _files(lake) for told in mend(files)]
    yield Finding("fix", True, "; ".join(done) or "nothing was to be mended")


def _collected(lake: Lake, now: datetime, *, is_agreed: bool) -> Iterator[Finding]:
    """Files that no version names, and uploads that were never completed; removed where agreed and old enough."""
    from crypto_assets.resources.inspection import GRACE, unreferenced

    for name, files in _files(lake):
        strays = unreferenced(files, files.all())
        old = [path for path, file in strays.items() if now - file.modified_at > GRACE]
        uploads = [upload for upload in files.uploads() if now - upload.began_at > GRACE]
        if is_agreed:
            for path in old:
                files.remove(path)
            for upload in uploads:
                files.abort(upload)
        state = "removed" if is_agreed else "would be removed with --yes"
        told = [f"{path} {state}" for path in old]
        told += [f"incomplete upload of {upload.path} {state}" for upload in uploads]
        told += [f"{path} kept: younger than {GRACE.days} days" for path in sorted(strays.keys() - set(old))]
        if told:
            yield Finding(f"{name} gc", is_agreed, "; ".join(told))


def _quirks(lake: Lake) -> Iterator[Finding]:
    """What readers take no notice of, and people should: log entries that say nothing, files of nobody."""
    from crypto_assets.resources.inspection import log_faults, unreferenced
    from crypto_assets.resources.store_errors import advice
    from crypto_assets.tables import BY_NAME

    for name, files in _files(lake):
        stored = files.all()
        contract = BY_NAME[name]
        empty = [fault for fault in log_faults(files, stored) if not fault.is_fatal]
        if empty:
            days = lake.days(contract) if "date" in contract.table.partition_by else []
            remedy = advice(contract, days, "file", lake.uri(contract))
            yield Finding(f"{name} log", False, f"{'; '.join(fault.what for fault in empty)}; {remedy}")
        strays = unreferenced(files, stored)
        if strays:
            what = f"{len(strays)} files that no version names, e.g. {min(strays)}; readers ignore them"
            yield Finding(f"{name} files", False, f"{what}; crypto-assets doctor --gc lists them")


def _files(lake: Lake) -> Iterator[tuple[str, Files]]:
    from crypto_assets.resources.inspection import files_of
    from crypto_assets.tables import ALL_TABLES

    for contract in ALL_TABLES:
        yield contract.table.full_name, files_of(lake, contract)


def _reconciled(lake: Lake, now: datetime) -> str:
    from crypto_assets.commands.reconcile import counts
    from crypto_assets.tables.trusted import RAW_OF
    from crypto_assets.tables.window import Window

    days = sorted({day for contract in RAW_OF for day in lake.days(contract)})
    if not days:
        return "nothing to count yet"
    first = max(days[0], days[-1] - timedelta(days=_RECONCILED_DAYS - 1))
    found = list(counts(lake, Window.of_days(first, days[-1]), now))
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


def _registered(catalog: Catalog, lake: Lake) -> str:
    from crypto_assets.commands.catalog import require_equal

    require_equal(catalog.check(lake))
    return f"Glue is equal to the lake, in {catalog.prefix}*"


def _foreign(lake: Lake) -> Finding:
    """Files that no table owns: somebody's, or a table's whose contract is gone. Reported, never touched."""
    from crypto_assets.resources.inspection import files_of
    from crypto_assets.resources.lake import PROBE
    from crypto_assets.resources.lease import FOLDER
    from crypto_assets.tables import ALL_TABLES

    files = files_of(lake)
    ours = {contract.table.path for contract in ALL_TABLES}
    zones = {zone for zone, _ in ours}
    foreign = [name for name in files.names() if name not in zones | {MARKER, FOLDER, PROBE}]
    for zone in zones:
        foreign += [f"{zone}/{name}" for name in files.names(zone) if (zone, name) not in ours]
    seen = f"left alone: {', '.join(sorted(foreign))}" if foreign else "none"
    return Finding("foreign files", not foreign, seen)
