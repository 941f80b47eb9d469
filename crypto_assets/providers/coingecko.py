"""CoinGecko: the largest coins and every exchange with its trust score, at one moment.

Keyless by default (``https://api.coingecko.com/api/v3``); a demo key raises the limits. Live only. Source: CoinGecko's
OpenAPI of 2026-06, recorded answers, and what its users report of its limits.

Numbers are JSON numbers, integers and doubles mixed in one field, and any of them may be null. Beyond its limits it
answers 429 as JSON or as the plain word ``Throttled``; who goes on is banned by its CDN with a web page (403, code
1020), and asking again makes a ban longer.

Answers carry no clock: a pull is of the moment at which its first page arrived. A coin's own ``last_updated`` is kept
as ``updated_at`` and may be days old; as ``observed_at`` it would scatter one pull over days that were computed long
ago, and every pull would state the stale coins of those days once more.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import polars as pl

from crypto_assets.providers.answers import Pull, classify_page, page_of, records
from crypto_assets.providers.provider import Connection, Provider
from crypto_assets.resources.budget import MONTH_S, Limit
from crypto_assets.resources.http import Answer, Client, Outcome, Source, Verdict
from crypto_assets.tables.conform import Records
from crypto_assets.tables.contract import MONEY

NAME = "coingecko"
URL = "https://api.coingecko.com/api/v3"
# The largest page that is served.
PAGE = 250
# The thousand largest coins, and as many exchanges as there are.
PAGES = 4
# Keyless limits are by address and not stated; users report refusals from five calls a minute on.
KEYLESS = (Limit(5, 60, "calls"),)
# Older copies of the plan page say 30 and 10,000, newer ones 100: the lower ones hold under either.
DEMO = (Limit(30, 60, "calls"), Limit(10_000, MONTH_S, "calls"))
# CoinGecko's id: ours, where they differ. Ids are matched by what they name, never by tickers.
ASSET_IDS: Mapping[str, str] = {
    "avalanche-2": "avalanche",
    "binancecoin": "binance-coin",
    "blockstack": "stacks",
    "dai": "multi-collateral-dai",
    "elrond-erd-2": "multiversx-egld",
    "near": "near-protocol",
    "ripple": "xrp",
    "staked-ether": "steth",
    "the-open-network": "toncoin",
}
# An id of ours that names one coin is free for another one there, which must not be merged into it.
_OUR_IDS = {ours: f"{NAME}-{ours}" for ours in ASSET_IDS.values()} | dict(ASSET_IDS)
_BANNED = "the provider's CDN bans this address; asking again would make it longer"
# A missing key, a plan that does not cover the endpoint, a key of the other kind, or for the other address.
_KEY_ERRORS = {
    10002: "the endpoint needs a key",
    10005: "the endpoint is not part of the plan",
    10010: "the key is a paid plan's: those have another address",
    10011: "the key is a demo key: those have another address",
}


def source(base_url: str, *, key: str | None) -> Source:
    """What the HTTP client needs to know of CoinGecko at this address."""
    return Source(
        name=NAME,
        base_url=base_url,
        limits=DEMO if key else KEYLESS,
        secret=key,
        auth_header=lambda secret: {"x-cg-demo-api-key": secret},
        credits=lambda _: 0,
        classify=classify,
    )


def classify(status: int, headers: Mapping[str, str], body: bytes) -> Verdict:
    """What an answer means. The status alone does not say: a ban and a key of the wrong kind are both a 403."""
    text = body[:2000].decode(errors="replace")
    is_page = "html" in headers.get("content-type", "") or text.lstrip()[:1] == "<"
    code = _error_code(text)
    if text.strip() == "Throttled":
        return Verdict(Outcome.RATE_LIMITED, "the limit of calls is used up", _wait(headers))
    if code == 1020 or (status == 403 and is_page) or (is_page and re.search(r"\b1020\b|access denied", text, re.I)):
        return Verdict(Outcome.DENIED, _BANNED)
    if code in _KEY_ERRORS:
        return Verdict(Outcome.DENIED, f"{_KEY_ERRORS[code]} (code {code}): check COINGECKO_DEMO_API_KEY")
    if status == 429 or code == 429:
        return Verdict(Outcome.RATE_LIMITED, "the limit of calls is used up", _wait(headers))
    if status == 200:
        return classify_page(headers, body)
    if status in (401, 402, 403, 410, 451):
        return Verdict(Outcome.DENIED, f"the provider refuses (HTTP {status})")
    if status == 404:
        return Verdict(Outcome.NOT_FOUND, "the provider does not know it")
    return Verdict(Outcome.MALFORMED, f"the provider rejects the request (HTTP {status})")


def _error_code(text: str) -> int | None:
    # It stands at the top of the answer or inside its status; numbers are told in records under other names.
    found = re.search(r'"error_code"\s*:\s*(\d{1,9})\b', text) if text.lstrip()[:1] == "{" else None
    return int(found[1]) if found else None


def _wait(headers: Mapping[str, str]) -> float | None:
    # A minute is the window that limits are counted in; where a header says more, the client reads it.
    return None if "retry-after" in headers else 60.0


class CoinGecko:
    """CoinGecko's endpoints as pulls. Every method returns what was answered, good or bad; none raises for an answer.

    ``n_pages`` is how many pages of coins, by market cap, and of exchanges, by score, are asked for.
    """

    def __init__(self, client: Client, n_pages: int = PAGES) -> None:
        self._client = client
        self._n_pages = n_pages
        self._ban: Answer | None = None

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def markets(self) -> Pull:
        """The largest coins at one moment."""
        return self._pages("markets", "/coins/markets", {"vs_currency": "usd", "order": "market_cap_desc"})

    def exchanges(self) -> Pull:
        """The exchanges with the best scores at one moment."""
        return self._pages("exchanges", "/exchanges", {})

    def _pages(self, endpoint: str, path: str, params: Mapping[str, str]) -> Pull:
        answers: list[Answer] = []
        for page in range(1, self._n_pages + 1):
            answer = self._ask(endpoint, path, {**params, "per_page": PAGE, "page": page})
            answers.append(answer)
            if answer.outcome is not Outcome.OK:
                return _pull(endpoint, answers, is_complete=answer.outcome is Outcome.EMPTY and page > 1)
            if len(page_of(answer.body)[0]) < PAGE:
                break
        return _pull(endpoint, answers, is_complete=True)

    def _ask(self, endpoint: str, path: str, params: Mapping[str, str | int]) -> Answer:
        if self._ban is not None:
            told = f"not asked: {self._ban.request} was refused before, {self._ban.detail}"
            return replace(
                self._ban, endpoint=endpoint, request=f"GET {path}", status=None, body=b"", detail=told, attempts=0
            )
        answer = self._client.get(endpoint, path, params, estimate=0)
        if answer.outcome is Outcome.DENIED and answer.detail == _BANNED:
            self._ban = answer
        return answer


def _pull(endpoint: str, answers: list[Answer], *, is_complete: bool) -> Pull:
    observed_at = answers[0].received_at
    return Pull(NAME, endpoint, None, tuple(answers), is_complete, observed_at, (observed_at,) * 2, (0,) * len(answers))


# Our column: the provider's field.
ASSET_FIELDS = {
    "provider_asset_id": "id",
    "symbol": "symbol",
    "name": "name",
    "rank": "market_cap_rank",
    "price_usd": "current_price",
    "market_cap_usd": "market_cap",
    "supply": "circulating_supply",
    "max_supply": "max_supply",
    "volume_usd_24h": "total_volume",
    "change_pct_24h": "price_change_percentage_24h",
    "updated_at": "last_updated",
}
EXCHANGE_FIELDS = {
    "exchange_id": "id",
    "name": "name",
    "trust_score": "trust_score",
    "trust_score_rank": "trust_score_rank",
    "volume_btc_24h": "trade_volume_24h_btc",
    "year_established": "year_established",
    "country": "country",
    "exchange_url": "url",
}
# Fields of each endpoint's records that are known, so that a new one is noticed; those not carried follow from others
# (changes and extremes of prices, diluted values) or say nothing of the market.
KNOWN_FIELDS: Mapping[str, frozenset[str]] = {
    "markets": frozenset(
        {
            *ASSET_FIELDS.values(),
            *("image", "fully_diluted_valuation", "high_24h", "low_24h", "price_change_24h", "total_supply", "roi"),
            *("market_cap_change_24h", "market_cap_change_percentage_24h", "market_cap_rank_with_rehypothecated"),
            *("ath", "ath_change_percentage", "ath_date", "atl", "atl_change_percentage", "atl_date"),
            "sparkline_in_7d",
            *(
                f"price_change_percentage_{span}_in_currency"
                for span in ("1h", "24h", "7d", "14d", "30d", "200d", "1y")
            ),
        }
    ),
    "exchanges": frozenset({*EXCHANGE_FIELDS.values(), "description", "image", "has_trading_incentive"}),
}


def parse_markets(raw: pl.DataFrame) -> Records:
    """Records for ``trusted.asset_snapshots``. Tickers come in lower case and are kept in upper case, as everywhere."""
    parsed = records(raw, ASSET_FIELDS, required=("id", "symbol", "name", "current_price"), where="coingecko markets")
    nothing = pl.lit(None, pl.String)
    frame = parsed.frame.with_columns(
        asset_id=pl.col("provider_asset_id").replace(_OUR_IDS),
        symbol=pl.col("symbol").str.to_uppercase(),
        updated_at=_milliseconds("updated_at"),
        vwap_usd_24h=pl.lit(None, MONEY),
        explorer_url=nothing,
        tokens=nothing,
    )
    return Records(frame, parsed.texts, parsed.drifted)


def parse_exchanges(raw: pl.DataFrame) -> Records:
    """Records for ``trusted.exchange_scores``."""
    return records(raw, EXCHANGE_FIELDS, required=("id", "name"), where="coingecko exchanges")


def _milliseconds(column: str) -> pl.Expr:
    """ISO 8601 as milliseconds since 1970, in text; what is none stays as it is, and the contract refuses it."""
    told = pl.col(column).str.to_datetime("%+", time_unit="ms", time_zone="UTC", strict=False)
    return pl.coalesce(told.dt.epoch("ms").cast(pl.String), column)


def _connect(connection: Connection) -> CoinGecko:
    told = source(connection.urls[NAME], key=connection.key)
    return CoinGecko(connection.open(told), int(next(iter(connection.asked.get("coingecko_pages", ())), PAGES)))


PROVIDER = Provider(
    NAME,
    urls={NAME: URL},
    connect=_connect,
    limits=lambda has_key, _: {NAME: DEMO if has_key else KEYLESS},
    key_name="COINGECKO_DEMO_API_KEY",
    unlocks="30 calls a minute instead of 5 (a demo key is free)",
)
