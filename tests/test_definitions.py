"""The definitions as a whole: they load, say what is absent, hold no secret, and start runs when they should."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.remote_representation.external_data import RepositorySnap
from dagster._core.utils import make_new_run_id
from dagster_shared.serdes import serialize_value
from pydantic import SecretStr

from crypto_assets.automation.schedules import cron, minutes_between_rounds
from crypto_assets.definitions import build_definitions
from crypto_assets.resources.settings import Settings
from crypto_assets.tables import ALL_TABLES, quality, raw, refined, trusted
from tests.chain import at, chain

CANARY = "canary-3f9c1f2e-do-not-tell"
# Written by every asset and check, not by an asset of their own.
WRITTEN_BY_ALL = {quality.Quarantine, quality.CheckResults, quality.GapLedger}


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("COINCAP_API_KEY", CANARY)
    return Settings(lake_uri=str(tmp_path / "lake"), state_dir=tmp_path / "state", coincap_credits_per_month=10**9)


def test_definitions_load_and_every_table_is_an_asset(settings: Settings) -> None:
    definitions = build_definitions(settings)
    dg.Definitions.validate_loadable(definitions)
    keys = definitions.resolve_asset_graph().get_all_asset_keys()
    assert keys == {dg.AssetKey(list(c.table.path)) for c in ALL_TABLES if c not in WRITTEN_BY_ALL}


def test_every_table_has_a_blocking_check(settings: Settings) -> None:
    graph = build_definitions(settings).resolve_asset_graph()
    blocking = {key.asset_key for key in graph.asset_check_keys if graph.get(key).blocking}
    assert blocking == graph.get_all_asset_keys()


def test_the_whole_chain_shares_one_partitions_definition_and_one_backfill_policy(settings: Settings) -> None:
    graph = build_definitions(settings).resolve_asset_graph()
    nodes = [graph.get(key) for key in graph.get_all_asset_keys()]
    assert len({node.partitions_def for node in nodes}) == 1
    assert {node.backfill_policy for node in nodes} == {dg.BackfillPolicy.single_run()}


def test_every_asset_shows_columns_with_units_and_refined_ones_their_lineage(settings: Settings) -> None:
    graph = build_definitions(settings).resolve_asset_graph()
    for contract in (*raw.TABLES, *trusted.TABLES, *refined.TABLES):
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
    assert "COINCAP_API_KEY" in snapshot
    assert CANARY not in snapshot
    assert CANARY not in repr(settings)


def test_without_a_key_coincap_is_absent_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COINCAP_API_KEY", raising=False)
    settings = Settings(lake_uri=str(tmp_path), state_dir=tmp_path)
    definitions = build_definitions(settings)
    dg.Definitions.validate_loadable(definitions)
    assert settings.coincap_absence == "CoinCap v3 needs a key: set COINCAP_API_KEY"
    executable = {key for a in definitions.assets or [] if isinstance(a, dg.AssetsDefinition) for key in a.keys}
    assert dg.AssetKey(["raw", "coincap_assets"]) not in executable
    assert [s.name for s in definitions.schedules or []] == ["nightly_maintenance"]
    assert "history" not in {job.name for job in definitions.jobs or []}


def test_the_cadence_is_what_the_plan_affords() -> None:
    assert minutes_between_rounds(None) == 5
    assert minutes_between_rounds(10**9) == 5
    assert minutes_between_rounds(500) is None
    for affordable in (20_000, 100_000, 1_000_000, 4_000_000):
        minutes = minutes_between_rounds(affordable)
        assert minutes is not None
        assert 31 * 24 * 60 / minutes * 560 <= affordable
    assert cron(5) == "*/5 * * * *"
    assert cron(60) == "0 */1 * * *"
    assert cron(1440) == "0 0 * * *"


def ticked(settings: Settings, moment: datetime, instance: dg.DagsterInstance) -> list[dg.RunRequest]:
    definitions = build_definitions(settings)
    with dg.build_schedule_context(
        instance=instance, scheduled_execution_time=moment, repository_def=definitions.get_repository_def()
    ) as context:
        return list(definitions.resolve_schedule_def("live").evaluate_tick(context).run_requests or [])


def test_a_tick_asks_for_the_days_partition_and_for_new_hours_only(settings: Settings, tmp_path: Path) -> None:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        (request,) = ticked(settings, datetime(2026, 3, 1, 0, 0, tzinfo=UTC), instance)
    assert request.partition_key == "2026-03-01"
    assert request.tags["crypto_assets/refresh"] == "hours"
    assert request.run_key == "2026-03-01T00:00Z"


def test_the_second_tick_of_a_day_closes_the_day_before(settings: Settings, tmp_path: Path) -> None:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        now, closing = ticked(settings, datetime(2026, 3, 1, 0, 5, tzinfo=UTC), instance)
    assert now.partition_key == "2026-03-01"
    assert closing.partition_key == "2026-02-28"
    assert "crypto_assets/refresh" not in closing.tags


def test_a_tick_waits_for_the_round_before(settings: Settings, tmp_path: Path) -> None:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        tags = {"crypto_assets/refresh": "hours"}
        instance.add_run(
            dg.DagsterRun(job_name="refresh", run_id=make_new_run_id(), status=dg.DagsterRunStatus.STARTED, tags=tags)
        )
        assert ticked(settings, datetime(2026, 3, 1, 12, 0, tzinfo=UTC), instance) == []


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
