"""An S3 on loopback that asks the synthesized policies before each request: moto behind, iam-simulate in front.

A client is whom its access key says (``key_of``); signatures are not looked at. What S3 does with a request is told to
the judge as the actions, resources and condition keys that AWS documents for it, the key's use included.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any
from urllib.parse import parse_qs, unquote
from xml.etree import ElementTree

from judge import Judge
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from templates import REGION
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response

_SSE = "s3:x-amz-server-side-encryption"
_Asked = tuple[str, str, dict[str, str]]


def key_of(component: str) -> str:
    """The access key by which a client is this component."""
    return f"AKIA-{component}"


@dataclass
class Log:
    """What was asked, as (component, action, resource), and which of it was refused."""

    asked: list[tuple[str, str, str]] = field(default_factory=list)
    refused: list[tuple[str, str, str]] = field(default_factory=list)
    # Commits' keys, with whether the request was conditional.
    commits: list[tuple[str, bool]] = field(default_factory=list)

    def actions(self, component: str) -> set[str]:
        return {action for who, action, _ in self.asked if who == component}

    def clear(self) -> None:
        for told in (self.asked, self.refused, self.commits):
            told.clear()


class Gate:
    """WSGI middleware.

    Args:
        application: the store behind.
        judge: asked for every request but those of ``admin``.
        key_arn: of the key that the bucket encrypts with.
    """

    def __init__(self, application: Any, judge: Judge, key_arn: str) -> None:
        self._application, self._judge, self._key_arn = application, judge, key_arn
        self.log = Log()

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        request = Request(environ)
        known = re.search(r"Credential=AKIA-([a-z-]+)/", request.headers.get("Authorization", ""))
        component = known[1] if known else ""
        if component == "admin":
            return self._application(environ, start)
        refused = [asked for asked in self._asked(request) if not self._is_allowed(component, asked)]
        if refused and "delete" in request.args:
            # A bulk deletion is answered for each key.
            errors = "".join(
                f"<Error><Key>{resource.partition('/')[2]}</Key><Code>AccessDenied</Code>"
                "<Message>Access Denied</Message></Error>"
                for _, resource, _ in refused
            )
            return Response(f"<DeleteResult>{errors}</DeleteResult>", 200, mimetype="application/xml")(environ, start)
        if refused:
            told = "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
            return Response(told, 403, mimetype="application/xml")(environ, start)
        return self._application(environ, start)

    def _is_allowed(self, component: str, asked: _Asked) -> bool:
        action, resource, context = asked
        self.log.asked.append((component, action, resource))
        judged = self._judge.judged(component, action, resource, context)
        if judged != "Allowed":
            self.log.refused.append((component, action, resource))
        return judged == "Allowed"

    def _asked(self, request: Request) -> Iterator[_Asked]:  # noqa: PLR0912 - as many as S3 has requests
        """What AWS asks its policies for this request.

        Raises:
            NotImplementedError: it is one that we do not know, and would have let pass.
        """
        bucket, _, key = unquote(request.path).lstrip("/").partition("/")
        arn, query = f"arn:aws:s3:::{bucket}", parse_qs(request.query_string.decode(), keep_blank_values=True)
        kms = {"kms:ViaService": f"s3.{REGION}.amazonaws.com"}
        decrypt: _Asked = ("kms:Decrypt", self._key_arn, kms)
        encrypt: _Asked = ("kms:GenerateDataKey", self._key_arn, kms)
        match request.method, bool(key):
            case "GET", False if "uploads" in query:
                yield "s3:ListBucketMultipartUploads", arn, {}
            case "GET", False if "location" in query:
                yield "s3:GetBucketLocation", arn, {}
            case (("GET" | "HEAD"), False):
                yield "s3:ListBucket", arn, {"s3:prefix": query.get("prefix", [""])[0]}
            case "POST", False if "delete" in query:
                for element in ElementTree.fromstring(self._body(request)).iter():  # noqa: S314
                    if element.tag.endswith("Object"):
                        parts = {child.tag.rpartition("}")[2]: child.text or "" for child in element}
                        yield self._deletion(f"{arn}/{parts['Key']}", has_version="VersionId" in parts)
            case (("GET" | "HEAD"), True) if "uploadId" in query:
                yield "s3:ListMultipartUploadParts", f"{arn}/{key}", {}
            case (("GET" | "HEAD"), True):
                yield "s3:GetObject", f"{arn}/{key}", {}
                yield decrypt
            case (("PUT" | "POST"), True):
                if "x-amz-copy-source" in request.headers:
                    source = unquote(request.headers["x-amz-copy-source"]).lstrip("/")
                    yield "s3:GetObject", f"arn:aws:s3:::{source}", {}
                yield "s3:PutObject", f"{arn}/{key}", self._put_context(request, query, key)
                yield encrypt
                if "uploadId" in query:
                    # Parts are read again to be joined.
                    yield decrypt
            case "DELETE", True if "uploadId" in query:
                yield "s3:AbortMultipartUpload", f"{arn}/{key}", {}
            case "DELETE", True:
                yield self._deletion(f"{arn}/{key}", has_version="versionId" in query)
            case _:
                raise ValueError(f"no rule says which permission this needs: {request.method} {request.url}")

    @staticmethod
    def _body(request: Request) -> bytes:
        """The body, which the store behind reads once more."""
        body = request.get_data()
        request.environ["wsgi.input"] = BytesIO(body)
        return body

    def _put_context(self, request: Request, query: dict[str, list[str]], key: str) -> dict[str, str]:
        creates = not ("uploads" in query or "partNumber" in query)
        context = {"s3:ObjectCreationOperation": str(creates).lower()}
        headers = {
            "If-None-Match": "s3:if-none-match",
            "If-Match": "s3:if-match",
            "x-amz-server-side-encryption": _SSE,
            "x-amz-server-side-encryption-aws-kms-key-id": f"{_SSE}-aws-kms-key-id",
            "x-amz-server-side-encryption-customer-algorithm": f"{_SSE}-customer-algorithm",
        }
        context |= {name: request.headers[header] for header, name in headers.items() if header in request.headers}
        if creates and "/_delta_log/" in key and key.endswith(".json"):
            self.log.commits.append((key, "s3:if-none-match" in context))
        return context

    @staticmethod
    def _deletion(resource: str, *, has_version: bool) -> _Asked:
        return ("s3:DeleteObjectVersion" if has_version else "s3:DeleteObject"), resource, {}


class _Quiet(WSGIRequestHandler):
    def log(self, kind: str, message: str, *args: object) -> None:
        """Nothing: the gate keeps its own log."""


@contextmanager
def serve(judge: Judge, key_arn: str) -> Iterator[tuple[str, Log]]:
    """The gated store's address, and its log."""
    gate = Gate(DomainDispatcherApplication(create_backend_app), judge, key_arn)
    server = make_server("127.0.0.1", 0, gate, threaded=True, request_handler=_Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", gate.log
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()
