"""The gap ledger as an asset: after each run, what is missing in its days, why, and what became of known gaps.

Candles and histories are missing where a time has no row. Trades come when they come: what is missing of them is what
their streams say that they did not hear.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any

import dagster as dg
import polars as pl

from crypto_assets.analytics.gaps import OPEN, Evidence, covered, holes, is_answered, ledger, missing
from crypto_assets.assets.lake_asset import asset_facts, materialize, windows_of
from crypto_assets.providers import alpha_vantage, coincap
from crypto_assets.providers.venues import venue_of
from crypto_assets.resources.clock import Clock
from crypto_assets.resources.lake import Lake
from crypto_assets.stream.blocks import MARGIN_US
from crypto_assets.tables import raw, trusted
from crypto_assets.tables.contract import UTC_TIME, Contract, moment, polars_schema
from crypto_assets.tables.quality import GapLedger, Quarantine
from crypto_assets.tables.stream import RawStreamEvents, RawTrades
from crypto_assets.tables.trusted import INTERVALS, RELAYS, TRADE_STREAMS
from crypto_assets.tables.window import DAY, Window

# A candle that ended less than this ago may still be on its way.
PATIENCE = timedelta(minutes=10)
# A key that has rows so shortly before and after a window belongs into it, though nothing of it is there.
NEARBY = 31 * DAY


@dataclass(frozen=True)
class Spine:
    """A table whose rows are expected at regular times.

    Attributes:
        contract: the table.
        key: what a row is of, in the words of raw's subjects.
        subject: the same of an answer.
        all_sources: the raw tables that it is made of, cheapest first.
        serves: whether a source can be asked for a key.
        group: what falls silent together (a venue), by key.
        every: the step of a key; None where none is expected.
        omits_quiet: whether the source of a key has no row for a time without trades: where it answered, nothing is
            missing then.
    """

    contract: type[Contract]
    key: pl.Expr
    subject: pl.Expr
    all_sources: tuple[type[raw.RawAnswers], ...]
    serves: Callable[[type[raw.RawAnswers], str], bool]
    group: Callable[[str], str]
    every: Callable[[str], timedelta | None]
    omits_quiet: Callable[[str], bool] = lambda _: False

    def sources(self, key: str) -> list[type[raw.RawAnswers]]:
        """The raw tables that can be asked for a key, cheapest first."""
        return [source for source in self.all_sources if self.serves(source, key)]


def _candle_step(key: str) -> timedelta | None:
    if key.startswith(f"{alpha_vantage.NAME}:"):
        # Its series come whole, once a day, and no source of the spine can be asked for a part of one.
        return None
    length = INTERVALS.get(key.partition(" ")[2])
    return timedelta(milliseconds=length) if length and length <= DAY // timedelta(milliseconds=1) else None


CANDLES = Spine(
    trusted.Candles,
    key=pl.format("{} {}", "market_id", "interval"),
    subject=pl.col("subject"),
    all_sources=(raw.RawBinanceKlines, raw.RawExchangeCandles),
    serves=lambda source, key: source is not raw.RawBinanceKlines or key.startswith("binance:"),
    group=lambda key: key.partition(":")[0],
    every=_candle_step,
    omits_quiet=lambda key: venue_of(key.partition(":")[0]).omits_quiet,
)
HISTORY = Spine(
    trusted.AssetHistory,
    key=pl.col("asset_id"),
    subject=pl.col("subject").replace(coincap.RENAMED_IDS),
    all_sources=(raw.RawCoincapHistory,),
    serves=lambda *_: True,
    group=lambda key: key,
    every=lambda _: DAY,
)
SPINES = (CANDLES, HISTORY)
# No time of it is expected; its gaps are its streams' holes.
TRADES = Spine(
    trusted.Trades,
    key=pl.col("market_id"),
    subject=pl.col("subject"),
    all_sources=(raw.RawExchangeTrades,),
    serves=lambda *_: True,
    group=lambda key: key.partition(":")[0],
    every=lambda _: None,
)
# What a hole's reason is called on the ledger, by how the collector's words begin; of the others nobody knows whose
# fault it was.
_HOLE_CAUSES = {
    "the collector was not running": "our_downtime",
    "told to stop": "our_downtime",
    "closed by the provider": "venue_outage",
    "silent": "venue_outage",
    "the handshake was refused": "venue_outage",
    "blocks ": "our_downtime",
    "unreadable messages": "provider_error",
    "our clock was behind": "our_downtime",
}


def find_gaps(lake: Lake, spine: Spine, window: Window, now: datetime) -> pl.DataFrame:
    """The ledger's rows of a window of whole days that are new or have changed."""
    known = lake.scan(GapLedger).filter(
        pl.col("table_name") == spine.contract.table.full_name,
        pl.col("gap_start_at") < window.end,
        pl.col("gap_end_at") > window.start,
    )
    known_rows = known.collect()
    # All of each known gap is looked at: one part of it cannot say whether it is filled.
    start = min([window.start, *known_rows["gap_start_at"]])
    end = min(max([window.end, *known_rows["gap_end_at"]]), now - PATIENCE)
    if start >= end:
        return known_rows.clear()
    whole = Window(start.replace(hour=0, minute=0, second=0, microsecond=0), end)
    held = _held(lake, spine, whole)
    answers = answers_about(lake, spine, whole)
    keys = sorted({*held["key"], *answers["key"], *known_rows["key"], *_expected(lake, spine, window)})
    refused = _refused(lake, spine, answers, whole)
    changed = [known_rows.clear()]
    for every, group in _by_step(spine, keys).items():
        of_group = held.filter(pl.col("key").is_in(group))
        over = _floor(whole.end, every)
        if over <= whole.start:
            continue
        moments = missing(group, of_group, Window(whole.start, over), every)
        rows = known_rows.filter(pl.col("key").is_in(group))
        quiet = _within(moments, _quiet(answers, [key for key in group if spine.omits_quiet(key)]))
        is_refused = moments.select(pl.struct("key", "moment").is_in(refused.to_struct().implode())).to_series()
        moments = moments.filter(~quiet | is_refused)
        # Outside the asked days only known gaps count: nobody looked for new ones there.
        inside = moments["moment"].is_between(window.start, window.end, closed="left")
        gaps = rows.select("key", start="gap_start_at", end="gap_end_at")
        moments = moments.filter(inside | _within(moments, gaps))
        evidence = replace(_evidence(lake, spine, group, answers, moments), refused=refused)
        changed.append(ledger(spine.contract.table.full_name, rows, moments, every=every, evidence=evidence, now=now))
    return pl.concat(changed)


