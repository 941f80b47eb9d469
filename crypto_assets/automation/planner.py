"""What a backfill will ask, of whom and at what price, before it asks anything.

Belongs here: which histories fill a selection of tables, what of a range raw does not hold yet, and what that takes of
each budget. Does not: saying it and running it (``commands/backfill.py``). Who asks in the Dagster UI for the same
tables and days starts the same run: each history asks only for what is missing, the archive's part of it left to the
archive, whoever started it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from crypto_assets.assets.handles import accounts, budget_of, budget_path, opened
from crypto_assets.assets.raw import alpha_vantage, binance_archive, coincap, exchanges, mempool
from crypto_assets.assets.raw.pulls import History, held_days
from crypto_assets.providers.answers import Cost
from crypto_assets.resources.budget import SHORT_S, BudgetExhausted, Limit
from crypto_assets.resources.clock import Clock
from crypto_assets.resources.lake import Lake
from crypto_assets.resources.settings import Settings
from crypto_assets.tables import raw
from crypto_assets.tables.window import DAY, Window

HISTORIES: Mapping[type[raw.RawAnswers], History] = {
    history.contract: history
    for history in (
        coincap.HISTORY,
        *binance_archive.HISTORIES,
        exchanges.CANDLES,
        exchanges.TRADES,
        alpha_vantage.HISTORY,
        mempool.HISTORY,
    )
}
# A call takes as long at least, wherever the provider is, and a line of 8 Mbit/s brings so much in a second.
_CALL_S = 0.2
_BYTES_PER_S = 1_000_000


@dataclass(frozen=True)
class Ask:
    """What one history takes of one budget.

    Attributes:
        history, account: the raw table's, and the budget's name.
        limits: of the budget.
        subjects: what is asked for: assets, markets with their intervals.
        gaps: what raw does not hold, by subject.
        n_held: subjects' days of the range that raw holds whole.
        n_left: subjects' days that are left to a cheaper source.
        cost: what the gaps take.
    """

    history: History
    account: str
    limits: Sequence[Limit]
    subjects: tuple[str, ...]
    gaps: tuple[tuple[str, Window], ...]
    n_held: int
    n_left: int
    cost: Cost

    @property
    def table(self) -> str:
        return self.history.contract.table.full_name

    @property
    def n_days(self) -> int:
        """Subjects' days that are asked for."""
        return sum(len(window.days) for _, window in self.gaps)

    @property
    def seconds(self) -> float:
        """How long it takes at least: by the minute's limits, by the calls one after the other, or by the line."""
        paces = [limit.seconds / limit.amount for limit in self.limits if limit.seconds <= SHORT_S]
        return max(self.cost.calls * max([_CALL_S, *paces]), self.cost.n_bytes / _BYTES_PER_S)


def plan(
    lake: Lake,
    settings: Settings,
    tables: Iterable[type[raw.RawAnswers]],
    window: Window,
    clock: Clock,
) -> list[Ask]:
    """What the tables' histories will ask for a window of whole days; one that needs nothing is there with no gaps."""
    asks: list[Ask] = []
    with ExitStack() as stack:
        providers: dict[str, Any] = {}
        for table in tables:
            history = HISTORIES[table]
            if history.provider not in providers:
                providers[history.provider] = stack.enter_context(opened(history.provider, settings, clock))
            limits = accounts(history.provider, settings)
            asks += _asks(lake, history, providers[history.provider], limits, window=window, now=clock.now())
    return asks


def _asks(
    lake: Lake,
    history: History,
    provider: Any,
    limits: Mapping[str, Sequence[Limit]],
    *,
    window: Window,
    now: datetime,
) -> Iterable[Ask]:
    by_account: dict[str, list[str]] = {}
    for subject in history.subjects(provider):
        venue = subject.partition(":")[0]
        by_account.setdefault(venue if venue in limits else history.provider, []).append(subject)
    for account, subjects in by_account.items():
        gaps, n_held, n_left = [], 0, 0
        for subject in subjects:
            part = history.asked(provider, subject, window, now)
            own = list(history.missing(lake, subject, part, now)) if part else []
            gaps += [(subject, gap) for gap in own]
            n_held += len(held_days(lake, history.contract, subject, part)) if part else 0
            n_left += len(window.days) - len(part.days if part else [])
        cost = sum((history.cost(provider, subject, gap) for subject, gap in gaps), Cost())
        yield Ask(history, account, limits[account], tuple(subjects), tuple(gaps), n_held, n_left, cost)


