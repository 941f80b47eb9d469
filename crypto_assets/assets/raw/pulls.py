"""How providers' answers reach the raw zone: live rounds, windows of the past, each answer landed exactly once.

Belongs here: what is the same for every provider. Which endpoints there are is one module a provider beside this one.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Any

import dagster as dg
import polars as pl
from pydantic import Field

from crypto_assets.assets.lake_asset import asset_facts, by_day, materialize
from crypto_assets.errors import CryptoAssetsError, DataError, NeedsYouError, TransientError
from crypto_assets.providers.answers import Cost, Pull, raw_rows
from crypto_assets.resources.clock import Clock
from crypto_assets.resources.failpoints import failpoint
from crypto_assets.resources.http import Outcome
from crypto_assets.resources.lake import Lake
from crypto_assets.tables.contract import polars_schema
from crypto_assets.tables.quality import GapLedger
from crypto_assets.tables.raw import RawAnswers
from crypto_assets.tables.window import DAY, Window, contiguous, joined, months

# A live answer covers an instant.
_INSTANT = timedelta(milliseconds=1)


class PullConfig(dg.Config):
    """What of the past to pull, and whether to ask again for days that raw already holds."""

    subjects: list[str] = Field([], description="Assets or markets; those of the settings where empty.")
    again: bool = Field(default=False, description="Ask again for days that raw already holds.")
    spans: list[str] = Field(
        [], description="Only these times, and of them what raw does not hold: 'subject start/end', ISO 8601 in UTC."
    )


def span(subject: str, window: Window) -> str:
    """How a ``PullConfig`` names a time of a subject."""
    return f"{subject} {window.start.isoformat()}/{window.end.isoformat()}"


def _spans(told: Iterable[str], within: Window) -> Iterator[tuple[str, Window]]:
    """The named times, as much of each as lies inside the window."""
    for each in told:
        subject, _, times = each.rpartition(" ")
        start, end = (datetime.fromisoformat(moment).astimezone(UTC) for moment in times.split("/"))
        if max(start, within.start) < min(end, within.end):
            yield subject, Window(max(start, within.start), min(end, within.end))


def live_asset(
    contract: type[RawAnswers],
    provider: str,
    pull: Callable[[Any], Iterable[Pull]],
    past: "History | None" = None,
) -> dg.AssetsDefinition:
    """An endpoint that answers for now only; ``provider`` names the resource that ``pull`` is handed.

    Today is pulled. A past day succeeds with nothing new where raw holds it; else it fails, and the gap ledger says so:
    stamping today's answer with another day would be a lie that no later check could find. ``past`` is what of the
    same table can still be asked of days that are over: they are filled with it, in one piece, instead.
    """

    def body(context: dg.AssetExecutionContext) -> Iterator[dg.Output[None] | dg.AssetMaterialization]:
        lake, clock = _handed(context)

        def work(window: Window) -> Mapping[date, Mapping[str, int]]:
            now, connected = clock.now(), getattr(context.resources, provider)
            if window.start <= now < window.end:
                return by_day(window, rows=_land_each(lake, contract, pull(connected), context.log.warning))
            if past is not None and window.end <= now:
                n_landed = past.fill(
                    lake, connected, past.subjects(connected), window, now=clock.now, warn=context.log.warning
                )
                return {day: {"answers_of_the_run": n_landed} for day in window.days}
            require_held(lake, contract, window, now)
            return {day: {"rows": 0} for day in window.days}

        def windows(days: Sequence[date]) -> Iterator[Window]:
            today = clock.now().date()
            if past is not None:
                yield from contiguous(day for day in days if day < today)
            yield from (Window.of_day(day) for day in days if past is None or day >= today)

        steps = materialize(
            context, lake, contract, [], windows=windows, work=work, is_gate=False, is_divisible=past is None
        )
        yield from _carried_on(context, contract, clock.now(), steps)

    return _raw_asset(contract, provider, body)


@dataclass(frozen=True)
class History:
    """An endpoint that can be asked for the past, one subject (an asset, a market) at a time.

    Attributes:
        contract, provider: the raw table, and the resource that the functions below are handed.
        subjects: what is pulled where nobody names subjects.
        pull: the answers for a subject and a window of whole days, or with ``has_today`` of whatever is missing.
        cost: what ``pull`` would take.
        has_today: whether the day in progress may be asked for; then only what no answer covers is.
        settles_in: how long after its end something may still change: an answer that arrived sooner does not cover it.
        is_monthly: whether a window is asked for by the month (archives), so that each month lands on its own.
        opens: from when on a subject is asked for here, where a cheaper source has what lies before; else None.
    """

    contract: type[RawAnswers]
    provider: str
    subjects: Callable[[Any], Sequence[str]]
    pull: Callable[[Any, str, Window], Iterable[Pull]]
    cost: Callable[[Any, str, Window], Cost]
    has_today: bool = False
    settles_in: timedelta = timedelta(0)
    is_monthly: bool = False
    opens: Callable[[Any, str, datetime], datetime | None] = lambda *_: None

    def asked(self, provider: Any, subject: str, window: Window, now: datetime) -> Window | None:
        """The part of a window that is this endpoint's to fill; None where a cheaper source has all of it."""
        start = max(window.start, self.opens(provider, subject, now) or window.start)
        return Window(start, window.end) if start < window.end else None

    def missing(
        self, lake: Lake, subject: str, window: Window, now: datetime, *, again: bool = False
    ) -> Iterator[Window]:
        """The windows that are over (or begun) and that raw does not hold of the subject."""
        if self.has_today:
            held = [] if again else covered(lake, self.contract, subject, window, self.settles_in)
            yield from _between(held, window.start, min(window.end, now))
            return
        known = set() if again else held_days(lake, self.contract, subject, window)
        days = [day for day in window.days if day not in known and Window.of_day(day).start <= now - DAY]
        for gap in contiguous(days):
            yield from months(gap) if self.is_monthly else [gap]

    def reached(self, lake: Lake, since: datetime, window: Window) -> set[date]:
        """Earlier days whose facts could only land with the window's, and have since then: of longer candles."""
        del lake, since, window
        return set()

    def fill(
        self,
        lake: Lake,
        provider: Any,
        subjects: Iterable[str],
        window: Window,
        *,
        now: Callable[[], datetime],
        warn: Callable[[str], object],
        again: bool = False,
    ) -> int:
        """Land what raw does not hold of the subjects, and say how many answers landed. The first error comes last."""

        def part(subject: str) -> Window | None:
            # Who asks again wants this source's word, whichever has the time too.
            return window if again else self.asked(provider, subject, window, now())

        parts = [(subject, partial(part, subject)) for subject in subjects]
        return self._fill(lake, provider, parts, now=now, warn=warn, again=again)

    def fill_spans(
        self,
        lake: Lake,
        provider: Any,
        spans: Iterable[tuple[str, Window]],
        *,
        now: Callable[[], datetime],
        warn: Callable[[str], object],
    ) -> int:
        """The same of these times of subjects, whichever other source has them too."""
        parts = [(subject, partial(Window, part.start, part.end)) for subject, part in spans]
        return self._fill(lake, provider, parts, now=now, warn=warn, again=False)

    def _fill(
        self,
        lake: Lake,
        provider: Any,
        parts: Iterable[tuple[str, Callable[[], Window | None]]],
        *,
        now: Callable[[], datetime],
        warn: Callable[[str], object],
        again: bool,
    ) -> int:
        n_landed, errors = 0, []
        for subject, told in parts:
            try:
                part = told()
                for gap in self.missing(lake, subject, part, now(), again=again) if part else ():
                    n, broken = _land_history(lake, self.contract, self.pull(provider, subject, gap), warn)
                    n_landed += n
                    errors += broken
            except CryptoAssetsError as error:
                errors.append(error)
        if errors:
            raise errors[0]
        return n_landed

    def asset(self) -> dg.AssetsDefinition:
        """The Dagster asset. A subject that fails does not stop the others; the first error is raised at the end."""
        history = self

        def body(
            context: dg.AssetExecutionContext, config: PullConfig
        ) -> Iterator[dg.Output[None] | dg.AssetMaterialization]:
            lake, clock = _handed(context)
            provider = getattr(context.resources, history.provider)
            reached: set[date] = set()

            def work(window: Window) -> Mapping[date, Mapping[str, int]]:
                subjects, begun = config.subjects or history.subjects(provider), clock.now()
                warn = context.log.warning
                try:
                    if config.spans:
                        spans = _spans(config.spans, window)
                        n_landed = history.fill_spans(lake, provider, spans, now=clock.now, warn=warn)
                    else:
                        n_landed = history.fill(
                            lake, provider, subjects, window, now=clock.now, warn=warn, again=config.again
                        )
                finally:
                    # Dagster learns of days that nobody asked for too, or nothing would carry them further.
                    further = history.reached(lake, begun, window)
                    reached.update(further)
                    for day in sorted(further):
                        context.log_event(dg.AssetMaterialization(context.asset_key, partition=str(day)))
                return {day: {"answers_of_the_run": n_landed} for day in window.days}

            steps = materialize(
                context, lake, history.contract, [], windows=contiguous, work=work, is_gate=False, is_divisible=False
            )
            yield from _carried_on(context, history.contract, clock.now(), steps, reached)

        return _raw_asset(self.contract, self.provider, body)


