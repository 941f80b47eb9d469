"""A month of one-minute candles of some markets to a table, as exact as they were sent.

Ours reads the archive's zip files and does what the assets do: checksums, the raw table with the files as received, the
contract's rules, quarantine, one replace a month. ``ours_trusted`` begins at the raw rows: its bytes are the table's
alone, to compare with ``ours_defaults``, the same rows written by deltalake with its own defaults. ccxt parses the
venue's answers (the same candles, a thousand a page, as files: nobody waits for a network here) into pandas and a
parquet file a market. Its candles have six columns, ours twenty; only the six are compared.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
import zipfile
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
from deltalake import write_deltalake

from benchmarks.case import Case, Variant
from benchmarks.checks import Result
from benchmarks.data import CACHE, Size
from crypto_assets.providers.answers import Pull, raw_rows
from crypto_assets.providers.binance_archive import NAME, ArchiveFile, parse_klines
from crypto_assets.resources.http import Answer, Outcome
from crypto_assets.resources.lake import Lake
from crypto_assets.sandbox import Market, binance, binance_archive, tape
from crypto_assets.sandbox.events import Events
from crypto_assets.tables.conform import Settled, settle, sort
from crypto_assets.tables.contract import polars_schema
from crypto_assets.tables.quality import Quarantine
from crypto_assets.tables.raw import RawBinanceKlines
from crypto_assets.tables.trusted import Candles
from crypto_assets.tables.window import Window

_BASES = ("BTC", "ETH", "BNB", "SOL", "XRP", "DOGE", "ADA", "TRX", "AVAX", "SHIB")
_N_MARKETS = {"S": 1, "M": 4, "L": 10}
# The last month in milliseconds: the archive's lines are then the venue's answers, digit by digit.
_MONTH = Window.of_days(date(2024, 12, 1), date(2024, 12, 31))
_ARRIVED = datetime(2025, 1, 8, tzinfo=UTC)
_PAGE = 1000
_COMMON = ("venue", "market_id", "interval", "opened_at", "open", "high", "low", "close", "volume_base")
_MONEY = {1: "open", 2: "high", 3: "low", 4: "close", 5: "volume_base"}
_MORE = {7: "volume_quote", 9: "taker_buy_base", 10: "taker_buy_quote"}


def prepare(size: Size) -> Path:
    """``zips/`` with checksums, ``rest/`` with the same candles as pages of JSON, and both as rows."""
    told = f"{size.name} {_N_MARKETS.get(size.name, 1)} 7".encode()
    for module in (tape, binance, binance_archive):
        told += Path(str(module.__file__)).read_bytes()
    told += Path(__file__).read_bytes()
    home = CACHE / "data" / f"candles-{size.name}-{hashlib.sha256(told).hexdigest()[:16]}"
    if home.exists():
        return home
    making = home.with_suffix(".making")
    shutil.rmtree(making, ignore_errors=True)
    for folder in ("zips", "rest"):
        (making / folder).mkdir(parents=True)
    pulls, expected = [], []
    market = Market(7)
    for base in _BASES[: _N_MARKETS.get(size.name, 1)]:
        text = _archive_lines(market, base)
        file = ArchiveFile(f"binance:{base}/USDT 1m", _MONTH)
        body = _zipped(f"{file.name}.csv", text)
        (making / "zips" / f"{file.name}.zip").write_bytes(body)
        stated = f"{hashlib.sha256(body).hexdigest()}  {file.name}.zip\n".encode()
        (making / "zips" / f"{file.name}.zip.CHECKSUM").write_bytes(stated)
        records = list(csv.reader(io.StringIO(text.decode())))
        for number, first in enumerate(range(0, len(records), _PAGE)):
            page = [_answered(record) for record in records[first : first + _PAGE]]
            (making / "rest" / f"{base}USDT-{number:04}.json").write_text(json.dumps(page, separators=(",", ":")))
        pulls.append(_pull(file, stated, body))
        expected += [_row(record, base) for record in records]
    raw_rows(pulls).write_parquet(making / "raw.parquet", compression_level=1)
    schema = {name: dtype for name, dtype in polars_schema(Candles).items() if name in expected[0]}
    pl.DataFrame(expected, schema=schema).write_parquet(making / "expected.parquet")
    making.rename(home)
    return home


def ours(data: Path, out: Path) -> None:
    lake = Lake(str(out))
    for path in sorted((data / "zips").glob("*.zip")):
        body, stated = path.read_bytes(), path.with_name(f"{path.name}.CHECKSUM").read_bytes()
        assert hashlib.sha256(body).hexdigest() == stated.decode().split()[0]
        base = path.name.partition("USDT")[0]
        pull = _pull(ArchiveFile(f"binance:{base}/USDT 1m", _MONTH), stated, body)
        lake.append(RawBinanceKlines, raw_rows([pull]), app=path.name, version=1)
    _publish(lake, _settled(lake.scan(RawBinanceKlines, _MONTH).collect()))


def ours_trusted(data: Path, out: Path) -> None:
    _publish(Lake(str(out)), _settled(pl.read_parquet(data / "raw.parquet")))


def ours_defaults(data: Path, out: Path) -> None:
    rows = _settled(pl.read_parquet(data / "raw.parquet")).rows
    write_deltalake(str(out / "trusted" / "candles"), rows, partition_by=["month"])


def _settled(raw: pl.DataFrame) -> Settled:
    return settle(Candles, parse_klines(raw), _MONTH)


def _publish(lake: Lake, settled: Settled) -> None:
    lake.replace(Quarantine, settled.rejected, _MONTH, where={"table_name": Candles.table.full_name})
    lake.replace(Candles, settled.rows, _MONTH)


def _archive_lines(market: Market, base: str) -> bytes:
    made = tape.tape_of(market, Events()).candles(
        f"binance:{base}/USDT", "1m", _MONTH.start, _MONTH.end, is_filled=True
    )
    rows = binance.kline_rows(made, "1m", 1000)
    return "".join(",".join(map(str, row)) + "\n" for row in rows).encode()


def _zipped(name: str, text: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr(name, text)
    return buffer.getvalue()


def _pull(file: ArchiveFile, stated: bytes, body: bytes) -> Pull:
    answers = tuple(
        Answer(file.kind, f"GET {file.path}{ending}", 200, Outcome.OK, content, _ARRIVED, "", 1)
        for ending, content in ((".CHECKSUM", stated), ("", body))
    )
    return Pull(NAME, file.kind, file.subject, answers, True, _ARRIVED, (_MONTH.start, _MONTH.end), (0, 0))


def _answered(record: list[str]) -> list[Any]:
    """A line as the venue's interface answers it: times and counts are numbers, the rest is text."""
    return [int(text) if at in (0, 6, 8) else text for at, text in enumerate(record)]