def find_holes(lake: Lake, window: Window, now: datetime) -> pl.DataFrame:
    """The ledger's rows, new or changed, of what streams of trades wrote down in the window as not heard.

    A relay's hole is as long as its hours: the venue's own trades fill it, and one of both counts for each hour.
    """
    day = Window.of_days(window.days[0], window.days[-1])
    start, end = pl.col("starts_at"), pl.col("ends_at")
    is_relay = pl.col("provider").is_in(RELAYS)
    last_hour = (end - pl.duration(milliseconds=1)).dt.truncate("1h") + pl.duration(hours=1)
    reason, unknown = pl.col("detail"), pl.lit("unknown")
    cause = pl.coalesce(
        *[pl.when(reason.str.starts_with(told)).then(pl.lit(cause)) for told, cause in _HOLE_CAUSES.items()], unknown
    )
    events = lake.scan(RawStreamEvents, day).filter(pl.col("provider").is_in(TRADE_STREAMS))
    missed = events.filter(pl.col("kind") == "hole", pl.col("subject").is_not_null()).select(*_MISSED)
    stated = _joined(
        pl.concat([missed, *_lost(lake, events.filter(kind="blocks_lost").collect())])
        .select(
            key="subject",
            start=pl.when(is_relay).then(start.dt.truncate("1h")).otherwise(start),
            end=pl.when(is_relay).then(last_hour).otherwise(end),
            cause=cause,
            detail=pl.format("{}: {}", "provider", reason),
        )
        .collect()
    )
    known = (
        lake.scan(GapLedger)
        .filter(table_name=trusted.Trades.table.full_name)
        .filter(pl.col("state").is_in(OPEN) | pl.col("gap_start_at").is_in(stated["start"].implode()))
        .collect()
    )
    if stated.is_empty() and known.is_empty():
        return known
    whole = Window(min([*stated["start"], *known["gap_start_at"]]), max([*stated["end"], *known["gap_end_at"]]))
    archive = replace(TRADES, all_sources=(*TRADES.all_sources, raw.RawBinanceTrades))
    return holes(trusted.Trades.table.full_name, known, stated, answers_about(lake, archive, whole), now)


def _joined(stated: pl.DataFrame) -> pl.DataFrame:
    """What touches within an hour as one: of a stream that nobody can read any more each block says a hole."""
    of = [*map(pl.col, ("key", "cause", "detail")), pl.col("start").dt.truncate("1h").alias("hour")]
    ended = pl.col("end").cum_max().shift(1).over(of)
    spans = stated.sort("start", "end").with_columns(begins=(pl.col("start") > ended).fill_null(value=True))
    runs = spans.with_columns(run=pl.col("begins").cum_sum().over(of))
    return runs.group_by(*of, "run").agg(pl.col("start").min(), pl.col("end").max()).drop("hour", "run")


