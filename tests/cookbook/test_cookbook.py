"""The cookbook: every file says what it is, is Athena's SQL, names its partitions, and finds something."""

from __future__ import annotations

import re

import pytest
import sqlglot
from sqlglot import exp

from crypto_assets.resources.lake import Lake
from crypto_assets.resources.pruning import Pruning
from crypto_assets.resources.query import QueryEngine
from crypto_assets.tables import BY_NAME
from crypto_assets.tables.views import VIEWS
from tests.cookbook import costs
from tests.cookbook.recipes import FOLDER, Recipe, index, recipes

pytestmark = [pytest.mark.xdist_group("cookbook"), pytest.mark.e2e]

# Functions of Trino that the cookbook uses; what is not here is either DuckDB's, or belongs here after a look at
# Trino's documentation.
TRINO = frozenset(
    {
        *("abs", "avg", "cast", "count", "count_if", "date_diff", "date_trunc", "floor", "from_unixtime", "if", "lag"),
        *("ln", "max", "max_by", "min", "min_by", "rank", "row_number", "split", "sqrt", "stddev_samp", "sum"),
        *("to_unixtime", "unnest"),
    }
)
_MAX_SQL_BYTES = 262_144  # Athena's limit for one statement
every_recipe = pytest.mark.parametrize("recipe", recipes(), ids=lambda recipe: recipe.name)


def test_they_are_numbered_and_cover_what_was_replaced() -> None:
    numbers = [int(recipe.name[:2]) for recipe in recipes()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= 30
    assert len({recipe.question for recipe in recipes()}) == len(numbers)
    replaced = {number for recipe in recipes() for number in recipe.replaces}
    assert all(re.fullmatch(r"00[0-4]-\d\d", number) for number in replaced)
    assert {number[:3] for number in replaced} == {"000", "001", "002", "003", "004"}


def test_the_index_is_current() -> None:
    assert (FOLDER / "README.md").read_text(encoding="utf-8") == index(), "run python -m tests.cookbook"


@every_recipe
def test_it_is_one_select_in_athenas_sql(recipe: Recipe) -> None:
    assert len(recipe.text.encode()) < _MAX_SQL_BYTES
    (tree,) = sqlglot.parse(recipe.statement, read="athena")
    assert isinstance(tree, exp.Query)
    assert not [node.sql() for node in tree.find_all(exp.Star) if not isinstance(node.parent, exp.Count)]
    bare = re.sub(r"'[^']*'", "", recipe.statement)
    called = set(re.findall(r"\b([a-z_0-9]+)\(", bare)) - set(re.findall(r"\bas ([a-z]+)\(", bare))
    assert called <= TRINO
    # As the catalog's databases are called, so that it runs in Athena as it is.
    for table in tree.find_all(exp.Table):
        assert re.fullmatch(r"crypto_(trusted|refined|quality)", table.db), table.sql()


@every_recipe
def test_it_names_the_partitions_it_needs(recipe: Recipe, market: Lake) -> None:
    pruning = Pruning({name: market.uri(table) for name, table in BY_NAME.items()}, VIEWS)
    unnamed = []
    for read in pruning.reads(recipe.statement):
        partitions = BY_NAME[read.table].table.partition_by
        told = " ".join(condition for condition in read.conditions if "?" not in condition)
        if partitions and not re.search(rf"\b{partitions[-1]}\b", told):
            unnamed.append(read.table)
    assert bool(unnamed) == (recipe.whole_table is not None), unnamed


@every_recipe
def test_it_answers_with_the_columns_it_names(recipe: Recipe, engine: QueryEngine) -> None:
    answer = engine.query(recipe.text)
    assert answer.columns == [name for name, _ in recipe.columns]
    assert answer.height > 0
    # A column that is null in every row proves nothing, but for windows that three days cannot fill.
    empty = {name for name in answer.columns if answer[name].null_count() == answer.height}
    assert empty <= {"sma_10", "sma_30", "sma_60", "sma_100"}
    assert not (empty and recipe.name != "16-moving-averages-of-bids")


def test_no_question_costs_more_than_it_did(market: Lake) -> None:
    told = costs.differences(costs.measured(market), costs.held())
    assert not told, "\n".join(["", *told])


def test_a_question_that_costs_more_is_told_by_files_and_bytes() -> None:
    was = {"01-a": costs.Cost(10, 1, 1_000), "02-b": costs.Cost(3, 3, 5_000), "03-c": costs.Cost(1, 1, 50)}
    near = {"01-a": costs.Cost(10, 1, 1_029), "02-b": costs.Cost(3, 3, 4_900), "03-c": costs.Cost(1, 1, 99)}
    assert costs.differences(near, was) == []
    worse = near | {"01-a": costs.Cost(10, 9, 9_000)}
    first, total, remedy = costs.differences(worse, was)
    assert first == "01-a: 1 of 10 files and 1,000 bytes were read, now 9 of 10 and 9,000 (9.00 x)"
    assert total == "all questions together: 6,050 bytes, now 13,999 (2.31 x)"
    assert "python -m tests.cookbook" in remedy
    assert costs.differences({}, {"01-a": was["01-a"]})[0] == "01-a: is gone"
