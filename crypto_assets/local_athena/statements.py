"""What a statement is before anything is read: its kind, its parameters, the tables that it names.

Athena refuses what it cannot parse at once (``InvalidRequestException``, ``MALFORMED_QUERY``); a table, column or
function that there is not lets the query fail later. Parameters are taken as Athena was seen to take them: a value
that parses as an expression without a column is that expression, any other is a text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from crypto_assets.errors import UsageError
from crypto_assets.local_athena.errors import QueryError, RequestError

if TYPE_CHECKING:
    from sqlglot import Token, exp

MAX_BYTES: Final = 262_144
"""The longest query string, in bytes: Athena's quota."""

_COMMENTS: Final = re.compile(r"\s*(?:--[^\n]*(?:\n|$)|/\*.*?\*/)", re.DOTALL)
_WORDS: Final = re.compile(r"\s*([A-Za-z]+)(?:\s+([A-Za-z]+))?(?:\s+([A-Za-z]+))?")
_EXECUTE: Final = re.compile(r"\s*EXECUTE\s+([\w`\"]+)(?:\s+USING\s+(.*))?\s*", re.IGNORECASE | re.DOTALL)
# By the statement's first words: how Athena classifies it.
_UTILITY: Final = {
    ("DESCRIBE",): "DESCRIBE_TABLE",
    ("DESC",): "DESCRIBE_TABLE",
    ("SHOW", "COLUMNS"): "SHOW_COLUMNS",
    ("SHOW", "CREATE", "TABLE"): "SHOW_CREATE_TABLE",
    ("SHOW", "DATABASES"): "SHOW_DATABASES",
    ("SHOW", "SCHEMAS"): "SHOW_DATABASES",
    ("SHOW", "TABLES"): "SHOW_TABLES",
    ("SHOW", "TBLPROPERTIES"): "SHOW_TBLPROPERTIES",
    ("SHOW", "VIEWS"): "SHOW_VIEWS",
}
_DDL: Final = {
    ("CREATE", "DATABASE"): "CREATE_DATABASE",
    ("CREATE", "SCHEMA"): "CREATE_DATABASE",
    ("CREATE", "EXTERNAL", "TABLE"): "CREATE_TABLE",
    ("DROP", "DATABASE"): "DROP_DATABASE",
    ("DROP", "SCHEMA"): "DROP_DATABASE",
    ("DROP", "TABLE"): "DROP_TABLE",
}
_QUERIES: Final = frozenset({"SELECT", "WITH"})
# Of Athena, but not of the part of it that Delta tables have, or that this endpoint answers.
_OTHERS: Final = """
    ALTER ANALYZE CALL COMMIT COPY CREATE DEALLOCATE DELETE DROP EXPLAIN GRANT INSERT MERGE MSCK OPTIMIZE PREPARE
    REFRESH RESET REVOKE SET SHOW START TRUNCATE UNLOAD UPDATE USE VACUUM VALUES
"""
_UNSUPPORTED: Final = frozenset(_OTHERS.split())


@dataclass(frozen=True)
class Kind:
    """A statement's class: ``DML``, ``DDL`` or ``UTILITY``, and which within it."""

    type: str
    substatement: str

    @property
    def is_select(self) -> bool:
        return self.substatement == "SELECT"


@dataclass(frozen=True)
class Named:
    """A table that a statement names: where the name starts in the text, and where that is for a reader."""

    database: str
    table: str
    start: int
    at: str
    is_bare: bool


def stripped(sql: str) -> str:
    """The statement without comments before it and semicolons after it."""
    rest = sql
    while found := _COMMENTS.match(rest):
        rest = rest[found.end() :]
    return rest.strip().rstrip(";").rstrip()


def classified(sql: str) -> Kind:
    """The statement's kind, by its first words.

    Raises:
        RequestError: it is no statement of Athena's.
        QueryError: it is one that this endpoint does not answer.
    """
    text = stripped(sql)
    if not text:
        raise RequestError.invalid("Query string cannot be empty or blank")
    if text[0] == "(":
        return Kind("DML", "SELECT")
    found = _WORDS.match(text)
    words = tuple(word.upper() for word in found.groups() if word) if found else ()
    if words and words[0] in _QUERIES:
        return Kind("DML", "SELECT")
    for length in (3, 2, 1):
        if words[:length] in _UTILITY:
            return Kind("UTILITY", _UTILITY[words[:length]])
        if words[:length] in _DDL:
            return Kind("DDL", _DDL[words[:length]])
    if words and words[0] in _UNSUPPORTED:
        told = " ".join(words[:2])
        if words[0] in {"CREATE", "UNLOAD"}:
            told += " (clients that read by CTAS or UNLOAD can be told to read the plain result)"
        raise QueryError(
            f"NOT_SUPPORTED: {told} is not answered by the local Athena; it reads Delta tables, and creates, drops and "
            "describes their entries in Glue"
        )
    first = words[0] if words else text[:1]
    raise RequestError.invalid(f"line 1:1: mismatched input '{first}'", "MALFORMED_QUERY")


def executed(sql: str) -> tuple[str, list[str]] | None:
    """The name and the parameters of ``EXECUTE name USING ...``; None for any other statement."""
    found = _EXECUTE.fullmatch(stripped(sql))
    if found is None:
        return None
    name = found.group(1).strip('`"')
    return name, _split(found.group(2) or "")


def bound(sql: str, parameters: Sequence[str]) -> str:
    """The statement with each ``?`` replaced by its parameter; parameters of a statement without ``?`` are ignored.

    Raises:
        QueryError: there are more or fewer parameters than places.
    """
    from sqlglot import TokenType

    places = [token for token in tokens(sql) if token.token_type == TokenType.PLACEHOLDER]
    if not places:
        return sql
    if len(places) != len(parameters):
        raise QueryError(
            f"INVALID_PARAMETER_USAGE: line 1:1: Incorrect number of parameters: expected {len(places)} but found "
            f"{len(parameters)}"
        )
    text = sql
    for token, value in reversed(list(zip(places, parameters, strict=True))):
        text = text[: token.start] + _parameter(value) + text[token.end + 1 :]
    return text


