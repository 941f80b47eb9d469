"""Backfill as people meet it: the price first, then one run, and nothing asked twice."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from crypto_assets import cli
from crypto_assets.assets.handles import budget_of
from crypto_assets.automation.planner import HISTORIES, plan, require_affordable, run_config
from crypto_assets.commands.backfill import chain, narrowed
from crypto_assets.commands.run import definitions
from crypto_assets.errors import UsageError
from crypto_assets.resources.budget import BudgetExhausted
from crypto_assets.resources.clock import FixedClock, SystemClock
from crypto_assets.resources.lake import Lake
from crypto_assets.resources.settings import Settings
from crypto_assets.sandbox import Market, Sandbox, serve
from crypto_assets.tables import raw
from crypto_assets.tables.window import Window

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
BINANCE = "binance:BTC/USDT"


class Said(NamedTuple):
    code: int
    rows: list[dict[str, Any]]
    err: str

    @property
    def plan(self) -> dict[str, dict[str, Any]]:
        return {row["table"]: row for row in self.rows if row.get("kind") == "plan"}


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    ours = ("CRYPTO_ASSETS_", "AWS_", "COINCAP_", "DAGSTER_", "ALPHAVANTAGE_", "COINGECKO_")
    for name in [name for name in os.environ if name.startswith(ours)]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CRYPTO_ASSETS_LAKE_URI", str(tmp_path / "lake"))
    monkeypatch.setenv("CRYPTO_ASSETS_STATE_DIR", str(tmp_path / "data" / "state"))
    return Settings()


@pytest.fixture
def say(settings: Settings, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    def call(*words: str) -> Said:
        capsys.readouterr()
        code = cli.main(words)
        out, err = capsys.readouterr()
        return Said(code, [json.loads(line) for line in out.splitlines()], err)

    return call


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with serve(Market(7, n_assets=20)) as serving:
        yield serving


# ---- the plan ----


def test_a_year_of_an_archive_is_a_file_a_month_and_the_days_in_progress_are_the_venues(
    settings: Settings, tmp_path: Path
) -> None:
    told = narrowed(settings, None, BINANCE)
    window = Window.of_days(NOW.date() - timedelta(days=384), NOW.date())
    tables = [raw.RawBinanceKlines, raw.RawExchangeCandles]
    archive, venue = plan(Lake(str(tmp_path / "lake")), told, tables, window, FixedClock(NOW))
    assert (archive.account, venue.account) == ("binance_archive", "binance")
    # From 2025-11-01: twelve whole months and nineteen days, each a file and its checksum.
    assert window.days[0].isoformat() == "2025-11-01"
    assert (archive.n_days, archive.cost.calls) == (384, 2 * (12 + 19))
    # Yesterday's file may still be on its way: that day and today are 1,440 and 720 candles of a thousand an answer.
    assert (venue.n_days, venue.n_left, venue.cost.calls) == (2, 383, 3)
    assert venue.gaps == ((f"{BINANCE} 1m", Window(datetime(2026, 11, 19, tzinfo=UTC), NOW)),)
    assert archive.seconds == pytest.approx(max(62 * 0.2, archive.cost.n_bytes / 1e6))
    assert run_config([archive, venue]) == {
        "raw__binance_klines": {"config": {"subjects": [f"{BINANCE} 1m"]}},
        "raw__exchange_candles": {"config": {"subjects": [f"{BINANCE} 1m"]}},
    }


def test_without_the_archive_the_venue_itself_is_asked_for_everything(settings: Settings, tmp_path: Path) -> None:
    alone = narrowed(settings, None, BINANCE).model_copy(update={"providers": ("exchanges",)})
    window = Window.of_days(NOW.date() - timedelta(days=10), NOW.date() - timedelta(days=1))
    (venue,) = plan(Lake(str(tmp_path / "lake")), alone, [raw.RawExchangeCandles], window, FixedClock(NOW))
    assert (venue.n_days, venue.n_left, venue.cost.calls) == (10, 0, 20)


def test_every_history_is_planned_for_and_none_of_them_needs_the_network(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COINCAP_API_KEY", "x")
    monkeypatch.setenv("ALPHAVANTAGE_API_KEY", "x")
    window = Window.of_days(NOW.date() - timedelta(days=3), NOW.date() - timedelta(days=1))
    asks = plan(Lake(str(tmp_path / "lake")), Settings(), HISTORIES, window, FixedClock(NOW))
    assert {ask.table for ask in asks} == {table.table.full_name for table in HISTORIES}
    # Kraken's newest 720 candles begin after the window.
    free = {(ask.account, ask.table) for ask in asks if not ask.cost.calls}
    assert free == {("kraken", "raw.exchange_candles")}
    (history,) = [ask for ask in asks if ask.table == "raw.coincap_history"]
    # One call an asset; 300 bytes of three days are a credit and one for the bytes.
    assert (history.cost.calls, history.cost.credits) == (2, 4)
    (series,) = [ask for ask in asks if ask.table == "raw.alpha_vantage_series"]
    # No week and no month ended in these days; days and intraday candles did.
    assert (series.cost.calls, len(series.subjects), series.n_held) == (4, 8, 0)


def test_past_the_budget_it_says_what_is_left_when_it_frees_and_which_range_fits(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COINCAP_API_KEY", "x")
    told = Settings(coincap_credits_per_month=20, providers=("coincap",))
    clock = FixedClock(NOW)
    lake = Lake(str(tmp_path / "lake"))
    long = Window.of_days(NOW.date() - timedelta(days=200), NOW.date() - timedelta(days=1))
    asks = plan(lake, told, [raw.RawCoincapHistory], long, clock)
    # 20,000 bytes an asset are nine credits.
    assert [ask.cost.credits for ask in asks] == [18]
    require_affordable(told, asks, long, clock)
    budget_of("coincap", "coincap", told, clock).take(calls=1, credits=10)
    with pytest.raises(BudgetExhausted) as caught:
        require_affordable(told, asks, long, clock)
    assert caught.value.what == "2 calls and 18 credits are more than is left (10 of 20 credits per 31 days)"
    assert caught.value.frees_at == NOW + timedelta(days=31)
    # Ten credits are five an asset: four times 2,500 bytes, a hundred days.
    assert "there is room for it at 2026-12-21 12:00 UTC" in caught.value.hint
    assert f"--from {NOW.date() - timedelta(days=100)} --to 2026-11-19 fits" in caught.value.hint
    less = Window.of_days(NOW.date() - timedelta(days=100), NOW.date() - timedelta(days=1))
    require_affordable(told, plan(lake, told, [raw.RawCoincapHistory], less, clock), less, clock)


# ---- what is chosen ----


def test_a_table_brings_what_it_is_made_of_and_what_follows_but_no_trades_unless_they_are_named(
    settings: Settings,
) -> None:
    defs = definitions(settings)

    def names(*named: str) -> set[str]:
        graph = defs.resolve_asset_graph()
        keys, _ = chain(defs, [key for key in graph.executable_asset_keys if ".".join(key.path) in named])
        return {".".join(key.path) for key in keys}

    candles = names("trusted.candles")
    assert {name for name in candles if name.startswith("raw.")} == {"raw.binance_klines", "raw.exchange_candles"}
    assert {"refined.ohlcv_1m", "refined.ohlcv_1mo", "refined.price_daily"} <= candles
    assert "trusted.quotes" not in candles
    assert names("refined.ohlcv_1d") >= {"raw.binance_klines", "trusted.candles", "refined.ohlcv_1m"}
    trades = {name for name in names("trusted.trades") if name.startswith("raw.")}
    assert trades == {"raw.binance_trades", "raw.exchange_trades"}
    everything, tables = chain(defs, None)
    assert "raw.exchange_trades" not in {".".join(key.path) for key in everything}
    assert {table.table.name for table in tables} == {"binance_klines", "exchange_candles", "mempool"}


def test_a_venue_a_market_or_a_provider_narrows_what_is_asked(settings: Settings) -> None:
    assert narrowed(settings, "kraken", None).markets == ("kraken:BTC/USD", "kraken:ETH/USD")
    assert narrowed(settings, None, "BTC/USD").markets == ("kraken:BTC/USD", "coinbase:BTC/USD")
    assert narrowed(settings, None, "okx:SOL/USDT").markets == ("okx:SOL/USDT",)
    assert narrowed(settings, "mempool", None).providers == ("mempool",)
    with pytest.raises(UsageError, match="no market of nope"):
        narrowed(settings, "nope", None)


# ---- the command ----


def test_a_backfill_past_the_budget_is_refused_before_any_call(
    say: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing listens there: a call would fail in another way.
    monkeypatch.setenv("CRYPTO_ASSETS_COINCAP_BASE_URL", "http://127.0.0.1:9/v3")
    monkeypatch.setenv("CRYPTO_ASSETS_PROVIDERS", "coincap")
    monkeypatch.setenv("CRYPTO_ASSETS_COINCAP_CREDITS_PER_MONTH", "3")
    said = say("backfill", "--from", "2026-11-01", "--to", "2026-11-05", "--yes")
    assert said.code == 4
    assert said.plan["raw.coincap_history"]["credits"] == 4
    assert (
        "error: 2 calls and 4 credits are more than is left (3 of 3 credits per 31 days) — coincap budget" in said.err
    )
    assert "not even a day fits" in said.err


@pytest.mark.parametrize(("hour", "calls"), [(1, 4), (16, 2)])
def test_a_backfill_that_costs_asks_first_and_a_dry_run_only_tells(
    say: Callable[..., Said], monkeypatch: pytest.MonkeyPatch, hour: int, calls: int
) -> None:
    monkeypatch.setenv("CRYPTO_ASSETS_SANDBOX_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    # Kraken has the last twelve hours only: of yesterday nothing after noon.
    words = ["backfill", "trusted/candles", "--venue", "kraken", "--to", "today"]
    monkeypatch.setattr(SystemClock, "now", lambda _: datetime(2026, 11, 22, hour, 5, tzinfo=UTC))
    said = say(*words)
    assert said.code == 2
    assert "say --yes to go on" in said.err
    dry = say(*words, "--dry-run")
    assert (dry.code, len(dry.rows)) == (0, 1)
    assert dry.plan["raw.exchange_candles"]["calls"] == calls


def test_a_backfill_is_one_run_and_asks_nothing_twice(
    say: Callable[..., Said], sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    yesterday = SystemClock().now().date() - timedelta(days=1)
    days = [yesterday - timedelta(days=n) for n in (3, 2)]
    monkeypatch.setenv("CRYPTO_ASSETS_SANDBOX_URL", sandbox.url)
    words = ["backfill", "trusted/candles", "--market", BINANCE, "--from", str(days[0]), "--to", str(days[1]), "--yes"]
    first = say(*words)
    assert first.code == 0, first.err
    assert first.plan["raw.binance_klines"]["calls"] == 4
    assert first.plan["raw.exchange_candles"] | {"calls": 0, "days_by_archive": 2} == first.plan["raw.exchange_candles"]
    last = [row for row in first.rows if row.get("kind") == "progress"][-1]
    assert (last["calls"], last["of_calls"]) == (4, 4)
    assert last["n_assets"] == last["of_assets"]
    assert {row["asset"]: row["rows"] for row in first.rows if "state" in row}["trusted.candles"] == 2 * 1440

    sandbox.forget_calls()
    again = say(*words)
    assert again.code == 0, again.err
    assert (again.plan["raw.binance_klines"]["calls"], again.plan["raw.binance_klines"]["days_held"]) == (0, 2)
    assert sandbox.calls()["calls"] == {}
    assert "0 tables changed; all days were there" in again.err
