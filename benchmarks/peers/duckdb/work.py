"""DuckDB: ``read_json`` with typed columns, SQL, and ``write_deltalake`` of Arrow. Exact throughout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
from deltalake import write_deltalake

# The provider sends numbers as strings, which DuckDB reads into a DECIMAL exactly. Statistics of more than 18 digits
# are rounded by the type. Text first and a cast after would do the same more slowly.
_RECORD = """STRUCT(id VARCHAR, symbol VARCHAR, name VARCHAR, rank INTEGER, "priceUsd" DECIMAL(38,18),
"marketCapUsd" DECIMAL(38,18), supply DECIMAL(38,18), "maxSupply" DECIMAL(38,18), "volumeUsd24Hr" DECIMAL(38,18),
"changePercent24Hr" DECIMAL(38,18), "vwap24Hr" DECIMAL(38,18), explorer VARCHAR, tokens JSON)[]"""

_TRUSTED = """
WITH pulls AS (
  SELECT pull_id, make_timestamptz(observed_ms * 1000) AS observed_at, make_timestamptz(ingested_ms * 1000) AS
    ingested_at FROM read_csv(?)
), records AS (
  SELECT parse_filename(filename, true) AS pull_id, unnest(data, recursive := true)
  FROM read_json(?, columns = {{data: '{record}', timestamp: 'BIGINT'}}, filename = true)
)
SELECT 'coincap' AS provider, observed_at, ingested_at, pull_id,
  (count(*) OVER (PARTITION BY id, observed_at) - 1)::INTEGER AS n_duplicates,
  (observed_at AT TIME ZONE 'UTC')::DATE AS date,
  CASE id WHEN 'ripple' THEN 'xrp' ELSE id END AS asset_id, id AS provider_asset_id, symbol, name, rank,
  "priceUsd" AS price_usd, "marketCapUsd" AS market_cap_usd, supply, "maxSupply" AS max_supply,
  "volumeUsd24Hr" AS volume_usd_24h, "changePercent24Hr" AS change_pct_24h, "vwap24Hr" AS vwap_usd_24h,
  explorer AS explorer_url, tokens::VARCHAR AS tokens, NULL::TIMESTAMPTZ AS updated_at
FROM records JOIN pulls USING (pull_id)
QUALIFY row_number() OVER (PARTITION BY id, observed_at ORDER BY ingested_at DESC, pull_id DESC) = 1
ORDER BY asset_id, observed_at
"""

_CARRIED = ("market_cap_usd", "supply", "volume_usd_24h", "rank")
_HOURLY = f"""
SELECT provider, asset_id, date_trunc('hour', observed_at) AS opened_at, arg_min(price_usd, observed_at) AS open_usd,
  max(price_usd) AS high_usd, min(price_usd) AS low_usd, arg_max(price_usd, observed_at) AS close_usd,
  sum(price_usd)::DOUBLE / count(*) AS mean_usd, count(*)::INTEGER AS n_obs,
  {", ".join(f"last({c} ORDER BY observed_at) AS {c}" for c in _CARRIED)},
  max(observed_at) AS observed_at, max(ingested_at) AS available_at, any_value(date) AS date
FROM trusted GROUP BY ALL ORDER BY asset_id, opened_at
"""
_DAILY = f"""
SELECT provider, asset_id, date, 'snapshots' AS source_kind, arg_min(open_usd, opened_at) AS open_usd,
  max(high_usd) AS high_usd, min(low_usd) AS low_usd, arg_max(close_usd, opened_at) AS close_usd,
  sum(mean_usd * n_obs) / sum(n_obs) AS mean_usd, sum(n_obs)::INTEGER AS n_obs, count(*)::INTEGER AS n_hours,
  {", ".join(f"last({c} ORDER BY opened_at) AS {c}" for c in _CARRIED)}, max(available_at) AS available_at
FROM hourly GROUP BY ALL ORDER BY asset_id
"""


def tables(data: Path) -> dict[str, Any]:
    """The three tables as Arrow, by name."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    files = str(data / "answers" / "*.json")
    made = {"asset_snapshots": _arrow(connection, _TRUSTED.format(record=_RECORD), str(data / "answers.csv"), files)}
    connection.register("trusted", made["asset_snapshots"])
    made["asset_hourly"] = _arrow(connection, _HOURLY)
    connection.register("hourly", made["asset_hourly"])
    made["asset_daily"] = _arrow(connection, _DAILY)
    return made


def json_day(data: Path, out: Path) -> Any:
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    files = str(data / "answers" / "*.json")
    table = _arrow(connection, _TRUSTED.format(record=_RECORD), str(data / "answers.csv"), files)
    return lambda path: pq.write_table(table, path)


def day_end_to_end(data: Path, out: Path) -> None:
    for name, table in tables(data).items():
        write_deltalake(str(out / name), table, partition_by=["date"])


def _arrow(connection: Any, sql: str, *parameters: str) -> Any:
    return connection.sql(sql, params=list(parameters)).to_arrow_table()
