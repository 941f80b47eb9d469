"""What a query reads: the files that partitions and statistics leave over, and the bytes of the columns it names.

What belongs here: from one SELECT in Athena's SQL to the tables it scans, the predicates that reach each scan, the
files and row groups that those rule out, and what is left in bytes. What does not: running the query (`query.py`,
`athena.py`) and reading the Delta log (`lake.py`).

Use::

    pruning = Pruning({"refined.asset_daily": "s3://lake/refined/asset_daily"}, VIEWS, storage_options={...})
    reads = pruning.reads("select close_usd from refined.asset_daily where date = date '2026-10-01'")
    sum(read.n_bytes for read in reads)  # what Athena bills; one `Read` for each scan, in the statement's order

``tables``, ``views`` and ``storage_options`` are what `QueryEngine` takes, and names resolve as they do there:
``refined.x``, ``crypto_refined.x`` and, where it is the only one, ``x``.

The rules are Trino's: a file goes where its partition values or the bounds in the Delta log rule the predicate out, a
row group where its bounds in the Parquet footer do. A CTE is read once for each time it is named, as Athena does.
Predicates reach a scan through subqueries, CTEs, views, UNION, GROUP BY keys, PARTITION BY columns and inner joins'
equalities; never past LIMIT, nor past an outer join that could bring the row back. sqlglot's own pushdown moves
predicates past LIMIT, which is wrong, and stops at every window, which Trino does not; so it is not used. The
delta-explain tool takes one predicate for one table and knows no columns; the tests hold it against this module.

Whatever is not understood rules nothing out: a file that holds an answer is never counted as skipped. What Athena may
skip beyond this is not counted as skipped either: pages, and what joins find out while they run.
"""

from __future__ import annotations

import calendar
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Final

from crypto_assets.errors import UsageError
from crypto_assets.resources import query
from crypto_assets.resources.clock import Clock, SystemClock
from crypto_assets.resources.lake import LiveFile, Snapshot, snapshot

if TYPE_CHECKING:
    from sqlglot import exp

_TYPES: Final = {"long": "bigint", "integer": "int", "short": "smallint", "byte": "tinyint", "string": "varchar"}
# Writers may cut a bound off at so many characters, and only a lower bound is still one then.
_CUT_AT: Final = 32
# The log's bounds of times are cut to milliseconds.
_CUT_TIME: Final = timedelta(microseconds=999)


@dataclass(frozen=True)
class Read:
    """What one scan of a table costs.

    Attributes:
        table: ``zone.table``.
        columns: those it reads, in the table's order; partition columns come from the log and cost nothing.
        n_files, n_files_read: live files, and those that are left after pruning.
        n_bytes: column chunks of ``columns`` in the row groups that are left: what Athena bills.
        n_bytes_files: whole size of the files that are left: what a reader of whole files would fetch.
        n_bytes_table: whole size of all live files.
        files: addresses of the files that are left.
        conditions: what had to hold of a row for its file to be read, in Athena's SQL; ``?`` is what the scan cannot
            know.
    """

    table: str
    columns: tuple[str, ...]
    n_files: int
    n_files_read: int
    n_bytes: int
    n_bytes_files: int
    n_bytes_table: int
    files: tuple[str, ...] = field(repr=False)
    conditions: tuple[str, ...] = field(repr=False)


