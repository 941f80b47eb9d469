"""Raw answers of a day to three Delta tables: trusted snapshots, hourly bars, daily bars.

Ours reads its raw Delta table and does what the assets do (settle, conform, replace), without Dagster. Peers read the
same bodies as files. pandas holds doubles; pandas_decimal the same in Decimal objects.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from benchmarks.case import Case, Variant
from benchmarks.cases.common import TABLES, expected_rows, prepared
from benchmarks.checks import Result
from benchmarks.data import DAY
from crypto_assets.analytics import bars
from crypto_assets.providers import coincap
from crypto_assets.resources.lake import Lake
from crypto_assets.tables.conform import conform, settle
from crypto_assets.tables.quality import Quarantine
from crypto_assets.tables.raw import RawCoincapAssets
from crypto_assets.tables.refined import AssetDaily, AssetHourly
from crypto_assets.tables.trusted import AssetHistory, AssetSnapshots
from crypto_assets.tables.window import Window


def land(data: Path, out: Path) -> None:
    Lake(str(out)).append(RawCoincapAssets, pl.read_parquet(data / "raw.parquet"), app="benchmark", version=1)


def ours(data: Path, out: Path) -> None:
    lake, window = Lake(str(out)), Window.of_day(DAY)
    settled = settle(AssetSnapshots, coincap.parse_assets(lake.scan(RawCoincapAssets, window).collect()), window)
    lake.replace(Quarantine, settled.rejected, window, where={"table_name": AssetSnapshots.table.full_name})
    lake.replace(AssetSnapshots, settled.rows, window)
    hours = conform(AssetHourly, bars.hourly(lake.scan(AssetSnapshots, window)).collect())
    lake.replace(AssetHourly, hours, window)
    days = bars.daily(lake.scan(AssetHourly, window), lake.scan(AssetHistory, window))
    lake.replace(AssetDaily, conform(AssetDaily, days.collect()), window)


def _expected(data: Path, variant: Variant) -> Result:
    return {contract: expected_rows(data, contract) for contract in TABLES}


def _read(out: Path, variant: Variant) -> Result:
    found = {contract: next(out.glob(f"**/{contract.table.name}/_delta_log"), None) for contract in TABLES}
    return {contract: pl.read_delta(str(log.parent)) for contract, log in found.items() if log is not None}


CASE = Case(
    name="day_end_to_end",
    title="raw answers of a day -> trusted, hourly and daily Delta tables",
    variants=(
        Variant("ours", f"{__name__}:ours", setup="land"),
        Variant("duckdb_deltalake", "benchmarks.peers.duckdb.work:day_end_to_end", peer="duckdb"),
        Variant("pandas_deltalake", "benchmarks.peers.pandas.work:day_end_to_end", peer="pandas"),
        Variant("pandas_decimal", "benchmarks.peers.pandas.work:day_end_to_end", peer="pandas", arguments=("decimal",)),
        Variant("dlt_upsert", "benchmarks.peers.dlt.work:day_end_to_end", peer="dlt"),
    ),
    prepare=prepared,
    expected=_expected,
    read=_read,
)
