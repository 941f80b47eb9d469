"""Raw answers of a day to the exact trusted frame in memory, deduplicated by key; nothing is written.

Ours also applies every rule of the contract, keeps the digits of numbers as sent, and would quarantine bad records:
more than the others do. polars_json takes the answers as strings by a schema; duckdb types them while reading.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from benchmarks import reference
from benchmarks.case import Case, Save, Variant
from benchmarks.cases.common import expected_rows, prepared
from benchmarks.checks import Result
from benchmarks.data import DAY
from crypto_assets.providers import coincap
from crypto_assets.tables.conform import settle
from crypto_assets.tables.contract import polars_schema
from crypto_assets.tables.trusted import AssetSnapshots
from crypto_assets.tables.window import Window


def ours(data: Path, out: Path) -> Save:
    raw = pl.read_parquet(data / "raw.parquet")
    return settle(AssetSnapshots, coincap.parse_assets(raw), Window.of_day(DAY)).rows.write_parquet


def json_decimal(data: Path, out: Path) -> Save:
    rows = reference.trusted(data)
    return pl.DataFrame(rows, schema=polars_schema(AssetSnapshots)).write_parquet


def polars_json(data: Path, out: Path) -> Save:
    """``read_json`` by a schema of strings, then casts. ``tokens`` (an object) cannot be read as text this way: the
    schema reads the body's text of it apart, which no reader of frames offers; its column stays null."""
    names = {ours: theirs for ours, theirs in coincap.ASSET_FIELDS.items() if ours != "tokens"}
    record = pl.Struct({theirs: pl.String() for theirs in names.values()})
    manifest = pl.read_csv(data / "answers.csv")
    frames = []
    for pull_id, observed_ms, ingested_ms in manifest.rows():
        answer = pl.read_json(
            data / "answers" / f"{pull_id}.json", schema={"data": pl.List(record), "timestamp": pl.Int64()}
        )
        frames.append(
            answer.select(pl.col("data").explode())
            .unnest("data")
            .with_columns(
                pull_id=pl.lit(pull_id),
                observed_at=pl.lit(observed_ms).cast(pl.Datetime("ms", "UTC")),
                ingested_at=pl.lit(ingested_ms).cast(pl.Datetime("ms", "UTC")),
            )
        )
    schema = polars_schema(AssetSnapshots)
    frame = (
        pl.concat(frames)
        .rename({theirs: ours for ours, theirs in names.items()})
        .with_columns(
            provider=pl.lit("coincap"),
            asset_id=pl.col("provider_asset_id").replace(coincap.RENAMED_IDS),
            date=pl.col("observed_at").dt.date(),
            tokens=pl.lit(None, pl.String),
            updated_at=pl.lit(None, pl.Datetime("us", "UTC")),
        )
        .with_columns(n_duplicates=pl.len().over("asset_id", "observed_at") - 1)
        .sort("asset_id", "observed_at", "ingested_at", "pull_id")
        .unique(["asset_id", "observed_at"], keep="last", maintain_order=True)
    )
    return frame.select(pl.col(name).cast(dtype) for name, dtype in schema.items()).write_parquet


def _expected(data: Path, variant: Variant) -> Result:
    return {AssetSnapshots: expected_rows(data, AssetSnapshots)}


def _read(out: Path, variant: Variant) -> Result:
    return {AssetSnapshots: pl.read_parquet(out / "result.parquet")}


CASE = Case(
    name="json_day",
    title="raw answers of a day -> exact trusted frame, in memory",
    variants=(
        Variant("ours", f"{__name__}:ours"),
        Variant("json_decimal", f"{__name__}:json_decimal"),
        Variant("polars_json", f"{__name__}:polars_json"),
        Variant("duckdb", "benchmarks.peers.duckdb.work:json_day", peer="duckdb"),
        Variant("pandas", "benchmarks.peers.pandas.work:json_day", peer="pandas"),
    ),
    prepare=prepared,
    expected=_expected,
    read=_read,
)
