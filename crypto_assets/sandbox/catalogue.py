"""Who exists in the sandbox's market: assets, exchanges and currencies with their unchanging facts.

Belongs here: names, ids, base prices, supplies. What moves with time is in ``market.py``. The head of the
list reads like the real one (ids, tickers, supplies and explorers as the provider answered in 2024 and 2025);
the tail is generated from the seed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from crypto_assets.sandbox.noise import digest, pick, uniform

Kind = Literal["free", "usd", "peg"]


@dataclass(frozen=True, slots=True)
class Coin:
    """An asset's unchanging facts.

    ``price`` (USD) and ``supply`` are base values that ``market.py`` moves; ``sigma`` is the deviation of a
    day's own log return, ``beta`` the share in the whole market's moves, ``growth`` the supply's yearly
    growth. ``peg`` names the asset that a wrapped one follows.
    """

    id: str
    symbol: str
    name: str
    price: float
    supply: float
    max_supply: float | None
    explorer: str | None
    tokens: dict[str, list[str]]
    sigma: float
    beta: float
    growth: float
    turnover: float
    key: int
    kind: Kind = "free"
    peg: str | None = None


@dataclass(frozen=True, slots=True)
class Exchange:
    """An exchange: its id in paths, its display name, its site and whether it streams."""

    id: str
    name: str
    url: str
    socket: bool


@dataclass(frozen=True, slots=True)
class Currency:
    """A fiat currency: base rate in USD per unit and the sign, which the provider often does not know."""

    id: str
    symbol: str
    sign: str
    rate: float


# id, symbol, name, price USD, supply, max supply, explorer, kind and what it follows
_Head = tuple[str, str, str, float, float, float | None, str, str]
_HEAD: tuple[_Head, ...] = (
    ("bitcoin", "BTC", "Bitcoin", 68_000.0, 19_800_000.0, 21e6, "https://blockchain.info/", "free"),
    ("ethereum", "ETH", "Ethereum", 3_300.0, 120_694_996.479, None, "https://etherscan.io/", "free"),
    ("tether", "USDT", "Tether USDt", 1.0, 140e9, None, "https://www.omniexplorer.info/asset/31", "usd"),
    ("binance-coin", "BNB", "BNB", 610.0, 137_734_906.46, 137_734_906.46, "https://bscscan.com/", "free"),
    ("solana", "SOL", "Solana", 165.0, 480e6, None, "https://explorer.solana.com/", "free"),
    ("usd-coin", "USDC", "USDC", 1.0, 45e9, None, "https://etherscan.io/", "usd"),
    ("xrp", "XRP", "XRP", 0.62, 55e9, 100e9, "https://xrpcharts.ripple.com/#/graph/", "free"),
    ("dogecoin", "DOGE", "Dogecoin", 0.16, 146e9, None, "http://dogechain.info/chain/Dogecoin", "free"),
    ("cardano", "ADA", "Cardano", 0.45, 35.6e9, 45e9, "https://cardanoexplorer.com/", "free"),
    ("tron", "TRX", "TRON", 0.16, 86.6e9, None, "https://tronscan.org/#/", "free"),
    ("steth", "STETH", "Lido Staked ETH", 3_300.0, 3_900_000.0, None, "https://etherscan.io/", "peg ethereum"),
    ("wrapped-bitcoin", "WBTC", "Wrapped Bitcoin", 68_000.0, 155_584.7, None, "https://etherscan.io/", "peg bitcoin"),
    ("avalanche", "AVAX", "Avalanche", 31.0, 395e6, 720e6, "https://avascan.info/", "free"),
    ("shiba-inu", "SHIB", "Shiba Inu", 0.00002, 589.28e12, None, "https://etherscan.io/", "free"),
    ("chainlink", "LINK", "Chainlink", 14.0, 608e6, 1e9, "https://etherscan.io/", "free"),
    ("polkadot", "DOT", "Polkadot", 6.4, 1.43e9, None, "https://polkascan.io/polkadot", "free"),
    ("bitcoin-cash", "BCH", "Bitcoin Cash", 410.0, 19_750_000.0, 21e6, "https://blockchair.com/bitcoin-cash", "free"),
    ("litecoin", "LTC", "Litecoin", 78.0, 74.3e6, 84e6, "http://explorer.litecoin.net/chain/Litecoin", "free"),
    ("uniswap", "UNI", "Uniswap", 8.6, 598.7e6, 1e9, "https://etherscan.io/", "free"),
    ("near-protocol", "NEAR", "NEAR Protocol", 5.2, 1.1e9, None, "https://explorer.nearprotocol.com/", "free"),
    ("multi-collateral-dai", "DAI", "Multi Collateral DAI", 1.0, 5.3e9, None, "https://etherscan.io/", "usd"),
    ("stellar", "XLM", "Stellar", 0.11, 28.7e9, 50_001_806_812.0, "https://dashboard.stellar.org/", "free"),
    ("filecoin", "FIL", "Filecoin", 4.4, 525.3e6, None, "https://protocol.ai", "free"),
    ("stacks", "STX", "Stacks", 1.9, 1.446e9, 1.818e9, "https://explorer.xinfin.network/", "free"),
)

N_HEAD = len(_HEAD)
_TRIES = 20
HANDOVER_SLOTS = 4
"""The last places of a long enough list pass from a delisted asset to a new one now and then."""

_FIRST = (
    "Vel",
    "Kan",
    "Oro",
    "Zen",
    "Lum",
    "Pyr",
    "Aki",
    "Tor",
    "Nim",
    "Qua",
    "Sol",
    "Mer",
    "Dax",
    "Ely",
    "Fyn",
    "Gra",
)
_MIDDLE = ("o", "a", "i", "u", "e", "ara", "omi", "ix")
_LAST = ("ra", "tix", "nus", "dex", "lyn", "fi", "verse", "bit", "coin", "pay", "mint", "chain")

# How often the real list has no value; the share of the tail makes up for what is known of the head.
_NO_MAX_SUPPLY = 0.44
_NO_EXPLORER = 0.02


def coins(seed: int, n: int) -> list[Coin]:
    """The first ``n`` assets; the places handed over from time to time hold their first owner's facts."""
    listed = [_head_coin(seed, fact) for fact in _HEAD[:n]]
    places = range(N_HEAD, n)
    labels = [str(place) for place in places]
    unlimited_in_head = sum(coin.max_supply is None for coin in listed)
    if labels:
        wanted = max(0.0, _NO_MAX_SUPPLY * n - unlimited_in_head)
        unlimited = pick(labels, wanted / len(labels), seed, "no-max-supply")
        unexplored = pick(labels, _NO_EXPLORER * n / len(labels), seed, "no-explorer")
    ids, tickers = {coin.id for coin in listed}, {coin.symbol for coin in listed}
    for place, label in zip(places, labels, strict=True):
        coin = _tail_coin(
            seed,
            place,
            is_limited=label not in unlimited,
            is_explored=label not in unexplored,
            ids=ids,
            tickers=tickers,
        )
        # Real tickers collide. One pair is certain, so that nobody gets away with a join on a ticker.
        if place == N_HEAD + 1:
            coin = _renamed(coin, symbol=listed[-1].symbol)
        ids.add(coin.id)
        tickers.add(coin.symbol)
        listed.append(coin)
    return listed


