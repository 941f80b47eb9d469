"""Whether nothing was lost and nothing came twice: raw records against trusted, quarantined and duplicate ones.

Belongs here: the counts that ``demo`` ends with and ``doctor`` checks, made from the tables as they are. The check
that runs with every materialization is in ``checks/reconciliation.py``, and both count raw with the same function.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import polars as pl

from crypto_assets.resources.lake import Lake, content_hash
from crypto_assets.tables import ALL_TABLES
from crypto_assets.tables.quality import CheckResults, Quarantine
from crypto_assets.tables.trusted import RAW_OF
from crypto_assets.tables.window import Window


@dataclass(frozen=True)
class Count:
    """The records of one trusted table and where they ended."""

    table: str
    n_raw: int
    n_trusted: int
    n_quarantined: int
    n_duplicates: int

    @property
    def is_equal(self) -> bool:
        """Whether every raw record ended in exactly one place."""
        return self.n_raw == self.n_trusted + self.n_quarantined + self.n_duplicates


def counts(lake: Lake, asked: Window, now: datetime) -> Iterator[Count]:
    """The counts of every trusted table that is parsed from raw, where raw or the table holds something.

    What streams delivered counts when its hour is over and was carried on.
    """
    from crypto_assets.checks.reconciliation import carried_until, count_by_day, is_streamed

    for contract, sources in RAW_OF.items():
        name, window = contract.table.full_name, asked
        if is_streamed(lake, contract):
            until = carried_until(lake, contract, asked, now)
            if until <= asked.start:
                continue
            window = Window(asked.start, until)
        n_raw = sum(count_by_day(source, lake.scan(source, window), window).total() for source in sources)
        kept = lake.scan(contract, window).select(n=pl.len(), repeats=pl.col("n_duplicates").sum()).collect()
        refused = lake.scan(Quarantine, window).filter(table_name=name).select(pl.len()).collect().item()
        count = Count(name, n_raw, kept["n"].item(), refused, int(kept["repeats"].item() or 0))
        if count.n_raw or count.n_trusted or count.n_quarantined:
            yield count


def contents(lake: Lake) -> dict[str, tuple[int, int, str]]:
    """Rows, Delta version and content hash of every table that was ever written."""
    found = {}
    for contract in ALL_TABLES:
        state = lake.state(contract)
        if state is not None:
            found[contract.table.full_name] = (state.n_rows, state.version, content_hash(lake.read(contract)))
    return found


def verdicts(lake: Lake, window: Window) -> pl.DataFrame:
    """The newest verdict of every check of the window's days."""
    return lake.scan(CheckResults, window).sort("table_name", "check_name", "date").collect()
