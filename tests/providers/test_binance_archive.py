"""The archive's files: taken whole or not at all, read by the size of their times, every line in one place."""

from __future__ import annotations

import csv
import datetime as dt
import hashlib
import io
import re
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from crypto_assets.assets.handles import connected
from crypto_assets.assets.lake_asset import settle_window
from crypto_assets.assets.raw import binance_archive as wired
from crypto_assets.assets.raw.pulls import land
from crypto_assets.checks.reconciliation import count_by_day
from crypto_assets.errors import DataError, UsageError
from crypto_assets.providers import binance_archive as archive
from crypto_assets.providers.answers import Pull, raw_rows
from crypto_assets.providers.binance_archive import NAME, PROVIDER, ArchiveFile, BinanceArchive, unpack
from crypto_assets.resources.clock import FixedClock
from crypto_assets.resources.http import Answer, Outcome
from crypto_assets.resources.lake import Lake
from crypto_assets.tables import quality, raw, trusted
from crypto_assets.tables.conform import Settled, settle
from crypto_assets.tables.window import Window

BTC = "binance:BTC/USDT"
HOURLY = f"{BTC} 1h"
DECEMBER = Window.of_days(dt.date(2024, 12, 1), dt.date(2024, 12, 31))
JANUARY = Window.of_days(dt.date(2025, 1, 1), dt.date(2025, 1, 31))
FOLDER = "/data/spot/{}/klines/BTCUSDT/1h/BTCUSDT-1h-{}.zip"
NOW = dt.datetime(2025, 3, 10, 12, tzinfo=dt.UTC)
MS = 1_733_011_200_000  # 2024-12-01
HOUR = 3_600_000


def line(opened: int | str, *more: object, close: object = "102.00") -> str:
    """A candle of the archive that opens at ``opened``."""
    fields = [opened, "100.00", "110.5", "99.9", close, "5.25", opened, "531.1", 7, "2.5", "253.0", 0]
    return ",".join(str(field) for field in [*fields, *more])


def candles(first_ms: int, n: int, unit: int = 1) -> bytes:
    return "".join(f"{line((first_ms + i * HOUR) * unit)}\n" for i in range(n)).encode()


