"""``demo``: a real lake from a simulated or a recorded market, without key or account, with faults, checks and proof.

Belongs here: the story that the demo tells. It runs the product's own definitions on the sandbox with a clock that is
handed in; the only thing that is simulated is the provider.
"""

from __future__ import annotations

import fcntl
import gc
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crypto_assets.commands import output
from crypto_assets.commands import run as runs
from crypto_assets.errors import UsageError

if TYPE_CHECKING:
    import dagster as dg

    from crypto_assets.resources.clock import FixedClock
    from crypto_assets.resources.lake import Lake
    from crypto_assets.sandbox import Recording, Sandbox

DEFAULT_HOME = Path("data/demo")
# In the lake: says that the lake is the demo's own, and may be deleted by the next demo.
MARKER = ".crypto_assets_demo"
_MARK = b"made by crypto-assets demo or up; the next demo deletes all that lies beside this\n"
SEED = 7
DAYS = (date(2026, 11, 11), date(2026, 11, 12))
# When the days are refreshed: after the last of them has ended.
REFRESHED_AT = datetime(2026, 11, 13, 0, 30, tzinfo=UTC)
HOURS = (2, 14)
LIVE = ("coincap_assets", "coincap_exchanges", "coincap_rates", "coincap_markets")
# Far past what a demo asks: the sandbox costs nothing.
_CALLS_PER_MINUTE, _CREDITS_PER_MONTH = 10**6, 10**9
_ENDPOINTS = {
    "assets": "coincap_assets",
    "exchanges": "coincap_exchanges",
    "rates": "coincap_rates",
    "markets": "coincap_markets",
}
_TOP = "select rank, name, symbol, price_usd, market_cap_usd from refined.latest_assets order by rank limit 5"


@dataclass(frozen=True)
class Trouble:
    """What goes wrong in a round, and what people are told of it."""

    day: date
    hour: int
    told: str
    kind: str
    endpoint: str
    times: int = 1


TROUBLES = (
    # The client asks once more; the second page is the provider's word.
    Trouble(DAYS[0], 2, "a web page instead of JSON from exchanges, twice", "html", "exchanges", times=2),
    Trouble(DAYS[0], 14, "429, minute limit of markets: waited and asked again", "rate_limited_minute", "markets"),
    Trouble(DAYS[0], 14, "a price of 30 digits in assets: quarantined", "huge_digits", "assets"),
    Trouble(DAYS[1], 2, "a negative price in assets: quarantined", "negative_price", "assets"),
    Trouble(DAYS[1], 14, "a tenth of rates sent twice: merged and counted", "duplicate_rows", "rates"),
)


@dataclass
class Stage:
    """Everything a demo plays on."""

    lake: Lake
    clock: FixedClock
    defs: dg.Definitions
    instance: dg.DagsterInstance  # the run that people look at in the Dagster UI
    scratch: dg.DagsterInstance  # all others: a SQLite file for each would double their time
    steps: output.Steps
    sandbox: Sandbox


def demo(replay: Path | None, home: Path, place: str = "dir", *, is_kept: bool) -> int:
    """Play the demo, or replay a recording; 0 where every count matches and no blocking check failed.

    The lake's ``place`` is ``dir`` (in the home), ``s3`` (a local S3 server, with its data in the home) or
    ``s3://bucket/prefix`` (a store that the environment tells of).
    """
    require_place(place)
    if replay is not None:
        from crypto_assets.sandbox.recording import Recording

        # Before the first line: a folder that is not there is not a demo that began.
        recording = Recording(replay)
        output.line(f"crypto_assets demo · recorded answers of {recording.recorded_at:%Y-%m-%d}, nothing leaves here")
        return _replayed(recording, home, place, is_kept=is_kept)
    # A short process that makes many objects and few cycles: collecting them was a tenth of its time.
    gc.set_threshold(200_000, 50, 100)
    output.line(f"crypto_assets demo · simulated market, {DAYS[0]} to {DAYS[-1]}, nothing leaves this machine")
    return _simulated(home, place, is_kept=is_kept)


