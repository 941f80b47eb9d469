"""CoinCap: assets, exchanges, markets, currency rates and daily price history.

v3 (``https://rest.coincap.io/v3``, a key is required, calls cost credits) and, by base URL, the answers of the retired
keyless v2. Everything but history is live only. Source: CoinCap's OpenAPI of 2025-07 and recorded answers.

Numbers are JSON strings of up to 18 fractional digits; nulls stand in fields that the specification calls non-null;
ids are renamed over the years. 429 means either the minute limit (worth a retry) or the month's quota (never).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from crypto_assets.errors import UsageError
from crypto_assets.providers.answers import Cost, Pull, classify_page, moment_of, page_of, records
from crypto_assets.resources.budget import Limit
from crypto_assets.resources.http import Answer, Client, Outcome, Source, Verdict
from crypto_assets.tables.conform import Records
from crypto_assets.tables.contract import SLUG, UTC_TIME
from crypto_assets.tables.window import Window

NAME = "coincap"
V3_URL = "https://rest.coincap.io/v3"
# What a key brings, for those who have none.
UNLOCKS = "a thousand assets, exchanges and markets with their volumes, and daily price history"
# The largest page that any version serves; v3's own defaults are 10 and 100 rows.
PAGE = 2000
# 100 pages are 200,000 rows, ten times what was ever listed: a loop, not a market.
MAX_PAGES = 100
# A call's window: d1 answers span about a year at most (measured 364 points), and shorter ones stay well below.
HISTORY_SPAN = timedelta(days=360)
# The provider's old id: ours. An id is never joined across years without this.
RENAMED_IDS = {"ripple": "xrp"}
_MONTH_S = 31 * 86_400


@dataclass(frozen=True)
class Plan:
    """What a key may do. Defaults: the free tier as measured in 2026-07; a plan page says more recent numbers."""

    calls_per_minute: int = 5
    credits_per_month: int = 500


def source(base_url: str, *, key: str | None, plan: Plan) -> Source:
    """What the HTTP client needs to know of CoinCap at this address."""
    is_v2 = base_url.rstrip("/").endswith("/v2")
    minute = Limit(200 if is_v2 else plan.calls_per_minute, 60, "calls")
    return Source(
        name=NAME,
        base_url=base_url,
        limits=(minute,) if is_v2 else (minute, Limit(plan.credits_per_month, _MONTH_S, "credits")),
        secret=key,
        auth_header=lambda secret: {"Authorization": f"Bearer {secret}"},
        credits=(lambda _: 0) if is_v2 else credits_of,
        classify=_classify_v2 if is_v2 else classify,
    )


def credits_of(n_bytes: int) -> int:
    """The price of an answer on v3: one credit, and one for every 2,500 bytes begun."""
    return 1 + math.ceil(n_bytes / 2500)


def classify(status: int, headers: Mapping[str, str], body: bytes) -> Verdict:
    """What an answer means, for v3. A 429 without the minute limit's words is the used-up quota."""
    text = body[:500].decode(errors="replace")
    if status == 200:
        return classify_page(headers, body)
    if status == 429 and "per minute limit exceeded" in text:
        return Verdict(Outcome.RATE_LIMITED, "the minute limit is used up", retry_after=60)
    if status == 429 or (status == 403 and "usage limit exceeded" in text):
        return Verdict(Outcome.QUOTA_EXHAUSTED, "the plan's credits are used up")
    if status in (401, 402, 403, 410):
        return Verdict(Outcome.DENIED, f"the provider refuses (HTTP {status}): check COINCAP_API_KEY and the plan")
    if status == 404:
        return Verdict(Outcome.NOT_FOUND, "the provider does not know it")
    if status >= 500:
        return Verdict(Outcome.UNAVAILABLE, f"the provider fails (HTTP {status})")
    return Verdict(Outcome.MALFORMED, f"the provider rejects the request (HTTP {status})")


def _classify_v2(status: int, headers: Mapping[str, str], body: bytes) -> Verdict:
    # v2 has no quota: each of its 429 is the minute limit.
    if status == 429:
        return Verdict(Outcome.RATE_LIMITED, "the minute limit is used up", retry_after=60)
    return classify(status, headers, body)


