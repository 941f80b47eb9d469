"""The layouts that are compared hold the same rows, and what is counted is what is there."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from benchmarks import bytes_read, report
from benchmarks.data import Size, answers
from crypto_assets.resources.lake import Lake
from crypto_assets.tables.trusted import AssetSnapshots

TINY = Size("tiny", 12, 60)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, int]]:
    home = tmp_path_factory.mktemp("bytes")
    data = answers(TINY, home / "cache")
    return data, home, bytes_read.measure(data, home)


def test_both_layouts_hold_the_same_rows(measured: tuple[Path, Path, dict[str, int]]) -> None:
    _, home, _ = measured
    ours = Lake(str(home / "lake")).read(AssetSnapshots)
    files = sorted((home / "parquet").glob("date=*/*.parquet"))
    theirs = pl.concat(pl.read_parquet(file, hive_partitioning=True) for file in files)
    by = ["date", "observed_at", "asset_id"]
    assert len(files) == bytes_read.N_DAYS * TINY.n_pulls
    assert ours.height == bytes_read.N_DAYS * TINY.n_pulls * TINY.n_assets
    assert theirs.select(ours.columns).sort(by).equals(ours.sort(by))


def test_json_is_read_whole_for_the_days_that_are_asked_for(measured: tuple[Path, Path, dict[str, int]]) -> None:
    data, _, found = measured
    of_a_day = sum(file.stat().st_size for file in (data / "answers").iterdir())
    assert (found["section_json"], found["symbol_json"]) == (of_a_day, bytes_read.N_DAYS * of_a_day)
    assert set(found) == bytes_read.VARIANTS


def test_closes_are_read_from_fewer_rows_than_snapshots(measured: tuple[Path, Path, dict[str, int]]) -> None:
    *_, found = measured
    assert 0 < found["section_daily_ours"] < found["section_ours"] < found["section_parquet"]
    # One file a pull is what a moment needs, and all of it; ours is spread over the day.
    assert found["moment_parquet"] < found["moment_ours"]


def test_a_goal_is_judged_by_the_figures() -> None:
    figures = dict.fromkeys(bytes_read.VARIANTS, 1000)
    assert {verdict.said for verdict in bytes_read.verdicts(figures)} == {"NOT met"}
    ours = {name: 10 if name.endswith("ours") else n for name, n in figures.items()}
    judged = bytes_read.verdicts(ours)
    assert {verdict.said for verdict in judged} == {"met"}
    assert len(judged) == sum(goal.case == bytes_read.NAME for goal in report.goals()) == 8
