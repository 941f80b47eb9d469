"""Checks of our own: what Great Expectations cannot say about a frame alone, or not exactly.

Reconciliation with raw, exactness digit by digit, invariants of dimensions, freshness, coverage. Each function is a
pure reading of a ``Case`` and returns one verdict.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from itertools import pairwise
from typing import Any

import polars as pl

from crypto_assets.checks.verdicts import Case, Check, Severity, Verdict, sample
from crypto_assets.providers import coincap
from crypto_assets.providers.answers import field_names
from crypto_assets.tables import quality, raw, refined, trusted
from crypto_assets.tables.contract import MONEY, Contract, fields
from crypto_assets.tables.window import Window

# Provider's market caps are price x supply, rounded along the way; more than 1 % apart is a wrong field.
CAP_TOLERANCE = 0.01
# Some assets' supplies are restated between two of the provider's own caches; 99 of 100 must agree.
CAP_MOSTLY = 0.99
# Shares are printed with 18 digits but measured per exchange at slightly different times.
SHARE_TOLERANCE_PCT = 1.0
# A schedule of five minutes may miss two ticks before someone should look.
STALE_AFTER = timedelta(minutes=15)

_Judge = Callable[[Case], tuple[bool, str, str, pl.DataFrame]]


def _check(name: str, suite: str, severity: Severity, description: str, judge: _Judge) -> Check:
    def verdicts(case: Case) -> list[Verdict]:
        passed, observed, expected, failing = judge(case)
        return [Verdict(name, suite, severity, passed, observed, expected, len(failing), sample(failing))]

    return Check(name, severity, description, verdicts)


# ---- raw ----


def _known_fields(case: Case) -> tuple[bool, str, str, pl.DataFrame]:
    endpoints = case.rows["endpoint"].unique().to_list()
    known = frozenset().union(*(coincap.KNOWN_FIELDS.get(e, frozenset()) for e in endpoints))
    new = sorted(field_names(case.rows) - known)
    failing = pl.DataFrame({"field": new}, schema={"field": pl.String})
    return not new, f"new fields: {', '.join(new)}" if new else "known fields only", "known fields only", failing


def _complete_pull(case: Case) -> tuple[bool, str, str, pl.DataFrame]:
    pulls = case.rows.group_by("date").agg(n_complete=pl.col("n_pages").is_not_null().sum())
    empty = pulls.filter(pl.col("n_complete") == 0)
    bad = case.rows.filter(pl.col("n_pages").is_null()).select("request", "outcome", "detail", "ingested_at")
    told = f"{len(case.rows) - len(bad)} good and {len(bad)} bad answers"
    return empty.is_empty(), told, "at least one complete pull where any was tried", bad if len(empty) else bad.clear()


def _fresh(case: Case) -> tuple[bool, str, str, pl.DataFrame]:
    expected = f"no older than {STALE_AFTER} while the day goes on"
    if not case.window.start <= case.now < case.window.end:
        return True, "the day is over", expected, pl.DataFrame()
    newest = case.rows.filter(pl.col("n_pages").is_not_null())["observed_at"].max()
    if not isinstance(newest, datetime):
        return False, "no good answer today", expected, pl.DataFrame()
    age = case.now - newest
    return age <= STALE_AFTER, f"newest answer is {age} old", expected, pl.DataFrame()


# ---- trusted ----


def _reconciled(source: type[raw.RawAnswers], time_field: str | None) -> _Judge:
    def judge(case: Case) -> tuple[bool, str, str, pl.DataFrame]:
        n_raw = count_records(case.lake.scan(source, case.window).collect(), case.window, time_field)
        quarantined = case.lake.scan(quality.Quarantine, case.window).filter(
            pl.col("table_name") == case.contract.table.full_name
        )
        n_quarantined = quarantined.select(pl.len()).collect().item()
        n_rows, n_duplicates = len(case.rows), int(case.rows["n_duplicates"].sum())
        told = f"raw {n_raw} = trusted {n_rows} + quarantined {n_quarantined} + duplicates {n_duplicates}"
        passed = n_raw == n_rows + n_quarantined + n_duplicates
        return passed, told if passed else told.replace("=", "is not"), "nothing lost, nothing twice", pl.DataFrame()

    return judge


def count_records(answers: pl.DataFrame, window: Window, time_field: str | None) -> int:
    """How many records the complete good answers hold for the window, counted with nothing but a JSON parser.

    A record with a ``time_field`` belongs to the time that it names, or to its answer's start where it names none that
    can be; other records belong to their answer's time.
    """
    total = 0
    good = answers.filter(pl.col("n_pages").is_not_null(), pl.col("outcome") == "ok").unique(["pull_id", "page"])
    for body, opens, observed, arrived in good.select("body", "window_start_at", "observed_at", "ingested_at").rows():
        told = json.loads(body)
        data = told["data"] if isinstance(told, dict) else told
        items = data if isinstance(data, list) else [data]
        if time_field is None:
            total += len(items) * (window.start <= observed < window.end)
            continue
        moments = (_moment(item, time_field, opens, arrived) for item in items)
        total += sum(window.start <= moment < window.end for moment in moments)
    return total


def _moment(item: Any, field: str, fallback: datetime, arrived: datetime) -> datetime:
    try:
        moment = datetime.fromtimestamp(int(item[field]) / 1000, UTC)
    except (TypeError, KeyError, ValueError, OverflowError, OSError):
        return fallback
    return moment if trusted.GENESIS <= moment <= arrived + trusted.CLOCK_SKEW else fallback


def _lossless(source: type[raw.RawAnswers], mapping: Mapping[str, str], key_field: str) -> _Judge:
    """The decimals of each day's newest pull against the raw text, by Python's own decimals."""
    columns = {
        f.name: mapping[f.name] for f in fields(trusted.BY_RAW[source]) if f.dtype == MONEY and f.name in mapping
    }
    rounded = {f.name for f in fields(trusted.BY_RAW[source]) if f.is_rounded}

    def judge(case: Case) -> tuple[bool, str, str, pl.DataFrame]:
        differing: list[dict[str, str]] = []
        n_compared = 0
        newest = case.rows.filter(pl.col("observed_at") == pl.col("observed_at").max().over("date"))
        answers = case.lake.scan(source, case.window).filter(
            pl.col("pull_id").is_in(newest["pull_id"].unique().to_list())
        )
        sent: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for pull_id, body in answers.filter(pl.col("outcome") == "ok").select("pull_id", "body").collect().rows():
            for item in json.loads(body, parse_float=str, parse_int=str)["data"]:
                if isinstance(item, dict):
                    sent.setdefault((pull_id, str(item.get(key_field))), []).append(item)
        for row in newest.iter_rows(named=True):
            items = sent.get((row["pull_id"], row[_KEYS[source]]), [])
            for column, field in columns.items():
                n_compared += 1
                if not any(_equal(row[column], item.get(field), is_rounded=column in rounded) for item in items):
                    told = {"key": row[_KEYS[source]], "column": column, "stored": str(row[column])}
                    differing.append({**told, "sent": str([item.get(field) for item in items])})
        failing = pl.DataFrame(differing, schema=["key", "column", "stored", "sent"] if not differing else None)
        return not differing, f"{n_compared} values compared, {len(differing)} differ", "every digit as sent", failing

    return judge


_KEYS: Mapping[type[raw.RawAnswers], str] = {
    raw.RawCoincapAssets: "provider_asset_id",
    raw.RawCoincapExchanges: "exchange_id",
    raw.RawCoincapRates: "currency_id",
}


def _equal(stored: Decimal | None, sent: str | None, *, is_rounded: bool) -> bool:
    if stored is None or sent is None:
        return stored is None and sent is None
    try:
        difference = abs(stored - Decimal(sent))
    except InvalidOperation:
        return False
    return difference <= (Decimal("5e-19") if is_rounded else 0)


def _price_times_supply(case: Case) -> tuple[bool, str, str, pl.DataFrame]:
    price, supply, cap = (pl.col(c).cast(pl.Float64) for c in ("price_usd", "supply", "market_cap_usd"))
    judged = case.rows.filter(pl.col("supply") > 0, pl.col("market_cap_usd") > 0)
    failing = judged.filter((price * supply / cap - 1).abs() > CAP_TOLERANCE)
    share = 1 - len(failing) / max(len(judged), 1)
    picked = failing.select("asset_id", "observed_at", "price_usd", "supply", "market_cap_usd")
    return share >= CAP_MOSTLY, f"{share:.2%} agree", f"{CAP_MOSTLY:.0%} within {CAP_TOLERANCE:.0%}", picked


def _ranks(case: Case) -> tuple[bool, str, str, pl.DataFrame]:
    by_pull = case.rows.group_by("observed_at").agg(
        n=pl.len(), highest=pl.col("rank").max(), n_ranks=pl.col("rank").n_unique()
    )
    failing = by_pull.filter((pl.col("n") != pl.col("highest")) | (pl.col("n") != pl.col("n_ranks"))).sort(
        "observed_at"
    )
    return failing.is_empty(), f"{len(failing)} of {len(by_pull)} pulls broken", "ranks 1 to n, each once", failing


def _coverage(case: Case) -> tuple[bool, str, str, pl.DataFrame]:
    by_pull = case.rows.group_by("observed_at").agg(n=pl.len(), highest=pl.col("rank").max())
    failing = by_pull.filter(pl.col("n") < 0.99 * pl.col("highest")).sort("observed_at")
    expected = "99 % of the provider's own count, its highest rank"
    return failing.is_empty(), f"{len(failing)} of {len(by_pull)} pulls short", expected, failing


def _shares(case: Case) -> tuple[bool, str, str, pl.DataFrame]:
    sums = case.rows.group_by("observed_at").agg(total_pct=pl.col("volume_share_pct").cast(pl.Float64).sum())
    failing = sums.filter((pl.col("total_pct") - 100).abs() > SHARE_TOLERANCE_PCT).sort("observed_at")
    expected = f"100 % within {SHARE_TOLERANCE_PCT} in each pull"
    return failing.is_empty(), f"{len(failing)} of {len(sums)} pulls off", expected, failing


def _no_copied_day(case: Case) -> tuple[bool, str, str, pl.DataFrame]:
    """A late run that stamps today's answer with another day leaves two days whose prices agree to the last digit."""
    yesterday = Window(case.window.start - timedelta(days=1), case.window.start)
    before = case.lake.scan(case.contract, yesterday).select("asset_id", "price_usd").collect()
    shared = case.rows.join(before, ["asset_id", "price_usd"], "semi").filter(pl.col("price_usd") != 1)
    n_assets = case.rows["asset_id"].n_unique()
    n_shared = shared["asset_id"].n_unique()
    passed = n_shared <= 0.5 * n_assets or not len(before)
    told = f"{n_shared} of {n_assets} assets repeat a price of the day before to the last digit"
    return (
        passed,
        told,
        "at most half",
        shared.select("asset_id", "price_usd", "observed_at") if not passed else shared.clear(),
    )