class CoinCap:
    """CoinCap's endpoints as pulls. Every method returns what was answered, good or bad; none raises for an answer.

    ``history_assets`` are the ids whose history is pulled where a run names none.
    """

    def __init__(self, client: Client, source: Source, history_assets: Sequence[str] = ()) -> None:
        self._client = client
        self._source = source
        self.history_assets = tuple(history_assets)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def assets(self) -> Pull:
        """Every listed asset at one moment."""
        return self._pages("assets")

    def exchanges(self) -> Pull:
        """Every exchange at one moment."""
        return self._pages("exchanges")

    def rates(self) -> Pull:
        """The USD rate of every currency at one moment."""
        return self._pages("rates", paged=False)

    def markets(self) -> Pull:
        """Every market at one moment."""
        return self._pages("markets")

    def history(self, asset_id: str, window: Window) -> Iterator[Pull]:
        """Daily prices of one asset over the window, in calls of up to 360 days.

        Raises UsageError for an id that is not one (it would become part of a path).
        """
        check_id(asset_id)
        start = window.start
        while start < window.end:
            end = min(start + HISTORY_SPAN, window.end)
            # Whether the provider's end is inclusive is not known: a millisecond less asks for the same days either
            # way, and no point lands in two pulls.
            params: dict[str, str | int] = {"interval": "d1", "start": _ms(start), "end": _ms(end) - 1}
            price = self.history_cost(asset_id, Window(start, end)).credits
            answer = self._client.get("history", f"/assets/{asset_id}/history", params, estimate=price)
            yield self._pull("history", (answer,), _is_good(answer), subject=asset_id, window=(start, end))
            start = end

    def history_cost(self, asset_id: str, window: Window) -> Cost:
        """What ``history`` would take: a call a year, of about 100 bytes a day."""
        del asset_id
        calls = math.ceil((window.end - window.start) / HISTORY_SPAN)
        n_bytes = 100 * len(window.days)
        return Cost(calls, calls * self._source.credits(n_bytes // calls), n_bytes)

    def _pages(self, endpoint: str, *, paged: bool = True) -> Pull:
        answers: list[Answer] = []
        firsts: set[bytes] = set()
        offset = 0
        for _ in range(MAX_PAGES):
            params: dict[str, str | int] = {"limit": PAGE, "offset": offset} if paged else {}
            answer = self._client.get(endpoint, f"/{endpoint}", params, estimate=200)
            if answer.outcome is Outcome.EMPTY and answers:
                return self._pull(endpoint, (*answers, answer), is_complete=True)
            if answer.outcome is not Outcome.OK:
                return self._pull(endpoint, (*answers, answer), is_complete=False)
            page, _ = page_of(answer.body)
            if bytes(page[0]) in firsts:
                # The provider ignores the offset and has sent the same page again: there is only one.
                return self._pull(endpoint, tuple(answers), is_complete=True)
            answers.append(answer)
            firsts.add(bytes(page[0]))
            offset += len(page)
            # A short page is the last one, unless its length is a round number: that may be the provider's own cap.
            if not paged or (len(page) < PAGE and len(page) % 10):
                return self._pull(endpoint, tuple(answers), is_complete=True)
        return self._pull(endpoint, tuple(answers), is_complete=False)

    def _pull(
        self,
        endpoint: str,
        answers: tuple[Answer, ...],
        is_complete: bool,
        *,
        subject: str | None = None,
        window: tuple[datetime, datetime] | None = None,
    ) -> Pull:
        observed_at = _timestamp(answers[0]) or answers[0].received_at
        prices = tuple(self._source.credits(len(a.body)) if a.status is not None else 0 for a in answers)
        return Pull(NAME, endpoint, subject, answers, is_complete, observed_at, window or (observed_at,) * 2, prices)


def check_id(asset_id: str) -> str:
    """The id itself. Raises UsageError where it is not a CoinCap id, e.g. holds a slash."""
    if not re.fullmatch(SLUG, asset_id):
        raise UsageError(
            f"{asset_id[:80]!r} is not an asset id",
            where="coincap history",
            safe="no call was made",
            hint="ids are lower-case words with dashes, e.g. bitcoin or binance-coin",
        )
    return asset_id


# Our column: the provider's field.
ASSET_FIELDS = {
    "provider_asset_id": "id",
    "symbol": "symbol",
    "name": "name",
    "rank": "rank",
    "price_usd": "priceUsd",
    "market_cap_usd": "marketCapUsd",
    "supply": "supply",
    "max_supply": "maxSupply",
    "volume_usd_24h": "volumeUsd24Hr",
    "change_pct_24h": "changePercent24Hr",
    "vwap_usd_24h": "vwap24Hr",
    "explorer_url": "explorer",
    "tokens": "tokens",
}
EXCHANGE_FIELDS = {
    "exchange_id": "exchangeId",
    "old_id": "id",
    "name": "name",
    "rank": "rank",
    "volume_share_pct": "percentTotalVolume",
    "volume_usd_24h": "volumeUsd",
    "n_trading_pairs": "tradingPairs",
    "has_socket": "socket",
    "exchange_url": "exchangeUrl",
    "updated_at": "updated",
}
MARKET_FIELDS = {
    "exchange_id": "exchangeId",
    "base_id": "baseId",
    "quote_id": "quoteId",
    "base_symbol": "baseSymbol",
    "quote_symbol": "quoteSymbol",
    "rank": "rank",
    "price_quote": "priceQuote",
    "price_usd": "priceUsd",
    "volume_usd_24h": "volumeUsd24Hr",
    "exchange_share_pct": "percentExchangeVolume",
    "n_trades_24h": "tradesCount24Hr",
    "updated_at": "updated",
}
RATE_FIELDS = {
    "currency_id": "id",
    "symbol": "symbol",
    "currency_symbol": "currencySymbol",
    "currency_kind": "type",
    "rate_usd": "rateUsd",
}
HISTORY_FIELDS = {"observed_at": "time", "price_usd": "priceUsd", "circulating_supply": "circulatingSupply"}
# Fields of each endpoint's records that are known, so that a new one is noticed. `date` repeats a point's `time`.
KNOWN_FIELDS: Mapping[str, frozenset[str]] = {
    "assets": frozenset(ASSET_FIELDS.values()),
    "exchanges": frozenset(EXCHANGE_FIELDS.values()),
    "markets": frozenset(MARKET_FIELDS.values()),
    "rates": frozenset(RATE_FIELDS.values()),
    "history": frozenset({*HISTORY_FIELDS.values(), "date"}),
}


def parse_assets(raw: pl.DataFrame) -> Records:
    """Records for ``trusted.asset_snapshots``."""
    parsed = records(raw, ASSET_FIELDS, required=("id", "symbol", "name", "rank", "priceUsd"), where="coincap assets")
    return _with(parsed, asset_id=_our_id("provider_asset_id"), updated_at=pl.lit(None, UTC_TIME))


def parse_exchanges(raw: pl.DataFrame) -> Records:
    """Records for ``trusted.exchange_snapshots``. Answers of 2018 call the id ``id``."""
    parsed = records(raw, EXCHANGE_FIELDS, required=("name", "rank"), where="coincap exchanges")
    return _with(parsed, exchange_id=pl.coalesce("exchange_id", "old_id"))


def parse_markets(raw: pl.DataFrame) -> Records:
    """Records for ``trusted.market_snapshots``."""
    parsed = records(raw, MARKET_FIELDS, required=("exchangeId", "baseId", "quoteId"), where="coincap markets")
    market_id = pl.format("{}:{}/{}", "exchange_id", "base_symbol", "quote_symbol")
    return _with(parsed, market_id=market_id, base_id=_our_id("base_id"), quote_id=_our_id("quote_id"))


def parse_rates(raw: pl.DataFrame) -> Records:
    """Records for ``trusted.fx_rates``."""
    return records(raw, RATE_FIELDS, required=("id", "symbol", "type", "rateUsd"), where="coincap rates")


def parse_history(raw: pl.DataFrame) -> Records:
    """Records for ``trusted.asset_history``; the asset is the one that was asked for."""
    parsed = records(raw, HISTORY_FIELDS, required=("time", "priceUsd"), where="coincap history")
    asked = raw.select("pull_id", "window_start_at", "window_end_at").unique("pull_id")
    frame = parsed.frame.join(asked, "pull_id", "left", maintain_order="left")
    # A point outside the window that was asked for has no usable time: whether it is seen must not depend on which
    # days are computed together. Like one without a time it belongs to the start of the window.
    moment = pl.from_epoch(pl.col("observed_at").cast(pl.Int64, strict=False), "ms").dt.replace_time_zone("UTC")
    is_asked = moment.is_between("window_start_at", "window_end_at", closed="left").fill_null(value=True)
    frame = frame.with_columns(observed_at=pl.when(is_asked).then("observed_at"))
    return _with(
        Records(frame, parsed.texts, parsed.drifted),
        asset_id=_our_id("subject"),
        interval=pl.lit("d1"),
        answered_at=pl.col("window_start_at").cast(UTC_TIME),
    )


def _with(parsed: Records, **columns: pl.Expr) -> Records:
    return Records(parsed.frame.with_columns(**columns), parsed.texts, parsed.drifted)


def _our_id(column: str) -> pl.Expr:
    return pl.col(column).replace(RENAMED_IDS)


def _is_good(answer: Answer) -> bool:
    return answer.outcome in (Outcome.OK, Outcome.EMPTY)


def _timestamp(answer: Answer) -> datetime | None:
    """The answer's own clock, or None where it carries none that can be: ours counts then."""
    return moment_of(page_of(answer.body)[1], answer.received_at) if _is_good(answer) else None


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
