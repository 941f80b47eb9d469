"""CoinCap: what its answers mean, how its pages are read to the end, and what its records become."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto_assets.errors import UsageError
from crypto_assets.providers import coincap
from crypto_assets.providers.answers import Pull, field_names, raw_rows
from crypto_assets.providers.coincap import CoinCap, Plan, classify, credits_of
from crypto_assets.resources.http import Answer, Outcome
from crypto_assets.tables import trusted
from crypto_assets.tables.conform import Settled, settle
from crypto_assets.tables.contract import polars_schema
from crypto_assets.tables.raw import RawAnswers
from crypto_assets.tables.window import Window

JSON = {"content-type": "application/json; charset=utf-8"}
MS = 1711713600123
STAMP = dt.datetime(2024, 3, 29, 12, 0, 0, 123000, tzinfo=dt.UTC)
ARRIVED = dt.datetime(2024, 3, 29, 12, 0, 2, 345678, tzinfo=dt.UTC)
TODAY = Window.of_day(dt.date(2024, 3, 29))
V2 = coincap.source("http://127.0.0.1:1/v2", key=None, plan=Plan())
V3 = coincap.source("https://rest.coincap.io/v3", key="k" * 32, plan=Plan())


def body(data: Any, stamp: int | None = MS) -> bytes:
    return json.dumps({"data": data} if stamp is None else {"data": data, "timestamp": stamp}).encode()


def answer(sent: bytes, outcome: Outcome = Outcome.OK, status: int | None = 200, request: str = "GET /x") -> Answer:
    return Answer(
        endpoint="x",
        request=request,
        status=status,
        outcome=outcome,
        body=sent,
        received_at=ARRIVED,
        detail="",
        attempts=1,
    )


# ---- what an answer means ----


@pytest.mark.parametrize(
    ("status", "sent", "outcome"),
    [
        (200, b'{"data": [{"id": "bitcoin"}], "timestamp": 1}', Outcome.OK),
        (200, b'{"data": {"id": "bitcoin"}, "timestamp": 1}', Outcome.OK),
        (200, b'[{"id": "bitcoin"}]', Outcome.OK),
        (200, b'{"data": [], "timestamp": 1}', Outcome.EMPTY),
        (200, b"[]", Outcome.EMPTY),
        (200, b'{"data": [{"id": "bit', Outcome.MALFORMED),
        (200, b'{"data": [{"id": "bitcoin"}]', Outcome.MALFORMED),
        (200, b'{"data": null}', Outcome.MALFORMED),
        (200, b'{"error": "Internal server error"}', Outcome.MALFORMED),
        (200, b'{"data": [], "timestamp": "now"}', Outcome.MALFORMED),
        (200, b'"hello"', Outcome.MALFORMED),
        (200, b"", Outcome.MALFORMED),
        (400, b'{"error":"Invalid query parameters"}', Outcome.MALFORMED),
        (401, b'{"error":"Unauthorized"}', Outcome.DENIED),
        (402, b"{}", Outcome.DENIED),
        (403, b'{"error":"Forbidden"}', Outcome.DENIED),
        (403, b'{"error":"Forbidden: Monthly usage limit exceeded"}', Outcome.QUOTA_EXHAUSTED),
        (404, b'{"error":"bitcoin not found","timestamp":1726081674735}', Outcome.NOT_FOUND),
        (404, b'{"error":"Asset history not found"}', Outcome.NOT_FOUND),
        (410, b"Gone", Outcome.DENIED),
        (429, b'{"error":"Too many requests: per minute limit exceeded"}', Outcome.RATE_LIMITED),
        (429, b'{"error":"Monthly usage limit exceeded"}', Outcome.QUOTA_EXHAUSTED),
        (429, b"", Outcome.QUOTA_EXHAUSTED),
        (500, b'{"error":"Internal server error"}', Outcome.UNAVAILABLE),
        (502, b"<html>Bad gateway</html>", Outcome.UNAVAILABLE),
        (599, b"", Outcome.UNAVAILABLE),
    ],
)
def test_an_answer_of_v3_means(status: int, sent: bytes, outcome: Outcome) -> None:
    assert classify(status, JSON, sent).outcome is outcome


def test_html_with_status_200_is_malformed_and_says_what_came() -> None:
    verdict = classify(200, {"Content-Type": "text/html; charset=utf-8"}, b"<!doctype html><title>Welcome</title>")

    assert (verdict.outcome, verdict.detail) == (Outcome.MALFORMED, "an answer of type text/html where JSON was due")


def test_json_without_a_content_type_is_not_trusted() -> None:
    assert classify(200, {}, b'{"data": []}').detail == "an answer of type none where JSON was due"


def test_the_minute_limit_is_worth_a_retry_after_a_minute_and_the_quota_is_not() -> None:
    assert classify(429, JSON, b"per minute limit exceeded").retry_after == 60
    assert classify(429, JSON, b"daily limit exceeded").retry_after is None


@pytest.mark.parametrize("sent", [b"", b"You exceeded your 200 requests", b'{"error":"Monthly usage limit exceeded"}'])
def test_a_429_of_v2_is_always_the_minute_limit(sent: bytes) -> None:
    verdict = V2.classify(429, JSON, sent)

    assert (verdict.outcome, verdict.retry_after) == (Outcome.RATE_LIMITED, 60)


def test_v2_reads_everything_else_as_v3_does() -> None:
    assert V2.classify(404, JSON, b"").outcome is Outcome.NOT_FOUND
    assert V2.classify(200, JSON, b'{"data": [1]}').outcome is Outcome.OK


@pytest.mark.parametrize(("n_bytes", "price"), [(0, 1), (1, 2), (2500, 2), (2501, 3), (250_000, 101)])
def test_an_answer_costs_a_credit_and_one_for_every_2500_bytes_begun(n_bytes: int, price: int) -> None:
    assert credits_of(n_bytes) == price
    assert (V2.credits(n_bytes), V3.credits(n_bytes)) == (0, price)


def test_a_source_knows_the_limits_of_its_version_and_sends_its_key_in_a_header() -> None:
    assert [(limit.amount, limit.seconds, limit.unit) for limit in V2.limits] == [(200, 60, "calls")]
    assert [(limit.amount, limit.unit) for limit in V3.limits] == [(5, "calls"), (500, "credits")]
    assert V3.auth_header is not None
    assert V3.auth_header("abc") == {"Authorization": "Bearer abc"}
    assert "kkkk" not in repr(V3)


# ---- pages ----


@dataclass
class Provider:
    """Stands in for the HTTP client: gives the answers in turn, the last one again and again, and notes the calls."""

    answers: Sequence[Answer]
    calls: list[tuple[str, Mapping[str, str | int]]] = field(default_factory=list)

    def get(self, endpoint: str, path: str, params: Mapping[str, str | int], *, estimate: int = 1) -> Answer:
        self.calls.append((path, dict(params)))
        given = self.answers[min(len(self.calls), len(self.answers)) - 1]
        return replace(given, endpoint=endpoint, request=f"GET {path} {sorted(params.items())}")

    def coincap(self, source: Any = V2) -> CoinCap:
        return CoinCap(self, source)  # type: ignore[arg-type]


def page(first: int, n: int) -> Answer:
    return answer(body([{"id": f"asset-{i}"} for i in range(first, first + n)]))


NONE_LEFT = answer(body([]), Outcome.EMPTY)
DOWN = answer(b"", Outcome.UNAVAILABLE, 503)


def test_pages_are_read_until_a_short_one() -> None:
    provider = Provider([page(0, 2000), page(2000, 2000), page(4000, 17)])
    pull = provider.coincap().assets()

    assert [call[1] for call in provider.calls] == [{"limit": 2000, "offset": o} for o in (0, 2000, 4000)]
    assert (pull.is_complete, len(pull.answers)) == (True, 3)
    assert raw_rows([pull])["n_pages"].to_list() == [3, 3, 3]


def test_pages_are_read_until_an_empty_one_which_is_kept() -> None:
    pull = Provider([page(0, 2000), NONE_LEFT]).coincap().exchanges()

    assert (pull.is_complete, [a.outcome for a in pull.answers]) == (True, [Outcome.OK, Outcome.EMPTY])


def test_a_short_page_of_a_round_length_may_be_the_providers_own_cap_and_is_asked_beyond() -> None:
    provider = Provider([page(0, 100), page(100, 100), page(200, 3)])
    pull = provider.coincap().assets()

    assert [call[1]["offset"] for call in provider.calls] == [0, 100, 200]
    assert (pull.is_complete, len(pull.answers)) == (True, 3)


def test_a_provider_that_ignores_the_offset_has_one_page() -> None:
    provider = Provider([page(0, 100)])
    pull = provider.coincap().markets()

    assert len(provider.calls) == 2
    assert (pull.is_complete, len(pull.answers)) == (True, 1)


def test_page_3_of_5_failing_leaves_an_incomplete_pull_whose_pages_are_evidence() -> None:
    provider = Provider([page(0, 2000), page(2000, 2000), DOWN, page(6000, 2000), page(8000, 1)])
    pull = provider.coincap().assets()
    rows = raw_rows([pull])

    assert len(provider.calls) == 3
    assert (pull.is_complete, pull.ending.outcome) == (False, Outcome.UNAVAILABLE)
    assert rows["outcome"].to_list() == ["ok", "ok", "unavailable"]
    assert rows["n_pages"].to_list() == [None, None, None]
    assert len(coincap.parse_assets(rows).frame) == 0


def test_a_first_page_without_rows_is_no_complete_pull() -> None:
    pull = Provider([NONE_LEFT]).coincap().assets()

    assert (pull.is_complete, pull.ending.outcome) == (False, Outcome.EMPTY)


def test_endless_pages_end_as_an_incomplete_pull() -> None:
    provider = Provider([page(i, 10) for i in range(0, 2000, 10)])
    pull = provider.coincap().assets()

    assert (len(provider.calls), pull.is_complete) == (coincap.MAX_PAGES, False)


def test_rates_are_one_call_without_pages() -> None:
    provider = Provider([page(0, 2000)])

    assert provider.coincap().rates().is_complete
    assert provider.calls == [("/rates", {})]


def test_every_answered_page_has_its_price_and_an_unanswered_call_none() -> None:
    pull = Provider([page(0, 2000), replace(DOWN, status=None)]).coincap(V3).assets()

    assert pull.credits == (credits_of(len(pull.answers[0].body)), 0)


# ---- history ----


def test_history_is_asked_in_spans_of_360_days_that_share_no_millisecond() -> None:
    provider = Provider([answer(body([{"priceUsd": "1", "time": MS}]))])
    window = Window.of_days(dt.date(2022, 1, 1), dt.date(2023, 12, 31))
    pulls = list(provider.coincap().history("bitcoin", window))

    assert [call[0] for call in provider.calls] == ["/assets/bitcoin/history"] * 3
    assert [call[1] for call in provider.calls] == [
        {"interval": "d1", "start": 1640995200000, "end": 1672099199999},
        {"interval": "d1", "start": 1672099200000, "end": 1703203199999},
        {"interval": "d1", "start": 1703203200000, "end": 1704067199999},
    ]
    assert pulls[0].window[0] == window.start
    assert pulls[-1].window[1] == window.end
    assert all(p.is_complete and p.subject == "bitcoin" for p in pulls)


def test_history_of_360_days_is_one_call_and_of_one_day_more_two() -> None:
    first = dt.date(2023, 1, 1)
    for n_days, n_calls in ((360, 1), (361, 2)):
        provider = Provider([NONE_LEFT])
        pulls = list(
            provider.coincap().history("bitcoin", Window.of_days(first, first + dt.timedelta(days=n_days - 1)))
        )

        assert len(provider.calls) == n_calls
        assert all(p.is_complete for p in pulls), "no prices in a span is an answer too"


def test_an_unknown_asset_ends_its_own_pull_only() -> None:
    provider = Provider([answer(b'{"error":"Asset history not found"}', Outcome.NOT_FOUND, 404)])
    (pull,) = provider.coincap().history("gamecredits", TODAY)

    assert (pull.is_complete, pull.ending.outcome, pull.subject) == (False, Outcome.NOT_FOUND, "gamecredits")


@pytest.mark.parametrize(
    "asset_id",
    [
        "../assets",
        "a/b",
        "a%2fb",
        "a\\b",
        "bitcoin?x=1",
        "bitcoin#",
        "",
        " ",
        "bitcoin\n",
        "-x",
        ".",
        "Bitcoin",
        "bïtcoin",
        "比特币",
        "a" * 100,
    ],
    ids=repr,
)
@pytest.mark.fault(row=102, fault="ids and names that are paths or predicates", promise="a plain value or a refusal")
def test_an_id_that_could_change_a_path_is_refused_before_any_call(asset_id: str) -> None:
    provider = Provider([NONE_LEFT])

    with pytest.raises(UsageError, match=r"is not an asset id; no call was made") as caught:
        list(provider.coincap().history(asset_id, TODAY))
    assert provider.calls == []
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


@given(st.text(max_size=70))
def test_an_id_that_is_accepted_is_one_plain_word_of_a_path(asset_id: str) -> None:
    try:
        accepted = coincap.check_id(asset_id)
    except UsageError:
        return
    assert accepted == asset_id
    assert set(asset_id) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-")
    assert asset_id.strip(".") != ""


# ---- pulls as raw rows ----


def pulled(*bodies: bytes, endpoint: str = "assets", subject: str | None = None) -> Pull:
    answers = tuple(answer(b) for b in bodies)
    return Pull("coincap", endpoint, subject, answers, True, STAMP, (STAMP, STAMP), (1,) * len(bodies))


def test_a_pull_is_named_by_what_it_holds() -> None:
    pull = pulled(b"[1]", b"[2]")

    assert pull.pull_id == pulled(b"[1]", b"[2]").pull_id
    assert len({
        pull.pull_id,
        pulled(b"[2]", b"[1]").pull_id,
        pulled(b"[1]").pull_id,
        pulled(b"[1]", b"[2]", endpoint="rates").pull_id,
        replace(pull, observed_at=STAMP + dt.timedelta(milliseconds=1)).pull_id,
        replace(pull, answers=(pull.answers[0], replace(pull.answers[1], request="GET /y"))).pull_id,
    }) == 6  # fmt: skip
    assert len(pull.pull_id) == 32


def test_a_pull_is_observed_at_the_time_of_its_envelope() -> None:
    assert Provider([page(0, 1)]).coincap().rates().observed_at == STAMP


@pytest.mark.parametrize(
    "given_answer",
    [answer(body([1], None)), answer(b"[1]"), DOWN, answer(body([1], 10**18)), answer(body([1], -(10**18)))],
    ids=["no stamp", "no envelope", "no answer", "far future", "far past"],
)
def test_a_pull_without_a_usable_stamp_is_observed_when_it_arrived(given_answer: Answer) -> None:
    pull = Provider([given_answer]).coincap().rates()

    assert (pull.observed_at, pull.window) == (ARRIVED, (ARRIVED, ARRIVED))


def test_raw_rows_fit_their_contract_to_the_millisecond() -> None:
    frame = raw_rows([pulled(b"[1]", b'{"data": []}'), Provider([DOWN]).coincap().assets()])

    assert frame.schema == polars_schema(RawAnswers)
    assert RawAnswers.is_valid(frame)
    assert frame["ingested_at"].unique().to_list() == [ARRIVED.replace(microsecond=345000)]
    assert frame["page"].to_list() == [0, 1, 0]
    assert frame["status"].to_list() == [200, 200, 503]
    assert frame["n_bytes"].to_list() == [3, 12, 0]
    assert frame["body"].to_list() == [b"[1]", b'{"data": []}', b""]
    assert frame["date"].to_list() == [dt.date(2024, 3, 29)] * 3


def test_no_pulls_are_no_rows() -> None:
    assert raw_rows([]).schema == polars_schema(RawAnswers)


# ---- what records become ----

BITCOIN = {
    "id": "bitcoin",
    "rank": "1",
    "symbol": "BTC",
    "name": "Bitcoin",
    "supply": "19965971.000000000000000000",
    "maxSupply": "21000000.000000000000000000",
    "marketCapUsd": "1751239275575.199951171875000000",
    "volumeUsd24Hr": "41020315364.905166625976562500",
    "priceUsd": "87711.199999999997089617",
    "changePercent24Hr": "-2.4410536133077088",
    "vwap24Hr": "88305.90262468117",
    "explorer": "https://blockchain.info/",
    "tokens": {},
}
OKEX = {
    "id": "okex",
    "name": "Okex",
    "rank": "1",
    "percentTotalVolume": "21.379485735166293542000000000000000000",
    "volumeUsd": "616465445.1646260280799955",
    "tradingPairs": "22",
    "socket": False,
    "exchangeUrl": "https://www.okex.com/",
    "updated": 1536343139514,
}
ITBIT = {
    "exchangeId": "itbit",
    "name": "Itbit",
    "rank": "33",
    "percentTotalVolume": None,
    "volumeUsd": None,
    "tradingPairs": "0",
    "socket": None,
    "exchangeUrl": "https://www.itbit.com/",
    "updated": 0,
}
LUNO = {
    "exchangeId": "luno",
    "rank": "2",
    "baseSymbol": "BTC",
    "baseId": "bitcoin",
    "quoteSymbol": "NGN",
    "quoteId": "nigerian-naira",
    "priceQuote": "2462000.0000000000000000",
    "priceUsd": "6810.5117565697726000",
    "volumeUsd24Hr": "403593.5691728862733478",
    "percentExchangeVolume": "18.2926095073936712",
    "tradesCount24Hr": "2258",
    "updated": 1533581073393,
}
EURO = {"id": "euro", "symbol": "EUR", "currencySymbol": "€", "type": "fiat", "rateUsd": "1.0790000000000000"}


def assets(*records: Any) -> Settled:
    return settle(trusted.AssetSnapshots, coincap.parse_assets(raw_rows([pulled(body(records))])), TODAY)


def exchanges(*records: Any) -> Settled:
    raw = raw_rows([pulled(body(records), endpoint="exchanges")])
    return settle(trusted.ExchangeSnapshots, coincap.parse_exchanges(raw), TODAY)


def rates(sent: bytes) -> Settled:
    return settle(trusted.FxRates, coincap.parse_rates(raw_rows([pulled(sent, endpoint="rates")])), TODAY)


def test_an_asset_becomes_a_row_digit_by_digit() -> None:
    (row,) = assets(BITCOIN).rows.to_dicts()

    assert row == {
        "provider": "coincap",
        "observed_at": STAMP,
        "ingested_at": ARRIVED.replace(microsecond=345000),
        "pull_id": pulled(body([BITCOIN])).pull_id,
        "n_duplicates": 0,
        "date": dt.date(2024, 3, 29),
        "asset_id": "bitcoin",
        "provider_asset_id": "bitcoin",
        "symbol": "BTC",
        "name": "Bitcoin",
        "rank": 1,
        "price_usd": Decimal("87711.199999999997089617"),
        "market_cap_usd": Decimal("1751239275575.199951171875"),
        "supply": Decimal(19965971),
        "max_supply": Decimal(21000000),
        "volume_usd_24h": Decimal("41020315364.9051666259765625"),
        "change_pct_24h": Decimal("-2.4410536133077088"),
        "vwap_usd_24h": Decimal("88305.90262468117"),
        "explorer_url": "https://blockchain.info/",
        "tokens": "{}",
        "updated_at": None,
    }


def test_a_null_and_an_absent_field_are_null() -> None:
    record = {k: v for k, v in BITCOIN.items() if k not in ("explorer", "tokens")}
    (row,) = assets({**record, "maxSupply": None}).rows.to_dicts()

    assert (row["max_supply"], row["explorer_url"], row["tokens"]) == (None, None, None)


def test_a_map_of_tokens_stays_json_text() -> None:
    tokens = {"1": ["0xdac17f958d2ee523a2206206994597c13d831ec7"], "56": ["0x55d3"]}
    row = assets({**BITCOIN, "tokens": tokens}).rows.row(0, named=True)

    assert json.loads(row["tokens"]) == tokens


def test_a_renamed_id_is_one_asset_and_keeps_the_providers_own_id_beside() -> None:
    row = assets({**BITCOIN, "id": "ripple"}).rows.row(0, named=True)

    assert (row["asset_id"], row["provider_asset_id"]) == ("xrp", "ripple")


def test_the_exchange_id_of_2018_is_called_id() -> None:
    rows = exchanges(OKEX, {**OKEX, "exchangeId": "binance", "id": "other", "rank": "2"}).rows

    assert rows["exchange_id"].to_list() == ["binance", "okex"]


def test_an_exchange_keeps_its_nulls_and_its_update_of_never() -> None:
    row = exchanges(ITBIT).rows.row(0, named=True)

    assert [row[c] for c in ("volume_share_pct", "volume_usd_24h", "has_socket", "updated_at")] == [None] * 4
    assert row["n_trading_pairs"] == 0


def test_a_share_of_36_printed_digits_is_rounded_and_a_volume_is_exact() -> None:
    row = exchanges(OKEX).rows.row(0, named=True)

    assert row["volume_share_pct"] == Decimal("21.379485735166293542")
    assert row["volume_usd_24h"] == Decimal("616465445.1646260280799955")
    assert row["has_socket"] is False
    assert row["updated_at"] == dt.datetime(2018, 9, 7, 17, 58, 59, 514000, tzinfo=dt.UTC)


def test_a_market_is_named_by_venue_and_pair() -> None:
    raw = raw_rows([pulled(body([LUNO]), endpoint="markets")])
    (row,) = settle(trusted.MarketSnapshots, coincap.parse_markets(raw), TODAY).rows.to_dicts()

    assert row["market_id"] == "luno:BTC/NGN"
    assert (row["exchange_id"], row["base_id"], row["quote_id"]) == ("luno", "bitcoin", "nigerian-naira")
    assert row["price_quote"] == Decimal(2462000)
    assert row["exchange_share_pct"] == Decimal("18.2926095073936712")
    assert row["n_trades_24h"] == 2258


def test_both_ids_of_a_market_follow_a_renaming() -> None:
    raw = raw_rows([pulled(body([{**LUNO, "baseId": "ripple"}, {**LUNO, "quoteId": "ripple"}]), endpoint="markets")])
    rows = settle(trusted.MarketSnapshots, coincap.parse_markets(raw), TODAY).rows

    assert rows.select("base_id", "quote_id").rows() == [("bitcoin", "xrp"), ("xrp", "nigerian-naira")]


@pytest.mark.parametrize(
    "rate", ['"0.0107999999524800"', "0.01079999995248", "1", "12345678901234567.890123456789012345", "1e-7", "1E+2"]
)
def test_a_rate_keeps_its_digits_whether_it_is_sent_as_text_or_as_a_number(rate: str) -> None:
    settled = rates(b'{"data": [{"id": "x", "symbol": "X", "type": "fiat", "rateUsd": %s}]}' % rate.encode())
    value = Decimal(rate.strip('"'))

    assert settled.rows["rate_usd"].to_list() == ([value] if value < 10**9 else [])
    assert settled.rejected["reasons"].to_list() == ([] if value < 10**9 else ["rate_usd|max"])


def test_one_object_is_one_record() -> None:
    assert rates(body(EURO)).rows["currency_symbol"].to_list() == ["€"]


@pytest.mark.parametrize(
    "name", ['A "quoted" \\ name', "tab\tand\nline", "\U0001f415 süß ﷼", '"', "null", "a/b", "\u2028", ""]
)
@pytest.mark.parametrize("ensure_ascii", [True, False], ids=["escaped", "plain"])
def test_a_name_of_any_letters_is_stored_as_it_was_meant(name: str, ensure_ascii: bool) -> None:
    sent = json.dumps({"data": [{**EURO, "symbol": name}]}, ensure_ascii=ensure_ascii).encode()

    assert rates(sent).rows["symbol"].to_list() == [name]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=10), min_size=1, max_size=5))
def test_every_text_survives(names: list[str]) -> None:
    sent = body([{**EURO, "id": f"c{i}", "symbol": name} for i, name in enumerate(names)])

    assert rates(sent).rows["symbol"].to_list() == names


@pytest.mark.parametrize("wrong", [b"5", b'"bitcoin"', b"null", b"[1]", b'{"id": "\xff"}'], ids=repr)
def test_a_record_that_is_no_object_or_no_text_is_refused_alone(wrong: bytes) -> None:
    result = rates(b'{"data": [%s, %s], "timestamp": %d}' % (json.dumps(EURO).encode(), wrong, MS))

    assert result.rows["currency_id"].to_list() == ["euro"]
    assert result.rejected["position"].to_list() == [1]
    assert result.rejected["record"].to_list() == [wrong.decode(errors="replace")]
    assert "currency_id|nullability" in result.rejected["reasons"].item()


def test_a_bad_record_does_not_stop_the_others() -> None:
    bad = [{"priceUsd": "-1"}, {"priceUsd": "1" * 30}, {"id": "../x"}, {"rank": "0"}, {"priceUsd": "NaN"}]
    plain = {**BITCOIN, "marketCapUsd": None}
    result = assets(BITCOIN, *({**plain, "id": f"a{i}", **wrong} for i, wrong in enumerate(bad)))

    assert result.rows["asset_id"].to_list() == ["bitcoin"]
    assert dict(result.rejected.select("position", "reasons").rows()) == {
        1: "price_usd|min",
        2: "cast:price_usd,price_usd|nullability",
        3: "asset_id|regex",
        4: "rank|min",
        5: "cast:price_usd,price_usd|nullability",
    }


@pytest.mark.parametrize(("price", "is_stored"), [("87711.2", True), ("0.0877112", False), ("87711200", False)])
def test_a_price_far_off_the_providers_own_cap_and_supply_is_absurd(price: str, is_stored: bool) -> None:
    result = assets({**BITCOIN, "priceUsd": price})

    assert (len(result.rows), result.rejected["reasons"].to_list()) == (
        (1, []) if is_stored else (0, ["price_agrees_with_cap"])
    )


# ---- a provider that changes its contract ----


@pytest.mark.parametrize(
    ("old", "new", "hint"),
    [("priceUsd", "price_usd", "; the new name may be price_usd"), ("rank", "marketPlace", "")],
)
def test_a_field_missing_from_all_records_refuses_the_pull_and_names_its_likely_successor(
    old: str, new: str, hint: str
) -> None:
    renamed = {new if k == old else k: v for k, v in BITCOIN.items()}

    pull = pulled(body([renamed, renamed]))
    parsed = coincap.parse_assets(raw_rows([pull]))
    assert parsed.drifted == {pull.pull_id: f"the field {old} is missing from all 2 records{hint}"}
    refused = assets(renamed, renamed)
    assert refused.rows.is_empty()
    assert all("pull_refused" in reasons for reasons in refused.rejected["reasons"])


def test_a_field_missing_from_one_record_refuses_that_record_only() -> None:
    result = assets(BITCOIN, {k: v for k, v in BITCOIN.items() if k != "priceUsd"} | {"id": "other"})

    assert result.rows["asset_id"].to_list() == ["bitcoin"]
    assert result.rejected["reasons"].to_list() == ["price_usd|nullability"]


def test_a_new_field_is_noticed_by_its_name() -> None:
    raw = raw_rows([pulled(body([BITCOIN, {**BITCOIN, "isStable": False}]))])

    assert field_names(raw) - coincap.KNOWN_FIELDS["assets"] == {"isStable"}


def test_a_field_name_of_broken_bytes_is_a_name_too() -> None:
    raw = raw_rows([pulled(b'{"data": [{"caf\xe9": 1}]}')])

    assert field_names(raw) == {"caf\ufffd"}


# ---- several pulls ----


def test_a_pull_that_landed_twice_counts_once_and_equal_records_of_two_pulls_are_duplicates() -> None:
    later = replace(pulled(body([BITCOIN])), observed_at=STAMP + dt.timedelta(minutes=5))
    raw = raw_rows([pulled(body([BITCOIN, BITCOIN])), pulled(body([BITCOIN, BITCOIN])), later])
    rows = settle(trusted.AssetSnapshots, coincap.parse_assets(raw), TODAY).rows

    assert rows.select("observed_at", "n_duplicates").rows() == [(STAMP, 1), (later.observed_at, 0)]


def test_history_without_a_usable_time_belongs_to_the_window_that_was_asked_for() -> None:
    window = (TODAY.start, TODAY.end)
    points = [{"priceUsd": "1", "time": MS}, {"priceUsd": "2", "time": "soon"}, {"priceUsd": "3", "time": 1711713600}]
    pull = replace(pulled(body(points), endpoint="history", subject="ripple"), window=window)
    result = settle(trusted.AssetHistory, coincap.parse_history(raw_rows([pull])), TODAY)

    assert result.rows.select("asset_id", "interval", "observed_at", "price_usd").rows() == [
        ("xrp", "d1", STAMP, Decimal(1))
    ]
    assert result.rejected["observed_at"].to_list() == [TODAY.start] * 2
    assert result.rejected["position"].to_list() == [1, 2]


def test_no_raw_rows_are_no_records() -> None:
    empty = pl.DataFrame(schema=polars_schema(RawAnswers))

    for parse in (
        coincap.parse_assets,
        coincap.parse_exchanges,
        coincap.parse_markets,
        coincap.parse_rates,
        coincap.parse_history,
    ):
        assert len(parse(empty).frame) == 0
