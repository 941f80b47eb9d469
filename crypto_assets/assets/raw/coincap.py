"""CoinCap's answers, as received.

Source: CoinCap v3 (needs a key; v2 answers are read too). ``assets``, ``exchanges``, ``rates`` and ``markets`` are live
only: a day that is over can no longer be pulled. ``history`` can be asked for the past.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime

import dagster as dg
import polars as pl
from pydantic import Field

from crypto_assets.assets.lake_asset import asset_facts, by_day, materialize
from crypto_assets.errors import CryptoAssetsError, DataError, NeedsYouError, TransientError
from crypto_assets.providers.answers import Pull, raw_rows
from crypto_assets.providers.coincap import CoinCap
from crypto_assets.resources.clock import Clock
from crypto_assets.resources.failpoints import failpoint
from crypto_assets.resources.http import Outcome
from crypto_assets.resources.lake import Lake
from crypto_assets.tables.contract import polars_schema
from crypto_assets.tables.quality import GapLedger
from crypto_assets.tables.raw import (
    RawAnswers,
    RawCoincapAssets,
    RawCoincapExchanges,
    RawCoincapHistory,
    RawCoincapMarkets,
    RawCoincapRates,
)
from crypto_assets.tables.window import Window, contiguous

# One call at a time per provider: its budget is one, and so is its patience.
POOL = "coincap"


class HistoryConfig(dg.Config):
    """Which assets' history to pull, and whether to ask again for days that raw already holds."""

    assets: list[str] = Field([], description="Asset ids; those of the settings where empty.")
    again: bool = Field(default=False, description="Ask again for days that raw already holds.")


def live_asset(contract: type[RawAnswers], pull: Callable[[CoinCap], Pull]) -> dg.AssetsDefinition:
    """An endpoint that answers for now only.

    Today is pulled. A past day succeeds with nothing new where raw holds it; else it fails, and the gap ledger says so:
    stamping today's answer with another day would be a lie that no later check could find.
    """

    def body(
        context: dg.AssetExecutionContext,
        lake: dg.ResourceParam[Lake],
        coincap: dg.ResourceParam[CoinCap],
        clock: dg.ResourceParam[Clock],
    ) -> Iterator[dg.Output[None]]:
        def work(window: Window) -> Mapping[date, Mapping[str, int]]:
            now = clock.now()
            if window.start <= now < window.end:
                landed = land(lake, contract, [pull(coincap)])
                return by_day(window, rows=landed)
            require_held(lake, contract, window, now)
            return {day: {"rows": 0} for day in window.days}

        def windows(days: Sequence[date]) -> Iterator[Window]:
            return (Window.of_day(day) for day in days)

        yield from materialize(context, lake, contract, [], windows=windows, work=work, is_gate=False)

    return _raw_asset(contract, body)


def _raw_asset(contract: type[RawAnswers], body: Callable[..., object]) -> dg.AssetsDefinition:
    facts = {**asset_facts(contract), "pool": POOL, "kinds": {"delta", "httpx"}}
    asset: dg.AssetsDefinition = dg.asset(**facts)(body)
    return asset


coincap_assets = live_asset(RawCoincapAssets, CoinCap.assets)
coincap_exchanges = live_asset(RawCoincapExchanges, CoinCap.exchanges)
coincap_rates = live_asset(RawCoincapRates, CoinCap.rates)
coincap_markets = live_asset(RawCoincapMarkets, CoinCap.markets)


def _pull_history(
    context: dg.AssetExecutionContext,
    config: HistoryConfig,
    lake: dg.ResourceParam[Lake],
    coincap: dg.ResourceParam[CoinCap],
    clock: dg.ResourceParam[Clock],
) -> Iterator[dg.Output[None]]:
    """Daily price history: one call per asset and year, for the days that are over and not yet held.

    An asset that fails does not stop the others; the first error is raised once all were asked, each once.
    """

    def pull(asset_id: str, window: Window) -> int:
        held = set() if config.again else held_days(lake, asset_id, window)
        missing = [day for day in window.days if day not in held and Window.of_day(day).end <= clock.now()]
        gaps = (coincap.history(asset_id, gap) for gap in contiguous(missing))
        return sum(len(land(lake, RawCoincapHistory, pulls, context.log.warning)) for pulls in gaps)

    def work(window: Window) -> Mapping[date, Mapping[str, int]]:
        n_landed, errors = 0, []
        for asset_id in config.assets or coincap.history_assets:
            try:
                n_landed += pull(asset_id, window)
            except CryptoAssetsError as error:
                errors.append(error)
        if errors:
            raise errors[0]
        return {day: {"answers_of_the_run": n_landed} for day in window.days}

    yield from materialize(
        context, lake, RawCoincapHistory, [], windows=contiguous, work=work, is_gate=False, is_divisible=False
    )


coincap_history = _raw_asset(RawCoincapHistory, _pull_history)


