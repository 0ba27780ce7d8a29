"""Messages of the app's `.proto` files: `from oncue.events import OrderPlaced`.

A message that shares its name with another package's is had by its full one: `message("shop.OrderPlaced")`.
"""

from __future__ import annotations

from typing import Any

from oncue import _contract


def message(name: str) -> Any:
    """Class of a message, by `shop.OrderPlaced` or, where only one is called so, by `OrderPlaced`."""
    return _contract.current().message(name)


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(name)
    try:
        return message(name)
    except _contract.ContractError as e:
        # Of an AttributeError `from oncue.events import NAME` says no word.
        raise ImportError(str(e)) from None
