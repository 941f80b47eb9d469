"""``python -m benchmarks stream_soak [--minutes 60] [--rate 1000]``: whether a stream stays flat.

Two collectors and a consumer as people start them, a load server that sends half of the rate to each, and every five
minutes a line: how long commits took, files, entries of the log since its newest checkpoint, how long the table takes
to open, memory. At the end every trade that was sent must be in the table once.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, quantiles

from deltalake import DeltaTable

from benchmarks.data import CACHE
from benchmarks.stream_programs import Programs, committed, n_rows, running, wait_for, wrong

NAME = "stream_soak"
_FEEDS = ("finnhub", "binance_stream")
_ENTRY = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint.*\.parquet")
_HEADINGS = (
    "minute,rows,commits,commit p10 ms,p50 ms,p99 ms,max ms,behind p50 s,max s,files,log entries,since checkpoint,"
    "checkpoint kB,open ms,collectors MB,consumer MB,collectors CPU %,consumer CPU %,backlog MB,load"
)


def _percentile(values: list[float], percent: int) -> float:
    return quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else values[0]


def line(programs: Programs, minute: float, seen: int, cpu: dict[str, float], seconds: float) -> tuple[str, int]:
    """One line of figures, of the commits since ``seen`` of them, and how many there are now."""
    every = committed(programs.log("consumer"))
    lately = every[seen:]
    took = [1000 * c.took_s for c in lately] or [0.0]
    behind = [c.behind_s for c in lately if c.behind_s is not None] or [0.0]
    log = Path(programs.trades) / "_delta_log"
    names = [path.name for path in log.iterdir()]
    entries = [int(m[1]) for name in names if (m := _ENTRY.fullmatch(name))]
    checkpoints = {int(m[1]): name for name in names if (m := _CHECKPOINT.fullmatch(name))}
    newest = max(checkpoints, default=-1)
    opened = []
    for _ in range(3):
        start = time.perf_counter()
        table = DeltaTable(programs.trades)
        opened.append(1000 * (time.perf_counter() - start))
    spent = {name: programs.cpu_s(name) for name in programs.processes}
    share = {name: 100 * (spent[name] - cpu.get(name, 0)) / seconds for name in spent}
    cpu.update(spent)
    backlog = sum(p.stat().st_size for p in programs.home.glob("state/**/*.blocks")) / 2**20
    values = [
        f"{minute:.0f}",
        f"{n_rows(programs.trades)}",
        f"{len(lately)}",
        f"{_percentile(took, 10):.0f}",
        f"{median(took):.0f}",
        f"{_percentile(took, 99):.0f}",
        f"{max(took):.0f}",
        f"{median(behind):.1f}",
        f"{max(behind):.1f}",
        f"{len(table.file_uris())}",
        f"{len(entries)}",
        f"{max(entries) - newest}",
        f"{(log / checkpoints[newest]).stat().st_size / 1024 if checkpoints else 0:.0f}",
        f"{median(opened):.0f}",
        f"{sum(programs.rss_mb(feed) for feed in _FEEDS):.0f}",
        f"{programs.rss_mb('consumer'):.0f}",
        f"{sum(share[feed] for feed in _FEEDS):.1f}",
        f"{share['consumer']:.1f}",
        f"{backlog:.1f}",
        f"{os.getloadavg()[0]:.1f}",
    ]
    return ",".join(values), len(every)


def main(arguments: list[str]) -> int:
    """1 where a trade is missing or doubled, or a program ended."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks {NAME}", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate", type=float, default=1000, help="trades a second")
    parser.add_argument("--flush", type=float, default=5.0, help="seconds a commit")
    parser.add_argument("--every", type=float, default=5.0, help="minutes a line")
    asked = parser.parse_args(arguments)
    CACHE.mkdir(parents=True, exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="soak-", dir=CACHE))
    try:
        with running(home, _FEEDS, asked.rate / len(_FEEDS), asked.flush) as programs:
            print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {asked.rate:.0f} trades/s, a commit every {asked.flush} s")
            print(_HEADINGS, flush=True)
            began = told = time.monotonic()
            seen, cpu = 0, dict.fromkeys(programs.processes, 0.0)
            while (now := time.monotonic()) - began < 60 * asked.minutes:
                time.sleep(min(told + 60 * asked.every - now, 5) if told + 60 * asked.every > now else 0)
                ended = [name for name, process in programs.processes.items() if process.poll() is not None]
                if ended:
                    print(f"{', '.join(ended)} ended: {programs.log(ended[0])[-1000:]}", flush=True)
                    return 1
                if (now := time.monotonic()) - told >= 60 * asked.every:
                    said, seen = line(programs, (now - began) / 60, seen, cpu, now - told)
                    told = now
                    print(said, flush=True)
            return finish(programs)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def finish(programs: Programs) -> int:
    """Stop sending, let all of it land, and compare the table with what was sent."""
    sent = programs.end_load()
    n_sent = sum(sent.values())
    wait_for(lambda: n_rows(programs.trades) >= n_sent, 120)
    for name in (*_FEEDS, "consumer"):
        programs.stop(name)
    differences = wrong(programs.trades, sent)
    print(f"sent {n_sent:,}, landed {n_rows(programs.trades):,}: {'; '.join(differences) or 'every trade once'}")
    return int(bool(differences))
