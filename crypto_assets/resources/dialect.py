"""Athena's SQL where it differs from what parsers and DuckDB let pass: its functions, its syntax, its parameters.

What belongs here: which words and signs Athena (engine version 3, of Trino) does not know, and what it says instead;
how a Python value is written as one of its literals. What a statement may do is ``query.py``.

A statement that runs here must run there: the local engine refuses what only DuckDB knows, with the word for it.
Source of the functions: https://trino.io/docs/current/functions/list.html and
https://docs.aws.amazon.com/athena/latest/ug/functions-env3.html (without geometry, machine learning and sketches of
Athena's own, which no table here has a use for).
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from crypto_assets.errors import UsageError

if TYPE_CHECKING:
    from sqlglot import Token, exp

Parameter = None | bool | int | float | Decimal | str | bytes | date | datetime | time
"""A value for one ``?`` of a statement."""

_NAMES: Final = """
abs acos all_match any_match any_value approx_distinct approx_most_frequent approx_percentile approx_set arbitrary
array_agg array_distinct array_except array_intersect array_join array_max array_min array_position array_remove
array_sort array_union arrays_overlap asin at_timezone atan atan2 avg bar beta_cdf bing_tile bit_count bitwise_and
bitwise_and_agg bitwise_left_shift bitwise_not bitwise_or bitwise_or_agg bitwise_right_shift
bitwise_right_shift_arithmetic bitwise_xor bitwise_xor_agg bool_and bool_or cardinality cast cbrt ceil ceiling
checksum chr classify coalesce codepoint color combinations concat concat_ws contains contains_sequence
convex_hull_agg corr cos cosh cosine_similarity count count_if covar_pop covar_samp crc32 cume_dist current_date
current_time current_timestamp current_timezone date date_add date_diff date_format date_parse date_trunc day
day_of_month day_of_week day_of_year degrees dense_rank dow doy e element_at empty_approx_set
evaluate_classifier_predictions every exists exp extract features filter first_value flatten floor format
format_datetime format_number from_base from_base32 from_base64 from_base64url from_big_endian_32 from_big_endian_64
from_encoded_polyline from_hex from_ieee754_32 from_ieee754_64 from_iso8601_date from_iso8601_timestamp
from_iso8601_timestamp_nanos from_unixtime from_unixtime_nanos from_utf8 geometric_mean greatest grouping
hamming_distance hash_counts histogram hmac_md5 hmac_sha1 hmac_sha256 hmac_sha512 hour human_readable_seconds if
infinity intersection_cardinality inverse_beta_cdf inverse_normal_cdf is_finite is_infinite is_json_scalar is_nan
jaccard_index json_array json_array_contains json_array_get json_array_length json_exists json_extract
json_extract_scalar json_format json_object json_parse json_query json_size json_value kurtosis lag
last_day_of_month last_value lead least length levenshtein_distance like listagg ln localtime localtimestamp log
log10 log2 lower lpad ltrim luhn_check make_set_digest map map_agg map_concat map_entries map_filter
map_from_entries map_keys map_union map_values map_zip_with max max_by md5 merge merge_set_digest millisecond min
min_by minute mod month multimap_agg multimap_from_entries murmur3 nan ngrams none_match normal_cdf normalize now
nth_value ntile nullif numeric_histogram objectid_timestamp overlay parse_data_size parse_datetime parse_duration
percent_rank pi position pow power qdigest_agg quarter radians rand random rank reduce reduce_agg regexp_count
regexp_extract regexp_extract_all regexp_like regexp_position regexp_replace regexp_split regr_count regr_avgx
regr_avgy regr_intercept regr_r2 regr_slope regr_sxx regr_sxy regr_syy render repeat replace reverse rgb round row
row_number rpad rtrim second sequence sha1 sha256 sha512 shuffle sign simplify_geometry sin sinh skewness slice some
soundex split split_part split_to_map split_to_multimap spooky_hash_v2_32 spooky_hash_v2_64 sqrt starts_with stddev
stddev_pop stddev_samp strpos substr substring sum tan tanh tdigest_agg timestamp_objectid timezone_hour
timezone_minute to_base to_base32 to_base64 to_base64url to_big_endian_32 to_big_endian_64 to_encoded_polyline
to_hex to_ieee754_32 to_ieee754_64 to_iso8601 to_milliseconds to_unixtime to_utf8 transform transform_keys
transform_values translate trim trim_array truncate try try_cast typeof unnest upper url_decode url_encode
url_extract_fragment url_extract_host url_extract_parameter url_extract_path url_extract_port url_extract_protocol
url_extract_query uuid value_at_quantile values_at_quantiles var_pop var_samp variance version week week_of_year
width_bucket wilson_interval_lower wilson_interval_upper with_timezone word_stem xxhash64 year year_of_week yow zip
zip_with
"""
FUNCTIONS: Final = frozenset(_NAMES.split())
"""What Athena can be asked to compute, in lower case."""

# Words of other engines that people write, and of Athena's what to write instead.
_INSTEAD: Final[Mapping[str, str]] = {
    "arg_max": "max_by",
    "arg_min": "min_by",
    "array_to_string": "array_join",
    "date_part": "extract(year from x)",
    "date_sub": "date_add with a negative number",
    "dateadd": "date_add",
    "datediff": "date_diff",
    "epoch": "to_unixtime",
    "epoch_ms": "to_unixtime(x) * 1000",
    "first": "arbitrary or min_by",
    "generate_series": "sequence",
    "getdate": "now",
    "group_concat": "listagg or array_join(array_agg(x), ',')",
    "ifnull": "coalesce",
    "instr": "strpos",
    "isinf": "is_infinite",
    "isnan": "is_nan",
    "last": "max_by",
    "left": "substr(x, 1, n)",
    "len": "length, or cardinality of an array",
    "list": "array_agg",
    "list_aggregate": "reduce",
    "list_contains": "contains",
    "list_distinct": "array_distinct",
    "list_filter": "filter",
    "list_sort": "array_sort",
    "list_sum": "reduce",
    "list_transform": "transform",
    "list_value": "array[...]",
    "make_timestamp": "from_unixtime",
    "median": "approx_percentile(x, 0.5)",
    "nvl": "coalesce",
    "quantile": "approx_percentile",
    "quantile_cont": "approx_percentile",
    "quantile_disc": "approx_percentile",
    "range": "sequence",
    "regexp_matches": "regexp_like",
    "right": "substr(x, -n)",
    "str_split": "split",
    "strftime": "date_format",
    "string_agg": "listagg or array_join(array_agg(x), ',')",
    "string_split": "split",
    "strptime": "date_parse",
    "struct_pack": "cast(row(...) as row(...))",
    "time_bucket": "date_trunc",
    "today": "current_date",
    "to_days": "interval '1' day",
    "to_date": "date or date_parse",
    "to_seconds": "interval '1' second",
    "to_timestamp": "from_unixtime or date_parse",
}
# Some are calls where a bracket follows, though the tokenizer takes the words for keywords.
_CALLED: Final = frozenset({"VAR", "FIRST", "LEFT", "LIST", "RANGE", "RIGHT", "STRUCT"})
# What may stand before a bracket that takes an element, or makes an array as Athena writes it.
_SUBSCRIBED: Final = frozenset({"VAR", "IDENTIFIER", "R_PAREN", "R_BRACKET", "ARRAY", "STRING"})


def require_athena(tokens: Sequence[Token], tree: exp.Expr) -> None:
    """Raise UsageError for a word or sign that Athena does not know, with what it says instead."""
    from sqlglot import exp

    _require_signs(tokens, tree)
    for node in tree.walk():
        if isinstance(node, exp.ILike):
            raise _unknown("ILIKE", "write lower(x) like '...'")
        if isinstance(node, exp.Columns) or (isinstance(node, exp.Star) and any(node.args.values())):
            raise _unknown("a choice of columns on *", "name the columns")
        if isinstance(node, exp.Distinct) and node.args.get("on"):
            raise _unknown("DISTINCT ON", "write row_number() over (partition by ...) and keep the first")
        if isinstance(node, exp.Group) and node.args.get("all") and not node.expressions:
            raise _unknown("GROUP BY ALL", "name the columns, or their places: group by 1, 2")
        if isinstance(node, exp.TableSample) and not node.args.get("method"):
            raise _unknown("a sample without a method", "write tablesample bernoulli (10)")
        if isinstance(node, exp.LimitOptions) and node.args.get("percent"):
            raise _unknown("LIMIT of a part", "write a number of rows")
        if isinstance(node, exp.Join) and (node.kind in {"SEMI", "ANTI"} or node.method in {"ASOF", "POSITIONAL"}):
            raise _unknown(f"{node.kind or node.method} JOIN", "write where exists (...), or a window function")
        if isinstance(node, exp.SetOperation) and node.args.get("by_name"):
            raise _unknown("UNION BY NAME", "name the columns in one order")
        if isinstance(node, exp.Slice):
            raise _unknown("x[a:b]", "write slice(x, a, n)")
    _require_words(tokens, tree)


def unknown_function(name: str) -> UsageError:
    """The error for a function that Athena, or in its place the local engine, does not have."""
    near = difflib.get_close_matches(name, sorted(FUNCTIONS), n=2)
    if name in FUNCTIONS:
        hint = "ask Athena itself, or write it with functions that the local engine has"
    elif name in _INSTEAD:
        hint = f"write {_INSTEAD[name]}"
    else:
        hint = f"did you mean {' or '.join(near)}?" if near else "write it with functions of Athena"
    return UsageError(
        f"function {name} is refused or unknown", where="sql", safe="nothing was read or written", hint=hint
    )


def _require_words(tokens: Sequence[Token], tree: exp.Expr) -> None:
    from sqlglot import exp

    # `t(a, b)` names a table's columns, and looks like a call.
    named = {alias.name.lower() for alias in tree.find_all(exp.TableAlias)}
    for before, token, after in zip([None, *tokens], tokens, tokens[1:], strict=False):
        is_call = after.token_type.name == "L_PAREN" and token.token_type.name in _CALLED
        is_part = before is not None and before.text.lower() in {"tablesample", "within"}
        name = token.text.lower()
        if is_call and not is_part and name not in FUNCTIONS and name not in named:
            raise unknown_function(name)


def _require_signs(tokens: Sequence[Token], tree: exp.Expr) -> None:
    from sqlglot import exp

    kinds = [token.token_type.name for token in tokens]
    if "DCOLON" in kinds:
        raise _unknown(tokens[kinds.index("DCOLON")].text, "write cast(x as type)")
    if "L_BRACE" in kinds:
        raise _unknown("{...}", "write cast(row(...) as row(...)) or map(array[...], array[...])")
    if any(token.text == "==" for token in tokens if token.token_type.name == "EQ"):
        raise _unknown("==", "write =")
    if "DARROW" in kinds or kinds.count("ARROW") > sum(1 for _ in tree.find_all(exp.Lambda)):
        raise _unknown("-> on JSON", "write json_extract_scalar(x, '$.key')")
    for before, kind in zip(["SELECT", *kinds], kinds, strict=False):
        if kind == "L_BRACKET" and before not in _SUBSCRIBED:
            raise _unknown("[...]", "write array[...]")
        if before == "INTERVAL" and kind == "NUMBER":
            raise _unknown("an interval's number without quotes", "write interval '5' day")
    for place, kind in enumerate(kinds[2:], start=2):
        if kind == "OFFSET" and kinds[place - 2] == "LIMIT":
            raise _unknown("OFFSET after LIMIT", "write OFFSET before LIMIT")


def _unknown(what: str, hint: str) -> UsageError:
    return UsageError(f"Athena does not know {what}", where="sql", safe="nothing was read or written", hint=hint)


# parameters


def literal(value: Parameter) -> str:
    """The value as Athena's SQL writes it, with its type: ``DECIMAL '1.50'``, ``TIMESTAMP '2026-01-01 ... UTC'``.

    Raises:
        UsageError: a time without a zone, or a type that has no literal.
    """
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if math.isfinite(value):
            return f"DOUBLE '{value!r}'"
        return "nan()" if math.isnan(value) else f"{'-' if value < 0 else ''}infinity()"
    if isinstance(value, Decimal) and value.is_finite():
        return f"DECIMAL '{value:f}'"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, bytes):
        return f"X'{value.hex().upper()}'"
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise UsageError(
                "a time has no zone", where="parameters", safe="nothing was read or written", hint="give it UTC"
            )
        moment = value.astimezone(UTC).replace(tzinfo=None)
        return f"TIMESTAMP '{moment.isoformat(' ', 'microseconds')} UTC'"
    if isinstance(value, date):
        return f"DATE '{value.isoformat()}'"
    if isinstance(value, time) and value.tzinfo is None:
        return f"TIME '{value.isoformat('microseconds')}'"
    raise UsageError(
        f"{type(value).__name__} {value!s:.40} has no literal",
        where="parameters",
        safe="nothing was read or written",
        hint="give text, a number, a date or a time in UTC",
    )


_PLACE: Final = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|/\*.*?\*/|(\?)", re.DOTALL)


def bound(sql: str, literals: Sequence[str]) -> str:
    """The statement with each ``?`` replaced by the literal whose turn it is; those in quotes and comments stay.

    Raises:
        UsageError: there are more or fewer places than literals.
    """
    places = [match.start() for match in _PLACE.finditer(sql) if match.group(1)]
    if len(places) != len(literals):
        raise UsageError(
            f"the statement has {len(places)} places for parameters and was given {len(literals)}",
            where="sql",
            safe="nothing was read or written",
            hint="give one value for each ?",
        )
    for place, text in zip(reversed(places), reversed(literals), strict=True):
        sql = f"{sql[:place]}{text}{sql[place + 1 :]}"
    return sql
