"""mempool.space's contract, spoken from a seeded chain: a block every ten minutes, a difficulty every 2,016 blocks.

Like the market it is a pure function of seed and time: heights follow from the genesis block, hashrates grow, and a
difficulty is the hashrate of the moment of its adjustment. Limits and bans come by faults: ``rate_limited_minute`` and
``throttled`` (429), ``ban`` (403).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from crypto_assets.sandbox.faults import Fault, spoil
from crypto_assets.sandbox.market import Market
from crypto_assets.sandbox.noise import DAY, digest, value_noise
from crypto_assets.sandbox.replies import broken_off, json_reply
from crypto_assets.sandbox.state import SandboxState

_GENESIS_S = 1_231_006_505
_BLOCK_S = 600
_EPOCH_BLOCKS = 2016
# Hashes a block at difficulty 1.
_HASHES = 2**32
_HASHRATE_2025 = 8.0e20
_2025_S = datetime(2025, 1, 1, tzinfo=UTC).timestamp()
PERIODS = {
    "24h": timedelta(days=1),
    "3d": timedelta(days=3),
    "1w": timedelta(days=7),
    "1m": timedelta(days=30),
    "3m": timedelta(days=90),
    "6m": timedelta(days=180),
    "1y": timedelta(days=365),
    "2y": timedelta(days=730),
    "3y": timedelta(days=1095),
    "all": timedelta(days=3650),
}
# Long periods come in fewer points, as from the real server.
_MOST_POINTS = 450

_Ask = Callable[["Chain", datetime, str], object]


class Chain:
    """What is true of the chain at any moment from 2018 on."""

    def __init__(self, seed: int) -> None:
        self._key = digest(seed, "chain")

    def height(self, seconds: float) -> int:
        """The newest block's height."""
        return math.floor((seconds - _GENESIS_S) / _BLOCK_S)

    def mined_at(self, height: int) -> int:
        """The second in which the block was mined."""
        return _GENESIS_S + height * _BLOCK_S

    def hashrate(self, seconds: float) -> float:
        """Hashes a second: 40 % more each year, within a tenth."""
        growth = math.pow(1.4, (seconds - _2025_S) / (365 * DAY))
        return _HASHRATE_2025 * growth * math.exp(0.1 * value_noise(self._key, seconds / (20 * DAY)))

    def difficulty(self, height: int) -> float:
        """The difficulty of the block: the hashrate's when its epoch began."""
        return self.hashrate(self.mined_at(height - height % _EPOCH_BLOCKS)) * _BLOCK_S / _HASHES

    def fee(self, seconds: float) -> float:
        """The fee rate (sat/vB) that is mined next."""
        return 12.0 * math.exp(1.5 * value_noise(self._key + 1, seconds / (DAY / 4)))

    def block_fees(self, height: int) -> int:
        """All fees of a block, in sat."""
        return round(1_000_000 * self.fee(self.mined_at(height)))


def routes(market: Market, state: SandboxState) -> Sequence[Route]:
    """The endpoints of now, and the two series by period."""
    chain = Chain(market.seed)

    def route(endpoint: str, path: str, ask: _Ask) -> Route:
        async def respond(request: Request) -> Response:
            refused, struck = await state.met(f"mempool.{endpoint}")
            refused = _refusal(struck) or refused
            if refused is not None:
                return refused
            period = request.path_params.get("period", "3d")
            if period not in PERIODS:
                return Response("Invalid period", 400, media_type="text/plain")
            told = ask(chain, state.now(), period)
            for fault in struck:
                told = spoil(fault.kind, told) if isinstance(told, list) else told
            if isinstance(told, int):
                return broken_off(Response(str(told), media_type="text/plain"), struck)
            return broken_off(json_reply(200, told), struck)

        return Route(path, respond, methods=["GET"])

    return [
        route("fees", "/v1/fees/recommended", _fees),
        route("mempool", "/mempool", _mempool),
        route("difficulty_adjustment", "/v1/difficulty-adjustment", _adjustment),
        route("tip_height", "/blocks/tip/height", lambda chain, at, _: chain.height(at.timestamp())),
        route("hashrate", "/v1/mining/hashrate/{period}", _hashrate),
        route("block_fees", "/v1/mining/blocks/fees/{period}", _block_fees),
    ]


def _refusal(struck: list[Fault]) -> Response | None:
    kinds = {fault.kind for fault in struck}
    if "ban" in kinds:
        return Response("Forbidden", 403, media_type="text/plain")
    if kinds & {"rate_limited_minute", "throttled"}:
        return Response("Too Many Requests", 429, media_type="text/plain")
    return None


def _fees(chain: Chain, at: datetime, _: str) -> object:
    fee = chain.fee(at.timestamp())
    shares = {"fastestFee": 1.0, "halfHourFee": 0.8, "hourFee": 0.6, "economyFee": 0.3, "minimumFee": 0.15}
    return {name: max(1, round(fee * share)) for name, share in shares.items()}


def _mempool(chain: Chain, at: datetime, _: str) -> object:
    fee = chain.fee(at.timestamp())
    vsize = round(400_000 * fee)
    return {"count": vsize // 560, "vsize": vsize, "total_fee": round(vsize * fee), "fee_histogram": [[fee, vsize]]}


def _adjustment(chain: Chain, at: datetime, _: str) -> object:
    height = chain.height(at.timestamp())
    gone = height % _EPOCH_BLOCKS
    left = _EPOCH_BLOCKS - gone
    coming = chain.hashrate(at.timestamp()) * _BLOCK_S / _HASHES / chain.difficulty(height)
    last = chain.difficulty(height) / chain.difficulty(height - _EPOCH_BLOCKS)
    return {
        "progressPercent": 100 * gone / _EPOCH_BLOCKS,
        "difficultyChange": 100 * (coming - 1),
        "estimatedRetargetDate": chain.mined_at(height + left) * 1000,
        "remainingBlocks": left,
        "remainingTime": left * _BLOCK_S * 1000,
        "previousRetarget": 100 * (last - 1),
        "previousTime": chain.mined_at(height - gone),
        "nextRetargetHeight": height + left,
        "timeAvg": round(_BLOCK_S * 1000 / coming),
        "adjustedTimeAvg": round(_BLOCK_S * 1000 / coming),
        "timeOffset": 0,
        "expectedBlocks": float(gone),
    }


def _hashrate(chain: Chain, at: datetime, period: str) -> object:
    now, since = at.timestamp(), (at - PERIODS[period]).timestamp()
    days = [day * round(DAY) for day in range(math.ceil(since / DAY), math.floor(now / DAY) + 1)]
    height = chain.height(now)
    first = -(-chain.height(since) // _EPOCH_BLOCKS) * _EPOCH_BLOCKS
    return {
        "hashrates": [{"timestamp": day, "avgHashrate": chain.hashrate(day)} for day in days],
        "difficulty": [
            {
                "time": chain.mined_at(opening),
                "height": opening,
                "difficulty": chain.difficulty(opening),
                "adjustment": 1.0,
            }
            for opening in range(first, height + 1, _EPOCH_BLOCKS)
        ],
        "currentHashrate": chain.hashrate(now),
        "currentDifficulty": chain.difficulty(height),
    }


def _block_fees(chain: Chain, at: datetime, period: str) -> object:
    height = chain.height(at.timestamp())
    first = chain.height((at - PERIODS[period]).timestamp()) + 1
    every = max(1, -(-(height - first) // _MOST_POINTS))
    return [
        {"avgHeight": block, "timestamp": chain.mined_at(block), "avgFees": chain.block_fees(block)}
        for block in range(first, height + 1, every)
    ]
