"""Binance's public archive of candles and trades, as received: zip files with their checksums.

Source: https://data.binance.vision, no key. Files of a day appear the next day, those of a month on the first Monday
after it. The venue restates files now and then: ``restated`` finds the held ones whose checksum changed, and
``repull`` takes them again.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import polars as pl

from crypto_assets.assets.raw.pulls import History, land
from crypto_assets.providers.binance_archive import NAME, ArchiveFile, BinanceArchive
from crypto_assets.resources.lake import Lake
from crypto_assets.tables import raw
from crypto_assets.tables.contract import Contract
from crypto_assets.tables.window import Window

KLINES = History(
    raw.RawBinanceKlines,
    NAME,
    subjects=lambda archive: archive.kline_subjects,
    pull=BinanceArchive.klines,
    cost=BinanceArchive.klines_cost,
    is_monthly=True,
)
TRADES = History(
    raw.RawBinanceTrades,
    NAME,
    subjects=lambda archive: archive.trade_subjects,
    pull=BinanceArchive.trades,
    cost=BinanceArchive.trades_cost,
    is_monthly=True,
)
HISTORIES = (KLINES, TRADES)
binance_klines = KLINES.asset()
binance_trades = TRADES.asset()


@dataclass(frozen=True)
class Restated:
    """A held file whose checksum is another now: what it is of, and both hashes."""

    contract: type[raw.RawAnswers]
    file: ArchiveFile
    held_sha256: str
    stated_sha256: str


def restated(archive: BinanceArchive, lake: Lake, window: Window) -> Iterator[Restated]:
    """The held files of the window that the venue has restated since: one small call a file, none of its content.

    A file that the archive no longer has, or does not answer for, is not restated: what is held stays.
    """
    for history in HISTORIES:
        for file, held in _held_files(lake, history.contract, window):
            stated = archive.stated_sha256(file)
            if stated is not None and stated != held:
                yield Restated(history.contract, file, held, stated)


def repull(
    archive: BinanceArchive, lake: Lake, found: Restated, warn: Callable[[str], object] | None = None
) -> Window | None:
    """Take a restated file again and say which days to compute anew; None where the archive did not give it whole.

    Of each row the newer file counts, and rows that it no longer has are refused; raw keeps both. Raises as ``land``.
    """
    landed = land(lake, found.contract, [archive.pull(found.file)], warn)
    return found.file.window if len(landed.filter(pl.col("n_pages").is_not_null())) else None


def taken_again(lake: Lake, window: Window) -> Iterator[Restated]:
    """The files of the window that raw holds in more than one state: the newest and the one before it."""
    for history in HISTORIES:
        for file, states in _held_states(lake, history.contract, window):
            if len(states) > 1:
                yield Restated(history.contract, file, states[-2], states[-1])


def _held_files(lake: Lake, contract: type[Contract], window: Window) -> Iterator[tuple[ArchiveFile, str]]:
    """The newest complete file of each subject and span, with its hash; bodies are not read."""
    for file, states in _held_states(lake, contract, window):
        yield file, states[-1]


def _held_states(lake: Lake, contract: type[Contract], window: Window) -> Iterator[tuple[ArchiveFile, list[str]]]:
    """The hashes that the complete files of each subject and span have had, each change once, the newest last."""
    span = ["subject", "window_start_at", "window_end_at"]
    rows = (
        lake.scan(contract, window)
        .filter(pl.col("n_pages").is_not_null(), pl.col("request").str.ends_with(".zip"))
        .filter(pl.col("outcome").is_in(["ok", "empty"]))
        .select(*span, "ingested_at", "pull_id", "sha256")
        .collect()
        .sort("ingested_at", "pull_id")
        .filter(pl.col("sha256").ne_missing(pl.col("sha256").shift(1)).over(span))
        .group_by(span)
        .agg("sha256")
        .sort(span)
    )
    for subject, start, end, states in rows.iter_rows():
        yield ArchiveFile(subject, Window(start, end)), states
