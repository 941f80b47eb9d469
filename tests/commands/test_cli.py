"""The command line as people meet it: a line for each mistake, exact rows in a pipe, the documented exit codes."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pytest

from crypto_assets import cli
from crypto_assets.assets.handles import budget_path
from crypto_assets.commands import doctor, output
from crypto_assets.commands import run as runs
from crypto_assets.commands.demo import MARKER, fresh, home_lock
from crypto_assets.errors import DataError, NeedsYouError, UsageError
from crypto_assets.resources.clock import FixedClock
from crypto_assets.resources.lake import Lake
from crypto_assets.resources.settings import Settings
from crypto_assets.tables.quality import Quarantine
from crypto_assets.tables.trusted import AssetSnapshots
from crypto_assets.tables.window import Window

DAY = date(2026, 11, 10)
SEEN = datetime(2026, 11, 10, 2, tzinfo=UTC)
PRICE = Decimal("70488.253443223540671170")
COMMANDS = ("demo", "up", "run", "backfill", "status", "sql", "show", "quarantine", "doctor", "sandbox")


class Said(NamedTuple):
    code: int
    out: str
    err: str


Say = Callable[..., Said]


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    """Call the command line in this process, with an empty lake and no key."""
    for name in [
        name
        for name in os.environ
        if name.startswith(("CRYPTO_ASSETS_", "AWS_", "COINCAP_", "DAGSTER_", "ALPHAVANTAGE_", "COINGECKO_"))
    ]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CRYPTO_ASSETS_LAKE_URI", str(tmp_path / "lake"))
    monkeypatch.setenv("CRYPTO_ASSETS_STATE_DIR", str(tmp_path / "data" / "state"))

    def call(*words: str) -> Said:
        capsys.readouterr()
        code = cli.main(words)
        return Said(code, *capsys.readouterr())

    return call


@pytest.fixture
def filled(tmp_path: Path, rows_of: Callable[..., pl.DataFrame]) -> Lake:
    """One asset with a price of 18 fractional digits and a name that a spreadsheet would run."""
    lake = Lake(str(tmp_path / "lake"))
    row = {"asset_id": "bitcoin", "name": '=HYPERLINK("x")', "price_usd": PRICE, "n_duplicates": 0}
    when = {"observed_at": SEEN, "ingested_at": SEEN, "date": DAY}
    lake.replace(AssetSnapshots, rows_of(AssetSnapshots, {**row, **when}), Window.of_day(DAY))
    return lake


def _is_one_line(said: Said, *words: str) -> bool:
    lines = said.err.strip().splitlines()
    assert said.out == ""
    assert len(lines) == 2, said.err
    assert lines[0].startswith("error: ")
    assert " — " in lines[0]
    assert "; " in lines[0]
    assert lines[1].startswith("hint: ")
    return all(word in said.err for word in words)


# ---- bad input ----


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["show", "trusted.asset_snapshot"], "did you mean trusted.asset_snapshots"),
        (["show", "trusted.asset_snapshots", "--limit", "0"], "at least 1"),
        (["run", "--day", "2026-13-01"], "'2026-13-01' is not a day"),
        (["run", "--day", "1999-01-01"], "lies outside"),
        (["run", "--day", "2999-01-01"], "lies outside"),
        (["run", "--select", "raw/coincap_asset"], "there is no table 'raw/coincap_asset'"),
        (["run", "--select", "../../etc"], "there is no table"),
        (["backfill", "--from", "2026-11-03", "--to", "2026-11-01"], "swap --from and --to"),
        (["backfill", "trusted/candle"], "there is no table 'trusted/candle'"),
        (["backfill", "--venue", "nope"], "there is no market of nope"),
        (["backfill", "--market", "DOGE/USD"], "there is no market DOGE/USD of any venue"),
        (["backfill", "--market", "a:b:c"], "'a:b:c' is not a market"),
        (["demo", "--venues", "--live"], "--replay, --venues and --live are three demos"),
        (["sql", "copy (select 1) to '/tmp/stolen.csv'"], "sql; nothing was read or written"),
        (["sql", "select * from read_text('/etc/passwd')"], "nothing was read or written"),
        (["sql", "delete from refined.movers"], "nothing was read or written"),
        (["quarantine", "show", "--table", "refined.movers"], "there is no table 'refined.movers'"),
        (["quarantine", "show", "--day", "tomorrow"], "'tomorrow' is not a day"),
        (["demo", "--replay", "no/such/folder"], "there is no such folder"),
        (["demo", "--replay", "."], "no CoinCap answer in this folder"),
        (["sandbox", "--credits", "0"], "at least 1"),
        (["sandbox", "--replay", "no/such/folder"], "there is no such folder"),
        (["frobnicate"], "Unknown command"),
        (["status", "--selec", "x"], "Unknown option"),
        (["show"], "requires an argument"),
        (["up", "--lake", "ftp"], "--lake"),
        (["up", "--port", "many"], "--port"),
    ],
)
def test_a_request_that_makes_no_sense_is_one_line_and_exit_code_2(say: Say, words: list[str], told: str) -> None:
    said = say(*words)
    assert said.code == 2
    assert _is_one_line(said, told)


def test_sql_that_writes_a_file_writes_none(say: Say, filled: Lake, tmp_path: Path) -> None:
    target = tmp_path / "stolen.csv"
    assert say("sql", f"copy (select * from trusted.asset_snapshots) to '{target}'").code == 2
    assert not target.exists()


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ("raw/coincap_assets", "COINCAP_API_KEY"),
        ("raw/alpha_vantage_series", "ALPHAVANTAGE_API_KEY"),
        ("raw/mempool", "mempool is not among CRYPTO_ASSETS_PROVIDERS"),
    ],
)
def test_an_asset_of_a_provider_that_is_not_here_needs_you(
    say: Say, monkeypatch: pytest.MonkeyPatch, table: str, key: str
) -> None:
    monkeypatch.setenv("CRYPTO_ASSETS_PROVIDERS", "coincap,alpha_vantage")
    for words in (["run", "--select", table], ["backfill", table]):
        said = say(*words)
        assert said.code == 4
        assert _is_one_line(said, f"{table} is not registered: ", key)


def test_a_bucket_that_does_not_exist_needs_you(
    say: Say, s3_options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_options.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CRYPTO_ASSETS_LAKE_URI", "s3://no-such-bucket/lake")
    for words in (["status"], ["run", "--select", "refined"], ["show", "refined.movers"]):
        said = say(*words)
        assert said.code == 4, said
        assert _is_one_line(said, "the bucket does not exist (s3://no-such-bucket/lake)")
    said = say("doctor", "--json")
    assert said.code == 4
    assert said.err.count("error: ") == 1


def test_a_bucket_that_exists_can_be_written(s3_options: dict[str, str]) -> None:
    Lake("s3://lake/probed", storage_options=s3_options).probe()


def test_a_bug_is_one_line_without_its_text(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(form: output.Format) -> int:
        raise RuntimeError("https://host/?apiKey=secret-key")

    monkeypatch.setattr("crypto_assets.commands.status.status", broken)
    said = say("status")
    assert said.code == 1
    assert _is_one_line(said, "RuntimeError", "CRYPTO_ASSETS_DEBUG=1")
    assert "secret-key" not in said.err
    monkeypatch.setenv("CRYPTO_ASSETS_DEBUG", "1")
    with pytest.raises(RuntimeError):
        say("status")


def test_ctrl_c_is_exit_code_130(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(form: output.Format) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("crypto_assets.commands.status.status", interrupted)
    assert say("status").code == 130


# ---- help ----


def test_help_lists_every_command_and_the_exit_codes(say: Say) -> None:
    said = say("--help")
    assert said.code == 0
    assert all(f" {name} " in said.out for name in COMMANDS)
    assert "Exit codes: 0 done, 1 data or a check failed, 2 usage, 3 try again later, 4 it" in said.out


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from crypto_assets.cli import main; main(['--help']);"
        " sys.exit(len({'dagster', 'polars', 'deltalake', 'great_expectations', 'duckdb'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(say: Say, name: str) -> None:
    said = say(name, "--help")
    assert said.code == 0
    assert f"crypto-assets {name}" in said.out


# ---- output ----


def test_a_pipe_gets_json_lines_with_exact_decimals_and_times_in_z(say: Say, filled: Lake) -> None:
    said = say("sql", "select asset_id, price_usd, observed_at, date from trusted.asset_snapshots")
    assert said.code == 0
    told = {"asset_id": "bitcoin", "price_usd": str(PRICE), "observed_at": "2026-11-10T02:00:00Z", "date": "2026-11-10"}
    assert [json.loads(line) for line in said.out.splitlines()] == [told]


def test_csv_holds_every_digit_and_begins_no_formula(say: Say, filled: Lake) -> None:
    said = say("show", "trusted.asset_snapshots", "--csv")
    (row,) = csv.DictReader(io.StringIO(said.out))
    assert row["price_usd"] == str(PRICE)
    assert row["name"] == '\'=HYPERLINK("x")'


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\tx", "\rx"])
@pytest.mark.fault(
    row=103, fault="a text that a spreadsheet would run", promise="no cell and no header of an export begins a formula"
)
def test_a_text_that_a_spreadsheet_would_run_is_quoted(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    output.rows([{"text": text, "number": Decimal("-1.50")}], output.Format.CSV)
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out, newline=""))
    assert row == {"text": f"'{text}", "number": "-1.50"}


def test_a_foreign_text_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    output.table([{"name": "\x1b[2J\u202egone", "markup": "[red]x[/red]"}], ["name", "markup"])
    said = capsys.readouterr().out
    assert "\x1b[2J" not in said
    assert "\u202e" not in said
    assert "[red]x[/red]" in said


def test_sql_is_read_from_stdin(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("select 1 as one"))
    assert say("sql", "-").out == '{"one": 1}\n'


def test_columns_are_told_without_a_lake(say: Say) -> None:
    said = say("show", "trusted.asset_snapshots", "--columns")
    columns = {row["column"]: row for row in map(json.loads, said.out.splitlines())}
    assert columns["price_usd"]["type"] == "decimal(38,18)"
    assert columns["price_usd"]["unit"] == "USD"
    assert columns["asset_id"]["key"] is True


def test_a_reader_that_stops_early_is_no_error() -> None:
    script = "import sys; from crypto_assets.cli import main; sys.exit(main(['show', 'refined.movers', '--columns']))"
    done = subprocess.run(
        ["bash", "-c", f'{sys.executable} -c "{script}" | true; exit ${{PIPESTATUS[0]}}'],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


# ---- status and doctor ----


def test_status_of_an_empty_lake_says_why_a_provider_is_absent(say: Say) -> None:
    said = say("status", "--json")
    assert said.code == 0
    records = [json.loads(line) for line in said.out.splitlines()]
    assert {record["rows"] for record in records if record["kind"] == "table"} == {0}
    providers = [record for record in records if record["kind"] == "provider"]
    told = {record["budget"] or record["provider"]: record for record in providers}
    assert list(told) == [
        *("coincap", "alpha_vantage", "binance_archive", "binance", "kraken", "coinbase", "coingecko", "mempool")
    ]
    assert told["coincap"]["state"] == "not registered: CoinCap v3 needs a key: set COINCAP_API_KEY"
    assert told["alpha_vantage"]["state"] == "not registered: alpha_vantage needs a key: set ALPHAVANTAGE_API_KEY"
    assert told["kraken"]["state"] == "registered"
    assert told["kraken"]["address"] == "api.kraken.com"
    assert told["kraken"]["budget_left"] == "untouched"
    assert told["kraken"]["cadence"] == "quotes and candles every 5 min, listings every 1440 min"
    assert told["mempool"]["next_round"].endswith(":00:00Z")
    assert told["binance_archive"]["next_round"] is None


def test_status_tells_rows_and_the_newest_observation(say: Say, filled: Lake) -> None:
    records = [json.loads(line) for line in say("status").out.splitlines()]
    (table,) = [record for record in records if record.get("table") == "trusted.asset_snapshots"]
    assert (table["rows"], table["newest"]) == (1, "2026-11-10T02:00:00Z")


def test_doctor_finds_what_raw_does_not_account_for(say: Say, filled: Lake) -> None:
    said = say("doctor")
    assert said.code == 1
    assert "trusted.asset_snapshots raw 0 is not 1 + 0 + 0" in said.err


def test_doctor_reports_foreign_files_and_leaves_them(say: Say, filled: Lake) -> None:
    root = Path(filled.root)
    (root / "notes.txt").write_text("mine", encoding="utf-8")
    (root / "trusted" / "old_table").mkdir()
    findings = {row["subject"]: row for row in map(json.loads, say("doctor").out.splitlines())}
    assert findings["foreign files"] == {
        "subject": "foreign files",
        "ok": False,
        "seen": "left alone: notes.txt, trusted/old_table",
    }
    assert (root / "notes.txt").exists()


def test_doctor_without_a_lake_makes_none(say: Say, tmp_path: Path) -> None:
    assert say("doctor").code == 4
    assert not (tmp_path / "lake").exists()


def test_the_environment_is_well() -> None:
    assert [finding.is_well for finding in doctor._environment(Settings())] == [True, True]


# ---- quarantine ----


def test_quarantine_show_filters_by_table_and_day(
    say: Say, tmp_path: Path, rows_of: Callable[..., pl.DataFrame]
) -> None:
    lake = Lake(str(tmp_path / "lake"))
    refused = {"table_name": "trusted.fx_rates", "reasons": "cast:rate_usd", "record": '{"id":"x"}'}
    when = {"observed_at": SEEN, "ingested_at": SEEN, "date": DAY}
    lake.replace(Quarantine, rows_of(Quarantine, {**refused, **when}), Window.of_day(DAY))
    (row,) = [json.loads(line) for line in say("quarantine", "show", "--day", "2026-11-10").out.splitlines()]
    assert (row["reasons"], row["record"]) == ("cast:rate_usd", '{"id":"x"}')
    assert say("quarantine", "show", "--day", "2026-11-09").out == ""
    assert say("quarantine", "show", "--table", "trusted/asset_snapshots").out == ""


def test_quarantine_replay_of_nothing_says_so(say: Say) -> None:
    assert say("quarantine", "replay").out == "quarantine holds nothing\n"


# ---- what the commands stand on ----


def test_a_failed_step_becomes_the_typed_error_again() -> None:
    told = "raw.coincap_rates: GET /rates ended denied; nothing of the pull is published; check the key; see status"
    error = runs.Failed("raw.coincap_rates", told, NeedsYouError.exit_code).error
    assert isinstance(error, NeedsYouError)
    assert (error.where, error.what) == ("raw.coincap_rates", "GET /rates ended denied")
    assert error.hint == "check the key; see status"
    assert isinstance(runs.Failed("x", "no such form", 1).error, DataError)


def test_days_are_named_or_written_in_iso() -> None:
    clock = FixedClock(SEEN)
    assert runs.parsed_day("today", "--day", clock) == DAY
    assert runs.parsed_day("yesterday", "--day", clock) == date(2026, 11, 9)
    with pytest.raises(UsageError):
        runs.parsed_day("11/10/2026", "--day", clock)


def test_the_demo_deletes_its_own_lake_only(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    fresh(lake)
    (tmp_path / "lake" / "old").write_text("demo's", encoding="utf-8")
    fresh(lake)
    assert [path.name for path in (tmp_path / "lake").iterdir()] == [MARKER]
    (tmp_path / "lake" / MARKER).unlink()
    (tmp_path / "lake" / "mine").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match="no demo made"):
        fresh(lake)
    assert (tmp_path / "lake" / "mine").read_text(encoding="utf-8") == "mine"


def test_two_demos_do_not_share_a_home(tmp_path: Path) -> None:
    with home_lock(tmp_path), pytest.raises(UsageError, match="running here"), home_lock(tmp_path):
        pass


def test_a_changed_dagster_yaml_is_left_alone(tmp_path: Path) -> None:
    runs.prepare_home(tmp_path)
    assert "telemetry: {enabled: false}" in (tmp_path / "dagster.yaml").read_text(encoding="utf-8")
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n", encoding="utf-8")
    runs.prepare_home(tmp_path)
    assert (tmp_path / "dagster.yaml").read_text(encoding="utf-8") == "telemetry: {enabled: false}\n"


def test_a_real_provider_and_a_sandbox_have_separate_budgets(tmp_path: Path) -> None:
    local = Settings(state_dir=tmp_path, coincap_base_url="http://127.0.0.1:1/v3")
    assert budget_path("coincap", local).name == "sandbox.sqlite"
    assert budget_path("mempool", local).name == "providers.sqlite"
    assert budget_path("coincap", Settings(state_dir=tmp_path)).name == "providers.sqlite"
    assert (
        budget_path("mempool", Settings(state_dir=tmp_path, sandbox_url="http://127.0.0.1:1")).name == "sandbox.sqlite"
    )
