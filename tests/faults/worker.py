"""A writer that a test starts and kills: it lands pulls and settles hours by the product's own functions.

Forked from a server that has already imported everything (``multiprocessing``'s forkserver), so that a kill costs a
fraction of a second. Nothing here may touch Polars or deltalake at import: their threads do not survive a fork.
"""

from __future__ import annotations

import datetime as dt
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

from crypto_assets.assets.lake_asset import publish
from crypto_assets.assets.raw.pulls import land
from crypto_assets.checks.asset_checks import keep
from crypto_assets.checks.verdicts import Severity, Verdict
from crypto_assets.errors import CryptoAssetsError
from crypto_assets.providers.answers import Pull
from crypto_assets.providers.coincap import parse_rates
from crypto_assets.resources.failpoints import VARIABLE
from crypto_assets.resources.http import Answer, Outcome
from crypto_assets.resources.lake import Lake
from crypto_assets.tables.conform import settle
from crypto_assets.tables.raw import RawCoincapRates
from crypto_assets.tables.trusted import FxRates
from crypto_assets.tables.window import HOUR, Window
from tests.faults.history import History
from tests.faults.naive import NaiveLake
from tests.rows import rows_of

ROOT = Path(__file__).parents[2]
FIRST = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
# Of each pull's records: so many fit, one does not.
N_GOOD = 3
N_PAGES = 2


def context() -> ForkServerContext:
    """Processes that start with this module imported."""
    made: ForkServerContext = multiprocessing.get_context("forkserver")
    # The server looks for modules where Python does: the root of the repository is not there of itself.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    made.set_forkserver_preload([__name__])
    return made


@contextmanager
def running(made: ForkServerContext, target: Callable[..., None], *args: Any) -> Iterator[ForkServerProcess]:
    """A process that is gone at the end of the block, whatever happened in it."""
    process = made.Process(target=target, args=args)
    process.start()
    try:
        yield process
    finally:
        if process.is_alive():
            process.kill()
        process.join()
        process.close()


def kill_process(process: Any, name: str) -> None:
    """Kill it, or find it killed at its failpoint; it must not have ended in another way."""
    process.kill()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL, f"the {name} ended by itself, with {process.exitcode}"
    process.close()


def kill_processes(processes: dict[str, Any]) -> None:
    """Kill those that are left, however they stand: one that was stopped by a signal cannot be told otherwise."""
    for process in processes.values():
        process.kill()
        process.join(30)
        process.close()
    processes.clear()


def hour_of(batch: int) -> Window:
    start = FIRST + batch * HOUR
    return Window(start, start + HOUR)


def pull_of(batch: int) -> Pull:
    """The pull of an hour, always the same: three good records and a bad one, on two pages."""
    moment = FIRST + batch * HOUR + dt.timedelta(minutes=5)

    def answer(page: int, records: list[dict[str, str]]) -> Answer:
        body = json.dumps({"data": records, "timestamp": round(moment.timestamp() * 1000)}).encode()
        return Answer("rates", f"GET /v3/rates?offset={page * 2}", 200, Outcome.OK, body, moment, "", 1)

    def rate(name: str, usd: str) -> dict[str, str]:
        return {"id": name, "symbol": name.upper(), "currencySymbol": "x", "type": "fiat", "rateUsd": usd}

    pages = ([rate("euro", "1.08"), rate("yen", "0.007")], [rate("won", "0.0008"), rate("bad", "-1")])
    answers = tuple(answer(page, records) for page, records in enumerate(pages))
    return Pull("coincap", "rates", None, answers, True, moment, (moment, moment), (1, 1))


def work(lake: Lake, history: History, batch: int) -> None:
    """One hour from the answer to its verdict; what returned is noted as acknowledged."""
    name, window = str(batch), hour_of(batch)
    history.note("attempt", "landing", name, N_PAGES)
    land(lake, RawCoincapRates, [pull_of(batch)])
    history.note("ack", "landing", name, N_PAGES)
    settled = settle(FxRates, parse_rates(lake.scan(RawCoincapRates, window).collect()), window)
    publish(lake, FxRates, settled, window)
    history.note("settled", "settling", name, N_GOOD)
    verdict = Verdict("unique", "contract", Severity.ERROR, passed=True, observed="0", expected="0")
    keep(lake, FxRates, Window.of_day(window.start.date()), {window.start.date(): {"unique": [verdict]}})
    history.note("kept", "checking", name, 1)


def work_until_killed(
    uri: str,
    options: dict[str, str],
    notes: str,
    first: int,
    n_batches: int,
    failpoint: str = "",
    is_naive: bool = False,
) -> None:
    """Hours from ``first`` on; ends when all are done, or at the failpoint."""
    if failpoint:
        os.environ[VARIABLE] = failpoint
    lake = (NaiveLake if is_naive else Lake)(uri, storage_options=options, run_id=str(os.getpid()))
    for batch in range(first, first + n_batches):
        work(lake, History(Path(notes)), batch)


def append_many(uri: str, options: dict[str, str], notes: str, worker: int, n_commits: int) -> None:
    """Appends of ten rows, each its own transaction."""
    lake = Lake(uri, storage_options=options, run_id=str(os.getpid()))
    history = History(Path(notes))
    for i in range(n_commits):
        batch = f"{worker}-{i}"
        frame = rows_of(RawCoincapRates, *({"pull_id": batch, "page": page} for page in range(10)))
        history.note("attempt", str(worker), batch, 10)
        lake.append(RawCoincapRates, frame, app=f"writer/{worker}", version=i)
        history.note("ack", str(worker), batch, 10)


def replace_hour(uri: str, options: dict[str, str], notes: str, batch: int, n_times: int) -> None:
    """Make one hour hold three rows, each time with another price."""
    lake = Lake(uri, storage_options=options, run_id=str(os.getpid()))
    history = History(Path(notes))
    for i in range(1, n_times + 1):
        window = hour_of(batch)
        told = [{"observed_at": window.start, "currency_id": c, "rate_usd": i} for c in ("euro", "won", "yen")]
        history.note("attempt", str(batch), f"{batch}-{i}", 3)
        lake.replace(FxRates, rows_of(FxRates, *told), window)
        history.note("ack", str(batch), f"{batch}-{i}", 3)


def create_and_append(uri: str, options: dict[str, str], notes: str, worker: int, barrier: Any) -> None:
    """Wait for the others, then append to a table that nobody has made yet."""
    lake = Lake(uri, storage_options=options, run_id=str(os.getpid()))
    frame = rows_of(RawCoincapRates, *({"pull_id": str(worker), "page": page} for page in range(10)))
    History(Path(notes)).note("attempt", str(worker), str(worker), 10)
    barrier.wait(60)
    lake.append(RawCoincapRates, frame, app=f"writer/{worker}", version=1)
    History(Path(notes)).note("ack", str(worker), str(worker), 10)


def append_as(user: int, uri: str, told: str) -> None:
    """Append as another user, and tell how it ended."""
    os.setgid(user)
    os.setuid(user)
    try:
        Lake(uri).append(RawCoincapRates, rows_of(RawCoincapRates, {"pull_id": "p2"}), app="a", version=1)
        ending = "landed"
    except CryptoAssetsError as error:
        ending = f"{type(error).__name__}: {error}"
    Path(told).write_text(ending, encoding="utf-8")
