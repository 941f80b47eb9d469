"""CoinGecko as the sandbox speaks it: CoinCap's truth under other ids, JSON numbers, limits and bans."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from crypto_assets.sandbox import Fault, Market, Sandbox

NOW = datetime(2026, 10, 14, 12, 34, 56, tzinfo=UTC)
MARKET = Market(7, n_assets=300)
Ask = Callable[..., httpx.Response]


@pytest.fixture
def ask(sandbox: Sandbox, http: httpx.Client) -> Ask:
    return lambda path, **params: http.get(f"{sandbox.url}/coingecko{path}", params=params)


def coins(ask: Ask, **params: Any) -> list[dict[str, Any]]:
    return ask("/coins/markets", vs_currency="usd", **params).json()


def test_coins_agree_with_what_coincap_says_of_the_same_moment(ask: Ask) -> None:
    ids = {"binancecoin": "binance-coin", "ripple": "xrp", "avalanche-2": "avalanche", "bitcoin": "bitcoin"}
    told = {coin["id"]: coin for coin in coins(ask, per_page=250)}
    truth = {row["id"]: row for row in MARKET.assets(NOW)}
    assert not {"binance-coin", "xrp", "avalanche"} & told.keys()
    for theirs, ours in ids.items():
        coin, row = told[theirs], truth[ours]
        assert coin["current_price"] == pytest.approx(float(row["priceUsd"]), rel=1e-5)
        assert coin["market_cap"] == round(Decimal(row["marketCapUsd"]))
        assert coin["circulating_supply"] == float(row["supply"])
        assert (coin["name"], coin["symbol"]) == (row["name"], row["symbol"].lower())


def test_numbers_are_whole_or_not_and_may_be_null(ask: Ask) -> None:
    told = {coin["id"]: coin for coin in coins(ask, per_page=250)}
    assert type(told["bitcoin"]["current_price"]) is int
    assert type(told["shiba-inu"]["current_price"]) is float
    assert (told["bitcoin"]["max_supply"], told["ethereum"]["max_supply"]) == (21e6, None)
    assert {i for i, coin in told.items() if coin["market_cap_rank"] is None} == {"staked-ether", "wrapped-bitcoin"}
    ranks = [coin["market_cap_rank"] for coin in told.values() if coin["market_cap_rank"] is not None]
    assert ranks == list(range(1, 249))


def test_one_coin_is_stale_and_the_others_were_refreshed_within_two_minutes(ask: Ask) -> None:
    ages = {coin["id"]: NOW - datetime.fromisoformat(coin["last_updated"]) for coin in coins(ask, per_page=250)}
    assert ages.pop("filecoin") == timedelta(days=3)
    assert timedelta(0) <= min(ages.values()) < max(ages.values()) <= timedelta(minutes=2)


def test_pages_hold_up_to_250_and_end_with_an_empty_one(ask: Ask) -> None:
    pages = [coins(ask, per_page=250, page=page) for page in (1, 2, 3)]
    assert [len(page) for page in pages] == [250, 50, 0]
    assert len(coins(ask)) == 100
    assert ask("/coins/markets", vs_currency="usd", per_page=251).status_code == 400
    assert ask("/coins/markets", per_page=10).status_code == 422


def test_exchanges_that_do_not_report_have_no_score(ask: Ask) -> None:
    told = ask("/exchanges", per_page=250).json()
    assert [exchange["id"] for exchange in told] == [row["exchangeId"] for row in MARKET.exchanges(NOW)]
    silent = [exchange for exchange in told if exchange["trade_volume_24h_btc"] is None]
    assert len(silent) == 11
    assert {(e["trust_score"], e["trust_score_rank"], e["year_established"], e["country"]) for e in silent} == {
        (None, None, None, None)
    }
    bitcoin, volume = MARKET.price("bitcoin", NOW), float(MARKET.exchanges(NOW)[0]["volumeUsd"])
    assert told[0]["trade_volume_24h_btc"] == pytest.approx(volume / (bitcoin or 1), rel=1e-12)


def test_refusals_are_those_of_the_provider_and_its_cdn(ask: Ask, sandbox: Sandbox) -> None:
    sandbox.set_faults([Fault("rate_limited_minute", "coingecko.markets")])
    limited = ask("/coins/markets", vs_currency="usd")
    assert (limited.status_code, limited.headers["retry-after"]) == (429, "119")
    assert limited.json()["status"]["error_code"] == 429
    sandbox.set_faults([Fault("throttled", "coingecko.markets")])
    throttled = ask("/coins/markets", vs_currency="usd")
    assert (throttled.status_code, throttled.text.strip()) == (429, "Throttled")
    sandbox.set_faults([Fault("ban", "coingecko.markets")])
    banned = ask("/coins/markets", vs_currency="usd")
    assert (banned.status_code, banned.headers["content-type"].partition(";")[0]) == (403, "text/html")
    assert "1020" in banned.text
    assert sandbox.calls()["calls"] == {"coingecko.markets": 3}


@pytest.mark.recorded
@pytest.mark.parametrize(
    ("file", "path"), [("coins__markets.json", "/coins/markets"), ("exchanges.json", "/exchanges")]
)
def test_records_have_the_recorded_fields(ask: Ask, recorded: Path, file: str, path: str) -> None:
    real = json.loads((recorded.parent / "coingecko" / file).read_bytes())[0]
    ours = ask(path, vs_currency="usd").json()[0]
    # Asked for on top: trend lines, and changes over spans.
    extra = {name for name in real if name.endswith("_in_currency") or name == "sparkline_in_7d"}
    assert ours.keys() == real.keys() - extra