def tokens(sql: str) -> list[Token]:
    """The statement's tokens.

    Raises:
        RequestError: a quote or a comment is left open.
    """
    import sqlglot
    from sqlglot.errors import TokenError

    try:
        return list(sqlglot.tokenize(sql, read="athena"))
    except TokenError:
        raise RequestError.invalid("Queries of this type are not supported", "MALFORMED_QUERY") from None


def parsed(sql: str) -> exp.Expr:
    """The tree of a SELECT.

    Raises:
        RequestError: its syntax is wrong, as Athena says at once.
        QueryError: it is right, but not answered here.
    """
    import sqlglot
    from sqlglot.errors import ParseError

    from crypto_assets.resources import query

    tokens(sql)
    try:
        return query.parse(sql)
    except UsageError as refused:
        try:
            sqlglot.parse_one(stripped(sql), read="trino")
        except ParseError as error:
            facts = error.errors[0] if error.errors else {}
            start = facts.get("col", 1) - len(str(facts.get("highlight") or " ")) + 1
            near = f"mismatched input '{facts.get('highlight') or '<EOF>'}'"
            raise RequestError.invalid(
                f"line {facts.get('line', 1)}:{max(start, 1)}: {near}", "MALFORMED_QUERY"
            ) from None
        except RecursionError:
            pass
        raise _refusal(sql, refused) from None


@lru_cache(maxsize=256)
def named(sql: str, database: str) -> tuple[Named, ...]:
    """The tables that a SELECT names, in the text's order; bare names are the context's.

    Kept, because the views of a database are looked at with every query.
    """
    from crypto_assets.resources import query

    found = []
    for table in query.outer_tables(parsed(sql)):
        first = next(part for part in (table.args.get("catalog"), table.args.get("db"), table.this) if part is not None)
        start = first.meta.get("start", table.this.meta.get("start", 0))
        is_bare = not table.db
        found.append(Named((table.db or database).lower(), table.name.lower(), start, place(sql, start), is_bare))
    return tuple(sorted(found, key=lambda each: each.start))


def written_out(sql: str, names: Sequence[Named]) -> str:
    """The statement with its bare tables named in full."""
    text = sql
    for name in sorted(names, key=lambda each: -each.start):
        if name.is_bare:
            text = f'{text[: name.start]}"{name.database}".{text[name.start :]}'
    return text


def place(sql: str, start: int) -> str:
    """``line 1:15`` for an offset in the text; both count from one."""
    before = sql[:start]
    return f"line {before.count(chr(10)) + 1}:{start - (before.rfind(chr(10)) + 1) + 1}"


def place_of_word(sql: str, word: str) -> str:
    """Where a name first stands in the statement; its beginning where it does not."""
    for token in tokens(sql):
        if token.text.lower() == word.lower():
            return place(sql, token.start)
    return "line 1:1"


def literals(mapping: Mapping[str, str]) -> str:
    """``'k'='v'`` pairs as DDL writes them."""
    return ", ".join(f"\n  '{key}'='{value}'" for key, value in sorted(mapping.items()))


def _parameter(value: str) -> str:
    """A parameter as it stands in the statement: an expression without columns, or a text."""
    import sqlglot
    from sqlglot import exp
    from sqlglot.errors import SqlglotError

    text = "'" + value.replace("'", "''") + "'"
    try:
        tree = sqlglot.parse_one(f"SELECT ({value})", read="trino")
    except SqlglotError:
        return text
    is_one = isinstance(tree, exp.Select) and len(tree.expressions) == 1 and isinstance(tree.expressions[0], exp.Paren)
    has_more = any(value for key, value in tree.args.items() if key not in {"expressions", "kind", "hint"})
    if not is_one or has_more or tree.find(exp.Column, exp.Subquery) or "--" in value:
        return text
    return value


def _split(values: str) -> list[str]:
    """The expressions of ``USING a, b``, cut at commas outside of parentheses and quotes."""
    parts: list[str] = []
    depth, begin = 0, 0
    for token in tokens(values):
        depth += {"(": 1, ")": -1, "[": 1, "]": -1}.get(token.text, 0)
        if token.text == "," and depth == 0:
            parts.append(values[begin : token.start].strip())
            begin = token.end + 1
    return [*parts, values[begin:].strip()] if values.strip() else []


def _refusal(sql: str, refused: UsageError) -> QueryError | RequestError:
    """Athena's words for what our parser refuses."""
    from crypto_assets.resources.dialect import FUNCTIONS

    if found := re.search(r"function (\S+) is refused", refused.what):
        name = found.group(1)
        at = place_of_word(sql, name)
        if name in FUNCTIONS:
            return QueryError(f"NOT_SUPPORTED: {at}: the local Athena does not have Athena's function '{name}'")
        what = "Table function" if refused.what.startswith("table function") else "Function"
        return QueryError(f"FUNCTION_NOT_FOUND: {at}: {what} '{name}' not registered")
    if found := re.search(r"Athena does not know (.*)", refused.what):
        word = found.group(1)
        return RequestError.invalid(
            f"{place_of_word(sql, word)}: mismatched input '{word}'; {refused.hint}", "MALFORMED_QUERY"
        )
    if "several statements" in refused.what:
        return RequestError.invalid(f"Only one sql statement is allowed. Got: {sql}")
    return QueryError(f"NOT_SUPPORTED: {refused.what}; {refused.hint}")
