"""Cases for checks: raw answers as they land, the trusted rows that they make, and one check's verdict on them."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl

from crypto_assets.checks.rules import rules_of
from crypto_assets.checks.verdicts import Case, Verdict
from crypto_assets.providers import coincap
from crypto_assets.resources.lake import Lake
from crypto_assets.tables import quality, raw, trusted
from crypto_assets.tables.conform import settle
from crypto_assets.tables.contract import Contract
from crypto_assets.tables.window import Window
from tests.rows import rows_of

FIRST, SECOND, THIRD = date(2024, 1, 1), date(2024, 1, 2), date(2024, 1, 3)
LATER = datetime(2024, 2, 1, tzinfo=UTC)
PARSERS = {
    trusted.AssetSnapshots: coincap.parse_assets,
    trusted.ExchangeSnapshots: coincap.parse_exchanges,
    trusted.MarketSnapshots: coincap.parse_markets,
    trusted.FxRates: coincap.parse_rates,
    trusted.AssetHistory: coincap.parse_history,
}


def noon(day: date, hour: int = 12) -> datetime:
    return datetime(day.year, day.month, day.day, hour, tzinfo=UTC)


def ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def asset(asset_id: str = "bitcoin", **changes: Any) -> dict[str, Any]:
    """An asset as CoinCap sends it: 43,000 USD times 20 million units."""
    plain = {
        "id": asset_id,
        "symbol": asset_id[:3].upper(),
        "name": asset_id.title(),
        "rank": "1",
        "priceUsd": "43000.123456789012345678",
        "marketCapUsd": "860002469135.780246913560000000",
        "supply": "20000000.0000000000000000",
        "maxSupply": None,
        "changePercent24Hr": "1.23456789012345678901234",
    }
    return {**plain, **changes}


def body_of(told: Any) -> bytes:
    return told if isinstance(told, bytes) else json.dumps(told).encode()


def answer(
    told: Any, observed_at: datetime, *, pull: str | None = None, page: int = 0, **changes: Any
) -> dict[str, Any]:
    """A raw row of a good answer; ``told`` is the body, or the envelope's data where it is a list."""
    body = body_of({"data": told, "timestamp": ms(observed_at)} if isinstance(told, list) else told)
    return {
        "pull_id": pull or f"pull-{observed_at:%d-%H}",
        "page": page,
        "provider": "coincap",
        "endpoint": "assets",
        "outcome": "ok",
        "n_pages": 1,
        "window_start_at": observed_at,
        "window_end_at": observed_at,
        "observed_at": observed_at,
        "ingested_at": observed_at + timedelta(seconds=1),
        "body": body,
        "sha256": hashlib.sha256(body).hexdigest(),
        "date": observed_at.date(),
        **changes,
    }


def history(points: list[Any], first: date, last: date, subject: str = "bitcoin", **changes: Any) -> dict[str, Any]:
    """A raw row of a history answer that was asked for ``first`` to ``last``."""
    window = Window.of_days(first, last)
    facts = {"endpoint": "history", "subject": subject, "window_start_at": window.start, "window_end_at": window.end}
    told = answer(points, LATER, pull=f"history-{subject}-{first}")
    return {**told, **facts, "date": first, **changes}


def point(day: date, price: str = "43000.5", **changes: Any) -> dict[str, Any]:
    return {"priceUsd": price, "time": ms(noon(day, 0)), "date": f"{day}T00:00:00.000Z", **changes}


def land(lake: Lake, source: type[raw.RawAnswers], *answers: dict[str, Any]) -> None:
    held = len(lake.read(source))
    lake.append(source, rows_of(source, *answers), app="test", version=held + 1)


def settled(lake: Lake, contract: type[Contract], window: Window) -> pl.DataFrame:
    """The trusted rows of the window's answers, quarantine written, as the asset does."""
    parsed = PARSERS[contract](lake.scan(trusted.RAW_OF[contract][0], window).collect())
    told = settle(contract, parsed, window)
    lake.replace(quality.Quarantine, told.rejected, window, where={"table_name": contract.table.full_name})
    lake.replace(contract, told.rows, window)
    return told.rows


def verdict(
    name: str,
    lake: Lake,
    contract: type[Contract],
    rows: pl.DataFrame,
    *,
    first: date = FIRST,
    last: date | None = None,
    now: datetime = LATER,
) -> Verdict:
    """What the table's check of that name says of the rows."""
    check = next(check for check in rules_of(contract) if check.name == name)
    (told,) = check.judge(Case(lake, contract, Window.of_days(first, last or first), rows, now))
    assert (told.check, told.severity) == (name, check.severity)
    return told


def failing(told: Verdict) -> list[dict[str, Any]]:
    """The sample of failing rows."""
    return json.loads(told.failing_rows) if told.failing_rows else []
