"""Draws the invoice of each order that is billed."""

from oncue import function, row
from oncue.events import InvoiceDrawn, OrderBilled


@row("invoices")
class Invoice:
    drawn: int = 0
    cents: int = 0


@function("draw-invoice")
def draw_invoice(billed: OrderBilled, invoice: Invoice) -> InvoiceDrawn:
    invoice.drawn += 1
    invoice.cents += billed.cents
    return InvoiceDrawn(order=billed.order, customer=billed.customer, cents=billed.cents)
