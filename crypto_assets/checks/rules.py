"""Checks of our own: what Great Expectations cannot say about a frame alone, or not exactly.

Whole pulls, freshness, coverage, shares, bars, invariants of dimensions, and which table has which check
(``rules_of``). Each function is a pure reading of a ``Case``. What compares a trusted table with raw is in
``reconciliation.py``, what is about venues' bars, names and prices in ``venues.py``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

import polars as pl

from crypto_assets.checks import venues
from crypto_assets.checks.readings import READINGS, Reading
from crypto_assets.checks.readings.reading import ANSWER, json_records
from crypto_assets.checks.reconciliation import lossless, reconciled
from crypto_assets.checks.verdicts import Case, Check, Finding, Severity, rule
from crypto_assets.providers.answers import field_names
from crypto_assets.tables import raw, refined, trusted
from crypto_assets.tables.contract import Contract
from crypto_assets.tables.window import DAY, Window

# Provider's market caps are price x supply, rounded along the way; more than 1 % apart is a wrong field.
CAP_TOLERANCE = 0.01
# Some assets' supplies are restated between two of the provider's own caches; 99 of 100 must agree.
CAP_MOSTLY = 0.99
# One asset of a hundred may be refused as a bad record; more missing ones are a page.
COVERED = 0.99
# Shares are printed with 18 digits but measured per exchange at slightly different times.
SHARE_TOLERANCE_PCT = 1.0
# A schedule of five minutes may miss two ticks before someone should look, one of an hour two as well.
STALE_AFTER = timedelta(minutes=15)
_STALE_HOURLY = timedelta(hours=3)
_HOURLY = frozenset({raw.RawCoingeckoMarkets, raw.RawMempool})
# Dead coins keep a price for days; half of all never do.
COPIED = 0.5
# So many are CoinGecko's, and of a few thousand prices that a day may have some hundred are seen.
FEW_DIGITS = 8
# Sums of shares that are 1 by definition may end a rounding above it.
ROUNDING = 1e-9

_Judge = Callable[[Case], Finding]
_PULL = ("provider", "observed_at")


def _known_fields(case: Case) -> Finding:
    endpoints = case.rows["endpoint"].unique().to_list()
    reading = READINGS.get(case.contract)
    reading = reading if isinstance(reading, Reading) else None
    known_of = reading.known if reading else {}
    known: frozenset[str] = frozenset().union(*(known_of.get(e, frozenset()) for e in endpoints))
    new = sorted(_sent_names(reading, case.rows) - known) if reading and known_of else []
    told = f"new fields: {', '.join(new)}" if new else "known fields only"
    return Finding(not new, told, "known fields only", pl.DataFrame({"field": new}, schema={"field": pl.String}))


def _sent_names(reading: Reading, rows: pl.DataFrame) -> set[str]:
    """The field names of each answer's first and last record."""
    if reading.records is json_records:
        return field_names(rows)
    good = rows.filter(pl.col("n_pages").is_not_null(), outcome="ok").select(ANSWER)
    sent = [list(reading.records(answer)) for answer in good.iter_rows(named=True)]
    ends = [record for records in sent for record in (*records[:1], *records[-1:]) if isinstance(record, dict)]
    return {name for record in ends for name in record}


def _complete_pull(case: Case) -> Finding:
    is_bad = pl.col("n_pages").is_null()
    failing = case.rows.filter(is_bad.all().over("date")).select("request", "outcome", "detail", "ingested_at")
    n_bad = case.rows.select(is_bad.sum()).item()
    told = f"{len(case.rows) - n_bad} good and {n_bad} bad answers"
    return Finding(failing.is_empty(), told, "at least one complete pull on every day that was tried", failing)


def _all_pages(case: Case) -> Finding:
    """A page that a foreign hand or a lost file took away is missed by nothing else: its records are in raw only."""
    pulls = (
        case.rows.filter(pl.col("n_pages").is_not_null())
        .group_by("pull_id")
        .agg(pl.col("n_pages").first(), n_held=pl.col("page").n_unique(), last_page=pl.col("page").max())
    )
    is_whole = (pl.col("n_held") == pl.col("n_pages")) & (pl.col("last_page") == pl.col("n_pages") - 1)
    failing = pulls.filter(~is_whole).sort("pull_id")
    return Finding(failing.is_empty(), f"{len(failing)} of {len(pulls)} pulls lack pages", "every page", failing)


