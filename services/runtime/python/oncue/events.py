"""Messages and enums of the app's `.proto` files: `from oncue.events import Color, OrderPlaced`.

One that shares its name with another package's is had by its full one: `message("shop.OrderPlaced")`, `enum("shop.Color")`. An
enum has its values as protoc's does, `Color.RED`; one within a message is had by that, `OrderPlaced.Size.LARGE`.
"""

from __future__ import annotations

# As `Any` it would stand before a message of that name.
from typing import Any as _Any

from oncue import _contract


def message(name: str) -> _Any:
    """Class of a message, by `shop.OrderPlaced` or, where only one is called so, by `OrderPlaced`."""
    return _contract.current().message(name)


def enum(name: str) -> _Any:
    """Enum with its values, by `shop.Color` or, where only one is called so, by `Color`."""
    return _contract.current().enum(name)


def __getattr__(name: str) -> _Any:
    if name.startswith("_"):
        raise AttributeError(name)
    try:
        return _contract.current().find(name)
    except _contract.ContractError as e:
        # Of an AttributeError `from oncue.events import NAME` says no word.
        raise ImportError(str(e)) from None
