"""A provider that answers every error with status 200: row 11, from socket to table."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from crypto_assets.assets.lake_asset import settle_window
from crypto_assets.assets.raw.pulls import land
from crypto_assets.errors import CryptoAssetsError, NeedsYouError, TransientError
from crypto_assets.providers import alpha_vantage
from crypto_assets.providers.alpha_vantage import AlphaVantage
from crypto_assets.resources.budget import Budget, BudgetExhausted
from crypto_assets.resources.clock import FixedClock
from crypto_assets.resources.http import Client
from crypto_assets.resources.lake import Lake
from crypto_assets.tables import raw, trusted
from crypto_assets.tables.window import Window
from tests.faults.hostile import Hostile, Script, answer, hostile

NOON = datetime(2026, 10, 1, 12, tzinfo=UTC)
KEY = "CANARY-Key-11aa22bb33"
ROW = {
    "row": 11,
    "fault": "Alpha Vantage Note, Information or Error Message with 200",
    "promise": "by absent data key: per-second waits; per-day stops until reset, no more calls;"
    " a bad symbol is terminal for that symbol",
}
NOTE = "Thank you for using Alpha Vantage! Our standard API call frequency is 5 calls per minute and 500 calls per day."
BURST = (
    "Please consider spreading out your free API requests more sparingly (1 request per second) (25 requests per day)."
)
QUOTA = f"We have detected your API key as {KEY} and our standard API rate limit is 25 requests per day."
PREMIUM = "Thank you for using Alpha Vantage! This is a premium endpoint. You may subscribe to any of the premium plans"


def rate(at: datetime = NOON, code: str = "BTC") -> Script:
    words = {
        "1. From_Currency Code": code,
        "2. From_Currency Name": None,
        "3. To_Currency Code": "USD",
        "4. To_Currency Name": None,
        "5. Exchange Rate": "54367.5",
        "6. Last Refreshed": f"{at:%Y-%m-%d %H:%M:%S}",
        "7. Time Zone": "UTC",
    }
    return told({"Realtime Currency Exchange Rate": words})


def told(body: Any) -> Script:
    return answer(json.dumps(body).encode())


@dataclass
class Line:
    """A hostile Alpha Vantage, a client that asks it, and a lake."""

    server: Hostile
    provider: AlphaVantage
    lake: Lake
    clock: FixedClock
    warnings: list[str]

    def pull(self, pair: str = "BTC/USD") -> int:
        """One rate's pull; how many answers landed, or the error that its asset would fail with."""
        return len(land(self.lake, raw.RawAlphaVantageRates, [self.provider.rate(pair)], self.warnings.append))

    def quotes(self) -> list[str]:
        parsers = {raw.RawAlphaVantageRates: alpha_vantage.parse_rates}
        settle_window(self.lake, trusted.Quotes, parsers, Window.of_days(NOON.date(), NOON.date() + timedelta(days=1)))
        return self.lake.read(trusted.Quotes)["market_id"].to_list()

    def outcomes(self) -> list[str]:
        return self.lake.read(raw.RawAlphaVantageRates).sort("ingested_at")["outcome"].to_list()


@contextmanager
def line(home: Path, *scripts: Script) -> Iterator[Line]:
    clock = FixedClock(NOON)
    with hostile(*scripts) as server:
        source = alpha_vantage.source(server.url, key=KEY)
        budget = Budget(home / "state.sqlite", source.name, source.limits, clock)
        client = Client(source, budget=budget, clock=clock, random=random.Random(7), allow_loopback=True)
        with closing(AlphaVantage(client)) as provider:
            yield Line(server, provider, Lake(str(home / "lake"), clock=clock), clock, [])


@pytest.mark.fault(**ROW)
@pytest.mark.parametrize(
    ("body", "seconds"), [({"Note": NOTE}, 60), ({"Information": BURST}, 2)], ids=["minute", "second"]
)
def test_too_fast_is_waited_for_and_lands_once(tmp_path: Path, body: dict[str, str], seconds: int) -> None:
    with line(tmp_path, told(body), rate()) as on:
        assert on.pull() == 1
        assert timedelta(seconds=seconds) <= on.clock.now() - NOON < timedelta(seconds=seconds + 1)
        assert len(on.server.requests) == 2
        assert on.quotes() == ["alpha_vantage:BTC/USD"]