def _simulated(home: Path, place: str, *, is_kept: bool) -> int:
    steps = output.Steps()
    with held_lake(home, place) as lake, quick_history(), _stage(home, lake, steps, is_kept=is_kept) as stage:
        with great_expectations():
            _rounds(stage)
        span = [DAYS[0], DAYS[-1]]
        stage.clock.set(REFRESHED_AT)
        stage.sandbox.set_now(stage.clock.now())
        keys = runs.fed(stage.defs)
        with steps.step("refresh") as step:
            report = runs.execute(stage.defs, stage.instance, span, keys, tell=teller(step))
            n_tables = sum(zone != "raw" for zone in (name.split(".")[0] for name in report.n_rows))
            step.detail = (
                f"one run over {len(DAYS)} days: {len(report.n_rows)} of {len(keys)} assets, {n_tables} computed"
            )
            judge(step, report)

        def again() -> None:
            # The last round once more, then the whole chain: what is there is found, and nothing is written.
            _round(stage, DAYS[-1], HOURS[-1])
            stage.clock.set(REFRESHED_AT)
            stage.sandbox.set_now(stage.clock.now())
            runs.execute(stage.defs, stage.scratch, span, keys, has_checks=False)

        is_same = _proof(stage, again)
        is_good = closing(stage.lake, DAYS[0], DAYS[-1], steps) and is_same and not report.failed
        answer(stage.lake)
    closing_words(home, place)
    return 0 if is_good else 1


def _replayed(recording: Recording, home: Path, place: str, *, is_kept: bool) -> int:
    steps = output.Steps()
    with held_lake(home, place) as lake, _stage(home, lake, steps, recording=recording, is_kept=is_kept) as stage:
        graph = stage.defs.resolve_asset_graph()
        live_day = recording.recorded_at.date()
        spans = [recording.history_span(asset_id) for asset_id in recording.history_assets]
        days = [moment.date() for span in spans for moment in span]
        last = max(stage.clock.now().date() - timedelta(days=1), live_day)
        first, until = (min(days), min(max(days), last)) if days else (live_day, live_day)
        # History first: it arrives on the day of the live answers, whose credits and health then count it.
        plays: list[tuple[str, list[date], list[str]]] = [
            ("history", [first, until], ["coincap_history"] if recording.history_assets else []),
            ("live", [live_day], [_ENDPOINTS[e] for e in sorted(recording.endpoints & _ENDPOINTS.keys())]),
        ]
        failures: list[str] = []

        def play(span: Sequence[date], names: Sequence[str], tell: Callable[[str], object], *, has_checks: bool) -> Any:
            import dagster as dg

            roots = dg.AssetSelection.assets(*[dg.AssetKey(["raw", name]) for name in names])
            keys = (roots | roots.downstream()).resolve(graph) & set(runs.fed(stage.defs))
            config = runs.history_config(recording.history_assets, keys)
            return runs.execute(stage.defs, stage.instance, span, keys, config=config, tell=tell, has_checks=has_checks)

        for label, span, names in plays:
            if not names:
                continue
            with steps.step(label) as step:
                report = play(span, names, teller(step), has_checks=True)
                n_days = (span[-1] - span[0]).days + 1
                told = ", ".join(name.removeprefix("coincap_") for name in names)
                step.detail = f"{told}: {n_days} day{'s' if n_days > 1 else ''} from raw to refined in one run"
                judge(step, report)
                failures += step.notes

        def again() -> None:
            for _, span, names in plays:
                if names:
                    play(span, names, lambda _: None, has_checks=False)

        is_same = _proof(stage, again)
        is_good = closing(stage.lake, min(first, live_day), max(until, live_day), steps) and is_same and not failures
        _recorded_counts(stage.lake)
        if "assets" in recording.endpoints:
            answer(stage.lake)
    output.line("This replay is not shown in the Dagster UI: its runs were kept in memory.")
    closing_words(home, place, is_shown=False)
    return 0 if is_good else 1


