"""``status``: what there is, how old it is, who provides it, and what is wrong.

Belongs here: reading the tables' state and the providers' budgets. It writes nothing and asks no provider;
``doctor.py`` looks deeper.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from crypto_assets.commands import output
from crypto_assets.commands import run as runs

if TYPE_CHECKING:
    from crypto_assets.resources.clock import Clock
    from crypto_assets.resources.lake import Lake
    from crypto_assets.resources.settings import Settings
    from crypto_assets.tables.contract import Contract

# By which a table's newest row is told, the first that it has.
_CLOCKS = ("observed_at", "opened_at", "last_observed_at", "available_at", "valid_from", "detected_at", "date")
_SECTIONS = {
    "table": "Tables",
    "provider": "Providers",
    "gap": "Gaps",
    "check": "Failing checks of the newest day",
    "schedule": "Schedules",
    "lease": "Who runs the schedules",
}

# More than a screen of failures is one failure seen many times.
_FAILING_SHOWN = 20


def status(form: output.Format) -> int:
    """Everything on one page; in a pipe one record a line, its ``kind`` first. CSV has the tables only."""
    from crypto_assets.resources.clock import SystemClock
    from crypto_assets.resources.settings import Settings

    settings, clock = Settings(), SystemClock()
    lake = runs.lake_of(settings)
    sections = {
        "table": list(_tables(lake, clock)),
        "provider": list(_providers(settings, clock)),
        "gap": list(_gaps(lake)),
        "check": list(_failing(lake)),
        "schedule": list(_schedules(settings, clock)),
        "lease": list(_lease(settings, clock)),
    }
    if form is output.Format.CSV:
        output.rows(sections["table"], form)
        return 0
    if form is output.Format.JSON:
        for kind, records in sections.items():
            output.rows(({"kind": kind, **record} for record in records), form)
        return 0
    output.line(f"lake {settings.lake_root}")
    for kind, records in sections.items():
        if records:
            output.table(records, list(records[0]), title=_SECTIONS[kind])
        elif kind != "gap":
            output.line(f"{_SECTIONS[kind]}: none")
    return 0


def _tables(lake: Lake, clock: Clock) -> Iterator[dict[str, Any]]:
    from crypto_assets.tables import ALL_TABLES

    for contract in ALL_TABLES:
        state = lake.state(contract)
        newest = None if state is None or not state.n_rows else _newest(lake, contract)
        yield {
            "table": contract.table.full_name,
            "rows": 0 if state is None else state.n_rows,
            "newest": newest,
            "age": None if newest is None else _age(newest, clock),
            "version": None if state is None else state.version,
            "bytes": 0 if state is None else state.n_bytes,
        }


def _newest(lake: Lake, contract: type[Contract]) -> datetime | date | None:
    import polars as pl

    column = next((name for name in _CLOCKS if name in contract.column_names()), None)
    if column is None:
        return None
    newest: datetime | date | None = lake.scan(contract).select(pl.col(column).max()).collect().item()
    return newest


def _age(moment: datetime | date, clock: Clock) -> str:
    at = moment if isinstance(moment, datetime) else datetime(moment.year, moment.month, moment.day, tzinfo=UTC)
    seconds = int((clock.now() - at).total_seconds())
    if seconds < 0:
        return "ahead of this machine's clock"
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def _providers(settings: Settings, clock: Clock) -> Iterator[dict[str, Any]]:
    """Every provider: whether it is here, what each of its budgets has left, and when its next round is due."""
    from crypto_assets.assets.handles import absence, accounts
    from crypto_assets.automation.cadence import rounds
    from crypto_assets.providers.registry import NAMES

    found = rounds(settings)
    for name in NAMES:
        why = absence(name, settings)
        if why is not None:
            unknown = dict.fromkeys(("budget", "address", "budget_left", "breaker", "next_round", "cadence"))
            yield {"provider": name, "state": f"not registered: {why}", **unknown}
            continue
        feeds = [each for each in found if each.feed.provider == name]
        due = [moment for each in feeds if (moment := each.following(clock.now())) is not None]
        for account in accounts(name, settings):
            yield {
                "provider": name,
                "state": "registered",
                "budget": account,
                "address": _address(name, account, settings),
                **_budget(name, account, settings, clock),
                "next_round": min(due, default=None),
                "cadence": ", ".join(f"{each.feed.name} {_every(each.minutes)}" for each in feeds) or "finished days",
            }


def _every(minutes: int | None) -> str:
    return "by hand: the plan affords no round a day" if minutes is None else f"every {minutes} min"


def _address(name: str, account: str, settings: Settings) -> str | None:
    from urllib.parse import urlsplit

    from crypto_assets.assets.handles import provider_urls
    from crypto_assets.providers.registry import PROVIDERS

    if name not in PROVIDERS:
        return urlsplit(settings.coincap_base_url).hostname
    # A venue that nobody listed is asked where ccxt says.
    url = provider_urls(PROVIDERS[name], settings.sandbox_url).get(account)
    return None if url is None else urlsplit(url).hostname


def _budget(name: str, account: str, settings: Settings, clock: Clock) -> dict[str, str]:
    from crypto_assets.assets.handles import budget_of, budget_path
    from crypto_assets.resources.http import breaker_open_until

    path = budget_path(name, settings)
    if not path.exists():
        return {"budget_left": "untouched", "breaker": "closed"}
    left = budget_of(name, account, settings, clock).remaining()
    until = breaker_open_until(path, account, clock)
    return {
        "budget_left": "; ".join(f"{amount:,} of {limit}" for limit, amount in left.items()),
        "breaker": "closed" if until is None else f"open until {output.moment(until)}",
    }


def _gaps(lake: Lake) -> Iterator[dict[str, Any]]:
    import polars as pl

    from crypto_assets.tables.quality import GapLedger

    held = lake.scan(GapLedger).filter(pl.col("state") != "repaired").sort("date", "table_name").collect()
    for row in held.iter_rows(named=True):
        yield {name: row[name] for name in ("table_name", "date", "state", "cause", "detail")}


def _failing(lake: Lake) -> Iterator[dict[str, Any]]:
    import polars as pl

    from crypto_assets.tables.quality import CheckResults

    verdicts = lake.scan(CheckResults)
    failing = (
        # A day that is stopped stays in sight until it is mended; warnings are of the newest day.
        verdicts.filter(~pl.col("passed") & (pl.col("is_blocking") | (pl.col("date") == pl.col("date").max())))
        .sort("is_blocking", "date", "table_name", "check_name", descending=[True, True, False, False])
        .head(_FAILING_SHOWN)
        .collect()
    )
    for row in failing.iter_rows(named=True):
        yield {
            "table_name": row["table_name"],
            "check": row["check_name"],
            "date": row["date"],
            "severity": row["severity"],
            "observed": row["observed"],
        }


def _schedules(settings: Settings, clock: Clock) -> Iterator[dict[str, Any]]:
    for name, cron, moment in upcoming(settings, clock):
        yield {"schedule": name, "cron": cron, "next": moment}


def upcoming(settings: Settings, clock: Clock) -> Iterator[tuple[str, str, datetime]]:
    """Every schedule that runs with these settings: name, cron line, next tick in UTC."""
    from dagster._utils.schedules import schedule_execution_time_iterator

    from crypto_assets.automation import schedules

    found = (
        *schedules.live(settings),
        *schedules.daily_history(settings),
        *schedules.restatements(settings),
        schedules.maintenance(settings),
    )
    for schedule in found:
        cron = str(schedule.cron_schedule)
        ticks = schedule_execution_time_iterator(clock.now().timestamp(), cron, "UTC")
        yield schedule.name, cron, next(ticks).astimezone(UTC)


def _lease(settings: Settings, clock: Clock) -> Iterator[dict[str, Any]]:
    """The installation whose daemon starts this lake's scheduled runs; nothing where none ever did."""
    from crypto_assets.resources import lease
    from crypto_assets.resources.settings import storage_options

    try:
        held = lease.look(lease.slot_of(settings.lake_root, storage_options()))
    except lease.Unreadable as error:
        unknown = dict.fromkeys(("holder", "is_here", "since", "until", "counter"))
        yield {**unknown, "state": f"{error}; the next tick replaces it"}
        return
    if held is not None:
        yield {
            "holder": str(held.holder),
            "is_here": held.holder.id == lease.known_installation(settings.state_dir.resolve()),
            "since": held.since,
            "until": held.expires_at,
            "counter": held.counter,
            "state": "held" if held.is_live(clock.now()) else "expired: the next tick of any installation takes it",
        }
