"""What the data are: one contract per Delta table, and the list of all of them."""

from crypto_assets.tables import quality, raw, refined, stream, trusted
from crypto_assets.tables.contract import Contract

ALL_TABLES: tuple[type[Contract], ...] = (
    *raw.TABLES,
    *stream.TABLES,
    *trusted.TABLES,
    *refined.TABLES,
    *quality.TABLES,
)
BY_NAME: dict[str, type[Contract]] = {contract.table.full_name: contract for contract in ALL_TABLES}

__all__ = ["ALL_TABLES", "BY_NAME", "Contract"]
