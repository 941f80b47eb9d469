"""Binance's public archive: spot candles and aggregated trades as zip files of a month or a day, back to 2017.

``https://data.binance.vision`` needs no key and states no limit. Every file has a neighbour ``.CHECKSUM`` (``<sha256>
<name>``); files are restated now and then, and then the checksum changes with them. A day's file comes the next day, a
month's on the first Monday after it. Source: binance-public-data's README of 2025-01 and recorded files.

Times are milliseconds in files until 2024-12 and microseconds from 2025-01 on, but a restated file may be either: each
file is read by the size of its first time, never by its date. Spot files have no header row, futures' files do.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import accumulate
from typing import overload

import polars as pl

from crypto_assets.errors import UsageError
from crypto_assets.providers.answers import Cost, Pull, unreadable_in_raw, usable
from crypto_assets.providers.provider import Connection, Provider
from crypto_assets.resources.budget import Limit
from crypto_assets.resources.clock import Clock
from crypto_assets.resources.http import Answer, Client, Outcome, Source, Verdict
from crypto_assets.tables.conform import POINTERS, Records
from crypto_assets.tables.contract import UTC_TIME
from crypto_assets.tables.trusted import CLOCK_SKEW, GENESIS, INTERVALS
from crypto_assets.tables.window import DAY, Window, bucket, months

NAME = "binance_archive"
URL = "https://data.binance.vision"
VENUE = "binance"
KLINES, TRADES = "klines", "aggTrades"
# The largest file that is taken: two months of one-second candles, or a wild day of BTC/USDT trades. A month of those
# would not fit into memory once unpacked and typed.
MAX_BYTES = 64_000_000
# What a file may unpack to: digits pack to a fifth or less. Some four million candles.
MAX_UNPACKED = 512_000_000
# A directory of one entry has about a hundred bytes; a longer one is not read at all.
_MAX_DIRECTORY = 4096
_DIRECTORY_END = b"PK\x05\x06"
# Nothing is stated for the archive; ten files a second are those of one patient person.
_CALLS_PER_MINUTE = 600
# A file of the largest size over a line of 8 Mbit/s, and some patience.
_DEADLINE_S = 120
# Monthly files have come some days late; after that a month without one was not traded.
_LATE = timedelta(days=14)
# Times of 1e14 and more are microseconds: as milliseconds they would lie in the year 5138 and later.
_LEAST_US = 10**14
# Bytes of a packed candle and of a day of trades, about: for estimates of cost.
_CANDLE_BYTES, _TRADES_DAY_BYTES = 60, 5_000_000

KLINE_FIELDS = (
    "opened_at",
    "open",
    "high",
    "low",
    "close",
    "volume_base",
    "closed_at",
    "volume_quote",
    "n_trades",
    "taker_buy_base",
    "taker_buy_quote",
    "unused",
)
TRADE_FIELDS = (
    "trade_id",
    "price",
    "quantity",
    "first_trade_id",
    "last_trade_id",
    "traded_at",
    "is_buyer_maker",
    "is_best_match",
)


def source(base_url: str) -> Source:
    """What the HTTP client needs to know of the archive at this address."""
    return Source(
        name=NAME,
        base_url=base_url,
        limits=(Limit(_CALLS_PER_MINUTE, 60, "calls"),),
        secret=None,
        auth_header=None,
        credits=lambda _: 0,
        classify=classify,
        max_bytes=MAX_BYTES,
        deadline_s=_DEADLINE_S,
        accept="application/zip, text/plain, */*",
    )


def classify(status: int, headers: Mapping[str, str], body: bytes) -> Verdict:
    """What an answer means, by its first bytes: the archive's content types are whatever its store was told."""
    if status == 200:
        if body.startswith(b"PK") or _CHECKSUM.match(body):
            return Verdict(Outcome.OK)
        kind = headers.get("content-type", "").split(";")[0] or "no type"
        return Verdict(Outcome.MALFORMED, f"an answer of {kind} where a zip file or a checksum was due")
    if status == 404:
        return Verdict(Outcome.NOT_FOUND, "the archive has no such file")
    if status in (418, 429):
        return Verdict(Outcome.RATE_LIMITED, f"the archive asks for patience (HTTP {status})")
    if status in (401, 403, 451):
        return Verdict(Outcome.DENIED, f"the archive refuses (HTTP {status}): it may be closed to this country")
    return Verdict(Outcome.MALFORMED, f"the archive rejects the request (HTTP {status})")