def zipped(name: str, text: bytes, *, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as packed:
        packed.writestr(name, text)
    return buffer.getvalue()


class Shelf:
    """An archive on loopback: what lies under each path, and what was asked for."""

    def __init__(self, server: HTTPServer) -> None:
        self.files: dict[str, bytes] = {}
        self.stated: dict[str, list[str]] = {}
        self.asked: list[str] = []
        server.expect_request(re.compile("/data/.*"), method="GET").respond_with_handler(self._respond)

    def put(self, path: str, text: bytes) -> None:
        """A file with the due member, and its checksum."""
        self.files[path] = zipped(path.rpartition("/")[2].replace(".zip", ".csv"), text)

    def _respond(self, request: Request) -> Response:
        self.asked.append(request.path)
        path = request.path.removesuffix(".CHECKSUM")
        if path not in self.files:
            return Response("<Error><Code>NoSuchKey</Code></Error>", 404, content_type="application/xml")
        if path == request.path:
            return Response(self.files[path], content_type="application/zip")
        told = self.stated.get(path) or [hashlib.sha256(self.files[path]).hexdigest()]
        return Response(f"{told.pop(0)}  {path.rpartition('/')[2]}\n", content_type="binary/octet-stream")


@pytest.fixture
def shelf(httpserver: HTTPServer) -> Shelf:
    return Shelf(httpserver)


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(NOW)


@pytest.fixture
def binance(shelf: Shelf, httpserver: HTTPServer, clock: FixedClock, tmp_path: Path) -> Iterator[BinanceArchive]:
    asked = {"markets": [BTC, "kraken:BTC/USD"], "intervals": ["1h"]}
    url = httpserver.url_for("").rstrip("/")
    with connected(PROVIDER, tmp_path / "state", clock, urls={NAME: url}, key=None, asked=asked, is_local=True) as it:
        assert isinstance(it, BinanceArchive)
        yield it


def landed(text: bytes, window: Window = DECEMBER, *, subject: str = HOURLY, at: dt.datetime = NOW) -> pl.DataFrame:
    """Raw rows of one file that came as it should."""
    file = ArchiveFile(subject, window)
    body = zipped(f"{file.name}.csv", text)
    told = f"{hashlib.sha256(body).hexdigest()}  {file.name}.zip".encode()
    answers = tuple(
        Answer(file.kind, f"GET {file.path}{ending}", 200, Outcome.OK, content, at, "", 1)
        for ending, content in ((".CHECKSUM", told), ("", body))
    )
    return raw_rows([Pull(NAME, file.kind, subject, answers, True, at, (window.start, window.end), (0, 0))])


def settled(*files: pl.DataFrame, window: Window = DECEMBER) -> Settled:
    return settle(trusted.Candles, archive.parse_klines(pl.concat(files)), window)


# ---- the switch of units ----


@pytest.mark.recorded
def test_the_recorded_months_are_one_gapless_hourly_series_across_the_switch(
    recorded: Path, binance: BinanceArchive, shelf: Shelf, lake: Lake
) -> None:
    texts = {}
    for month in ("2024-12", "2025-01"):
        texts[month] = (recorded.parent / "binance" / f"BTCUSDT-1h-{month}.csv").read_bytes()
        shelf.put(FOLDER.format("monthly", month), texts[month])
    both = Window(DECEMBER.start, JANUARY.end)

    land(lake, raw.RawBinanceKlines, binance.klines(HOURLY, both))
    for window in (DECEMBER, JANUARY):
        settle_window(lake, trusted.Candles, {raw.RawBinanceKlines: archive.parse_klines}, window)

    rows = lake.read(trusted.Candles, both).sort("opened_at")
    assert len(rows) == 1488
    assert rows["opened_at"].to_list() == [both.start + dt.timedelta(hours=i) for i in range(1488)]
    assert lake.read(quality.Quarantine).is_empty()
    names = ["open", "high", "low", "close", "volume_base", "volume_quote", "taker_buy_base", "taker_buy_quote"]
    sent = [record for text in texts.values() for record in csv.reader(io.StringIO(text.decode()))]
    stated = [tuple(Decimal(record[i]) for i in (1, 2, 3, 4, 5, 7, 9, 10)) for record in sent]
    assert rows.select(names).rows() == stated
    assert rows["n_trades"].to_list() == [int(record[8]) for record in sent]
    assert rows.select("venue", "market_id", "interval", "base_symbol", "quote_symbol", "provider").unique().rows() == [
        ("binance", BTC, "1h", "BTC", "USDT", NAME)
    ]
    counted = count_by_day(raw.RawBinanceKlines, lake.scan(raw.RawBinanceKlines), both)
    assert set(counted.values()) == {24}
    assert len(counted) == 62


@pytest.mark.parametrize("unit", [1, 1000])
@pytest.mark.parametrize(("first", "window"), [(MS, DECEMBER), (MS + 31 * 24 * HOUR, JANUARY)])
def test_a_files_unit_is_told_by_its_times_and_never_by_its_date(unit: int, first: int, window: Window) -> None:
    rows = settled(landed(candles(first, 3, unit), window), window=window).rows

    assert rows["opened_at"].to_list() == [window.start + dt.timedelta(hours=i) for i in range(3)]


def test_a_time_in_the_year_56000_is_refused_as_one_from_the_future() -> None:
    result = settled(landed(candles(MS, 30) + f"{line((MS + HOUR) * 1000)}\n".encode()))

    assert len(result.rows) == 30
    assert result.rejected["reasons"].to_list() == ["not_from_the_future"]
    assert result.rejected["observed_at"].to_list() == [DECEMBER.start]


@pytest.mark.parametrize(
    ("opened", "reason"),
    [
        ("0", "opened_at|nullability"),
        ("1230000000000", "not_before_bitcoin"),
        (str(MS - HOUR), "opened_at|nullability"),
        (str(MS + 31 * 24 * HOUR), "opened_at|nullability"),
        ("soon", "cast:opened_at"),
        ("", "cast:opened_at"),
    ],
)
def test_a_time_that_cannot_be_or_is_not_the_files_is_refused(opened: str, reason: str) -> None:
    result = settled(landed(candles(MS, 30) + f"{line(opened)}\n".encode()))

    assert len(result.rows) == 30
    assert reason in result.rejected["reasons"].item().split(",")


def test_microseconds_that_are_no_whole_millisecond_are_no_opening() -> None:
    uneven = f"{line(MS * 1000 + 1)}\n".encode()

    assert settled(landed(candles(MS, 30, 1000) + uneven)).rejected["reasons"].to_list() == ["not_from_the_future"]


# ---- lines ----


def test_a_header_blank_lines_and_foreign_line_ends_are_no_records() -> None:
    header = b"open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,x,ignore\r\n"

    result = settled(landed(header + candles(MS, 2).replace(b"\n", b"\r\n\r\n")))

    assert (len(result.rows), len(result.rejected)) == (2, 0)


@pytest.mark.parametrize(
    "broken",
    [line(MS + 2 * HOUR, "more"), line(MS + 2 * HOUR).rpartition(",")[0], f"{MS + 2 * HOUR},1", '"quoted,', "\x00"],
)
def test_a_line_of_another_length_is_quarantined_as_it_was_sent(broken: str) -> None:
    result = settled(landed(candles(MS, 30) + f"{broken}\n".encode()))

    assert len(result.rows) == 30
    assert result.rejected["record"].to_list() == [broken]
    assert result.rejected["position"].to_list() == [30]


def test_bytes_that_are_no_text_spoil_their_own_line_only() -> None:
    result = settled(landed(candles(MS, 30) + f"{MS},".encode() + b"\xff,2,3\n"))

    assert len(result.rows) == 30
    assert result.rejected["record"].to_list() == [f"{MS},\ufffd,2,3"]


def test_a_file_of_other_columns_has_drifted_and_says_so() -> None:
    parsed = archive.parse_klines(landed(b"1,2,3\n4,5,6\n"))

    assert list(parsed.drifted.values()) == ["each of 2 lines has 3 fields, not 12"]
    assert set(settle(trusted.Candles, parsed, DECEMBER).rejected["reasons"].str.contains("pull_refused")) == {True}


def test_an_empty_raw_table_and_a_file_without_candles_give_no_records() -> None:
    assert len(archive.parse_klines(landed(b"x").clear()).frame) == 0
    assert len(settled(landed(b"open_time,open\n")).rows) == 0


def test_a_candle_stated_twice_counts_once_and_its_repetition_is_counted() -> None:
    rows = settled(landed(candles(MS, 2)), landed(candles(MS, 1), Window.of_day(dt.date(2024, 12, 1)))).rows

    assert rows["n_duplicates"].to_list() == [1, 0]


def test_a_restated_file_counts_and_a_row_that_it_withdrew_is_refused() -> None:
    later = NOW + dt.timedelta(days=1)
    restated = f"{line(MS, close='103.00')}\n".encode() + candles(MS + HOUR, 29)

    result = settled(landed(candles(MS, 31)), landed(restated, at=later))

    assert result.rows["close"].to_list()[:2] == [Decimal(103), Decimal(102)]
    assert len(result.rows) == 30
    assert result.rejected.select("reasons", "position").rows() == [("open|nullability", 30)]


def test_a_lines_text_is_found_among_many_files_without_holding_them() -> None:
    day = Window.of_day(dt.date(2024, 12, 2))
    first = landed(candles(MS, 3))
    parsed = archive.parse_klines(pl.concat([first, landed(candles(MS + 24 * HOUR, 2), day, at=NOW + dt.timedelta(1))]))

    assert isinstance(parsed.texts, archive.Lines)
    assert [bytes(text).decode() for text in parsed.texts] == [
        *(line(MS + i * HOUR) for i in range(3)),
        *(line(MS + (24 + i) * HOUR) for i in range(2)),
    ]
    assert parsed.texts[1:3] == [line(MS + i * HOUR).encode() for i in (1, 2)]
    with pytest.raises(IndexError):
        parsed.texts[5]


_TIMES = st.sampled_from([MS, MS + HOUR, MS + 26 * HOUR, (MS + HOUR) * 1000, MS * 1000 + 7, MS - 1, 0, 7, 10**18, -MS])
_FIELD = st.one_of(_TIMES.map(str), st.sampled_from(["", "x", "+5", "1e5", " 3", '"', "\x0b", "é", "１"]))
_LINE = st.one_of(
    _TIMES.map(line), st.lists(_FIELD, max_size=14).map(",".join), st.sampled_from(["", " ", "\r", "open_time,a"])
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_LINE, max_size=12), st.sampled_from([DECEMBER, Window.of_day(dt.date(2024, 12, 1))]))
def test_the_second_reading_finds_each_line_on_the_day_where_it_ended(lines: list[str], asked: Window) -> None:
    answers = landed("\n".join(lines).encode())

    result = settled(answers, window=asked)

    ended: dict[dt.date, int] = {}
    for day, n in [*result.rows.select("date", pl.col("n_duplicates") + 1).rows(), *zip_days(result.rejected)]:
        ended[day] = ended.get(day, 0) + n
    assert dict(count_by_day(raw.RawBinanceKlines, answers.lazy(), asked)) == ended


