"""Great Expectations suites, one a table: what the contract implies, and hand-written expectations beside it.

A suite runs on the frame in hand, in this process. The library takes seconds to import and is imported on first use.
Decimals are handed over as doubles: ranges need no more, and exactness is checked by ``rules.py``.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl

from crypto_assets.analytics.candles import KINDS
from crypto_assets.checks.verdicts import Severity, Verdict, one_line
from crypto_assets.tables import raw, refined, trusted
from crypto_assets.tables.contract import Contract, Field, Kind, fields, primary_key

SUITE = "great_expectations"
_WARNINGS = frozenset({"warning", "info"})
# A suite is a row-by-row reading: 20 values show what is wrong, the rest is in the table.
_SAMPLE = 20

# Hand-written expectations: table, and a function of the library's `expectations` module.
_Make = Callable[[Any], Sequence[Any]]


def _among(column: str, values: Sequence[str]) -> _Make:
    return lambda gxe: [gxe.ExpectColumnValuesToBeInSet(column=column, value_set=list(values))]


_WRITTEN: Mapping[type[Contract], _Make] = {
    trusted.FxRates: _among("currency_kind", ("fiat", "crypto")),
    trusted.AssetHistory: _among("interval", ("d1",)),
    trusted.AssetSnapshots: lambda gxe: [
        gxe.ExpectColumnPairValuesAToBeGreaterThanB(
            column_A="max_supply",
            column_B="supply",
            or_equal=True,
            ignore_row_if="either_value_is_missing",
            mostly=0.95,
            severity="warning",
        )
    ],
    refined.AssetDaily: _among("source_kind", ("snapshots", "history")),
    refined.DimAsset: _among("status", ("active", "delisted")),
    refined.DimExchange: _among("status", ("active", "delisted")),
    refined.DimMarket: _among("status", ("active", "quiet")),
    refined.SymbolMap: _among("method", ("manual", "provider", "rule")),
    refined.PriceDaily: _among("status", ("ok", "single_source", "disputed", "stale", "unpriced")),
    **dict.fromkeys(refined.BARS.values(), _among("source_kind", KINDS)),
}
_OUTCOMES = (
    "ok",
    "empty",
    "not_modified",
    "not_found",
    "rate_limited",
    "quota_exhausted",
    "denied",
    "malformed",
    "unavailable",
)


def preload() -> None:
    """Import the library now; otherwise the first suite does."""
    _library()


def verdicts(result: Any) -> list[Verdict]:
    """One verdict for each expectation of a validation result."""
    return [_verdict(expectation) for expectation in result.results]


def validate(contract: type[Contract], rows: pl.DataFrame) -> Any:
    """Great Expectations' own result of the table's suite on the rows."""
    batch_definition = _library()[2]
    with warnings.catch_warnings():
        # The library warns of its own use of pandas.
        warnings.simplefilter("ignore")
        batch = batch_definition.get_batch(batch_parameters={"dataframe": _pandas(rows)})
        return batch.validate(
            _suite(contract), result_format={"result_format": "BASIC", "partial_unexpected_count": _SAMPLE}
        )


def write_docs(result: Any, path: Path) -> None:
    """The result as a page of Data Docs."""
    _library()
    from great_expectations.render.renderer import ValidationResultsPageRenderer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        html = _page_view().render(ValidationResultsPageRenderer().render(result))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html, encoding="utf-8")


def expectation_count(contract: type[Contract]) -> int:
    """How many expectations the table's suite has."""
    return len(_suite(contract).expectations)


@cache
def _library() -> tuple[Any, Any, Any]:
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import great_expectations as gx
        import great_expectations.expectations as gxe

        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = {"globally": False}
        source = context.data_sources.add_pandas("rows")
        return gx, gxe, source.add_dataframe_asset("rows").add_batch_definition_whole_dataframe("rows")


@cache
def _page_view() -> Any:
    """One for all pages: each new one compiles its templates again, most of a page's time."""
    from great_expectations.render.view import DefaultJinjaPageView

    return DefaultJinjaPageView()


