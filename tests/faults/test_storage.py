"""The store misbehaves, or a writer meets another one: rows 34 to 39 and 46, on a real S3 server behind a proxy."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable

from crypto_assets.commands.sql import engine
from crypto_assets.errors import NeedsYouError, TransientError
from crypto_assets.resources import lake as lake_module
from crypto_assets.resources.clock import FixedClock
from crypto_assets.resources.inspection import prove
from crypto_assets.resources.lake import Lake
from crypto_assets.tables.raw import RawCoincapRates
from crypto_assets.tables.refined import DimExchange
from crypto_assets.tables.trusted import FxRates
from tests.faults.frames import DAY, NEXT, WHOLE_DAY, answers, exchanges, rates
from tests.faults.proxy import Fault, Proxy
from tests.faults.seaweed import BUCKET, Store
from tests.rows import NOON

pytestmark = [pytest.mark.s3, pytest.mark.timeout(120)]

DATA = r"/date.*\.parquet"
COMMIT = r"_delta_log/\d+\.json"


def again(lake: Lake) -> Lake:
    """The same lake as another process opens it, without waiting between tries."""
    return Lake(lake.root, storage_options=lake.storage_options, run_id="run-2", clock=FixedClock(NOON))


def append(lake: Lake, pull_id: str = "p1", version: int = 1) -> bool:
    return lake.append(RawCoincapRates, answers(pull_id), app="coincap/rates", version=version).is_new


def pulls(lake: Lake) -> list[str]:
    """The pull of each row, in order."""
    return sorted(again(lake).read(RawCoincapRates)["pull_id"])


# ---- 34, 35: the store is busy, or the line breaks ----


@pytest.mark.fault(
    row=34, fault="S3 answers 503 SlowDown or 500 a few times", promise="retried, written once, nobody notices"
)
@pytest.mark.parametrize("path", [COMMIT, DATA], ids=["commit", "data"])
@pytest.mark.parametrize("status", [500, 503])
def test_a_burst_of_errors_is_outlasted(
    far_lake: Lake, bucket_lake: Lake, faults: Proxy, path: str, status: int
) -> None:
    append(far_lake, "p0")
    faults.inject(Fault("status", path=path, status=status, times=3))

    assert append(far_lake, version=2)
    assert len(faults.hits) == 3
    assert pulls(bucket_lake) == ["p0", "p0", "p1", "p1"]


@pytest.mark.fault(
    row=34.1,
    fault="S3 answers 503 for ever",
    promise="given up in bounded time as a transient error that names table and bucket; nothing is half visible",
)
@pytest.mark.parametrize("path", [COMMIT, DATA], ids=["commit", "data"])
def test_a_store_that_stays_busy_is_given_up_and_nothing_is_half_visible(
    far_lake: Lake, bucket_lake: Lake, faults: Proxy, path: str
) -> None:
    append(far_lake, "p0")
    faults.inject(Fault("status", path=path, times=-1))
    started = time.monotonic()

    with pytest.raises(TransientError, match=rf"raw\.coincap_rates: .*s3://{BUCKET}/.*; the table holds whole commits"):
        append(far_lake, version=2)
    assert time.monotonic() - started < 60
    assert pulls(bucket_lake) == ["p0", "p0"]

    faults.clear()
    assert append(far_lake, version=2)
    assert pulls(bucket_lake) == ["p0", "p0", "p1", "p1"]


@pytest.mark.fault(
    row=35, fault="the connection is reset in the middle of an upload", promise="retried, written once, whole"
)
@pytest.mark.parametrize("path", [COMMIT, DATA], ids=["commit", "data"])
@pytest.mark.parametrize("kind", ["reset_body", "drop"])
def test_a_reset_upload_is_sent_again(far_lake: Lake, bucket_lake: Lake, faults: Proxy, path: str, kind: str) -> None:
    append(far_lake, "p0")
    faults.inject(Fault(kind, path=path))  # type: ignore[arg-type]

    assert append(far_lake, version=2)
    assert len(faults.hits) == 1
    assert pulls(bucket_lake) == ["p0", "p0", "p1", "p1"]


@pytest.mark.fault(
    row=35.1, fault="a part of a multipart upload is reset", promise="the part is sent again, the file is whole"
)
def test_a_reset_part_of_a_large_file_is_sent_again(far_lake: Lake, bucket_lake: Lake, faults: Proxy) -> None:
    append(far_lake, "p0")
    bodies = [random.Random(i).randbytes(6_000_000) for i in range(4)]
    frame = answers("p1", 4).with_columns(body=pl.Series(bodies, dtype=pl.Binary))
    faults.inject(Fault("reset_body", path="partNumber="))

    assert far_lake.append(RawCoincapRates, frame, app="coincap/rates", version=2).is_new
    assert len(faults.hits) == 1
    held = again(bucket_lake).read(RawCoincapRates).filter(pull_id="p1").sort("page")
    assert held["body"].to_list() == bodies


# ---- 36: the answer to a commit is lost ----

Write = Callable[[Lake], object]
WRITES: dict[str, Write] = {
    "append": append,
    "replace": lambda lake: lake.replace(FxRates, rates(5, {"euro": 1, "yen": 2}), WHOLE_DAY),
    "merge": lambda lake: lake.merge(DimExchange, exchanges({"kraken": "Kraken", "gdax": "GDAX"})),
}
LOST = {
    "reset after it was applied": [Fault("apply_drop")],
    "500 after it was applied": [Fault("apply_status", status=500, code="InternalError")],
    "503 after it was applied": [Fault("apply_status", status=503, code="SlowDown")],
    "412 after it was applied": [Fault("apply_status", status=412, code="PreconditionFailed")],
    "and so is the look whether it landed": [
        Fault("apply_drop"),
        Fault("drop", method="GET", path="_delta_log", times=2),
    ],
}


@pytest.mark.fault(
    row=36,
    fault="S3 applies a commit and its answer is lost (reset, 500, 503, 412)",
    promise="each row is there exactly once, whatever the kind of write",
)
@pytest.mark.parametrize("lost", LOST.values(), ids=LOST.keys())
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_a_commit_whose_answer_is_lost_is_there_once(
    far_lake: Lake, bucket_lake: Lake, faults: Proxy, write: Write, lost: list[Fault]
) -> None:
    # The table exists, and holds something else.
    append(far_lake, "p0", version=0)
    far_lake.replace(FxRates, rates(5, {"euro": 9}), WHOLE_DAY)
    far_lake.merge(DimExchange, exchanges({"gdax": "old"}))
    faults.inject(*lost)

    write(far_lake)

    assert len(faults.hits) == sum(fault.times for fault in lost)
    reader = again(bucket_lake)
    if write is append:
        assert pulls(bucket_lake) == ["p0", "p0", "p1", "p1"]
        assert reader.landed(RawCoincapRates, "coincap/rates") == 1
    elif write is WRITES["replace"]:
        assert reader.read(FxRates).select("currency_id", "rate_usd").rows() == [("euro", 1), ("yen", 2)]
    else:
        assert reader.read(DimExchange).select("exchange_id", "name").sort("exchange_id").rows() == [
            ("gdax", "GDAX"),
            ("kraken", "Kraken"),
        ]


@pytest.mark.fault(
    row=36.1, fault="the answer to a table's first commit is lost", promise="the table is made once and written once"
)
def test_a_table_whose_making_was_not_answered_is_made_once(far_lake: Lake, bucket_lake: Lake, faults: Proxy) -> None:
    faults.inject(Fault("apply_drop", path=r"_delta_log/0+\.json"))

    assert append(far_lake)
    assert len(faults.hits) == 1
    assert pulls(bucket_lake) == ["p1", "p1"]


# ---- 37: conflicts ----


@pytest.mark.fault(
    row=37, fault="S3 answers a commit with 409 ConditionalRequestConflict", promise="tried again, written once"
)
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_a_conditional_conflict_is_tried_again(far_lake: Lake, bucket_lake: Lake, faults: Proxy, write: Write) -> None:
    append(far_lake, "p0", version=0)
    faults.inject(Fault("status", status=409, code="ConditionalRequestConflict", times=3, path=r"_delta_log/0+1\.json"))

    write(far_lake)

    reader = again(bucket_lake)
    assert pulls(bucket_lake) == (["p0", "p0", "p1", "p1"] if write is append else ["p0", "p0"])
    assert len(reader.read(FxRates)) == (2 if write is WRITES["replace"] else 0)
    assert len(reader.read(DimExchange)) == (2 if write is WRITES["merge"] else 0)


# ---- 38: stalls ----


@pytest.mark.fault(
    row=38, fault="S3 accepts a read and never answers", promise="cut off after seconds, asked again, read whole"
)
@pytest.mark.parametrize("path", [COMMIT, DATA], ids=["log", "data"])
def test_a_stalled_read_is_cut_off_and_asked_again(far_lake: Lake, bucket_lake: Lake, faults: Proxy, path: str) -> None:
    append(bucket_lake)
    faults.inject(Fault("stall", method="GET", path=path, seconds=60))
    started = time.monotonic()

    assert far_lake.read(RawCoincapRates)["pull_id"].to_list() == ["p1", "p1"]
    assert len(faults.hits) == 1
    assert time.monotonic() - started < 25


@pytest.mark.fault(row=38.1, fault="an answer of S3 ends in the middle", promise="asked again, read whole")
@pytest.mark.parametrize("path", [COMMIT, DATA], ids=["log", "data"])
def test_a_truncated_read_is_asked_again(far_lake: Lake, bucket_lake: Lake, faults: Proxy, path: str) -> None:
    append(bucket_lake)
    faults.inject(Fault("truncate", method="GET", path=path))

    assert far_lake.read(RawCoincapRates)["pull_id"].to_list() == ["p1", "p1"]
    assert len(faults.hits) == 1


@pytest.mark.fault(
    row=38.2,
    fault="the store goes away between planning a read and reading",
    promise="a transient error in one line that names the table; no library's panic",
)
def test_a_store_that_goes_away_in_a_read_is_one_clear_line(far_lake: Lake, bucket_lake: Lake, faults: Proxy) -> None:
    append(bucket_lake)
    faults.inject(Fault("status", method="GET|HEAD", path=DATA, times=-1))

    with pytest.raises(TransientError, match=r"raw\.coincap_rates: .*; nothing was read in part; ") as told:
        far_lake.read(RawCoincapRates)
    assert "\n" not in str(told.value)


@pytest.mark.fault(
    row=38.3,
    fault="the store refuses to give a table's files while it is written",
    promise="a transient error; the rows there are not taken for damaged ones and overwritten",
)
@pytest.mark.parametrize("name", ["replace", "merge"])
def test_rows_that_cannot_be_read_now_are_not_overwritten_as_damaged(
    far_lake: Lake, bucket_lake: Lake, faults: Proxy, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Polars gives up after ten seconds; once is enough here.
    monkeypatch.setattr(lake_module, "_TRIES", 1)
    far_lake.replace(FxRates, rates(5, {"euro": 9}), WHOLE_DAY)
    far_lake.merge(DimExchange, exchanges({"gdax": "old"}))
    faults.inject(Fault("status", method="GET|HEAD", path=r"\.parquet", times=-1))

    with pytest.raises(TransientError, match="the table holds whole commits only"):
        WRITES[name](far_lake)
    assert not [request for request in faults.seen if request.startswith("PUT")]

    reader = again(bucket_lake)
    assert reader.read(FxRates).select("currency_id", "rate_usd").rows() == [("euro", 9)]
    assert reader.read(DimExchange).select("exchange_id", "name").rows() == [("gdax", "old")]


# ---- 39: what a person must mend ----


@pytest.mark.fault(
    row=39,
    fault="S3 credentials expired, are wrong or lack a permission; the bucket is missing",
    promise="one clear line that says which, at once, without a retry",
)
@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("ExpiredToken", "the credentials have expired"),
        ("AccessDenied", "the store denies access"),
        ("InvalidAccessKeyId", "the store does not know the access key"),
        ("SignatureDoesNotMatch", "the store refuses the secret key"),
    ],
)
@pytest.mark.parametrize("method", ["PUT", "GET"])
def test_refused_credentials_are_named(
    far_lake: Lake, bucket_lake: Lake, faults: Proxy, code: str, what: str, method: str
) -> None:
    append(far_lake, "p0")
    faults.inject(Fault("status", method=method, path=".", status=403, code=code, times=-1))

    with pytest.raises(NeedsYouError, match=what):
        append(far_lake, version=2)
    assert len(faults.hits) <= 3
    assert pulls(bucket_lake) == ["p0", "p0"]


@pytest.mark.fault(
    row=39,
    fault="S3 credentials expired, are wrong or lack a permission; the bucket is missing",
    promise="one clear line that says which, at once, without a retry",
)
def test_the_servers_own_refusals_are_named(store: Store) -> None:
    def lake(store: Store, bucket: str = BUCKET) -> Lake:
        return Lake(f"s3://{bucket}/refused", storage_options=store.options())

    with pytest.raises(NeedsYouError, match="the store does not know the access key"):
        append(lake(dataclasses.replace(store, key="nobody")))
    with pytest.raises(NeedsYouError, match="the store refuses the secret key"):
        append(lake(dataclasses.replace(store, secret="wrong")))
    with pytest.raises(NeedsYouError, match="the bucket does not exist"):
        lake(store, "no-such-bucket").probe()


# What AWS answers for a bucket of another region: a refusal of the signature, or a redirect without a Location.
REGION = {
    "the signature": Fault(
        "status",
        status=400,
        code="AuthorizationHeaderMalformed",
        message="The authorization header is malformed; the region 'us-east-1' is wrong; expecting 'eu-central-1'",
    ),
    "a redirect": Fault("status", status=301, code="PermanentRedirect", message="use the specified endpoint"),
}


@pytest.mark.fault(row=39.1, fault="AWS_REGION is not the bucket's", promise="one clear line that says so, at once")
@pytest.mark.parametrize("refusal", REGION.values(), ids=REGION.keys())
@pytest.mark.parametrize("path", [".", "list-type=2"], ids=["all", "listing"])
def test_a_wrong_region_is_named(far_lake: Lake, bucket_lake: Lake, faults: Proxy, refusal: Fault, path: str) -> None:
    append(bucket_lake, "p0")
    faults.inject(dataclasses.replace(refusal, method="GET|PUT|HEAD", path=path, times=-1))
    started = time.monotonic()

    with pytest.raises(NeedsYouError, match="the bucket is in another region") as told:
        far_lake.read(RawCoincapRates)
    if refusal.code == "AuthorizationHeaderMalformed":
        assert "set AWS_REGION=eu-central-1" in str(told.value)
    with pytest.raises(NeedsYouError, match="the bucket is in another region"):
        append(far_lake, version=2) if path == "." else far_lake.require_whole(RawCoincapRates)
    with pytest.raises(NeedsYouError, match="the bucket is in another region"), engine(far_lake) as asked:
        asked.query("select count(*) from raw.coincap_rates")
    assert time.monotonic() - started < 10
    assert pulls(bucket_lake) == ["p0", "p0"]


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A profile whose ``credential_process`` prints this file, and no other credentials."""
    file = tmp_path / "keys.json"
    (tmp_path / "config").write_text(f"[profile lake]\ncredential_process = cat {file}\nregion = us-east-1\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "lake")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return file


def give(source: Path, store: Store, lifetime: dt.timedelta = dt.timedelta(minutes=5)) -> None:
    """Let the source give the store's keys. Five minutes are so short that boto3 asks again each time."""
    ends = (dt.datetime.now(dt.UTC) + lifetime).isoformat()
    keys = {"Version": 1, "AccessKeyId": store.key, "SecretAccessKey": store.secret, "Expiration": ends}
    source.write_text(json.dumps(keys))


def keyless(store: Store, faults: Proxy, prefix: str) -> Lake:
    """The lake behind the proxy, without keys in its options."""
    options = {name: told for name, told in store.options(faults.port).items() if "KEY" not in name}
    return Lake(f"s3://{BUCKET}/{prefix}", storage_options=options)


renewed = pytest.mark.fault(
    row=39.2,
    fault="credentials of a profile end, and are renewed, while a process lives",
    promise="the same lake goes on with the new ones; until then one clear line",
)


@renewed
def test_renewed_credentials_are_taken_up_without_a_restart(
    source: Path, store: Store, faults: Proxy, prefix: str
) -> None:
    lake = keyless(store, faults, prefix)
    with pytest.raises(NeedsYouError, match="there are no credentials to be had"):
        append(lake)
    give(source, dataclasses.replace(store, key="ended", secret="ended"))
    with pytest.raises(NeedsYouError, match="the store does not know the access key"):
        append(lake)
    give(source, store)
    assert append(lake)
    faults.inject(Fault("status", method="GET|PUT", path=".", status=403, code="ExpiredToken", times=-1))
    with pytest.raises(NeedsYouError, match="the credentials have expired"):
        append(lake, "p2", 2)
    faults.clear()
    give(source, store, dt.timedelta(hours=6))
    assert append(lake, "p2", 2)
    assert len(lake.read(RawCoincapRates)) == 4
    assert prove(lake, RawCoincapRates).n_proven == 4
    with engine(lake) as asked:
        assert asked.query("select count(*) as n from raw.coincap_rates")["n"].to_list() == [4]


@renewed
def test_a_source_that_gives_ended_credentials_is_one_line(
    source: Path, store: Store, faults: Proxy, prefix: str
) -> None:
    give(source, store, -dt.timedelta(minutes=5))
    with pytest.raises(NeedsYouError, match="the credentials have expired"):
        append(keyless(store, faults, prefix))


@pytest.mark.fault(
    row=39.3,
    fault="keys in the credentials file are changed while a process lives",
    promise="the next run, which makes its lake anew, has them",
)
def test_the_next_run_has_the_keys_that_were_changed(source: Path, store: Store, faults: Proxy, prefix: str) -> None:
    (source.parent / "config").unlink()
    for key, is_good in (("ended", False), (store.key, True)):
        told = f"[lake]\naws_access_key_id = {key}\naws_secret_access_key = {store.secret}\n"
        (source.parent / "credentials").write_text(told)
        if is_good:
            assert append(keyless(store, faults, prefix))
        else:
            with pytest.raises(NeedsYouError, match="the store does not know the access key"):
                append(keyless(store, faults, prefix))


# ---- 46: maintenance beside readers and writers ----


@pytest.mark.fault(
    row=46,
    fault="a table is compacted and vacuumed while others read and append",
    promise="a reader keeps its snapshot, an append is not refused, no row changes",
)
def test_maintenance_disturbs_neither_readers_nor_writers(bucket_lake: Lake) -> None:
    for i in range(1, 6):
        append(bucket_lake, f"p{i}", i)
    planned = again(bucket_lake).scan(RawCoincapRates)
    writer = again(bucket_lake)
    writer.state(RawCoincapRates)

    assert bucket_lake.maintain(RawCoincapRates, NEXT)["compacted"] == 5
    assert append(writer, "p6", 6)

    assert sorted(set(planned.collect()["pull_id"])) == ["p1", "p2", "p3", "p4", "p5"]
    assert pulls(bucket_lake) == sorted(2 * [f"p{i}" for i in range(1, 7)])


@pytest.mark.fault(
    row=46.1,
    fault="a handle opened long ago vacuums",
    promise="it reloads first: no file of a later commit is removed",
)
def test_a_stale_handle_removes_no_newer_file(lake: Lake) -> None:
    append(lake, "p1", 1)
    lake.state(RawCoincapRates)
    other = again(lake)
    for i in range(2, 5):
        append(other, f"p{i}", i)

    lake.maintain(RawCoincapRates, DAY)

    assert pulls(lake) == sorted(2 * [f"p{i}" for i in range(1, 5)])
    assert DeltaTable(lake.uri(RawCoincapRates)).version() == 4
