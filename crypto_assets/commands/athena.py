"""``athena``: an AWS on this machine whose Athena answers, until it is stopped.

Belongs here: what a new account would have been given by a deployment: a bucket, the databases, a workgroup. The
endpoint itself is ``local_athena/``.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from crypto_assets.commands import output
from crypto_assets.errors import NeedsYouError, UsageError

if TYPE_CHECKING:
    from crypto_assets.local_athena.server import LocalAws
    from crypto_assets.resources.settings import Settings

BUCKET = "lake"
_RESULTS = "athena-results"
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


def athena(port: int, s3_endpoint: str | None) -> int:
    """Serve until Ctrl-C or SIGTERM."""
    from crypto_assets.local_athena.server import serve
    from crypto_assets.resources.settings import Settings

    stopped = threading.Event()
    former = signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    try:
        with serve(port, store=_store(s3_endpoint)) as aws:
            settings = Settings()
            prepare(aws, settings)
            _explain(aws, settings)
            stopped.wait()
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, former)
    output.line("stopped; nothing runs any more")
    return 0


def prepare(aws: LocalAws, settings: Settings) -> None:
    """Make what a deployment makes: bucket, a database for each zone, the workgroup with its results' place."""
    from crypto_assets.tables.contract import Zone

    s3, glue, client = aws.client("s3"), aws.client("glue"), aws.client("athena")
    if BUCKET not in {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}:
        s3.create_bucket(Bucket=BUCKET)
    for zone in Zone:
        glue.create_database(DatabaseInput={"Name": f"{settings.catalog_prefix}{zone}"})
    client.create_work_group(
        Name=settings.athena_workgroup,
        Configuration={
            "ResultConfiguration": {"OutputLocation": settings.athena_output or f"s3://{BUCKET}/{_RESULTS}/"},
            "EnforceWorkGroupConfiguration": True,
        },
    )


def _explain(aws: LocalAws, settings: Settings) -> None:
    output.line(f"AWS on {aws.url}: Athena, Glue, STS, Lake Formation and more; S3 on {aws.s3_url}")
    output.line(f"workgroup {settings.athena_workgroup}, databases {settings.catalog_prefix}*, bucket {BUCKET}")
    lines = {
        "AWS_ENDPOINT_URL": aws.s3_url,
        "AWS_ENDPOINT_URL_ATHENA": aws.url,
        "AWS_ENDPOINT_URL_GLUE": aws.url,
        "AWS_ENDPOINT_URL_STS": aws.url,
        "AWS_REGION": aws.storage_options.get("AWS_REGION", "us-east-1"),
        "CRYPTO_ASSETS_LAKE_URI": f"s3://{BUCKET}/tables",
        "CRYPTO_ASSETS_CATALOG": "glue",
        "CRYPTO_ASSETS_QUERY_ENGINE": "athena",
    }
    if aws.s3_url == aws.url:
        # Any key will do here; another server knows its own, which are not shown.
        lines |= {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}
        lines = {key: value for key, value in lines.items() if not key.startswith("AWS_ENDPOINT_URL_")}
    for key, value in lines.items():
        output.line(f"export {key}={value}")
    output.line("Ctrl-C stops it; what is in memory is gone then")


def _store(endpoint: str | None) -> dict[str, str] | None:
    from crypto_assets.resources.settings import storage_options

    if endpoint is None:
        return None
    address = urlsplit(endpoint)
    is_safe = address.scheme == "https" or (address.scheme == "http" and address.hostname in _LOOPBACK)
    if not is_safe or not address.netloc:
        raise UsageError(
            f"{endpoint!r} is no address of an S3 server",
            where="--s3-endpoint",
            safe="nothing listens",
            hint="write http://127.0.0.1:PORT, or https:// for one that is not on this machine",
        )
    options = storage_options({**os.environ, "AWS_ENDPOINT_URL": endpoint})
    if not options.get("AWS_ACCESS_KEY_ID") or not options.get("AWS_SECRET_ACCESS_KEY"):
        raise NeedsYouError(
            "there is no key for the S3 server",
            where="--s3-endpoint",
            safe="nothing listens",
            hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )
    return {"AWS_REGION": "us-east-1", **options}