def _intact(case: Case) -> Finding:
    actual = [hashlib.sha256(body).hexdigest() for body in case.rows["body"]]
    failing = case.rows.filter(pl.col("sha256") != pl.Series(actual, dtype=pl.String))
    picked = failing.select("pull_id", "page", "request", "sha256")
    return Finding(
        failing.is_empty(), f"{len(failing)} of {len(case.rows)} bodies changed", "bodies as they landed", picked
    )


def _fresh(case: Case) -> Finding:
    stale_after = _STALE_HOURLY if case.contract in _HOURLY else STALE_AFTER
    expected = f"no older than {stale_after} while the day goes on"
    nothing = pl.DataFrame()
    if not case.window.start <= case.now < case.window.end:
        return Finding(True, "the day is over", expected, nothing)
    newest = case.rows.filter(pl.col("n_pages").is_not_null())["observed_at"].max()
    if not isinstance(newest, datetime):
        return Finding(False, "no good answer today", expected, nothing)
    age = case.now - newest
    found = pl.DataFrame({"newest": [newest], "now": [case.now]})
    is_fresh = age <= stale_after
    return Finding(is_fresh, f"newest answer is {age} old", expected, nothing if is_fresh else found)


def _price_times_supply(case: Case) -> Finding:
    price, supply, cap = (pl.col(c).cast(pl.Float64) for c in ("price_usd", "supply", "market_cap_usd"))
    judged = case.rows.filter(pl.col("supply") > 0, pl.col("market_cap_usd") > 0)
    judged = judged.with_columns(is_off=(price * supply / cap - 1).abs() > CAP_TOLERANCE)
    worst = judged.group_by("provider", "date").agg(agree=1 - pl.col("is_off").mean())["agree"].min()
    agree = worst if isinstance(worst, float) else 1.0
    failing = judged.filter("is_off").select("asset_id", "observed_at", "price_usd", "supply", "market_cap_usd")
    expected = f"{CAP_MOSTLY:.0%} within {CAP_TOLERANCE:.0%} on every day, of every provider"
    return Finding(agree >= CAP_MOSTLY, f"{agree:.2%} agree", expected, failing)


def _ranks(case: Case) -> Finding:
    # Some providers leave assets unranked whose caps are another one's (staked and wrapped coins).
    ranked = case.rows.filter(pl.col("rank").is_not_null())
    by_pull = ranked.group_by(_PULL).agg(n=pl.len(), highest=pl.col("rank").max(), n_ranks=pl.col("rank").n_unique())
    failing = by_pull.filter((pl.col("n") != pl.col("highest")) | (pl.col("n") != pl.col("n_ranks"))).sort(_PULL)
    told = f"{len(failing)} of {len(by_pull)} pulls broken"
    return Finding(failing.is_empty(), told, "ranks 1 to n, each once", failing)


def _coverage(case: Case) -> Finding:
    by_pull = case.rows.group_by(_PULL).agg(n=pl.len(), highest=pl.col("rank").max())
    failing = by_pull.filter(pl.col("n") < COVERED * pl.col("highest")).sort(_PULL)
    told = f"{len(failing)} of {len(by_pull)} pulls short"
    return Finding(failing.is_empty(), told, f"{COVERED:.0%} of the provider's own count, its highest rank", failing)


def _shares(case: Case) -> Finding:
    sums = case.rows.group_by(_PULL).agg(total_pct=pl.col("volume_share_pct").cast(pl.Float64).sum())
    failing = sums.filter((pl.col("total_pct") - 100).abs() > SHARE_TOLERANCE_PCT).sort(_PULL)
    told = f"{len(failing)} of {len(sums)} pulls off"
    return Finding(failing.is_empty(), told, f"100 % within {SHARE_TOLERANCE_PCT} in each pull", failing)