class Pruning:
    """Says what queries read; keeps footers, which never change, for the next question.

    Args:
        tables: ``"refined.asset_daily"`` to the table's address, a directory or ``s3://bucket/prefix``.
        views: ``"refined.currency"`` to a SELECT, in Athena SQL, over tables and other views.
        storage_options: deltalake's ``AWS_*`` keys.
        clock: what ``current_date`` means.
    """

    def __init__(
        self,
        tables: Mapping[str, str],
        views: Mapping[str, str] = {},
        *,
        storage_options: Mapping[str, str] = {},
        clock: Clock | None = None,
    ) -> None:
        self._tables = {name: uri.rstrip("/") for name, uri in tables.items()}
        self._views = dict(views)
        self._options = dict(storage_options)
        self._clock = clock or SystemClock()
        self._footers: dict[str, _Footer] = {}

    def reads(self, sql: str) -> list[Read]:
        """Each scan of a table by the statement.

        Raises:
            UsageError: it is not one SELECT, or names a table or column that there is not.
            NeedsYouError, TransientError, DataError: a table's log cannot be read.
        """
        from sqlglot.errors import SqlglotError
        from sqlglot.optimizer.pushdown_projections import pushdown_projections
        from sqlglot.optimizer.qualify import qualify

        tree = self._expanded(query.parse(sql), ())
        snapshots = {name: snapshot(self._tables[name], self._options) for name in sorted(_names(tree))}
        schema: dict[str, object] = {}
        for name, found in snapshots.items():
            zone, table = name.split(".")
            columns = {column: _TYPES.get(kind, kind) for column, kind in found.columns.items()}
            schema.setdefault(zone, {})[table] = columns  # type: ignore[index]
        try:
            qualified = qualify(tree, schema=schema, dialect="athena")
            narrow = pushdown_projections(qualified)
        except SqlglotError as error:
            raise UsageError(
                f"the statement cannot be understood ({str(error).splitlines()[0][:200]})",
                where="sql",
                safe="nothing was read",
                hint="mend the statement",
            ) from None
        scans = list(_scans(narrow, {}, []))
        return [self._read(scan, snapshots[scan.table]) for scan in scans]

    def _expanded(self, tree: exp.Expr, within: tuple[str, ...]) -> exp.Expr:
        """The statement with its tables named in full and its views written out."""
        from sqlglot import exp

        for table in query.outer_tables(tree):
            name = query.resolve([*self._tables, *self._views], table.db.lower(), table.name.lower())
            alias = table.args.get("alias") or exp.TableAlias(this=exp.to_identifier(table.name.lower()))
            if name in self._views:
                if name in within:
                    raise UsageError(
                        f"view {name} leads back to itself", where="sql", safe="nothing was read", hint="mend the view"
                    )
                body = self._expanded(query.parse(self._views[name]), (*within, name))
                table.replace(exp.Subquery(this=body, alias=alias))
                continue
            zone, bare = name.split(".")
            table.set("alias", alias)
            table.set("catalog", None)
            table.set("db", exp.to_identifier(zone))
            table.set("this", exp.to_identifier(bare))
        return tree

    def _read(self, scan: _Scan, found: Snapshot) -> Read:
        now = self._clock.now()
        partitions = [c for c in found.columns if c in found.partition_by]
        columns = tuple(c for c in found.columns if c in scan.columns)
        chunks = [c for c in columns if c not in found.partition_by]
        left = []
        for file in found.files:
            spans = {c: _exact(file.partition.get(c)) for c in partitions}
            spans |= {c: _logged(file, c) for c in found.columns if c not in spans}
            if _may_hold(scan.predicates, spans, now):
                left.append(file)
        addresses = [f"{self._tables[scan.table]}/{file.path}" for file in left]
        self._learn(addresses if chunks else [], found.columns)
        n_bytes = 0
        for file, address in zip(left, addresses, strict=True) if chunks else ():
            footer = self._footers[address]
            known = {c: _exact(file.partition.get(c)) for c in partitions}
            for group in footer.groups:
                spans = {**{c: group.spans.get(c, _ANYTHING) for c in found.columns}, **known}
                if _may_hold(scan.predicates, spans, now):
                    n_bytes += sum(group.sizes.get(c, 0) for c in chunks)
        return Read(
            table=scan.table,
            columns=columns,
            n_files=len(found.files),
            n_files_read=len(left),
            n_bytes=n_bytes,
            n_bytes_files=sum(file.size for file in left),
            n_bytes_table=sum(file.size for file in found.files),
            files=tuple(addresses),
            conditions=tuple(predicate.sql("athena") for predicate in scan.predicates),
        )

    def _learn(self, addresses: Sequence[str], types: Mapping[str, str]) -> None:
        """Read the footers that are not known yet."""
        new = [address for address in addresses if address not in self._footers]
        if not new:
            return
        import duckdb

        with duckdb.connect(config={"autoinstall_known_extensions": False}) as connection:
            query.reach(connection, new, self._options)
            rows = connection.execute(
                "select file_name, row_group_id, path_in_schema, total_compressed_size, "
                "num_values, stats_null_count, stats_min_value, stats_max_value, max_is_exact "
                "from parquet_metadata(?)",
                [new],
            ).fetchall()
        found: dict[str, dict[int, _Group]] = {address: {} for address in new}
        for name, number, path, size, n_values, n_nulls, low, high, is_exact in rows:
            group = found[name].setdefault(number, _Group({}, {}))
            column = str(path).split(", ", maxsplit=1)[0]
            group.sizes[column] = group.sizes.get(column, 0) + size
            group.spans[column] = _footed(types.get(column, ""), n_values, n_nulls, (low, high if is_exact else None))
        self._footers |= {address: _Footer(tuple(groups.values())) for address, groups in found.items()}


