"""Checks of what is computed from venues' markets: bars and their roll-ups, names and markets, prices agreed on.

Each judge is a pure reading of a ``Case``; ``CHECKS`` says which table has which. What holds for any table is in
``rules.py`` and ``suites.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import polars as pl

from crypto_assets.analytics.candles import STEPS
from crypto_assets.analytics.consensus import STABLECOINS
from crypto_assets.assets.lake_asset import buckets_of, publishable
from crypto_assets.checks.verdicts import Case, Check, Finding, Severity, rule
from crypto_assets.tables import refined, trusted
from crypto_assets.tables.contract import Contract
from crypto_assets.tables.refined import BARS
from crypto_assets.tables.window import DAY, Window

# Venues print the value traded with 8 decimals: in each minute it may be half a unit off, and so the vwap made of it.
VALUE_STEP = 1e-8
# One missing minute of twenty is an outage that someone should know of; single ones are restarts.
COMPLETE = 0.95
# With so many trades a minute on average, an empty minute is one in twenty thousand by chance.
BUSY = 10
# Stablecoins are off by some ten basis points every week; by a whole percent in a crisis.
PEG_BPS = 100
# A split multiplies the supply by two or more and leaves the value of all units about as it was (analytics.md 3.5).
SPLIT = math.log(2)
SAME_VALUE = 0.2

_BAR = ("venue", "market_id", "opened_at")


def _well_formed(case: Case) -> Finding:
    top, bottom = pl.max_horizontal("open", "close"), pl.min_horizontal("open", "close")
    vwap, low, high, volume = (pl.col(name).cast(pl.Float64) for name in ("vwap", "low", "high", "volume_base"))
    # Doubles carry some sixteen digits of each.
    slack = VALUE_STEP * pl.col("n_obs") / volume + 1e-12 * high
    faults = {
        "high": pl.col("high") < top,
        "low": (pl.col("low") > bottom) | (pl.col("low") <= 0),
        "vwap": ~vwap.is_between(low - slack, high + slack),
        "taker": pl.col("taker_buy_base") > pl.col("volume_base"),
    }
    named = pl.concat_list(pl.when(broken).then(pl.lit(name)) for name, broken in faults.items())
    failing = case.rows.with_columns(broken=named.list.drop_nulls().list.join(", ")).filter(pl.col("broken") != "")
    picked = failing.select(*_BAR, "broken", "open", "high", "low", "close", "vwap", "volume_base")
    expected = "high >= open, close >= low > 0; low <= vwap <= high; takers bought no more than was traded"
    return Finding(failing.is_empty(), f"{len(failing)} of {len(case.rows)} bars broken", expected, picked)


def _rolled_up(interval: str, finer: type[Contract]) -> Callable[[Case], Finding]:
    """Bars made of shorter ones say what those say now, for someone may have computed those again without these."""
    own = [f"candles_{stated}" for stated in STEPS[interval].candles]

    def judge(case: Case) -> Finding:
        window = buckets_of(case.contract, case.window)
        traded = pl.col("volume_base") > 0
        parts = (
            publishable(case.lake, finer, case.lake.scan(finer, window), window)
            .sort("opened_at")
            .group_by("venue", "market_id", opened_at=pl.col("opened_at").dt.truncate(interval))
            .agg(
                parts_close=pl.coalesce(pl.col("close").filter(traded).last(), pl.col("close").last()),
                parts_high=pl.coalesce(pl.col("high").filter(traded).max(), pl.col("high").max()),
                parts_low=pl.coalesce(pl.col("low").filter(traded).min(), pl.col("low").min()),
                parts_volume=pl.col("volume_base").sum(),
                parts_n_obs=pl.col("n_obs").sum(),
            )
            .collect()
        )
        made = case.rows.filter(~pl.col("source_kind").is_in(own))
        compared = made.join(parts, list(_BAR), "left")
        same = [
            pl.col(ours).eq_missing(pl.col(theirs))
            for ours, theirs in {
                "close": "parts_close",
                "high": "parts_high",
                "low": "parts_low",
                "volume_base": "parts_volume",
                "n_obs": "parts_n_obs",
            }.items()
        ]
        failing = compared.filter(~pl.all_horizontal(same)).sort(_BAR)
        picked = failing.select(*_BAR, "close", "parts_close", "volume_base", "parts_volume", "n_obs", "parts_n_obs")
        told = f"{len(failing)} of {len(made)} rolled-up bars differ from {finer.table.full_name}"
        expected = "close of the last, highest, lowest and sum of the shorter bars"
        return Finding(failing.is_empty(), told, expected, picked)

    return judge


def _agree_with_candles(case: Case) -> Finding:
    """Trades are used where they add up to the venue's candle; what differs all the same needs an explanation."""
    fields = ("open", "high", "low", "close", "volume_quote", "n_trades", "taker_buy_base")
    stated = case.lake.scan(trusted.Candles, case.window).filter(pl.col("interval") == "1m")
    both = case.rows.filter(pl.col("source_kind") == "trades").join(
        stated.select(*_BAR, *fields).collect(), list(_BAR), suffix="_stated"
    )
    # What a venue does not state cannot differ.
    differs = [(pl.col(f) != pl.col(f"{f}_stated")).fill_null(value=False) for f in fields]
    failing = both.filter(pl.any_horizontal(differs)).sort(_BAR)
    picked = failing.select(*_BAR, *[name for f in fields for name in (f, f"{f}_stated")])
    told = f"{len(failing)} of {len(both)} minutes with both differ"
    return Finding(failing.is_empty(), told, "minutes made of trades equal the venue's candles", picked)