_MISSED = ("provider", "subject", "starts_at", "ends_at", "detail")
# How the consumer names blocks that never came, and how far their trades may lie beyond the blocks around them.
_BLOCKS = r"blocks (\d+) to \d+ of "
_MARGIN = timedelta(microseconds=MARGIN_US)


def _lost(lake: Lake, events: pl.DataFrame) -> Iterator[pl.LazyFrame]:
    """What blocks that never came held: the time from the last of their collector's before them, of all its markets."""
    for event in events.with_columns(first=pl.col("detail").str.extract(_BLOCKS).cast(pl.Int64)).iter_rows(named=True):
        end = event["ends_at"]
        before = _before(lake, event["pull_id"].rpartition(":")[0], event["first"], end + _MARGIN)
        since = before.select(pl.col("ingested_at").max())
        yield (
            before.group_by("provider", "subject")
            .agg(ends_at=pl.lit(end, UTC_TIME).first() + _MARGIN)
            .join(since.rename({"ingested_at": "starts_at"}), how="cross")
            .with_columns(pl.col("starts_at") - _MARGIN, detail=pl.lit(event["detail"]))
            .select(*_MISSED)
        )


def _before(lake: Lake, collector: str, first: int, end: datetime) -> pl.LazyFrame:
    """Trades of a collector's blocks before a number: of the last day that has any, however long ago, and of the day
    before it."""
    number = pl.col("pull_id").str.extract(r":(\d+)$").cast(pl.Int64)
    # By bounds, since by them readers skip files of others.
    is_of_it = pl.col("pull_id").is_between(pl.lit(f"{collector}:"), pl.lit(f"{collector}:~"))
    is_before = is_of_it & (number < first) & pl.col("subject").is_not_null()
    for day in reversed(lake.days(RawTrades) if first else []):
        last = Window.of_day(day)
        if last.start < end and lake.scan(RawTrades, last).filter(is_before).head(1).collect().height:
            return lake.scan(RawTrades, Window(last.start - DAY, last.end)).filter(is_before)
    return pl.LazyFrame(schema=polars_schema(RawTrades))


def unseen_days(lake: Lake, spine: Spine, now: datetime) -> list[date]:
    """The days of the last ``NEARBY`` without any row, between days that have some, that no gap is known of.

    Nobody ran for them, or a run would have noted them: an installation was off for longer than histories look back.
    """
    window = Window(now - NEARBY, now)
    held = set(lake.scan(spine.contract, window).select(pl.col("date").unique()).collect()["date"])
    if not held:
        return []
    name = spine.contract.table.full_name
    known = lake.scan(GapLedger).filter(table_name=name).select("gap_start_at", "gap_end_at").collect()
    noted = {day for start, end in known.iter_rows() for day in Window(start, end).days}
    return [day for day in window.days if min(held) < day < max(held) and day not in held | noted]


def _held(lake: Lake, spine: Spine, window: Window) -> pl.DataFrame:
    days = Window.of_days(window.days[0], window.days[-1])
    rows = lake.scan(spine.contract, days).select(key=spine.key, moment=pl.col(moment(spine.contract)))
    return rows.unique().collect()


def _expected(lake: Lake, spine: Spine, window: Window) -> set[str]:
    """The keys with rows on both sides of the window: where nobody ran for a day, nothing else speaks of them."""
    around = _held(lake, spine, Window(window.start - NEARBY, window.end + NEARBY))
    before = around.filter(pl.col("moment") < window.start)["key"]
    return {*before} & {*around.filter(pl.col("moment") >= window.end)["key"]}


def answers_about(lake: Lake, spine: Spine, window: Window) -> pl.DataFrame:
    """Every answer about the window, without its body."""
    found = []
    for source in spine.all_sources:
        rows = lake.scan(source, window).filter(pl.col("subject").is_not_null())
        found.append(
            rows.select(
                "window_start_at",
                "window_end_at",
                "outcome",
                "detail",
                "ingested_at",
                "pull_id",
                key=spine.subject,
                source=pl.lit(source.table.full_name),
                is_complete=pl.col("n_pages").is_not_null(),
            ).collect()
        )
    return pl.concat(found).unique(maintain_order=True)


def _refused(lake: Lake, spine: Spine, answers: pl.DataFrame, window: Window) -> pl.DataFrame:
    """``key, moment`` of the window's records that were stated and are in quarantine."""
    held = lake.scan(Quarantine, window).filter(table_name=spine.contract.table.full_name)
    refused = held.select("pull_id", moment="observed_at").unique().collect()
    of_pull = answers.select("pull_id", "key").unique()
    return refused.join(of_pull, "pull_id").select("key", "moment").unique()