@dataclass(frozen=True)
class _Group:
    """A row group: bytes and bounds of its columns."""

    sizes: dict[str, int]
    spans: dict[str, _Span]


@dataclass(frozen=True)
class _Footer:
    groups: tuple[_Group, ...]


# What a value can be


@dataclass(frozen=True)
class _Span:
    """What is known of a value: bounds (None: unbounded), and whether it can be there at all, or be null."""

    low: Any = None
    high: Any = None
    has_value: bool = True
    has_null: bool = True


_ANYTHING: Final = _Span()
_NULL: Final = _Span(has_value=False)
_BOTH: Final = frozenset({True, False, None})


def _exact(value: Any) -> _Span:
    return _NULL if value is None else _Span(value, value, has_null=False)


def _logged(file: LiveFile, column: str) -> _Span:
    """What the log says of a column of a file."""
    n_nulls, n_rows = file.null_count.get(column), file.n_rows
    has_null = n_nulls is None or n_nulls > 0
    if n_rows is not None and n_nulls is not None and n_nulls == n_rows:
        return _NULL
    low, high = file.low.get(column), file.high.get(column)
    if isinstance(high, str) and len(high) >= _CUT_AT:
        high = None
    if isinstance(low, datetime) or isinstance(high, datetime):
        low, high = (None if bound is None else _moment(str(bound)) for bound in (low, high))
        high = None if high is None else high + _CUT_TIME
    return _Span(low, high, has_null=has_null)


def _footed(kind: str, n_values: int, n_nulls: int | None, bounds: tuple[Any, Any]) -> _Span:
    """What a footer says of a column of a row group; bounds come as DuckDB writes them."""
    if n_nulls is not None and n_nulls == n_values:
        return _NULL
    reader = _reader(kind)
    has_null = n_nulls is None or n_nulls > 0
    if reader is None:
        return _Span(has_null=has_null)
    try:
        low, high = (None if bound is None else reader(bound) for bound in bounds)
        return _Span(low, high, has_null=has_null)
    except (ValueError, InvalidOperation):
        return _Span(has_null=has_null)


def _reader(kind: str) -> Callable[[str], Any] | None:
    """What reads a bound of a Delta type."""
    readers: dict[str, Callable[[str], Any]] = {
        "string": str,
        "date": date.fromisoformat,
        "timestamp": _moment,
        "double": float,
        **dict.fromkeys(("long", "integer", "short", "byte"), int),
    }
    return Decimal if kind.startswith("decimal") else readers.get(kind)


def _moment(text: str) -> datetime:
    """A time as SQL or DuckDB write it; without a zone it is UTC."""
    text = text.strip().removesuffix(" UTC")
    if text[-3:-2] in {"+", "-"}:
        text += ":00"
    read = datetime.fromisoformat(text)
    return read.replace(tzinfo=UTC) if read.tzinfo is None else read.astimezone(UTC)


# What a predicate can say of it


def _may_hold(predicates: Iterable[exp.Expr], spans: Mapping[str, _Span], now: datetime) -> bool:
    """Whether a row within the spans may satisfy all predicates."""
    return all(True in _outcomes(predicate, spans, now) for predicate in predicates)


