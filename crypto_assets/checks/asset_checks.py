"""Checks as Dagster asset checks: one op a table, verdicts a day, results into ``quality.check_results`` and Data Docs.

A range of days is judged at once, and what fails on it again in parts down to its days, so that a failing verdict is of
its own day: the good days go on, the bad one is stopped by ``assets.lake_asset``, which reads the verdicts.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

# Not exported by dagster; without it a ranged run's verdicts are not tied to their partitions. Pinned in
# tests/test_upstream.py.
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData

from crypto_assets.assets.lake_asset import MATERIALIZED, buckets_of, windows_of
from crypto_assets.checks import suites
from crypto_assets.checks.rules import rules_of
from crypto_assets.checks.verdicts import Case, Check, Severity, Verdict
from crypto_assets.partitions import DAILY, hours_of
from crypto_assets.resources.clock import Clock
from crypto_assets.resources.failpoints import failpoint
from crypto_assets.resources.lake import Lake
from crypto_assets.tables import BY_NAME
from crypto_assets.tables.contract import Contract, Write, polars_schema
from crypto_assets.tables.quality import CheckResults
from crypto_assets.tables.window import Window

# One Dagster check for the whole suite: its expectations are columns of one table, and rows of check_results.
EXPECTATIONS = "expectations"
# A range with a failure is judged again in eighths: one bad day of a year is found by some 25 judgements, not by 365,
# and a year of bad days costs an eighth more than judging each of them.
_PARTS = 8


def checks_of(assets: Iterable[object], data_docs: Path) -> list[dg.AssetChecksDefinition]:
    """The checks of every asset that has a contract."""
    keys = [key for asset in assets if isinstance(asset, dg.AssetsDefinition) for key in asset.keys]
    return [asset_checks(BY_NAME[".".join(key.path)], data_docs) for key in keys]


def checks_for(contract: type[Contract]) -> list[Check]:
    """The suite first, then our own rules."""
    told = "The Great Expectations suite of the table holds."
    suite = Check(
        EXPECTATIONS, Severity.ERROR, told, lambda case: suites.verdicts(case.validation) if case.validation else []
    )
    return [suite, *rules_of(contract)]


def judge(checks: Sequence[Check], case: Case) -> dict[str, list[Verdict]]:
    """The verdicts of each check on a case."""
    return {check.name: check.judge(case) for check in checks}


def asset_checks(contract: type[Contract], data_docs: Path) -> dg.AssetChecksDefinition:
    """All checks of one table as one op."""
    checks = checks_for(contract)
    asset_key = dg.AssetKey(list(contract.table.path))
    specs = [
        dg.AssetCheckSpec(
            check.name,
            asset=asset_key,
            description=check.description,
            blocking=check.severity is Severity.ERROR,
            partitions_def=DAILY,
            metadata={"severity": str(check.severity)},
            # Within a run the tables that a check reads come first; alone, a check reads them as they are.
            additional_deps=[dg.AssetKey(list(other.table.path)) for other in check.reads],
        )
        for check in checks
    ]

    def body(
        context: dg.AssetCheckExecutionContext, lake: dg.ResourceParam[Lake], clock: dg.ResourceParam[Clock]
    ) -> Iterator[dg.AssetCheckResult]:
        days = [date.fromisoformat(key) for key in context.op_execution_context.partition_keys]
        # A table that is computed by the day because it is large is judged by the hour where hours were computed.
        hours = hours_of(context.op_execution_context.run.tags) if contract.table.batch == "day" else ()
        verdicts = run_checks(contract, days, checks=checks, lake=lake, clock=clock, data_docs=data_docs, hours=hours)
        if len(days) > 1:
            _report_partitions(context, asset_key, checks, verdicts)
        for check in checks:
            yield _result(asset_key, check, verdicts)

    decorated: dg.AssetChecksDefinition = dg.multi_asset_check(
        name=f"check_{contract.table.full_name.replace('.', '_')}", specs=specs, can_subset=False
    )(body)
    return decorated


def run_checks(
    contract: type[Contract],
    days: Sequence[date],
    *,
    checks: Sequence[Check],
    lake: Lake,
    clock: Clock,
    data_docs: Path,
    hours: tuple[Window, ...] = (),
) -> dict[date, dict[str, list[Verdict]]]:
    """Judge the days, or only these ``hours`` of them, keep the verdicts in ``quality.check_results``, and return them
    by day and check."""
    verdicts: dict[date, dict[str, list[Verdict]]] = {}
    for window in windows_of(contract, days):
        rows = _rows(lake, contract, window, hours)
        case = Case(lake, contract, window, rows, clock.now(), _validated(lake, contract, rows), hours)
        verdicts.update(_by_day(checks, case))
        if case.validation is not None:
            suites.write_docs(case.validation, _page(data_docs, contract, window))
        keep(lake, contract, window, {day: verdicts[day] for day in window.days})
    return verdicts


def _rows(lake: Lake, contract: type[Contract], window: Window, hours: Sequence[Window]) -> pl.DataFrame:
    if contract.table.write is Write.MERGE:
        return lake.read(contract)
    inside = [hour for hour in hours if window.start <= hour.start < window.end]
    return pl.concat(lake.read(contract, hour) for hour in inside or [buckets_of(contract, window)])


def _by_day(checks: Sequence[Check], case: Case) -> dict[date, dict[str, list[Verdict]]]:
    """The verdicts of each day. A check that passes on the whole window has passed on each of its days."""
    days = case.window.days
    together = judge(checks, case)
    if len(days) == 1 or case.contract.table.write is Write.MERGE:
        return dict.fromkeys(days, together)
    passed = {name: told for name, told in together.items() if all(verdict.passed for verdict in told)}
    spanned = {
        name: [replace(verdict, observed=f"{verdict.observed}, over {len(days)} days") for verdict in told]
        for name, told in passed.items()
    }
    found = {day: dict(spanned) for day in days}
    failed = [check for check in checks if check.name not in passed]
    n = -(-len(days) // _PARTS)
    for part in [days[i : i + n] for i in range(0, len(days), n)] if failed else []:
        for day, told in _by_day(failed, _case(failed, case, Window.of_days(part[0], part[-1]))).items():
            found[day] |= told
    return found


def keep(
    lake: Lake, contract: type[Contract], window: Window, verdicts: Mapping[date, Mapping[str, list[Verdict]]]
) -> None:
    """Replace the window's verdicts of the table, all but the one that assets write themselves."""
    name = contract.table.full_name
    rows = [
        {
            "table_name": name,
            "check_name": verdict.check,
            "date": day,
            "suite": verdict.suite,
            "severity": str(verdict.severity),
            "is_blocking": verdict.is_blocking,
            "passed": verdict.passed,
            "observed": verdict.observed,
            "expected": verdict.expected,
            "n_failed": verdict.n_failed,
            "failing_rows": verdict.failing_rows,
        }
        for day, by_check in verdicts.items()
        for told in by_check.values()
        for verdict in told
    ]
    held = lake.scan(CheckResults, window).filter(
        (pl.col("table_name") == name) & (pl.col("check_name") == MATERIALIZED)
    )
    frame = pl.concat([pl.DataFrame(rows, schema=polars_schema(CheckResults)), held.collect()])
    frame = frame.unique(["table_name", "check_name", "date"], keep="first", maintain_order=True)
    failpoint("before_keep")
    lake.replace(CheckResults, frame, window, where={"table_name": name})


