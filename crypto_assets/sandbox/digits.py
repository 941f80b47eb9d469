"""How the provider writes numbers: always as text, padded in most fields, a double's shortest text in two.

Belongs here: number to text. Both versions print the same truth; only the digits differ (16 places in v2,
18 places with the double's own noise in v3).
"""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, Decimal

from crypto_assets.sandbox.source import Version

PLACES: dict[Version, int] = {"v2": 16, "v3": 18}
# The lake keeps 18 decimals. The provider's shortest texts stay within them for all but dust, and so do ours.
_FINEST = Decimal(1).scaleb(-18)
_CONTEXT = Context(prec=60, rounding=ROUND_HALF_EVEN)
_PERCENT_UNIT = 10**18


def padded(value: float, version: Version) -> str:
    """Fixed decimals, e.g. ``"87711.199999999997089617"``: the double's exact value, correctly rounded."""
    return f"{value + 0.0:.{PLACES[version]}f}"  # + 0.0 turns -0.0 into 0.0


def shortest(value: float, version: Version) -> str:
    """The double's shortest text without exponent in v3 (at most 18 decimals), padded in v2."""
    if version == "v2":
        return padded(value, version)
    exact = Decimal(repr(value))
    if exact == exact.to_integral_value(context=_CONTEXT):
        return format(exact.quantize(Decimal(1), context=_CONTEXT) + 0, "f")
    if exact.quantize(_FINEST, context=_CONTEXT) != exact:
        exact = exact.quantize(_FINEST, context=_CONTEXT)
    return format(exact, "f")


def percentages(volumes: list[str]) -> list[str]:
    """Each volume's percentage of all, as text of 36 decimals (zeros after the 18th); they sum to exactly 100.

    The rounding rest goes to the first, which is the largest by custom of the caller.
    """
    units = [int(volume.replace(".", "")) for volume in volumes]
    whole = sum(units)
    shares = [unit * 100 * _PERCENT_UNIT // whole for unit in units]
    shares[0] += 100 * _PERCENT_UNIT - sum(shares)
    return [f"{share // _PERCENT_UNIT}.{share % _PERCENT_UNIT:018d}{'0' * 18}" for share in shares]
