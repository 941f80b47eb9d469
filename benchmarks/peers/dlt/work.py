"""dlt: its merge (strategy upsert) into Delta tables, from typed and deduplicated Arrow tables made by DuckDB.

dlt's first load does not deduplicate inside a batch, so the rows come deduplicated; the typing is DuckDB's for the same
reason: given dicts, dlt is several times slower still.
"""

from __future__ import annotations

import os
from pathlib import Path

import dlt

from benchmarks.peers.duckdb.work import tables

_KEYS = {
    "asset_snapshots": ["asset_id", "provider", "observed_at"],
    "asset_hourly": ["asset_id", "provider", "opened_at"],
    "asset_daily": ["asset_id", "provider", "date"],
}


def day_end_to_end(data: Path, out: Path) -> None:
    os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"
    pipeline = dlt.pipeline(
        "benchmark",
        pipelines_dir=str(out / "state"),
        destination=dlt.destinations.filesystem(bucket_url=str(out / "lake")),
        dataset_name="lake",
    )
    resources = [
        dlt.resource(
            [table],
            name=name,
            primary_key=_KEYS[name],
            write_disposition={"disposition": "merge", "strategy": "upsert"},
            columns={"date": {"partition": True}},
            table_format="delta",
        )
        for name, table in tables(data).items()
    ]
    pipeline.run(resources).raise_on_failed_jobs()