def _validated(lake: Lake, contract: type[Contract], rows: pl.DataFrame) -> Any:
    """The suite's result; None for a table that was never written, of which it would say nothing for half a second."""
    return suites.validate(contract, rows) if len(rows) or lake.state(contract) else None


def _case(checks: Sequence[Check], whole: Case, window: Window) -> Case:
    """What the checks look at in a part of a case."""
    rows = _rows(whole.lake, whole.contract, window, whole.hours)
    # Great Expectations takes longest by far, and is not asked again for what it found good.
    is_validated = any(check.name == EXPECTATIONS for check in checks)
    validation = _validated(whole.lake, whole.contract, rows) if is_validated else None
    return replace(whole, window=window, rows=rows, validation=validation)


def _page(data_docs: Path, contract: type[Contract], window: Window) -> Path:
    span = f"{window.days[0]}" if len(window.days) == 1 else f"{window.days[0]}_{window.days[-1]}"
    return data_docs / contract.table.zone / contract.table.name / f"{span}.html"


def _result(
    asset_key: dg.AssetKey, check: Check, verdicts: Mapping[date, Mapping[str, list[Verdict]]]
) -> dg.AssetCheckResult:
    """The check's result for Dagster: an error only where every day has one, so that good days of a range go on."""
    bad = {day: [v for v in told[check.name] if not v.passed] for day, told in verdicts.items()}
    bad_days = {day: told for day, told in bad.items() if told}
    stopped = [day for day, told in bad_days.items() if any(v.is_blocking for v in told)]
    is_error = bool(stopped) and len(stopped) == len(verdicts)
    return dg.AssetCheckResult(
        asset_key=asset_key,
        check_name=check.name,
        passed=not bad_days,
        severity=dg.AssetCheckSeverity.ERROR if is_error else dg.AssetCheckSeverity.WARN,
        metadata=_metadata(check, verdicts, bad_days),
    )


