"""``run``: one in-process Dagster run over some days, and what became of it.

Belongs here: choosing days and assets, running them on an instance of Dagster, and reporting. ``demo.py``,
``backfill.py`` and ``quarantine.py`` run through here too. Does not: schedules and sensors, which are Dagster's own
(``up.py``).
"""

from __future__ import annotations

import difflib
import fcntl
import logging
import os
import sys
import uuid
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crypto_assets.commands import output
from crypto_assets.errors import CryptoAssetsError, DataError, NeedsYouError, TransientError, UsageError

if TYPE_CHECKING:
    import dagster as dg

    from crypto_assets.resources.clock import Clock
    from crypto_assets.resources.lake import Lake
    from crypto_assets.resources.settings import Settings

HISTORY = ("raw", "coincap_history")
_NOTHING = "nothing was run"


@dataclass(frozen=True)
class Failed:
    """A step that failed: the asset (or check), what it said, and the exit code of the error's kind."""

    step: str
    told: str
    exit_code: int

    @property
    def error(self) -> CryptoAssetsError:
        """The typed error again, from the one line in which Dagster carried it."""
        where, _, rest = self.told.partition(": ")
        parts = rest.split("; ", 2)
        what, safe, hint = parts if len(parts) == 3 else (self.told, "the other assets went on", "see the run's log")
        where = where if len(parts) == 3 else self.step
        kinds = {kind.exit_code: kind for kind in (DataError, UsageError, TransientError, NeedsYouError)}
        return kinds.get(self.exit_code, DataError)(what, where=where, safe=safe, hint=hint)


@dataclass
class Report:
    """What became of a run: rows by asset (of the run's days), verdicts, failures and what was skipped for them."""

    n_rows: dict[str, int] = field(default_factory=dict)
    n_passed: dict[str, int] = field(default_factory=dict)
    warned: dict[str, list[str]] = field(default_factory=dict)
    broken: dict[str, list[str]] = field(default_factory=dict)
    failed: list[Failed] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0, or the code of the first error's kind, or 1 for a blocking check that failed."""
        if self.failed:
            return self.failed[0].exit_code
        return 1 if self.broken else 0


def definitions(settings: Settings, resources: Mapping[str, object] | None = None) -> dg.Definitions:
    """The product's definitions, for these settings."""
    from crypto_assets.definitions import build_definitions

    return build_definitions(settings, resources)


def lake_of(settings: Settings, clock: Clock | None = None) -> Lake:
    """The lake that the settings name."""
    from crypto_assets.resources.catalog import catalog_of
    from crypto_assets.resources.lake import Lake
    from crypto_assets.resources.settings import storage_options

    catalog = catalog_of(settings.catalog, settings.catalog_prefix)
    return Lake(settings.lake_root, storage_options=storage_options(), clock=clock, catalog=catalog)


def dagster_home(settings: Settings) -> Path:
    """Where Dagster keeps its runs: ``DAGSTER_HOME``, else beside the state directory."""
    told = os.environ.get("DAGSTER_HOME")
    return Path(told) if told else settings.state_dir.resolve().parent / "dagster"


def instance_at(home: Path) -> dg.DagsterInstance:
    """Dagster's instance in this directory, made with the product's ``dagster.yaml`` where there is none."""
    import dagster as dg

    home.mkdir(parents=True, exist_ok=True)
    with (home / ".instance.lock").open("w", encoding="utf-8") as file:
        # Whoever opens an empty home makes its SQLite tables; of two at once, one would fail.
        fcntl.flock(file, fcntl.LOCK_EX)
        prepare_home(home)
        return dg.DagsterInstance.from_config(str(home.resolve()))


def prepare_home(home: Path) -> None:
    """Make the directory and put ``dagster.yaml`` there; a file that somebody changed is left alone."""
    home.mkdir(parents=True, exist_ok=True)
    target = home / "dagster.yaml"
    if not target.exists():
        target.write_text(shipped("dagster.yaml"), encoding="utf-8")


def shipped(name: str) -> str:
    """A configuration file that comes with the product: in the package when installed, else in the repository."""
    package = Path(__file__).parents[1]
    for folder in (package, package.parent):
        if (folder / name).is_file():
            return (folder / name).read_text(encoding="utf-8")
    raise NeedsYouError(
        f"{name} is missing", where="this installation", safe=_NOTHING, hint="install the package again"
    )


def execute(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    days: Sequence[date],
    assets: Iterable[dg.AssetKey] | None = None,
    *,
    has_checks: bool = True,
    config: Mapping[str, object] | None = None,
    tell: Callable[[str], object] = lambda _: None,
) -> Report:
    """Run the refresh job over a range of days in this process; never raises for what fails inside.

    Args:
        days: first and last day count; what lies between is run too.
        assets: all where None.
        has_checks: whether the assets' checks run with them.
        tell: is told the step under way.
    """
    from crypto_assets.partitions import range_tags

    job = defs.resolve_job_def("refresh")
    if assets is not None or not has_checks:
        keys = defs.resolve_asset_graph().materializable_asset_keys if assets is None else assets
        job = job.get_subset(asset_selection=frozenset(keys), asset_check_selection=None if has_checks else frozenset())
    run_id = str(uuid.uuid4())
    instance.add_event_listener(run_id, lambda event: _tell_step(event, tell))
    is_one = min(days) == max(days)
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    logging.getLogger("crypto_assets").addHandler(logging.NullHandler())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = job.execute_in_process(
            run_config={**quiet, **({"ops": config} if config else {})},
            instance=instance,
            partition_key=str(min(days)) if is_one else None,
            tags=None if is_one else range_tags(min(days), max(days)),
            raise_on_error=False,
            run_id=run_id,
        )
    return _reported(result.all_events, is_one=is_one)


