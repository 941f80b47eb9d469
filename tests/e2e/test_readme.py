"""Every command of the README, as a newcomer would type it, over a demo lake."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from crypto_assets.resources.inspection import files_of
from crypto_assets.resources.lake import Lake
from tests.faults.seaweed import BUCKET, seaweed

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300), pytest.mark.xdist_group("readme")]


def environment() -> dict[str, str]:
    ours = ("CRYPTO_ASSETS_", "AWS_", "COINCAP_", "ALPHAVANTAGE_", "COINGECKO_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    return kept | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which the demo has run."""
    folder = tmp_path_factory.mktemp("readme")
    done = subprocess.run(
        ["crypto-assets", "demo"],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ran everything again: 0 new rows" in done.stdout
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def run(block: str, home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-euc", block], cwd=home, env=environment(), capture_output=True, text=True, check=False, timeout=240
    )


@pytest.fixture(scope="module")
def bucket(home: Path) -> Iterator[str]:
    """The demo's lake, object by object, in a bucket: the exports that lead there."""
    (home / "s3").mkdir()
    with seaweed(home / "s3") as store:
        exports = {"CRYPTO_ASSETS_LAKE_URI": f"s3://{BUCKET}/readme", **store.options()}
        here = files_of(Lake(str(home / "data" / "demo" / "lake")))
        there = files_of(Lake(exports["CRYPTO_ASSETS_LAKE_URI"], storage_options=store.options()))
        for path in here.all():
            there.write(path, here.read(path))
        yield "\n".join(f"export {name}={value}" for name, value in exports.items())


def commands(block: str) -> list[str]:
    return [line for line in block.splitlines() if line.startswith("crypto-assets")]


QUESTIONS = [c for block in BLOCKS[:2] for c in commands(block)]
EXPORTS = "\n".join(line for line in BLOCKS[0].splitlines() if line.startswith("export"))


@pytest.mark.parametrize("command", QUESTIONS)
def test_a_question_of_the_readme_is_answered(home: Path, command: str) -> None:
    done = run(f"{EXPORTS}\n{command}", home)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") >= 2


@pytest.mark.s3
def test_a_bucket_answers_the_questions_of_the_readme_as_a_directory_does(home: Path, bucket: str) -> None:
    # Some of each kind: all of them are asked of a directory already.
    asked = "\n".join(["crypto-assets quarantine show", *QUESTIONS[-3:]])
    here, there = run(f"{EXPORTS}\n{asked}", home), run(f"{EXPORTS}\n{bucket}\n{asked}", home)
    assert (there.returncode, there.stderr) == (0, here.stderr)
    assert there.stdout == here.stdout
    assert there.stdout.count("\n") > 20
    deep = run(f"{bucket}\ncrypto-assets doctor --deep", home)
    assert deep.returncode == 0, deep.stderr
    assert deep.stdout.count("rows proven by sha256") > 20


def test_real_data_are_one_key_away(home: Path) -> None:
    block = next(block for block in BLOCKS if "COINCAP_API_KEY" in block)
    done = run(block, home)
    assert done.returncode == 0, done.stderr
    assert "your-key" not in done.stdout + done.stderr
    without = run(block.replace("export COINCAP_API_KEY=your-key\n", ""), home)
    assert "set COINCAP_API_KEY" in without.stdout
    # A year is twelve files with their checksums, and nothing of the venue itself.
    plan = [json.loads(line) for line in done.stdout.splitlines() if '"kind": "plan"' in line]
    assert {row["source"]: (row["calls"], row["days_by_archive"]) for row in plan} == {
        "binance_archive": (24, 0),
        "binance": (0, 365),
    }


@pytest.mark.parametrize("command", ["run", "backfill", "athena", "catalog", "stream"])
def test_help_tells_what_a_command_takes(home: Path, command: str) -> None:
    assert any(f"crypto-assets {command} --help" in block for block in BLOCKS)
    told = {"run": "--select", "backfill": "--dry-run", "athena": "--port", "catalog": "sync", "stream": "collect"}
    asked = told[command]
    assert asked in run(f"crypto-assets {command} --help", home).stdout


@pytest.mark.s3
def test_doctor_on_an_s3_that_is_not_there_says_so_in_one_line(home: Path) -> None:
    block = next(block for block in BLOCKS if "AWS_ENDPOINT_URL" in block)
    done = run(block.replace("8333", "9").replace("...", "test"), home)
    assert done.returncode in (3, 4)
    assert "s3://bucket/prefix" in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2


@pytest.mark.parametrize("target", sorted(set(re.findall(r"(?:`|\$ )make ([a-z-]+)", README))))
def test_every_make_target_of_the_readme_exists(target: str) -> None:
    done = subprocess.run(["make", "-n", target], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_file_of_the_readme_exists_and_it_stays_short() -> None:
    for path in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (REPOSITORY / path).exists(), path
    for path in re.findall(r"`(tests/[\w/]+\.py)`", README):
        assert (REPOSITORY / path).exists(), path
    assert README.count("\n") < 200