def _metadata(
    check: Check, verdicts: Mapping[date, Mapping[str, list[Verdict]]], bad_days: Mapping[date, list[Verdict]]
) -> dict[str, Any]:
    newest = verdicts[max(verdicts)][check.name]
    told = [(day, verdict) for day, bad in sorted(bad_days.items()) for verdict in bad] or [
        (max(verdicts), verdict) for verdict in newest[:1]
    ]
    return {
        "verdicts": sum(len(by_check[check.name]) for by_check in verdicts.values()),
        "failed_days": len(bad_days),
        **{f"{day} {v.check}": f"{v.observed} (expected: {v.expected})" for day, v in told[:20]},
        **{f"{day} {v.check} rows": dg.MetadataValue.json(v.failing_rows) for day, v in told[:5] if v.failing_rows},
    }


def _report_partitions(
    context: dg.AssetCheckExecutionContext,
    asset_key: dg.AssetKey,
    checks: Sequence[Check],
    verdicts: Mapping[date, Mapping[str, list[Verdict]]],
) -> None:
    """The verdict of each day of a ranged run, tied to that day's materialization."""
    keys = [str(day) for day in verdicts]
    filters = dg.AssetRecordsFilter(asset_key=asset_key, asset_partitions=keys)
    newest: dict[str, Any] = {}
    for record in context.instance.fetch_materializations(filters, limit=max(1000, 4 * len(keys))).records:
        newest.setdefault(str(record.partition_key), record)
    for check in checks:
        for day, told in verdicts.items():
            bad = [verdict for verdict in told[check.name] if not verdict.passed]
            is_error = any(verdict.is_blocking for verdict in bad)
            record = newest.get(str(day))
            target = (
                AssetCheckEvaluationTargetMaterializationData(
                    storage_id=record.storage_id, run_id=record.run_id, timestamp=record.timestamp
                )
                if record
                else None
            )
            # The signature does not name evaluations, but takes them (dagster 1.13; pinned in tests/test_upstream.py).
            context.op_execution_context.log_event(
                dg.AssetCheckEvaluation(  # type: ignore[arg-type]
                    asset_key=asset_key,
                    check_name=check.name,
                    passed=not bad,
                    metadata={v.check: f"{v.observed} (expected: {v.expected})" for v in bad[:20]},
                    severity=dg.AssetCheckSeverity.ERROR if is_error else dg.AssetCheckSeverity.WARN,
                    partition=str(day),
                    target_materialization_data=target,
                )
            )
