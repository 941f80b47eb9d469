"""The obvious writer, kept as a test double: what fails is written again, and what was written is not looked for.

It exists so that the checks can be seen to catch what they are there to catch.
"""

from __future__ import annotations

from collections.abc import Callable

import polars as pl
from deltalake.exceptions import CommitFailedError

from crypto_assets.resources import lake as lake_module
from crypto_assets.resources.lake import Commit, Lake
from crypto_assets.tables.contract import Contract


class NaiveLake(Lake):
    """A lake whose appends carry no transaction, and are blindly retried."""

    def append(self, contract: type[Contract], frame: pl.DataFrame, *, app: str, version: int) -> Commit:
        def attempt() -> Commit:
            table = self._ensure(contract)
            # Looked up there, so that faults are made where the lake's own are.
            vars(lake_module)["write_deltalake"](table, frame, mode="append")
            return Commit(contract.table.full_name, table.version(), len(frame), is_new=True)

        return _retried(attempt)


def _retried(attempt: Callable[[], Commit]) -> Commit:
    for _ in range(5):
        try:
            return attempt()
        except (CommitFailedError, OSError):
            continue
    return attempt()
