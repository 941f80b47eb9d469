"""What the application does to the lake, for real: run by the application's own Python, under a role.

``writer.py STEP URI`` with the store in ``AWS_*``; prints one line of JSON. An error of ours is its class and words.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import date, timedelta
from typing import Any

import polars as pl
from crypto_assets.errors import CryptoAssetsError
from crypto_assets.resources import inspection, lease
from crypto_assets.resources.clock import SystemClock
from crypto_assets.resources.lake import Lake
from crypto_assets.resources.settings import storage_options
from crypto_assets.stream.group import Group
from crypto_assets.tables import stream
from crypto_assets.tables.quality import GapLedger
from crypto_assets.tables.raw import RawCoincapRates
from crypto_assets.tables.refined import DimExchange
from crypto_assets.tables.trusted import FxRates
from crypto_assets.tables.window import Window
from deltalake import DeltaTable
from tests.rows import NOON, rows_of

DAY = date(2024, 1, 1)


def write(lake: Lake) -> dict[str, Any]:
    """Every way of writing: probe, appends past a checkpoint, a large one, replaces, merges; then reads it all."""
    lake.probe()
    for n in range(21):
        lake.append(RawCoincapRates, rows_of(RawCoincapRates, {"pull_id": f"p{n}"}), app="rates", version=n)
    # Larger than a part of an upload.
    large = rows_of(RawCoincapRates, {"pull_id": "large", "body": os.urandom(12_000_000)})
    lake.append(RawCoincapRates, large, app="rates", version=21)
    for usd in ("1", "2"):
        rates = rows_of(FxRates, {"currency_id": "euro", "rate_usd": usd}).cast({"rate_usd": pl.Decimal(38, 18)})
        lake.replace(FxRates, rates, Window.of_day(DAY))
    for names in (("binance", "kraken"), ("binance",)):
        versions = [
            {"exchange_id": name, "valid_from": NOON, "first_seen_on": DAY, "last_seen_on": DAY} for name in names
        ]
        lake.merge(DimExchange, rows_of(DimExchange, *versions))
    lake.merge(GapLedger, rows_of(GapLedger, {}), delete_missing=False)
    return {
        table.table.full_name: len(lake.read(table)) for table in (RawCoincapRates, FxRates, DimExchange, GapLedger)
    }


def consume(lake: Lake) -> dict[str, Any]:
    """What a consumer of streams does: empty tables, and their positions moved."""
    for table in stream.TABLES:
        lake.advance(table, rows_of(table), expected={"s/0": None}, after={"s/0": 1})
    return {table.table.full_name: lake.landed(table, "s/0") for table in stream.TABLES}


def compact(lake: Lake) -> dict[str, Any]:
    """The maintenance job's work on two tables."""
    return {
        table.table.full_name: lake.maintain(table, closed_before=DAY + timedelta(days=9))
        for table in (RawCoincapRates, FxRates)
    }


def vacuum(lake: Lake) -> dict[str, Any]:
    """Remove, at once, what no version needs: a vacuum by the rules finds nothing before a week is over."""
    table = DeltaTable(lake.uri(RawCoincapRates), storage_options=lake.options)
    gone = table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    return {"vacuumed": len(gone)}


def clean_log(lake: Lake) -> dict[str, Any]:
    """Remove expired commits of the log."""
    table = DeltaTable(lake.uri(RawCoincapRates), storage_options=lake.options)
    table.create_checkpoint()
    table.cleanup_metadata()
    return {}


def files(lake: Lake) -> dict[str, Any]:
    return {"raw": len(inspection.files_of(lake, RawCoincapRates).all())}


def hold(lake: Lake) -> dict[str, Any]:
    """The lease of the schedules: taken and renewed."""
    slot = lease.slot_of(lake.root, lake.options or {})
    us = lease.Holder("0123456789abcdef", "host")
    for _ in range(2):
        held = lease.hold(slot, us, SystemClock(), timedelta(minutes=1))
    return {"counter": held.counter}


def share(lake: Lake) -> dict[str, Any]:
    """A consumer of a broker takes its share of the channels, and leaves."""
    group = Group(lease.slot_of(lake.root, lake.options or {}, "consumers-trades.json"), "host/1", SystemClock())
    shared = group.share(["shard-0", "shard-1"])
    group.leave()
    return {"shared": sorted(shared)}


def read_raw(lake: Lake) -> dict[str, Any]:
    return {"rows": len(lake.read(RawCoincapRates))}


def read_refined(lake: Lake) -> dict[str, Any]:
    return {"rows": len(lake.read(DimExchange))}


STEPS = {
    step.__name__: step
    for step in (write, consume, compact, vacuum, clean_log, files, hold, share, read_raw, read_refined)
}


if __name__ == "__main__":
    try:
        told = STEPS[sys.argv[1]](Lake(sys.argv[2], storage_options=storage_options()))
    except (CryptoAssetsError, OSError) as error:
        told = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(told))