def _carried_on(
    context: dg.AssetExecutionContext,
    contract: type[RawAnswers],
    begun: datetime,
    steps: Iterator[dg.Output[None]],
    reached: Set[date] = frozenset(),
) -> Iterator[dg.Output[None] | dg.AssetMaterialization]:
    """The steps; where they fail, the days are told of which something landed all the same.

    The run is a failure, and nothing follows in it. But one venue that is down must not hold up the others: declarative
    automation carries on what it is told of. It is yielded, for what a failing step has logged is lost.
    """
    try:
        yield from steps
    except dg.Failure:
        asked = {date.fromisoformat(key) for key in context.partition_keys}
        landed = context.resources.lake.scan(contract, Window.of_days(min(asked), max(asked))).filter(
            pl.col("ingested_at") >= pl.lit(begun).dt.truncate("1ms"), pl.col("n_pages").is_not_null()
        )
        spans = landed.select("window_start_at", "window_end_at").unique().collect().rows()
        days = {day for start, end in spans for day in Window(start, max(end, start + _INSTANT)).days}
        for day in sorted(days & asked | reached):
            yield dg.AssetMaterialization(context.asset_key, partition=str(day))
        raise


def _land_history(
    lake: Lake, contract: type[RawAnswers], pulls: Iterable[Pull], warn: Callable[[str], object]
) -> tuple[int, list[CryptoAssetsError]]:
    """How many answers landed, and what was wrong with some: a file that is bad for good must not hide those after it.

    Raises what would end the next pull alike: TransientError and NeedsYouError. One pull is held at a time.
    """
    n_landed, errors = 0, list[CryptoAssetsError]()
    for pull in pulls:
        try:
            n_landed += len(land(lake, contract, [pull], warn))
        except DataError as error:
            errors.append(error)
    return n_landed, errors


