"""Linters of templates: cfn-lint and checkov find nothing that nobody accepted (cdk-nag judges in the synth)."""

from __future__ import annotations

import pytest
from conftest import Linters
from templates import Templates


@pytest.mark.parametrize("name", ["cfn-lint", "checkov"])
def test_lint(linters: Linters, name: str) -> None:
    told, _ = linters[name].communicate(timeout=150)
    assert linters[name].returncode == 0, told


def test_lint_skips_have_reasons(stage: Templates) -> None:
    """An accepted finding of checkov says why, at the resource."""
    for resource in stage.all():
        for skipped in resource.whole.get("Metadata", {}).get("checkov", {}).get("skip", []):
            assert len(skipped["comment"]) > 20, resource.logical_id
