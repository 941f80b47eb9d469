"""docs/aws.md's estimate adds up, speaks of what is deployed, and the budget fits it."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable

import pytest
from roles_table import DOCUMENT
from templates import Templates

_OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {ast.Add: operator.add, ast.Mult: operator.mul}


def worked_out(arithmetic: str) -> float:
    """The value of sums and products; nothing else is taken."""

    def value(node: ast.expr) -> float:
        match node:
            case ast.Constant(value=int() | float() as number):
                return float(number)
            case ast.BinOp(left=left, op=op, right=right):
                return _OPERATORS[type(op)](value(left), value(right))
        raise ValueError(arithmetic)

    return value(ast.parse(arithmetic.replace("×", "*"), mode="eval").body)


@pytest.fixture(scope="module")
def rows() -> list[list[str]]:
    text = DOCUMENT.read_text(encoding="utf-8").partition("<!-- cost -->\n")[2].partition("<!-- end of cost -->")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]


@pytest.mark.parametrize(("stage", "column", "budget_usd"), [("dev", 1, 300), ("prod", 3, 500)])
def test_the_estimate_adds_up_and_the_budget_leaves_room(
    rows: list[list[str]], dev: Templates, prod: Templates, stage: str, column: int, budget_usd: int
) -> None:
    *items, last = rows
    total = 0.0
    for row in items:
        assert f"{worked_out(row[column]):.2f}" == row[column + 1], row[0]
        total += float(row[column + 1])
    assert last[column + 1] == f"**{total:.2f}**"
    (budget,) = {"dev": dev, "prod": prod}[stage].all("AWS::Budgets::Budget")
    assert budget.properties["Budget"]["BudgetLimit"]["Amount"] == budget_usd
    # Told at 80 %: not in an ordinary month, and long before it is twice as much.
    assert total < 0.95 * budget_usd < 2 * total


def test_the_estimate_speaks_of_what_is_deployed(rows: list[list[str]], stage: Templates) -> None:
    said = {row[0]: row for row in rows}
    services = {s.properties["ServiceName"] for s in stage.all("AWS::ECS::Service")}
    tasks = {t.properties["Family"].split("-", 3)[3]: t.properties for t in stage.all("AWS::ECS::TaskDefinition")}
    cpu = sum(int(tasks[name]["Cpu"]) for name in services) / 1024
    memory = sum(int(tasks[name]["Memory"]) for name in services) / 1024
    services_row = said["services on Fargate (vCPU, GB)"]
    assert [float(n) for n in re.findall(r"([\d.]+) × 730", services_row[1])] == [cpu, memory]
    assert (tasks["run"]["Cpu"], tasks["run"]["Memory"]) == ("1024", "4096")
    alarms = len(list(stage.all("AWS::CloudWatch::Alarm")))
    assert f"+ {alarms} × 0.1 " in said["CloudWatch: GB of logs, alarms, metrics"][1]
    nats = len(list(stage.all("AWS::EC2::NatGateway")))
    assert (said["NAT gateway"][1 if nats == 0 else 3] == "0") == (nats == 0)