# ---- refined ----


def _bars(case: Case) -> tuple[bool, str, str, pl.DataFrame]:
    top, bottom = pl.max_horizontal("open_usd", "close_usd"), pl.min_horizontal("open_usd", "close_usd")
    failing = case.rows.filter((pl.col("high_usd") < top) | (pl.col("low_usd") > bottom))
    picked = failing.select("asset_id", "date", "open_usd", "high_usd", "low_usd", "close_usd")
    return failing.is_empty(), f"{len(failing)} of {len(case.rows)} bars broken", "high >= open, close >= low", picked


def _versions(entity: str) -> _Judge:
    def judge(case: Case) -> tuple[bool, str, str, pl.DataFrame]:
        broken: list[str] = []
        for (entity_id,), group in case.rows.sort(entity, "valid_from").group_by(entity, maintain_order=True):
            rows = group.to_dicts()
            meets = all(a["valid_to"] == b["valid_from"] for a, b in pairwise(rows))
            changes = all(a["row_hash"] != b["row_hash"] for a, b in pairwise(rows))
            is_numbered = [r["version"] for r in rows] == list(range(1, len(rows) + 1))
            is_current = [r["is_current"] for r in rows] == [False] * (len(rows) - 1) + [True]
            if not (meets and changes and is_numbered and is_current and rows[-1]["valid_to"] is None):
                broken.append(str(entity_id))
        failing = case.rows.filter(pl.col(entity).is_in(broken)).select(entity, "version", "valid_from", "valid_to")
        expected = "versions meet, differ, are numbered from 1, and the last one is current"
        return not broken, f"{len(broken)} of {case.rows[entity].n_unique()} broken", expected, failing

    return judge


