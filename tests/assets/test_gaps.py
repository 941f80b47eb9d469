"""The gap ledger over tables in a lake: which times are looked at, and what counts as missing there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from crypto_assets.assets.quality.gaps import CANDLES, find_gaps, unseen_days
from crypto_assets.resources.lake import Lake
from crypto_assets.tables import raw, trusted
from crypto_assets.tables.contract import polars_schema
from crypto_assets.tables.quality import GapLedger, Quarantine
from crypto_assets.tables.window import Window

RowsOf = Callable[..., pl.DataFrame]

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
NOW = datetime(2025, 2, 20, tzinfo=UTC)


def at(day: int, hour: int = 0, minute: int = 0) -> datetime:
    return datetime(2025, 2, day, hour, minute, tzinfo=UTC)


def spine(start: datetime, end: datetime, every: timedelta) -> Iterator[datetime]:
    while start < end:
        yield start
        start += every


def candles(market_id: str, interval: str, *opened: datetime) -> pl.DataFrame:
    """Candles that hold nothing but their key, as they would be in the table."""
    venue, _, symbols = market_id.partition(":")
    base, _, quote = symbols.partition("/")
    schema = polars_schema(trusted.Candles)
    plain = dict.fromkeys(schema) | {
        **{"venue": venue, "market_id": market_id, "interval": interval, "base_symbol": base, "quote_symbol": quote},
        **{"provider": "test", "pull_id": "test", "ingested_at": NOW, "n_duplicates": 0},
        **dict.fromkeys(("open", "high", "low", "close", "volume_base"), 1),
    }
    rows = [plain | {"opened_at": t, "date": t.date(), "month": t.date().replace(day=1)} for t in opened]
    return pl.DataFrame(rows, schema=schema)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def hold(lake: Lake, *frames: pl.DataFrame) -> None:
    lake.replace(trusted.Candles, pl.concat(frames), Window(at(1), at(28)))


@pytest.mark.parametrize("first", [3, 4])
def test_a_day_on_which_nobody_ran_is_missing_whichever_days_are_looked_at(lake: Lake, first: int) -> None:
    market = "kraken:BTC/USD"
    hold(
        lake,
        candles(market, "1h", *spine(at(3), at(4), HOUR), *spine(at(5), at(6), HOUR)),
        # Asked for once, by hand, and not since: nothing of it is due.
        candles("okx:BTC/USDT", "1h", *spine(at(2), at(3), HOUR)),
    )
    found = find_gaps(lake, CANDLES, Window(at(first), at(5)), NOW)
    told = found.select("key", "gap_start_at", "gap_end_at", "n_missing", "cause", "state").rows()
    assert told == [(f"{market} 1h", at(4), at(5), 24, "our_downtime", "open")]


def test_series_that_come_whole_have_no_spine(lake: Lake) -> None:
    """No venue can be asked for Alpha Vantage's candles: such a repair only failed, and with it those beside it."""
    hold(lake, candles("alpha_vantage:BTC/USD", "1d", at(3), at(5)))
    assert find_gaps(lake, CANDLES, Window(at(3), at(7)), NOW).is_empty()


# As one expression of thousands of alternatives it was minutes.
@pytest.mark.timeout(60)
def test_thousands_of_known_gaps_are_followed(lake: Lake) -> None:
    hold(lake, candles("kraken:BTC/USD", "1m", *spine(at(3), at(7), 2 * MINUTE)))
    window = Window(at(3), at(7))
    known = find_gaps(lake, CANDLES, window, NOW)
    assert (len(known), known["n_missing"].unique().to_list()) == (2880, [1])
    lake.merge(GapLedger, known, delete_missing=False)
    assert find_gaps(lake, CANDLES, window, NOW).is_empty()


def answered(lake: Lake, rows_of: RowsOf, market: str, day: int, pull_id: str) -> None:
    """A complete answer of the venue for a day."""
    told = {"pull_id": pull_id, "subject": f"{market} 1h", "outcome": "ok", "n_pages": 1, "ingested_at": NOW}
    told |= {"window_start_at": at(day), "window_end_at": at(day + 1), "date": at(day).date()}
    lake.append(raw.RawExchangeCandles, rows_of(raw.RawExchangeCandles, told), app=pull_id, version=1)


@pytest.mark.parametrize("market", ["kraken:BTC/USD", "coinbase:BTC/USD"])
def test_candles_that_were_stated_and_refused_are_no_quiet_time(lake: Lake, rows_of: RowsOf, market: str) -> None:
    hold(lake, candles(market, "1h", *(t for t in spine(at(3), at(4), HOUR) if t.hour not in (5, 6))))
    answered(lake, rows_of, market, 3, "p")
    refused = [
        {"table_name": "trusted.candles", "pull_id": "p", "position": h, "observed_at": at(3, h)} for h in (5, 6)
    ]
    frame = rows_of(Quarantine, *({**row, "date": at(3).date()} for row in refused))
    lake.replace(Quarantine, frame, Window.of_day(at(3).date()), where={"table_name": "trusted.candles"})
    (told,) = find_gaps(lake, CANDLES, Window(at(3), at(4)), NOW).to_dicts()
    assert (told["gap_start_at"], told["gap_end_at"], told["cause"]) == (at(3, 5), at(3, 7), "provider_error")
    assert told["detail"] == "2 records of it are in quarantine"


@pytest.mark.parametrize(("venue", "n_gaps"), [("coinbase", 0), ("kraken", 1), ("okx", 1)])
def test_only_a_venue_that_is_known_to_omit_quiet_times_is_believed_to(
    lake: Lake, rows_of: RowsOf, venue: str, n_gaps: int
) -> None:
    market = f"{venue}:BTC/USD"
    hold(lake, candles(market, "1h", *(t for t in spine(at(3), at(4), HOUR) if t.hour != 5)))
    answered(lake, rows_of, market, 3, "p")
    assert len(find_gaps(lake, CANDLES, Window(at(3), at(4)), NOW)) == n_gaps


def test_days_that_no_run_has_looked_at_are_known_until_one_has(lake: Lake) -> None:
    market = "kraken:BTC/USD"
    hold(lake, candles(market, "1h", *spine(at(3), at(5), HOUR), *spine(at(17), at(19), HOUR)))
    days = [at(day).date() for day in range(5, 17)]
    assert unseen_days(lake, CANDLES, NOW) == days
    found = find_gaps(lake, CANDLES, Window.of_days(days[0], days[-1]), NOW)
    assert found.select("gap_start_at", "gap_end_at", "cause").rows() == [(at(5), at(17), "our_downtime")]
    lake.merge(GapLedger, found, delete_missing=False)
    assert unseen_days(lake, CANDLES, NOW) == []
