"""Data files that are gone, cut short, flipped or nobody's: named before anything is read, and the advice works."""

from __future__ import annotations

import os
import random
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from crypto_assets.commands import doctor
from crypto_assets.errors import DataError
from crypto_assets.resources.clock import FixedClock
from crypto_assets.resources.inspection import GRACE, files_of, prove
from crypto_assets.resources.lake import Lake
from crypto_assets.tables import ALL_TABLES, quality, raw, refined, trusted
from crypto_assets.tables.contract import Contract
from crypto_assets.tables.window import HOUR, Window
from tests.faults.damage import DAYS, MIDDLE, House, faults_of, fill, move_in, same

# A table for each way in which rows reach one, and the two that runs read before anything else.
KINDS = [
    trusted.FxRates,
    refined.AssetHourly,
    refined.DimAsset,
    quality.Quarantine,
    quality.CheckResults,
    quality.GapLedger,
    raw.RawCoincapRates,
]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("template"))


@pytest.fixture
def house(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> House:
    return move_in(template, tmp_path, monkeypatch, capsys)


def flip(path: Path, position: int, bit: int) -> None:
    body = bytearray(path.read_bytes())
    body[position] ^= 1 << bit
    path.write_bytes(body)


@pytest.mark.fault(row=47, fault="data file deleted", promise="read refuses naming it; doctor tells the rows; rebuilt")
@pytest.mark.parametrize("contract", KINDS, ids=lambda c: c.table.full_name)
def test_a_deleted_data_file_is_named_and_the_advice_brings_its_rows_back(
    house: House, contract: type[Contract]
) -> None:
    before = house.content()
    file = house.file(contract)
    name = str(file.relative_to(house.folder(contract)))
    n_rows = house.lake.live(contract).filter(path=name)["n_rows"].item()
    file.unlink()

    error = house.refusal(contract)
    assert error.what == f"data file {name} is gone; {n_rows} rows cannot be read"
    said = house.say("doctor")
    assert said.code == 1
    assert f"error: {error.what} — {contract.table.full_name}" in said.err
    assert error.hint in said.err
    house.follow(error, contract)
    after = house.content()
    # Gaps are noted again when they are met.
    assert same(before, after) == (["quality.gap_ledger"] if contract is quality.GapLedger else [])


@pytest.mark.fault(row=48, fault="data file truncated", promise="refused by its size before reading; rebuilt")
@pytest.mark.parametrize("contract", KINDS, ids=lambda c: c.table.full_name)
def test_a_truncated_data_file_is_refused_before_reading_and_the_advice_brings_its_rows_back(
    house: House, contract: type[Contract]
) -> None:
    before = house.content()
    file = house.file(contract)
    size = file.stat().st_size
    os.truncate(file, size // 2)

    error = house.refusal(contract)
    assert f"{file.name} has {size // 2} bytes, not {size}; " in error.what
    with pytest.raises(DataError, match="bytes, not"):
        house.lake.scan(contract)  # before a lazy frame exists that could panic elsewhere
    house.follow(error, contract)
    assert same(before, house.content()) == (["quality.gap_ledger"] if contract is quality.GapLedger else [])
    assert house.say("doctor").code == 0


@pytest.mark.fault(row=48, fault="data file truncated", promise="the other days are read and written on")
def test_a_damaged_day_spares_the_others(house: House) -> None:
    os.truncate(house.file(trusted.FxRates), 100)
    lake = house.lake

    good = lake.read(trusted.FxRates, Window.of_day(DAYS[0]))
    assert len(good) == 120
    assert lake.replace(trusted.FxRates, good[:-1], Window.of_day(DAYS[0])).is_new
    assert len(lake.read(trusted.FxRates, Window.of_day(DAYS[0]))) == 119
    assert lake.days(trusted.FxRates) == DAYS


@pytest.mark.fault(row=48, fault="data file truncated", promise="rows that stay are never dropped with it")
def test_an_hour_in_a_damaged_file_is_not_replaced_alone(house: House) -> None:
    os.truncate(house.file(trusted.FxRates), 100)
    opens = Window.of_day(MIDDLE).start + 9 * HOUR
    none = pl.DataFrame(schema=house.lake.scan(trusted.FxRates, Window.of_day(DAYS[0])).collect_schema())

    with pytest.raises(DataError, match="bytes, not"):
        house.lake.replace(trusted.FxRates, none, Window(opens, opens + HOUR))


@pytest.mark.fault(row=49, fault="bit flip in a data file", promise="every flip that changes a value is found by hash")
@pytest.mark.parametrize("contract", [trusted.FxRates, refined.DimAsset, raw.RawCoincapRates], ids=lambda c: c.__name__)
def test_no_flipped_bit_changes_a_value_unseen(house: House, contract: type[Contract]) -> None:
    file, rng = house.file(contract), random.Random(7)
    whole, before = file.read_bytes(), house.lake.read(contract)
    n_silent = 0
    for _ in range(60):
        file.write_bytes(whole)
        flip(file, rng.randrange(len(whole)), rng.randrange(8))
        try:
            is_same, is_read = house.lake.read(contract).equals(before), True
        except DataError:
            is_same, is_read = False, False
        assert bool(prove(house.lake, contract).errors) == (not is_same)
        n_silent += is_read and not is_same
    assert n_silent > 0, "no flip was silent: the test shows nothing"


@pytest.mark.fault(row=49, fault="bit flip in a data file", promise="doctor --deep names the day; its advice mends it")
@pytest.mark.parametrize("contract", [trusted.FxRates, raw.RawCoincapRates], ids=lambda c: c.__name__)
def test_doctor_deep_names_the_day_of_a_silent_flip_and_its_advice_mends_it(
    house: House, contract: type[Contract]
) -> None:
    before = house.content()
    said = house.say("doctor", "--deep")
    assert said.code == 0, said.err
    assert said.out.count("rows proven by sha256") > 20
    file, rng = house.file(contract), random.Random(11)
    whole = file.read_bytes()
    for _ in range(200):
        file.write_bytes(whole)
        flip(file, rng.randrange(len(whole)), rng.randrange(8))
        try:
            if not house.lake.read(contract).equals(before[contract.table.full_name]):
                break
        except DataError:
            continue
    said = house.say("doctor", "--deep")
    assert said.code == 1
    assert f"— {contract.table.full_name}; " in said.err
    assert "by sha256: " in said.err
    hints = [line for line in said.err.splitlines() if line.startswith("hint: ") and "quarantine replay" not in line]
    house.follow(hints[-1], contract)
    assert same(before, house.content()) == []
    assert house.say("doctor", "--deep").code == 0


@pytest.mark.fault(
    row=49, fault="bit flip in a data file", promise="compaction and checkpoints keep every row provable"
)
def test_rows_stay_provable_after_maintenance(house: House) -> None:
    for contract in ALL_TABLES:
        house.lake.maintain(contract, DAYS[-1] + timedelta(days=2))
        proof = prove(house.lake, contract)
        assert proof.errors == []
        assert proof.n_proven == proof.n_rows


@pytest.mark.fault(row=49, fault="raw body that is not its sha256", promise="doctor --deep names the pull")
def test_a_forged_body_is_found_though_its_commit_vouches_for_it(house: House) -> None:
    forged = house.lake.read(raw.RawCoincapRates)[:1].with_columns(pull_id=pl.lit("forged"), body=pl.lit(b"[]"))
    house.lake.append(raw.RawCoincapRates, forged, app="forger", version=1)
    (error,) = prove(house.lake, raw.RawCoincapRates).errors
    assert error.what == "1 bodies do not match their sha256 column, the first of pull forged"


@pytest.mark.fault(row=55, fault="stray parquet in the folder", promise="ignored by readers, reported, removed by --gc")
def test_a_stray_file_is_ignored_reported_and_removed_when_it_is_old(house: House) -> None:
    before = house.content()
    stray = house.file(trusted.FxRates).with_name("part-00000-stray.parquet")
    stray.write_bytes(house.file(trusted.FxRates).read_bytes())
    others = sorted(path for path in house.folder(trusted.FxRates).rglob("*") if path.is_file() and path != stray)

    assert same(before, house.content()) == []
    said = house.say("doctor")
    assert said.code == 0
    assert "1 files that no version names, e.g. date=2026-10-02/part-00000-stray.parquet" in said.out
    assert "kept: younger than 7 days" in house.say("doctor", "--gc", "--yes").out
    assert stray.exists()
    old = time.time() - GRACE.total_seconds() - 60
    for path in (stray, *others):
        os.utime(path, (old, old))
    assert "part-00000-stray.parquet would be removed with --yes" in house.say("doctor", "--gc").out
    assert stray.exists()
    assert "part-00000-stray.parquet removed" in house.say("doctor", "--gc", "--yes").out
    assert not stray.exists()
    assert all(path.exists() for path in others)
    assert same(before, house.content()) == []


@pytest.mark.fault(
    row=55, fault="stray parquet in the folder", promise="never removed where a log that lost an entry may name it"
)
@pytest.mark.parametrize("loss", ["empty", "missing", "garbage", "no log"])
def test_nothing_is_removed_by_the_word_of_a_damaged_log(house: House, loss: str) -> None:
    folder = house.folder(raw.RawCoincapRates)
    for entry in sorted((folder / "_delta_log").glob("*.json")):
        if loss == "no log" or entry == house.entry(raw.RawCoincapRates, 2):
            entry.unlink() if loss in ("missing", "no log") else entry.write_text("" if loss == "empty" else "{half")
    files = files_of(house.lake, raw.RawCoincapRates)
    assert loss == "no log" or faults_of(folder)
    count = len(files.all())
    list(doctor._collected(house.lake, datetime.now(UTC) + 2 * GRACE, is_agreed=True))
    assert len(files.all()) == count


@pytest.mark.s3
@pytest.mark.fault(row=41, fault="kill -9 during multipart", promise="the incomplete upload is aborted by doctor --gc")
def test_an_upload_that_was_never_completed_is_listed_and_aborted(s3_options: dict[str, str]) -> None:
    lake = Lake("s3://lake/gc", storage_options=s3_options, clock=FixedClock(datetime(2026, 10, 1, tzinfo=UTC)))
    files = files_of(lake, trusted.FxRates)
    client, bucket = files._client, "lake"  # type: ignore[attr-defined]
    client.create_multipart_upload(Bucket=bucket, Key="gc/trusted/fx_rates/part-0.parquet")
    now = files.uploads()[0].began_at

    assert list(doctor._collected(lake, now, is_agreed=True)) == []
    (listed,) = doctor._collected(lake, now + 2 * GRACE, is_agreed=False)
    assert listed.seen == "incomplete upload of part-0.parquet would be removed with --yes"
    assert len(files.uploads()) == 1
    list(doctor._collected(lake, now + 2 * GRACE, is_agreed=True))
    assert files.uploads() == []


@pytest.mark.s3
@pytest.mark.fault(row=47, fault="object deleted from a bucket", promise="doctor --deep names it")
def test_a_deleted_object_of_a_bucket_is_named(house: House, s3_options: dict[str, str]) -> None:
    lake = Lake("s3://lake/deep", storage_options=s3_options)
    rows = house.lake.read(trusted.FxRates)
    lake.replace(trusted.FxRates, rows, Window.of_days(DAYS[0], DAYS[-1]))
    proof = prove(lake, trusted.FxRates)
    assert (proof.errors, proof.n_proven, proof.n_files) == ([], 360, 3)
    path = lake.live(trusted.FxRates).filter(day=MIDDLE)["path"][0]
    files_of(lake, trusted.FxRates).remove(path)
    (error,) = prove(lake, trusted.FxRates).errors
    assert error.what == f"data file {path} is gone; 120 rows cannot be read"
