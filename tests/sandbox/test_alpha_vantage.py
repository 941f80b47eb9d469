"""Alpha Vantage as the sandbox speaks it: always 200, its error table, both key styles, the market's truth."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

import httpx
import pytest

from crypto_assets.sandbox import Fault, Market, Sandbox

NOW = datetime(2026, 10, 14, 12, 34, 56, tzinfo=UTC)
THEN = NOW.replace(year=2023)
MARKET = Market(7)
Ask = Callable[..., Any]


@pytest.fixture
def response(sandbox: Sandbox, http: httpx.Client, request: pytest.FixtureRequest) -> Callable[..., httpx.Response]:
    """Asks with a key that is the test's own, so that the day's calls are."""

    def ask(function: str, **params: str) -> httpx.Response:
        told = {"function": function, "apikey": request.node.name, **params}
        answer = http.get(f"{sandbox.url}/alpha_vantage/query", params=told)
        assert answer.status_code == 200
        return answer

    return ask


@pytest.fixture
def ask(response: Callable[..., httpx.Response]) -> Ask:
    return lambda function, **params: response(function, **params).json()


def test_a_rate_is_the_markets_price_now(ask: Ask) -> None:
    told = ask("CURRENCY_EXCHANGE_RATE", from_currency="BTC", to_currency="EUR")["Realtime Currency Exchange Rate"]
    truth = (MARKET.price("bitcoin", NOW) or 0) / (MARKET.price("euro", NOW) or 1)
    assert float(told["5. Exchange Rate"]) == pytest.approx(truth, rel=1e-9)
    assert float(told["8. Bid Price"]) < float(told["5. Exchange Rate"]) < float(told["9. Ask Price"])
    assert [told[name] for name in ("1. From_Currency Code", "2. From_Currency Name", "4. To_Currency Name")] == [
        "BTC",
        "Bitcoin",
        "Euro",
    ]
    assert (told["6. Last Refreshed"], told["7. Time Zone"]) == ("2026-10-14 12:34:56", "UTC")


@pytest.mark.parametrize("spacing", ["Daily", "Weekly", "Monthly"])
def test_series_come_newest_first_as_text_of_eight_decimals(ask: Ask, spacing: str) -> None:
    told = ask(f"DIGITAL_CURRENCY_{spacing.upper()}", symbol="BTC", market="USD")
    points = told[f"Time Series (Digital Currency {spacing})"]
    stamps = list(points)
    assert stamps == sorted(stamps, reverse=True)
    assert stamps[0] == "2026-10-14"
    assert stamps[1] == {"Daily": "2026-10-13", "Weekly": "2026-10-11", "Monthly": "2026-09-30"}[spacing]
    assert list(points[stamps[0]]) == ["1. open", "2. high", "3. low", "4. close", "5. volume"]
    assert all(len(value.partition(".")[2]) == 8 for value in points[stamps[1]].values())
    assert told["Meta Data"]["6. Last Refreshed"] == "2026-10-14 00:00:00"
    # Each closes where the next one opens, and the one in progress at the market's price of now.
    ordered = [points[stamp] for stamp in reversed(stamps)]
    assert all(a["4. close"] == b["1. open"] for a, b in pairwise(ordered))
    assert float(ordered[-1]["4. close"]) == pytest.approx(MARKET.price("bitcoin", NOW), rel=1e-9)


def test_weeks_and_months_are_made_of_the_days(ask: Ask) -> None:
    days = ask("DIGITAL_CURRENCY_DAILY", symbol="ETH", market="USD")["Time Series (Digital Currency Daily)"]
    weeks = ask("DIGITAL_CURRENCY_WEEKLY", symbol="ETH", market="USD")["Time Series (Digital Currency Weekly)"]
    months = ask("DIGITAL_CURRENCY_MONTHLY", symbol="ETH", market="USD")["Time Series (Digital Currency Monthly)"]
    for bucket, first, last in (
        (weeks["2026-10-11"], date(2026, 10, 5), date(2026, 10, 11)),
        (months["2026-09-30"], date(2026, 9, 1), date(2026, 9, 30)),
    ):
        inside = [days[str(first + timedelta(days=n))] for n in range((last - first).days + 1)]
        assert bucket["1. open"] == inside[0]["1. open"]
        assert bucket["2. high"] == max((day["2. high"] for day in inside), key=float)
        assert bucket["3. low"] == min((day["3. low"] for day in inside), key=float)
        assert float(bucket["5. volume"]) == pytest.approx(sum(float(day["5. volume"]) for day in inside), rel=1e-6)


def test_before_2024_the_keys_are_the_old_ones(sandbox: Sandbox, ask: Ask) -> None:
    sandbox.set_now(THEN)
    told = ask("DIGITAL_CURRENCY_DAILY", symbol="BTC", market="CNY")
    assert told["Meta Data"]["6. Last Refreshed"] == "2023-10-14 (end of day)"
    point = told["Time Series (Digital Currency Daily)"]["2023-10-13"]
    assert list(point)[:4] == ["1a. open (CNY)", "1b. open (USD)", "2a. high (CNY)", "2b. high (USD)"]
    assert list(point)[-2:] == ["5. volume", "6. market cap (USD)"]
    assert float(point["1a. open (CNY)"]) > 5 * float(point["1b. open (USD)"])
    twice = ask("DIGITAL_CURRENCY_DAILY", symbol="BTC", market="USD")["Time Series (Digital Currency Daily)"]
    assert twice["2023-10-13"]["1a. open (USD)"] == twice["2023-10-13"]["1b. open (USD)"]
    assert twice["2023-10-13"]["6. market cap (USD)"] == twice["2023-10-13"]["5. volume"]


def test_intraday_is_premium_and_its_volumes_are_whole_numbers(ask: Ask) -> None:
    asked = {"symbol": "ETH", "market": "USD", "interval": "5min"}
    assert "premium endpoint" in ask("CRYPTO_INTRADAY", **asked)["Information"]
    told = ask("CRYPTO_INTRADAY", **asked, apikey="premium-1")
    points = told["Time Series Crypto (5min)"]
    assert len(points) == 100
    assert list(points)[:2] == ["2026-10-14 12:30:00", "2026-10-14 12:25:00"]
    assert all(isinstance(point["5. volume"], int) for point in points.values())
    assert [told["Meta Data"][name] for name in ("7. Interval", "8. Output Size", "9. Time Zone")] == [
        "5min",
        "Compact",
        "UTC",
    ]
    assert (
        len(ask("CRYPTO_INTRADAY", **asked, apikey="premium-1", outputsize="full")["Time Series Crypto (5min)"]) == 1000
    )


def test_what_it_does_not_know_is_an_empty_envelope(ask: Ask) -> None:
    rate = ask("CURRENCY_EXCHANGE_RATE", from_currency="NOPE", to_currency="USD")
    assert rate == {"Realtime Currency Exchange Rate": {}}
    assert list(ask("DIGITAL_CURRENCY_DAILY", symbol="NOPE", market="USD")) == ["Meta Data"]
    assert ask("NOPE") == {"Error Message": "This API function (NOPE) does not exist."}
    assert "demo" in ask("CURRENCY_EXCHANGE_RATE", from_currency="BTC", to_currency="USD", apikey="demo")["Information"]


def test_csv_is_csv_and_its_errors_are_json(sandbox: Sandbox, response: Callable[..., httpx.Response]) -> None:
    asked = {"symbol": "BTC", "market": "USD", "datatype": "csv"}
    answer = response("DIGITAL_CURRENCY_DAILY", **asked)
    assert answer.headers["content-type"] == "application/x-download"
    rows = list(csv.reader(io.StringIO(answer.text)))
    assert rows[0] == ["timestamp", "open", "high", "low", "close", "volume"]
    assert rows[1][0] == "2026-10-14"
    sandbox.set_now(THEN)
    old = next(csv.reader(io.StringIO(response("DIGITAL_CURRENCY_DAILY", **asked).text)))
    assert old[:3] == ["timestamp", "open (USD)", "open (USD)"]
    refusal = response("DIGITAL_CURRENCY_DAILY", **asked, apikey="demo")
    assert refusal.headers["content-type"] == "application/json"
    assert "Information" in refusal.json()


def test_the_26th_call_of_a_day_is_told_so_with_the_key_in_it(
    ask: Ask, sandbox: Sandbox, request: pytest.FixtureRequest
) -> None:
    asked = {"from_currency": "BTC", "to_currency": "USD"}
    for _ in range(25):
        assert "Realtime Currency Exchange Rate" in ask("CURRENCY_EXCHANGE_RATE", **asked)
    refusal = ask("CURRENCY_EXCHANGE_RATE", **asked)["Information"]
    assert f"your API key as {request.node.name} and our standard API rate limit is 25 requests per day" in refusal
    assert "Realtime Currency Exchange Rate" in ask("CURRENCY_EXCHANGE_RATE", **asked, apikey="another")
    assert sandbox.calls()["calls"] == {"alpha_vantage.currency_exchange_rate": 27}


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("rate_limited_minute", "Note"),
        ("quota_429", "Information"),
        ("quota_403", "Information"),
        ("not_found", "Realtime Currency Exchange Rate"),
        ("empty_list", "Realtime Currency Exchange Rate"),
    ],
)
def test_faults_are_told_in_the_providers_words_with_status_200(
    ask: Ask, sandbox: Sandbox, kind: Any, told: str
) -> None:
    sandbox.set_faults([Fault(kind, "alpha_vantage.currency_exchange_rate", times=1)])
    asked = {"from_currency": "BTC", "to_currency": "USD"}
    (name, value), *rest = ask("CURRENCY_EXCHANGE_RATE", **asked).items()
    assert (name, rest, value == {}) == (told, [], told.startswith("Realtime"))
    assert ask("CURRENCY_EXCHANGE_RATE", **asked)["Realtime Currency Exchange Rate"]


def test_a_body_can_be_cut_and_a_page_can_be_html(sandbox: Sandbox, response: Callable[..., httpx.Response]) -> None:
    asked = {"from_currency": "BTC", "to_currency": "USD"}
    sandbox.set_faults([Fault("truncated", "*", times=1), Fault("html", "*", after=1, times=1)])
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        response("CURRENCY_EXCHANGE_RATE", **asked).json()
    assert response("CURRENCY_EXCHANGE_RATE", **asked).headers["content-type"].startswith("text/html")