def zip_days(rejected: pl.DataFrame) -> Sequence[tuple[dt.date, int]]:
    return [(day, 1) for day in rejected["date"]]


# ---- trades ----


def trades(*lines: str, day: dt.date = dt.date(2025, 1, 3)) -> Settled:
    window = Window.of_day(day)
    answers = landed("".join(f"{each}\n" for each in lines).encode(), window, subject=BTC)
    return settle(trusted.Trades, archive.parse_trades(answers), window)


def test_an_aggregate_has_its_taker_its_count_and_its_microseconds() -> None:
    us = 1_735_862_400_123_456
    rows = trades(f"7,96000.01,0.5,100,102,{us},True,True", f"8,96000.02,0.25,103,103,{us + 10},False,True").rows

    assert rows.select("trade_id", "price", "quantity", "n_trades", "taker_side", "traded_us").rows() == [
        ("7", Decimal("96000.01"), Decimal("0.5"), 3, "sell", us),
        ("8", Decimal("96000.02"), Decimal("0.25"), 1, "buy", us + 10),
    ]
    assert set(rows["traded_at"]) == {dt.datetime(2025, 1, 3, 0, 0, 0, 123000, tzinfo=dt.UTC)}


def test_a_file_in_milliseconds_has_no_microseconds() -> None:
    rows = trades("7,1,1,1,1,1735862400123,true,true").rows

    assert rows.select("traded_us", "traded_at").rows() == [
        (None, dt.datetime(2025, 1, 3, 0, 0, 0, 123000, tzinfo=dt.UTC))
    ]


