"""Places where a test may kill the process, so that "whatever happens" can be tried at the moments that matter.

``CRYPTO_ASSETS_FAILPOINT=<name>`` ends the process there at once, by a signal that cannot be caught: no ``finally``, no
flush, as in a power cut. ``<name>:3`` does so at the third pass. Unset, a failpoint is one look-up in the environment.

The names, in the order in which a day's work passes them:

* ``after_fetch``: an answer is here, and nothing of it is in the lake.
* ``before_commit``, ``after_commit``: around every write of the lake, whatever the table.
* ``after_land``: the answer is in raw, and its caller has not been told.
* ``after_quarantine_before_rows``: a window's refused records are written, its good rows are not.
* ``before_keep``: a window is written, and its verdicts are not.
"""

from __future__ import annotations

import os
import signal
from collections import Counter

VARIABLE = "CRYPTO_ASSETS_FAILPOINT"
NAMES = (
    "after_fetch",
    "before_commit",
    "after_commit",
    "after_land",
    "after_quarantine_before_rows",
    "before_keep",
)

_passes: Counter[str] = Counter()


def failpoint(name: str) -> None:
    """Die here where the environment says so."""
    armed = os.environ.get(VARIABLE)
    if not armed:
        return
    wanted, _, nth = armed.partition(":")
    if wanted != name:
        return
    _passes[name] += 1
    if _passes[name] >= int(nth or 1):
        os.kill(os.getpid(), signal.SIGKILL)
