"""The definitions as a whole: they load, say what is absent, hold no secret, and start runs when they should."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from dagster._core.remote_representation.external_data import RepositorySnap
from dagster._core.utils import make_new_run_id
from dagster_shared.serdes import serialize_value
from pydantic import SecretStr

from crypto_assets.assets.handles import absence, budget_of
from crypto_assets.automation.schedules import cron
from crypto_assets.definitions import build_definitions
from crypto_assets.providers.registry import NAMES
from crypto_assets.resources.clock import SystemClock
from crypto_assets.resources.lake import Lake
from crypto_assets.resources.settings import Settings
from crypto_assets.tables import ALL_TABLES, quality, raw, refined, stream, trusted
from crypto_assets.tables.contract import polars_schema
from crypto_assets.tables.window import Window
from tests.chain import at, chain

CANARY = "canary-3f9c1f2e-do-not-tell"
KEYS = ("COINCAP_API_KEY", "ALPHAVANTAGE_API_KEY", "COINGECKO_DEMO_API_KEY")
# Written by every asset and check, not by an asset of their own.
WRITTEN_BY_ALL = {quality.Quarantine, quality.CheckResults, quality.RevisionLedger}


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in KEYS:
        monkeypatch.setenv(name, f"{CANARY}-{name}")
    return Settings(lake_uri=str(tmp_path / "lake"), state_dir=tmp_path / "state", coincap_credits_per_month=10**9)


def test_definitions_load_and_every_table_is_an_asset(settings: Settings) -> None:
    definitions = build_definitions(settings)
    dg.Definitions.validate_loadable(definitions)
    keys = definitions.resolve_asset_graph().get_all_asset_keys()
    assert keys == {dg.AssetKey(list(c.table.path)) for c in ALL_TABLES if c not in WRITTEN_BY_ALL}


def test_every_table_has_a_blocking_check(settings: Settings) -> None:
    graph = build_definitions(settings).resolve_asset_graph()
    blocking = {key.asset_key for key in graph.asset_check_keys if graph.get(key).blocking}
    assert blocking == graph.executable_asset_keys
    assert graph.get_all_asset_keys() - blocking == {dg.AssetKey(list(c.table.path)) for c in stream.TABLES}


def test_the_whole_chain_shares_one_partitions_definition_and_one_backfill_policy(settings: Settings) -> None:
    graph = build_definitions(settings).resolve_asset_graph()
    assert len({graph.get(key).partitions_def for key in graph.get_all_asset_keys()}) == 1
    nodes = [graph.get(key) for key in graph.executable_asset_keys]
    assert {node.backfill_policy for node in nodes} == {dg.BackfillPolicy.single_run()}


def test_every_asset_shows_columns_with_units_and_refined_ones_their_lineage(settings: Settings) -> None:
    graph = build_definitions(settings).resolve_asset_graph()
    for contract in (*raw.TABLES, *stream.TABLES, *trusted.TABLES, *refined.TABLES):
        node = graph.get(dg.AssetKey(list(contract.table.path)))
        schema = node.metadata["dagster/column_schema"]
        assert [column.name for column in schema.columns] == contract.column_names()
        assert all(column.tags["unit"] for column in schema.columns)
        if contract.table.zone == "refined":
            assert node.metadata["dagster/column_lineage"].deps_by_column
        assert node.owners
        assert node.description


@pytest.mark.filterwarnings("ignore:.*environment_vars.*:DeprecationWarning")
def test_no_secret_is_in_the_repository_snapshot(settings: Settings) -> None:
    repository = build_definitions(settings).get_repository_def()
    snapshot = serialize_value(RepositorySnap.from_def(repository))
    assert all(name in snapshot for name in KEYS)
    assert CANARY not in snapshot
    assert CANARY not in repr(settings)


def executable(definitions: dg.Definitions) -> set[str]:
    return {".".join(key.path) for key in definitions.resolve_asset_graph().executable_asset_keys}


def test_without_a_key_a_provider_is_absent_says_why_and_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    settings = Settings(lake_uri=str(tmp_path), state_dir=tmp_path)
    definitions = build_definitions(settings)
    dg.Definitions.validate_loadable(definitions)
    assert {name: absence(name, settings) for name in NAMES} == {
        "coincap": "CoinCap v3 needs a key: set COINCAP_API_KEY",
        "alpha_vantage": "alpha_vantage needs a key: set ALPHAVANTAGE_API_KEY",
        "binance_archive": None,
        "exchanges": None,
        "coingecko": None,
        "mempool": None,
    }
    held = executable(definitions)
    assert not any(name.startswith(("raw.coincap", "raw.alpha_vantage")) for name in held)
    assert {"raw.exchange_tickers", "raw.binance_klines", "raw.coingecko_markets", "raw.mempool"} <= held
    assert [s.name for s in definitions.schedules or []] == [
        "live",
        "daily_history",
        "daily_restatements",
        "nightly_maintenance",
    ]


def test_a_provider_that_is_not_wanted_is_absent(settings: Settings) -> None:
    only = settings.model_copy(update={"providers": ("mempool",)})
    assert absence("exchanges", only) == "exchanges is not among CRYPTO_ASSETS_PROVIDERS"
    raws = {name for name in executable(build_definitions(only)) if name.startswith("raw.")}
    assert raws == {"raw.mempool"}
    none = settings.model_copy(update={"providers": ()})
    assert [s.name for s in build_definitions(none).schedules or []] == ["nightly_maintenance"]


def test_a_period_is_a_cron_line() -> None:
    assert cron(5) == "*/5 * * * *"
    assert cron(60) == "0 */1 * * *"
    assert cron(1440) == "0 0 * * *"


def ticked(
    settings: Settings, moment: datetime, instance: dg.DagsterInstance, schedule: str = "live"
) -> list[dg.RunRequest]:
    definitions = build_definitions(settings)
    with dg.build_schedule_context(
        instance=instance, scheduled_execution_time=moment, repository_def=definitions.get_repository_def()
    ) as context:
        return list(definitions.resolve_schedule_def(schedule).evaluate_tick(context).run_requests or [])


def asked_of(request: dg.RunRequest) -> set[str]:
    return {".".join(key.path) for key in request.asset_selection or []}


def test_a_tick_asks_for_the_days_partition_what_is_due_and_what_follows_of_new_hours_only(
    settings: Settings, tmp_path: Path
) -> None:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        (request,) = ticked(settings, datetime(2026, 3, 1, 0, 0, tzinfo=UTC), instance)
        (between,) = ticked(settings, datetime(2026, 3, 1, 7, 20, tzinfo=UTC), instance)
        free = settings.model_copy(update={"coincap_credits_per_month": 500})
        (keyless,) = ticked(free, datetime(2026, 3, 1, 7, 20, tzinfo=UTC), instance)
    assert request.partition_key == "2026-03-01"
    assert request.tags["crypto_assets/refresh"] == "hours"
    assert request.run_key == "2026-03-01T00:00Z"
    assert {"raw.mempool", "raw.coingecko_markets", "raw.alpha_vantage_rates", "raw.coincap_rates"} <= asked_of(request)
    assert {name for name in asked_of(between) if name.startswith("raw.")} == {
        *("raw.exchange_tickers", "raw.exchange_candles"),
        *("raw.coincap_assets", "raw.coincap_exchanges", "raw.coincap_markets", "raw.coincap_rates"),
    }
    assert {name for name in asked_of(keyless) if name.startswith("raw.")} == {
        "raw.exchange_tickers",
        "raw.exchange_candles",
    }
    assert {"trusted.quotes", "trusted.candles", "refined.ohlcv_1m", "refined.latest_quotes"} <= asked_of(keyless)
    assert not {"trusted.asset_snapshots", "trusted.onchain_stats", "refined.movers"} & asked_of(keyless)


def test_a_tick_that_the_budget_does_not_pay_for_pulls_the_others_only(settings: Settings, tmp_path: Path) -> None:
    noon = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
    now = SystemClock().now()
    budget_of("alpha_vantage", "alpha_vantage", settings, SystemClock()).block_until(now + timedelta(hours=1))
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        (request,) = ticked(settings, noon, instance)
        assert "raw.alpha_vantage_rates" not in asked_of(request)
        assert "raw.mempool" in asked_of(request)
        only = settings.model_copy(update={"providers": ("alpha_vantage",)})
        assert ticked(only, noon, instance) == []


def test_the_second_tick_of_a_day_closes_the_day_before(settings: Settings, tmp_path: Path) -> None:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        now, closing = ticked(settings, datetime(2026, 3, 1, 0, 5, tzinfo=UTC), instance)
    assert now.partition_key == "2026-03-01"
    assert closing.partition_key == "2026-02-28"
    assert "crypto_assets/refresh" not in closing.tags
    assert {"raw.mempool", "raw.coingecko_exchanges", "refined.movers", "refined.ohlcv_1mo"} <= asked_of(closing)
    assert not {"raw.exchange_trades", "raw.binance_klines", "raw.coincap_history"} & asked_of(closing)


def test_a_tick_waits_for_the_round_before(settings: Settings, tmp_path: Path) -> None:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        tags = {"crypto_assets/refresh": "hours"}
        instance.add_run(
            dg.DagsterRun(job_name="refresh", run_id=make_new_run_id(), status=dg.DagsterRunStatus.STARTED, tags=tags)
        )
        assert ticked(settings, datetime(2026, 3, 1, 12, 0, tzinfo=UTC), instance) == []


def test_finished_days_are_asked_for_twice_a_day_and_for_days_after(settings: Settings, tmp_path: Path) -> None:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        (request,) = ticked(settings, datetime(2026, 3, 2, 0, 30, tzinfo=UTC), instance, "daily_history")
    assert request.tags["dagster/asset_partition_range_start"] == "2026-02-27"
    assert request.tags["dagster/asset_partition_range_end"] == "2026-03-01"
    raws = {name for name in asked_of(request) if name.startswith("raw.")}
    assert raws == {"raw.coincap_history", "raw.binance_klines", "raw.alpha_vantage_series"}
    assert {"trusted.candles", "refined.ohlcv_1d", "refined.asset_daily", "refined.price_daily"} <= asked_of(request)


def test_automation_follows_an_old_day_that_changed_and_nothing_else(tmp_path: Path) -> None:
    day = date(2026, 10, 2)
    with chain(tmp_path, n_assets=20) as c:
        for moment in (at(2, 9), at(3, 9)):
            c.pull(moment)
        c.set_now(at(9))
        assert c.run(day, date(2026, 10, 3)).success
        first = dg.evaluate_automation_conditions(c.definitions, c.instance, evaluation_time=at(9))
        assert first.total_requested == 0
        assert c.run(day, select=[trusted.AssetSnapshots]).success
        second = dg.evaluate_automation_conditions(
            c.definitions, c.instance, evaluation_time=at(9, 0, 1), cursor=first.cursor
        )
        assert second.get_requested_partitions(dg.AssetKey(["refined", "asset_hourly"])) == {"2026-10-02"}
        assert second.get_requested_partitions(dg.AssetKey(["refined", "exchange_daily"])) == set()


def test_automation_carries_backfilled_history_to_days_without_snapshots(tmp_path: Path) -> None:
    day = date(2026, 10, 2)
    with chain(tmp_path, n_assets=20) as c:
        c.set_now(at(9))
        first = dg.evaluate_automation_conditions(c.definitions, c.instance, evaluation_time=at(9))
        assert c.run(day, select=[raw.RawCoincapHistory, trusted.AssetHistory]).success
        second = dg.evaluate_automation_conditions(
            c.definitions, c.instance, evaluation_time=at(9, 0, 1), cursor=first.cursor
        )
        assert second.get_requested_partitions(dg.AssetKey(["refined", "asset_daily"])) == {"2026-10-02"}
        assert second.get_requested_partitions(dg.AssetKey(["refined", "asset_hourly"])) == set()


def test_a_blank_key_is_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COINCAP_API_KEY", " ")
    assert Settings().coincap_absence is not None


def test_a_secret_setting_never_prints() -> None:
    settings = Settings(coincap_api_key=SecretStr(CANARY))
    assert CANARY not in f"{settings} {settings!r} {settings.model_dump()}"


def test_the_daily_history_looks_back_as_far_as_answers_were_measured_to_be_late(tmp_path: Path) -> None:
    settings = Settings(
        lake_uri=str(tmp_path / "lake"), state_dir=tmp_path / "state", providers=("binance_archive", "exchanges")
    )
    definitions = build_definitions(settings)
    tick = definitions.resolve_schedule_def("daily_history")

    def first_day(moment: datetime) -> str:
        context = dg.build_schedule_context(
            scheduled_execution_time=moment, repository_def=definitions.get_repository_def()
        )
        (request,) = tick.evaluate_tick(context).run_requests or []
        return request.tags["dagster/asset_partition_range_start"]

    moment = datetime(2026, 10, 20, 12, 30, tzinfo=UTC)
    assert first_day(moment) == "2026-10-17"
    late = {"table_name": "trusted.candles", "provider": "binance_archive", "n_rows": 9, "p50_s": 1.0, "p99_s": 1.0}
    late |= {"p999_s": 5.5 * 86_400, "highest_s": 6.0 * 86_400}
    rows = [{**late, "date": date(2026, 10, 10)}, {**late, "date": date(2026, 8, 1), "p999_s": 6.9 * 86_400}]
    frame = pl.DataFrame(rows, schema=polars_schema(quality.Lateness))
    Lake(settings.lake_root).replace(quality.Lateness, frame, Window.of_days(date(2026, 8, 1), date(2026, 10, 10)))
    assert first_day(moment) == "2026-10-14"
