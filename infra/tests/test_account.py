"""``account.py``: it looks where it is before it changes anything, and says what is wrong in one line."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from templates import Templates
from werkzeug.serving import make_server

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


def test_nothing_is_deleted_that_nobody_confirmed(run: Run) -> None:
    """Asked without a terminal; AWS is a server that knows who one is and nothing else."""
    answer = (
        "<GetCallerIdentityResponse><GetCallerIdentityResult><Arn>arn:aws:iam::000000000000:root</Arn>"
        "<UserId>root</UserId><Account>000000000000</Account></GetCallerIdentityResult></GetCallerIdentityResponse>"
    )
    asked = []

    def aws(environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"] or 0)).decode()
        asked.append(body)
        start("200 OK", [("Content-Type", "text/xml")])
        return [answer.encode()]

    server = make_server("127.0.0.1", 0, aws)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        place = {"AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}"}
        done = run(sys.executable, "account.py", "destroy", "dev", **KEYS, **place)
    finally:
        server.shutdown()
        server.server_close()
    assert done.returncode == 2
    assert done.stderr == "error: nobody said yes; nothing was changed\n"
    assert "crypto-assets-dev-lake-000000000000" in done.stdout
    assert [body.partition("&")[0] for body in asked] == ["Action=GetCallerIdentity"]


def test_the_stacks_are_named_in_one_place(dev: Templates) -> None:
    assert {f"crypto-assets-dev-{stack}" for stack in account.STACKS} == set(dev.raw)


@pytest.mark.parametrize("words", [["deploy", "test"], ["undo", "dev"]])
def test_what_it_does_not_know(run: Run, words: list[str]) -> None:
    done = run(sys.executable, "account.py", *words)
    assert done.returncode == 2
    assert "invalid choice" in done.stderr