def _outcomes(node: exp.Expr, spans: Mapping[str, _Span], now: datetime) -> frozenset[bool | None]:
    """The truth values (None: unknown) that a predicate may have; all of them where it is not understood."""
    from sqlglot import exp

    if isinstance(node, exp.Paren):
        return _outcomes(node.this, spans, now)
    if isinstance(node, exp.Boolean):
        return frozenset({bool(node.this)})
    if isinstance(node, exp.Null):
        return frozenset({None})
    if isinstance(node, exp.Not):
        return frozenset(None if o is None else not o for o in _outcomes(node.this, spans, now))
    if isinstance(node, (exp.And, exp.Or)):
        left, right = (_outcomes(side, spans, now) for side in (node.left, node.right))
        combine = _and if isinstance(node, exp.And) else _or
        return frozenset(combine(a, b) for a in left for b in right)
    if isinstance(node, exp.Between):
        value, low, high = (_span(n, spans, now) for n in (node.this, node.args["low"], node.args["high"]))
        return frozenset(_and(a, b) for a in _compared(">=", value, low) for b in _compared("<=", value, high))
    if isinstance(node, exp.In) and node.expressions:
        value = _span(node.this, spans, now)
        found: frozenset[bool | None] = frozenset({False})
        for each in node.expressions:
            equal = _compared("=", value, _span(each, spans, now))
            found = frozenset(_or(a, b) for a in found for b in equal)
        return found
    if isinstance(node, exp.Is) and isinstance(node.expression, exp.Null):
        value = _span(node.this, spans, now)
        return frozenset(o for o, can in ((True, value.has_null), (False, value.has_value)) if can)
    symbol = _SYMBOLS.get(type(node).__name__)
    if symbol is not None:
        return _compared(symbol, *(_span(side, spans, now) for side in (node.this, node.expression)))
    if isinstance(node, exp.Column):
        value = _span(node, spans, now)
        if isinstance(value.low, bool) and value.low == value.high:
            return frozenset({value.low, None} if value.has_null else {value.low})
    return _BOTH


_SYMBOLS: Final = {"EQ": "=", "NEQ": "<>", "LT": "<", "LTE": "<=", "GT": ">", "GTE": ">="}


def _and(a: bool | None, b: bool | None) -> bool | None:
    if a is False or b is False:
        return False
    return None if a is None or b is None else True


def _or(a: bool | None, b: bool | None) -> bool | None:
    if a is True or b is True:
        return True
    return None if a is None or b is None else False


def _compared(symbol: str, left: _Span, right: _Span) -> frozenset[bool | None]:
    """The outcomes of a comparison of any value of one span with any of the other."""
    found: set[bool | None] = {None} if left.has_null or right.has_null else set()
    if not (left.has_value and right.has_value):
        return frozenset(found)
    ends = _alike(left.low, left.high, right.low, right.high)
    if ends is None:
        return frozenset(found | {True, False})
    low, high, other_low, other_high = ends
    if symbol in {">", ">="}:
        low, high, other_low, other_high = other_low, other_high, low, high
        symbol = symbol.replace(">", "<")
    is_below = low is None or other_high is None or low < other_high  # some pair may be <
    is_above = high is None or other_low is None or high > other_low  # some pair may be >
    touches = low is None or other_high is None or low <= other_high
    is_beyond = high is None or other_low is None or high >= other_low
    can_be_equal = touches and is_beyond
    if symbol == "<":
        found |= {o for o, can in ((True, is_below), (False, is_beyond)) if can}
    elif symbol == "<=":
        found |= {o for o, can in ((True, touches), (False, is_above)) if can}
    else:
        differs = is_below or is_above
        equal, different = (True, False) if symbol == "=" else (False, True)
        found |= {o for o, can in ((equal, can_be_equal), (different, differs)) if can}
    if any(isinstance(end, float) for end in ends):
        # NaN is in no bounds; it differs from everything and is neither below nor above.
        found |= {True, False} if symbol == "<>" else {False}
    return frozenset(found)


def _alike(*ends: Any) -> tuple[Any, ...] | None:
    """The bounds made comparable as Trino coerces them, or None where it is not known how."""
    kinds = {type(end) for end in ends if end is not None}
    if len(kinds) <= 1:
        return ends
    if kinds <= {int, float, Decimal}:
        make: Callable[[Any], Any] = float if float in kinds else Decimal
    elif kinds == {date, datetime}:
        make = _at_midnight
    else:
        return None
    return tuple(None if end is None else make(end) for end in ends)


def _at_midnight(day: date) -> datetime:
    return day if isinstance(day, datetime) else datetime.combine(day, time(), UTC)


