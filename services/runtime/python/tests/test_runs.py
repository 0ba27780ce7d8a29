"""Functions and runs: what a signature says, and what an answer holds."""

import asyncio
import time
import unittest
from datetime import timedelta
from pathlib import Path
from typing import Any

from oncue import Context, Delayed, Reject, _contract, _wire, function, reject, row, testing
from oncue._serve import Work, in_time, joined

# The app of these tests, wherever they are started.
_contract.folder = str(Path(__file__).parent / "app")

from oncue.events import OrderBilled, OrderPlaced  # noqa: E402


@row("orders")
class Orders:
    count: int = 0
    seen: list[str] | None = None


@function("bill", version="1.2.3", timeout=2.5, changes=["totals"])
def bill(order: OrderPlaced, orders: Orders, context: Context) -> list[OrderBilled] | Delayed[OrderBilled] | None:
    orders.count += 1
    orders.seen = [*(orders.seen or []), order.order]
    context.add("totals", "cents", order.cents)
    if order.order == "bad":
        raise reject("no such order")
    if order.order == "fails":
        raise KeyError("later")
    if order.order == "later":
        return Delayed(OrderBilled(order=order.order), timedelta(seconds=1.5))
    return [OrderBilled(order=order.order, cents=order.cents)] if order.cents else None


@function("shorten", files="write")
def shorten(order: OrderPlaced, context: Context) -> OrderBilled:
    files = context.files
    text = files.read(order.order, limit=16) or b""
    stored = files.put(f"{order.order}-short", [text[:2], text[2:4]], {"of": order.order})
    assert files.stat(stored.name) == stored and files.stat("none") is None and files.open("none") is None
    files.delete("old")
    return OrderBilled(order=str(sum(map(len, files.open(order.order) or []))), cents=stored.size)


@function("shorten-later", files="write")
async def shorten_later(order: OrderPlaced, context: Context) -> None:
    files = context.async_files
    text = await files.read(order.order, limit=16) or b""
    await files.put(f"{order.order}-short", text[:4])


def run(*orders: Any, fields: dict[str, bytes] | None = None, check: bool = False) -> Any:
    """Works off a run as the child does, and returns its result."""
    made = _wire.Frame().invoke.runs.add(number=7, key="k", row_version=1, check=check)
    for name, value in (fields or {}).items():
        made.fields.add(name=name, value=value)
    for place, order in enumerate(orders):
        payload = order if isinstance(order, bytes) else order.SerializeToString()
        made.events.add(id=f"e{place}", type="shop.order.placed", payload=payload, attempt=1)
    of = bill.__oncue__  # type: ignore[attr-defined]
    work = Work(of, made, _wire.RunResult())
    for event in work.events():
        started = time.monotonic()
        try:
            context = work.context(event)
            work.succeeded(of.done(of.call(work.decode(event), work.row, context), context), started)
        except Exception as e:
            work.failed(e, started)
    return work.result


def fields(result: Any) -> dict[str, bytes]:
    return {field.name: field.value for field in result.set}


class Traces(unittest.TestCase):
    def test_spans_of_the_app_are_within_that_of_the_event(self) -> None:
        from opentelemetry import trace

        event = _wire.Event(traceparent=f"00-{'ab' * 16}-{'cd' * 8}-01", tracestate="a=b", timeout_ms=1000)
        before = trace.get_current_span().get_span_context()
        with joined(event):
            within = trace.get_current_span().get_span_context()
            self.assertEqual(
                (f"{within.trace_id:032x}", f"{within.span_id:016x}", within.is_remote, within.trace_flags, within.trace_state["a"]),
                ("ab" * 16, "cd" * 8, True, 1, "b"),
            )
        self.assertEqual(trace.get_current_span().get_span_context(), before)
        with joined(_wire.Event()):
            self.assertEqual(trace.get_current_span().get_span_context(), before, "nobody traces")

    def test_an_async_handler_has_the_span_of_its_event(self) -> None:
        from opentelemetry import trace

        seen: list[int] = []

        @function("traced")
        async def traced(order: OrderPlaced) -> None:
            await asyncio.sleep(0)
            seen.append(trace.get_current_span().get_span_context().trace_id)

        of = traced.__oncue__  # type: ignore[attr-defined]

        async def both() -> None:
            runs = []
            for digit in "12":
                made = _wire.Frame().invoke.runs.add(number=int(digit))
                event = made.events.add(type="shop.order.placed", timeout_ms=1000, traceparent=f"00-{digit * 32}-{digit * 16}-01")
                work = Work(of, made, _wire.RunResult())
                runs.append(in_time(work, event, work.context(event)))
            await asyncio.gather(*runs)

        asyncio.run(both())
        self.assertEqual([f"{trace_id:032x}" for trace_id in seen], ["1" * 32, "2" * 32])