def _land_each(
    lake: Lake, contract: type[RawAnswers], pulls: Iterable[Pull], warn: Callable[[str], object]
) -> pl.DataFrame:
    """Land every pull of a round; one that failed does not stop those after it, and the first error is raised last."""
    landed, errors = [pl.DataFrame(schema=polars_schema(contract))], []
    for pull in pulls:
        try:
            landed.append(land(lake, contract, [pull], warn))
        except CryptoAssetsError as error:
            errors.append(error)
    if errors:
        raise errors[0]
    return pl.concat(landed)


def _handed(context: dg.AssetExecutionContext) -> tuple[Lake, Clock]:
    # By their keys: Dagster takes parameters or keys, not both, and the provider's name is only known here.
    return context.resources.lake, context.resources.clock


def _raw_asset(contract: type[RawAnswers], provider: str, body: Callable[..., object]) -> dg.AssetsDefinition:
    # One call at a time per provider: its budget is one, and so is its patience.
    facts = {**asset_facts(contract), "pool": provider, "kinds": {"delta", "httpx"}}
    asset: dg.AssetsDefinition = dg.asset(**facts, required_resource_keys={provider, "lake", "clock"})(body)
    return asset


def land(
    lake: Lake, contract: type[RawAnswers], pulls: Iterable[Pull], warn: Callable[[str], object] | None = None
) -> pl.DataFrame:
    """Append the pulls, good and bad, each exactly once, and return the rows that were new.

    An unknown thing (a delisted asset), one outside the plan, or one without records, is reported by ``warn`` and
    skipped. Raises the error of any other bad ending, after its evidence has landed: NeedsYouError, TransientError or
    DataError.
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
        if warn is not None and pull.is_hopeless:
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
        "key": "all",
        "gap_start_at": window.start,
        "gap_end_at": window.end,
        "n_missing": 1,
        "cause": "our_downtime",
        "state": "unrecoverable",
        "detail": "the endpoint is live only, and nothing was pulled that day",
        "attempts": 0,
        "run_id": None,
        "detected_at": now,
        "closed_at": now,
        "date": day,
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


def held_days(lake: Lake, contract: type[RawAnswers], subject: str, window: Window) -> set[date]:
    """The days of the window that complete answers, each received after what it tells was over, already cover."""
    held = covered(lake, contract, subject, window)
    return {day for day in window.days if _is_inside(Window.of_day(day), held)}


def covered(
    lake: Lake, contract: type[RawAnswers], subject: str, window: Window, settles_in: timedelta = timedelta(0)
) -> list[Window]:
    """What complete answers, each up to ``settles_in`` before it arrived, cover in and around the window, in order."""
    until = pl.min_horizontal("window_end_at", pl.col("ingested_at") - settles_in)
    answers = (
        lake.scan(contract, window)
        .filter(pl.col("subject") == subject, pl.col("n_pages").is_not_null())
        .select("window_start_at", until=until)
        .filter(pl.col("window_start_at") < pl.col("until"))
        .unique()
        .sort("window_start_at")
        .collect()
    )
    return joined(answers.iter_rows())


def _is_inside(window: Window, spans: Iterable[Window]) -> bool:
    return any(span.start <= window.start and window.end <= span.end for span in spans)


def _between(spans: Iterable[Window], start: datetime, end: datetime) -> Iterator[Window]:
    """What of ``[start, end)`` none of the ordered spans covers."""
    for span in spans:
        if start < min(span.start, end):
            yield Window(start, min(span.start, end))
        start = max(start, span.end)
    if start < end:
        yield Window(start, end)


def _holds(lake: Lake, contract: type[RawAnswers], pull: Pull) -> bool:
    day = Window.of_day(pull.window[0].date())
    return not lake.scan(contract, day).filter(pl.col("pull_id") == pull.pull_id).head(1).collect().is_empty()
