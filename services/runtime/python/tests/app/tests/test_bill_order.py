"""Tests of an app for pytest: two that pass, and two that fail on purpose, for `test_plugin`."""

from bill_order import Customer, bill_order

from oncue.events import OrderBilled, OrderPlaced


def test_an_order_is_billed(oncue_app):
    app = oncue_app(bill_order)
    app.publish(OrderPlaced(order="o1", cents=5))
    app.settle()
    assert app.row(Customer, "o1") == Customer(orders=1)
    assert app.events(OrderBilled) == [OrderBilled(order="o1", cents=5)]


def test_apps_have_nothing_in_common(oncue_app):
    first, second = oncue_app(bill_order), oncue_app(bill_order)
    first.publish(OrderPlaced(order="o1", cents=5))
    first.settle()
    second.settle()
    assert second.row(Customer, "o1") is None


def test_that_fails(oncue_app):
    app = oncue_app(bill_order)
    app.publish(OrderPlaced(order="o2"))
    app.settle()
    assert app.row(Customer, "o2") == Customer(orders=1)


def test_that_fails_without_an_app():
    assert not OrderPlaced(order="o3").order