@dataclass(frozen=True)
class ArchiveFile:
    """One file of the archive.

    Attributes:
        subject: what it is of, as raw says it: a market (``binance:BTC/USDT``), for candles with the interval
            (``binance:BTC/USDT 1m``).
        window: the month or the day that it covers.
    """

    subject: str
    window: Window

    @property
    def is_monthly(self) -> bool:
        return self.window.end - self.window.start > DAY

    @property
    def kind(self) -> str:
        return KLINES if " " in self.subject else TRADES

    @property
    def name(self) -> str:
        """The file's name without an ending."""
        market, _, interval = self.subject.partition(" ")
        day = f"{self.window.start:%Y-%m}" if self.is_monthly else f"{self.window.start:%Y-%m-%d}"
        return f"{_symbol(market)}-{interval or TRADES}-{day}"

    @property
    def path(self) -> str:
        market, _, interval = self.subject.partition(" ")
        folder = f"{_symbol(market)}/{interval}" if interval else _symbol(market)
        return f"/data/spot/{'monthly' if self.is_monthly else 'daily'}/{self.kind}/{folder}/{self.name}.zip"


class BinanceArchive:
    """The archive as the raw assets ask it. ``markets`` are those of the settings, on any venue."""

    def __init__(self, client: Client, clock: Clock, markets: Sequence[str], intervals: Sequence[str]) -> None:
        self._client = client
        self._clock = clock
        self.trade_subjects = tuple(market for market in markets if market.startswith(f"{VENUE}:"))
        self.kline_subjects = tuple(f"{market} {each}" for market in self.trade_subjects for each in intervals)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def klines(self, subject: str, window: Window) -> Iterator[Pull]:
        """Candles of a market and interval (``binance:BTC/USDT 1m``) over whole days of one month.

        A whole month that is published is one file, other days are a file each. A day without one is taken from its
        month's file, where there is that. Raises UsageError for a subject that is none.
        """
        _check_candles(subject)
        return self._pulls(subject, window, may_be_month=True)

    def trades(self, subject: str, window: Window) -> Iterator[Pull]:
        """Aggregated trades of a market, always day by day: a month of a large market does not fit into memory.

        Raises UsageError for a subject that is no market.
        """
        _symbol(subject)
        return self._pulls(subject, window, may_be_month=False)

    def klines_cost(self, subject: str, window: Window) -> Cost:
        """What ``klines`` would take: each file is two calls, for the checksum and for itself."""
        n_files = sum(
            1 if part == _month_of(part) and self._is_published(part) else len(part.days) for part in months(window)
        )
        length = INTERVALS[_check_candles(subject)] or 30 * 86_400_000
        n_candles = (window.end - window.start) / timedelta(milliseconds=length)
        return Cost(calls=2 * n_files, n_bytes=round(n_candles * _CANDLE_BYTES))

    def trades_cost(self, subject: str, window: Window) -> Cost:
        """What ``trades`` would take; markets differ a hundredfold in size, the estimate is of a large one."""
        del subject
        return Cost(calls=2 * len(window.days), n_bytes=_TRADES_DAY_BYTES * len(window.days))

    def pull(self, file: ArchiveFile) -> Pull:
        """A file with its checksum: complete where the two agree and the file is one zip of the one due member.

        A file that differs from its checksum may have been restated between the two calls, and is asked for once more.
        """
        answers: list[Answer] = []
        for _ in range(2):
            told = self._client.get(file.kind, f"{file.path}.CHECKSUM")
            expected = _stated(told.body)
            if told.outcome is Outcome.OK and expected is None:
                told = replace(told, outcome=Outcome.MALFORMED, detail="no checksum where one was due")
            answers.append(told)
            if told.outcome is not Outcome.OK:
                break
            answers.append(_judged(self._client.get(file.kind, file.path), str(expected), f"{file.name}.csv"))
            if not answers[-1].detail.startswith(_MISMATCH):
                break
        is_file = len(answers) % 2 == 0 and answers[-1].outcome in (Outcome.OK, Outcome.EMPTY)
        span = (file.window.start, file.window.end)
        n_calls = len(answers)
        return Pull(
            NAME, file.kind, file.subject, tuple(answers), is_file, answers[0].received_at, span, (0,) * n_calls
        )

    def stated_sha256(self, file: ArchiveFile) -> str | None:
        """The SHA-256 that the archive states for a file now; None where it has no such file or does not answer."""
        told = self._client.get(file.kind, f"{file.path}.CHECKSUM")
        return _stated(told.body) if told.outcome is Outcome.OK else None

    def _pulls(self, subject: str, window: Window, *, may_be_month: bool) -> Iterator[Pull]:
        for part in months(window):
            month = _month_of(part)
            if may_be_month and part == month and self._is_published(month):
                pull = self.pull(ArchiveFile(subject, month))
                is_late = self._clock.now() < _published_at(month) + _LATE
                if pull.ending.outcome is not Outcome.NOT_FOUND or not is_late:
                    yield pull
                    continue
            yield from self._days(subject, part, month)

    def _days(self, subject: str, window: Window, month: Window) -> Iterator[Pull]:
        may_be_in_month = self._is_published(month) and window != month
        for day in window.days:
            pull = self.pull(ArchiveFile(subject, Window.of_day(day)))
            if pull.ending.outcome is Outcome.NOT_FOUND and may_be_in_month:
                whole = self.pull(ArchiveFile(subject, month))
                if whole.is_complete:
                    yield whole
                    return
                may_be_in_month = False
            yield pull

    def _is_published(self, month: Window) -> bool:
        return self._clock.now() >= _published_at(month)


