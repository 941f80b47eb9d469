"""Write the cookbook's index and its ratchet anew: ``python -m tests.cookbook``. Takes half a minute."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.cookbook.costs import RATCHET, differences, held, measured, written
from tests.cookbook.recipes import FOLDER, index
from tests.market_lake import market_lake


def main() -> None:
    (FOLDER / "README.md").write_text(index(), encoding="utf-8")
    with tempfile.TemporaryDirectory() as home:
        costs = measured(market_lake(Path(home)))
    for line in differences(costs, held() if RATCHET.exists() else {})[:-1]:
        print(line)
    RATCHET.write_text(written(costs), encoding="utf-8")


if __name__ == "__main__":
    main()
