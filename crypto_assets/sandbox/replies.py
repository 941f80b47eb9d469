"""Answers as they leave the sandbox: JSON, the refusals that any provider may give, and bodies that break off."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from crypto_assets.sandbox import faults as fault_kinds
from crypto_assets.sandbox.faults import Fault

# Decimals occur only in recordings, where a number was a number and not text.
_ENCODER = msgspec.json.Encoder(decimal_format="number")


class ShortBody(Response):
    """Promises more bytes than it sends; the server then drops the connection."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers["content-length"] = str(len(self.body) + 1000)
        await super().__call__(scope, receive, send)


def key_of(asked: HTTPConnection) -> str:
    """The key that CoinCap is asked with: as a bearer, or in the address."""
    scheme, _, token = asked.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else asked.query_params.get("apiKey", "")


def refusal(struck: list[Fault]) -> Response | None:
    """The answer of the first fault that leaves no room for data, made anew, as a response is sent once."""
    answers: dict[str, Callable[[], Response]] = {
        "rate_limited_minute": lambda: json_reply(429, fault_kinds.MINUTE_LIMIT, {"retry-after": "60"}),
        "quota_429": lambda: json_reply(429, fault_kinds.QUOTA_429),
        "quota_403": lambda: json_reply(403, fault_kinds.QUOTA_403),
        "not_found": lambda: json_reply(404, {"error": "Not found"}),
        "server_error": lambda: json_reply(500, {"error": "Internal server error"}),
        "unauthorized": lambda: json_reply(401, {"error": "Unauthorized"}),
        "unavailable": lambda: json_reply(503, {"error": "Service Unavailable"}),
        "html": lambda: Response(fault_kinds.PAGE, 200, media_type="text/html"),
    }
    return next((answers[fault.kind]() for fault in struck if fault.kind in answers), None)


def json_reply(status: int, body: object, headers: Mapping[str, str] | None = None) -> Response:
    """The body as JSON."""
    return Response(_ENCODER.encode(body), status, headers=dict(headers or {}), media_type="application/json")


def broken_off(response: Response, struck: list[Fault]) -> Response:
    """The answer as it is, or cut in the middle, or ended before its promised length, as the faults will."""
    kinds = {fault.kind for fault in struck}
    body, kind = bytes(response.body), response.media_type
    if "truncated" in kinds:
        return Response(body[: len(body) // 2], response.status_code, media_type=kind)
    if "short_body" in kinds:
        return ShortBody(body, response.status_code, media_type=kind)
    return response
