"""One process on 127.0.0.1 that is an AWS endpoint: moto's services, and an Athena in front of them that answers.

Clients need nothing but ``AWS_ENDPOINT_URL`` and any key. S3 is moto's, in memory, or another server that is named;
then clients take ``AWS_ENDPOINT_URL_S3`` for that one. Requests are not verified: whoever can reach the port may do
everything, so it listens on loopback only.

``POST /_athena/faults`` with JSON (`executions.Faults`) makes the next queries slow or refused, for tests; an empty
object ends it.
"""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from crypto_assets.errors import NeedsYouError, UsageError
from crypto_assets.local_athena.catalog import Catalog
from crypto_assets.local_athena.errors import RequestError
from crypto_assets.local_athena.executions import Executions, faults_from
from crypto_assets.local_athena.protocol import Protocol
from crypto_assets.local_athena.worker import Workers

if TYPE_CHECKING:
    from werkzeug.serving import BaseWSGIServer

Wsgi = Callable[[dict[str, Any], Any], Iterable[bytes]]

HOST: Final = "127.0.0.1"
_TARGET: Final = "AmazonAthena."
_FAULTS: Final = "/_athena/faults"
_SCOPE: Final = re.compile(r"Credential=[^/]+/\d{8}/([a-z0-9-]+)/")
_DEFAULT_REGION: Final = "us-east-1"
_QUERIES_AT_ONCE: Final = 2  # more would only share the same cores, and each holds an engine
_KEYS: Final = {"aws_access_key_id": "local", "aws_secret_access_key": "local"}


@dataclass(frozen=True)
class LocalAws:
    """A running endpoint: its address, and the store's (the same one unless another was named)."""

    url: str
    s3_url: str
    storage_options: Mapping[str, str]

    def client(self, service: str, region: str = _DEFAULT_REGION) -> Any:
        """A boto3 client of the endpoint."""
        keys = _KEYS if service != "s3" else _boto_keys(self.storage_options)
        return _client(service, region, self.s3_url if service == "s3" else self.url, keys)


@contextmanager
def serve(port: int = 0, *, store: Mapping[str, str] | None = None) -> Iterator[LocalAws]:
    """The endpoint, served by threads of this process until the context ends.

    Args:
        port: on 127.0.0.1; 0 takes a free one.
        store: another S3, as deltalake's ``AWS_*`` options with ``AWS_ENDPOINT_URL``; None for moto's own.

    Raises:
        NeedsYouError: moto is not installed.
        UsageError: the port is taken.
    """
    server = _listening(port)
    url = f"http://{HOST}:{server.socket.getsockname()[1]}"
    options = dict(store) if store else _own_store(url)
    aws = LocalAws(url, options["AWS_ENDPOINT_URL"], options)
    s3 = aws.client("s3")
    catalog_of = cache(lambda region: Catalog(aws.client("glue", region)))
    workers = Workers(_QUERIES_AT_ONCE, options)
    executions = Executions(workers, catalog_of, s3)
    moto_of = cache(lambda region: aws.client("athena", region))
    protocol = Protocol(executions, catalog_of, moto_of, s3)
    server.app = _answering(protocol, executions, server.app)
    thread = threading.Thread(target=server.serve_forever, name="local-athena", daemon=True)
    thread.start()
    workers.warm()
    try:
        yield aws
    finally:
        executions.close()
        server.shutdown()
        thread.join()
        server.server_close()