def newcomer(seed: int, place: int, generation: int) -> Coin:
    """The asset that holds a handed-over place in its n-th generation (from 0)."""
    stem = _word(seed, place, "newcomer", generation)
    coin = _tail_coin(seed, place, is_limited=True, is_explored=True, ids=set(), tickers=set(), generation=generation)
    number = generation + 1
    return _renamed(
        coin,
        asset_id=f"{stem.lower()}-season-{number}",
        symbol=f"{stem[:3].upper()}S{number}",
        name=f"{stem} Season {number}",
    )


def _head_coin(seed: int, fact: _Head) -> Coin:
    asset_id, symbol, name, price, supply, max_supply, explorer, kind = fact
    is_usd, follows = kind == "usd", kind.removeprefix("peg ") if kind.startswith("peg ") else None
    # Older and larger coins move less than the tail, as in the real market.
    calm = asset_id in ("bitcoin", "ethereum")
    return Coin(
        id=asset_id,
        symbol=symbol,
        name=name,
        price=price,
        supply=supply,
        max_supply=max_supply,
        explorer=explorer,
        tokens=_tokens(seed, asset_id, 0 if asset_id == "bitcoin" else 3 if is_usd or follows else 1),
        sigma=0.006 if asset_id == "bitcoin" else 0.015 if calm else 0.025 + 0.01 * uniform(seed, "sigma", asset_id),
        beta=1.0 if calm else 0.8 + 0.5 * uniform(seed, "beta", asset_id),
        growth=0.0 if max_supply == supply else 0.008,
        turnover=0.35 if is_usd else 0.02 + 0.03 * uniform(seed, "turnover", asset_id),
        key=digest(seed, "price", asset_id),
        kind="usd" if is_usd else "peg" if follows else "free",
        peg=follows,
    )