@cache
def _suite(contract: type[Contract]) -> Any:
    gx, gxe, _ = _library()
    implied = [
        gxe.ExpectTableColumnsToMatchOrderedList(column_list=contract.column_names()),
        gxe.ExpectCompoundColumnsToBeUnique(column_list=list(primary_key(contract)))
        if len(primary_key(contract)) > 1
        else gxe.ExpectColumnValuesToBeUnique(column=primary_key(contract)[0]),
    ]
    for field in fields(contract):
        implied += _implied(gxe, contract, field)
    if issubclass(contract, raw.RawAnswers):
        implied += _among("outcome", _OUTCOMES)(gxe)
    written = _WRITTEN[contract](gxe) if contract in _WRITTEN else []
    return gx.ExpectationSuite(name=contract.table.full_name, expectations=[*implied, *written])


def _implied(gxe: Any, contract: type[Contract], field: Field) -> list[Any]:
    """What the contract says of one column: keys are there, and numbers lie within their bounds.

    Not each nullability again: the write step has refused such rows, and every expectation costs milliseconds.
    """
    implied = [gxe.ExpectColumnValuesToNotBeNull(column=field.name)] if field.is_key else []
    column = contract.columns()[field.name]
    low, high = getattr(column, "min", None), getattr(column, "max", None)
    is_measure = field.kind not in (Kind.KEY, Kind.CLOCK, Kind.ATTRIBUTE)
    if is_measure and not issubclass(contract, raw.RawAnswers) and (low is not None or high is not None):
        bounds = {"min_value": None if low is None else float(low), "max_value": None if high is None else float(high)}
        implied.append(gxe.ExpectColumnValuesToBeBetween(column=field.name, **bounds))
    return implied


def _pandas(rows: pl.DataFrame) -> Any:
    """The rows as a pandas frame; raw bodies stay out, they are not looked at and may be large."""
    import pandas as pd

    plain = rows.with_columns(
        pl.col(pl.Decimal).cast(pl.Float64), pl.col(pl.Date).cast(pl.Datetime("us")), pl.col(pl.Binary).is_not_null()
    )
    columns = {}
    # The rows' own columns, not the contract's: which ones there are, and in what order, is itself expected.
    for series in plain.get_columns():
        is_object = series.dtype in (pl.String, pl.Boolean) or (series.dtype.is_integer() and series.null_count())
        columns[series.name] = pd.Series(series.to_list(), dtype=object) if is_object else pd.Series(series.to_numpy())
    return pd.DataFrame(columns)


def _verdict(result: Any) -> Verdict:
    config = result.expectation_config
    subject = config.kwargs.get("column") or config.kwargs.get("column_A") or "table"
    found = result.result or {}
    error = _error(result.exception_info or {})
    n_failed = int(found.get("unexpected_count") or 0)
    values = found.get("partial_unexpected_list") or []
    if error is not None:
        observed = f"the expectation itself failed: {error}"
    elif "element_count" in found:
        observed = f"{n_failed} of {found['element_count']} unexpected"
    else:
        observed = "as expected" if result.success else f"found {found.get('observed_value')}"
    return Verdict(
        check=f"{config.type}:{subject}",
        suite=SUITE,
        # An enumeration of strings, or a plain string where the expectation was given one.
        severity=Severity.WARNING if config.severity in _WARNINGS else Severity.ERROR,
        passed=bool(result.success) and error is None,
        observed=observed,
        expected=_told(config.kwargs),
        n_failed=n_failed,
        failing_rows=json.dumps(values, default=str) if values else None,
    )


def _error(told: Mapping[str, Any]) -> str | None:
    """What the library says of an exception: one record, or one for each metric that raised."""
    records = [told] if "raised_exception" in told else list(told.values())
    raised = [r for r in records if isinstance(r, Mapping) and r.get("raised_exception")]
    return one_line(str(raised[0].get("exception_message") or "no message")) if raised else None


def _told(kwargs: dict[str, Any]) -> str:
    told = {k: v for k, v in kwargs.items() if k not in ("column", "batch_id", "column_list") and v is not None}
    return ", ".join(f"{name} {value}" for name, value in told.items()) or "as the contract says"
