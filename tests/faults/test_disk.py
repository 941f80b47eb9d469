"""The directory of a lake is full, read-only, not ours, or no directory: rows 42 and 43."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest

from crypto_assets.errors import NeedsYouError
from crypto_assets.resources.lake import Lake
from crypto_assets.tables.raw import RawCoincapRates
from tests.faults.frames import answers
from tests.faults.worker import append_as, context, running

pytestmark = pytest.mark.timeout(120)

is_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting and changing users needs root")


@contextmanager
def mounted(folder: Path) -> Iterator[Path]:
    """A file system of 3 MB in memory."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine allows no mounts")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk") as folder:
        yield folder


def append(lake: Lake, version: int, n_bytes: int = 10) -> bool:
    body = pl.Series([random.Random(version).randbytes(n_bytes)] * 2, dtype=pl.Binary)
    frame = answers(f"p{version}").with_columns(body=body)
    return lake.append(RawCoincapRates, frame, app="coincap/rates", version=version).is_new


def pulls(lake: Lake) -> list[str]:
    return sorted(Lake(lake.root).read(RawCoincapRates)["pull_id"])


@is_root
@pytest.mark.fault(
    row=42,
    fault="the disk is full",
    promise="one clear line, at once; the table is as it was; with space again the same write lands once",
)
def test_a_full_disk_leaves_the_table_as_it_was(small_disk: Path) -> None:
    lake = Lake(str(small_disk / "lake"))
    assert append(lake, 1)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(2_200_000))

    with pytest.raises(
        NeedsYouError, match=r"raw\.coincap_rates: the disk is full .*; the table holds whole commits only"
    ):
        append(lake, 2, 1_500_000)
    assert pulls(lake) == ["p1", "p1"]

    ballast.unlink()
    assert append(lake, 2, 1_000_000)
    assert not append(Lake(lake.root), 2, 1_000_000)
    assert pulls(lake) == ["p1", "p1", "p2", "p2"]


@is_root
@pytest.mark.fault(
    row=42.1,
    fault="the disk fills up to the last byte, in data, in a commit or before the table is made",
    promise="what was acknowledged is read; every failure is named; the log has no half line",
)
def test_a_disk_that_fills_up_byte_by_byte_keeps_what_was_acknowledged(small_disk: Path) -> None:
    lake = Lake(str(small_disk / "lake"))
    assert append(lake, 1)
    acked, n_refused = [1], 0
    for n_free in (0, 1_000, 4_096, 8_192, 12_288, 16_384, 20_480):
        with (small_disk / "ballast").open("wb") as ballast:
            free = shutil.disk_usage(small_disk).free
            ballast.write(bytes(max(free - n_free, 0)))
        version = acked[-1] + 1
        told = ""
        try:
            append(lake, version, 3_000)
            acked.append(version)
        except NeedsYouError as error:
            told = str(error)
            n_refused += 1
        assert told == "" or "the disk is full" in told
        (small_disk / "ballast").unlink()
        if acked[-1] != version:
            assert pulls(lake) == sorted(2 * [f"p{v}" for v in acked])

    assert n_refused >= 2
    assert append(Lake(lake.root), acked[-1] + 1)
    assert pulls(lake) == sorted(2 * [f"p{v}" for v in (*acked, acked[-1] + 1)])


FAULT = "the lake's directory is read-only, belongs to somebody else, or is a file"
PROMISE = "one clear line that says which; nothing is changed"


@is_root
@pytest.mark.fault(row=43, fault=FAULT, promise=PROMISE)
def test_a_read_only_file_system_is_named_and_can_be_read(small_disk: Path) -> None:
    lake = Lake(str(small_disk / "lake"))
    append(lake, 1)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)

    with pytest.raises(NeedsYouError, match=r"raw\.coincap_rates: the file system is read-only"):
        append(lake, 2)
    with pytest.raises(NeedsYouError, match=r"the lake: the file system is read-only"):
        lake.probe()
    assert pulls(lake) == ["p1", "p1"]


@pytest.mark.fault(row=43, fault=FAULT, promise=PROMISE)
@pytest.mark.parametrize("below", ["", "raw", "raw/coincap_rates"])
def test_a_file_where_a_directory_should_be_is_named(tmp_path: Path, below: str) -> None:
    file = tmp_path / "lake" / below
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("not a directory", encoding="utf-8")

    with pytest.raises(NeedsYouError, match=r"raw\.coincap_rates: a part of the path is a file"):
        append(Lake(str(tmp_path / "lake")), 1)
    assert file.read_text(encoding="utf-8") == "not a directory"


@is_root
@pytest.mark.fault(row=43, fault=FAULT, promise=PROMISE)
@pytest.mark.parametrize("exists", [False, True], ids=["new table", "held table"])
def test_a_directory_of_somebody_else_is_named(exists: bool) -> None:
    # Below the root of temporary files, which other users may enter; pytest's own folders they may not.
    folder = Path(f"/tmp/crypto-assets-{os.getpid()}-{exists}")  # noqa: S108 - made here, and checked to be new
    folder.mkdir(mode=0o755)
    try:
        if exists:
            append(Lake(str(folder / "lake")), 1)
        told = folder.with_suffix(".told")
        told.touch()
        told.chmod(0o666)
        with running(context(), append_as, 65534, str(folder / "lake"), str(told)) as process:
            process.join(60)
        expected = "NeedsYouError: raw.coincap_rates: the directory is not writable"
        assert told.read_text(encoding="utf-8").startswith(expected)
        assert (pulls(Lake(str(folder / "lake"))) == ["p1", "p1"]) is exists
    finally:
        shutil.rmtree(folder)
        folder.with_suffix(".told").unlink(missing_ok=True)
