"""Binance's archive in the sandbox: files of the tape, their checksums, and what goes wrong with them."""

from __future__ import annotations

import csv
import hashlib
import io
import zipfile
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from crypto_assets.sandbox import Events, Fault, Hole, Market, Outage, Restatement, Sandbox, serve
from crypto_assets.sandbox.tape import microseconds, tape_of

NOW = datetime(2025, 3, 1, 12, tzinfo=UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
MARKET = Market(7)
TAPE = tape_of(MARKET, Events())
BTC = "binance:BTC/USDT"
DAILY = "daily/klines/BTCUSDT/1m/BTCUSDT-1m-{}.zip"
MONTHLY = "monthly/klines/BTCUSDT/1h/BTCUSDT-1h-{}.zip"


def get(sandbox: Sandbox, http: httpx.Client, path: str) -> httpx.Response:
    return http.get(f"{sandbox.url}/binance_archive/data/spot/{path}")


def file(sandbox: Sandbox, http: httpx.Client, path: str) -> list[list[str]]:
    """The rows of a file whose checksum was compared."""
    answer, told = get(sandbox, http, path), get(sandbox, http, path + ".CHECKSUM")
    assert (answer.status_code, told.status_code) == (200, 200), answer.text
    name = path.rpartition("/")[2]
    assert told.text == f"{hashlib.sha256(answer.content).hexdigest()}  {name}\n"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as packed:
        assert packed.namelist() == [name.replace(".zip", ".csv")]
        return list(csv.reader(io.StringIO(packed.read(packed.namelist()[0]).decode())))


def stated(row: list[str], unit: int) -> dict[str, Any]:
    return {
        "opened_at": datetime.fromtimestamp(int(row[0]) * unit // 1_000_000, UTC),
        **{name: Decimal(row[n]) for n, name in enumerate(("open", "high", "low", "close", "volume_base"), 1)},
        "volume_quote": Decimal(row[7]),
        "n_trades": int(row[8]),
        "taker_buy_base": Decimal(row[9]),
        "taker_buy_quote": Decimal(row[10]),
    }


def test_a_day_is_the_tapes_day_in_every_field(sandbox: Sandbox, http: httpx.Client) -> None:
    day = datetime(2025, 2, 27, tzinfo=UTC)
    rows = file(sandbox, http, DAILY.format("2025-02-27"))
    assert [stated(row, 1) for row in rows] == TAPE.candles(BTC, "1m", day, day + DAY, is_filled=True).records()
    assert len(rows) == 1440


def test_milliseconds_become_microseconds_on_the_first_of_2025(sandbox: Sandbox, http: httpx.Client) -> None:
    before, after = (file(sandbox, http, MONTHLY.format(month)) for month in ("2024-12", "2025-01"))
    assert before[-1][0] == "1735686000000"
    assert before[-1][6] == "1735689599999"
    assert after[0][0] == "1735689600000000"
    assert after[0][6] == "1735693199999999"
    start = datetime(2024, 12, 1, tzinfo=UTC)
    series = [stated(row, 1000) for row in before] + [stated(row, 1) for row in after]
    truth = TAPE.candles(BTC, "1h", start, datetime(2025, 2, 1, tzinfo=UTC), is_filled=True).records()
    assert series == truth
    assert len(series) == 62 * 24
    trades = file(sandbox, http, "daily/aggTrades/BTCUSDT/BTCUSDT-aggTrades-2024-12-31.zip")
    assert {len(row[5]) for row in trades} == {13}


def test_rows_are_written_as_the_recorded_files_are(sandbox: Sandbox, http: httpx.Client, recorded: Path) -> None:
    folder = recorded.parent / "binance"

    def form(row: list[str]) -> list[tuple[str, int]]:
        """What a field is made of and how many decimals it has; amounts differ in size."""
        return [("0" if text.strip("0123456789.") == "" else text, len(text.partition(".")[2])) for text in row]

    for month, digits in (("2024-12", 13), ("2025-01", 16)):
        theirs = list(csv.reader((folder / f"BTCUSDT-1h-{month}.csv").read_text().splitlines()))
        ours = file(sandbox, http, MONTHLY.format(month))
        assert form(ours[5]) == form(theirs[5])
        assert [row[0] for row in ours] == [row[0] for row in theirs]
        assert [row[6] for row in ours] == [row[6] for row in theirs]
        assert {len(row[0]) for row in ours} == {digits}


def test_aggregate_trades_are_the_tapes(sandbox: Sandbox, http: httpx.Client) -> None:
    day = datetime(2025, 2, 27, tzinfo=UTC)
    rows = file(sandbox, http, "daily/aggTrades/BTCUSDT/BTCUSDT-aggTrades-2025-02-27.zip")
    truth = TAPE.trades(BTC, day, day + DAY).records()
    assert len(rows) == len(truth)
    for row, trade in zip(rows, truth, strict=True):
        assert [int(row[n]) for n in (0, 3, 4, 5)] == [
            trade["trade_id"],
            trade["first_id"],
            trade["last_id"],
            trade["traded_us"],
        ]
        assert (Decimal(row[1]), Decimal(row[2])) == (trade["price"], trade["quantity"])
        assert row[6:] == ["True" if trade["taker_side"] == "sell" else "False", "True"]


@pytest.mark.parametrize(
    ("path", "now", "status"),
    [
        (DAILY.format("2025-02-28"), datetime(2025, 2, 28, 23, 59, tzinfo=UTC), 404),
        (DAILY.format("2025-02-28"), datetime(2025, 3, 1, tzinfo=UTC), 200),
        # The first Monday after February 2025 is the 3rd; September 2025 begins on a Monday.
        (MONTHLY.format("2025-02"), datetime(2025, 3, 2, 23, 59, tzinfo=UTC), 404),
        (MONTHLY.format("2025-02"), datetime(2025, 3, 3, tzinfo=UTC), 200),
        (MONTHLY.format("2025-08"), datetime(2025, 9, 1, tzinfo=UTC), 200),
        (DAILY.format("2017-12-31"), NOW, 404),
        (DAILY.format("2025-02-30"), NOW, 404),
        (DAILY.format("2025-02"), NOW, 404),
        (MONTHLY.format("2025-01-01"), NOW, 404),
        ("daily/klines/NOBODY/1m/NOBODY-1m-2025-02-01.zip", NOW, 404),
        ("daily/klines/BTCUSDT/7m/BTCUSDT-7m-2025-02-01.zip", NOW, 404),
        ("daily/klines/BTCUSDT/1m/ETHUSDT-1m-2025-02-01.zip", NOW, 404),
        ("daily/klines/BTCUSDT/1M/BTCUSDT-1M-2025-02-01.zip", NOW, 404),
        ("monthly/klines/BTCUSDT/1mo/BTCUSDT-1mo-2025-01.zip", NOW, 200),
        ("daily/klines/BTCUSDT/1mo/BTCUSDT-1mo-2025-01-01.zip", NOW, 404),
        ("daily/klines/SHIBUSDT/1h/SHIBUSDT-1h-2021-05-09.zip", NOW, 404),
        ("daily/klines/SHIBUSDT/1h/SHIBUSDT-1h-2021-05-10.zip", NOW, 200),
        ("daily/klines/DAIUSDT/1h/DAIUSDT-1h-2024-08-07.zip", NOW, 404),
        ("daily/trades/BTCUSDT/BTCUSDT-trades-2025-02-01.zip", NOW, 404),
    ],
)
def test_a_file_is_there_from_its_day_on(
    sandbox: Sandbox, http: httpx.Client, path: str, now: datetime, status: int
) -> None:
    sandbox.set_now(now)
    assert get(sandbox, http, path).status_code == status
    assert get(sandbox, http, path + ".CHECKSUM").status_code == status


def test_the_same_file_has_the_same_bytes_in_another_sandbox(sandbox: Sandbox, http: httpx.Client) -> None:
    path = DAILY.format("2025-02-27")
    with serve(Market(7)) as other:
        other.set_now(NOW + 300 * DAY)
        assert get(other, http, path).content == get(sandbox, http, path).content
    with serve(Market(8)) as another:
        another.set_now(NOW)
        assert get(another, http, path).content != get(sandbox, http, path).content


def test_a_restated_day_is_first_wrong_and_then_the_truth(sandbox: Sandbox, http: httpx.Client) -> None:
    day, at = datetime(2025, 1, 15, tzinfo=UTC), datetime(2025, 2, 20, tzinfo=UTC)
    truth = TAPE.candles(BTC, "1h", day - DAY, day + 2 * DAY, is_filled=True).records()
    sandbox.set_events(Events(restatements=(Restatement(BTC, day, day + DAY, at),)))
    sandbox.set_now(at - HOUR)
    old, old_trades = (file(sandbox, http, path) for path in _day_and_trades())
    old_month = [stated(row, 1) for row in file(sandbox, http, MONTHLY.format("2025-01"))]
    sandbox.set_now(at)
    new, new_trades = (file(sandbox, http, path) for path in _day_and_trades())
    new_month = [stated(row, 1) for row in file(sandbox, http, MONTHLY.format("2025-01"))]
    assert [stated(row, 1) for row in new] == truth[24:48]
    was = [stated(row, 1) for row in old]
    assert [row["opened_at"] for row in was] == [row["opened_at"] for row in truth[24:48]]
    assert all(one["volume_base"] < other["volume_base"] for one, other in zip(was, truth[24:48], strict=True))
    assert 0.92 < len(old_trades) / len(new_trades) < 0.96
    kept = {row[0] for row in old_trades}
    assert [row for row in new_trades if row[0] in kept] == old_trades
    # The month's file holds the same wrong day, and no other.
    assert old_month[14 * 24 : 15 * 24] == was
    assert old_month[: 14 * 24] == new_month[: 14 * 24]
    assert old_month[15 * 24 :] == new_month[15 * 24 :]
    assert new_month[13 * 24 : 16 * 24] == truth


def _day_and_trades() -> tuple[str, str]:
    return (
        DAILY.replace("1m", "1h").format("2025-01-15"),
        "daily/aggTrades/BTCUSDT/BTCUSDT-aggTrades-2025-01-15.zip",
    )


def test_restated_by_a_fault_the_file_changes_and_its_checksum_with_it(sandbox: Sandbox, http: httpx.Client) -> None:
    path, other = DAILY.format("2025-02-01"), DAILY.format("2025-02-02")
    before, before_other = get(sandbox, http, path).content, get(sandbox, http, other).content
    sandbox.set_faults([Fault(kind="restated", endpoint="binance_archive.klines", subject="2025-02-01")])
    assert file(sandbox, http, path) != []  # its checksum was compared
    assert get(sandbox, http, path).content != before
    assert get(sandbox, http, other).content == before_other


def test_a_checksum_may_be_of_another_file_or_a_day_be_missing(sandbox: Sandbox, http: httpx.Client) -> None:
    path = DAILY.format("2025-02-01")
    good = get(sandbox, http, path)
    sandbox.set_faults([Fault(kind="checksum_mismatch", endpoint="binance_archive.klines")])
    told = get(sandbox, http, path + ".CHECKSUM").text.split()
    assert told[0] != hashlib.sha256(good.content).hexdigest()
    assert (len(told[0]), told[1]) == (64, "BTCUSDT-1m-2025-02-01.zip")
    assert get(sandbox, http, path).content == good.content
    sandbox.set_faults([Fault(kind="missing_day", endpoint="binance_archive.klines", subject="1m-2025-02-01")])
    assert get(sandbox, http, path).status_code == 404
    assert get(sandbox, http, path + ".CHECKSUM").status_code == 404
    assert get(sandbox, http, DAILY.format("2025-02-02")).status_code == 200


@pytest.mark.parametrize(
    ("kind", "status"), [("geo_block", 451), ("server_error", 500), ("rate_limited_minute", 429), ("html", 200)]
)
def test_the_archive_refuses_on_demand(sandbox: Sandbox, http: httpx.Client, kind: Any, status: int) -> None:
    sandbox.set_faults([Fault(kind=kind, endpoint="binance_archive.klines", times=1)])
    path = DAILY.format("2025-02-01")
    answer = get(sandbox, http, path)
    assert (answer.status_code, answer.content[:2] == b"PK") == (status, False)
    assert get(sandbox, http, path).content[:2] == b"PK"
    assert sandbox.calls()["calls"] == {"binance_archive.klines": 2}


def test_files_break_off_and_are_spoiled_on_demand(sandbox: Sandbox, http: httpx.Client) -> None:
    path = DAILY.replace("1m", "1h").format("2025-02-01")
    clean = file(sandbox, http, path)
    whole = get(sandbox, http, path).content

    def on(kind: Any) -> None:
        sandbox.set_faults([Fault(kind=kind, endpoint="binance_archive.klines")])

    on("truncated")
    assert get(sandbox, http, path).content == whole[: len(whole) // 2]
    assert get(sandbox, http, path + ".CHECKSUM").text.split()[0] == hashlib.sha256(whole).hexdigest()
    on("short_body")
    with pytest.raises(httpx.RemoteProtocolError):
        get(sandbox, http, path)
    on("duplicate_rows")
    assert file(sandbox, http, path) == [*clean, *clean[:2]]
    on("negative_price")
    assert file(sandbox, http, path)[12][4] == "-" + clean[12][4]
    on("out_of_order")
    assert file(sandbox, http, path) == clean[::-1]
    on("other_unit")
    assert [row[0] for row in file(sandbox, http, path)] == [row[0][:-3] for row in clean]
    on("empty_list")
    assert file(sandbox, http, path) == []


def test_holes_are_rows_left_out_or_files_that_are_not_there(sandbox: Sandbox, http: httpx.Client) -> None:
    day = datetime(2025, 1, 10, tzinfo=UTC)
    holes = (
        Hole(BTC, day, day + DAY, ("daily",)),
        Hole(BTC, day + DAY, day + DAY + HOUR, ("daily", "monthly"), healed_at=NOW + DAY),
    )
    sandbox.set_events(Events(holes=holes))
    hourly = DAILY.replace("1m", "1h")
    assert get(sandbox, http, hourly.format("2025-01-10")).status_code == 404
    assert len(file(sandbox, http, hourly.format("2025-01-11"))) == 23
    assert len(file(sandbox, http, MONTHLY.format("2025-01"))) == 31 * 24 - 1
    sandbox.set_now(NOW + DAY)
    assert len(file(sandbox, http, hourly.format("2025-01-11"))) == 24
    assert len(file(sandbox, http, MONTHLY.format("2025-01"))) == 31 * 24
    assert get(sandbox, http, hourly.format("2025-01-10")).status_code == 404


def test_a_day_of_an_outage_has_no_file_and_no_rows_in_its_month(sandbox: Sandbox, http: httpx.Client) -> None:
    day = datetime(2025, 1, 10, tzinfo=UTC)
    sandbox.set_events(Events(outages=(Outage("binance", day, day + DAY),)))
    assert get(sandbox, http, DAILY.format("2025-01-10")).status_code == 404
    rows = file(sandbox, http, MONTHLY.format("2025-01"))
    assert len(rows) == 30 * 24
    assert not [row for row in rows if int(row[0]) // 86_400_000_000 == microseconds(day) // 86_400_000_000]