@pytest.mark.fault(**ROW)
def test_too_fast_for_ever_costs_two_calls_and_is_transient(tmp_path: Path) -> None:
    with line(tmp_path, told({"Note": NOTE})) as on:
        with pytest.raises(TransientError, match="the minute's calls are used up"):
            on.pull()
        assert len(on.server.requests) == 2
        assert (on.outcomes(), on.quotes()) == (["rate_limited"], [])


@pytest.mark.fault(**ROW)
def test_a_used_up_day_is_met_by_one_call_and_by_no_other_until_it_returns(tmp_path: Path) -> None:
    with line(tmp_path, told({"Information": QUOTA})) as on:
        with pytest.raises(NeedsYouError, match="no more calls until 2026-10-02 12:00:00 UTC") as refusal:
            on.pull()
        for hours in (1, 12, 23):
            on.clock.set(NOON + timedelta(hours=hours))
            with pytest.raises(BudgetExhausted, match="2026-10-02 12:00:00 UTC"):
                on.pull("ETH/USD")
        assert len(on.server.requests) == 1
        assert (on.outcomes(), on.quotes()) == (["quota_exhausted"], [])
        (body,) = on.lake.read(raw.RawAlphaVantageRates)["body"]
        assert KEY.encode() not in body
        assert b"API key as [redacted]" in body
        assert KEY not in str(refusal.value)
        assert f"apikey={KEY}".encode() in on.server.requests[0]
        on.clock.set(NOON + timedelta(days=1))
        on.server.answer(rate(NOON + timedelta(days=1)))
        assert on.pull() == 1
        assert on.quotes() == ["alpha_vantage:BTC/USD"]


@pytest.mark.fault(**ROW)
@pytest.mark.parametrize(
    "body",
    [{}, {"Realtime Currency Exchange Rate": {}}, {"Meta Data": {}}, {"Error Message": "Invalid API call."}],
    ids=["nothing", "empty", "only meta", "invalid"],
)
def test_a_bad_symbol_is_terminal_for_that_symbol_alone(tmp_path: Path, body: dict[str, Any]) -> None:
    with line(tmp_path, told(body), rate()) as on:
        on.pull("NOPE/USD")
        assert len(on.server.requests) == 1
        assert len(on.warnings) == 1
        assert "from_currency=NOPE" in on.warnings[0]
        on.clock.sleep(1)
        assert on.pull() == 1
        assert (on.outcomes(), on.quotes()) == (["not_found", "ok"], ["alpha_vantage:BTC/USD"])


@pytest.mark.fault(**ROW)
@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"Error Message": "the parameter apikey is invalid"}, "check ALPHAVANTAGE_API_KEY"),
        ({"Information": "The **demo** API key is for demo purposes only."}, "ALPHAVANTAGE_API_KEY to your own"),
        (
            {"Error Message": "This API function (CURRENCY_EXCHANGE_RATE) does not exist."},
            "no longer has this function",
        ),
    ],
    ids=["key", "demo", "function"],
)
def test_what_only_a_person_can_mend_is_asked_once_and_told(tmp_path: Path, body: dict[str, str], error: str) -> None:
    with line(tmp_path, told(body)) as on:
        with pytest.raises(NeedsYouError, match=error):
            on.pull()
        assert len(on.server.requests) == 1
        assert (on.outcomes(), on.quotes()) == (["denied"], [])


@pytest.mark.fault(**ROW)
def test_a_premium_function_is_given_up_with_a_warning(tmp_path: Path) -> None:
    with line(tmp_path, told({"Information": PREMIUM})) as on:
        day = Window.of_day(NOON.date() - timedelta(days=1))
        pulls = on.provider.series("BTC/USD 5m", day)
        land(on.lake, raw.RawAlphaVantageSeries, pulls, on.warnings.append)
        assert len(on.server.requests) == 1
        assert "premium: the plan does not include this function; skipped" in on.warnings[0]


@pytest.mark.fault(**ROW)
@pytest.mark.parametrize("kind", ["application/x-download", "text/csv", "application/json"])
def test_an_error_is_json_whatever_type_it_says(tmp_path: Path, kind: str) -> None:
    with line(tmp_path, answer(json.dumps({"Information": QUOTA}).encode(), kind=kind)) as on:
        with pytest.raises(CryptoAssetsError, match="quota_exhausted"):
            on.pull()
        assert len(on.server.requests) == 1
