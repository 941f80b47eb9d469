"""A local AWS as its command serves it, how its Athena is asked, and a small awkward table."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl

DATABASE = "crypto_refined"
WORKGROUP = "crypto_assets"
AT = dt.datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=dt.UTC)
ROWS = pl.DataFrame(
    {
        "asset_id": ["bitcoin", "ethereum", 'a"b,c'],
        "price": [Decimal("69703.123456789012345678"), Decimal("0.1"), None],
        "volume": [1e10, 0.0001, None],
        "trades": [1, -5, None],
        "at": [AT, AT + dt.timedelta(hours=1), None],
        "is_listed": [True, False, None],
        "tags": [["x", "y"], [], None],
        "venue": [{"id": 1, "name": "kraken"}, {"id": None, "name": ""}, {"id": 2, "name": "b"}],
        "hash": [b"\x01\xff", b"", None],
        "note": ["", "two\nlines", None],
        "date": [dt.date(2026, 1, 1), dt.date(2026, 1, 1), dt.date(2026, 1, 2)],
    },
    schema_overrides={"price": pl.Decimal(38, 18)},
)


@dataclass(frozen=True)
class Aws:
    """A local AWS and how its Athena is asked."""

    url: str
    options: Mapping[str, str]

    def client(self, service: str) -> Any:
        return _client(service, self.url)

    def start(self, sql: str, **more: Any) -> str:
        told = {"QueryExecutionContext": {"Database": DATABASE}, "WorkGroup": WORKGROUP, **more}
        return str(self.client("athena").start_query_execution(QueryString=sql, **told)["QueryExecutionId"])

    def execution(self, query_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.client("athena").get_query_execution(QueryExecutionId=query_id)["QueryExecution"]
        return found

    def ended(self, query_id: str) -> dict[str, Any]:
        for _ in range(600):
            found = self.execution(query_id)
            if found["Status"]["State"] in {"SUCCEEDED", "FAILED", "CANCELLED"}:
                return found
            time.sleep(0.05)
        raise AssertionError(f"{found['Status']} after 30 s")

    def run(self, sql: str, **more: Any) -> dict[str, Any]:
        return self.ended(self.start(sql, **more))

    def rows(self, sql: str, **more: Any) -> list[list[str | None]]:
        """The rows of an answer, without the header."""
        done = self.run(sql, **more)
        assert done["Status"]["State"] == "SUCCEEDED", done["Status"]
        found = self.client("athena").get_query_results(QueryExecutionId=done["QueryExecutionId"])["ResultSet"]["Rows"]
        return [[value.get("VarCharValue") for value in row["Data"]] for row in found][done["StatementType"] == "DML" :]

    def object(self, address: str) -> bytes:
        bucket, _, key = address.removeprefix("s3://").partition("/")
        content: bytes = self.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
        return content

    def faults(self, **told: Any) -> None:
        request = urllib.request.Request(  # noqa: S310 - loopback
            f"{self.url}/_athena/faults", json.dumps(told).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            assert answer.status == 200


@cache
def _client(service: str, url: str) -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client(
        service,
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="local",
        aws_secret_access_key="local",
        config=Config(retries={"total_max_attempts": 3, "mode": "standard"}),
    )


@contextmanager
def running(*arguments: str, environment: Mapping[str, str] = {}) -> Iterator[Aws]:
    """``crypto-assets athena`` in a process of its own: writers of this process hold Python's lock while they wait."""
    command = [str(Path(sys.executable).with_name("crypto-assets")), "athena", "--port", "0", *arguments]
    told = {**os.environ, **environment, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=told) as process:
        assert process.stdout is not None
        try:
            lines = []
            for line in process.stdout:
                lines.append(line)
                if line.startswith("Ctrl-C"):
                    break
            url = re.search(r"http://127\.0\.0\.1:\d+", "".join(lines[:1]))
            assert url, lines
            options = {
                "AWS_ENDPOINT_URL": url.group(),
                "AWS_ALLOW_HTTP": "true",
                "AWS_REGION": "us-east-1",
                "AWS_ACCESS_KEY_ID": "local",
                "AWS_SECRET_ACCESS_KEY": "local",
            }
            yield Aws(url.group(), options)
        finally:
            process.terminate()
            assert process.wait(20) == 0
