"""Sends each invoice, and says later that it is due."""

from datetime import timedelta

from oncue import Delayed, function
from oncue.events import InvoiceDrawn, InvoiceSent, PaymentDue


@function("send-invoice")
def send_invoice(drawn: InvoiceDrawn) -> tuple[InvoiceSent, Delayed[PaymentDue]]:
    due = PaymentDue(order=drawn.order, customer=drawn.customer)
    return InvoiceSent(order=drawn.order, customer=drawn.customer), Delayed(due, timedelta(seconds=1))
