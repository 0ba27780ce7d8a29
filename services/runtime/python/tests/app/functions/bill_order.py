from oncue import function, reject, row
from oncue.events import OrderBilled, OrderPlaced


@row("customers")
class Customer:
    orders: int = 0


@function("bill-order")
def bill_order(order: OrderPlaced, customer: Customer) -> OrderBilled:
    if order.cents == 0:
        raise reject("an order of nothing")
    customer.orders += 1
    return OrderBilled(order=order.order, cents=order.cents)
