"""CoinGecko: what its answers mean, how far it is asked, and what its numbers become."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from crypto_assets.providers import coingecko
from crypto_assets.providers.answers import Pull, field_names, raw_rows
from crypto_assets.providers.coingecko import PROVIDER, CoinGecko, classify
from crypto_assets.resources.clock import FixedClock
from crypto_assets.resources.http import Answer, Outcome
from crypto_assets.sandbox import Fault, Market, Sandbox
from crypto_assets.tables import trusted
from crypto_assets.tables.conform import Settled, settle
from crypto_assets.tables.contract import MONEY, fields
from crypto_assets.tables.window import Window
from tests.loopback import speaking

NOW = dt.datetime(2026, 10, 14, 12, 34, 56, tzinfo=dt.UTC)
MARKET = Market(7, n_assets=300)
JSON = {"content-type": "application/json; charset=utf-8"}
HTML = {"content-type": "text/html; charset=UTF-8"}
LIMITED = b'{"status":{"error_code":429,"error_message":"You\'ve exceeded the Rate Limit. Please visit ..."}}'


@pytest.fixture
def provider(sandbox: Sandbox, tmp_path: Path, clock: FixedClock) -> Iterator[CoinGecko]:
    with speaking(PROVIDER, CoinGecko, sandbox.url, tmp_path, clock) as opened:
        yield opened


def settled(pull: Pull) -> Settled:
    parse = {
        "markets": (trusted.AssetSnapshots, coingecko.parse_markets),
        "exchanges": (trusted.ExchangeScores, coingecko.parse_exchanges),
    }
    contract, parser = parse[pull.endpoint]
    return settle(contract, parser(raw_rows([pull])), Window.of_day(pull.observed_at.date()))


def pulled(body: bytes, endpoint: str = "markets") -> Pull:
    answer = Answer(endpoint, f"GET /{endpoint}", 200, Outcome.OK, body, NOW, "", 1)
    return Pull("coingecko", endpoint, None, (answer,), True, NOW, (NOW, NOW), (0,))


def coin(**changes: str) -> bytes:
    """A coin as JSON, with the changed fields' text exactly as given."""
    plain = {
        "id": '"bitcoin"',
        "symbol": '"btc"',
        "name": '"Bitcoin"',
        "current_price": "77671",
        "market_cap": "1555886872303",
        "market_cap_rank": "1",
        "circulating_supply": "20030493.0",
        "max_supply": "21000000.0",
        "total_volume": "33235034316",
        "price_change_percentage_24h": "-0.95302",
        "last_updated": '"2026-10-14T12:33:00.599Z"',
    }
    return b"{%s}" % ",".join(f'"{name}": {value}' for name, value in {**plain, **changes}.items()).encode()


def coins(*bodies: bytes) -> Settled:
    return settled(pulled(b"[%s]" % b",".join(bodies)))


# ---- what an answer means ----


@pytest.mark.parametrize(
    ("status", "headers", "body", "outcome"),
    [
        (200, JSON, b'[{"id": "bitcoin"}]', "ok"),
        (200, JSON, b"[]", "empty"),
        (200, JSON, b'{"error": "coin not found"}', "malformed"),
        (200, HTML, b"<html>Just a moment...</html>", "malformed"),
        (429, JSON, LIMITED, "rate_limited"),
        (200, JSON, LIMITED, "rate_limited"),
        (429, {"content-type": "text/plain"}, b"Throttled\n", "rate_limited"),
        (200, {"content-type": "text/plain"}, b"Throttled", "rate_limited"),
        (429, HTML, b"<html>error code: 1015</html>", "rate_limited"),
        (403, HTML, b"<!DOCTYPE html><html><h1>Error 1020</h1>Access denied</html>", "denied"),
        (403, {}, b"\n<html>Sorry, you have been blocked</html>", "denied"),
        (429, HTML, b"<html>Access denied. Error 1020</html>", "denied"),
        (401, JSON, b'{"status":{"error_code":10002,"error_message":"API Key Missing."}}', "denied"),
        (401, JSON, b'{"error":{"status":{"error_code":10005,"error_message":"limited to PRO"}}}', "denied"),
        (400, JSON, b'{"timestamp":"t","error_code":10010,"status":{"error_message":"Pro key"}}', "denied"),
        (400, JSON, b'{"timestamp":"t","error_code":10011,"status":{"error_message":"Demo key"}}', "denied"),
        (403, JSON, b'{"status":{"error_code":1020,"error_message":"Access Denied"}}', "denied"),
        (404, JSON, b'{"error":"coin not found"}', "not_found"),
        (422, JSON, b'{"error":"Missing parameter vs_currency"}', "malformed"),
    ],
)
def test_what_an_answer_means(status: int, headers: dict[str, str], body: bytes, outcome: str) -> None:
    assert classify(status, headers, body).outcome == outcome