_MISMATCH = "the file's SHA-256 is"
_CHECKSUM = re.compile(rb"\s*([0-9a-fA-F]{64})\b")


def unpack(body: bytes, name: str) -> bytes:
    """The one member of a zip file. Raises ValueError, in one line, for anything but a sound zip of just that."""
    end = body.rfind(_DIRECTORY_END)
    n_directory = int.from_bytes(body[end + 12 : end + 16], "little") if end >= 0 else 0
    if n_directory > _MAX_DIRECTORY:
        raise ValueError(f"the zip's directory has {n_directory} bytes, more than one file needs")
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as packed:
            members = packed.infolist()
            if len(members) != 1:
                raise ValueError(f"the zip holds {len(members)} files where one was due")
            member = members[0]
            if member.filename != name:
                raise ValueError(f"the zip holds {member.filename[:100]!r} where {name} was due")
            if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError("the zip is encrypted or packed in a way that was not due")
            if member.file_size > MAX_UNPACKED:
                raise ValueError(f"the zip unpacks to {member.file_size} bytes, more than {MAX_UNPACKED}")
            with packed.open(member) as text:
                # No more than the directory says: a bomb behind a small number is not unfolded.
                return text.read(member.file_size)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"the zip is damaged or cut short ({type(error).__name__})") from None


def parse_klines(raw: pl.DataFrame) -> Records:
    """Records for ``trusted.candles``: venue, market and interval are what was asked for."""
    parsed = _records(raw, KLINE_FIELDS, "opened_at", "binance_archive klines")
    market, base, quote = _market_columns()
    columns = {
        "venue": pl.lit(VENUE),
        "market_id": market,
        "interval": pl.col("subject").str.extract(r" (\w+)$"),
        "base_symbol": base,
        "quote_symbol": quote,
        "opened_at": _asked_for("opened_at"),
        # A line of another length is not the record that it looks like: without a price it is refused.
        "open": pl.when("is_whole").then("open"),
    }
    frame = parsed.frame.with_columns(**columns).drop("closed_at", "unused")
    return Records(frame, parsed.texts, parsed.drifted)


def parse_trades(raw: pl.DataFrame) -> Records:
    """Records for ``trusted.trades``: one taker's trades at one price. ``traded_us`` only where a file is that fine."""
    parsed = _records(raw, TRADE_FIELDS, "traded_at", "binance_archive aggTrades")
    is_maker = pl.col("is_buyer_maker").str.to_lowercase()
    first, last = (pl.col(name).cast(pl.Int64, strict=False) for name in ("first_trade_id", "last_trade_id"))
    market, _, _ = _market_columns()
    columns = {
        "venue": pl.lit(VENUE),
        "market_id": market,
        "traded_at": _asked_for("traded_at"),
        "traded_us": pl.col("sent_us"),
        # Outside 32 bits it is no count of trades, and becomes null: a refused record.
        "n_trades": (last - first + 1).cast(pl.Int32, strict=False),
        # Who was the maker must be said: a side that cannot be read is no record.
        "price": pl.when(pl.col("is_whole") & is_maker.is_in(["true", "false"])).then("price"),
        "taker_side": is_maker.replace_strict({"true": "sell", "false": "buy"}, default=None, return_dtype=pl.String),
    }
    frame = parsed.frame.with_columns(**columns).drop("first_trade_id", "last_trade_id", "is_best_match")
    return Records(frame, parsed.texts, parsed.drifted)


