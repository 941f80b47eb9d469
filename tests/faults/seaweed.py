"""SeaweedFS, a real S3 server, on free loopback ports: credentials are checked and conditional writes hold.

``crypto-assets up --lake s3`` starts the same server with the same words (``commands/up.py``).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import boto3
import pytest

from crypto_assets.commands.up import S3_LIMITS, credentials, free_ports, spawned, weed_command

BUCKET = "lake"


@dataclass(frozen=True)
class Store:
    """A running server with one empty bucket."""

    port: int
    key: str
    secret: str

    def options(self, port: int | None = None) -> dict[str, str]:
        """Storage options for a lake, through the proxy on ``port`` where one is given."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port or self.port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
        }


def weed() -> Path:
    """The server's file; the test is skipped where there is none."""
    file = Path(sys.executable).parent / "weed"
    if not file.exists():
        pytest.skip("SeaweedFS is not installed: make test installs it")
    return file


@contextmanager
def seaweed(folder: Path) -> Iterator[Store]:
    """The server with its data in the folder; ended, by its id, with the block."""
    file = weed()
    ports = free_ports()
    key, secret = credentials(folder / "s3.json")
    with spawned("s3", weed_command(str(file), folder, **ports), S3_LIMITS, folder / "logs") as server:
        url = f"http://127.0.0.1:{ports['s3']}"
        deadline = time.monotonic() + 60
        while not _answers(url):
            assert server.process.poll() is None, server.log.read_text()
            assert time.monotonic() < deadline, server.log.read_text()
            time.sleep(0.1)
        store = Store(ports["s3"], key, secret)
        client = boto3.client(
            "s3",
            endpoint_url=url,
            region_name="us-east-1",
            aws_access_key_id=key,
            aws_secret_access_key=secret,
        )
        client.create_bucket(Bucket=BUCKET)
        client.close()
        yield store


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=2):
            return True
    except HTTPError as refused:
        refused.close()
        return refused.code == 403
    except (URLError, OSError):
        return False
