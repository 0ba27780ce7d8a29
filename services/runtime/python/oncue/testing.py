"""For tests of functions. A handler is a plain function and can be called as one; `call` runs it as Oncue would, with what its
signature asks for, and says what came of it.

    def test_an_order_is_billed():
        outcome = call(bill_order, OrderPlaced(order="o1", cents=5), Customer(orders=1))
        assert outcome.events == [OrderBilled(order="o1", cents=5)]
        assert outcome.row.orders == 2
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any

from oncue import _wire
from oncue._function import Context, Delayed, Function, _flat


@dataclasses.dataclass
class Outcome:
    """Effects of one run: events that follow, the row as it is after it, and changes without a row."""

    events: list[Any]
    delayed: list[Delayed[Any]]
    row: Any
    operations: list[dict[str, Any]]


def context(
    handler: Callable[..., Any], *, key: str = "", id: str = "event-1", attempt: int = 1, is_dry_run: bool = False
) -> Context:
    """Context of an event, one second after 1970 began."""
    of: Function = handler.__oncue__  # type: ignore[attr-defined]
    ty = next(iter(of.events), "")
    event = _wire.Event(id=id, type=ty, source="/test", time_ms=1000, flow=id, attempt=attempt)
    return Context(event, key, of, is_dry_run)


def call(handler: Callable[..., Any], event: Any = None, row: Any = None, *, key: str = "") -> Outcome:
    """Runs a function on an event and a row; an exception comes through, and `Reject` is one."""
    of: Function = handler.__oncue__  # type: ignore[attr-defined]
    if row is None and of.row is not None:
        row = of.row.cls()
    surroundings = context(handler, key=key)
    result = of.call(event, row, surroundings)
    if asyncio.iscoroutine(result):
        result = asyncio.run(result)
    results = list(_flat(result))
    # Whether it could be sent, and whether the row could be stored.
    of.done(results, surroundings)
    if of.row is not None:
        of.row.fields(row)
    return Outcome(
        [event for event in results if not isinstance(event, Delayed)],
        [event for event in results if isinstance(event, Delayed)],
        row,
        surroundings.operations,
    )