def require_place(place: str) -> None:
    """Raise UsageError for what is no place for a demo's lake."""
    bucket, _, prefix = place.removeprefix("s3://").partition("/")
    if place in ("dir", "s3") or (place.startswith("s3://") and bucket and prefix.strip("/")):
        return
    raise UsageError(
        f"{place!r} is no place for a demo's lake",
        where="--lake",
        safe="nothing was touched",
        hint="say dir, s3, or s3://bucket/prefix: never a whole bucket, for the next demo deletes the lake",
    )


@contextmanager
def held_lake(home: Path, place: str) -> Iterator[Lake]:
    """The demo's lake, with the S3 server that it may live on, for as long as the block holds the home."""
    from crypto_assets.resources.lake import Lake
    from crypto_assets.resources.settings import storage_options

    with home_lock(home):
        if place == "dir":
            yield Lake(str(home.resolve() / "lake"))
        elif place == "s3":
            from crypto_assets.commands.up import free_ports, local_s3

            with _ended_as_by_hand(), local_s3(home.resolve() / "s3", free_ports()) as told:
                yield Lake(told["CRYPTO_ASSETS_LAKE_URI"], storage_options=storage_options(told))
        else:
            yield Lake(place, storage_options=storage_options())


@contextmanager
def _ended_as_by_hand() -> Iterator[None]:
    """SIGTERM ends like Ctrl-C: by leaving the blocks, so that the server is ended."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _stage(
    home: Path, lake: Lake, steps: output.Steps, *, recording: Recording | None = None, is_kept: bool = False
) -> Iterator[Stage]:
    """The sandbox, a fresh lake, and the product's definitions between them."""
    with steps.step("start") as step:
        step.now = "loading Dagster"
        import dagster as dg

        from crypto_assets.assets.handles import coincap_at
        from crypto_assets.providers import coincap
        from crypto_assets.providers.coincap import Plan
        from crypto_assets.resources.clock import FixedClock
        from crypto_assets.resources.settings import Settings
        from crypto_assets.sandbox import Market, serve

        fresh(lake, is_kept=is_kept)
        now = (
            datetime.combine(DAYS[0], time(), UTC)
            if recording is None
            else recording.recorded_at + timedelta(minutes=1)
        )
        clock = FixedClock(now)
        serving = serve(Market(SEED) if recording is None else recording)
        sandbox = serving.__enter__()
        try:
            url = sandbox.v3 if recording is None else sandbox.v2
            state = home.resolve() / "state"
            plan = Plan(_CALLS_PER_MINUTE, _CREDITS_PER_MONTH)
            settings = Settings(lake_uri=lake.root, state_dir=state, coincap_base_url=url, providers=(coincap.NAME,))
            provider = coincap_at(url, None, plan, state, clock, is_local=True, assets=settings.history_assets)
            defs = runs.definitions(settings, {"lake": lake, "clock": clock, "coincap": provider})
            is_long = recording is not None
            instance = dg.DagsterInstance.ephemeral() if is_long else runs.instance_at(home.resolve() / "dagster")
        except BaseException:
            serving.__exit__(None, None, None)
            raise
        source = f"market of seed {SEED}" if recording is None else "recorded answers"
        where = lake.root if "://" in lake.root else home / "lake"
        step.detail = f"{source} at {sandbox.url}, lake in {where}"
    try:
        with instance, dg.DagsterInstance.ephemeral() as scratch:
            yield Stage(lake, clock, defs, instance, scratch, steps, sandbox)
    finally:
        serving.__exit__(None, None, None)


def fresh(lake: Lake, *, is_kept: bool = False) -> None:
    """Delete the former demo's lake, and mark the new one. Raises UsageError for a lake that is not the demo's."""
    from crypto_assets.resources.inspection import files_of
    from crypto_assets.resources.lake import delete
    from crypto_assets.resources.store_errors import store_errors

    with store_errors("the lake", "nothing was written", lake.root):
        files = files_of(lake)
        held = files.names()
        if held and MARKER not in held:
            raise UsageError(
                "there is something here that no demo made",
                where=lake.root,
                safe="it was left as it is",
                hint="name another --home or --lake, or move it away",
            )
        if held and not is_kept:
            delete(lake)
        files.write(MARKER, _MARK)


