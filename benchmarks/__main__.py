"""``python -m benchmarks [--quick | --full] [--only PATTERN] [--rounds N] [--install-peers]``, or ``make bench``.

``python -m benchmarks archive_year`` is one long run without a peer, ``python -m benchmarks bytes_read`` counts what
questions read, ``stream_rates`` and ``stream_soak`` run streams for a while; all have options of their own.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from benchmarks import archive_year, bytes_read, report, stream_rates, stream_soak
from benchmarks.case import Case
from benchmarks.cases import candle_ingest, day_end_to_end, json_day, stream_commit, upsert
from benchmarks.data import CACHE, ROOT, SIZES
from benchmarks.pair import Run, Status, peer_home, run_case

CASES: tuple[Case, ...] = (json_day.CASE, upsert.CASE, day_end_to_end.CASE, candle_ingest.CASE, stream_commit.CASE)
_UV = ROOT / ".tools" / "bin" / "uv"
# Fewer rounds show no spread, which is what a ratio is judged by.
_ROUNDS = 5


def main(arguments: list[str] | None = None) -> int:
    """Run the cases; 1 where a variant of our own is wrong or fails, or no case is asked for."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["archive_year"]:
        return archive_year.main(arguments[1:])
    if arguments[:1] == [bytes_read.NAME]:
        return bytes_read.main(arguments[1:])
    if arguments[:1] == [stream_rates.NAME]:
        return stream_rates.main(arguments[1:])
    if arguments[:1] == [stream_soak.NAME]:
        return stream_soak.main(arguments[1:])
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Same work, or no time.")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_const", const="S", dest="size", help="6,000 rows: does it run at all")
    size.add_argument("--full", action="store_const", const="L", dest="size", help="a whole day: 576,000 rows")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="cases by name, e.g. 'json*'")
    parser.add_argument("--rounds", type=int, default=_ROUNDS, help=f"of each variant (default {_ROUNDS})")
    parser.add_argument("--out", type=Path, default=CACHE / "report", help="where results.jsonl and report.md go")
    parser.add_argument("--install-peers", action="store_true", help="make the peers' environments, and nothing else")
    asked = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 160)
    if asked.install_peers:
        return install_peers(console)
    chosen = [case for case in CASES if fnmatch.fnmatch(case.name, asked.only)]
    if not chosen or asked.rounds < 1:
        console.print(f"no such case; there are {', '.join(case.name for case in CASES)}")
        return 1
    # Without either option: a quarter of a day, 144,000 rows.
    return run(console, chosen, asked.size or "M", asked.rounds, asked.out)


def run(console: Console, cases: list[Case], size: str, rounds: int, out: Path) -> int:
    """Run, print and write down the cases."""
    runs: list[Run] = []
    loads = [os.getloadavg()[0]]
    for case in cases:
        console.print(f"[dim]{case.name}: making or finding the data[/dim]")
        of_case = []
        for done in run_case(case, SIZES[size], rounds):
            of_case.append(done)
            figures = (
                f"{done.wall_s:.2f} s, {done.cpu_s:.2f} s of CPU" if done.status is Status.OK else str(done.status)
            )
            console.print(f"[dim]  round {done.round} {done.variant}: {figures}[/dim]")
        runs += of_case
        loads.append(os.getloadavg()[0])
        report.show(console, case, size, of_case)
    named = {case.name for case in cases}
    verdicts = [report.judge(goal, runs) for goal in report.goals() if goal.case in named]
    for verdict in verdicts:
        what, ratio, limit, said = report.verdict_row(verdict)
        console.print(f"{what}: {ratio} (at most {limit}): {said}")
    facts = report.machine(rounds, loads)
    console.print("\n".join(facts))
    written = report.write(out, facts, [(case, size) for case in cases], runs, verdicts)
    console.print(f"written to {written}")
    bad = (Status.FAILED, Status.NOT_THE_SAME_WORK)
    return int(any(r.variant.startswith("ours") and r.status in bad for r in runs))


def install_peers(console: Console) -> int:
    """Make every peer's environment from its requirements; a peer that does not install is left out and named."""
    failed = 0
    for requirements in sorted((ROOT / "benchmarks" / "peers").glob("*/requirements.txt")):
        peer = requirements.parent.name
        python = peer_home(peer) / "bin" / "python"
        steps = [
            [_UV, "venv", "--quiet", "--allow-existing", "--python", sys.executable, peer_home(peer)],
            [_UV, "pip", "install", "--quiet", "--compile-bytecode", "--python", python, "-r", requirements],
        ]
        is_made = all(subprocess.run([str(part) for part in step], check=False).returncode == 0 for step in steps)
        console.print(f"{peer}: {'installed' if is_made else 'did not install'}")
        failed += not is_made
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