def run_config(asks: Iterable[Ask]) -> dict[str, Any]:
    """The run configuration that names the subjects, as a person would write it in the UI's launchpad."""
    subjects: dict[str, list[str]] = {}
    for ask in asks:
        # What rounds and past share is one asset, which takes no configuration.
        if ask.history is not mempool.HISTORY:
            subjects.setdefault("__".join(ask.history.contract.table.path), []).extend(ask.subjects)
    return {step: {"config": {"subjects": named}} for step, named in subjects.items()}


def require_affordable(settings: Settings, asks: Sequence[Ask], window: Window, clock: Clock) -> None:
    """Raise BudgetExhausted, in one line, where a budget's longer windows do not have what the asks take.

    It says what it would take, what is left, when that much is free again, and how many of the newest days fit.
    """
    for (provider, account), need in _needs(asks).items():
        budget = budget_of(provider, account, settings, clock)
        if budget.affords(need.calls, need.credits):
            continue
        left = "; ".join(f"{n} of {limit}" for limit, n in budget.remaining().items() if limit.seconds > SHORT_S)
        frees = budget.fits_at(need.calls, need.credits)
        when = f"there is room for it at {frees:%Y-%m-%d %H:%M} UTC" if frees else "it is more than the plan ever has"
        fits = _newest_days_that_fit(settings, asks, window, clock)
        smaller = (
            f"--from {window.days[-fits]} --to {window.days[-1]} fits"
            if fits
            else "not even a day fits: wait, or raise the limit if your plan allows more"
        )
        wanted = f"{need.calls} calls" + (f" and {need.credits} credits" if need.credits else "")
        error = BudgetExhausted(
            f"{wanted} are more than is left ({left})",
            where=f"{account} budget",
            safe="no call was made",
            hint=f"{when}; {smaller}",
        )
        error.frees_at = frees
        raise error


def _needs(asks: Iterable[Ask]) -> dict[tuple[str, str], Cost]:
    needs: dict[tuple[str, str], Cost] = {}
    for ask in asks:
        key = (ask.history.provider, ask.account)
        needs[key] = needs.get(key, Cost()) + ask.cost
    return needs


def _newest_days_that_fit(settings: Settings, asks: Sequence[Ask], window: Window, clock: Clock) -> int:
    """How many of the newest days every budget pays for, found by halving."""
    with ExitStack() as stack:
        names = {ask.history.provider for ask in asks}
        providers = {name: stack.enter_context(opened(name, settings, clock)) for name in names}
        budgets = {key: budget_of(*key, settings, clock) for key in _needs(asks)}

        def fits(n_days: int) -> bool:
            clipped = [clip(ask, providers[ask.history.provider], window.end - n_days * DAY) for ask in asks]
            return all(budgets[key].affords(need.calls, need.credits) for key, need in _needs(clipped).items())

        low, high = 0, len(window.days)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def clip(ask: Ask, provider: Any, since: datetime) -> Ask:
    """The same of what lies after a moment."""
    gaps = tuple(
        (subject, Window(max(gap.start, since), gap.end))
        for subject, gap in ask.gaps
        if max(gap.start, since) < gap.end
    )
    cost = sum((ask.history.cost(provider, subject, gap) for subject, gap in gaps), Cost())
    return replace(ask, gaps=gaps, cost=cost)


def ledger_of(ask: Ask, settings: Settings) -> Path:
    """The file in which the asked provider's calls are booked."""
    return budget_path(ask.history.provider, settings)


def total(asks: Iterable[Ask]) -> Cost:
    """What all of them take together."""
    return sum((ask.cost for ask in asks), Cost())


def minutes(asks: Iterable[Ask]) -> float:
    """How long all of them take, one after the other, at least."""
    return sum(ask.seconds for ask in asks) / 60