def _dominance(case: Case) -> tuple[bool, str, str, pl.DataFrame]:
    shares = pl.col("btc_dominance").fill_null(0) + pl.col("eth_dominance").fill_null(0)
    lowest_hhi = 1 / pl.col("n_assets") - 1e-12
    failing = case.rows.filter((shares > 1) | (pl.col("asset_hhi") < lowest_hhi) | (pl.col("top10_share") > 1))
    picked = failing.select("opened_at", "btc_dominance", "eth_dominance", "asset_hhi", "n_assets")
    return failing.is_empty(), f"{len(failing)} of {len(case.rows)} hours broken", "shares within 1, HHI >= 1/n", picked


def rules_of(contract: type[Contract]) -> list[Check]:
    """The table's checks beside its suite."""
    error, warning = Severity.ERROR, Severity.WARNING
    if issubclass(contract, raw.RawAnswers):
        return [
            _check("known_fields", "contract", warning, "The provider sends no field that is new.", _known_fields),
            _check("complete_pull", "contract", warning, "Something was pulled to its end.", _complete_pull),
            *(
                []
                if contract is raw.RawCoincapHistory
                else [_check("fresh", "freshness", warning, "Today's newest answer is recent.", _fresh)]
            ),
        ]
    checks: list[Check] = []
    if contract in trusted.RAW_OF:
        source = trusted.RAW_OF[contract]
        time_field = "time" if contract is trusted.AssetHistory else None
        told = "Raw records = trusted rows + quarantined records + duplicates."
        checks.append(_check("reconciled", "reconciliation", error, told, _reconciled(source, time_field)))
        if source in _KEYS:
            mapping, key_field = _SENT[source]
            told = "Stored decimals equal the provider's text, digit by digit."
            checks.append(_check("lossless", "reconciliation", error, told, _lossless(source, mapping, key_field)))
    checks += [
        _check(name, "contract", severity, told, judge)
        for table, name, severity, told, judge in _BY_TABLE
        if table is contract
    ]
    return checks