def test_a_wait_is_the_headers_or_a_minute() -> None:
    assert classify(429, {**JSON, "retry-after": "119"}, LIMITED).retry_after is None
    assert classify(429, {}, b"Throttled").retry_after == 60


def test_a_coin_whose_name_tells_of_errors_is_still_a_coin() -> None:
    assert classify(200, JSON, b'[{"id": "x", "name": "\\"error_code\\":10002 Throttled"}]').outcome == "ok"


# ---- how far it is asked ----


def test_the_pages_are_read_to_a_short_one_and_the_pull_is_of_its_first_answers_time(
    provider: CoinGecko, sandbox: Sandbox
) -> None:
    pull = provider.markets()
    assert (len(pull.answers), pull.is_complete) == (2, True)
    assert (pull.observed_at, pull.window) == (NOW, (NOW, NOW))
    assert pull.answers[0].request == (
        "GET /coingecko/coins/markets?vs_currency=usd&order=market_cap_desc&per_page=250&page=1"
    )
    rows = settled(pull).rows
    assert (len(rows), rows["observed_at"].unique().to_list()) == (300, [NOW])
    assert sandbox.calls()["calls"] == {"coingecko.markets": 2}


def test_no_more_pages_are_asked_for_than_are_wanted(sandbox: Sandbox, tmp_path: Path, clock: FixedClock) -> None:
    with speaking(PROVIDER, CoinGecko, sandbox.url, tmp_path, clock, asked={"coingecko_pages": ["1"]}) as opened:
        pull = opened.markets()
    assert (len(pull.answers), pull.is_complete) == (1, True)


def test_five_calls_a_minute_without_a_key_and_thirty_with_one(
    sandbox: Sandbox, tmp_path: Path, clock: FixedClock
) -> None:
    for key, n_rounds, waited in ((None, 2, 0), (None, 1, 60), ("CG-secret-key", 10, 60)):
        with speaking(PROVIDER, CoinGecko, sandbox.url, tmp_path / str(key), clock, key=key) as opened:
            for _ in range(n_rounds):
                opened.markets()
        assert (clock.now() - NOW).total_seconds() == waited


def test_the_key_is_a_header_and_in_no_request() -> None:
    told = coingecko.source(coingecko.URL, key="CG-secret-key")
    assert told.auth_header is not None
    assert told.auth_header("CG-secret-key") == {"x-cg-demo-api-key": "CG-secret-key"}
    assert (told.auth_params, told.limits) == (None, coingecko.DEMO)
    assert "CG-secret-key" not in repr(told)


def test_a_refused_burst_is_asked_again_after_the_told_wait(
    provider: CoinGecko, sandbox: Sandbox, clock: FixedClock
) -> None:
    sandbox.set_faults([Fault("rate_limited_minute", "coingecko.exchanges", times=1)])
    pull = provider.exchanges()
    assert (pull.is_complete, pull.answers[0].attempts) == (True, 2)
    assert (clock.now() - NOW).total_seconds() == 119


