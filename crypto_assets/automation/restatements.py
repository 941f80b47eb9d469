"""Files that a venue restated: found by their checksums, taken again, and only what really changed computed anew.

The job looks; what follows is declarative automation's: the op reports the raw partitions whose facts the new file
changes, and the tables behind exactly those follow their upstream. What changed is on ``quality.revision_ledger``.
"""

from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from typing import Any

import dagster as dg

from crypto_assets.assets.lake_asset import Parse, content_by_day
from crypto_assets.assets.raw import binance_archive
from crypto_assets.assets.trusted.facts import PARSERS
from crypto_assets.errors import CryptoAssetsError
from crypto_assets.resources.lake import Lake
from crypto_assets.tables import raw, trusted
from crypto_assets.tables.conform import settle
from crypto_assets.tables.contract import Contract
from crypto_assets.tables.window import Window, months

_READ_INTO: Mapping[type[Contract], type[Contract]] = {
    raw.RawBinanceKlines: trusted.Candles,
    raw.RawBinanceTrades: trusted.Trades,
}


class LookBack(dg.Config):
    """How far back held files are compared with the archive's checksums."""

    days: int = 62


@dg.op(required_resource_keys={"binance_archive", "lake", "clock"})
def take_restated_files(
    context: dg.OpExecutionContext, config: LookBack
) -> Iterator[dg.AssetMaterialization | dg.Output[None]]:
    """Compare, take again, and report the raw partitions whose facts are other ones now.

    What is reported follows from what raw and the tables hold, not from what was taken just now: a run that ended in
    between has left new files, which differ from their checksums no more. A file that cannot be taken does not stop the
    others; the first error is raised at the end.
    """
    lake, archive = context.resources.lake, context.resources.binance_archive
    today = context.resources.clock.now().date()
    span = Window.of_days(today - timedelta(days=config.days), today)
    errors = []
    for found in binance_archive.restated(archive, lake, span):
        try:
            binance_archive.repull(archive, lake, found, context.log.warning)
        except CryptoAssetsError as error:
            errors.append(error)
    for found in binance_archive.taken_again(lake, span):
        days = changed_days(lake, found.contract, found.file.window)
        told = f"{found.file.subject} {found.file.window}"
        context.log.info("%s was restated; %d days differ from the tables", told, len(days))
        for day in days:
            metadata: dict[str, Any] = {"restated": told, "was": found.held_sha256, "is": found.stated_sha256}
            key = dg.AssetKey(list(found.contract.table.path))
            # Yielded and not logged: what is logged is lost where the op fails in the end.
            yield dg.AssetMaterialization(key, partition=str(day), metadata=metadata)
    if errors:
        raise errors[0]
    yield dg.Output(None)


@dg.job(description="Look for archive files that the venue has restated, and take them again.")
def restatements() -> None:
    take_restated_files()


def changed_days(lake: Lake, source: type[Contract], window: Window) -> list[date]:
    """The days of which the answers in raw now give other facts than the table holds."""
    contract = _READ_INTO[source]
    parsers: Mapping[type[Contract], Parse] = PARSERS[contract]
    days: set[date] = set()
    for month in months(window):
        made = settle(contract, [parse(lake.scan(each, month).collect()) for each, parse in parsers.items()], month)
        ours, theirs = content_by_day(lake.read(contract, month)), content_by_day(made.rows)
        days |= {day for day in ours.keys() | theirs.keys() if ours.get(day) != theirs.get(day)}
    return sorted(days)