def _span(node: exp.Expr, spans: Mapping[str, _Span], now: datetime) -> _Span:
    """What a value expression can be."""
    from sqlglot import exp

    if isinstance(node, exp.Paren):
        return _span(node.this, spans, now)
    if isinstance(node, exp.Column):
        return spans.get(node.name, _ANYTHING) if not node.table else _ANYTHING
    if isinstance(node, exp.Literal):
        return _exact(node.this if node.is_string else _number(node.this))
    if isinstance(node, exp.Boolean):
        return _exact(bool(node.this))
    if isinstance(node, exp.Null):
        return _NULL
    if isinstance(node, exp.Neg):
        inner = _span(node.this, spans, now)
        if isinstance(inner.low, (int, float, Decimal)) and isinstance(inner.high, (int, float, Decimal)):
            return _Span(-inner.high, -inner.low, inner.has_value, inner.has_null)
        return _ANYTHING
    if isinstance(node, exp.CurrentDate):
        return _exact(now.date())
    if isinstance(node, exp.CurrentTimestamp):
        return _exact(now)
    change = _change(node)
    if change is None:
        return _ANYTHING
    changed = _changed(_span(node.this, spans, now), change)
    # It is null where a value does not fit.
    return replace(changed, has_null=True) if isinstance(node, exp.TryCast) else changed


def _number(text: str) -> int | float | Decimal:
    if text.isdigit():
        return int(text)
    return float(text) if "e" in text.lower() else Decimal(text)


def _changed(span: _Span, change: Callable[[Any], Any]) -> _Span:
    """The span of a function that keeps order; unbounded where the function does not know an end."""
    if not span.has_value:
        return span
    ends = (span.low, span.high)
    try:
        low, high = changed = tuple(None if end is None else change(end) for end in ends)
    except (ValueError, TypeError, ArithmeticError):
        return _ANYTHING
    if span.low != span.high and any(
        isinstance(a, str) and not isinstance(b, str) for a, b in zip(ends, changed, strict=True)
    ):
        return _ANYTHING  # texts are ordered by their letters: '10' is below '9'
    return _Span(low, high, has_null=span.has_null)


def _change(node: exp.Expr) -> Callable[[Any], Any] | None:
    """The order-keeping function that an expression applies to its ``this``, where it is one of those."""
    from sqlglot import exp

    if isinstance(node, (exp.Cast, exp.TryCast)):
        return _cast(node.to)
    if isinstance(node, (exp.TsOrDsToDate, exp.Date)) and not node.expressions:
        return _to_date
    if type(node).__name__ in {"FromISO8601Timestamp"}:
        return _moment
    if isinstance(node, (exp.Add, exp.Sub, exp.DateAdd, exp.DateSub)):
        step = node.expression
        unit = step.args.get("unit") if isinstance(step, exp.Interval) else node.args.get("unit")
        n = _whole(step.this if isinstance(step, exp.Interval) else step)
        if unit is None or n is None:
            return None
        sign = -1 if isinstance(node, (exp.Sub, exp.DateSub)) else 1
        return lambda value: _moved(value, sign * n, str(unit.name).lower())
    if isinstance(node, (exp.TimestampTrunc, exp.DateTrunc)):
        name = node.text("unit").lower()
        return lambda value: _truncated(value, name)
    return None


def _whole(node: exp.Expr | None) -> int | None:
    """The whole number that a literal writes, with its sign."""
    from sqlglot import exp

    if isinstance(node, exp.Paren):
        return _whole(node.this)
    if isinstance(node, exp.Neg):
        n = _whole(node.this)
        return None if n is None else -n
    if isinstance(node, (exp.Cast, exp.TryCast)):
        return _whole(node.this)
    try:
        return int(node.this) if isinstance(node, exp.Literal) else None
    except ValueError:
        return None


