"""What AWS refuses, in one line: credentials, region, permission, throttling, outage.

Belongs here: what every service of AWS says alike, how its clients wait, and what S3's is made of. What one service
alone says (a workgroup, a table, a bucket) is its own module's. Foreign texts stay behind: they hold addresses, account
numbers and key ids.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from crypto_assets.errors import CryptoAssetsError, NeedsYouError, TransientError

ATTEMPTS: Final = 6
"""Requests made before we give up; botocore waits for a random time below 1, 2, 4, 8, 16 s between them."""

NO_KEYS: Final = (
    "there are no credentials to be had",
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or mend what AWS_PROFILE names",
)
"""What is missing, and what to do."""

_EXPIRED: Final = ("the credentials have expired", "renew them, or log in again")
_UNKNOWN_KEY: Final = ("{service} does not know the access key", "check AWS_ACCESS_KEY_ID")
_WRONG_SECRET: Final = ("{service} refuses the secret key", "check AWS_SECRET_ACCESS_KEY, and this machine's clock")
_NEEDS_A_PERSON: Final = {
    "NoCredentialsError": NO_KEYS,
    "PartialCredentialsError": NO_KEYS,
    "CredentialRetrievalError": NO_KEYS,
    "ProfileNotFound": NO_KEYS,
    "MissingAuthenticationToken": NO_KEYS,
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "TokenRetrievalError": _EXPIRED,
    "UnauthorizedSSOTokenError": _EXPIRED,
    "UnrecognizedClientException": _UNKNOWN_KEY,
    "InvalidClientTokenId": _UNKNOWN_KEY,
    "InvalidAccessKeyId": _UNKNOWN_KEY,
    "InvalidSignatureException": _WRONG_SECRET,
    "SignatureDoesNotMatch": _WRONG_SECRET,
    "IncompleteSignature": _WRONG_SECRET,
    "NoRegionError": ("no region is set", "set AWS_REGION to the bucket's"),
    "InvalidRegionError": ("AWS_REGION is not the name of a region", "set AWS_REGION to the bucket's"),
    # What boto3 says to an endpoint that is no address, when a client is made.
    "ValueError": ("the endpoint is not an address", "mend AWS_ENDPOINT_URL"),
}
_REFUSED: Final = ("InvalidInput", "InvalidParameter", "Validation")
_THROTTLED: Final = ("Throttl", "TooManyRequests", "LimitExceeded", "SlowDown", "PriorRequestNotComplete")
_CONNECT_S: Final = 10
_ACTION: Final = re.compile(r"perform: ([a-z0-9-]+:\w+)")


def _response(error: BaseException) -> dict[str, Any]:
    """What the service has answered; empty where no answer came, which botocore's timeouts say as None."""
    return getattr(error, "response", None) or {}


def code_of(error: BaseException) -> str:
    """The service's code for the error, or botocore's name for what kept the request from being answered."""
    told = _response(error).get("Error", {})
    return str(told.get("Code") or type(error).__name__)


def message_of(error: BaseException) -> str:
    """The service's own words; empty where no service has spoken."""
    told = _response(error).get("Error", {})
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
        return NeedsYouError(what.format(service=service), where=where, safe=safe, hint=hint)
    if "Lake Formation" in message:
        hint = "grant this role what it needs on the database and its tables in Lake Formation"
        return NeedsYouError("Lake Formation denies it", where=where, safe=safe, hint=hint)
    if code.startswith("AccessDenied") or code in {"403", "Forbidden"}:
        action = _ACTION.search(message)
        what = f"the role may not {action[1]}" if action else f"{service} denies access"
        return NeedsYouError(what, where=where, safe=safe, hint=f"check the role's permissions on {service}")
    if any(sign in code for sign in _THROTTLED):
        what = f"{service} throttles us ({code}, {ATTEMPTS} attempts)"
        return TransientError(what, where=where, safe=safe, hint="run the same again in a minute")
    if any(code.startswith(sign) for sign in _REFUSED):
        what = f"{service} refuses the request as it is ({code})"
        hint = "to ask again would not help: report it with this line"
        return NeedsYouError(what, where=where, safe=safe, hint=hint)
    if not _response(error):
        return _unreachable(service, where=where, safe=safe, region=region)
    what = f"{service} failed with {code}"
    return TransientError(what, where=where, safe=safe, hint="run the same again in a moment")


def client_config(read_s: float) -> Any:
    """botocore's settings of a client whose requests are answered within so many seconds."""
    from botocore.config import Config

    retries = {"mode": "standard", "total_max_attempts": ATTEMPTS}
    return Config(connect_timeout=_CONNECT_S, read_timeout=read_s, retries=retries)


def s3_client(session: Any, options: Mapping[str, str], config: Any) -> Any:
    """boto3's client of S3 by deltalake's ``AWS_*`` options; keys that they lack it finds and renews by itself."""
    return session.client(
        "s3",
        endpoint_url=options.get("AWS_ENDPOINT_URL"),
        region_name=options.get("AWS_REGION"),
        aws_access_key_id=options.get("AWS_ACCESS_KEY_ID"),
        aws_secret_access_key=options.get("AWS_SECRET_ACCESS_KEY"),
        aws_session_token=options.get("AWS_SESSION_TOKEN"),
        config=config,
    )


def _unreachable(service: str, *, where: str, safe: str, region: str | None) -> CryptoAssetsError:
    import boto3

    hint = "check AWS_REGION, AWS_ENDPOINT_URL and the network, then run the same again"
    if region and region not in boto3.session.Session().get_available_regions(service.lower()):
        what = f"{region} is no region of {service} that is known here"
        return NeedsYouError(what, where=where, safe=safe, hint="set AWS_REGION to the bucket's, e.g. eu-west-1")
    what = f"{service} in {region or 'its region'} cannot be reached"
    return TransientError(what, where=where, safe=safe, hint=hint)
