"""Readers that are too big for the lock, run by the interpreter that ``READERS_PYTHON`` names.

``python foreign.py sail|chdb FOLDER...`` prints one JSON object: the digest of every table's rows by its folder. It
imports nothing of the project.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from canonical import digest  # type: ignore[import-not-found]

Rows = Iterable[Mapping[str, Any]]


def sail() -> Callable[[str], Rows]:
    """Sail's own implementation of Delta, through Spark Connect."""
    from pysail.spark import SparkConnectServer
    from pyspark.sql import SparkSession

    server = SparkConnectServer("127.0.0.1", 0)
    server.start(background=True)
    _, port = server.listening_address
    spark = SparkSession.builder.remote(f"sc://127.0.0.1:{port}").getOrCreate()
    spark.conf.set("spark.sql.session.timeZone", "UTC")

    def read(folder: str) -> Rows:
        # The server ends when nobody holds it any more, and its clients then wait for ever.
        assert server.running
        rows: Rows = spark.read.format("delta").load(folder).toArrow().to_pylist()
        return rows

    return read


def chdb() -> Callable[[str], Rows]:
    """ClickHouse's reader, on delta-kernel-rs. Its String is bytes: which columns are text is asked of the log."""
    import chdb as clickhouse
    import pyarrow as pa

    def read(folder: str) -> Rows:
        quoted = folder.replace("\\", "\\\\").replace("'", "\\'")
        answer = clickhouse.query(
            f"SELECT * FROM deltaLakeLocal('{quoted}') SETTINGS output_format_arrow_string_as_string = 0", "Arrow"
        )
        is_text = {name for name, kind in _types(folder).items() if kind == "string"}
        for row in pa.ipc.open_file(pa.BufferReader(answer.bytes())).read_all().to_pylist():
            yield {n: v.decode() if n in is_text and isinstance(v, bytes) else v for n, v in row.items()}

    return read


def _types(folder: str) -> dict[str, str]:
    first = (Path(folder) / "_delta_log" / f"{0:020}.json").read_text(encoding="utf-8")
    (told,) = [json.loads(line)["metaData"] for line in first.splitlines() if '"metaData"' in line]
    return {field["name"]: field["type"] for field in json.loads(told["schemaString"])["fields"]}


if __name__ == "__main__":
    rows_of = {"sail": sail, "chdb": chdb}[sys.argv[1]]()
    print(json.dumps({folder: digest(rows_of(folder)) for folder in sys.argv[2:]}), flush=True)
    # Sail's server would keep the interpreter from ending.
    os._exit(0)
