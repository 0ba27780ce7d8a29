"""Functions can be imported by a conftest as well."""

import bill_order
import pytest


@pytest.fixture
def billing(oncue_app):
    return oncue_app(bill_order.bill_order)