def has_answered(answers: pl.DataFrame, source: type[raw.RawAnswers], gap: Mapping[str, Any]) -> bool:
    """Whether the source has answered for all of a gap, be it that there is nothing."""
    of_key = answers.filter(pl.col("source") == source.table.full_name, pl.col("key") == gap["key"])
    return is_answered(of_key, gap["gap_start_at"], gap["gap_end_at"])


def _by_step(spine: Spine, keys: Sequence[str]) -> Mapping[timedelta, list[str]]:
    steps: dict[timedelta, list[str]] = {}
    for key in keys:
        every = spine.every(key)
        if every is not None:
            steps.setdefault(every, []).append(key)
    return steps


def _floor(at: datetime, every: timedelta) -> datetime:
    midnight = at.replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight + (at - midnight) // every * every


def _quiet(answers: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """``key, start, end`` of what sources that omit quiet times have answered for."""
    told = answers.filter(pl.col("outcome").is_in(["ok", "empty"]))
    spans = [(key, span.start, span.end) for key in keys for span in covered(told.filter(pl.col("key") == key))]
    return pl.DataFrame(spans, schema={"key": pl.String, "start": UTC_TIME, "end": UTC_TIME}, orient="row")


def _within(moments: pl.DataFrame, spans: pl.DataFrame) -> pl.Series:
    """Whether each missing time lies in one of the spans (``key, start, end``) of its key, which do not overlap."""
    places = moments.with_row_index("place").sort("moment")
    latest = places.join_asof(spans.sort("start"), left_on="moment", right_on="start", by="key", check_sortedness=False)
    return latest.sort("place").select((pl.col("moment") < pl.col("end")).fill_null(value=False)).to_series()


def _evidence(lake: Lake, spine: Spine, keys: Sequence[str], answers: pl.DataFrame, moments: pl.DataFrame) -> Evidence:
    group = {key: spine.group(key) for key in keys}
    seen = (
        lake.scan(spine.contract)
        .select(key=spine.key, moment=pl.col(moment(spine.contract)))
        .filter(pl.col("key").is_in(keys))
        .group_by("key")
        .agg(first=pl.col("moment").min(), last=pl.col("moment").max())
        .collect()
        if len(moments)
        else pl.DataFrame(schema={"key": pl.String, "first": pl.Datetime, "last": pl.Datetime})
    )
    sizes: dict[str, int] = {}
    for name in group.values():
        sizes[name] = sizes.get(name, 0) + 1
    silent = (
        moments.with_columns(group=pl.col("key").replace_strict(group, return_dtype=pl.String))
        .group_by("group", "moment")
        .len()
        .with_columns(size=pl.col("group").replace_strict(sizes, return_dtype=pl.Int64))
        .filter(pl.col("len") == pl.col("size"), pl.col("size") > 1)
    )
    return Evidence(
        answers=answers.filter(pl.col("key").is_in(keys)),
        first=dict(seen.select("key", "first").iter_rows()),
        last=dict(seen.select("key", "last").iter_rows()),
        silent={name: frozenset(part["moment"]) for (name,), part in silent.group_by("group")},
        group=group,
        sources={key: [source.table.full_name for source in spine.sources(key)] for key in keys},
    )


def _gap_ledger(
    context: dg.AssetExecutionContext, lake: dg.ResourceParam[Lake], clock: dg.ResourceParam[Clock]
) -> Iterator[dg.Output[None]]:
    def work(window: Window) -> Mapping[date, Mapping[str, int]]:
        n_changed = 0
        for spine in SPINES:
            changed = find_gaps(lake, spine, window, clock.now())
            if len(changed):
                lake.merge(GapLedger, changed, delete_missing=False)
            n_changed += len(changed)
        heard = find_holes(lake, window, clock.now())
        if len(heard):
            lake.merge(GapLedger, heard, delete_missing=False)
        n_changed += len(heard)
        return {day: {"changed_gaps": n_changed} for day in window.days}

    def windows(days: Sequence[date]) -> Iterator[Window]:
        return windows_of(trusted.Candles, days)

    yield from materialize(
        context, lake, GapLedger, [spine.contract for spine in SPINES], windows=windows, work=work, is_gate=False
    )


gap_ledger: dg.AssetsDefinition = dg.asset(
    **asset_facts(GapLedger, [RawStreamEvents, *(spine.contract for spine in (*SPINES, TRADES))])
)(_gap_ledger)