def test_a_throttled_pull_that_stays_so_ends_as_evidence(provider: CoinGecko, sandbox: Sandbox) -> None:
    sandbox.set_faults([Fault("throttled", "coingecko.exchanges")])
    pull = provider.exchanges()
    assert (pull.is_complete, pull.ending.outcome, pull.ending.body) == (False, "rate_limited", b"Throttled\n")


def test_a_ban_is_not_asked_again_by_anything_in_the_run(provider: CoinGecko, sandbox: Sandbox) -> None:
    sandbox.set_faults([Fault("ban", "*")])
    first, second = provider.markets(), provider.exchanges()
    assert [(p.is_complete, p.ending.outcome, p.ending.attempts) for p in (first, second)] == [
        (False, "denied", 1),
        (False, "denied", 0),
    ]
    assert b"1020" in first.ending.body
    assert "not asked" in second.ending.detail
    assert (second.ending.endpoint, second.ending.request) == ("exchanges", "GET /exchanges")
    assert sandbox.calls()["calls"] == {"coingecko.markets": 1}


@pytest.mark.parametrize("fault", ["truncated", "html", "empty_list"])
def test_a_first_page_that_is_none_is_no_pull(provider: CoinGecko, sandbox: Sandbox, fault: Any) -> None:
    sandbox.set_faults([Fault(fault, "coingecko.markets")])
    assert not provider.markets().is_complete


# ---- what its numbers become ----


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        ("77671", "77671"),
        ("0.3", "0.3"),
        ("1e-7", "0.0000001"),
        ("3.3e-10", "0.00000000033"),
        ("2.477E-05", "0.00002477"),
        ("1.2e+5", "120000"),
        ("0.123456789012345678", "0.123456789012345678"),
        ("0.10000000000000000000000", "0.1"),
    ],
)
def test_a_price_is_stored_as_it_was_sent(sent: str, stored: str) -> None:
    row = coins(coin(current_price=sent, market_cap="null")).rows.row(0, named=True)
    assert row["price_usd"] == Decimal(stored)


@pytest.mark.parametrize("sent", ["4e-19", "1.23456e-14", "0.1234567890123456789"])
def test_a_price_finer_than_is_stored_is_refused_and_not_rounded(sent: str) -> None:
    result = coins(coin(current_price=sent, market_cap="null"))
    assert (len(result.rows), result.rejected["reasons"].to_list()) == (0, ["precision:price_usd"])


def test_a_volume_is_a_printed_double_and_rounded() -> None:
    row = coins(coin(total_volume="0.012345678901234567")).rows.row(0, named=True)
    assert row["volume_usd_24h"] == Decimal("0.012345678901234567")
    row = coins(coin(total_volume="0.0012345678901234567")).rows.row(0, named=True)
    assert abs(row["volume_usd_24h"] - Decimal("0.0012345678901234567")) <= Decimal("5e-19")


def test_every_number_but_the_price_may_be_null() -> None:
    numbers = ("market_cap_rank", "market_cap", "circulating_supply", "max_supply", "total_volume")
    nulls = dict.fromkeys((*numbers, "price_change_percentage_24h", "last_updated"), "null")
    row = coins(coin(**nulls)).rows.row(0, named=True)
    unknown = ("rank", "market_cap_usd", "supply", "max_supply", "volume_usd_24h", "change_pct_24h", "updated_at")
    assert [row[name] for name in unknown] == [None] * 7
    refused = coins(coin(), coin(id='"nameless"', current_price="null"))
    assert refused.rows["asset_id"].to_list() == ["bitcoin"]
    assert refused.rejected["reasons"].to_list() == ["price_usd|nullability"]