def _cast(to: exp.DataType) -> Callable[[Any], Any] | None:
    from sqlglot import exp

    kinds = exp.DataType.Type
    if to.this in {kinds.DATE}:
        return _to_date
    if to.this in {kinds.TIMESTAMP, kinds.TIMESTAMPTZ, kinds.TIMESTAMPNTZ}:
        return _to_moment
    if to.this in {kinds.VARCHAR, kinds.TEXT} and not to.expressions:
        return _only(str)
    if to.this in {kinds.DOUBLE}:
        return _only(str, int, float, Decimal, make=float)
    if to.this in {kinds.INT, kinds.BIGINT, kinds.SMALLINT, kinds.TINYINT}:
        return _only(str, int, make=int)
    if to.this == kinds.DECIMAL:
        # With a scale, text is rounded to it.
        return _only(int, *(() if to.expressions else (str,)), make=Decimal)
    return None


def _only(*kinds: type, make: Callable[[Any], Any] = lambda value: value) -> Callable[[Any], Any]:
    def change(value: Any) -> Any:
        if type(value) not in kinds:
            raise TypeError
        return make(value)

    return change


def _to_date(value: Any) -> date:
    if isinstance(value, str):
        return date.fromisoformat(value.strip())
    if isinstance(value, datetime):
        return value.date()
    if isinstance(value, date):
        return value
    raise TypeError


def _to_moment(value: Any) -> datetime:
    if isinstance(value, str):
        return _moment(value)
    if isinstance(value, datetime) and value.microsecond % 1000:
        raise TypeError  # engines differ in whether they cut it to milliseconds
    if isinstance(value, date):
        return _at_midnight(value)
    raise TypeError


def _moved(value: Any, n: int, unit: str) -> Any:
    """A date or time moved by ``n`` units; a month's end stays one."""
    if not isinstance(value, date):
        raise TypeError
    if unit in {"month", "year", "quarter"}:
        months = value.year * 12 + value.month - 1 + n * {"month": 1, "quarter": 3, "year": 12}[unit]
        year, month = divmod(months, 12)
        last = calendar.monthrange(year, month + 1)[1]
        return value.replace(year=year, month=month + 1, day=min(value.day, last))
    if unit not in {"week", "day", "hour", "minute", "second"} or (
        unit in {"hour", "minute", "second"} and not isinstance(value, datetime)
    ):
        raise TypeError
    return value + timedelta(**{unit + "s": n})


def _truncated(value: Any, unit: str) -> Any:
    """A date or time cut to the start of its unit; weeks start on Monday."""
    if not isinstance(value, date):
        raise TypeError
    if isinstance(value, datetime):
        if unit == "second":
            return value.replace(microsecond=0)
        if unit == "minute":
            return value.replace(second=0, microsecond=0)
        if unit == "hour":
            return value.replace(minute=0, second=0, microsecond=0)
        value = datetime.combine(value.date(), time(), UTC)
    if unit == "day":
        return value
    if unit == "week":
        return value - timedelta(days=value.weekday())
    if unit == "month":
        return value.replace(day=1)
    if unit == "year":
        return value.replace(month=1, day=1)
    raise TypeError


# Which predicates reach which scan


@dataclass(frozen=True)
class _Scan:
    """One reading of a table: its columns, and predicates over their bare names that every row needed satisfies."""

    table: str
    columns: frozenset[str]
    predicates: tuple[exp.Expr, ...]


_Ctes = Mapping[str, "tuple[exp.Expr, _Ctes] | None"]


def _names(tree: exp.Expr) -> set[str]:
    from sqlglot import exp

    return {f"{table.db}.{table.name}" for table in tree.find_all(exp.Table) if table.db}


def _scans(node: exp.Expr, ctes: _Ctes, pushed: Sequence[exp.Expr]) -> Iterator[_Scan]:
    """The scans of a query whose answer is needed only where it satisfies ``pushed``, over its columns' bare names."""
    from sqlglot import exp

    with_ = node.args.get("with_")
    is_loop = bool(with_ and with_.args.get("recursive"))
    for cte in with_.expressions if with_ else ():
        is_recursive = is_loop and _names_itself(cte)
        if is_recursive:
            # Read once a round, as often as there are rounds; counted once.
            yield from _scans(cte.this, {**ctes, cte.alias: None}, [])
        ctes = {**ctes, cte.alias: None if is_recursive else (cte.this, ctes)}
    is_cut = node.args.get("limit") is not None or node.args.get("offset") is not None
    pushed = [] if is_cut else pushed
    if isinstance(node, exp.Subquery):
        yield from _scans(node.this, ctes, pushed)
    elif isinstance(node, exp.SetOperation):
        names = node.named_selects
        for side in (node.this, node.expression):
            renamed = dict(zip(names, (exp.column(name) for name in side.named_selects), strict=False))
            yield from _scans(side, ctes, [_substituted(predicate, renamed) for predicate in pushed])
    elif isinstance(node, exp.Select):
        yield from _scans_of_select(node, ctes, _through(node, pushed))