def fed(defs: dg.Definitions) -> list[dg.AssetKey]:
    """The assets that the providers that are here bring, and what can be computed of these alone.

    A trusted table takes what any of its providers says; a refined one needs each of its inputs.
    """
    graph = defs.resolve_asset_graph()
    found = {key for key in graph.executable_asset_keys if key.path[0] == "raw"}
    for key in graph.toposorted_asset_keys:
        parents = graph.get(key).parent_keys - {key}
        needs = all if key.path[0] == "refined" else any
        if parents and needs(parent in found for parent in parents):
            found.add(key)
    return sorted(found)


def history_config(asset_ids: Iterable[str], keys: Collection[dg.AssetKey] | None) -> Mapping[str, object] | None:
    """The run configuration that names the history's assets, where history is part of the run."""
    import dagster as dg

    if keys is not None and dg.AssetKey(list(HISTORY)) not in keys:
        return None
    return {"__".join(HISTORY): {"config": {"subjects": sorted(asset_ids)}}}


def selected(defs: dg.Definitions, settings: Settings, names: Sequence[str]) -> list[dg.AssetKey]:
    """The assets that people mean by ``raw/coincap_assets``, ``raw.coincap_assets`` or ``raw``.

    All without a name, but for what is pulled only where it is named.

    Raises UsageError for an unknown name, NeedsYouError for an asset of a provider that is not registered.
    """
    from crypto_assets.assets.handles import absence
    from crypto_assets.automation.cadence import ON_REQUEST
    from crypto_assets.definitions import RAW

    # What a provider that is absent would write is in the graph too, as a table of nobody's.
    keys = {".".join(key.path): key for key in defs.resolve_asset_graph().materializable_asset_keys}
    on_request = {contract.table.full_name for contract in ON_REQUEST}
    if not names:
        return [key for name, key in keys.items() if name not in on_request]
    absent = {
        f"raw.{attribute}": (provider, why)
        for provider, module in RAW.items()
        if (why := absence(provider, settings)) is not None
        for attribute in vars(module)
    }
    found: dict[str, dg.AssetKey] = {}
    for name in names:
        dotted = name.replace("/", ".").lower()
        hits = {
            full: key
            for full, key in keys.items()
            if full == dotted or (full.startswith(f"{dotted}.") and full not in on_request)
        }
        if not hits and dotted in absent:
            provider, why = absent[dotted]
            raise NeedsYouError(
                f"{name} is not registered: {why}",
                where=provider,
                safe=_NOTHING,
                hint="set it, or run crypto-assets demo, which needs neither key nor account",
            )
        if not hits:
            raise unknown(name, keys, "asset")
        found.update(hits)
    return list(found.values())


def unknown(name: str, known: Iterable[str], where: str) -> UsageError:
    """The error for a table or asset that is not there."""
    names = sorted(known)
    near = difflib.get_close_matches(name.replace("/", ".").lower(), names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names)}"
    return UsageError(f"there is no table {name!r}", where=where, safe=_NOTHING, hint=hint)


def parsed_day(text: str, option: str, clock: Clock) -> date:
    """A day as YYYY-MM-DD, or ``today`` or ``yesterday``. Raises UsageError for anything else and for the future."""
    from crypto_assets.partitions import FIRST_DAY

    today = clock.now().date()
    named = {"today": today, "yesterday": today - timedelta(days=1)}
    try:
        day = named.get(text) or date.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"{text!r} is not a day", where=option, safe=_NOTHING, hint="write it as 2026-11-10, in UTC"
        ) from None
    if not date.fromisoformat(FIRST_DAY) <= day <= today:
        raise UsageError(
            f"{day} lies outside {FIRST_DAY} to {today}", where=option, safe=_NOTHING, hint="choose a day within"
        )
    return day


def run(day: str, select: Sequence[str], form: output.Format) -> int:
    """One run of the day's chain against the configured lake."""
    from crypto_assets.resources.clock import SystemClock
    from crypto_assets.resources.settings import Settings

    settings = Settings()
    clock = SystemClock()
    on = parsed_day(day, "--day", clock)
    defs = definitions(settings)
    keys = selected(defs, settings, select)
    lake_of(settings).probe()
    for line in absences(settings):
        output.note(f"note: {line}")
    # In a pipe stdout carries rows; signs of life go beside them.
    steps = output.Steps(sys.stdout if form is output.Format.TABLE else sys.stderr)
    with instance_at(dagster_home(settings)) as instance, steps.step("run") as step:
        report = execute(defs, instance, [on], keys, tell=lambda name: setattr(step, "now", name))
        step.detail = f"{len(report.n_rows)} of {len(keys)} assets, {on}"
        step.is_failed = report.exit_code != 0
    say(report, form)
    return report.exit_code


