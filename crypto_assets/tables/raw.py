"""The raw zone: one row per answer of a provider, with its body exactly as received, appended and never changed.

What the bodies mean is the providers' business (``providers/``); typed rows are in ``trusted.py``.
"""

from __future__ import annotations

from typing import Literal

from crypto_assets.tables.contract import (
    Contract,
    Kind,
    Table,
    Write,
    Zone,
    clock,
    content,
    count,
    day,
    key,
    text,
)


def _raw_table(name: str, cadence: str, group: str = "coincap", batch: Literal["day", "month"] | None = None) -> Table:
    return Table(
        zone=Zone.RAW,
        name=name,
        group=group,
        cadence=cadence,
        write=Write.APPEND,
        sort_by=("window_start_at", "pull_id", "page"),
        span=("window_start_at", "window_end_at"),
        batch=batch,
    )


class RawAnswers(Contract):
    """Answers of one endpoint of one provider, good and bad ones alike."""

    pull_id = key("Identity of the pull: a hash of its requests, time and bodies; pages of one pull share it.")
    page = count("Page number inside the pull, from 0.", kind=Kind.KEY, primary_key=True)
    provider = text("Provider's name.")
    endpoint = text("Endpoint's name.")
    subject = text("What was asked for where the endpoint serves one thing at a time, e.g. an asset id.", nullable=True)
    request = text("Method, path and query of the request, secrets removed.")
    status = count("HTTP status; null when no answer came.", nullable=True)
    outcome = text(
        "ok, empty, not_modified, not_found, rate_limited, quota_exhausted, denied, malformed or unavailable."
    )
    detail = text("One line on an outcome other than ok.", nullable=True)
    n_pages = count(
        "Pages of the complete pull; null when the pull broke off, and its rows are then evidence only.",
        nullable=True,
    )
    window_start_at = clock("Start of the time that the answer covers; for a live endpoint its observed_at.")
    window_end_at = clock("End (exclusive) of the time that the answer covers; for a live endpoint its observed_at.")
    observed_at = clock("Provider's clock at the pull's first page; ours where the answer carries none.")
    ingested_at = clock("Our clock when the answer had arrived.")
    credits = count("What the answer costs by the provider's price list.", unit="credits", kind=Kind.INTERVAL)
    n_bytes = count("Length of the body.", unit="bytes", kind=Kind.INTERVAL, wide=True)
    sha256 = text("SHA-256 of the body as stored, in hex.")
    body = content("The body exactly as received, with secrets redacted.")
    date = day("UTC day of window_start_at; the partition.")


class RawCoincapAssets(RawAnswers):
    """CoinCap /assets: every listed asset at one moment, in pages of up to 2,000. Live only."""

    table = _raw_table("coincap_assets", "every 5 minutes, or what the plan's credits allow")


class RawCoincapExchanges(RawAnswers):
    """CoinCap /exchanges: every exchange with its share of volume at one moment. Live only."""

    table = _raw_table("coincap_exchanges", "every 5 minutes, or what the plan's credits allow")


class RawCoincapRates(RawAnswers):
    """CoinCap /rates: the USD rate of fiat and crypto currencies at one moment. Live only."""

    table = _raw_table("coincap_rates", "every 5 minutes, or what the plan's credits allow")


class RawCoincapMarkets(RawAnswers):
    """CoinCap /markets: every market (exchange and pair) with price and volume at one moment. Live only."""

    table = _raw_table("coincap_markets", "every 5 minutes, or what the plan's credits allow")


class RawCoincapHistory(RawAnswers):
    """CoinCap /assets/{id}/history at interval d1: an asset's daily prices over a requested window of the past."""

    table = _raw_table("coincap_history", "daily, and backfills")


class RawExchangeMarkets(RawAnswers):
    """Every market that a venue lists, one answer a venue and page. Live only."""

    table = _raw_table("exchange_markets", "daily", "exchanges")


class RawExchangeTickers(RawAnswers):
    """Best bid and ask and the last price of a market of a venue at one moment. Live only."""

    table = _raw_table("exchange_tickers", "every 5 minutes", "exchanges")


class RawExchangeCandles(RawAnswers):
    """Candles of one market of a venue over a window, by the venue's own interface."""

    table = _raw_table("exchange_candles", "every 5 minutes, and backfills", "exchanges")


class RawExchangeTrades(RawAnswers):
    """Trades of one market of a venue over a window, by the venue's own interface."""

    table = _raw_table("exchange_trades", "backfills", "exchanges")


class RawBinanceKlines(RawAnswers):
    """Binance's archive of candles: the checksum and the zip file of a month or a day of a market and interval."""

    table = _raw_table("binance_klines", "daily, and backfills", "binance_archive", "month")


class RawBinanceTrades(RawAnswers):
    """Binance's archive of aggregated trades: the checksum and the zip file of a day of one market."""

    table = _raw_table("binance_trades", "backfills", "binance_archive", "day")


class RawAlphaVantageRates(RawAnswers):
    """Alpha Vantage CURRENCY_EXCHANGE_RATE: one pair's rate with bid and ask at one moment. Live only."""

    table = _raw_table("alpha_vantage_rates", "what 25 calls a day allow", "alpha_vantage")


class RawAlphaVantageSeries(RawAnswers):
    """Alpha Vantage's intraday, daily, weekly and monthly series of one pair: each answer is the whole series."""

    table = _raw_table("alpha_vantage_series", "daily", "alpha_vantage")


class RawCoingeckoMarkets(RawAnswers):
    """CoinGecko /coins/markets: coins by market cap at one moment, in pages of up to 250. Live only."""

    table = _raw_table("coingecko_markets", "hourly", "coingecko")


class RawCoingeckoExchanges(RawAnswers):
    """CoinGecko /exchanges: exchanges with trust scores at one moment, in pages of up to 250. Live only."""

    table = _raw_table("coingecko_exchanges", "daily", "coingecko")


class RawMempool(RawAnswers):
    """mempool.space: Bitcoin's fees, mempool, difficulty, hashrate and blocks at one moment, an endpoint an answer."""

    table = _raw_table("mempool", "hourly", "mempool")


TABLES: tuple[type[RawAnswers], ...] = (
    RawCoincapAssets,
    RawCoincapExchanges,
    RawCoincapRates,
    RawCoincapMarkets,
    RawCoincapHistory,
    RawExchangeMarkets,
    RawExchangeTickers,
    RawExchangeCandles,
    RawExchangeTrades,
    RawBinanceKlines,
    RawBinanceTrades,
    RawAlphaVantageRates,
    RawAlphaVantageSeries,
    RawCoingeckoMarkets,
    RawCoingeckoExchanges,
    RawMempool,
)
