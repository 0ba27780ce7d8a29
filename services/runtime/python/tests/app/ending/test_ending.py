"""Fails on purpose, for `test_plugin`: by what is no Exception."""

import bill_order
import pytest

from oncue.events import OrderPlaced


def test_that_a_handler_ends_the_test(billing, monkeypatch):
    monkeypatch.setattr(bill_order, "reject", lambda why: pytest.fail("must not be called"))
    billing.publish(OrderPlaced(order="o1"))
    billing.settle()