def _answering(protocol: Protocol, executions: Executions, others: Any) -> Wsgi:
    """Athena's own operations in front of all else."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        target = str(environ.get("HTTP_X_AMZ_TARGET", ""))
        operation = target.removeprefix(_TARGET) if target.startswith(_TARGET) else ""
        if operation in protocol.operations:
            try:
                answer = protocol.operations[operation](_body(environ), _region(environ))
            except RequestError as error:
                return _reply(start_response, error.body(), error.kind)
            except Exception as error:  # noqa: BLE001 - a client gets an answer it can read, without a foreign text
                internal = RequestError(type(error).__name__, kind="InternalServerException")
                return _reply(start_response, internal.body(), internal.kind)
            return _reply(start_response, answer)
        if environ.get("PATH_INFO") == _FAULTS and environ.get("REQUEST_METHOD") == "POST":
            executions.faults = faults_from(_body(environ))
            return _reply(start_response, {})
        if operation == "GetWorkGroup":
            return _workgroup(environ, start_response, others)
        answered: Iterable[bytes] = others(environ, start_response)
        return answered

    return app


def _workgroup(environ: dict[str, Any], start_response: Any, others: Any) -> Iterable[bytes]:
    """moto's answer, but for a workgroup that there is not: moto says null, and clients fail on that."""
    told: list[Any] = []
    content = b"".join(others(environ, lambda *args, **kwargs: told.append((args, kwargs))))
    if json.loads(content or b"{}").get("WorkGroup", True) is None:
        error = RequestError.invalid("WorkGroup is not found.")
        return _reply(start_response, error.body(), error.kind)
    args, kwargs = told[-1]
    start_response(*args, **kwargs)
    return [content]


def _reply(start_response: Any, body: Mapping[str, Any], error: str | None = None) -> Iterable[bytes]:
    content = json.dumps(body).encode()
    headers = [("Content-Type", "application/x-amz-json-1.1"), ("Content-Length", str(len(content)))]
    if error is not None:
        headers.append(("x-amzn-ErrorType", error))
    failed = "500 Internal Server Error" if error == "InternalServerException" else "400 Bad Request"
    start_response(failed if error else "200 OK", headers)
    return [content]


def _body(environ: Mapping[str, Any]) -> dict[str, Any]:
    content = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    try:
        told = json.loads(content or b"{}")
    except ValueError:
        raise RequestError("the body is not JSON", kind="SerializationException") from None
    return told if isinstance(told, dict) else {}


def _region(environ: Mapping[str, Any]) -> str:
    found = _SCOPE.search(str(environ.get("HTTP_AUTHORIZATION", "")))
    return found.group(1) if found else _DEFAULT_REGION


def _listening(port: int) -> BaseWSGIServer:
    try:
        from moto.moto_server.werkzeug_app import (
            DomainDispatcherApplication,
            MotoRequestHandler,
            create_backend_app,
        )
        from werkzeug.serving import make_server
    except ImportError:
        raise NeedsYouError(
            "moto's server is not installed",
            where="local Athena",
            safe="nothing listens",
            hint="install the extra: pip install 'crypto-assets[athena-local]'",
        ) from None

    class Quiet(MotoRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_request(self, *args: Any, **kwargs: Any) -> None:
            """Nothing: a query polls a dozen times."""

    # Bound here: werkzeug would print its own words where the port is taken, and end the process.
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((HOST, port))
        except OSError:
            raise UsageError(
                f"port {port} is taken",
                where="--port",
                safe="nothing listens",
                hint="choose another, or 0 for a free one",
            ) from None
        bound.listen()
        app = DomainDispatcherApplication(create_backend_app)
        return make_server(HOST, port, app, threaded=True, request_handler=Quiet, fd=bound.fileno())


def _own_store(url: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": _DEFAULT_REGION,
        "AWS_ACCESS_KEY_ID": _KEYS["aws_access_key_id"],
        "AWS_SECRET_ACCESS_KEY": _KEYS["aws_secret_access_key"],
    }


def _boto_keys(options: Mapping[str, str]) -> dict[str, str]:
    # boto3 calls them as the environment does, in small letters.
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    return {name.lower(): options[name] for name in names if options.get(name)}


def _client(service: str, region: str, url: str, keys: Mapping[str, str]) -> Any:
    import boto3
    from botocore.config import Config

    # Loopback answers paths, not one host name per bucket; two tries, because it is there or it is not.
    config = Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 2, "mode": "standard"})
    session = boto3.session.Session()
    return session.client(service, region_name=region, endpoint_url=url, config=config, **keys)
