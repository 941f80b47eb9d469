"""One run of one variant in a process of its own: ``python -m benchmarks.child`` with a JSON order on stdin.

The answer is one JSON line on stdout. Imports and setup come before the clock, saving the result after it. CPU is that
of this process and of the children it has waited for. Only the standard library is used here: a peer's environment
holds nothing of ours.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import resource
import sys
import time
from pathlib import Path


def main() -> None:
    order = json.load(sys.stdin)
    # The work may print; only the answer belongs on stdout.
    answer, sys.stdout = sys.stdout, sys.stderr
    module_name, function = order["work"].split(":")
    module = importlib.import_module(module_name)
    data, out = Path(order["data"]), Path(order["out"])
    if order["setup"]:
        getattr(module, order["setup"])(data, out, *order["arguments"])
    before = _files(out)
    _forget_peak()
    cpu, start = _cpu(), time.perf_counter()
    save = getattr(module, function)(data, out, *order["arguments"])
    wall, cpu = time.perf_counter() - start, _cpu() - cpu
    peak_mb = max(_own_peak_kib(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1024
    written = sum(size for path, size in _files(out).items() if path not in before)
    if save is not None:
        save(out / "result.parquet")
    json.dump({"wall_s": wall, "cpu_s": cpu, "peak_mb": peak_mb, "disk_mb": written / 1e6}, answer)


def _cpu() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _forget_peak() -> None:
    """Let the peak count from here, where the system can (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _own_peak_kib() -> int:
    # Not ru_maxrss: a new process starts with that of the one it was forked from.
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _files(home: Path) -> dict[Path, int]:
    return {path: path.stat().st_size for path in home.rglob("*") if path.is_file()}


if __name__ == "__main__":
    main()
