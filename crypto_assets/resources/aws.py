"""What AWS refuses, in one line: credentials, region, permission, throttling, outage.

Belongs here: what every service of AWS says alike, and how its clients wait. What one service alone says (a workgroup,
a table, a bucket) is its own module's. Foreign texts stay behind: they hold addresses, account numbers and key ids.
"""

from __future__ import annotations

import re
from typing import Any, Final

from crypto_assets.errors import CryptoAssetsError, NeedsYouError, TransientError

ATTEMPTS: Final = 6
"""Requests made before we give up; botocore waits for a random time below 1, 2, 4, 8, 16 s between them."""

_NO_KEYS: Final = ("there are no AWS credentials", "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give a role")
_EXPIRED: Final = ("the AWS credentials have expired", "renew them, or log in again")
_REFUSED: Final = ("AWS refuses our key", "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the clock")
_NEEDS_A_PERSON: Final = {
    "NoCredentialsError": _NO_KEYS,
    "PartialCredentialsError": _NO_KEYS,
    "CredentialRetrievalError": _NO_KEYS,
    "ProfileNotFound": _NO_KEYS,
    "MissingAuthenticationToken": _NO_KEYS,
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "TokenRetrievalError": _EXPIRED,
    "UnauthorizedSSOTokenError": _EXPIRED,
    "UnrecognizedClientException": _REFUSED,
    "InvalidClientTokenId": _REFUSED,
    "InvalidAccessKeyId": _REFUSED,
    "InvalidSignatureException": _REFUSED,
    "SignatureDoesNotMatch": _REFUSED,
    "IncompleteSignature": _REFUSED,
    "NoRegionError": ("no AWS region is set", "set AWS_REGION to the bucket's"),
    "InvalidRegionError": ("AWS_REGION is no name of a region", "set AWS_REGION to the bucket's"),
}
_THROTTLED: Final = ("Throttl", "TooManyRequests", "RequestLimitExceeded", "SlowDown", "PriorRequestNotComplete")
_ACTION: Final = re.compile(r"perform: ([a-z0-9-]+:\w+)")


def code_of(error: BaseException) -> str:
    """The service's code for the error, or botocore's name for what kept the request from being answered."""
    told: dict[str, Any] = getattr(error, "response", {}).get("Error", {})
    return str(told.get("Code") or type(error).__name__)


def message_of(error: BaseException) -> str:
    """The service's own words; empty where no service has spoken."""
    told: dict[str, Any] = getattr(error, "response", {}).get("Error", {})
    return " ".join(str(told.get("Message") or "").split())


def explained(error: BaseException, service: str, *, where: str, safe: str, region: str | None) -> CryptoAssetsError:
    """Our error for one of boto3's.

    Args:
        service: as people call it, ``Athena``.
        where, safe: as in every error of ours.
        region: which the client asked.
    """
    code, message = code_of(error), message_of(error)
    if code in _NEEDS_A_PERSON:
        what, hint = _NEEDS_A_PERSON[code]
        return NeedsYouError(what, where=where, safe=safe, hint=hint)
    if "Lake Formation" in message:
        hint = "grant this role SELECT and DESCRIBE on the table in Lake Formation"
        return NeedsYouError("Lake Formation denies it", where=where, safe=safe, hint=hint)
    if code.startswith("AccessDenied") or code in {"403", "Forbidden"}:
        action = _ACTION.search(message)
        what = f"the role may not {action[1]}" if action else f"{service} denies access"
        return NeedsYouError(what, where=where, safe=safe, hint="allow it to the role, or take another role")
    if any(sign in code for sign in _THROTTLED):
        what = f"{service} throttles us ({code}, after {ATTEMPTS} attempts)"
        return TransientError(what, where=where, safe=safe, hint="run the same again in a minute")
    if code == "EndpointConnectionError":
        return _unreachable(service, where=where, safe=safe, region=region)
    what = f"{service} failed with {code}" if message else f"{service} did not answer ({code})"
    return TransientError(what, where=where, safe=safe, hint="run the same again in a moment")


def _unreachable(service: str, *, where: str, safe: str, region: str | None) -> CryptoAssetsError:
    import boto3

    if region not in boto3.session.Session().get_available_regions(service.lower()):
        what = f"{region} is no region of {service} that is known here"
        return NeedsYouError(what, where=where, safe=safe, hint="check AWS_REGION: it is the bucket's, e.g. eu-west-1")
    what = f"{service} in {region} cannot be reached"
    return TransientError(what, where=where, safe=safe, hint="check the network and AWS_ENDPOINT_URL, then try again")