@pytest.mark.parametrize(
    "broken",
    [
        "9,1,1,1,1,1735862400123,maybe,True",
        "9,1,1,5,1,1735862400123,True,True",
        "9,1,1,x,1,1735862400123,True,True",
        "9,1,1,0,99999999999,1735862400123,True,True",
        "9,0,1,1,1,1735862400123,True,True",
        "9,1,1,1,1,1735862400123,True",
    ],
)
def test_a_trade_that_says_something_else_is_refused(broken: str) -> None:
    result = trades(*(f"{i},1,1,1,1,1735862400123,True,True" for i in range(30)), broken)

    assert len(result.rows) == 30
    assert result.rejected["record"].to_list() == [broken]


# ---- which files ----


def paths(shelf: Shelf) -> list[str]:
    return [path.rpartition("/")[2] for path in shelf.asked]


def test_a_month_that_is_published_is_one_file_and_its_checksum(binance: BinanceArchive, shelf: Shelf) -> None:
    shelf.put(FOLDER.format("monthly", "2024-12"), candles(MS, 744))

    (pull,) = binance.klines(HOURLY, DECEMBER)

    assert pull.is_complete
    assert pull.window == (DECEMBER.start, DECEMBER.end)
    assert paths(shelf) == ["BTCUSDT-1h-2024-12.zip.CHECKSUM", "BTCUSDT-1h-2024-12.zip"]
    assert binance.klines_cost(HOURLY, DECEMBER).calls == 2


def test_until_the_first_monday_a_month_is_taken_by_its_days(
    binance: BinanceArchive, shelf: Shelf, clock: FixedClock
) -> None:
    clock.set(dt.datetime(2025, 1, 5, 23, tzinfo=dt.UTC))  # the Sunday before
    for day in DECEMBER.days:
        shelf.put(FOLDER.format("daily", day), candles(MS + (day.day - 1) * 24 * HOUR, 24))

    pulls = list(binance.klines(HOURLY, DECEMBER))

    assert len(pulls) == 31
    assert all(pull.is_complete for pull in pulls)
    assert not any("monthly" in path for path in shelf.asked)
    assert binance.klines_cost(HOURLY, DECEMBER).calls == len(shelf.asked) == 62
    clock.set(dt.datetime(2025, 1, 6, tzinfo=dt.UTC))
    assert binance.klines_cost(HOURLY, DECEMBER).calls == 2


