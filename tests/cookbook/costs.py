"""What each question of the cookbook reads, and the ratchet that holds it: ``docs/cookbook/pruning.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass

from crypto_assets.resources.clock import FixedClock
from crypto_assets.resources.lake import Lake
from crypto_assets.resources.pruning import Pruning
from crypto_assets.tables import BY_NAME
from crypto_assets.tables.views import VIEWS
from tests.cookbook.recipes import FOLDER, recipes
from tests.market_lake import NOW

RATCHET = FOLDER / "pruning.toml"
# A changed name or digit moves compressed bytes by less; a column more, or a file more, moves them by more.
TOLERANCE = 1.03
# Of very few bytes, a page's header is a large share.
SLACK_BYTES = 64


@dataclass(frozen=True)
class Cost:
    """Of all scans of a statement: live files, those read, and bytes of the column chunks read."""

    n_files: int
    n_files_read: int
    n_bytes: int


def measured(lake: Lake) -> dict[str, Cost]:
    """The cost of every question on a lake."""
    pruning = Pruning({name: lake.uri(table) for name, table in BY_NAME.items()}, VIEWS, clock=FixedClock(NOW))
    found = {}
    for recipe in recipes():
        reads = pruning.reads(recipe.statement)
        found[recipe.name] = Cost(
            sum(read.n_files for read in reads),
            sum(read.n_files_read for read in reads),
            sum(read.n_bytes for read in reads),
        )
    return found


def held() -> dict[str, Cost]:
    """What the ratchet allows."""
    entries = tomllib.loads(RATCHET.read_text(encoding="utf-8"))
    return {name: Cost(**entry) for name, entry in entries.items()}


def written(costs: Mapping[str, Cost]) -> str:
    """The ratchet's file for these costs."""
    lines = [
        "# Files and bytes that each question of the cookbook reads from the lake of tests/market_lake.py.",
        "# Written by `python -m tests.cookbook`; a test fails where a question costs something else.",
        "",
    ]
    for name, cost in costs.items():
        lines.append(
            f"{name} = {{ n_files = {cost.n_files}, n_files_read = {cost.n_files_read}, n_bytes = {cost.n_bytes} }}"
        )
    return "\n".join(lines) + "\n"


def differences(now: Mapping[str, Cost], allowed: Mapping[str, Cost]) -> list[str]:
    """What costs something else than is held, one line a question, and the sum of it all where there is any."""
    lines = []
    for name in sorted(now.keys() | allowed.keys()):
        is_, was = now.get(name), allowed.get(name)
        if is_ is None or was is None:
            lines.append(f"{name}: {'is not measured yet' if was is None else 'is gone'}")
        elif not _is_near(is_, was):
            ratio = is_.n_bytes / max(1, was.n_bytes)
            lines.append(
                f"{name}: {was.n_files_read} of {was.n_files} files and {was.n_bytes:,} bytes were read, "
                f"now {is_.n_files_read} of {is_.n_files} and {is_.n_bytes:,} ({ratio:.2f} x)"
            )
    if lines:
        before, after = (sum(cost.n_bytes for cost in costs.values()) for costs in (allowed, now))
        lines.append(f"all questions together: {before:,} bytes, now {after:,} ({after / max(1, before):.2f} x)")
        lines.append("where that is meant, write it down: python -m tests.cookbook")
    return lines


def _is_near(now: Cost, was: Cost) -> bool:
    is_same_files = (now.n_files, now.n_files_read) == (was.n_files, was.n_files_read)
    return is_same_files and abs(now.n_bytes - was.n_bytes) <= max(SLACK_BYTES, (TOLERANCE - 1) * was.n_bytes)