def _row(record: list[str], base: str) -> dict[str, Any]:
    opened_at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=int(record[0]))
    return {
        "venue": "binance",
        "market_id": f"binance:{base}/USDT",
        "interval": "1m",
        "opened_at": opened_at,
        "n_trades": int(record[8]),
        **{name: Decimal(record[at]) for at, name in {**_MONEY, **_MORE}.items()},
    }


def _expected(data: Path, variant: Variant) -> Result:
    rows = pl.read_parquet(data / "expected.parquet")
    return {Candles: rows.select(_COMMON) if variant.peer else rows}


def _read(out: Path, variant: Variant) -> Result:
    if variant.peer:
        frames = [pl.read_parquet(path) for path in sorted(out.glob("*.parquet"))]
        return {Candles: pl.concat(frames)} if frames else {}
    return {Candles: sort(Candles, pl.read_delta(str(out / "trusted" / "candles")))}


CASE = Case(
    name="candle_ingest",
    title="a month of 1m candles (44,640 a market; S 1, M 4, L 10 markets) -> exact table",
    variants=(
        Variant("ours", f"{__name__}:ours"),
        Variant("ours_trusted", f"{__name__}:ours_trusted"),
        Variant("ours_defaults", f"{__name__}:ours_defaults"),
        Variant("ccxt_pandas", "benchmarks.peers.ccxt.work:candle_ingest", peer="ccxt"),
        Variant("ccxt_pandas_decimal", "benchmarks.peers.ccxt.work:candle_ingest", peer="ccxt", arguments=("decimal",)),
    ),
    prepare=prepare,
    expected=_expected,
    read=_read,
)
