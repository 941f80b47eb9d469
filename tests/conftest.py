"""What all tests share: hypothesis profiles, lakes on a directory and on S3, a market, recorded answers, rows."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import polars as pl
import pytest
from hypothesis import settings

from crypto_assets.resources.clock import FixedClock
from crypto_assets.resources.lake import Lake
from crypto_assets.sandbox import Events, Sandbox, serve
from tests import rows
from tests.rows import NOON

# A machine under load is no counterexample: no deadlines anywhere, and CI tries the same examples on every run.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

RECORDED = Path(os.environ.get("RECORDED_DATA") or Path(__file__).parents[1] / ".." / "shared" / "recorded")
RowsOf = Callable[..., pl.DataFrame]


@pytest.fixture(scope="session")
def httpserver_listen_address() -> tuple[str, int]:
    # By its number S3 is asked for paths, not for one host name a bucket; and no name leads to another address.
    return "127.0.0.1", 0


@pytest.fixture(scope="session")
def rows_of() -> RowsOf:
    return rows.rows_of


@pytest.fixture(scope="session")
def recorded() -> Path:
    """The folder of recorded CoinCap answers."""
    folder = RECORDED / "coincap"
    if not folder.is_dir():
        pytest.skip("no recorded answers here: set RECORDED_DATA to their folder")
    return folder


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """An empty lake in a directory; its retries wait for nothing."""
    return Lake(str(tmp_path / "lake"), run_id="run-1", clock=FixedClock(NOON))


@pytest.fixture(scope="module")
def served(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """The module's ``MARKET`` on loopback; a test asks for ``sandbox``."""
    with serve(request.module.MARKET) as listening:
        yield listening


@pytest.fixture
def sandbox(served: Sandbox, request: pytest.FixtureRequest) -> Sandbox:
    """The module's ``MARKET`` at its ``NOW``; what the test before had set or called is forgotten."""
    served.set_now(request.module.NOW)
    served.set_faults([])
    served.set_events(Events())
    served.state.limits.clear()
    served.forget_calls()
    return served


@pytest.fixture
def clock(request: pytest.FixtureRequest) -> FixedClock:
    """The module's ``NOW``, which stands still."""
    return FixedClock(request.module.NOW)


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=10) as client:
        yield client


@pytest.fixture(scope="module")
def kinesis_server() -> Iterator[dict[str, str]]:
    """What reaches a Kinesis on loopback, as environment variables."""
    from tests.stream.brokers import moto

    with moto() as environment:
        yield environment


@pytest.fixture(scope="session")
def s3_options() -> Iterator[dict[str, str]]:
    """Storage options of a real S3 server on loopback, which has one bucket, ``lake``.

    The server is a process of its own: deltalake keeps the interpreter's lock in some calls, and would wait for ever
    for a server in a thread of the same interpreter.
    """
    import boto3
    from botocore.exceptions import EndpointConnectionError

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        store = boto3.client(
            "s3",
            endpoint_url=url,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        for _ in range(300):
            try:
                store.create_bucket(Bucket="lake")
                break
            except EndpointConnectionError:
                assert server.poll() is None, "the S3 server did not start"
                time.sleep(0.1)
        store.close()
        yield {
            "AWS_ENDPOINT_URL": url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }
        server.terminate()


@pytest.fixture
def s3_lake(s3_options: dict[str, str], request: pytest.FixtureRequest) -> Lake:
    """An empty lake in a bucket; tests that use it are marked ``s3``."""
    prefix = "".join(c if c.isalnum() else "-" for c in request.node.name)
    return Lake(f"s3://lake/{prefix}", storage_options=s3_options, run_id="run-1", clock=FixedClock(NOON))
