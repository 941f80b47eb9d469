"""The table of docs/aws.md: what each role may do, with what; made of dev's templates, the stage's name left out."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from templates import Policies

from stacks.access import COMPONENTS

DOCUMENT = Path(__file__).parents[2] / "docs" / "aws.md"
_BEGIN, _END = "<!-- roles: made by make test-infra ARGS=--write-roles -->", "<!-- end of roles -->"
_ORDER = ("raw", "trusted", "refined", "quality")
# What a resource is called in the table, the first that fits.
_WORDS = (
    (r"-lake-\d+/lake/(raw|trusted|refined|quality)/\*", r"\1"),
    (r"-lake-\d+/lake/(raw|trusted|refined|quality)/(\w+)/\*", r"\1.\2"),
    (r"-lake-\d+/lake/_lease/schedules\.json", "lease of schedules"),
    (r"-lake-\d+/lake/_lease/stream-\*", "leases of feeds"),
    (r"-lake-\d+/lake/_lease/consumers-\*", "consumers' places"),
    (r"-lake-\d+/lake/_probe", "probe"),
    (r"-lake-\d+/lake/\*", "the whole lake"),
    (r"-lake-\d+/lake\*/_delta_log/\*\.json", "commits"),
    (r"-lake-\d+/lake-rebuild-\*", "drill"),
    (r"-work-\d+/dagster/\*", "run logs"),
    (r"-work-\d+/(?:athena/\w+/\*)", "own results"),
    (r"-(?:lake|work|logs)-\d+/\*$", "every object"),
    (r"-(lake|work|logs)-\d+$", r"\1 bucket"),
    (r":glue:.*:table/crypto_dev_(\w+)/\*$", r"\1"),
    (r":glue:.*:table/crypto_dev_(\w+)/(\w+)$", r"\1.\2"),
    # Glue asks for them with each table.
    (r":glue:.*:(?:catalog|database/\w+)$", ""),
    (r":athena:.*workgroup/", "own workgroup"),
    (r":kinesis:.*-trades$", "trades"),
    (r":kms:", "key"),
    (r":secret:crypto-assets-dev-(.*?)(?:-\?+)?$", r"secret \1"),
    (r":role/crypto-assets-dev-(.*)$", r"role \1"),
    (r":ecr:", "image"),
    (r":(?:efs|elasticfilesystem):", "state"),
    (r":task-definition/", "the runs' task"),
    (r":secret:Database", "secret database"),
    (r":role/\w*TaskExecutionRole", "role that starts it"),
    (r":log-group:/?crypto-assets-dev-([\w-]+).*$", r"log \1"),
    (r":iam::\d+:\*$", "IAM"),
    (r"^\*$", "any"),
    (r"crypto-assets-dev-([\w-]+)[:/]?\*?$", r"\1"),
)


def matrix(policies: Policies, roles: Mapping[str, str]) -> str:
    """Markdown: a column for each role (its name in the templates to that in the table), a row for each action.

    A cell says with what; actions of a service that are allowed alike share a row.
    """
    cells: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for role in roles:
        for policy in policies.roles[role]["identity"]:
            for statement in policy["Statement"]:
                for action in _many(statement["Action"]):
                    cells[action][role] |= set(_words(statement))
    alike: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for action in sorted(cells):
        told = [", ".join(sorted(cells[action][role], key=_place)) for role in roles]
        alike[action.partition(":")[0], *told].append(action.partition(":")[2])
    lines = [f"| action | {' | '.join(roles.values())} |", "|---" * (len(roles) + 1) + "|"]
    rows = sorted(alike.items(), key=lambda row: (row[0][0], row[1]))
    lines += [f"| {service}: {', '.join(actions)} | {' | '.join(told)} |" for (service, *told), actions in rows]
    return "\n".join(lines)


def written(policies: Policies, document: str) -> str:
    """The document with its tables made anew.

    Raises:
        ValueError: it has no place for them.
    """
    before, begin, rest = document.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError("docs/aws.md has no place for the table of roles")
    components = {role: role for role in policies.roles if role in COMPONENTS}
    starters = {role: f"starts {_started(role)}" for role in policies.roles if "TaskExecutionRole" in role}
    others = set(policies.roles) - set(components) - set(starters)
    if others:
        raise ValueError(f"roles that nobody named: {', '.join(sorted(others))}")
    tables = "\n\n".join(
        (
            matrix(policies, components),
            "The roles by which ECS starts the containers (image, log and secrets, no data):",
            matrix(policies, starters),
            "Denied, whatever a policy allows:",
            _denied(policies),
        )
    )
    return f"{before}{_BEGIN}\n\n{tables}\n\n{_END}{after}"


def _started(role: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", role.partition("TaskExecutionRole")[0]).lower()


def _denied(policies: Policies) -> str:
    lines = ["| by | rule | actions | on | where |", "|---|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in _denials(policies))])


def _denials(policies: Policies) -> list[tuple[str, ...]]:
    boundaries = {str(role["boundary"]): role["boundary"] for role in policies.roles.values() if role["boundary"]}
    sources = [("boundary", boundary) for boundary in boundaries.values()]
    sources += [
        (f"{arn.rsplit('-', 2)[1]} bucket", policy) for arn, policy in policies.resources.items() if ":s3:" in arn
    ]
    rows = []
    for by, policy in sources:
        for statement in policy["Statement"]:
            if statement["Effect"] == "Deny":
                actions = _many(statement.get("Action", [])) or [
                    f"all but {action}" for action in _many(statement["NotAction"])
                ]
                on = ", ".join(dict.fromkeys(_words(statement)))
                rows.append((by, statement.get("Sid", "TLS"), ", ".join(actions), on, _condition(statement)))
    return rows


def _words(statement: Mapping[str, Any]) -> list[str]:
    resources = _many(statement["Resource"])
    prefixes = _many(statement.get("Condition", {}).get("StringLike", {}).get("s3:prefix", []))
    if prefixes:
        # A listing is of a bucket, and says in its condition what of it.
        (bucket,) = resources
        resources = [f"{bucket}/{prefix}" for prefix in prefixes]
    return [word for resource in resources if (word := _word(resource))]


def _word(resource: str) -> str:
    return next((m.expand(w) for p, w in _WORDS if (m := re.search(p, resource))), resource)


def _condition(statement: Mapping[str, Any]) -> str:
    told = []
    for operator, keys in statement.get("Condition", {}).items():
        for key, values in keys.items():
            shown = ", ".join(_shown(value) for value in _many(values))
            told.append(f"{key} {operator} {shown}")
    return "; ".join(told)


def _shown(value: Any) -> str:
    value = str(value).lower() if isinstance(value, bool) else value
    word = re.sub(r"arn:aws:iam::\d+:role/crypto-assets-dev-", "role ", str(value))
    word = re.sub(r"arn:aws:kms:.*", "the stage's key", word)
    return re.sub(r"\.us-east-1\.amazonaws\.com", "", word)


def _place(word: str) -> tuple[int, str]:
    """Zones in their order, all else after them."""
    return (_ORDER.index(word) if word in _ORDER else len(_ORDER), word)


def _many(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]
