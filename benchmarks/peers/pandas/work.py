"""pandas: ``json_normalize`` and doubles, as most scripts do it; and once more with Decimal objects, to be exact."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from deltalake import write_deltalake

_NAMES = {
    "id": "provider_asset_id",
    "symbol": "symbol",
    "name": "name",
    "rank": "rank",
    "priceUsd": "price_usd",
    "marketCapUsd": "market_cap_usd",
    "supply": "supply",
    "maxSupply": "max_supply",
    "volumeUsd24Hr": "volume_usd_24h",
    "changePercent24Hr": "change_pct_24h",
    "vwap24Hr": "vwap_usd_24h",
    "explorer": "explorer_url",
    "tokens": "tokens",
}
_MONEY = ["price_usd", "market_cap_usd", "supply", "max_supply", "volume_usd_24h", "change_pct_24h", "vwap_usd_24h"]
_CARRIED = ["market_cap_usd", "supply", "volume_usd_24h", "rank"]
_UNIT = Decimal(1).scaleb(-18)


def json_day(data: Path, out: Path) -> Any:
    return _trusted(data, exact=False).to_parquet


def day_end_to_end(data: Path, out: Path, number: str = "double") -> None:
    trusted = _trusted(data, exact=number == "decimal")
    hourly = _hourly(trusted)
    for name, frame in (("asset_snapshots", trusted), ("asset_hourly", hourly), ("asset_daily", _daily(hourly))):
        write_deltalake(str(out / name), _arrow(frame, exact=number == "decimal"), partition_by=["date"])


def _trusted(data: Path, *, exact: bool) -> pd.DataFrame:
    frames = []
    for pull in pd.read_csv(data / "answers.csv").itertuples():
        answer = json.loads((data / "answers" / f"{pull.pull_id}.json").read_bytes())
        frame = pd.json_normalize(answer["data"], max_level=0)
        frame["pull_id"] = pull.pull_id
        frame["observed_at"] = pd.Timestamp(pull.observed_ms, unit="ms", tz="UTC")
        frame["ingested_at"] = pd.Timestamp(pull.ingested_ms, unit="ms", tz="UTC")
        frames.append(frame)
    frame = pd.concat(frames, ignore_index=True).rename(columns=_NAMES)
    for name in _MONEY:
        frame[name] = frame[name].map(_exact).astype(object) if exact else frame[name].astype(float)
    frame["rank"] = frame["rank"].astype("int32")
    frame["tokens"] = frame["tokens"].map(lambda t: json.dumps(t, separators=(",", ":"), ensure_ascii=False))
    frame["updated_at"] = pd.Series(pd.NaT, frame.index, dtype="datetime64[us, UTC]")
    frame["provider"] = "coincap"
    frame["asset_id"] = frame["provider_asset_id"].replace({"ripple": "xrp"})
    frame["date"] = frame["observed_at"].dt.date
    key = ["asset_id", "observed_at"]
    frame = frame.sort_values([*key, "ingested_at", "pull_id"])
    frame["n_duplicates"] = (frame.groupby(key)["pull_id"].transform("size") - 1).astype("int32")
    return frame.drop_duplicates(key, keep="last").reset_index(drop=True)


def _hourly(trusted: pd.DataFrame) -> pd.DataFrame:
    rows = trusted.assign(opened_at=trusted["observed_at"].dt.floor("h"))
    groups = rows.groupby(["provider", "asset_id", "opened_at", "date"], sort=False)
    price = groups["price_usd"]
    hours = groups[[*_CARRIED, "observed_at"]].nth(-1).set_index(pd.MultiIndex.from_frame(_labels(groups)))
    hours = hours.assign(
        open_usd=price.first(),
        high_usd=price.max(),
        low_usd=price.min(),
        close_usd=price.last(),
        n_obs=price.size().astype("int32"),
        mean_usd=price.sum().astype(float) / price.size(),
        available_at=groups["ingested_at"].max(),
    )
    return hours.reset_index()


def _daily(hourly: pd.DataFrame) -> pd.DataFrame:
    rows = hourly.assign(weighed=hourly["mean_usd"] * hourly["n_obs"])
    groups = rows.groupby(["provider", "asset_id", "date"], sort=False)
    days = groups[_CARRIED].nth(-1).set_index(pd.MultiIndex.from_frame(_labels(groups)))
    days = days.assign(
        open_usd=groups["open_usd"].first(),
        high_usd=groups["high_usd"].max(),
        low_usd=groups["low_usd"].min(),
        close_usd=groups["close_usd"].last(),
        n_obs=groups["n_obs"].sum().astype("int32"),
        n_hours=groups.size().astype("int32"),
        mean_usd=groups["weighed"].sum() / groups["n_obs"].sum(),
        available_at=groups["available_at"].max(),
        source_kind="snapshots",
    )
    return days.reset_index()


def _labels(groups: Any) -> pd.DataFrame:
    # `nth` keeps the original index; its rows are the last of each group, in the order of the frame.
    last = groups.tail(1)
    return last[groups.keys]


def _exact(text: str | None) -> Decimal | None:
    if text is None or text != text:  # noqa: PLR0124 - NaN, where a column had no value
        return None
    number = Decimal(text)
    return number if -int(number.as_tuple().exponent) <= 18 else number.quantize(_UNIT)


def _arrow(frame: pd.DataFrame, *, exact: bool) -> pa.Table:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    if not exact:
        return table
    money = [f.with_type(pa.decimal128(38, 18)) if pa.types.is_decimal(f.type) else f for f in table.schema]
    return table.cast(pa.schema(money))