def _names_itself(cte: exp.Expr) -> bool:
    from sqlglot import exp

    return any(not table.db and table.name == cte.alias for table in cte.this.find_all(exp.Table))


def _scans_of_select(select: exp.Select, ctes: _Ctes, pushed: Sequence[exp.Expr]) -> Iterator[_Scan]:
    from sqlglot import exp

    for source, predicates in _sources(select, pushed):
        if isinstance(source, exp.Table) and source.db:
            named = (column.name for column in select.find_all(exp.Column) if column.table == source.alias_or_name)
            yield _Scan(f"{source.db}.{source.name}", frozenset(named), tuple(predicates))
        elif isinstance(source, exp.Table):
            known = ctes.get(source.name)
            if known is not None:
                yield from _scans(known[0], known[1], predicates)
        elif isinstance(source, exp.Subquery):
            yield from _scans(source, ctes, predicates)
        else:
            yield from _nested(source, ctes)
    for key, value in select.args.items():
        if key not in {"from_", "with_", "laterals"}:
            for part in value if isinstance(value, list) else [value]:
                yield from _nested(part.args.get("on") if isinstance(part, exp.Join) else part, ctes)


def _sources(select: exp.Select, pushed: Sequence[exp.Expr]) -> Iterator[tuple[exp.Expr, list[exp.Expr]]]:
    """What a SELECT reads from, each with the predicates, over its columns' bare names, that its rows must satisfy."""

    from_ = select.args.get("from_")
    joins: list[exp.Join] = select.args.get("joins") or []
    sources: list[exp.Expr] = ([from_.this] if from_ else []) + [join.this for join in joins]
    sources += [lateral.this for lateral in select.args.get("laterals") or []]
    names = [source.alias_or_name for source in sources]
    where = select.args.get("where")
    always = [*pushed, *(_conjuncts(where.this) if where else [])]
    outer: list[tuple[set[str], list[exp.Expr]]] = []
    can_be_missing: set[str] = set()
    for place, join in enumerate(joins, start=1 if from_ else 0):
        on = _conjuncts(join.args["on"]) if join.args.get("on") else []
        # The side whose rows are filled up with nulls where ON fails, and the one that ON alone selects from.
        sides = {"LEFT": names[place : place + 1], "RIGHT": names[:place], "FULL": names[: place + 1]}
        if join.side not in sides:
            always += on
            continue
        can_be_missing |= set(sides[join.side])
        if join.side != "FULL":
            outer.append((set(sides[join.side]), on))
    own: dict[str, list[exp.Expr]] = {name: [] for name in names}
    for filled, on in outer:
        # A row that ON would match to rows only that are not needed, is not needed either.
        told = [predicate for predicate in always if not _tables(predicate) & filled]
        for name in filled:
            own[name] += on + _by_equality([*on, *told])
    always += _by_equality(always)
    for name, source in zip(names, sources, strict=True):
        kept = [_only_of(name, predicate) for predicate in own[name]]
        for predicate in always:
            bare = _only_of(name, predicate)
            if name not in can_be_missing or _rejects_null(bare):
                kept.append(bare)
        yield source, kept


def _nested(node: Any, ctes: _Ctes) -> Iterator[_Scan]:
    """The scans of queries inside expressions: nothing of what is outside is known of them."""
    from sqlglot import exp

    if not isinstance(node, exp.Expr):
        return
    if isinstance(node, (exp.Select, exp.SetOperation, exp.Subquery)):
        yield from _scans(node, ctes, [])
        return
    for child in node.iter_expressions():
        yield from _nested(child, ctes)


def _conjuncts(node: exp.Expr) -> list[exp.Expr]:
    from sqlglot import exp

    if isinstance(node, exp.Paren):
        return _conjuncts(node.this)
    if isinstance(node, exp.And):
        return _conjuncts(node.left) + _conjuncts(node.right)
    return [node]