def absences(settings: Settings) -> list[str]:
    """A line for each provider that is wanted and cannot run: why, and what would come with it."""
    from crypto_assets.assets.handles import absence
    from crypto_assets.providers import coincap
    from crypto_assets.providers.registry import NAMES, PROVIDERS

    unlocks = {name: provider.unlocks for name, provider in PROVIDERS.items()} | {coincap.NAME: coincap.UNLOCKS}
    return [
        f"{name} is left out: {why} (it brings {unlocks[name]})"
        for name in NAMES
        if name in settings.providers and (why := absence(name, settings)) is not None
    ]


def failed_days(lake: Lake, days: Sequence[date], tables: Collection[str]) -> list[tuple[date, str]]:
    """The days that could not be computed, or failed a blocking check: the day, and what was met."""
    import polars as pl

    from crypto_assets.tables.quality import CheckResults
    from crypto_assets.tables.window import Window

    verdicts = (
        lake.scan(CheckResults, Window.of_days(min(days), max(days)))
        .filter(pl.col("is_blocking") & ~pl.col("passed"), pl.col("table_name").is_in(list(tables)))
        .sort("date", "table_name", "check_name")
        .select("date", "table_name", "check_name", "observed")
        .collect()
    )
    return [(on, f"{table} {check}: {observed}") for on, table, check, observed in verdicts.rows()]


def say(report: Report, form: output.Format) -> None:
    """What became of each asset, and each failure in a line."""
    names = sorted({*report.n_rows, *report.skipped, *(failed.step for failed in report.failed)})
    failed = {each.step for each in report.failed}
    output.rows(
        [
            {
                "asset": name,
                "state": "failed" if name in failed else "skipped" if name in report.skipped else "done",
                "rows": report.n_rows.get(name),
                "checks_passed": report.n_passed.get(name, 0),
                "warnings": ", ".join(report.warned.get(name, [])),
                "errors": ", ".join(report.broken.get(name, [])),
            }
            for name in names
        ],
        form,
        columns=["asset", "state", "rows", "checks_passed", "warnings", "errors"],
    )
    for each in report.failed:
        output.failure(each.error)


def _tell_step(entry: Any, tell: Callable[[str], object]) -> None:
    event = entry.dagster_event
    if event is not None and event.event_type_value == "STEP_START":
        tell(_name_of(event.step_key))


def _name_of(step: str | None) -> str:
    """``trusted__asset_snapshots`` and ``check_trusted_asset_snapshots`` as people write them."""
    text = step or "run"
    if text.startswith("check_"):
        zone, _, name = text.removeprefix("check_").partition("_")
        return f"checks of {zone}.{name}"
    return text.replace("__", ".")


def _reported(events: Sequence[Any], *, is_one: bool) -> Report:
    from crypto_assets.tables import BY_NAME
    from crypto_assets.tables.contract import Write

    report = Report()
    for event in events:
        kind, data = event.event_type_value, event.event_specific_data
        if kind == "ASSET_MATERIALIZATION":
            name = ".".join(event.asset_key.path)
            found = data.materialization.metadata
            counted = found.get("dagster/partition_row_count")
            n_rows, held = int(counted.value) if counted else 0, report.n_rows.get(name, 0)
            # A merged table is whole on every day.
            is_whole = BY_NAME[name].table.write is Write.MERGE
            report.n_rows[name] = max(held, n_rows) if is_whole else held + n_rows
        elif kind == "ASSET_CHECK_EVALUATION" and (is_one or data.partition is not None):
            name = ".".join(data.asset_key.path)
            if data.passed:
                report.n_passed[name] = report.n_passed.get(name, 0) + 1
            else:
                group = report.broken if data.severity.value == "ERROR" else report.warned
                group.setdefault(name, []).append(f"{data.check_name} {data.partition or ''}".strip())
        elif kind == "STEP_FAILURE":
            report.failed.append(_failed(event.step_key, data))
        elif kind == "STEP_SKIPPED" and not event.step_key.startswith("check_"):
            report.skipped.append(_name_of(event.step_key))
    return report


def _failed(step: str, data: Any) -> Failed:
    name = _name_of(step)
    if data.user_failure_data is not None:
        code = data.user_failure_data.metadata.get("exit_code")
        return Failed(name, str(data.user_failure_data.description), int(code.value) if code else 1)
    error = data.error
    while error.cause is not None:
        error = error.cause
    kinds = {kind.__name__: kind.exit_code for kind in (DataError, UsageError, TransientError, NeedsYouError)}
    kinds["BudgetExhausted"] = NeedsYouError.exit_code
    told = error.message.strip()
    if error.cls_name in kinds:
        return Failed(name, told.partition(": ")[2], kinds[error.cls_name])
    return Failed(name, f"{error.cls_name}: {told.splitlines()[0] if told else 'no message'}", 1)
