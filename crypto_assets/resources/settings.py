"""What a person may set, from the environment; every name is listed here and nowhere else.

Secrets are read here to decide which providers there are; assets get them through Dagster's ``EnvVar`` only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

_STORE_KEYS = (
    "AWS_ENDPOINT_URL",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_ALLOW_HTTP",
)


Names = Annotated[tuple[str, ...], NoDecode]


class Settings(BaseSettings):
    """Settings, each from ``CRYPTO_ASSETS_<NAME>`` but for keys, which keep the names their providers give them."""

    model_config = SettingsConfigDict(env_prefix="CRYPTO_ASSETS_", populate_by_name=True, extra="ignore")

    lake_uri: str = Field(default="data/lake", description="The lake: a directory, or s3://bucket/prefix.")
    state_dir: Path = Field(
        default=Path("data/state"), description="Budgets, breaker states and Data Docs of this machine."
    )
    coincap_base_url: str = Field(
        default="https://rest.coincap.io/v3",
        description="CoinCap's address; ending in /v2 it is read as the retired API.",
    )
    coincap_calls_per_minute: int = Field(default=5, gt=0, description="The plan's calls a minute (free plan: 5).")
    coincap_credits_per_month: int = Field(
        default=500, gt=0, description="The plan's credits a month (free plan: 500)."
    )
    coincap_api_key: SecretStr | None = Field(
        default=None, validation_alias="COINCAP_API_KEY", description="CoinCap's key."
    )
    providers: Names = Field(
        default=("coincap", "exchanges", "binance_archive", "coingecko", "mempool", "alpha_vantage"),
        description="Providers to pull from, comma-separated; one that needs a key is left out without it.",
    )
    sandbox_url: str | None = Field(
        default=None, description="A sandbox that stands in for every provider but CoinCap: crypto-assets sandbox."
    )
    markets: Names = Field(
        default=(
            "binance:BTC/USDT",
            "binance:ETH/USDT",
            "kraken:BTC/USD",
            "kraken:ETH/USD",
            "coinbase:BTC/USD",
            "coinbase:ETH/USD",
        ),
        description="Spot markets whose candles and quotes are pulled, as venue:BASE/QUOTE, comma-separated.",
    )
    candle_interval: str = Field(default="1m", description="Interval of the candles that are pulled.")
    alpha_vantage_pairs: Names = Field(
        default=("BTC/USD", "ETH/USD"), description="Pairs that Alpha Vantage is asked for, comma-separated."
    )
    coingecko_pages: int = Field(
        default=4, gt=0, le=40, description="How many pages of 250 coins by market cap, and of exchanges, are pulled."
    )
    history_assets: Names = Field(
        default=("bitcoin", "ethereum"), description="Asset ids whose daily history is pulled, comma-separated."
    )

    catalog: Literal["none", "glue"] = Field(
        default="none", description="Where tables are registered for Athena: nowhere, or in Glue after each commit."
    )
    catalog_prefix: str = Field(
        default="crypto_",
        pattern=r"^[a-z0-9_]{1,64}$",
        description="What the zones' Glue databases begin with: crypto_ makes crypto_raw, crypto_trusted and so on.",
    )
    query_engine: Literal["duckdb", "athena"] = Field(
        default="duckdb", description="What answers SQL: DuckDB on this machine, or Athena over the tables in Glue."
    )
    athena_workgroup: str = Field(
        default="crypto_assets",
        pattern=r"^[A-Za-z0-9._-]{1,128}$",
        description="Athena's workgroup, which limits the bytes of a query and says where results go.",
    )
    athena_output: str | None = Field(
        default=None,
        pattern=r"^s3://[a-z0-9.-]{3,63}(/.*)?$",
        description="Where Athena's results go, s3://bucket/prefix/, if the workgroup does not say it.",
    )
    athena_reuse_minutes: int = Field(
        default=0,
        ge=0,
        le=10080,
        description="How old an answer of Athena may be to be given again, though data are newer; 0 for never.",
    )

    maintenance_role: str | None = Field(
        default=None,
        description="On ECS: the IAM role of the runs that delete, instead of the other runs' role.",
    )

    feeds: Names = Field(
        default=("binance_stream", "coinbase_stream"),
        description="Websockets that `crypto-assets stream` keeps open, comma-separated; finnhub and coincap_stream "
        "need a key.",
    )

    @field_validator("history_assets", "providers", "markets", "alpha_vantage_pairs", "feeds", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("coincap_api_key", "sandbox_url", "athena_output", mode="before")
    @classmethod
    def _blank_is_none(cls, value: object) -> object:
        # `COINCAP_API_KEY=` is how an .env file says that there is none.
        return None if isinstance(value, str) and not value.strip() else value

    @property
    def lake_root(self) -> str:
        """The lake's address, absolute."""
        return self.lake_uri if "://" in self.lake_uri else str(Path(self.lake_uri).resolve())

    @property
    def asked(self) -> dict[str, list[str]]:
        """What is asked of providers: markets, interval, pairs and pages."""
        return {
            "markets": list(self.markets),
            "intervals": [self.candle_interval],
            # The venues whose past comes from an archive.
            "archives": ["binance"] if "binance_archive" in self.providers else [],
            "pairs": list(self.alpha_vantage_pairs),
            "coingecko_pages": [str(self.coingecko_pages)],
        }

    @property
    def is_coincap_local(self) -> bool:
        """Whether CoinCap is a sandbox on this machine."""
        return self.coincap_base_url.startswith(("http://127.0.0.1", "http://localhost", "http://[::1]"))

    @property
    def coincap_absence(self) -> str | None:
        """Why CoinCap is not registered, or None where it is."""
        needs_key = not self.coincap_base_url.rstrip("/").endswith("/v2") and not self.is_coincap_local
        if needs_key and self.coincap_api_key is None:
            return "CoinCap v3 needs a key: set COINCAP_API_KEY"
        return None


def storage_options(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The object store's options for deltalake, Polars and DuckDB, from the environment (``AWS_*``).

    Plain HTTP is allowed to loopback only: that is a local server, anything else would send keys in the clear.
    """
    options = {key: environment[key] for key in _STORE_KEYS if environment.get(key)}
    if options.get("AWS_ENDPOINT_URL", "").startswith(("http://127.0.0.1", "http://localhost", "http://[::1]")):
        options["AWS_ALLOW_HTTP"] = "true"
    return options
