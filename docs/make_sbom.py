"""Write ``sbom.json``: what ``requirements.lock`` installs, as a CycloneDX 1.6 bill of materials.

Run ``python docs/make_sbom.py`` after the lock changed (``make lock`` does); the standard library suffices, and nothing
is asked of the network. Hashes of the files stay in the lock, whose own hash is told here.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements.lock"
SBOM = ROOT / "sbom.json"
_PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)\s*(?:;\s*([^\\]+?))?\s*\\?$")


def packages(lock: str) -> list[dict[str, Any]]:
    """Each pin: name, version, the marker under which it is installed (or None), and what asked for it.

    A package may be pinned more than once, for different Pythons.
    """
    found: list[dict[str, Any]] = []
    current: dict[str, Any] = {}
    is_via = False
    for line in lock.splitlines():
        if pin := _PIN.match(line):
            name = pin[1].lower()
            current = {"name": name, "version": pin[2], "ref": f"pkg:pypi/{name}@{pin[2]}", "marker": pin[3], "via": []}
            found.append(current)
            is_via = False
        elif line.strip().startswith("# via"):
            is_via = True
            current["via"] += [line.strip().removeprefix("# via").strip()]
        elif is_via and line.strip().startswith("#"):
            current["via"] += [line.strip().removeprefix("#").strip()]
    return found


def sbom(lock: str, project: str, version: str) -> dict[str, Any]:
    """The bill of materials of a lock; the same lock gives the same bill."""
    held = packages(lock)
    root = f"pkg:pypi/{project}@{version}"
    needs: dict[str, list[str]] = {ref: [] for ref in (root, *(told["ref"] for told in held))}
    for told in held:
        for via in filter(None, told["via"]):
            # Whatever is no package of the lock is the project itself: its file, or one of its extras.
            for ref in [other["ref"] for other in held if other["name"] == via.lower()] or [root]:
                needs[ref].append(told["ref"])
    components = []
    for told in held:
        component: dict[str, Any] = {
            "type": "library",
            "bom-ref": told["ref"],
            "name": told["name"],
            "version": told["version"],
            "purl": told["ref"],
        }
        if told["marker"]:
            component["properties"] = [{"name": "crypto-assets:marker", "value": told["marker"]}]
        components.append(component)
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {"type": "application", "bom-ref": root, "name": project, "version": version, "purl": root},
            "properties": [
                {"name": "crypto-assets:lock", "value": LOCK.name},
                {"name": "crypto-assets:lock-sha256", "value": hashlib.sha256(lock.encode()).hexdigest()},
            ],
        },
        "components": components,
        "dependencies": [{"ref": ref, "dependsOn": sorted(set(on))} for ref, on in sorted(needs.items())],
    }


def text() -> str:
    """What ``sbom.json`` should say."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    told = sbom(LOCK.read_text(encoding="utf-8"), project["name"], project["version"])
    return json.dumps(told, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    SBOM.write_text(text(), encoding="utf-8")
    sys.stdout.write(f"written: {SBOM.name}\n")


if __name__ == "__main__":
    main()
