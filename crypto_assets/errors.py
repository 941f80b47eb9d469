"""The errors that people see: one line that says what, where, what is safe and what to do.

Every error this product raises on purpose is one of these four kinds, and the command line turns the kind
into its exit code. Messages never hold a secret: they are built from names, hosts and paths, never from
whole addresses or foreign exception texts.
"""

from __future__ import annotations

from typing import ClassVar


class CryptoAssetsError(Exception):
    """What went wrong, where, what is safe all the same, and what to do next.

    Attributes:
        what: the fact, e.g. ``"429, the month's credits are used up"``.
        where: the table, provider endpoint, file or option concerned.
        safe: what the reader need not worry about, e.g. ``"raw.coincap_assets is unchanged"``.
        hint: the next step, e.g. a command.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str, safe: str, hint: str) -> None:
        self.what, self.where, self.safe, self.hint = (" ".join(part.split()) for part in (what, where, safe, hint))
        super().__init__(f"{self.where}: {self.what}; {self.safe}; {self.hint}")


class DataError(CryptoAssetsError):
    """The data break a promise (a contract, a check, a reconciliation); trying again does not help."""

    exit_code = 1


class UsageError(CryptoAssetsError):
    """The request makes no sense: an unknown table, a malformed date, SQL that is not one SELECT."""

    exit_code = 2


class TransientError(CryptoAssetsError):
    """The world is in the way for now (a provider or a store is down); the same command may succeed later."""

    exit_code = 3


class NeedsYouError(CryptoAssetsError):
    """Only a person can mend it: a key, a quota, a permission, a missing bucket."""

    exit_code = 4
