"""``rebuild --verify`` and the disaster drill: raw is enough, and what is not what raw gives is named by day."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from crypto_assets import cli
from crypto_assets.automation.rebuild import COMPARED, rebuild
from crypto_assets.errors import DataError
from crypto_assets.resources.inspection import files_of
from crypto_assets.resources.lake import Lake
from crypto_assets.tables import refined, trusted
from crypto_assets.tables.raw import TABLES as RAW
from crypto_assets.tables.window import Window
from tests.chain import at, chain
from tests.faults.damage import DAYS, MIDDLE, House, fill, move_in


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("template"))


@pytest.fixture
def house(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> House:
    return move_in(template, tmp_path, monkeypatch, capsys)


def files_in(root: Path) -> dict[str, float]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(root.rglob("*")) if path.is_file()}


def test_everything_made_again_from_raw_is_equal_and_the_live_tables_are_not_touched(house: House) -> None:
    before = files_in(house.root)
    said = house.say("rebuild", "--verify")
    assert said.code == 0, said.err
    rows = {row["table"]: row for row in map(json.loads, said.out.splitlines())}
    assert rows.keys() == {contract.table.full_name for contract in COMPARED}
    assert all(row["equal"] and row["rows"] == row["rebuilt"] for row in rows.values())
    assert rows["trusted.fx_rates"] == {
        "table": "trusted.fx_rates",
        "partitions": 3,
        "rows": 360,
        "rebuilt": 360,
        "equal": True,
        "differing": "",
    }
    assert rows["quality.quarantine"]["rows"] == 2
    assert rows["refined.dim_asset"]["partitions"] == 1
    assert files_in(house.root) == before
    assert not list(house.root.parent.glob("lake-rebuild-*"))


def test_a_changed_day_is_named_and_the_advice_makes_it_equal_again(house: House) -> None:
    rows = house.lake.read(trusted.FxRates, Window.of_day(MIDDLE))
    house.lake.replace(trusted.FxRates, rows[1:], Window.of_day(MIDDLE))

    said = house.say("rebuild", "--verify")
    assert said.code == 1
    assert "error: not what raw gives: trusted.fx_rates (2026-10-02) — rebuild; the live tables were not" in said.err
    (hint,) = [line for line in said.err.splitlines() if line.startswith("hint: ")]
    assert hint == "hint: compute those days again: crypto-assets backfill --from 2026-10-02 --to 2026-10-02"
    house.follow(hint)
    assert house.say("rebuild", "--verify").code == 0


def test_a_part_of_the_days_leaves_out_what_is_computed_from_all(house: House) -> None:
    said = house.say("rebuild", "--verify", "--from", "2026-10-02", "--to", "2026-10-02", "--keep")
    assert said.code == 0, said.err
    tables = [json.loads(line)["table"] for line in said.out.splitlines()]
    assert "trusted.fx_rates" in tables
    assert "refined.dim_asset" not in tables
    assert "not compared, being computed from all days: refined.dim_asset, " in said.err
    (kept,) = house.root.parent.glob("lake-rebuild-*")
    assert f"kept in {kept}" in said.err
    assert len(Lake(str(kept)).read(trusted.FxRates)) == 120
    assert not (kept / "raw").exists()


def test_lost_derived_tables_come_back_whole(house: House) -> None:
    before = house.content()
    for zone in ("trusted", "refined"):
        shutil.rmtree(house.root / zone)
    said = house.say("rebuild", "--verify")
    assert said.code == 1
    house.follow(said.err.splitlines()[-1])
    assert house.say("rebuild", "--verify").code == 0
    after = house.content()
    assert [name for name in before if name.startswith("trusted.") and not before[name].equals(after[name])] == []


def test_damaged_raw_is_the_cause_that_is_told(house: House) -> None:
    file = next(path for path in (house.root / "raw" / "coincap_rates" / f"date={MIDDLE}").iterdir())
    file.unlink()
    said = house.say("rebuild", "--verify")
    assert said.code == 1
    assert "failed: 2026-10-02: raw.coincap_rates: data file date=2026-10-02/" in said.err
    assert "hint: mend that first, then run again" in said.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "say --verify"),
        (["--verify", "--from", "2026-10-03", "--to", "2026-10-01"], "swap --from and --to"),
        (["--verify", "--from", "soon"], "'soon' is not a day"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(house: House, words: list[str], told: str) -> None:
    said = house.say("rebuild", *words)
    assert said.code == 2
    assert told in said.err
    assert said.out == ""


def test_without_answers_there_is_nothing_to_rebuild(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there are no answers to rebuild from"):
        rebuild(Lake(str(tmp_path / "lake")))
    assert not list(tmp_path.glob("*rebuild*"))


def test_rebuild_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["rebuild", "--help"]) == 0
    assert "--verify" in capsys.readouterr().out


def test_the_disaster_drill_passes_and_fails_by_the_same_comparison(tmp_path: Path) -> None:
    with chain(tmp_path, n_assets=20) as c:
        for day in DAYS:
            c.pull(at(day.day, 12))
        c.set_now(at(4))
        assert c.run(DAYS[0], DAYS[-1], select=(*trusted.TABLES, *refined.TABLES)).success
        drill = c.definitions.resolve_job_def("disaster_drill")
        assert drill.execute_in_process(instance=c.instance).success
        rows = c.lake.read(refined.Movers, Window.of_day(MIDDLE))
        c.lake.replace(refined.Movers, rows.with_columns(volume_rank=pl.lit(1, pl.Int32)), Window.of_day(MIDDLE))
        result = drill.execute_in_process(instance=c.instance, raise_on_error=False)
        assert not result.success
        (failure,) = [event for event in result.all_events if event.is_step_failure]
        assert "refined.movers (2026-10-02)" in str(failure.step_failure_data.user_failure_data.description)


@pytest.mark.s3
def test_a_lake_in_a_bucket_is_rebuilt_beside_itself_and_the_copy_removed(
    house: House, s3_options: dict[str, str]
) -> None:
    live = Lake("s3://lake/drill", storage_options=s3_options)
    for contract in RAW:
        live.append(contract, house.lake.read(contract), app="copy", version=1)
    found = rebuild(live)
    assert {table.table for table in found.differing} >= {"trusted.fx_rates", "refined.dim_asset"}
    assert found.root.startswith("s3://lake/drill-rebuild-")
    assert files_of(Lake(found.root, storage_options=s3_options), trusted.FxRates).all() == {}