def _complete(case: Case) -> Finding:
    """A quiet market has minutes without a trade, which are no gaps: only busy ones and uncounted ones are judged."""
    is_busy = (pl.col("n_trades") >= BUSY * pl.col("n_obs")).fill_null(value=True)
    judged = case.rows.filter(pl.col("is_closed") & is_busy)
    failing = judged.filter(pl.col("completeness") < COMPLETE).sort("completeness", *_BAR)
    picked = failing.select(*_BAR, "completeness", "n_obs", "n_expected", "source_kind")
    told = f"{len(failing)} of {len(judged)} days incomplete"
    return Finding(failing.is_empty(), told, f"{COMPLETE:.0%} of the minutes of busy markets", picked)


def _uncrossed(case: Case) -> Finding:
    failing = case.rows.filter(pl.col("spread_bps") < 0).sort("spread_bps")
    picked = failing.select("provider", "market_id", "bid_price", "ask_price", "spread_bps", "observed_at")
    told = f"{len(failing)} of {len(case.rows)} quotes crossed"
    return Finding(failing.is_empty(), told, "nobody bids more than is asked", picked)


def _one_meaning(case: Case) -> Finding:
    """At any time of the world, as believed at any time, a name means one asset at most."""
    name = ["source", "source_id"]
    rows = case.rows.with_row_index("row")
    pairs = rows.join(rows, name, suffix="_other").filter(pl.col("row") < pl.col("row_other"))
    failing = pairs.filter(
        _overlaps("valid_from", "valid_to") & _overlaps("recorded_at", "superseded_at"),
    )
    picked = failing.select(*name, "asset_id", "asset_id_other", "valid_from", "valid_from_other", "recorded_at")
    empty = rows.filter(
        (pl.col("valid_to") <= pl.col("valid_from")) | (pl.col("superseded_at") <= pl.col("recorded_at"))
    )
    told = f"{len(failing)} names with two meanings, {len(empty)} rows that never hold"
    is_good = failing.is_empty() and empty.is_empty()
    shown = picked if len(picked) else empty.select(*name, "asset_id", "valid_from", "valid_to", "recorded_at")
    return Finding(is_good, told, "one asset for a name at any time", shown)


def _overlaps(start: str, end: str) -> pl.Expr:
    begins_before = (pl.col(start) < pl.col(f"{end}_other")).fill_null(value=True)
    other_begins_before = (pl.col(f"{start}_other") < pl.col(end)).fill_null(value=True)
    return begins_before & other_begins_before


def _collisions(case: Case) -> Finding:
    """Venues' tickers that several listed assets bear now, with the one that was chosen."""
    bearers = (
        case.lake.scan(refined.LatestAssets)
        .with_columns(ticker=pl.col("symbol").str.to_uppercase())
        .group_by("ticker")
        .agg(bearers=pl.col("asset_id").unique().sort())
        .filter(pl.col("bearers").list.len() > 1)
        .collect()
    )
    used = case.rows.filter(pl.col("superseded_at").is_null(), pl.col("valid_to").is_null(), pl.col("method") == "rule")
    failing = used.with_columns(ticker=pl.col("source_id").str.to_uppercase()).join(bearers, "ticker")
    picked = failing.sort("source", "source_id").select(
        "source", "source_id", "asset_id", pl.col("bearers").list.join(", "), "confidence"
    )
    told = f"{len(failing)} of {len(used)} tickers have several bearers"
    expected = "every venue's ticker is borne by one asset, or is in the table of known names"
    return Finding(failing.is_empty(), told, expected, picked)


def _named(case: Case) -> Finding:
    failing = case.rows.filter(pl.col("base_asset_id").is_null() | pl.col("quote_asset_id").is_null()).sort("market_id")
    picked = failing.select("market_id", "base_asset_id", "quote_asset_id")
    told = f"{len(failing)} of {len(case.rows)} markets with a ticker that no asset is known by"
    return Finding(failing.is_empty(), told, "both sides of every market are known assets", picked)


