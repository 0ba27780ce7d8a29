"""Oncue: write a function; its signature says which event it acts on, which state it owns and what follows.

    from oncue import function, row
    from oncue.events import OrderBilled, OrderPlaced

    @row("customers")
    class Customer:
        orders: int = 0

    @function("bill-order")
    def bill_order(order: OrderPlaced, customer: Customer) -> OrderBilled | None:
        customer.orders += 1
        return OrderBilled(order=order.order, cents=order.cents) if order.cents else None

An exception means again, later, with growing delay; `raise reject("why")` means never. A handler is a plain function, so a
test calls it; see `oncue.testing`.
"""

from oncue._errors import Reject, reject
from oncue._files import AsyncFiles, File, FileError, Files
from oncue._function import Context, Delayed, function
from oncue._rows import row

__all__ = [
    "AsyncFiles",
    "Context",
    "Delayed",
    "File",
    "FileError",
    "Files",
    "Reject",
    "function",
    "reject",
    "row",
]
__version__ = "0.1.0"
