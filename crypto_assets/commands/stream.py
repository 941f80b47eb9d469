"""``stream``: websockets into the lake until stopped, and how they are doing.

Belongs here: processes, what people see. What a collector and a consumer do is ``stream/program.py``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crypto_assets.commands import output
from crypto_assets.commands import run as runs
from crypto_assets.commands.up import Stopped, signals
from crypto_assets.errors import NeedsYouError, UsageError

if TYPE_CHECKING:
    from crypto_assets.resources.lake import Lake
    from crypto_assets.resources.settings import Settings

_WHERE = "stream"
# A child that died is started again after so long, doubled each time up to the longest; one that ran for a minute is
# no longer counted as failing. What a person must mend is looked at again once a minute, while others go on.
_FIRST_WAIT_S, _LONGEST_WAIT_S, _STABLE_S, _MEND_WAIT_S = 0.5, 30.0, 60.0, 60.0
_LOOK_EVERY_S = 0.1
# One that has gone on for so long has found mended what it asked for.
_WELL_S = 10.0
_STOP_S = 15.0
# A collector that has not said anything for so long is gone; it speaks every two seconds.
_SILENT_S = 10.0


@dataclass
class _Program:
    """A child, and when it was started and is due again."""

    name: str
    arguments: list[str]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    due: float = 0.0
    n_failures: int = 0
    needs_you: bool = False
    is_collector: bool = True


def run(feeds: Sequence[str], flush_s: float) -> int:
    """Collectors of all feeds and a consumer, each a process of its own, started again when it dies."""
    from crypto_assets.resources.settings import Settings
    from crypto_assets.stream.program import absence

    settings = Settings()
    _require_flush(flush_s)
    chosen = [name for name in feeds or settings.feeds if _said(absence(name, settings)) is None]
    if not chosen:
        raise NeedsYouError(
            "no feed can run", where=_WHERE, safe="nothing was started", hint="set a key, or CRYPTO_ASSETS_FEEDS"
        )
    command = [sys.executable, "-m", "crypto_assets.cli", "stream"]
    consumer = [*command, "consume", "--flush", str(flush_s), *(part for name in chosen for part in ("--feed", name))]
    programs = [_Program(name, [*command, "collect", "--feed", name]) for name in chosen]
    programs.append(_Program("consumer", consumer, is_collector=False))
    with signals(), ExitStack() as stack:
        stack.callback(_end, programs)
        try:
            while True:
                for program in programs:
                    _tend(program)
                _require_some(programs)
                time.sleep(_LOOK_EVERY_S)
        except (Stopped, KeyboardInterrupt):
            output.line("stopping")
    output.line("stopped; nothing runs any more")
    return 0


def _said(why: str | None) -> str | None:
    if why is not None:
        output.line(f"left out: {why}")
    return why


def _tend(program: _Program) -> None:
    """Start a program that does not run and is due."""
    from crypto_assets.stream.program import SUPERVISOR

    now = time.monotonic()
    if program.process is not None:
        code = program.process.poll()
        if code is None:
            program.needs_you &= now - program.started < _WELL_S
            return
        program.process = None
        program.n_failures = 0 if now - program.started >= _STABLE_S else program.n_failures + 1
        program.needs_you = code in {UsageError.exit_code, NeedsYouError.exit_code}
        wait = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** min(program.n_failures, 10) / 2)
        if program.needs_you:
            wait = _MEND_WAIT_S
            output.note(f"{program.name} cannot go on (see above); it is tried again in {wait:g} s, the others go on")
        else:
            output.note(f"{program.name} ended ({_ending(code)}); started again in {wait:g} s, nothing is lost")
        program.due = now + wait
    if now >= program.due:
        program.started = now
        # A session of its own: Ctrl-C reaches it through us only.
        environment = {**os.environ, SUPERVISOR: str(os.getpid())}
        program.process = subprocess.Popen(program.arguments, env=environment, start_new_session=True)  # noqa: S603


def _require_some(programs: Sequence[_Program]) -> None:
    """End where nothing can come in any more.

    Raises:
        NeedsYouError: every collector has ended with an error that only a person can mend.
    """
    if all(program.needs_you for program in programs if program.is_collector):
        raise NeedsYouError(
            "no collector can go on (see above)",
            where=_WHERE,
            safe="what had come is on disk or in the lake",
            hint="mend it, then start again: it goes on where it was",
        )


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _end(programs: Sequence[_Program]) -> None:
    """Collectors first, so that the consumer takes what they leave."""
    for is_collector in (True, False):
        running = [
            (program.name, program.process)
            for program in programs
            if program.is_collector is is_collector and program.process is not None and program.process.poll() is None
        ]
        for _, process in running:
            process.terminate()
        deadline = time.monotonic() + _STOP_S
        for name, process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                output.note(f"{name} does not stop, and is killed; what it had acknowledged is on disk")
                process.kill()
                process.wait()


def collect(feed: str, to: str) -> int:
    """One collector, until stopped."""
    from crypto_assets.resources.settings import Settings
    from crypto_assets.stream import program

    settings = Settings()
    program.collect(feed, to, settings, runs.lake_of(settings), output.note)
    return 0


def consume(source: str, feeds: Sequence[str], flush_s: float, rows: int) -> int:
    """One consumer, until stopped."""
    from crypto_assets.resources.settings import Settings
    from crypto_assets.stream import program

    _require_flush(flush_s)
    if rows < 1:
        raise UsageError("a batch has at least 1 row", where="--rows", safe="nothing was started", hint="leave it out")
    settings = Settings()
    lake = runs.lake_of(settings)
    program.consume(source, settings, lake, output.note, most_s=flush_s, most_rows=rows, feeds=feeds)
    return 0


def _require_flush(seconds: float) -> None:
    if not 0.05 <= seconds <= 3600:
        raise UsageError(
            f"{seconds:g} s is not between 0.05 and 3600",
            where="--flush",
            safe="nothing was started",
            hint="leave it out for 5 seconds",
        )


def status(form: output.Format) -> int:
    """Every feed with a journal here or rows in the lake: connection, lag, backlog, holes."""
    from crypto_assets.resources.clock import SystemClock
    from crypto_assets.resources.settings import Settings

    settings = Settings()
    now = SystemClock().now()
    lake = runs.lake_of(settings)
    rows = _feeds(settings, lake, now)
    if form is output.Format.TABLE:
        rows = [_shown(row) for row in rows]
    output.rows(rows, form, title="streams: rows of 5 minutes, holes and bad messages of a day")
    return 0


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """What fits a terminal's width: the time of day, and no figures that others tell as well."""
    last = row["last_message_at"]
    return {
        "feed": row["feed"],
        "state": row["state"],
        "last": last and f"{datetime.fromisoformat(last):%H:%M:%S}",
        "rows": row["rows_5_min"],
        "lag s": row["lag_s"],
        "waiting": row["blocks_waiting"],
        "holes": row["holes_1_day"],
        "lost": row["reconnects"],
        "errors": row["errors"],
        "bad": row["bad_1_day"],
    }


