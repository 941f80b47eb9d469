"""docs/aws.md says what the templates say of roles."""

from __future__ import annotations

import pytest
from roles_table import DOCUMENT, written
from templates import Policies


def test_the_table_of_roles_is_the_templates(policies: Policies, request: pytest.FixtureRequest) -> None:
    document = DOCUMENT.read_text(encoding="utf-8")
    made = written(policies, document)
    if request.config.getoption("--write-roles"):
        DOCUMENT.write_text(made, encoding="utf-8")
    else:
        assert made == document, "make test-infra ARGS=--write-roles"
