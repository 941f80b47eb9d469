"""``backfill``: past days in one run, after saying what it asks of whom, what that takes and what is held already.

Belongs here: choosing tables, markets and days, saying the plan, asking for leave, showing how far it is. What is to be
asked is ``automation/planner.py``'s, and the run itself ``run.py``'s.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crypto_assets.commands import output
from crypto_assets.commands import run as runs
from crypto_assets.errors import DataError, UsageError

if TYPE_CHECKING:
    import dagster as dg

    from crypto_assets.automation.planner import Ask
    from crypto_assets.resources.lake import Lake
    from crypto_assets.resources.settings import Settings
    from crypto_assets.tables.raw import RawAnswers

_DEFAULT_DAYS = 30
_NO_CALL = "no call was made"


def backfill(
    names: Sequence[str],
    span: tuple[str | None, str],
    *,
    venue: str | None,
    market: str | None,
    is_dry: bool,
    is_agreed: bool,
    form: output.Format,
) -> int:
    """One ranged run over past days: the tables named, what they are made of, and all that follows from them."""
    from crypto_assets.automation import planner
    from crypto_assets.resources.clock import SystemClock
    from crypto_assets.resources.settings import Settings
    from crypto_assets.tables.window import Window

    clock = SystemClock()
    until = runs.parsed_day(span[1], "--to", clock)
    since = runs.parsed_day(span[0], "--from", clock) if span[0] else until - timedelta(days=_DEFAULT_DAYS - 1)
    if since > until:
        raise UsageError(
            f"{since} is after {until}", where="--from", safe="nothing was run", hint="swap --from and --to"
        )
    window = Window.of_days(since, until)
    settings = narrowed(Settings(), venue, market)
    defs = runs.definitions(settings)
    keys, tables = chain(defs, runs.selected(defs, settings, names) if names else None)
    lake = runs.lake_of(settings)
    lake.probe()
    asks = planner.plan(lake, settings, tables, window, clock)
    asked = {ask.history.contract for ask in asks}
    keys = keys.difference(_key(table) for table in tables if table not in asked)
    _announce(asks, window.days, len(keys), form)
    planner.require_affordable(settings, asks, window, clock)
    n_calls = planner.total(asks).calls
    if is_dry or (n_calls and not is_agreed and not _agrees()):
        return 0
    return _run(defs, keys, asks, window.days, settings=settings, lake=lake, form=form)


def narrowed(settings: Settings, venue: str | None, market: str | None) -> Settings:
    """The settings with only what is wanted: a provider's things, a venue's markets, or one market.

    A market with its venue (``okx:SOL/USDT``) need not be among those of the settings. Raises UsageError where nothing
    is left.
    """
    from crypto_assets.providers.registry import NAMES
    from crypto_assets.providers.venues import spot_of, venues_of

    if venue is None and market is None:
        return settings
    if venue in NAMES and market is None:
        return settings.model_copy(update={"providers": tuple({venue} & set(settings.providers))})
    if market is not None and ":" in market:
        markets: tuple[str, ...] = (str(spot_of(market)),)
    else:
        markets = tuple(each for each in settings.markets if market is None or each.endswith(f":{market}"))
    markets = tuple(each for each in markets if venue is None or each.startswith(f"{venue}:"))
    if not markets:
        raise UsageError(
            f"there is no market {market or ''} of {venue or 'any venue'}".replace("  ", " "),
            where="--market" if market else "--venue",
            safe=_NO_CALL,
            hint=f"venues are {', '.join(venues_of(settings.markets))}, providers {', '.join(NAMES)}; "
            "a market of another venue is named as venue:BASE/QUOTE",
        )
    providers = tuple(name for name in settings.providers if name in ("exchanges", "binance_archive"))
    return settings.model_copy(update={"providers": providers, "markets": markets})


def chain(
    defs: dg.Definitions, named: Collection[dg.AssetKey] | None
) -> tuple[set[dg.AssetKey], list[type[RawAnswers]]]:
    """The assets of a backfill, and the raw tables among them that can be asked for the past.

    That is ``+name+`` in the Dagster UI (everything where nothing is named), but for live endpoints, which know no
    past, and for what is pulled only where it, or what is read from it, is named.
    """
    import dagster as dg

    from crypto_assets.automation.cadence import ON_REQUEST
    from crypto_assets.automation.planner import HISTORIES

    graph = defs.resolve_asset_graph()
    keys = set(graph.executable_asset_keys)
    wanted = set(named or ())
    if named is not None:
        roots = dg.AssetSelection.assets(*named)
        keys &= set((roots.upstream() | roots | roots.downstream()).resolve(graph))
    near = wanted.union(*(graph.get(key).parent_keys for key in wanted))
    histories = {_key(table): table for table in HISTORIES if table not in ON_REQUEST or _key(table) in near}
    keys = {key for key in keys if key.path[0] != "raw" or key in histories or key in wanted}
    return keys, [table for key, table in histories.items() if key in keys]


def _key(table: type[RawAnswers]) -> dg.AssetKey:
    import dagster as dg

    return dg.AssetKey(list(table.table.path))


def _announce(asks: Sequence[Ask], days: Sequence[date], n_assets: int, form: output.Format) -> None:
    from crypto_assets.automation import planner

    cost, took = planner.total(asks), planner.minutes(asks)
    rows = [
        {
            "source": ask.account,
            "table": ask.table,
            "subjects": len(ask.subjects),
            "days_to_ask": ask.n_days,
            "days_held": ask.n_held,
            "days_by_archive": ask.n_left,
            "calls": ask.cost.calls,
            "credits": ask.cost.credits,
            "bytes": ask.cost.n_bytes,
            "minutes": round(ask.seconds / 60, 1),
        }
        for ask in asks
    ]
    told = f"backfill of {len(days)} days, {days[0]} to {days[-1]}: {n_assets} assets in one run"
    if form is output.Format.JSON:
        output.rows(({"kind": "plan", **row} for row in rows), form)
    elif rows and form is output.Format.TABLE:
        # Eighty columns: days are those of all subjects, and credits are told where there are some.
        shown = [
            {
                "raw": ask.table.removeprefix("raw."),
                "of": len(ask.subjects),
                "to ask": ask.n_days,
                "held": ask.n_held,
                "archive": ask.n_left,
                "calls": ask.cost.calls,
                **({"credits": ask.cost.credits} if cost.credits else {}),
                "size": output.size(ask.cost.n_bytes),
                "min": round(ask.seconds / 60, 1),
            }
            for ask in asks
        ]
        output.table(shown, list(shown[0]))
    output.note(told)
    if any(ask.n_left for ask in asks) and not any(ask.history.provider == "binance_archive" for ask in asks):
        output.note("days that Binance's archive has are left to raw/binance_klines: name trusted/candles to ask both")
    if not cost.calls:
        output.note("no calls: what can be pulled is there already, or no provider is asked")
        return
    output.note(
        f"{cost.calls:,} calls, {cost.credits:,} credits, about {output.size(cost.n_bytes)} and {took:,.1f} minutes; "
        f"{sum(ask.n_held for ask in asks):,} days are held and not asked again"
    )


def _agrees() -> bool:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(
            "it spends calls, and there is nobody to ask",
            where="backfill",
            safe=_NO_CALL,
            hint="say --yes to go on, or --dry-run to see the plan only",
        )
    sys.stderr.write("go on? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _run(
    defs: dg.Definitions,
    keys: Collection[dg.AssetKey],
    asks: Sequence[Ask],
    days: Sequence[date],
    *,
    settings: Settings,
    lake: Lake,
    form: output.Format,
) -> int:
    from crypto_assets.automation import planner

    before = _versions(lake)
    ledgers = {planner.ledger_of(ask, settings) for ask in asks}
    with (
        runs.instance_at(runs.dagster_home(settings)) as instance,
        _progress(len(keys), planner.total(asks).calls, ledgers, form) as tell,
    ):
        report = runs.execute(defs, instance, days, keys, config=planner.run_config(asks) or None, tell=tell)
    runs.say(report, form)
    after = _versions(lake)
    changed = sorted(name for name, state in after.items() if state != before.get(name))
    output.note(f"{len(changed)} tables changed{': ' + ', '.join(changed) if changed else '; all days were there'}")
    bad = runs.failed_days(lake, days, [".".join(key.path) for key in keys])
    for on, told in bad:
        output.note(f"failed: {on} {told}")
    if bad:
        named = ", ".join(sorted({str(on) for on, _ in bad}))
        output.failure(
            DataError(
                f"{len({on for on, _ in bad})} of {len(days)} days failed: {named}",
                where="backfill",
                safe="the other days are complete",
                hint="run the same command again: it takes up what is missing",
            )
        )
    return report.exit_code or (1 if bad else 0)


def _versions(lake: Lake) -> dict[str, int]:
    from crypto_assets.tables import ALL_TABLES

    states = (lake.state(contract) for contract in ALL_TABLES)
    return {state.table: state.version for state in states if state is not None}


@contextmanager
def _progress(
    n_assets: int, n_calls: int, ledgers: Collection[Path], form: output.Format
) -> Iterator[Callable[[str], object]]:
    """How far the run is, by the assets begun and the calls booked: a bar on a terminal, else a line of JSON a step."""
    from crypto_assets.resources.budget import n_booked

    began, start = time.monotonic(), sum(map(n_booked, ledgers))
    steps: list[str] = []

    def told() -> dict[str, Any]:
        made = min(sum(map(n_booked, ledgers)) - start, n_calls)
        n_begun = len([step for step in steps if not step.startswith("checks of")])
        assets = {"asset": steps[-1] if steps else "", "n_assets": n_begun, "of_assets": n_assets}
        return {**assets, "calls": made, "of_calls": n_calls}

    if form is output.Format.TABLE and sys.stdout.isatty():
        with _bar(told, n_assets, n_calls):
            yield steps.append
        return

    def line(step: str) -> None:
        steps.append(step)
        if form is output.Format.JSON:
            seconds = round(time.monotonic() - began, 1)
            sys.stdout.write(json.dumps({"kind": "progress", **told(), "seconds": seconds}) + "\n")
            sys.stdout.flush()

    yield line


@contextmanager
def _bar(told: Callable[[], dict[str, Any]], n_assets: int, n_calls: int) -> Iterator[None]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    over = threading.Event()
    with Progress(*columns, console=output.console()) as progress:
        calls = progress.add_task("calls", total=n_calls) if n_calls else None
        assets = progress.add_task("assets", total=n_assets)

        def watch() -> None:
            # One look after the end: the last step's calls count too.
            is_over = False
            while not is_over:
                is_over = over.wait(0.3)
                now = told()
                progress.update(assets, completed=now["n_assets"], description=f"assets  {now['asset']}")
                if calls is not None:
                    progress.update(calls, completed=now["calls"])

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()