class Lines(Sequence[bytes]):
    """The lines of many files, unpacked again when one is asked for: few are, and all of them would fill the memory."""

    def __init__(self, files: Sequence[Callable[[], Sequence[str]]], lengths: Sequence[int]) -> None:
        self._files = files
        self._ends = list(accumulate(lengths))
        self._open: tuple[int, Sequence[str]] = (-1, ())

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, row: int) -> bytes: ...
    @overload
    def __getitem__(self, row: slice) -> list[bytes]: ...
    def __getitem__(self, row: int | slice) -> bytes | list[bytes]:
        if isinstance(row, slice):
            return [self[each] for each in range(*row.indices(len(self)))]
        if not 0 <= row < len(self):
            raise IndexError(row)
        number = bisect_right(self._ends, row)
        if self._open[0] != number:
            self._open = (number, self._files[number]())
        return self._open[1][row - (self._ends[number - 1] if number else 0)].encode()


def _records(raw: pl.DataFrame, names: Sequence[str], when: str, where: str) -> Records:
    """Each line of the files that count, cut at its commas: the columns ``names`` as text, ``when`` in milliseconds.

    Also ``is_whole`` (as many fields as names) and ``sent_us`` (the microseconds, where that is what was sent).
    """
    files = usable(raw).filter(pl.col("request").str.ends_with(".zip"))
    frames, lengths = [], []
    readers: list[Callable[[], Sequence[str]]] = []
    drifted: dict[str, str] = {}
    start = 0
    for row in files.iter_rows(named=True):
        lines = _lines(row["body"], row["request"], where)
        frame = _cut(lines, names).with_columns(
            pl.lit(row[name]).alias(name) for name in ("pull_id", "page", "subject", "provider")
        )
        frame = frame.with_columns(
            position=pl.int_range(pl.len(), dtype=pl.Int32),
            row=pl.int_range(pl.len()) + start,
            answered_at=pl.lit(row["window_start_at"], UTC_TIME),
            opens=pl.lit(row["window_start_at"], UTC_TIME),
            closes=pl.lit(row["window_end_at"], UTC_TIME),
            ingested_at=pl.lit(row["ingested_at"], UTC_TIME),
        )
        frames.append(_in_milliseconds(frame, when, is_even=when == "opened_at"))
        lengths.append(len(lines))
        readers.append(_reader(row["body"], row["request"], where))
        if len(frame) and not frame["is_whole"].any():
            n = len(lines[0].split(","))
            drifted[row["pull_id"]] = f"each of {len(frame)} lines has {n} fields, not {len(names)}"
        start += len(lines)
    if not frames:
        none = dict.fromkeys([*names, "subject", "provider"], pl.String())
        more = {"is_whole": pl.Boolean(), "sent_us": pl.Int64(), "opens": UTC_TIME, "closes": UTC_TIME}
        return Records(pl.DataFrame(schema={**POINTERS, **none, **more}), Lines([], []))
    frame = _without_withdrawn(pl.concat(frames), files, names[0])
    return Records(frame.cast(POINTERS), Lines(readers, lengths), drifted)


def _without_withdrawn(frame: pl.DataFrame, files: pl.DataFrame, key: str) -> pl.DataFrame:
    """Rows of a file that was taken again since, and that the newer one no longer has, are no records any more."""
    span = ["subject", "window_start_at", "window_end_at"]
    newest = files.sort("ingested_at", "pull_id").unique(span, keep="last")["pull_id"]
    if len(newest) == len(files):
        return frame
    span = ["subject", "opens", "closes"]
    held = frame.filter(pl.col("pull_id").is_in(newest.implode())).select(*span, key, is_held=True).unique()
    joined = frame.join(held, [*span, key], "left", maintain_order="left")
    return joined.with_columns(pl.col("is_whole") & pl.col("is_held").fill_null(value=False)).drop("is_held")


def _lines(body: bytes, request: str, where: str) -> list[str]:
    """A file's lines, without a header and without blank ones."""
    try:
        text = unpack(body, request.rpartition("/")[2].removesuffix(".zip") + ".csv").decode(errors="replace")
    except ValueError as error:
        raise unreadable_in_raw(error, where, "a file") from None
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    lines = [line for line in text.split("\n") if line]
    return lines[1:] if lines and lines[0][:1].isalpha() else lines


def _reader(body: bytes, request: str, where: str) -> Callable[[], Sequence[str]]:
    return lambda: _lines(body, request, where)


def _cut(lines: Sequence[str], names: Sequence[str]) -> pl.DataFrame:
    fields = pl.col("line").str.split_exact(",", len(names)).struct.rename_fields([*names, "more"])
    frame = pl.DataFrame({"line": lines}, schema={"line": pl.String}).select(fields).unnest("line")
    return frame.with_columns(is_whole=pl.col(names[-1]).is_not_null() & pl.col("more").is_null()).drop("more")