def _by_equality(predicates: Sequence[exp.Expr]) -> list[exp.Expr]:
    """What holds of one column because it holds of another that equals it."""
    from sqlglot import exp

    groups: list[set[str]] = []
    columns: dict[str, exp.Column] = {}
    for predicate in predicates:
        if not (
            isinstance(predicate, exp.EQ)
            and isinstance(predicate.this, exp.Column)
            and isinstance(predicate.expression, exp.Column)
        ):
            continue
        sides = [predicate.this, predicate.expression]
        columns |= {side.sql(): side for side in sides}
        joined = {side.sql() for side in sides}
        joined = joined.union(*(group for group in groups if group & joined))
        groups = [group for group in groups if not group & joined] + [joined]
    derived = []
    for predicate in predicates:
        named = {column.sql() for column in predicate.find_all(exp.Column)}
        if len(named) != 1 or predicate.find(exp.Query):
            continue
        (one,) = named
        for group in groups:
            for other in sorted(group - {one}) if one in group else ():
                copied = predicate.copy()
                holder = exp.Paren(this=copied)
                for column in list(holder.find_all(exp.Column)):
                    column.replace(columns[other].copy())
                derived.append(holder.this)
    return derived


def _tables(predicate: exp.Expr) -> set[str]:
    from sqlglot import exp

    return {column.table for column in predicate.find_all(exp.Column)}


def _only_of(name: str, predicate: exp.Expr) -> exp.Expr:
    """The predicate with bare names for a source's columns; those of other sources can be anything."""
    from sqlglot import exp

    holder = exp.Paren(this=predicate.copy())
    for column in list(holder.find_all(exp.Column)):
        column.replace(exp.column(column.name) if column.table == name else exp.Placeholder())
    return _inside(holder)


def _inside(holder: exp.Paren) -> exp.Expr:
    inner: exp.Expr = holder.this
    return inner


def _rejects_null(predicate: exp.Expr) -> bool:
    """Whether the predicate fails for a row of nulls only, as an outer join makes one."""
    from sqlglot import exp

    names = {column.name for column in predicate.find_all(exp.Column)}
    return True not in _outcomes(predicate, dict.fromkeys(names, _NULL), datetime.min.replace(tzinfo=UTC))


def _substituted(predicate: exp.Expr, by: Mapping[str, exp.Expr]) -> exp.Expr:
    from sqlglot import exp

    holder = exp.Paren(this=predicate.copy())
    for column in list(holder.find_all(exp.Column)):
        found = by.get(column.name)
        column.replace(found.copy() if found is not None else exp.Placeholder())
    return _inside(holder)


def _through(select: exp.Select, pushed: Sequence[exp.Expr]) -> list[exp.Expr]:
    """Predicates over a SELECT's answer as predicates over the rows it is made of, where that changes nothing."""
    from sqlglot import exp

    if not pushed:
        return []
    group = select.args.get("group")
    if group and any(group.args.get(key) for key in ("grouping_sets", "rollup", "cube", "all")):
        return []
    distinct = select.args.get("distinct")
    if distinct is not None and distinct.args.get("on") is not None:
        return []
    keys = None if group is None else {key.sql() for key in group.expressions}
    windows = [window for window in select.find_all(exp.Window) if window.find_ancestor(exp.Query) is select]
    shared: set[str] | None = None
    for window in windows:
        by = {key.sql() for key in window.args.get("partition_by") or []}
        shared = by if shared is None else shared & by
    is_total = keys is None and any(
        aggregate.find_ancestor(exp.Query) is select and not isinstance(aggregate.parent, exp.Window)
        for aggregate in select.find_all(exp.AggFunc)
    )
    passable = {}
    for projection in select.expressions:
        inner = projection.unalias()
        is_key = keys is None or inner.sql() in keys
        is_shared = shared is None or inner.sql() in shared
        if is_total or not (is_key and is_shared) or inner.find(exp.Window, exp.AggFunc, exp.Query):
            continue
        passable[projection.alias_or_name] = inner
    through = []
    for predicate in pushed:
        if all(column.name in passable for column in predicate.find_all(exp.Column)):
            through.append(_substituted(predicate, passable))
    return through
