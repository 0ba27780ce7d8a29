"""For tests of functions. A handler is a plain function and can be called as one; `call` runs it as Oncue would, with what its
signature asks for, and says what came of it; an `App` runs several on each other's events, with rows, attempts and dead letters.

    def test_an_order_is_billed():
        outcome = call(bill_order, OrderPlaced(order="o1", cents=5), Customer(orders=1))
        assert outcome.events == [OrderBilled(order="o1", cents=5)]
        assert outcome.row.orders == 2

    def test_a_sale_is_counted():
        with App(bill_order, count_sales) as app:
            app.publish(OrderPlaced(order="o1", customer="ann", cents=5))
            app.settle()
            assert app.row(Sales, "ann").orders == 1
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from oncue import _wire
from oncue._app import App, AppError, DeadLetter, Tally, complete, luck
from oncue._function import Context, Delayed, Function, _flat


__all__ = ["App", "AppError", "DeadLetter", "MemoryFiles", "Outcome", "Tally", "call", "context", "luck"]


@dataclasses.dataclass
class Outcome:
    """Effects of one run: events that follow, the row as it is after it, changes without a row, and all files by name."""

    events: list[Any]
    delayed: list[Delayed[Any]]
    row: Any
    operations: list[dict[str, Any]]
    files: dict[str, bytes]


class MemoryFiles:
    """Files in memory, by name, which reply as a host does."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = dict(files)
        self._metadata: dict[str, dict[str, str]] = {}
        self._number = 0
        # What is read, or name and content of what is written, by the number of the request that began it.
        self._open: dict[int, Any] = {}

    def ask(self, act: dict[str, Any]) -> Any:
        """The reply to one request."""
        self._number += 1
        reply = _wire.FileReply(number=self._number)
        ((kind, value),) = act.items()
        if kind in ("stat", "open"):
            if kind == "open":
                self._open[self._number] = self.files.get(value)
            self._describe(value, reply)
        elif kind == "next" and self._open[value]:
            reply.chunk, self._open[value] = self._open[value], b""
        elif kind == "create":
            self._open[self._number] = (value, bytearray())
        elif kind == "append":
            self._open[value["create"]][1].extend(value["chunk"])
        elif kind == "finish":
            create, content = self._open.pop(value)
            self.files[create["name"]] = bytes(content)
            self._metadata[create["name"]] = create["metadata"]
            self._describe(create["name"], reply)
        elif kind == "close":
            self._open.pop(value, None)
        elif kind == "delete":
            self.files.pop(value, None)
        if reply.WhichOneof("outcome") is None:
            reply.done = True
        return reply

    async def ask_later(self, act: dict[str, Any]) -> Any:
        """The reply for an async handler."""
        return self.ask(act)

    def _describe(self, name: str, reply: Any) -> None:
        content = self.files.get(name)
        if content is None:
            reply.absent = True
            return
        reply.file.name, reply.file.size = name, len(content)
        reply.file.sha256 = hashlib.sha256(content).hexdigest()
        reply.file.metadata.update(self._metadata.get(name, {}))


def context(
    handler: Callable[..., Any],
    *,
    key: str = "",
    id: str = "event-1",
    attempt: int = 1,
    is_dry_run: bool = False,
    files: MemoryFiles | None = None,
) -> Context:
    """Context of an event, one second after 1970 began."""
    of: Function = handler.__oncue__  # type: ignore[attr-defined]
    ty = next(iter(of.events), "")
    event = _wire.Event(id=id, type=ty, source="/test", time_ms=1000, flow=id, attempt=attempt)
    files = files or MemoryFiles({})
    return Context(event, key, of, is_dry_run, files.ask_later if of.is_async else files.ask)


def call(
    handler: Callable[..., Any],
    event: Any = None,
    row: Any = None,
    *,
    key: str = "",
    files: Mapping[str, bytes] | None = None,
) -> Outcome:
    """Runs a function on an event, a row and files; an exception comes through, and `Reject` is one."""
    of: Function = handler.__oncue__  # type: ignore[attr-defined]
    if row is None and of.row is not None:
        row = of.row.cls()
    stored = MemoryFiles(files or {})
    surroundings = context(handler, key=key, files=stored)
    result = of.call(event, row, surroundings)
    if asyncio.iscoroutine(result):
        with asyncio.Runner() as loop:
            result = complete(result, loop)
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
        stored.files,
    )
