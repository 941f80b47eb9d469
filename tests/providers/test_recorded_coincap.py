"""Real answers of CoinCap, v2 of 2024-03-29 and v3 of 2025: every digit that was sent is stored."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Mapping, Sequence
from decimal import ROUND_HALF_EVEN, Context, Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from crypto_assets.providers import coincap
from crypto_assets.providers.answers import Pull, field_names, raw_rows
from crypto_assets.resources.http import Answer, Outcome
from crypto_assets.tables import trusted
from crypto_assets.tables.conform import settle
from crypto_assets.tables.contract import MONEY, Contract, fields, polars_schema
from crypto_assets.tables.window import Window

pytestmark = pytest.mark.recorded

LIVE = dt.datetime(2024, 3, 29, 14, 38, 8, 665000, tzinfo=dt.UTC)
HISTORY = Window.of_days(dt.date(2023, 3, 31), dt.date(2024, 3, 28))


def raw(endpoint: str, body: bytes, subject: str | None = None, window: Window | None = None) -> pl.DataFrame:
    """The body as the one answer of a pull, which arrived two minutes after the envelope's time."""
    sent = json.loads(body)
    ms = sent.get("timestamp") if isinstance(sent, dict) else None
    observed_at = LIVE if ms is None else dt.datetime.fromtimestamp(ms / 1000, dt.UTC)
    answer = Answer(
        endpoint=endpoint,
        request=f"GET /{endpoint}",
        status=200,
        outcome=Outcome.OK,
        body=body,
        received_at=observed_at + dt.timedelta(minutes=2),
        detail="",
        attempts=1,
    )
    covered = (observed_at, observed_at) if window is None else (window.start, window.end)
    return raw_rows([Pull("coincap", endpoint, subject, (answer,), True, observed_at, covered, (0,))])


def whole_day(frame: pl.DataFrame) -> Window:
    return Window.of_day(frame["observed_at"].item(0).date())


def assert_equal_to_what_was_sent(
    contract: type[Contract], rows: pl.DataFrame, sent: Sequence[Mapping[str, Any]], names: Mapping[str, str]
) -> None:
    """Every Decimal is the sent text's value: exact, or half-even at 18 digits where the contract rounds."""
    schema = polars_schema(contract)
    rounded = {f.name for f in fields(contract) if f.is_rounded}
    for row, record in zip(rows.to_dicts(), sent, strict=True):
        for column, name in names.items():
            if schema.get(column) != MONEY:
                continue
            value = record.get(name)
            expected = None if value is None else Decimal(str(value))
            if expected is not None and column in rounded:
                # More digits than Python's own context holds.
                expected = expected.quantize(Decimal(1).scaleb(-18), ROUND_HALF_EVEN, Context(prec=60))
            assert row[column] == expected, (column, value)


def test_the_top_100_assets_are_stored_exactly(recorded: Path) -> None:
    body = (recorded / "v2_2024-03" / "v2_assets_top100.json").read_bytes()
    frame = raw("assets", body)
    result = settle(trusted.AssetSnapshots, coincap.parse_assets(frame), whole_day(frame))
    sent = sorted(json.loads(body)["data"], key=lambda record: record["id"])

    assert (len(result.rows), len(result.rejected)) == (100, 0)
    assert result.rows["n_duplicates"].sum() == 0
    assert result.rows["observed_at"].unique().to_list() == [LIVE]
    assert_equal_to_what_was_sent(trusted.AssetSnapshots, result.rows, sent, coincap.ASSET_FIELDS)
    assert result.rows["max_supply"].null_count() == sum(r["maxSupply"] is None for r in sent) == 44
    assert result.rows["explorer_url"].null_count() == sum(r["explorer"] is None for r in sent) == 2
    assert result.rows["rank"].sort().to_list() == list(range(1, 101))
    assert field_names(frame) <= coincap.KNOWN_FIELDS["assets"]


def test_raw_holds_the_answer_byte_by_byte(recorded: Path) -> None:
    body = (recorded / "v2_2024-03" / "v2_assets_top100.json").read_bytes()
    frame = raw("assets", body)

    assert frame["body"].item() == body
    assert frame["sha256"].item() == hashlib.sha256(body).hexdigest()
    assert frame["n_bytes"].item() == len(body)


def test_a_year_of_bitcoin_is_364_days_stored_exactly(recorded: Path) -> None:
    body = (recorded / "v2_2024-03" / "v2_asset_bitcoin_history_d1.json").read_bytes()
    frame = raw("history", body, "bitcoin", HISTORY)
    result = settle(trusted.AssetHistory, coincap.parse_history(frame), HISTORY)
    sent = sorted(json.loads(body)["data"], key=lambda point: point["time"])

    assert (len(result.rows), len(result.rejected)) == (364, 0)
    assert result.rows["observed_at"].dt.epoch("ms").to_list() == [point["time"] for point in sent]
    assert result.rows["date"].to_list() == [dt.date.fromisoformat(point["date"][:10]) for point in sent]
    assert result.rows["date"].to_list() == HISTORY.days
    assert_equal_to_what_was_sent(trusted.AssetHistory, result.rows, sent, coincap.HISTORY_FIELDS)
    assert field_names(frame) == {"priceUsd", "time", "date"}


