"""What a store, or a table's damaged files, say to a reader or writer: one line, and what mends it.

Belongs here: the words of object stores, file systems and their clients as errors of ours, and the command that brings
damaged rows back. Does not: what is wrong with a table's log (``inspection.py``), what AWS's other services say
(``aws.py``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from typing import Literal

from crypto_assets.errors import CryptoAssetsError, DataError, NeedsYouError, TransientError
from crypto_assets.resources.aws import NO_KEYS
from crypto_assets.tables.contract import Contract, Write, Zone

_ELSEWHERE = ("the bucket is in another region", "set AWS_REGION to the bucket's")
_NEEDS_A_PERSON = {
    "NoSuchBucket": ("the bucket does not exist", "create it, or correct CRYPTO_ASSETS_LAKE_URI"),
    "bucket does not exist": ("the bucket does not exist", "create it, or correct CRYPTO_ASSETS_LAKE_URI"),
    "AccessDenied": ("the store denies access", "check the credentials and their permissions"),
    "InvalidAccessKeyId": ("the store does not know the access key", "check AWS_ACCESS_KEY_ID"),
    "SignatureDoesNotMatch": ("the store refuses the secret key", "check AWS_SECRET_ACCESS_KEY"),
    "ExpiredToken": ("the credentials have expired", "renew them"),
    # A bucket answers for its own region only: by a refusal, or by a redirect that names no place to go to.
    "AuthorizationHeaderMalformed": _ELSEWHERE,
    "PermanentRedirect": _ELSEWHERE,
    "redirect without LOCATION": _ELSEWHERE,
    # Where the machine's role would be asked for, at last; there is none on a laptop.
    "169.254.169.254": NO_KEYS,
    "Unable to locate credentials": NO_KEYS,
    "retrieving credentials": NO_KEYS,
    "config profile": NO_KEYS,
    "lacked the necessary privileges": ("the store denies access", "check the credentials and their permissions"),
    "No space left": ("the disk is full", "free some space"),
    "os error 28": ("the disk is full", "free some space"),
    "Permission denied": ("the directory is not writable", "check its owner and mode"),
    "Read-only file system": ("the file system is read-only", "choose another CRYPTO_ASSETS_LAKE_URI"),
    "Not a directory": ("a part of the path is a file", "choose another CRYPTO_ASSETS_LAKE_URI"),
    # What the kernel calls a table whose directory is a file.
    "Invalid table location": ("a part of the path is a file", "choose another CRYPTO_ASSETS_LAKE_URI"),
}
_REGION = re.compile(r"expecting '([a-z0-9-]+)'")
_OUT_OF_REACH = (
    *("Error performing", "error sending request", "Connection refused", "timed out"),
    # boto3's words for the same.
    *("Could not connect to the endpoint", "timeout on endpoint", "Connection was closed", "reached max retries"),
)
_COLOURS = re.compile(r"\x1b\[[0-9;]*m|↳")


@contextmanager
def store_errors(where: str, safe: str, root: str) -> Iterator[None]:
    """What a store says below Delta (an OSError) leaves as ours, in one line."""
    try:
        yield
    except OSError as error:
        raise typed(error, where, safe, root) from error


def needs_a_person(error: BaseException) -> bool:
    return any(sign in str(error) for sign in _NEEDS_A_PERSON)


def typed(error: BaseException, where: str, safe: str, root: str, *, is_conflict: bool = False) -> CryptoAssetsError:
    """Our error for one of Delta's or of a store; ``is_conflict`` where other writers' commits came first."""
    message = " ".join(_COLOURS.sub("", str(error)).split())
    for sign, (what, hint) in _NEEDS_A_PERSON.items():
        if sign in message:
            region = _REGION.search(message)
            remedy = f"set AWS_REGION={region[1]}" if region else hint
            return NeedsYouError(f"{what} ({root})", where=where, safe=safe, hint=remedy)
    if is_conflict:
        return TransientError("other writers kept winning", where=where, safe=safe, hint="run the same again")
    if any(sign in message for sign in _OUT_OF_REACH):
        hint = "check AWS_ENDPOINT_URL and the network, then run the same again"
        return TransientError(f"the store cannot be reached ({root})", where=where, safe=safe, hint=hint)
    if isinstance(error, OSError):
        return TransientError(f"the store failed: {message[:200]}", where=where, safe=safe, hint="run the same again")
    return DataError(
        f"the table cannot be read or written: {message[:200]}", where=where, safe=safe, hint="run crypto-assets doctor"
    )


def advice(contract: type[Contract], days: Sequence[date], what: Literal["file", "log"], uri: str) -> str:
    """What brings damaged rows back: the command that computes them again where they can be computed.

    ``what`` is damaged: data files, whose days are written over, or the log, which makes the folder useless. Verdicts
    and gaps are computed from no table, and runs read verdicts before anything else.
    """
    name = contract.table.full_name
    if contract.table.zone is Zone.RAW:
        return "put it back from a backup or the bucket's older versions: nothing else brings raw back"
    span = f" --from {min(days)} --to {max(days)}" if days else ""
    if name == "quality.gap_ledger":
        return f"put it back from a backup, or move {uri} away: runs note the gaps again that they meet"
    if name == "quality.check_results":
        return f"put it back from a backup, or move {uri} away: crypto-assets backfill{span} writes it anew"
    first = f"move {uri} away, then " if what == "log" else ""
    if contract.table.write is Write.MERGE:
        return f"{first}compute it again: crypto-assets run --select {name}"
    # Refused records are written by the tables that refuse them.
    tables = "trusted" if name == "quality.quarantine" else name
    return f"{first}compute the days again: crypto-assets backfill {tables}{span}"