def _feeds(settings: Settings, lake: Lake, now: datetime) -> list[dict[str, Any]]:
    from crypto_assets.providers.feeds import FEEDS
    from crypto_assets.stream.journal import identity, synced
    from crypto_assets.stream.open import blocks_in
    from crypto_assets.stream.program import STATUS, absence, journal_directory

    told = []
    held = _newest(lake, now)
    for name in FEEDS:
        directory = journal_directory(settings, name)
        known = identity(directory)
        lately = held.get(name, {})
        if known is None and not lately and name not in settings.feeds:
            continue
        said = _read(directory / STATUS)
        is_running = said is not None and said["is_running"] and _age_s(said["at"], now) < _SILENT_S
        said = said or {}
        position = None if known is None else known.landed(blocks_in(lake))
        problem = f"connecting: {said.get('problem') or 'the first time'}"
        state = ("connected" if said.get("is_connected") else problem) if is_running else "stopped"
        if is_running and said.get("forward_problem"):
            state += f"; not forwarded: {said['forward_problem']}"
        told.append(
            {
                "feed": name,
                "state": (absence(name, settings) or state).removeprefix(f"{name} "),
                "last_message_at": said.get("last_message_at"),
                "messages": said.get("messages"),
                "rows_5_min": lately.get("rows"),
                "newest_trade_at": lately.get("newest"),
                "lag_s": lately.get("lag"),
                "blocks_landed": position,
                "blocks_waiting": None if position is None else synced(directory) - position,
                "backlog_bytes": said.get("backlog_bytes"),
                "holes_1_day": lately.get("holes", 0),
                "reconnects": max(0, int(said.get("opened", 0)) - 1) if said else None,
                "errors": said.get("errors", 0) if said else None,
                "bad_1_day": lately.get("bad", 0),
            }
        )
    return told


def _age_s(moment: str, now: datetime) -> float:
    return (now - datetime.fromisoformat(moment)).total_seconds()


def _newest(lake: Lake, now: datetime) -> dict[str, dict[str, Any]]:
    """By feed, what the lake holds of the last minutes, and its holes and unreadable messages of a day."""
    import polars as pl

    from crypto_assets.tables.stream import RawStreamEvents, RawTrades
    from crypto_assets.tables.window import Window

    lately = Window(now - timedelta(minutes=5), now + timedelta(minutes=5))
    rows = (
        lake.scan(RawTrades, lately)
        .group_by("provider")
        .agg(
            rows=pl.len(),
            newest=pl.col("traded_at").max(),
            arrived=pl.col("ingested_at").max(),
        )
        .collect()
    )
    told: dict[str, dict[str, Any]] = {
        row["provider"]: {
            "rows": row["rows"],
            "newest": row["newest"],
            "lag": round((now - row["arrived"]).total_seconds(), 1),
        }
        for row in rows.iter_rows(named=True)
    }
    day = Window(now - timedelta(days=1), now + timedelta(minutes=5))
    kind = pl.col("kind")
    happened = (
        lake.scan(RawStreamEvents, day)
        .group_by("provider")
        .agg(
            holes=pl.struct("starts_at", "ends_at").filter(kind == "hole").n_unique(),
            bad=pl.col("n").filter(kind == "bad").sum(),
        )
    )
    for row in happened.collect().iter_rows(named=True):
        told.setdefault(row["provider"], {}).update(row)
    return told


def _read(path: Path) -> dict[str, Any] | None:
    try:
        told: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return told