def test_a_monthly_file_that_is_late_is_taken_by_its_days(
    binance: BinanceArchive, shelf: Shelf, clock: FixedClock
) -> None:
    clock.set(dt.datetime(2025, 1, 7, tzinfo=dt.UTC))
    shelf.put(FOLDER.format("daily", "2024-12-31"), candles(MS + 30 * 24 * HOUR, 24))

    pulls = list(binance.klines(HOURLY, DECEMBER))

    assert [pull.ending.outcome for pull in pulls] == [*[Outcome.NOT_FOUND] * 30, Outcome.OK]


def test_a_month_that_was_not_traded_is_asked_for_once(binance: BinanceArchive, shelf: Shelf) -> None:
    (pull,) = binance.klines(HOURLY, DECEMBER)

    assert pull.ending.outcome is Outcome.NOT_FOUND
    assert len(shelf.asked) == 1


def test_a_missing_day_is_taken_from_its_months_file(binance: BinanceArchive, shelf: Shelf) -> None:
    shelf.put(FOLDER.format("monthly", "2024-12"), candles(MS, 744))

    (pull,) = binance.klines(HOURLY, Window.of_days(dt.date(2024, 12, 4), dt.date(2024, 12, 6)))

    assert pull.is_complete
    assert pull.window == (DECEMBER.start, DECEMBER.end)


def test_a_missing_day_is_reported_and_the_others_land(binance: BinanceArchive, shelf: Shelf, lake: Lake) -> None:
    for day in (4, 6):
        shelf.put(FOLDER.format("daily", f"2024-12-{day:02}"), candles(MS + (day - 1) * 24 * HOUR, 24))
    said: list[str] = []

    land(
        lake,
        raw.RawBinanceKlines,
        binance.klines(HOURLY, Window.of_days(dt.date(2024, 12, 4), dt.date(2024, 12, 6))),
        said.append,
    )

    assert said == [f"GET {FOLDER.format('daily', '2024-12-05')}.CHECKSUM: the archive has no such file; skipped"]
    assert lake.scan(raw.RawBinanceKlines).filter(pl.col("n_pages") == 2).collect()["page"].to_list() == [0, 1] * 2
    again = wired.KLINES.missing(lake, HOURLY, Window.of_days(dt.date(2024, 12, 4), dt.date(2024, 12, 6)), NOW)
    assert list(again) == [Window.of_day(dt.date(2024, 12, 5))]


def test_trades_are_always_taken_by_the_day(binance: BinanceArchive, shelf: Shelf) -> None:
    path = "/data/spot/daily/aggTrades/BTCUSDT/BTCUSDT-aggTrades-2024-12-01.zip"
    shelf.put(path, f"7,1,1,1,1,{MS},True,True\n".encode())

    pulls = binance.trades(BTC, DECEMBER)

    assert next(iter(pulls)).is_complete
    assert shelf.asked == [f"{path}.CHECKSUM", path]
    assert binance.trades_cost(BTC, DECEMBER).calls == 62


def test_only_markets_of_the_venue_are_asked_for(binance: BinanceArchive) -> None:
    assert binance.kline_subjects == (HOURLY,)
    assert binance.trade_subjects == (BTC,)


@pytest.mark.parametrize("subject", ["kraken:BTC/USD 1h", "binance:BTC/USDT", "binance:../x 1h", "binance:BTC/USDT 1M"])
def test_what_is_no_subject_is_refused_before_any_call(binance: BinanceArchive, shelf: Shelf, subject: str) -> None:
    with pytest.raises(UsageError):
        list(binance.klines(subject, DECEMBER))

    assert shelf.asked == []


# ---- whole or not at all ----


def test_a_file_that_was_restated_between_the_calls_is_asked_for_once_more(
    binance: BinanceArchive, shelf: Shelf, lake: Lake
) -> None:
    path = FOLDER.format("monthly", "2024-12")
    shelf.put(path, candles(MS, 744))
    shelf.stated[path] = ["0" * 64]

    (pull,) = binance.klines(HOURLY, DECEMBER)
    land(lake, raw.RawBinanceKlines, [pull])

    assert [str(answer.outcome) for answer in pull.answers] == ["ok", "malformed", "ok", "ok"]
    assert pull.is_complete
    settle_window(lake, trusted.Candles, {raw.RawBinanceKlines: archive.parse_klines}, DECEMBER)
    assert len(lake.read(trusted.Candles)) == 744


