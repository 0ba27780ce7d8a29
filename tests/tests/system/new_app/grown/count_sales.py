"""Counts what each customer has bought."""

from oncue import function, row
from oncue.events import OrderBilled


def upgrade(version: int, fields: dict[str, str]) -> None:
    """From version 1, where `spent` was called `cents`."""
    if "cents" in fields:
        fields["spent"] = fields.pop("cents")


@row("customers", version=2, upgrade=upgrade)
class Customer:
    orders: int = 0
    spent: int = 0


@function("count-sales", key="customer")
def count_sales(billed: OrderBilled, customer: Customer) -> None:
    customer.orders += 1
    customer.spent += billed.cents