def test_182_rates_are_stored_exactly(recorded: Path) -> None:
    body = (recorded / "v2_2024-03" / "v2_rates_all.json").read_bytes()
    frame = raw("rates", body)
    result = settle(trusted.FxRates, coincap.parse_rates(frame), whole_day(frame))
    by_id = {record["id"]: record for record in json.loads(body)["data"]}
    sent = [by_id[currency] for currency in result.rows["currency_id"]]

    assert (len(result.rows), len(result.rejected)) == (182, 0)
    assert_equal_to_what_was_sent(trusted.FxRates, result.rows, sent, coincap.RATE_FIELDS)
    assert result.rows["currency_symbol"].to_list() == [record["currencySymbol"] for record in sent]
    assert result.rows["currency_symbol"].null_count() == 53
    assert result.rows["currency_kind"].unique().sort().to_list() == ["crypto", "fiat"]


def test_one_rate_is_an_object_and_one_row(recorded: Path) -> None:
    frame = raw("rates", (recorded / "v2_2024-03" / "v2_rate_russian-ruble.json").read_bytes())
    rows = settle(trusted.FxRates, coincap.parse_rates(frame), whole_day(frame)).rows

    assert rows.select("currency_id", "currency_symbol", "rate_usd").rows() == [
        ("russian-ruble", "₽", Decimal("0.01079999995248"))
    ]


def test_rows_of_v3_padded_to_18_digits_are_stored_exactly(recorded: Path) -> None:
    body = (recorded / "observed_v3" / "v3_assets_top4_rows.json").read_bytes()
    result = settle(trusted.AssetSnapshots, coincap.parse_assets(raw("assets", body)), Window.of_day(LIVE.date()))
    sent = sorted(json.loads(body), key=lambda record: record["id"])

    assert (len(result.rows), len(result.rejected)) == (4, 0)
    assert_equal_to_what_was_sent(trusted.AssetSnapshots, result.rows, sent, coincap.ASSET_FIELDS)
    assert [json.loads(tokens) for tokens in result.rows["tokens"]] == [record["tokens"] for record in sent]


@pytest.mark.parametrize(
    ("file", "ids"),
    [
        ("docs_v2_samples/exchanges_2018-09_id_field.json", ["bleutrade", "okex"]),
        ("docs_v3_samples/exchanges_nulls.json", ["itbit"]),
        ("v2_exchanges_sample.json", ["binance", "crypto"]),
    ],
)
def test_exchanges_of_every_version_are_stored_exactly(recorded: Path, file: str, ids: list[str]) -> None:
    body = (recorded / file).read_bytes()
    frame = raw("exchanges", body)
    result = settle(trusted.ExchangeSnapshots, coincap.parse_exchanges(frame), whole_day(frame))
    sent = sorted(json.loads(body)["data"], key=lambda record: record.get("exchangeId") or record["id"])

    assert (result.rows["exchange_id"].to_list(), len(result.rejected)) == (ids, 0)
    assert_equal_to_what_was_sent(trusted.ExchangeSnapshots, result.rows, sent, coincap.EXCHANGE_FIELDS)
    assert field_names(frame) <= coincap.KNOWN_FIELDS["exchanges"]


def test_markets_of_2018_are_stored_exactly(recorded: Path) -> None:
    body = (recorded / "docs_v2_samples" / "markets_btc_2018-08.json").read_bytes()
    frame = raw("markets", body)
    result = settle(trusted.MarketSnapshots, coincap.parse_markets(frame), whole_day(frame))
    sent = sorted(json.loads(body)["data"], key=lambda record: record["exchangeId"])

    assert result.rows["market_id"].to_list() == ["bitstamp:BTC/USD", "luno:BTC/NGN"]
    assert_equal_to_what_was_sent(trusted.MarketSnapshots, result.rows, sent, coincap.MARKET_FIELDS)
    assert field_names(frame) <= coincap.KNOWN_FIELDS["markets"]


def test_recorded_errors_mean_what_they_say(recorded: Path) -> None:
    errors = [e for e in json.loads((recorded / "errors.json").read_bytes()) if "status" in e]
    meant = {
        (e["status"], coincap.classify(e["status"], {}, json.dumps(e["body"]).encode()).outcome.value) for e in errors
    }

    assert meant == {
        (400, "malformed"),
        (403, "quota_exhausted"),
        (404, "not_found"),
        (429, "rate_limited"),
        (500, "unavailable"),
    }
