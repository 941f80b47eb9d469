"""The sandbox over HTTP, asked through real sockets: paths, limits, errors, credits, faults, control."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest

from crypto_assets.errors import UsageError
from crypto_assets.sandbox import Fault, Market, Sandbox, serve

NOW = datetime(2024, 3, 29, 14, 38, tzinfo=UTC)
MARKET = Market(7)


def rows(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    data = answer.json()["data"]
    assert isinstance(data, list)
    return data


def error(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]


def test_assets_come_in_the_envelope_as_compact_json(sandbox: Sandbox, http: httpx.Client) -> None:
    answer = http.get(f"{sandbox.v2}/assets")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {"data": MARKET.assets(NOW, "v2")[:100], "timestamp": 1711723080000}
    assert answer.content.startswith(b'{"data":[{"id":"bitcoin","rank":"1","symbol":"BTC",')
    assert rows(http.get(f"{sandbox.v3}/assets?limit=3")) == MARKET.assets(NOW, "v3")[:3]


def test_assets_are_paged_searched_and_picked(sandbox: Sandbox, http: httpx.Client) -> None:
    everything = MARKET.assets(NOW)
    pages = [rows(http.get(f"{sandbox.v3}/assets", params={"limit": 100, "offset": n})) for n in (0, 100, 200, 300)]
    assert [len(page) for page in pages] == [100, 100, 50, 0]
    assert [row for page in pages for row in page] == everything
    picked = rows(http.get(f"{sandbox.v3}/assets?ids=ethereum,bitcoin,nobody"))
    assert [row["id"] for row in picked] == ["bitcoin", "ethereum"]
    found = rows(http.get(f"{sandbox.v3}/assets?search=BTC"))
    assert {"bitcoin", "wrapped-bitcoin"} <= {row["id"] for row in found}
    assert len(rows(http.get(f"{sandbox.v3}/assets?limit=2000"))) == 250


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("v3/assets?limit=2001", 400, "limit exceeds 2000"),
        ("v3/assets?limit=many", 400, "Invalid query parameters"),
        ("v3/assets?offset=-1", 400, "Invalid query parameters"),
        ("v3/assets/gamecredits", 404, "gamecredits not found"),
        ("v3/assets/gamecredits/history?interval=d1", 404, "Asset history not found"),
        ("v3/assets/gamecredits/markets", 404, "gamecredits not found"),
        ("v3/assets/bitcoin/history", 400, "Invalid query parameters"),
        ("v2/assets/bitcoin/history", 400, "missing interval"),
        ("v3/assets/bitcoin/history?interval=h4", 400, "Invalid query parameters"),
        ("v3/assets/bitcoin/history?interval=d1&start=1711000000000", 400, "Invalid query parameters"),
        ("v3/assets/bitcoin/history?interval=d1&start=2&end=1", 400, "Invalid query parameters"),
        ("v3/rates/nothing", 404, "Conversion rate not found"),
        ("v3/exchanges/nowhere", 404, "Exchange not found"),
        ("v3/candles?exchange=binance&interval=h1&baseId=bitcoin&quoteId=tether", 404, "Not found"),
        ("v2/candles?interval=h1&baseId=bitcoin&quoteId=tether", 400, "missing exchange"),
        ("v2/candles?exchange=binance&baseId=bitcoin&quoteId=tether", 400, "missing interval"),
        ("v1/assets", 404, "Not found"),
    ],
)
def test_errors_are_the_providers_own(
    sandbox: Sandbox, http: httpx.Client, path: str, status: int, message: str
) -> None:
    assert error(http.get(f"{sandbox.url}/{path}")) == (status, message)


def test_an_unknown_assets_error_carries_a_timestamp(sandbox: Sandbox, http: httpx.Client) -> None:
    body = http.get(f"{sandbox.v3}/assets/nobody").json()
    assert body == {"error": "nobody not found", "timestamp": 1711723080000}


def test_one_record_is_an_object(sandbox: Sandbox, http: httpx.Client) -> None:
    assert http.get(f"{sandbox.v3}/assets/solana").json()["data"] == MARKET.asset("solana", NOW)
    assert http.get(f"{sandbox.v2}/rates/euro").json()["data"] == MARKET.rate("euro", NOW, "v2")
    rate = http.get(f"{sandbox.v3}/rates/são-tomé-and-príncipe-dobra").json()["data"]
    assert rate["symbol"] == "STN"
    assert http.get(f"{sandbox.v3}/exchanges/binance").json()["data"]["name"] == "Binance"


def test_history_over_http_is_the_markets_history(sandbox: Sandbox, http: httpx.Client) -> None:
    points = rows(http.get(f"{sandbox.v3}/assets/bitcoin/history?interval=d1"))
    assert points == MARKET.history("bitcoin", "d1", now=NOW)
    window = {"interval": "h1", "start": 1711584000000, "end": 1711591200000}
    points = rows(http.get(f"{sandbox.v2}/assets/bitcoin/history", params=window))
    assert [point["time"] for point in points] == [1711584000000, 1711587600000]


def test_defaults_differ_between_the_versions(sandbox: Sandbox, http: httpx.Client) -> None:
    assert len(rows(http.get(f"{sandbox.v2}/exchanges"))) == 35
    assert len(rows(http.get(f"{sandbox.v3}/exchanges"))) == 10
    assert len(rows(http.get(f"{sandbox.v3}/exchanges?offset=30&limit=10"))) == 5
    assert len(rows(http.get(f"{sandbox.v2}/markets"))) == 100
    assert len(rows(http.get(f"{sandbox.v3}/markets"))) == 10
    assert len(rows(http.get(f"{sandbox.v2}/rates?ids=euro"))) == 60
    assert [row["id"] for row in rows(http.get(f"{sandbox.v3}/rates?ids=euro"))] == ["euro"]


def test_markets_are_filtered(sandbox: Sandbox, http: httpx.Client) -> None:
    def ask(**params: str) -> list[dict[str, Any]]:
        return rows(http.get(f"{sandbox.v3}/markets", params={"limit": "2000", **params}))

    everything = MARKET.markets(NOW)
    assert ask(exchangeId="kraken") == [row for row in everything if row["exchangeId"] == "kraken"]
    assert ask(baseId="bitcoin", quoteSymbol="usdt") == [
        row for row in everything if (row["baseId"], row["quoteId"]) == ("bitcoin", "tether")
    ]
    assert ask(assetSymbol="ETH") == [r for r in everything if "ethereum" in (r["baseId"], r["quoteId"])]
    own = rows(http.get(f"{sandbox.v3}/assets/bitcoin/markets?limit=2000"))
    assert len(own) == len(ask(baseId="bitcoin"))
    assert "Kraken" in {row["exchangeId"] for row in own}
    assert sum(float(row["volumePercent"] or 0) for row in own) == pytest.approx(100)


def test_v2_has_candles(sandbox: Sandbox, http: httpx.Client) -> None:
    pair = next(row for row in MARKET.markets(NOW) if row["exchangeId"] == "binance")
    asked = {"exchange": "binance", "interval": "h8", "baseId": pair["baseId"], "quoteId": pair["quoteId"]}
    candles = rows(http.get(f"{sandbox.v2}/candles", params=asked))
    assert [set(candle) for candle in candles] == [{"open", "high", "low", "close", "volume", "period"}] * 3


def test_v3_wants_a_key_and_v2_does_not(http: httpx.Client) -> None:
    with serve(MARKET, keys=frozenset({"right"})) as sandbox:
        assert error(http.get(f"{sandbox.v3}/assets")) == (401, "Unauthorized: invalid API key")
        assert error(http.get(f"{sandbox.v3}/assets?apiKey=wrong")) == (401, "Unauthorized: invalid API key")
        assert http.get(f"{sandbox.v3}/assets?apiKey=right&limit=1").status_code == 200
        bearer = {"Authorization": "Bearer right"}
        assert http.get(f"{sandbox.v3}/assets?limit=1", headers=bearer).status_code == 200
        assert http.get(f"{sandbox.v2}/assets?limit=1").status_code == 200


def test_credits_are_counted_by_the_byte_and_end_in_403_until_next_month(http: httpx.Client) -> None:
    real = [datetime(2024, 3, 31, 23, 0, tzinfo=UTC)]
    with serve(MARKET, credits_per_month=10, clock=lambda: real[0]) as sandbox:
        size = len(http.get(f"{sandbox.v3}/assets?limit=20").content)
        spent = 1 + -(-size // 2500)
        assert 3 < spent < 10
        assert sandbox.calls() == {"calls": {"assets": 1}, "credits": spent}
        http.get(f"{sandbox.v2}/assets")
        assert sandbox.calls()["credits"] == spent
        while sandbox.calls()["credits"] < 10:
            assert http.get(f"{sandbox.v3}/rates/euro").status_code == 200
        refused = http.get(f"{sandbox.v3}/rates/euro")
        assert error(refused) == (403, "Forbidden: Monthly usage limit exceeded")
        real[0] += timedelta(hours=2)
        assert http.get(f"{sandbox.v3}/rates/euro").status_code == 200


def test_the_sixth_call_of_a_minute_is_told_to_wait(http: httpx.Client) -> None:
    real = [NOW]
    with serve(MARKET, calls_per_minute=5, clock=lambda: real[0]) as sandbox:
        sandbox.set_now(NOW - timedelta(days=9))  # limits follow real time, whatever the market's time
        assert [http.get(f"{sandbox.v3}/rates/euro").status_code for _ in range(5)] == [200] * 5
        real[0] += timedelta(seconds=20)
        refused = http.get(f"{sandbox.v3}/rates/euro")
        assert refused.status_code == 429
        assert "per minute limit exceeded" in refused.text
        assert refused.headers["retry-after"] == "40"
        real[0] += timedelta(seconds=40)
        assert http.get(f"{sandbox.v3}/rates/euro").status_code == 200


@pytest.mark.parametrize(
    ("kind", "status", "text"),
    [
        ("rate_limited_minute", 429, "per minute limit exceeded"),
        ("quota_403", 403, '{"error":"Forbidden: Monthly usage limit exceeded"}'),
        ("not_found", 404, '{"error":"Not found"}'),
        ("server_error", 500, '{"error":"Internal server error"}'),
        ("html", 200, "<!DOCTYPE html>"),
    ],
)
def test_a_fault_answers_in_place_of_the_market(
    sandbox: Sandbox, http: httpx.Client, kind: Any, status: int, text: str
) -> None:
    sandbox.set_faults([Fault(kind, "assets", times=1)])
    answer = http.get(f"{sandbox.v3}/assets")
    assert answer.status_code == status
    assert text in answer.text
    assert ("retry-after" in answer.headers) == (kind == "rate_limited_minute")
    assert answer.headers["content-type"].startswith("text/html" if kind == "html" else "application/json")
    assert http.get(f"{sandbox.v3}/assets").status_code == 200


def test_a_quota_429_does_not_read_like_a_minute_limit(sandbox: Sandbox, http: httpx.Client) -> None:
    sandbox.set_faults([Fault("quota_429", "*")])
    answer = http.get(f"{sandbox.v3}/rates")
    assert answer.status_code == 429
    assert "per minute" not in answer.text


def test_a_fault_skips_repeats_and_keeps_to_its_page(sandbox: Sandbox, http: httpx.Client) -> None:
    def statuses(path: str, n: int) -> list[int]:
        return [http.get(f"{sandbox.v3}/{path}").status_code for _ in range(n)]

    sandbox.set_faults([Fault("server_error", "assets", times=2, after=1, offset=100)])
    assert statuses("assets?offset=0", 3) == [200, 200, 200]
    assert statuses("rates", 1) == [200]
    assert statuses("assets?offset=100&limit=5", 5) == [200, 500, 500, 200, 200]


def test_a_truncated_body_is_cut_json_of_the_promised_length(sandbox: Sandbox, http: httpx.Client) -> None:
    sandbox.set_faults([Fault("truncated", "assets")])
    answer = http.get(f"{sandbox.v3}/assets")
    assert int(answer.headers["content-length"]) == len(answer.content)
    with pytest.raises(json.JSONDecodeError):
        answer.json()


def test_a_short_body_ends_the_connection_early(sandbox: Sandbox, http: httpx.Client) -> None:
    sandbox.set_faults([Fault("short_body", "assets", times=1)])
    with pytest.raises(httpx.RemoteProtocolError):
        http.get(f"{sandbox.v3}/assets")
    assert http.get(f"{sandbox.v3}/assets").status_code == 200


def test_a_stall_holds_the_answer_back_and_not_the_others(sandbox: Sandbox, http: httpx.Client) -> None:
    sandbox.set_faults([Fault("stall", "assets", seconds=0.5)])
    with pytest.raises(httpx.ReadTimeout):
        http.get(f"{sandbox.v3}/assets", timeout=0.1)
    assert http.get(f"{sandbox.v3}/rates").status_code == 200


def test_record_faults_spoil_what_they_name_and_nothing_else(sandbox: Sandbox, http: httpx.Client) -> None:
    good = MARKET.assets(NOW)[:9]
    price = good[4]["priceUsd"]

    def spoiled(kind: Any) -> list[Any]:
        sandbox.set_faults([Fault(kind, "assets")])
        return rows(http.get(f"{sandbox.v3}/assets?limit=9"))

    def with_price(text: str) -> list[dict[str, Any]]:
        return [{**row, "priceUsd": text} if place == 4 else row for place, row in enumerate(good)]

    fraction = price[price.index(".") :]
    assert spoiled("huge_digits") == with_price("123456789012345678901234567890" + fraction)
    assert spoiled("negative_price") == with_price(f"-{price}")
    absurd = spoiled("absurd_price")
    assert Decimal(absurd[4]["priceUsd"]) == Decimal(price).scaleb(9)
    assert absurd == with_price(absurd[4]["priceUsd"])
    assert spoiled("null_id") == [{**row, "id": None} if place == 4 else row for place, row in enumerate(good)]
    assert spoiled("duplicate_rows") == [*good, good[0]]
    assert spoiled("out_of_order") == good[::-1]
    assert spoiled("new_field") == [{**row, "liquidityScore": "0.5000000000000000"} for row in good]
    missing = spoiled("missing_field")
    assert [row["price"] for row in missing] == [row["priceUsd"] for row in good]
    assert not any("priceUsd" in row for row in missing)
    assert spoiled("not_a_record") == [*good[:4], 42, *good[4:]]
    assert spoiled("empty_list") == []


def test_the_sandbox_is_steered_over_http(sandbox: Sandbox, http: httpx.Client) -> None:
    control = f"{sandbox.url}/_sandbox"
    assert http.put(f"{control}/clock", json={"now": "2020-02-02T02:02:02Z"}).status_code == 200
    assert http.get(f"{control}/health").json() == {"status": "ok", "now": "2020-02-02T02:02:02+00:00"}
    assert http.get(f"{sandbox.v3}/rates").json()["timestamp"] == 1580608922000
    assert http.put(f"{control}/faults", json=[{"kind": "server_error", "endpoint": "rates"}]).status_code == 200
    assert http.get(f"{sandbox.v3}/rates").status_code == 500
    assert http.put(f"{control}/faults", json=[]).status_code == 200
    assert http.get(f"{sandbox.v2}/rates").status_code == 200
    assert http.get(f"{control}/calls").json() == sandbox.calls()
    assert sandbox.calls()["calls"] == {"rates": 3}
    assert http.delete(f"{control}/calls").json() == {"calls": {}, "credits": 0}
    http.put(f"{control}/clock", json={"now": None})
    drift = datetime.now(UTC) - datetime.fromisoformat(http.get(f"{control}/health").json()["now"])
    assert abs(drift) < timedelta(seconds=30)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("clock", {"now": "2020-02-02T02:02:02"}),
        ("clock", {"now": "noon"}),
        ("faults", [{"kind": "gremlins", "endpoint": "assets"}]),
        ("faults", [{"kind": "html", "endpoint": "assets", "often": True}]),
    ],
)
def test_control_refuses_nonsense_and_changes_nothing(
    sandbox: Sandbox, http: httpx.Client, path: str, body: Any
) -> None:
    answer = http.put(f"{sandbox.url}/_sandbox/{path}", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert http.get(f"{sandbox.url}/_sandbox/health").json()["now"] == NOW.isoformat()


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.7", "example.com", "localhost", ""])  # noqa: S104
@pytest.mark.fault(row=105, fault="a listener beyond loopback", promise="nothing listens there")
def test_no_host_but_loopback_is_served(host: str) -> None:
    with pytest.raises(UsageError, match="not a loopback address"), serve(MARKET, host=host):
        pass


def test_a_taken_port_is_said_so(sandbox: Sandbox) -> None:
    port = int(sandbox.url.rpartition(":")[2])
    with pytest.raises(UsageError, match=f"port {port} cannot be had"), serve(MARKET, port=port):
        pass


def test_it_stops_at_once_even_while_an_answer_stalls(http: httpx.Client) -> None:
    with serve(MARKET) as sandbox:
        sandbox.set_faults([Fault("stall", "assets", seconds=60.0)])
        with pytest.raises(httpx.ReadTimeout):
            http.get(f"{sandbox.v3}/assets", timeout=0.1)
        began = time.monotonic()
    assert time.monotonic() - began < 2.0
    with pytest.raises(httpx.ConnectError):
        http.get(f"{sandbox.v3}/assets")


def test_run_forever_says_where_and_ends_cleanly_on_sigterm(http: httpx.Client) -> None:
    program = (
        "from crypto_assets.sandbox import Market, run_forever\n"
        "run_forever(Market(7), when_ready=lambda sandbox: print(sandbox.url, flush=True))\n"
        "print('stopped')\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert http.get(f"{url}/_sandbox/health").json()["status"] == "ok"
        os.kill(process.pid, signal.SIGTERM)
        rest, _ = process.communicate(timeout=5)
    assert (rest, process.returncode) == ("stopped\n", 0)
