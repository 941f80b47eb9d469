"""Athena's two ways to refuse: a request that is not taken, and a query that is taken and fails.

Codes and numbers are those of the Athena engine version 3, as seen on AWS: ``TABLE_NOT_FOUND`` is type 1301 of
category 2 (user), ``COLUMN_NOT_FOUND`` 1006, ``FUNCTION_NOT_FOUND`` 1303; a user's error that nobody measured is 1000.
"""

from __future__ import annotations

from typing import Any, Final

SYSTEM: Final = 1
USER: Final = 2

_TYPES: Final = {
    "COLUMN_NOT_FOUND": 1006,
    "DIVISION_BY_ZERO": 1001,
    "FUNCTION_NOT_FOUND": 1303,
    "INVALID_CAST_ARGUMENT": 1100,
    "NOT_SUPPORTED": 1200,
    "SCHEMA_NOT_FOUND": 1301,
    "TABLE_NOT_FOUND": 1301,
    "TYPE_MISMATCH": 1002,
}
_UNMEASURED: Final = 1000
_SYSTEM_TYPE: Final = 200


class RequestError(Exception):
    """A request that Athena does not take: HTTP 400 and a JSON body.

    Attributes:
        kind: the exception's name in the API, e.g. ``InvalidRequestException``.
        message: Athena's words.
        facts: further members of the body, e.g. ``AthenaErrorCode``.
    """

    def __init__(self, message: str, *, kind: str = "InvalidRequestException", **facts: Any) -> None:
        super().__init__(message)
        self.kind, self.message, self.facts = kind, message, facts

    @classmethod
    def invalid(cls, message: str, code: str = "INVALID_INPUT") -> RequestError:
        """An ``InvalidRequestException`` with its ``AthenaErrorCode``."""
        return cls(message, AthenaErrorCode=code, ErrorCode=code)

    def body(self) -> dict[str, Any]:
        return {"__type": self.kind, "Message": self.message, "message": self.message, **self.facts}


class QueryError(Exception):
    """A query that ends FAILED.

    Attributes:
        reason: its ``StateChangeReason``, e.g. ``TABLE_NOT_FOUND: line 1:15: Table '...' does not exist``.
        category: 1 where the service is at fault, 2 where the user is.
        is_retryable: whether the same query may succeed later.
    """

    def __init__(self, reason: str, *, category: int = USER, is_retryable: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.category, self.is_retryable = reason, category, is_retryable

    def __reduce__(self) -> tuple[Any, ...]:
        # It crosses from the engine's process; without this its keywords would be lost.
        return _rebuilt, (self.reason, self.category, self.is_retryable)

    def body(self) -> dict[str, Any]:
        """The ``AthenaError`` of a query's status."""
        code = self.reason.partition(":")[0]
        kind = _TYPES.get(code, _UNMEASURED) if self.category == USER else _SYSTEM_TYPE
        return {
            "ErrorCategory": self.category,
            "ErrorType": kind,
            "Retryable": self.is_retryable,
            "ErrorMessage": self.reason,
        }


def _rebuilt(reason: str, category: int, is_retryable: bool) -> QueryError:
    return QueryError(reason, category=category, is_retryable=is_retryable)


def table_not_found(database: str, table: str, at: str) -> QueryError:
    """``at`` is where the name stands, e.g. ``line 1:15``."""
    return QueryError(f"TABLE_NOT_FOUND: {at}: Table 'awsdatacatalog.{database}.{table}' does not exist")


def not_delta(database: str, table: str, why: str) -> QueryError:
    return QueryError(f"DELTA_LAKE_INVALID_SCHEMA: {why} for table: {database}.{table}")