def _tail_coin(
    seed: int,
    place: int,
    *,
    is_limited: bool,
    is_explored: bool,
    ids: set[str],
    tickers: set[str],
    generation: int = 0,
) -> Coin:
    word = _word(seed, place, "tail", 0)
    attempt = 1
    while word.lower() in ids:
        word = _word(seed, place, "tail", attempt)
        attempt += 1
    symbol, attempt = word[:4].upper(), 2
    while symbol in tickers:
        symbol = f"{word[:3].upper()}{attempt}"
        attempt += 1
    asset_id = word.lower()
    facts = (seed, place, generation)
    # Caps fall by a power of the place, from about 2 billion USD to some ten million at place 250.
    cap = 2.5e9 * (place / N_HEAD) ** -2.2 * (0.7 + 0.6 * uniform("cap", *facts))
    price = 10.0 ** (-5.0 + 7.0 * uniform("price-level", *facts))
    supply = round(cap / price, 6)
    return Coin(
        id=asset_id,
        symbol=symbol,
        name=word,
        price=price,
        supply=supply,
        max_supply=float(round(supply * (1.5 + uniform("max-supply", *facts)))) if is_limited else None,
        explorer=f"https://explorer.{asset_id}.example/" if is_explored else None,
        tokens=_tokens(seed, f"{asset_id}/{generation}", digest("chains", *facts) % 4),
        sigma=0.03 + 0.02 * uniform("sigma", *facts),
        beta=0.6 + 0.8 * uniform("beta", *facts),
        growth=0.02 * uniform("growth", *facts),
        turnover=0.01 + 0.08 * uniform("turnover", *facts),
        key=digest("price", *facts),
    )


def _word(seed: int, place: int, label: str, attempt: int) -> str:
    number = digest(seed, label, place, attempt)
    first, number = _FIRST[number % len(_FIRST)], number // len(_FIRST)
    middle, number = _MIDDLE[number % len(_MIDDLE)], number // len(_MIDDLE)
    word = first + middle + _LAST[number % len(_LAST)]
    # A long list runs out of words: the place makes one that nobody else has.
    return word if attempt < _TRIES else f"{word}{place}"


def _renamed(coin: Coin, *, symbol: str, asset_id: str | None = None, name: str | None = None) -> Coin:
    renamed = asset_id or coin.id
    explorer = coin.explorer and coin.explorer.replace(coin.id, renamed)
    return replace(coin, id=renamed, symbol=symbol, name=name or coin.name, explorer=explorer)


def _tokens(seed: int, asset_id: str, n_chains: int) -> dict[str, list[str]]:
    """Contract addresses by chain; keys are numbers as text, with the non-EVM "101" among them, as measured."""
    chains = ("1", "56", "101", "137")[:n_chains]
    return {chain: ["0x" + (f"{digest(seed, 'token', asset_id, chain):016x}" * 3)[:40]] for chain in chains}


