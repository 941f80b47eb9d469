"""The right answer, made the slow and plain way: ``json``, ``Decimal`` and dicts, no library of frames.

Every variant's result is compared with this, and it is the obvious exact way itself (``json_day.json_decimal``).
Nothing of ``crypto_assets`` computes here, so that a mistake of ours cannot be its own measure.
"""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

Row = dict[str, Any]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNIT = Decimal(1).scaleb(-18)
_MONEY = {
    "price_usd": "priceUsd",
    "market_cap_usd": "marketCapUsd",
    "supply": "supply",
    "max_supply": "maxSupply",
    "volume_usd_24h": "volumeUsd24Hr",
    "change_pct_24h": "changePercent24Hr",
    "vwap_usd_24h": "vwap24Hr",
}
_CARRIED = ("market_cap_usd", "supply", "volume_usd_24h", "rank")


def trusted(data: Path) -> list[Row]:
    """Rows of ``trusted.asset_snapshots`` from the answers of a data set: the newest arrival of each key."""
    with (data / "answers.csv").open() as file:
        pulls = sorted(csv.DictReader(file), key=lambda pull: (int(pull["ingested_ms"]), pull["pull_id"]))
    rows: dict[tuple[str, datetime], Row] = {}
    for pull in pulls:
        answer = json.loads((data / "answers" / f"{pull['pull_id']}.json").read_bytes())
        observed_at, ingested_at = _at(int(pull["observed_ms"])), _at(int(pull["ingested_ms"]))
        for record in answer["data"]:
            key = (record["id"], observed_at)
            rows[key] = {
                "provider": "coincap",
                "observed_at": observed_at,
                "ingested_at": ingested_at,
                "pull_id": pull["pull_id"],
                "n_duplicates": rows[key]["n_duplicates"] + 1 if key in rows else 0,
                "date": observed_at.date(),
                "asset_id": {"ripple": "xrp"}.get(record["id"], record["id"]),
                "provider_asset_id": record["id"],
                "symbol": record["symbol"],
                "name": record["name"],
                "rank": int(record["rank"]),
                **{ours: _exact(record[theirs]) for ours, theirs in _MONEY.items()},
                "explorer_url": record["explorer"],
                "tokens": json.dumps(record["tokens"], separators=(",", ":"), ensure_ascii=False),
                "updated_at": None,
            }
    return [rows[key] for key in sorted(rows)]


def hourly(snapshots: list[Row]) -> list[Row]:
    """Rows of ``refined.asset_hourly``."""
    groups: dict[tuple[str, datetime], list[Row]] = {}
    for row in sorted(snapshots, key=lambda r: r["observed_at"]):
        opened_at = row["observed_at"].replace(minute=0, second=0, microsecond=0)
        groups.setdefault((row["asset_id"], opened_at), []).append(row)
    return [
        {
            "provider": "coincap",
            "asset_id": asset_id,
            "opened_at": opened_at,
            "open_usd": rows[0]["price_usd"],
            "high_usd": max(r["price_usd"] for r in rows),
            "low_usd": min(r["price_usd"] for r in rows),
            "close_usd": rows[-1]["price_usd"],
            "mean_usd": float(sum(r["price_usd"] for r in rows) / len(rows)),
            "n_obs": len(rows),
            "observed_at": rows[-1]["observed_at"],
            "available_at": max(r["ingested_at"] for r in rows),
            "date": opened_at.date(),
            **{name: rows[-1][name] for name in _CARRIED},
        }
        for (asset_id, opened_at), rows in groups.items()
    ]


def daily(hours: list[Row]) -> list[Row]:
    """Rows of ``refined.asset_daily`` (no stated history)."""
    groups: dict[tuple[str, Any], list[Row]] = {}
    for row in sorted(hours, key=lambda r: r["opened_at"]):
        groups.setdefault((row["asset_id"], row["date"]), []).append(row)
    days = []
    for (asset_id, day), rows in groups.items():
        n_obs = sum(r["n_obs"] for r in rows)
        days.append(
            {
                "provider": "coincap",
                "asset_id": asset_id,
                "date": day,
                "source_kind": "snapshots",
                "open_usd": rows[0]["open_usd"],
                "high_usd": max(r["high_usd"] for r in rows),
                "low_usd": min(r["low_usd"] for r in rows),
                "close_usd": rows[-1]["close_usd"],
                "mean_usd": sum(r["mean_usd"] * r["n_obs"] for r in rows) / n_obs,
                "n_obs": n_obs,
                "n_hours": len(rows),
                "available_at": max(r["available_at"] for r in rows),
                **{name: rows[-1][name] for name in _CARRIED},
            }
        )
    return days


def _at(milliseconds: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=milliseconds)


def _exact(text: str | None) -> Decimal | None:
    if text is None:
        return None
    number = Decimal(text)
    # Statistics are printed doubles of more digits than are stored.
    return number if -int(number.as_tuple().exponent) <= 18 else number.quantize(_UNIT)