def test_a_file_that_never_equals_its_checksum_is_evidence_only(
    binance: BinanceArchive, shelf: Shelf, lake: Lake
) -> None:
    path = FOLDER.format("monthly", "2024-12")
    shelf.put(path, candles(MS, 744))
    shelf.stated[path] = ["0" * 64, "0" * 64]
    actual = hashlib.sha256(shelf.files[path]).hexdigest()

    with pytest.raises(DataError, match=f"SHA-256 is {actual[:16]}..., its CHECKSUM says 0000000000000000..."):
        land(lake, raw.RawBinanceKlines, binance.klines(HOURLY, DECEMBER))

    rows = lake.read(raw.RawBinanceKlines)
    assert rows["n_pages"].to_list() == [None] * 4
    assert len(shelf.asked) == 4
    assert archive.parse_klines(rows).frame.is_empty()
    assert list(wired.KLINES.missing(lake, HOURLY, DECEMBER, NOW)) == [DECEMBER]


def _several(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        packed.writestr(name, b"1")
        packed.writestr("another", b"2")
    return buffer.getvalue()


def _bomb(name: str, *, said: int | None = None) -> bytes:
    body = bytearray(zipped(name, b"0" * 3_000_000))
    if said is not None:
        at = body.rfind(b"PK\x01\x02")
        body[at + 24 : at + 28] = struct.pack("<I", said)
        body[22:26] = struct.pack("<I", said)
    return bytes(body)


def _encrypted(name: str) -> bytes:
    body = bytearray(zipped(name, b"1"))
    at = body.rfind(b"PK\x01\x02")
    body[at + 8] |= 1
    return bytes(body)


_NAME = "BTCUSDT-1h-2024-12.csv"
_BAD_ZIPS: Mapping[str, tuple[bytes, str]] = {
    "several members": (_several(_NAME), "holds 2 files"),
    "another name": (zipped("BTCUSDT-1h-2024-11.csv", b"1"), "'BTCUSDT-1h-2024-11.csv' where"),
    "a path": (zipped("../../etc/passwd", b"1"), "'../../etc/passwd' where"),
    "an absolute path": (zipped("/etc/passwd", b"1"), "'/etc/passwd' where"),
    "cut short": (zipped(_NAME, b"1" * 500)[:-30], "damaged or cut short"),
    "a flipped bit": (
        zipped(_NAME, bytes(range(256)) * 9, method=zipfile.ZIP_STORED).replace(
            b"\x7d\x7e\x7f\x80", b"\x7d\x7e\x7f\x81", 1
        ),
        "damaged",
    ),
    "a larger size than is taken": (_bomb(_NAME, said=600_000_000), "unpacks to 600000000 bytes"),
    "a bomb behind a small number": (_bomb(_NAME, said=10), "damaged or cut short"),
    "a password": (_encrypted(_NAME), "encrypted"),
    "another packing": (zipped(_NAME, b"1", method=zipfile.ZIP_LZMA), "packed in a way"),
    "a long directory": (zipped("x" * 5000, b"1"), "directory has"),
    "nothing but a beginning": (b"PK\x03\x04", "damaged or cut short"),
}


@pytest.mark.parametrize("what", _BAD_ZIPS)
def test_a_file_that_is_no_sound_zip_of_one_member_is_refused_whole_in_one_line(
    binance: BinanceArchive, shelf: Shelf, lake: Lake, what: str
) -> None:
    body, told = _BAD_ZIPS[what]
    shelf.files[FOLDER.format("monthly", "2024-12")] = body

    with pytest.raises(DataError, match=told) as error:
        land(lake, raw.RawBinanceKlines, binance.klines(HOURLY, DECEMBER))

    assert "\n" not in str(error.value)
    rows = lake.read(raw.RawBinanceKlines)
    assert rows.select("outcome", "n_pages").rows() == [("ok", None), ("malformed", None)]
    assert rows["body"].to_list()[1] == body
    assert len(shelf.asked) == 2


def test_a_bomb_is_not_unfolded_to_be_judged() -> None:
    with pytest.raises(ValueError, match="damaged"):
        unpack(_bomb(_NAME, said=10), _NAME)


def test_a_file_above_the_cap_is_refused_in_one_line(binance: BinanceArchive, shelf: Shelf, lake: Lake) -> None:
    shelf.files[FOLDER.format("monthly", "2024-12")] = b"PK" + bytes(archive.MAX_BYTES)

    with pytest.raises(DataError, match="the body is larger than 64000000 bytes; it was not kept"):
        land(lake, raw.RawBinanceKlines, binance.klines(HOURLY, DECEMBER))


def test_a_file_without_a_line_is_held_as_empty(binance: BinanceArchive, shelf: Shelf, lake: Lake) -> None:
    shelf.put(FOLDER.format("monthly", "2024-12"), b"")

    land(lake, raw.RawBinanceKlines, binance.klines(HOURLY, DECEMBER))

    assert lake.read(raw.RawBinanceKlines)["outcome"].to_list() == ["ok", "empty"]
    assert list(wired.KLINES.missing(lake, HOURLY, DECEMBER, NOW)) == []


def test_a_body_that_was_changed_in_raw_is_an_error_and_no_loss() -> None:
    changed = landed(candles(MS, 2)).with_columns(
        body=pl.when(pl.col("page") == 1).then(pl.lit(b"PK?")).otherwise("body")
    )

    with pytest.raises(DataError, match="good when it landed cannot be read"):
        archive.parse_klines(changed)


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (200, b"<html>", Outcome.MALFORMED),
        (200, b"", Outcome.MALFORMED),
        (200, b"PK\x03\x04", Outcome.OK),
        (200, b"0" * 64 + b"  x.zip", Outcome.OK),
        (404, b"", Outcome.NOT_FOUND),
        (403, b"", Outcome.DENIED),
        (451, b"", Outcome.DENIED),
        (418, b"", Outcome.RATE_LIMITED),
        (429, b"", Outcome.RATE_LIMITED),
        (400, b"", Outcome.MALFORMED),
    ],
)
def test_every_answer_has_its_outcome(status: int, body: bytes, outcome: Outcome) -> None:
    assert archive.classify(status, {"content-type": "text/html"}, body).outcome is outcome


