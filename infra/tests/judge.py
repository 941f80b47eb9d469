"""Asks iam-simulate, which knows AWS' rules of permission: identity policies, boundary, resource policy, conditions."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from templates import ACCOUNT, REGION, Policies


class Judge:
    """A simulator over the policies of one synth; a process that lives as long as the context.

    Args:
        policies: of the templates.
    """

    def __init__(self, policies: Policies) -> None:
        self._policies = policies
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            ["node", "judge.mjs"],
            cwd=Path(__file__).parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        told = {
            "roles": {role["arn"]: role for role in self._policies.roles.values()},
            "resources": self._policies.resources,
        }
        self._say(told)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)

    def allows(self, component: str, action: str, resource: str, context: Mapping[str, str] | None = None) -> bool:
        """Whether the component's role may do it. Raises as ``judged``."""
        return self.judged(component, action, resource, context or {}) == "Allowed"

    def judged(self, component: str, action: str, resource: str, context: Mapping[str, str]) -> str:
        """``Allowed``, ``ExplicitlyDenied`` or ``ImplicitlyDenied``; ``context`` has condition keys.

        Raises:
            ValueError: AWS knows no such request, or a policy is none.
        """
        role = self._policies.roles[component]["arn"]
        given = {"aws:SourceAccount": ACCOUNT, "aws:RequestedRegion": REGION, "s3:TlsVersion": "1.3"}
        context = {**{k: v for k, v in given.items() if not k.startswith("s3:") or action.startswith("s3:")}, **context}
        with self._lock:
            self._say({"role": role, "action": action, "resource": resource, "context": context})
            assert self._process.stdout is not None
            answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        if "error" in answer:
            raise ValueError(f"{component} {action} {resource}: {answer['error']}")
        return str(answer["result"])

    def _say(self, told: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(told) + "\n")
        self._process.stdin.flush()
