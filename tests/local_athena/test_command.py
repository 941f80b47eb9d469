"""``crypto-assets athena``: what it listens on, what it leaves behind, what it refuses."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from crypto_assets import cli
from tests.local_athena.endpoint import Aws, running

pytestmark = pytest.mark.xdist_group("local_athena")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--s3-endpoint", "http://192.0.2.1:9000"], 2, "is no address of an S3 server"),
        (["--s3-endpoint", "127.0.0.1:9000"], 2, "is no address of an S3 server"),
        (["--s3-endpoint", "http://127.0.0.1:9000"], 4, "there is no key for the S3 server"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line(
    arguments: list[str],
    code: int,
    words: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    assert cli.main(["athena", "--port", "0", *arguments]) == code
    assert words in capfd.readouterr().err


def test_a_port_that_is_taken_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert cli.main(["athena", "--port", str(port)]) == 2
    (line, hint) = capfd.readouterr().err.splitlines()
    assert f"port {port} is taken" in line
    assert "0 for a free one" in hint


def engines(parent: int) -> set[int]:
    """Processes that the server started to answer queries."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            ppid = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if ppid == parent and b"spawn_main" in (folder / "cmdline").read_bytes():
                found.add(int(folder.name))
        except OSError:
            continue
    return found


def is_alive(process: int) -> bool:
    stat = Path(f"/proc/{process}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_it_listens_on_loopback_and_a_killed_engine_costs_one_query(server: Aws) -> None:
    port = int(server.url.rpartition(":")[2])
    (parent,) = listeners(port)
    before = engines(parent)
    assert before
    server.faults(hold_s=1)
    query_id = server.start("select 1 as n")
    for process in before:
        os.kill(process, signal.SIGKILL)
    status = server.ended(query_id)["Status"]
    server.faults()
    # Killed while it rested, it is started again for this query, or ends it as a failure that may be tried again.
    assert status["State"] == "SUCCEEDED" or status["AthenaError"]["Retryable"]
    assert server.rows("select 2 as n") == [["2"]]


def listeners(port: int) -> set[int]:
    """Process ids that listen on the port; fails where the address is not loopback's."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    sockets = {line[9]: line[1] for line in lines if line[3] == "0A" and int(line[1].partition(":")[2], 16) == port}
    assert {address.partition(":")[0] for address in sockets.values()} == {"0100007F"}
    found = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if any(f"socket:[{inode}]" == str(link.readlink()) for inode in sockets):
                found.add(int(link.parts[2]))
        except OSError:
            continue
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
def test_nothing_is_left_behind() -> None:
    with running() as aws:
        (parent,) = listeners(int(aws.url.rpartition(":")[2]))
        aws.rows("select 1 as n")
        children = engines(parent)
        assert children
    for _ in range(100):
        if not any(is_alive(process) for process in children):
            break
        time.sleep(0.05)
    assert not [process for process in children if is_alive(process)]