def _no_copied_day(case: Case) -> Finding:
    """A late run that stamps today's answer with another day leaves two days whose prices agree to the last digit."""
    since = Window(case.window.start - DAY, case.window.end)
    price = ["provider", "asset_id", "price_usd", "date"]
    held = case.lake.scan(case.contract, since).with_columns(pl.col("date") + DAY)
    before = held.group_by(price).agg(caps=pl.col("market_cap_usd").unique()).collect()
    # A peg holds its price for days.
    prices = case.rows.filter(pl.col("price_usd") != 1).join(before, price, "left")
    # A price of few digits comes back by chance; its cap, of a dozen, does not.
    digits = pl.col("price_usd").cast(pl.String).str.replace(".", "", literal=True).str.strip_chars("0").str.len_chars()
    is_same = (digits > FEW_DIGITS) | pl.col("caps").list.contains(pl.col("market_cap_usd"))
    prices = prices.with_columns(is_repeated=(pl.col("caps").is_not_null() & is_same).fill_null(value=False))
    share = pl.col("is_repeated").mean().over("provider", "date")
    failing = prices.filter(share > COPIED, "is_repeated")
    n_days, n_copied = prices["date"].n_unique(), failing["date"].n_unique()
    told = f"{n_copied} of {n_days} days copied" + (f": {len(failing)} prices repeated" if n_copied else "")
    expected = f"at most {COPIED:.0%} of a day's prices are the day before's to the last digit"
    return Finding(failing.is_empty(), told, expected, failing.select("asset_id", "price_usd", "observed_at"))


def _bars(case: Case) -> Finding:
    top, bottom = pl.max_horizontal("open_usd", "close_usd"), pl.min_horizontal("open_usd", "close_usd")
    failing = case.rows.filter((pl.col("high_usd") < top) | (pl.col("low_usd") > bottom))
    picked = failing.select("asset_id", "date", "open_usd", "high_usd", "low_usd", "close_usd")
    told = f"{len(failing)} of {len(case.rows)} bars broken"
    return Finding(failing.is_empty(), told, "high >= open, close >= low", picked)


def _versions(entity: str) -> _Judge:
    """SCD2: each version ends where the next begins, differs from it, has the next number, and the last is current."""

    def judge(case: Case) -> Finding:
        opens_next = pl.col("valid_from").shift(-1).over(entity)
        is_last = opens_next.is_null()
        faults = {
            "gap": pl.col("valid_to") < opens_next,
            "overlap": (pl.col("valid_to") > opens_next) | (pl.col("valid_to").is_null() & ~is_last),
            "ended": is_last & pl.col("valid_to").is_not_null(),
            "numbering": pl.col("version") != pl.int_range(1, pl.len() + 1).over(entity),
            "current": pl.col("is_current") != is_last,
            "unchanged": pl.col("row_hash") == pl.col("row_hash").shift(1).over(entity),
        }
        named = pl.concat_list(pl.when(broken).then(pl.lit(name)) for name, broken in faults.items())
        judged = case.rows.sort(entity, "valid_from").with_columns(broken=named.list.drop_nulls().list.join(", "))
        failing = judged.filter(pl.col("broken") != "")
        failing = failing.select(entity, "broken", "version", "valid_from", "valid_to", "is_current")
        told = f"{failing[entity].n_unique()} of {case.rows[entity].n_unique()} broken"
        expected = "versions meet, differ, are numbered from 1, and the last one is current"
        return Finding(failing.is_empty(), told, expected, failing)

    return judge


def _known_in(dimension: type[Contract], entity: str) -> _Judge:
    def judge(case: Case) -> Finding:
        known = case.lake.scan(dimension).select(entity).unique().collect()
        ids = case.rows.select(entity).unique().sort(entity)
        failing = ids.join(known, entity, "anti", maintain_order="left")
        told = f"{len(failing)} of {len(ids)} unknown"
        return Finding(failing.is_empty(), told, f"every {entity} is in {dimension.table.full_name}", failing)

    return judge


def _dominance(case: Case) -> Finding:
    shares = pl.col("btc_dominance").fill_null(0) + pl.col("eth_dominance").fill_null(0)
    is_possible = (
        (shares <= 1 + ROUNDING)
        & (pl.col("asset_hhi") >= 1 / pl.col("n_assets") - ROUNDING)
        & (pl.col("exchange_hhi") >= 1 / pl.col("n_exchanges") - ROUNDING).fill_null(value=True)
    )
    failing = case.rows.filter(~is_possible)
    picked = failing.select(
        "opened_at", "btc_dominance", "eth_dominance", "asset_hhi", "n_assets", "exchange_hhi", "n_exchanges"
    )
    told = f"{len(failing)} of {len(case.rows)} hours broken"
    return Finding(failing.is_empty(), told, "shares within 1, HHI >= 1/n", picked)


