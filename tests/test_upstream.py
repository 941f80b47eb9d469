"""What we rely on in other people's code that no documentation promises. A failure names the price of an upgrade."""

import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake

from crypto_assets.assets.lake_asset import _NO_EVENTS
from crypto_assets.partitions import DAILY, SINGLE_RUN
from crypto_assets.tables import BY_NAME

RANGE = {"dagster/asset_partition_range_start": "2024-01-01", "dagster/asset_partition_range_end": "2024-01-03"}


def test_dagster_records_nothing_for_an_output_with_the_observable_assets_mark() -> None:
    @dg.asset(partitions_def=DAILY, backfill_policy=SINGLE_RUN, output_required=False, dagster_type=dg.Nothing)
    def table(context: dg.AssetExecutionContext):
        context.log_event(dg.AssetMaterialization(context.asset_key, partition="2024-01-02"))
        yield dg.Output(None, metadata=dict(_NO_EVENTS))

    @dg.asset(deps=[table], partitions_def=DAILY, backfill_policy=SINGLE_RUN)
    def downstream() -> None: ...

    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([table, downstream], instance=instance, tags=RANGE)
        assert result.success
        assert instance.get_materialized_partitions(dg.AssetKey("table")) == {"2024-01-02"}
        assert len(instance.get_materialized_partitions(dg.AssetKey("downstream"))) == 3


def test_dagster_ties_a_logged_evaluation_to_its_partition() -> None:
    @dg.asset(partitions_def=DAILY, backfill_policy=SINGLE_RUN)
    def table() -> None: ...

    @dg.multi_asset_check(specs=[dg.AssetCheckSpec("good", asset="table", partitions_def=DAILY)])
    def check(context: dg.AssetCheckExecutionContext):
        for key in context.op_execution_context.partition_keys:
            context.op_execution_context.log_event(
                dg.AssetCheckEvaluation(
                    asset_key=dg.AssetKey("table"),
                    check_name="good",
                    passed=key != "2024-01-02",
                    metadata={},
                    partition=key,
                )
            )
        yield dg.AssetCheckResult(
            passed=False, severity=dg.AssetCheckSeverity.WARN, asset_key="table", check_name="good"
        )

    definitions = dg.Definitions(assets=[table], asset_checks=[check])
    with dg.DagsterInstance.ephemeral() as instance:
        job = definitions.resolve_implicit_global_asset_job_def()
        result = job.execute_in_process(instance=instance, tags=RANGE)
        told = {e.partition: e.passed for e in result.get_asset_check_evaluations()}
        assert told["2024-01-01"]
        assert not told["2024-01-02"]


def test_delta_records_a_repeated_transaction_and_does_not_refuse_it(tmp_path: Path) -> None:
    frame = pl.DataFrame({"x": [1]})
    properties = CommitProperties(app_transactions=[Transaction("app", 1)])
    for _ in range(2):
        write_deltalake(tmp_path, frame, mode="append", commit_properties=properties)
    table = DeltaTable(tmp_path)
    assert table.transaction_version("app") == 1
    assert pl.scan_delta(table).collect().height == 2


def test_delta_takes_a_fraction_into_a_whole_number_column_in_silence(tmp_path: Path) -> None:
    write_deltalake(tmp_path, pl.DataFrame({"x": [1]}))
    write_deltalake(tmp_path, pl.DataFrame({"x": [1.7]}), mode="append")
    assert sorted(pl.scan_delta(str(tmp_path)).collect()["x"]) == [1, 1]


def test_delta_statistics_of_decimals_hide_rows_unless_they_are_left_out(tmp_path: Path) -> None:
    price = Decimal("69703.123456789012345678")
    frame = pl.DataFrame({"k": ["a"], "p": [price]}, schema={"k": pl.String, "p": pl.Decimal(38, 18)})
    write_deltalake(tmp_path / "default", frame)
    write_deltalake(tmp_path / "ours", frame, configuration={"delta.dataSkippingStatsColumns": "k"})
    found = {
        n: pl.scan_delta(str(tmp_path / n)).filter(pl.col("p") == price).collect().height for n in ("default", "ours")
    }
    assert found == {"default": 0, "ours": 1}


def test_polars_rounds_a_nineteenth_digit_in_silence() -> None:
    cast = pl.Series(["0.1234567890123456789", "1e25", ""]).cast(pl.Decimal(38, 18), strict=False)
    assert cast.to_list() == [Decimal("0.123456789012345679"), None, None]


def test_dataframely_gives_its_rules_as_expressions() -> None:
    rules = BY_NAME["trusted.fx_rates"]._validation_rules(with_cast=False)
    assert "primary_key" in rules
    frame = pl.DataFrame({"rate_usd": [Decimal(-1), Decimal(1)]}, schema={"rate_usd": pl.Decimal(38, 18)})
    assert frame.select(rules["rate_usd|min"].expr).to_series().to_list() == [False, True]


def test_great_expectations_is_not_imported_by_the_definitions() -> None:
    heavy = {"great_expectations", "pandas", "duckdb", "boto3"}
    code = f"import sys, crypto_assets.definitions; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("moment", [datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 12, 31, 23, 59, tzinfo=UTC)])
def test_the_day_in_progress_has_a_partition(moment: datetime) -> None:
    assert DAILY.get_partition_key_for_timestamp(moment.timestamp()) == str(moment.date())
    with dg.partition_loading_context(effective_dt=moment):
        assert DAILY.get_last_partition_key() == str(moment.date())