def test_ids_are_ours_tickers_upper_case_and_collisions_two_assets() -> None:
    told = [("binancecoin", "bnb"), ("ripple", "xrp"), ("avalanche-2", "avax"), ("usd-coin", "usdc"), ("batcat", "btc")]
    rows = coins(*(coin(id=f'"{i}"', symbol=f'"{s}"') for i, s in told), coin()).rows
    assert rows.select("asset_id", "provider_asset_id", "symbol").rows() == [
        ("avalanche", "avalanche-2", "AVAX"),
        ("batcat", "batcat", "BTC"),
        ("binance-coin", "binancecoin", "BNB"),
        ("bitcoin", "bitcoin", "BTC"),
        ("usd-coin", "usd-coin", "USDC"),
        ("xrp", "ripple", "XRP"),
    ]


def test_a_coin_that_bears_another_ones_id_of_ours_is_not_merged_into_it() -> None:
    rows = coins(coin(id='"ripple"'), coin(id='"xrp"', name='"An impostor"')).rows
    assert rows.select("asset_id", "provider_asset_id", "n_duplicates").rows() == [
        ("coingecko-xrp", "xrp", 0),
        ("xrp", "ripple", 0),
    ]
    assert len(set(coingecko.ASSET_IDS.values())) == len(coingecko.ASSET_IDS)


def test_a_stale_coin_is_a_row_of_the_pull_that_says_how_old_it_is() -> None:
    row = coins(coin(last_updated='"2026-10-11T00:00:00.000Z"')).rows.row(0, named=True)
    assert (row["observed_at"], row["updated_at"]) == (NOW, dt.datetime(2026, 10, 11, tzinfo=dt.UTC))
    refused = coins(coin(last_updated='"a while ago"')).rejected
    assert refused["reasons"].to_list() == ["cast:updated_at"]


def test_a_renamed_field_is_named() -> None:
    body = b"[%s]" % coin().replace(b"current_price", b"price")
    (note,) = coingecko.parse_markets(raw_rows([pulled(body)])).drifted.values()
    assert note == "the field current_price is missing from all 1 records; the new name may be price"


def test_exchanges_have_scores_and_volumes_in_bitcoin(provider: CoinGecko) -> None:
    result = settled(provider.exchanges())
    assert (len(result.rows), len(result.rejected)) == (35, 0)
    first = result.rows.sort("trust_score_rank", nulls_last=True).row(0, named=True)
    assert (first["exchange_id"], first["trust_score"]) == ("binance", 10)
    assert result.rows["trust_score"].null_count() == result.rows["volume_btc_24h"].null_count() == 11


@pytest.mark.recorded
@pytest.mark.parametrize(
    ("file", "endpoint", "names"),
    [
        ("coins__markets.json", "markets", coingecko.ASSET_FIELDS),
        ("exchanges.json", "exchanges", coingecko.EXCHANGE_FIELDS),
    ],
)
def test_recorded_answers_are_stored_digit_by_digit(
    recorded: Path, file: str, endpoint: str, names: dict[str, str]
) -> None:
    body = (recorded.parent / "coingecko" / file).read_bytes()
    pull = pulled(body, endpoint)
    result = settled(pull)
    assert len(result.rejected) == 0
    contract = trusted.AssetSnapshots if endpoint == "markets" else trusted.ExchangeScores
    money = [f.name for f in fields(contract) if f.dtype == MONEY and f.name in names]
    sent = {record["id"]: record for record in json.loads(body, parse_float=Decimal, parse_int=Decimal)}
    for row in result.rows.to_dicts():
        record = sent[row.get("provider_asset_id") or row["exchange_id"]]
        assert {name: row[name] for name in money} == {name: record[names[name]] for name in money}
    assert len(result.rows) == len(sent)
    assert field_names(raw_rows([pull])) <= coingecko.KNOWN_FIELDS[endpoint]


def test_columns_that_it_never_states_are_null(provider: CoinGecko) -> None:
    rows = settled(provider.markets()).rows
    assert rows.select(pl.col("vwap_usd_24h", "explorer_url", "tokens").null_count()).row(0) == (300, 300, 300)
