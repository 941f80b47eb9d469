"""``account.py``: it looks where it is before it changes anything, and says what is wrong in one line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
from templates import Templates

import account

Run = Callable[..., "subprocess.CompletedProcess[str]"]
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "none"}


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a refusal."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.endswith("; nothing was changed\n")
    return done.stderr


def test_without_a_region(run: Run) -> None:
    assert "set AWS_REGION" in refused(run(sys.executable, "account.py", "deploy", "dev", **KEYS))


def test_without_credentials(run: Run) -> None:
    told = refused(run(sys.executable, "account.py", "deploy", "dev", AWS_REGION="us-east-1"))
    assert "there are no AWS credentials" in told


def test_without_an_aws_to_reach(run: Run) -> None:
    # Nothing listens on port 9 of loopback.
    nowhere = {"AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}
    told = refused(run(sys.executable, "account.py", "deploy", "dev", **KEYS, **nowhere))
    assert "AWS cannot be reached" in told


def test_the_stacks_are_named_in_one_place(dev: Templates) -> None:
    assert {f"crypto-assets-dev-{stack}" for stack in account.STACKS} == set(dev.raw)


@pytest.mark.parametrize("words", [["deploy", "test"], ["undo", "dev"]])
def test_what_it_does_not_know(run: Run, words: list[str]) -> None:
    done = run(sys.executable, "account.py", *words)
    assert done.returncode == 2
    assert "invalid choice" in done.stderr