EXCHANGES: tuple[Exchange, ...] = tuple(
    Exchange(exchange_id, name, f"https://www.{exchange_id}.example/", position in (0, 2, 3, 6))
    for position, (exchange_id, name) in enumerate(
        (
            ("binance", "Binance"),
            ("crypto", "Crypto.com Exchange"),
            ("gdax", "Coinbase Pro"),
            ("kraken", "Kraken"),
            ("bybit", "Bybit"),
            ("okex", "Okex"),
            ("huobi", "Huobi"),
            ("kucoin", "Kucoin"),
            ("gate", "Gate"),
            ("bitfinex", "Bitfinex"),
            ("bitstamp", "Bitstamp"),
            ("binanceus", "Binance.US"),
            ("gemini", "Gemini"),
            ("poloniex", "Poloniex"),
            ("whitebit", "WhiteBIT"),
            ("lbank", "LBank"),
            ("digifinex", "DigiFinex"),
            ("probit", "ProBit"),
            ("bitso", "Bitso"),
            ("luno", "Luno"),
            ("itbit", "Itbit"),
            ("exmo", "EXMO"),
            ("yobit", "YoBit"),
            ("hitbtc", "HitBTC"),
            ("bibox", "Bibox"),
            ("coinex", "CoinEx"),
            ("btcturk", "BtcTurk"),
            ("bitbank", "Bitbank"),
            ("zaif", "Zaif"),
            ("bleutrade", "Bleutrade"),
            ("therocktrading", "The Rock Trading"),
            ("cryptopia", "Cryptopia"),
            ("livecoin", "Livecoin"),
            ("btcmarkets", "BTC Markets"),
            ("quoine", "Quoine"),
        )
    )
)

CURRENCIES: tuple[Currency, ...] = tuple(
    Currency(*fact)
    for fact in (
        ("united-states-dollar", "USD", "$", 1.0),
        ("euro", "EUR", "€", 1.08),
        ("british-pound-sterling", "GBP", "£", 1.264),
        ("japanese-yen", "JPY", "¥", 0.00661),
        ("chinese-yuan-renminbi", "CNY", "¥", 0.1385),
        ("swiss-franc", "CHF", "CHF", 1.109),
        ("canadian-dollar", "CAD", "$", 0.738),
        ("australian-dollar", "AUD", "$", 0.653),
        ("singapore-dollar", "SGD", "$", 0.742),
        ("hong-kong-dollar", "HKD", "$", 0.1278),
        ("south-korean-won", "KRW", "₩", 0.000744),
        ("indian-rupee", "INR", "₹", 0.0120),
        ("brazilian-real", "BRL", "R$", 0.199),
        ("mexican-peso", "MXN", "$", 0.0604),
        ("russian-ruble", "RUB", "₽", 0.0108),
        ("turkish-lira", "TRY", "₺", 0.0309),
        ("south-african-rand", "ZAR", "R", 0.0530),
        ("swedish-krona", "SEK", "kr", 0.0936),
        ("norwegian-krone", "NOK", "kr", 0.0923),
        ("danish-krone", "DKK", "kr", 0.1448),
        ("polish-zloty", "PLN", "zł", 0.2512),
        ("czech-republic-koruna", "CZK", "Kč", 0.0427),
        ("hungarian-forint", "HUF", "Ft", 0.00274),
        ("thai-baht", "THB", "฿", 0.0275),
        ("vietnamese-dong", "VND", "₫", 0.0000403),
        ("indonesian-rupiah", "IDR", "Rp", 0.000063),
        ("philippine-peso", "PHP", "₱", 0.0178),
        ("malaysian-ringgit", "MYR", "RM", 0.2117),
        ("saudi-riyal", "SAR", "﷼", 0.2664),
        ("united-arab-emirates-dirham", "AED", "فلس", 0.2723),
        ("israeli-new-sheqel", "ILS", "₪", 0.2714),
        ("kuwaiti-dinar", "KWD", "ك", 3.246),
        ("nigerian-naira", "NGN", "₦", 0.000717),
        ("kenyan-shilling", "KES", "KSh", 0.00755),
        ("ukrainian-hryvnia", "UAH", "₴", 0.0255),
        ("são-tomé-and-príncipe-dobra", "STN", "Db", 0.0440),
        ("special-drawing-rights", "XDR", "SDR", 1.324),
        ("gold-ounce", "XAU", "oz", 2230.0),
        ("silver-ounce", "XAG", "oz", 24.97),
        ("new-zealand-dollar", "NZD", "$", 0.5985),
        ("argentine-peso", "ARS", "$", 0.00117),
        ("chilean-peso", "CLP", "$", 0.00102),
        ("colombian-peso", "COP", "$", 0.000259),
    )
)

CRYPTO_SIGNS = {"bitcoin": "₿", "ethereum": "Ξ", "litecoin": "Ł", "dogecoin": "Ð"}
RATE_COINS = 17
"""So many of the largest assets have a conversion rate, as in the recorded answer."""
