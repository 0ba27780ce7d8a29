"""Counts what a customer was sent, and what of it is due."""

from oncue import function, row
from oncue.events import InvoiceSent, PaymentDue


@row("reminders")
class Reminders:
    sent: int = 0
    due: int = 0


@function("remind-customer", key="customer")
def remind_customer(event: InvoiceSent | PaymentDue, reminders: Reminders) -> None:
    if isinstance(event, InvoiceSent):
        reminders.sent += 1
    else:
        reminders.due += 1