def mark(lake: Lake) -> None:
    """Say of a lake that is not there yet that the next demo may delete it."""
    from crypto_assets.resources.inspection import files_of
    from crypto_assets.resources.store_errors import store_errors

    with store_errors("the lake", "nothing was written", lake.root):
        files = files_of(lake)
        if not files.names():
            files.write(MARKER, _MARK)


@contextmanager
def home_lock(home: Path) -> Iterator[None]:
    """Hold the home: two demos, or a demo beside ``up``, would take the lake from under each other.

    The lock ends with its process, however that ends. Raises UsageError where another process holds it.
    """
    home.mkdir(parents=True, exist_ok=True)
    with (home / ".lock").open("w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(
                "another demo or up is running here",
                where=str(home),
                safe="nothing was touched",
                hint="stop it first, or name another --home",
            ) from None
        yield


@contextmanager
def quick_history() -> Iterator[None]:
    """Do not wait for the disk after each of Dagster's thousand events: 20 s become 13, and it is a demo's history."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def relax(connection: Any, _: object) -> None:
        connection.execute("PRAGMA synchronous = OFF")

    event.listen(Engine, "connect", relax)
    try:
        yield
    finally:
        event.remove(Engine, "connect", relax)


def _rounds(stage: Stage) -> None:
    """Two rounds of live pulls a day, some of them with trouble."""
    for day in DAYS:
        with stage.steps.step(f"pull {day:%m-%d}") as step:
            told: list[str] = []
            for hour in HOURS:
                step.now = f"round of {hour:02d}:00"
                report, troubles = _round(stage, day, hour)
                lost = ", ".join(each.step for each in report.failed)
                told += [f"{hour:02d}:00 {trouble.told}" for trouble in troubles]
                if lost:
                    told.append(f"{hour:02d}:00 {lost} failed, the others went on; its next round mends the day")
            step.detail = f"{len(HOURS)} rounds of {len(LIVE)} endpoints"
            step.notes = told


def _round(stage: Stage, day: date, hour: int) -> tuple[runs.Report, list[Trouble]]:
    import dagster as dg

    from crypto_assets.sandbox import Fault

    moment = datetime(day.year, day.month, day.day, hour, tzinfo=UTC)
    stage.clock.set(moment)
    stage.sandbox.set_now(moment)
    troubles = [trouble for trouble in TROUBLES if (trouble.day, trouble.hour) == (day, hour)]
    stage.sandbox.set_faults([Fault(kind=t.kind, endpoint=t.endpoint, times=t.times) for t in troubles])  # type: ignore[arg-type]
    keys = [dg.AssetKey(["raw", name]) for name in LIVE]
    report = runs.execute(stage.defs, stage.scratch, [day], keys, has_checks=False)
    stage.sandbox.set_faults([])
    return report, troubles


@contextmanager
def great_expectations() -> Iterator[None]:
    """Import the library beside the pulls, which wait for sockets and for Rust: it takes seconds."""
    from crypto_assets.checks import suites

    thread = threading.Thread(target=suites.preload)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _proof(stage: Stage, again: Callable[[], None]) -> bool:
    """Do it again and compare every table."""
    from crypto_assets.commands.reconcile import contents

    with stage.steps.step("proof") as step:
        step.now = "reading every table"
        before = contents(stage.lake)
        step.now = "the same again"
        again()
        step.now = "comparing every table"
        after = contents(stage.lake)
        differing = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        n_new = sum(rows for rows, _, _ in after.values()) - sum(rows for rows, _, _ in before.values())
        step.is_failed = bool(differing)
        step.detail = (
            f"ran everything again: differing {', '.join(differing)}, {n_new} new rows"
            if differing
            else f"ran everything again: {n_new} new rows, no new commit, {len(after)} tables identical"
        )
    return not differing


def closing(lake: Lake, first: date, last: date, steps: output.Steps) -> bool:
    """Checks and counts, from the tables as they are."""
    from crypto_assets.commands.reconcile import counts, verdicts
    from crypto_assets.resources.clock import SystemClock
    from crypto_assets.tables.window import Window

    window = Window.of_days(first, last)
    with steps.step("checks") as step:
        told = verdicts(lake, window)
        bad = told.filter(~told["passed"])
        stopped = bad.filter(bad["is_blocking"])
        warned = bad.filter(~bad["is_blocking"])
        step.detail = f"{len(told) - len(bad)} passed, {len(warned)} warned, {len(stopped)} failed"
        step.is_failed = bool(len(stopped))
        step.notes = [
            f"{'failed' if told_['is_blocking'] else 'warned'}: {told_['table_name']} {told_['check_name']} "
            f"{told_['date']}: {told_['observed']}"
            for told_ in bad.head(6).iter_rows(named=True)
        ]
    with steps.step("counts") as step:
        found = list(counts(lake, window, SystemClock().now()))
        wrong = [count.table for count in found if not count.is_equal]
        step.is_failed = bool(wrong)
        step.detail = f"differ: {', '.join(wrong)}" if wrong else "raw = trusted + quarantined + duplicates"
    rows = [
        {
            "table": count.table,
            "raw": count.n_raw,
            "=": "=" if count.is_equal else "≠",
            "trusted": count.n_trusted,
            "quarantined": count.n_quarantined,
            "duplicates": count.n_duplicates,
        }
        for count in found
    ]
    output.table(rows, ["table", "raw", "=", "trusted", "quarantined", "duplicates"])
    return not wrong and not len(stopped)


def answer(lake: Lake) -> None:
    """A question in Athena SQL, answered from the lake."""
    from crypto_assets.commands.sql import engine

    output.line(f'crypto-assets sql "{_TOP}"')
    with engine(lake) as asked:
        found = asked.query(_TOP)
    output.table(found.to_dicts(), found.columns)


def _recorded_counts(lake: Lake) -> None:
    """What the recording came to, in three numbers."""
    import polars as pl

    from crypto_assets.tables.trusted import AssetHistory, AssetSnapshots, FxRates

    def distinct(contract: Any, column: str) -> int:
        return int(lake.scan(contract).select(pl.col(column).n_unique()).collect().item())

    output.line(
        f"replayed: {distinct(AssetSnapshots, 'asset_id')} assets, {distinct(AssetHistory, 'date')} history days, "
        f"{distinct(FxRates, 'currency_id')} rates in trusted"
    )


def closing_words(home: Path, place: str, *, is_shown: bool = True, command: str = "make up ARGS=--simulated") -> None:
    """What to do with the lake next; ``command`` opens it in the Dagster UI."""
    here = "this lake in the Dagster UI" if is_shown else "the Dagster UI"
    output.line("Next:")
    if place == "s3":
        output.line(f"  {command} LAKE=s3  its S3 server again, and {here}")
        output.line(f"  source {home / 's3' / 'env'}  while that runs, in another shell, for:")
    else:
        uri = home / "lake" if place == "dir" else place
        output.line(f"  export CRYPTO_ASSETS_LAKE_URI={uri} CRYPTO_ASSETS_STATE_DIR={home / 'state'}")
    output.line("  crypto-assets quarantine show      the records that were refused, and why")
    output.line("  crypto-assets show refined.movers  any table; crypto-assets status lists them")
    if place == "dir":
        output.line(f"  {command:<35}{here}")


def judge(step: output.Step, report: runs.Report, notes: Sequence[str] = ()) -> None:
    """Say in the step what failed in its run, after what else is to be noted."""
    step.is_failed = bool(report.failed)
    step.notes = [*notes, *(f"failed: {each.step}: {each.told}" for each in report.failed)]


def teller(step: output.Step) -> Callable[[str], object]:
    """What a run is to tell its steps to, so that they show as what goes on now."""

    def tell(name: str) -> None:
        step.now = name

    return tell