def rules_of(contract: type[Contract]) -> list[Check]:
    """The table's checks beside its suite."""
    if issubclass(contract, raw.RawAnswers):
        # What no table is made of yet (listings) has no second reading that would know its fields.
        known = [_KNOWN_FIELDS] if contract in READINGS else []
        return [*known, *_RAW, *([] if contract in _SLOW else [_FRESH])]
    against_raw = _against_raw(contract) if contract in trusted.RAW_OF else ()
    return [*against_raw, *_BY_TABLE.get(contract, ()), *venues.CHECKS.get(contract, ())]


def _against_raw(contract: type[Contract]) -> tuple[Check, ...]:
    return (
        rule(
            "reconciled",
            "reconciliation",
            Severity.ERROR,
            "Raw records = trusted rows + quarantined records + duplicates.",
            reconciled(contract),
        ),
        rule(
            "lossless",
            "reconciliation",
            Severity.ERROR,
            "Stored decimals equal the provider's text, digit by digit.",
            lossless(contract),
        ),
    )


def _error(name: str, description: str, judge: _Judge) -> Check:
    return rule(name, "contract", Severity.ERROR, description, judge)


def _warning(name: str, description: str, judge: _Judge) -> Check:
    return rule(name, "contract", Severity.WARNING, description, judge)


def _foreign_key(dimension: type[Contract], entity: str) -> Check:
    # A warning: the row is good, only its name and kind are not known yet, as of an asset with history alone.
    told = f"Every {entity} is in the dimension."
    return rule("foreign_key", "contract", Severity.WARNING, told, _known_in(dimension, entity), reads=(dimension,))


_KNOWN_FIELDS = _warning("known_fields", "The provider sends no field that is new.", _known_fields)
_FRESH = rule("fresh", "freshness", Severity.WARNING, "Today's newest answer is recent.", _fresh)
_RAW = (
    _warning("complete_pull", "Something was pulled to its end.", _complete_pull),
    _error("all_pages", "Every page of a complete pull is there.", _all_pages),
    _error("intact", "Bodies have the hash that they landed with.", _intact),
)
# Tables that no round of five minutes writes: the past is never fresh, and a few calls a day are not either.
_SLOW = {
    raw.RawCoincapHistory,
    raw.RawBinanceKlines,
    raw.RawBinanceTrades,
    raw.RawAlphaVantageRates,
    raw.RawAlphaVantageSeries,
    raw.RawCoingeckoExchanges,
}
_BARS = _error("bars", "Bars are well-formed.", _bars)
_COVERAGE = _warning("coverage", "Everything that is listed is there.", _coverage)
_VERSIONS = "SCD2: no overlap, no gap, one current."
_BY_TABLE: Mapping[type[Contract], tuple[Check, ...]] = {
    trusted.AssetSnapshots: (
        _warning("price_times_supply", "Market caps are price times supply.", _price_times_supply),
        _warning("ranks", "Ranks are a permutation.", _ranks),
        _COVERAGE,
        _warning("no_copied_day", "No day repeats the day before.", _no_copied_day),
    ),
    trusted.ExchangeSnapshots: (_warning("shares", "Shares of volume sum to 100.", _shares), _COVERAGE),
    refined.AssetHourly: (_BARS,),
    refined.AssetDaily: (_BARS, _foreign_key(refined.DimAsset, "asset_id")),
    refined.LatestAssets: (_foreign_key(refined.DimAsset, "asset_id"),),
    refined.ExchangeDaily: (_foreign_key(refined.DimExchange, "exchange_id"),),
    refined.LatestExchanges: (_foreign_key(refined.DimExchange, "exchange_id"),),
    refined.DimAsset: (_error("versions", _VERSIONS, _versions("asset_id")),),
    refined.DimExchange: (_error("versions", _VERSIONS, _versions("exchange_id")),),
    refined.MarketOverview: (_error("dominance", "Shares and indices are possible.", _dominance),),
}
