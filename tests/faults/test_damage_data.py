"""Data files that are gone, cut short, flipped or nobody's: named before anything is read, and the advice works."""

from __future__ import annotations

import os
import random
import time
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from crypto_assets.commands import doctor
from crypto_assets.errors import DataError, NeedsYouError
from crypto_assets.resources.inspection import GRACE, files_of, prove
from crypto_assets.resources.lake import Lake
from crypto_assets.tables import ALL_TABLES, quality, raw, refined, trusted
from crypto_assets.tables.contract import Contract
from crypto_assets.tables.window import HOUR, Window
from tests.faults.damage import DAYS, HOUSEHOLD, MIDDLE, House, faults_of, move_to_bucket, same
from tests.faults.proxy import Fault, Proxy
from tests.faults.seaweed import BUCKET, Store

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
    assert said.out.count("rows proven by sha256") == len(HOUSEHOLD) + 3
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


# ---- the same in a bucket ----


@pytest.fixture
def bucket_house(house: House, store: Store, prefix: str, monkeypatch: pytest.MonkeyPatch) -> House:
    return move_to_bucket(house, f"s3://{BUCKET}/{prefix}", store.options(), monkeypatch)


def cut(house: House, contract: type[Contract], day: date = MIDDLE) -> tuple[str, int]:
    """Leave half of a data file of the table: its path and its size before."""
    files, path = house.files(contract), house.path(contract, day)
    whole = files.read(path)
    files.write(path, whole[: len(whole) // 2])
    return path, len(whole)


@pytest.mark.s3
@pytest.mark.fault(row=48, fault="object of a bucket cut short", promise="refused by its size before reading; rebuilt")
@pytest.mark.parametrize("contract", [trusted.FxRates, refined.DimAsset], ids=lambda c: c.table.full_name)
def test_a_truncated_object_is_refused_before_reading_and_the_advice_brings_its_rows_back(
    bucket_house: House, contract: type[Contract]
) -> None:
    before = bucket_house.content()
    path, size = cut(bucket_house, contract)

    error = bucket_house.refusal(contract)
    assert f"data file {path} has {size // 2} bytes, not {size}; " in error.what
    with pytest.raises(DataError, match="bytes, not"):
        bucket_house.lake.scan(contract)
    said = bucket_house.say("doctor", "--deep")
    assert said.code == 1
    assert f"error: {error.what} — {contract.table.full_name}" in said.err
    bucket_house.follow(error, contract)
    assert same(before, bucket_house.content()) == []
    assert bucket_house.say("doctor").code == 0


@pytest.mark.s3
@pytest.mark.fault(row=48, fault="object of a bucket cut short", promise="the other days are read and written on")
def test_a_damaged_object_spares_the_other_days(bucket_house: House) -> None:
    cut(bucket_house, trusted.FxRates)
    lake = bucket_house.lake

    good = lake.read(trusted.FxRates, Window.of_day(DAYS[0]))
    assert len(good) == 120
    assert lake.replace(trusted.FxRates, good[:-1], Window.of_day(DAYS[0])).is_new
    assert len(lake.read(trusted.FxRates, Window.of_day(DAYS[0]))) == 119
    opens = Window.of_day(MIDDLE).start + 9 * HOUR
    with pytest.raises(DataError, match="bytes, not"):
        lake.replace(trusted.FxRates, good[:0], Window(opens, opens + HOUR))


@pytest.mark.s3
@pytest.mark.fault(row=48, fault="object of a bucket cut short", promise="found by one request a table, not one a file")
def test_a_table_is_listed_once_before_it_is_read(bucket_house: House, store: Store, faults: Proxy) -> None:
    far = replace(bucket_house, options=store.options(faults.port)).lake
    assert len(far.live(trusted.FxRates)) == 3
    faults.clear()
    far.scan(trusted.FxRates)
    asked = [request for request in faults.seen if "_delta_log" not in request]
    assert [("list-type=2" in request, "HEAD" in request) for request in asked] == [(True, False)]


@pytest.mark.fault(row=48, fault="SQL over a table with a truncated file", promise="refused by its size before reading")
@pytest.mark.parametrize("place", ["directory", pytest.param("bucket", marks=pytest.mark.s3)])
def test_sql_refuses_a_truncated_file_as_reading_does(place: str, request: pytest.FixtureRequest) -> None:
    house: House = request.getfixturevalue("house" if place == "directory" else "bucket_house")
    path, size = cut(house, trusted.FxRates)
    asked = f"select count(*) as n from trusted.fx_rates where date = date '{DAYS[0]}'"
    said = house.say("sql", asked)
    assert (said.code, said.out) == (1, "")
    assert f"error: data file {path} has {size // 2} bytes, not {size}; 120 rows cannot be read" in said.err
    house.follow(said.err)
    assert house.say("sql", "--csv", asked).out.split() == ["n", "120"]


@pytest.mark.s3
@pytest.mark.fault(
    row=47, fault="object deleted from a bucket", promise="read refuses naming it; doctor --deep names it"
)
def test_a_deleted_object_of_a_bucket_is_named(bucket_house: House) -> None:
    lake = bucket_house.lake
    proof = prove(lake, trusted.FxRates)
    assert (proof.errors, proof.n_proven, proof.n_files) == ([], 360, 3)
    path = bucket_house.path(trusted.FxRates)
    bucket_house.files(trusted.FxRates).remove(path)

    assert bucket_house.refusal(trusted.FxRates).what == f"data file {path} is gone; 120 rows cannot be read"
    (error,) = prove(lake, trusted.FxRates).errors
    assert error.what == f"data file {path} is gone; 120 rows cannot be read"


@pytest.mark.s3
@pytest.mark.fault(row=55, fault="stray object in a bucket", promise="ignored by readers, reported, removed by --gc")
def test_a_stray_object_is_ignored_reported_and_removed_when_it_is_old(bucket_house: House) -> None:
    before = bucket_house.lake.read(trusted.FxRates)
    files = bucket_house.files(trusted.FxRates)
    stray = f"date={MIDDLE}/part-00000-stray.parquet"
    files.write(stray, files.read(bucket_house.path(trusted.FxRates)))
    others = files.all().keys() - {stray}
    files_of(bucket_house.lake).write("trusted/mine/notes.txt", b"mine")

    assert bucket_house.lake.read(trusted.FxRates).equals(before)
    said = bucket_house.say("doctor", "--deep")
    assert said.code == 0
    assert f"1 files that no version names, e.g. {stray}" in said.out
    assert "left alone: trusted/mine" in said.out
    (young,) = doctor._collected(bucket_house.lake, datetime.now(UTC), is_agreed=True)
    assert young.seen == f"{stray} kept: younger than 7 days"
    (found,) = doctor._collected(bucket_house.lake, datetime.now(UTC) + 2 * GRACE, is_agreed=False)
    assert found.seen == f"{stray} would be removed with --yes"
    list(doctor._collected(bucket_house.lake, datetime.now(UTC) + 2 * GRACE, is_agreed=True))
    assert files.all().keys() == others
    assert bucket_house.lake.read(trusted.FxRates).equals(before)


@pytest.mark.s3
@pytest.mark.fault(row=41, fault="kill -9 during multipart", promise="the incomplete upload is aborted by doctor --gc")
def test_an_upload_that_was_never_completed_is_listed_and_aborted(bucket_lake: Lake, prefix: str) -> None:
    files = files_of(bucket_lake, trusted.FxRates)
    assert bucket_lake.client is not None
    begun = bucket_lake.client.create_multipart_upload(Bucket=BUCKET, Key=f"{prefix}/trusted/fx_rates/part-0.parquet")
    (upload,) = files.uploads()
    assert upload.upload_id == begun["UploadId"]
    now = upload.began_at

    assert list(doctor._collected(bucket_lake, now, is_agreed=True)) == []
    (listed,) = doctor._collected(bucket_lake, now + 2 * GRACE, is_agreed=False)
    assert listed.seen == "incomplete upload of part-0.parquet would be removed with --yes"
    assert len(files.uploads()) == 1
    list(doctor._collected(bucket_lake, now + 2 * GRACE, is_agreed=True))
    assert files.uploads() == []


@pytest.mark.s3
@pytest.mark.fault(row=47, fault="a store that is gone or refuses", promise="doctor says so in one line, no trace")
def test_a_store_that_refuses_to_list_is_one_line(bucket_house: House, store: Store, faults: Proxy) -> None:
    far = replace(bucket_house, options=store.options(faults.port)).lake
    faults.inject(Fault("status", method="GET", path="list-type=2", status=403, code="AccessDenied", times=-1))
    with pytest.raises(NeedsYouError, match="the store denies access") as told:
        prove(far, trusted.FxRates)
    assert "\n" not in str(told.value)
    with pytest.raises(NeedsYouError, match="the store denies access"):
        far.scan(trusted.FxRates)
