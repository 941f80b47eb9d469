"""What the cases work on: answers of a simulated CoinCap, made from a seed, kept under ``.cache/``.

A data set is a directory named by a hash of everything that decides its content, so that it is never stale:

* ``raw.parquet``: rows of ``raw.coincap_assets``, bodies as received. Our code starts here.
* ``answers/<pull_id>.json`` and ``answers.csv`` (pull_id, observed_ms, ingested_ms): the same bodies as files, and
  when they were answered and when they arrived (ms since the epoch). Peers that read files start here.

Two pulls are answered twice, the second time a little later: rows whose key repeats, of which the newest arrival
counts. No record breaks a rule: peers have no quarantine, and the work must be the same.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from crypto_assets.providers.answers import Pull, raw_rows
from crypto_assets.resources.http import Answer, Outcome
from crypto_assets.sandbox import Market, catalogue, digits, market, noise

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "benchmarks"
DAY = date(2026, 10, 1)
_SEED = 7
# One market has names for little more than this; a larger listing is several markets with marked ids.
_MARKET_ASSETS = 1000


@dataclass(frozen=True)
class Size:
    """So many pulls, five minutes apart from midnight, of so many assets each."""

    name: str
    n_pulls: int
    n_assets: int


SIZES = {"S": Size("S", 24, 250), "M": Size("M", 72, 2000), "L": Size("L", 288, 2000)}


def content_key(size: Size) -> str:
    """Sixteen hex digits of the size, the seed and the code that makes the data."""
    told = json.dumps([asdict(size), _SEED, str(DAY)]).encode()
    for module in (catalogue, digits, market, noise):
        told += Path(str(module.__file__)).read_bytes()
    return hashlib.sha256(told + Path(__file__).read_bytes()).hexdigest()[:16]


def answers(size: Size, cache: Path = CACHE) -> Path:
    """The directory of a data set, made where it is not there yet."""
    home = cache / "data" / f"{size.name}-{content_key(size)}"
    if home.exists():
        return home
    making = home.with_suffix(".making")
    shutil.rmtree(making, ignore_errors=True)
    (making / "answers").mkdir(parents=True)
    pulls = _pulls(size)
    raw_rows(pulls).write_parquet(making / "raw.parquet", compression_level=1)
    lines = ["pull_id,observed_ms,ingested_ms"]
    for pull in pulls:
        (making / "answers" / f"{pull.pull_id}.json").write_bytes(pull.answers[0].body)
        lines.append(f"{pull.pull_id},{_ms(pull.observed_at)},{_ms(pull.answers[0].received_at)}")
    (making / "answers.csv").write_text("\n".join(lines) + "\n")
    making.rename(home)
    return home


def _pulls(size: Size) -> list[Pull]:
    n_markets = -(-size.n_assets // _MARKET_ASSETS)
    markets = [Market(_SEED + n, n_assets=min(size.n_assets, _MARKET_ASSETS)) for n in range(n_markets)]
    midnight = datetime(DAY.year, DAY.month, DAY.day, tzinfo=UTC)
    pulls = []
    for number in range(size.n_pulls):
        at = midnight + timedelta(minutes=5 * number)
        records: list[dict[str, Any]] = []
        for n, source in enumerate(markets):
            for record in source.assets(at):
                rank = str(int(record["rank"]) + n * _MARKET_ASSETS)
                records.append({**record, "id": record["id"] + (f"-{n}" if n else ""), "rank": rank})
        body = json.dumps({"data": records, "timestamp": _ms(at)}, separators=(",", ":"), ensure_ascii=False).encode()
        pulls.append(_pull(body, at, "GET /v3/assets", at + timedelta(seconds=2)))
        if number in (size.n_pulls // 3, 2 * size.n_pulls // 3):
            pulls.append(_pull(body, at, "GET /v3/assets?limit=2000", at + timedelta(seconds=20)))
    return pulls


def _pull(body: bytes, at: datetime, request: str, arrived: datetime) -> Pull:
    answer = Answer("assets", request, 200, Outcome.OK, body, arrived, "", 1)
    return Pull("coincap", "assets", None, (answer,), True, at, (at, at), (1,))


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