class Runs(unittest.TestCase):
    def test_the_signature_is_the_manifest(self) -> None:
        manifest = bill.__oncue__.manifest()  # type: ignore[attr-defined]
        self.assertEqual(manifest["triggers"], ["shop.order.placed"])
        self.assertEqual(manifest["emits"], ["shop.order.billed"])
        self.assertEqual((manifest["table"], manifest["version"]), ("orders", "1.2.3"))
        self.assertEqual(manifest["timeout_ms"], 2500)
        self.assertEqual((manifest["changes"], manifest["declares"]), (["totals"], True))

    def test_a_table_that_is_not_declared_is_not_changed(self) -> None:
        with self.assertRaisesRegex(Reject, r'bill does not declare .* "others": add changes=\["others"\]'):
            testing.context(bill).add("others", "cents", 1)
        with self.assertRaisesRegex(TypeError, "changes is a list of tables"):
            function("a", changes="totals")(lambda: None)

    def test_files_are_used_as_declared(self) -> None:
        outcome = testing.call(shorten, OrderPlaced(order="a"), files={"a": b"0123456789", "old": b""})
        self.assertEqual(outcome.files, {"a": b"0123456789", "a-short": b"0123"})
        self.assertEqual(outcome.events, [OrderBilled(order="10", cents=4)])
        self.assertEqual(testing.call(shorten_later, OrderPlaced(order="a"), files={"a": b"01"}).files["a-short"], b"01")
        with self.assertRaisesRegex(Reject, "file a has 20 bytes, more than the 16 allowed"):
            testing.call(shorten, OrderPlaced(order="a"), files={"a": bytes(20)})
        with self.assertRaisesRegex(Reject, 'bill does not declare that it reads files: add files="read"'):
            testing.context(bill).files.stat("a")
        with self.assertRaisesRegex(TypeError, "use context.async_files"):
            testing.context(shorten_later).files
        with self.assertRaisesRegex(TypeError, 'files is "read" or "write"'):
            function("a", files="all")(lambda: None)
        self.assertEqual(shorten.__oncue__.manifest()["files"], 2)  # type: ignore[attr-defined]

    def test_a_run_is_one_change_of_the_row(self) -> None:
        result = run(OrderPlaced(order="a", cents=2**53 + 1), OrderPlaced(order="b"), fields={"count": b"5"})
        self.assertEqual(fields(result), {"count": b"7", "seen": b'["a","b"]'})
        outputs = result.events[0].done.outputs
        self.assertEqual(OrderBilled.FromString(outputs[0].payload).cents, 2**53 + 1)
        self.assertEqual(result.events[0].done.operations[0].add.by, 2**53 + 1)
        self.assertEqual(len(result.events[1].done.outputs), 0)

    def test_an_event_that_fails_leaves_the_row_as_it_was(self) -> None:
        orders = [OrderPlaced(order=name) for name in ("a", "fails", "b", "bad", "c")]
        result = run(*orders)
        self.assertEqual(fields(result), {"count": b"3", "seen": b'["a","b","c"]'})
        kinds = [event.WhichOneof("outcome") for event in result.events]
        self.assertEqual(kinds, ["done", "retry", "done", "reject", "done"])
        self.assertEqual(getattr(result.events[1].retry, "class"), "KeyError")
        self.assertEqual(result.events[3].reject.text, "no such order")
        self.assertRegex(result.events[3].reject.place, r"tests/test_runs\.py:\d+$")

    def test_a_run_of_failures_changes_nothing(self) -> None:
        result = run(OrderPlaced(order="fails"), fields={"count": b"5"})
        self.assertEqual((fields(result), list(result.deleted)), ({}, []))

    def test_what_cannot_be_decoded_is_rejected_as_that(self) -> None:
        result = run(b"\xff\xff", OrderPlaced(order="a"))
        self.assertEqual(getattr(result.events[0].reject, "class"), "decode")
        self.assertEqual(fields(result)["count"], b"1")

    def test_a_row_that_cannot_be_read_fails_the_run(self) -> None:
        result = run(OrderPlaced(order="a"), fields={"count": b"many"})
        self.assertIn("field count", result.failure.text)
        self.assertEqual(len(result.events), 0)

    def test_a_check_runs_nothing(self) -> None:
        result = run(OrderPlaced(order="bad"), b"\xff", fields={"count": b"5"}, check=True)
        self.assertEqual([event.WhichOneof("outcome") for event in result.events], ["done", "reject"])
        self.assertEqual(fields(result), {})

    def test_delays_are_in_milliseconds(self) -> None:
        result = run(OrderPlaced(order="later"))
        self.assertEqual(result.events[0].done.outputs[0].delay_ms, 1500)

    def test_the_kit_runs_a_function(self) -> None:
        outcome = testing.call(bill, OrderPlaced(order="a", cents=3), Orders(count=1))
        self.assertEqual(outcome.events, [OrderBilled(order="a", cents=3)])
        self.assertEqual(outcome.row.count, 2)
        self.assertEqual(outcome.operations, [{"table": "totals", "add": {"field": "cents", "by": 3}}])
        with self.assertRaises(Reject):
            testing.call(bill, OrderPlaced(order="bad"))

    def test_signatures_that_say_nothing_are_refused(self) -> None:
        with self.assertRaisesRegex(TypeError, "say by an annotation what x is"):

            @function("a")
            def unnamed(x) -> None:  # type: ignore[no-untyped-def]
                pass

        with self.assertRaisesRegex(TypeError, "no event of the contract"):

            @function("b")
            def number(x: int) -> None:
                pass

        with self.assertRaisesRegex(TypeError, "two arguments are its event"):

            @function("c")
            def twice(a: OrderPlaced, b: OrderPlaced) -> None:
                pass

    def test_a_result_that_the_signature_does_not_name_is_rejected(self) -> None:
        @function("d")
        def silent(order: OrderPlaced) -> None:
            return OrderBilled(order="a")  # type: ignore[return-value]

        with self.assertRaisesRegex(Reject, "does not name"):
            testing.call(silent, OrderPlaced(order="a"))

    def test_idempotency_keys_are_those_of_every_language(self) -> None:
        context = testing.context(bill, id="e1")
        self.assertEqual(context.idempotency_key("charge"), IDEMPOTENCY_KEY)

    def test_own_row_is_not_changed_behind_the_handlers_back(self) -> None:
        with self.assertRaises(Reject):
            testing.context(bill).add("orders", "count", 1)


# As the host's own tests have it.
IDEMPOTENCY_KEY = "zb1yNyDiQ4aLcfR7Jg8xTQ"


if __name__ == "__main__":
    unittest.main()