# ---- restated files ----


def test_a_restated_file_is_found_by_its_checksum_and_taken_again(
    binance: BinanceArchive, shelf: Shelf, lake: Lake, clock: FixedClock
) -> None:
    december, january = (FOLDER.format("monthly", month) for month in ("2024-12", "2025-01"))
    shelf.put(december, candles(MS, 744))
    shelf.put(january, candles(MS + 744 * HOUR, 744, 1000))
    both = Window(DECEMBER.start, JANUARY.end)
    land(lake, raw.RawBinanceKlines, binance.klines(HOURLY, both))
    before = hashlib.sha256(shelf.files[december]).hexdigest()
    assert list(wired.restated(binance, lake, both)) == []

    shelf.put(december, f"{line(MS, close='105.5')}\n".encode() + candles(MS + HOUR, 743))
    clock.set(NOW + dt.timedelta(days=1))
    shelf.asked.clear()
    (found,) = wired.restated(binance, lake, both)

    assert (found.file, found.held_sha256) == (ArchiveFile(HOURLY, DECEMBER), before)
    assert found.stated_sha256 == hashlib.sha256(shelf.files[december]).hexdigest()
    assert shelf.asked == [f"{december}.CHECKSUM", f"{january}.CHECKSUM"]
    assert wired.repull(binance, lake, found) == DECEMBER
    assert list(wired.restated(binance, lake, both)) == []
    settle_window(lake, trusted.Candles, {raw.RawBinanceKlines: archive.parse_klines}, DECEMBER)
    first = lake.read(trusted.Candles).row(0, named=True)
    assert (first["close"], first["n_duplicates"]) == (Decimal("105.5"), 1)


def test_a_held_file_that_the_archive_lost_is_not_restated(binance: BinanceArchive, shelf: Shelf, lake: Lake) -> None:
    path = FOLDER.format("monthly", "2024-12")
    shelf.put(path, candles(MS, 744))
    land(lake, raw.RawBinanceKlines, binance.klines(HOURLY, DECEMBER))
    del shelf.files[path]

    assert list(wired.restated(binance, lake, DECEMBER)) == []