def _markets_exist(case: Case) -> Finding:
    spelt = pl.format("{}:{}/{}", "venue", "base_symbol", "quote_symbol")
    failing = case.rows.filter((spelt != pl.col("market_id")) | (pl.col("last_seen_on") < pl.col("first_seen_on")))
    picked = failing.select("market_id", "venue", "base_symbol", "quote_symbol", "first_seen_on", "last_seen_on")
    told = f"{len(failing)} of {len(case.rows)} markets broken"
    return Finding(failing.is_empty(), told, "venue:BASE/QUOTE, seen last no earlier than first", picked)


def _statuses(case: Case) -> Finding:
    counts = case.rows.group_by("status").len().sort("status")
    told = ", ".join(f"{n} {status}" for status, n in counts.iter_rows()) or "no prices"
    failing = case.rows.filter(pl.col("status").is_in(["disputed", "unpriced"])).sort("asset_id", "date")
    picked = failing.select("asset_id", "date", "status", "price_usd", "mad_bps", "n_sources", "n_outliers", "sources")
    return Finding(failing.is_empty(), told, "no price is disputed, and none is missing", picked)


def _pegs(case: Case) -> Finding:
    coins = case.rows.filter(pl.col("asset_id").is_in(STABLECOINS))
    failing = coins.filter(pl.col("depeg_bps").abs() > PEG_BPS).sort("date", "asset_id")
    picked = failing.select("asset_id", "date", "price_usd", "depeg_bps", "status")
    told = f"{len(failing)} of {len(coins)} prices of stablecoins off"
    return Finding(failing.is_empty(), told, f"1 USD within {PEG_BPS} bps", picked)


def _redenominated(case: Case) -> Finding:
    """Supply and price that jump against each other overnight: other units, not another price."""
    by = ["provider", "asset_id"]
    facts = (*by, "date", "close_usd", "supply")
    since = Window(case.window.start - DAY, case.window.end)
    rows = case.lake.scan(case.contract, since).select(facts).filter(pl.col("supply") > 0, pl.col("close_usd") > 0)
    before = rows.with_columns(pl.col("date") + DAY)
    price, supply = (
        (pl.col(name).cast(pl.Float64) / pl.col(f"{name}_before").cast(pl.Float64)).log()
        for name in ("close_usd", "supply")
    )
    is_split = (price.abs() > SPLIT) & (supply.abs() > SPLIT) & ((price + supply).abs() < SAME_VALUE)
    days = case.rows.select(*by, "date")
    found = rows.join(before, [*by, "date"], suffix="_before").filter(is_split).collect()
    failing = found.join(days, [*by, "date"], "semi").sort("date", "asset_id")
    told = f"{len(failing)} of {len(case.rows)} days with other units than the day before"
    return Finding(failing.is_empty(), told, "supply and price in the units of the day before", failing)


def _check(severity: Severity, name: str, told: str, judge: Callable[[Case], Finding], *reads: type[Contract]) -> Check:
    return rule(name, "contract", severity, told, judge, reads=reads)


_WELL_FORMED = _check(Severity.ERROR, "bars", "Bars are well-formed.", _well_formed)


def _bar_checks(interval: str) -> tuple[Check, ...]:
    checks = [_WELL_FORMED]
    finer = STEPS[interval].finer
    if finer is not None:
        told = f"Bars agree with those of {finer}."
        shorter = BARS[finer]
        checks.append(_check(Severity.ERROR, "rolled_up", told, _rolled_up(interval, shorter), shorter))
    if interval == "1m":
        told = "Minutes made of trades equal the venue's candles."
        checks.append(_check(Severity.WARNING, "agree_with_candles", told, _agree_with_candles, trusted.Candles))
    if interval == "1d":
        checks.append(_check(Severity.WARNING, "complete", "Days of busy markets are complete.", _complete))
    return tuple(checks)


CHECKS: Mapping[type[Contract], tuple[Check, ...]] = {
    **{contract: _bar_checks(interval) for interval, contract in BARS.items()},
    refined.LatestQuotes: (_check(Severity.WARNING, "uncrossed", "Bids are below asks.", _uncrossed),),
    refined.SymbolMap: (
        _check(Severity.ERROR, "one_meaning", "A name means one asset at any time.", _one_meaning),
        _check(
            Severity.WARNING,
            "ticker_collisions",
            "No ticker of a venue is borne by several assets.",
            _collisions,
            refined.LatestAssets,
        ),
    ),
    refined.DimMarket: (
        _check(Severity.ERROR, "markets", "Markets are spelt by their parts.", _markets_exist),
        _check(Severity.WARNING, "named", "Both sides of a market are known.", _named),
    ),
    refined.PriceDaily: (
        _check(Severity.WARNING, "statuses", "Sources agree on every price.", _statuses),
        _check(Severity.WARNING, "pegs", "Stablecoins keep their peg.", _pegs),
    ),
    refined.AssetDaily: (_check(Severity.WARNING, "redenominated", "Units stay what they were.", _redenominated),),
}