_SENT: Mapping[type[raw.RawAnswers], tuple[Mapping[str, str], str]] = {
    raw.RawCoincapAssets: (coincap.ASSET_FIELDS, "id"),
    raw.RawCoincapExchanges: (coincap.EXCHANGE_FIELDS, "exchangeId"),
    raw.RawCoincapRates: (coincap.RATE_FIELDS, "id"),
}
_BY_TABLE: tuple[tuple[type[Contract], str, Severity, str, _Judge], ...] = (
    (
        trusted.AssetSnapshots,
        "price_times_supply",
        Severity.WARNING,
        "Market caps are price times supply.",
        _price_times_supply,
    ),
    (trusted.AssetSnapshots, "ranks", Severity.WARNING, "Ranks are a permutation.", _ranks),
    (trusted.AssetSnapshots, "coverage", Severity.WARNING, "Every listed asset is there.", _coverage),
    (trusted.AssetSnapshots, "no_copied_day", Severity.WARNING, "No day repeats the day before.", _no_copied_day),
    (trusted.ExchangeSnapshots, "shares", Severity.WARNING, "Shares of volume sum to 100.", _shares),
    (refined.AssetHourly, "bars", Severity.ERROR, "Bars are well-formed.", _bars),
    (refined.AssetDaily, "bars", Severity.ERROR, "Bars are well-formed.", _bars),
    (refined.DimAsset, "versions", Severity.ERROR, "SCD2: no overlap, no gap, one current.", _versions("asset_id")),
    (
        refined.DimExchange,
        "versions",
        Severity.ERROR,
        "SCD2: no overlap, no gap, one current.",
        _versions("exchange_id"),
    ),
    (refined.MarketOverview, "dominance", Severity.ERROR, "Shares and indices are possible.", _dominance),
)