def _in_milliseconds(frame: pl.DataFrame, when: str, *, is_even: bool) -> pl.DataFrame:
    """``when`` as text of milliseconds and as ``sent_us``, by the size of the file's first time.

    Where times must be ``is_even`` milliseconds, one that is not stays what it is: too large, and refused.
    """
    first = frame[when].cast(pl.Int64, strict=False).drop_nulls().head(1)
    if not (first >= _LEAST_US).any():
        return frame.with_columns(sent_us=pl.lit(None, pl.Int64))
    sent = pl.col(when)
    # Only what is as long as microseconds are: another text stays what it is, and is judged.
    is_us = sent.str.contains(r"^[0-9]{12,15}000$" if is_even else r"^[0-9]{15,18}$")
    in_ms = pl.when(is_us).then(sent.str.head(-3)).otherwise(sent)
    return frame.with_columns(in_ms.alias(when), sent_us=pl.when(is_us).then(sent.cast(pl.Int64, strict=False)))


def _asked_for(when: str) -> pl.Expr:
    """The time, where the file is of it. A good time outside the file has no place: whether it is seen must not depend
    on which days are computed together. An impossible one stays, to be refused as what it is."""
    ms = pl.col(when).cast(pl.Int64, strict=False)
    inside = (ms >= pl.col("opens").dt.epoch("ms")) & (ms < pl.col("closes").dt.epoch("ms"))
    newest = pl.col("ingested_at").dt.epoch("ms") + CLOCK_SKEW // timedelta(milliseconds=1)
    is_possible = (ms >= round(GENESIS.timestamp() * 1000)) & (ms <= newest)
    return pl.when(inside | ~is_possible.fill_null(value=False)).then(when)


def _market_columns() -> tuple[pl.Expr, pl.Expr, pl.Expr]:
    market = pl.col("subject").str.extract(r"^(\S+)")
    return market, market.str.extract(r":([^/]+)/"), market.str.extract(r"/(.+)$")


def _judged(answer: Answer, expected: str, name: str) -> Answer:
    """The answer of a file, malformed where it is not what its checksum says or no sound zip of one member."""
    if answer.outcome is not Outcome.OK:
        return answer
    actual = hashlib.sha256(answer.body).hexdigest()
    if actual != expected:
        told = f"{_MISMATCH} {actual[:16]}..., its CHECKSUM says {expected[:16]}..."
        return replace(answer, outcome=Outcome.MALFORMED, detail=told)
    try:
        return answer if unpack(answer.body, name) else replace(answer, outcome=Outcome.EMPTY, detail="no lines")
    except ValueError as error:
        return replace(answer, outcome=Outcome.MALFORMED, detail=str(error))


def _stated(body: bytes) -> str | None:
    found = _CHECKSUM.match(body)
    return None if found is None else found[1].decode().lower()


def _symbol(market: str) -> str:
    """``BTCUSDT`` of ``binance:BTC/USDT``. Raises UsageError for what is no market of the venue."""
    found = re.fullmatch(rf"{VENUE}:([\w-]{{1,32}})/([\w-]{{1,32}})", market)
    if found is None:
        raise UsageError(
            f"{market[:80]!r} is not a market of the archive",
            where=NAME,
            safe="no call was made",
            hint=f"markets are {VENUE}:BASE/QUOTE, e.g. {VENUE}:BTC/USDT; candles are asked for as {VENUE}:BTC/USDT 1m",
        )
    return found[1] + found[2]


def _check_candles(subject: str) -> str:
    market, _, interval = subject.partition(" ")
    _symbol(market)
    if interval not in INTERVALS:
        raise UsageError(
            f"{subject[:80]!r} names no interval",
            where=f"{NAME} klines",
            safe="no call was made",
            hint=f"candles are asked for as {market} 1m; intervals are {', '.join(INTERVALS)}",
        )
    return interval


def _month_of(part: Window) -> Window:
    """The whole month in which the part begins."""
    return Window(*bucket(part.start, "1mo"))


def _published_at(month: Window) -> datetime:
    """The first Monday after the month."""
    return month.end + timedelta(days=-month.end.weekday() % 7)


def _connect(connection: Connection) -> BinanceArchive:
    client = connection.open(source(connection.urls[NAME]))
    markets, intervals = (connection.asked.get(what, ()) for what in ("markets", "intervals"))
    return BinanceArchive(client, connection.clock, markets, intervals)


PROVIDER = Provider(name=NAME, urls={NAME: URL}, connect=_connect, limits=lambda *_: {NAME: source(URL).limits})