def land(
    lake: Lake, contract: type[RawAnswers], pulls: Iterable[Pull], warn: Callable[[str], object] | None = None
) -> pl.DataFrame:
    """Append the pulls, good and bad, each exactly once, and return the rows that were new.

    An unknown thing (a delisted asset), or one without records, is reported by ``warn`` and skipped. Raises the error
    of any other bad ending, after its evidence has landed: NeedsYouError, TransientError or DataError.
    """
    new = []
    for pull in pulls:
        failpoint("after_fetch")
        rows = raw_rows([pull])
        app, version = transaction(pull)
        commit = lake.append(contract, rows, app=app, version=version)
        if not commit.is_new and not _holds(lake, contract, pull):
            # A later answer of another process overtook ours: ours is no repetition and lands under its own name.
            commit = lake.append(contract, rows, app=f"{app}/{pull.pull_id}", version=version)
        failpoint("after_land")
        if commit.is_new:
            new.append(rows)
        if not pull.is_complete and warn is not None and pull.ending.outcome is Outcome.NOT_FOUND:
            warn(f"{pull.ending.request}: {pull.ending.detail}; skipped")
        elif pull.is_complete and warn is not None and pull.answers[0].outcome is Outcome.EMPTY:
            warn(f"{pull.ending.request}: the provider has no records of that time; not asked for again by itself")
        elif not pull.is_complete:
            raise failure(pull, contract)
    return pl.concat(new) if new else pl.DataFrame(schema=polars_schema(contract))


def transaction(pull: Pull) -> tuple[str, int]:
    """The append's name: the endpoint, what was asked and the day, and within the day the provider's own clock."""
    app = "/".join((pull.provider, pull.endpoint, pull.subject or "all", str(pull.window[0].date())))
    if not pull.is_complete:
        # Without a provider's clock these are ordered by ours: they must not run ahead of the good answers.
        app += "/broken"
    return app, round(pull.observed_at.timestamp() * 1000)


def failure(pull: Pull, contract: type[RawAnswers]) -> CryptoAssetsError:
    """The error that says how the pull ended."""
    ending = pull.ending
    what = f"{ending.request} ended {ending.outcome} ({ending.detail or 'no records'}) on page {len(pull.answers)}"
    where, safe = contract.table.full_name, "nothing of the pull is published, and raw holds what came as evidence"
    if ending.outcome in (Outcome.RATE_LIMITED, Outcome.UNAVAILABLE):
        return TransientError(what, where=where, safe=safe, hint="the next run asks again")
    if ending.outcome in (Outcome.QUOTA_EXHAUSTED, Outcome.DENIED):
        hint = "wait for the quota, raise the plan, or check the key; see crypto-assets status"
        return NeedsYouError(what, where=where, safe=safe, hint=hint)
    if ending.outcome is Outcome.EMPTY:
        # A list of nothing is never true of a whole market: success would be silence.
        hint = "earlier data stay as they are; the next run asks again"
    else:
        hint = "the page limit was reached" if ending.outcome is Outcome.OK else "look at the body in raw"
    return DataError(what, where=where, safe=safe, hint=hint)


def require_held(lake: Lake, contract: type[RawAnswers], window: Window, now: datetime) -> None:
    """Succeed where raw holds complete answers of the day; else note the gap and raise DataError."""
    held = lake.scan(contract, window).filter(pl.col("n_pages").is_not_null()).head(1).collect()
    if len(held):
        return
    day = window.start.date()
    gap = {
        "table_name": contract.table.full_name,
        "date": day,
        "gap_start_at": window.start,
        "gap_end_at": window.end,
        "cause": "our_downtime",
        "state": "unrecoverable",
        "detail": "the endpoint is live only, and nothing was pulled that day",
        "attempts": 0,
        "detected_at": now,
        "closed_at": now,
    }
    known = lake.scan(GapLedger).filter(table_name=contract.table.full_name, date=day).collect()
    if known.is_empty():
        times = pl.col("detected_at", "closed_at").dt.truncate("1ms")
        lake.merge(
            GapLedger, pl.DataFrame([gap], schema=polars_schema(GapLedger)).with_columns(times), delete_missing=False
        )
    raise DataError(
        f"nothing was pulled on {day}, and the endpoint answers for now only",
        where=contract.table.full_name,
        safe="no later answer is passed off as that day's",
        hint="the gap is on quality.gap_ledger as unrecoverable; asset history can be backfilled instead",
    )


def held_days(lake: Lake, asset_id: str, window: Window) -> set[date]:
    """The days of the window that a complete answer, received after the day was over, already covers."""
    answers = (
        lake.scan(RawCoincapHistory, window)
        .filter(pl.col("subject") == asset_id, pl.col("n_pages").is_not_null())
        .select("window_start_at", "window_end_at", "ingested_at")
        .collect()
    )
    return {
        day
        for day in window.days
        for start, end, arrived in answers.iter_rows()
        if start <= Window.of_day(day).start and Window.of_day(day).end <= min(end, arrived)
    }


def _holds(lake: Lake, contract: type[RawAnswers], pull: Pull) -> bool:
    day = Window.of_day(pull.window[0].date())
    return not lake.scan(contract, day).filter(pl.col("pull_id") == pull.pull_id).head(1).collect().is_empty()
