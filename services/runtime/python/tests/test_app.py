"""Apps in process: functions on each other's events, over `oncue-host --testing`."""

import asyncio
import concurrent.futures
import threading
import unittest
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from google.protobuf import descriptor_pb2

from oncue import Context, Delayed, function, reject, row
from oncue.testing import App, AppError, luck
from tests.test_runs import OrderBilled, OrderPlaced


@row("sales")
class Sales:
    orders: int = 0
    cents: int = 0


@function("tax", version="1.0.0")
def tax(order: OrderPlaced, context: Context) -> OrderBilled | Delayed[OrderBilled]:
    if order.order == "bad":
        raise reject("no such order")
    if order.order == "flaky" and context.attempt < 3:
        raise KeyError("not yet")
    billed = OrderBilled(order=order.order, cents=order.cents * 2)
    return Delayed(billed, timedelta(hours=1)) if order.order == "later" else billed


@function("count", changes=["totals"])
async def count(billed: OrderBilled, sales: Sales, context: Context) -> None:
    await asyncio.sleep(0)
    sales.orders += 1
    sales.cents += billed.cents
    context.add("totals", "cents", billed.cents)


@function("tick", changes=["ticks"])
def tick(context: Context) -> None:
    context.set_add("ticks", context.time.isoformat())


@function("shorten", files="write")
def shorten(order: OrderPlaced, context: Context) -> OrderBilled:
    text = context.files.read(order.order, limit=16) or b""
    context.files.put(f"{order.order}-short", [text[:2], text[2:4]], {"of": order.order})
    return OrderBilled(order=order.order, cents=len(text))


def keyed(order: OrderPlaced) -> None: ...


# What a double of the outside does, or an exception that it raises.
_doubles: list[Any] = []
_loops: list[asyncio.AbstractEventLoop] = []


def in_thread(work: Callable[[], None]) -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(work).result()


def double() -> None:
    (of,) = _doubles
    if isinstance(of, BaseException):
        raise of
    of()


@function("doubled")
def doubled(order: OrderPlaced) -> None:
    double()


@function("doubled-later")
async def doubled_later(order: OrderPlaced) -> None:
    _loops.append(asyncio.get_running_loop())
    double()


@function("slow", timeout=0.02, attempts=2)
async def slow(order: OrderPlaced) -> None:
    await asyncio.sleep(60)


@function("twice", attempts=2)
def twice(order: OrderPlaced) -> OrderBilled:
    return OrderBilled(order=order.order)


@function("once", at_most_once=True)
def once(order: OrderPlaced) -> None:
    raise KeyError("card refused")


# What a process keeps between events, which nobody promises it may.
_seen: list[str] = []


@function("remember")
def remember(order: OrderPlaced) -> OrderBilled | None:
    _seen.append(order.order)
    return OrderBilled(order=order.order, cents=len(_seen))


class Apps(unittest.TestCase):
    def test_events_go_from_function_to_function(self) -> None:
        with App(tax, count) as app:
            first = app.publish(OrderPlaced(order="o1", cents=5))
            self.assertNotEqual(app.publish(OrderPlaced(order="o1", cents=1)), first)
            self.assertIsNone(app.row(Sales, "o1"), "nothing happens by publishing")
            app.settle()
            self.assertEqual(app.row(Sales, "o1"), Sales(orders=2, cents=12))
            self.assertEqual(app.state("totals", "o1"), {"cents": 12})
            self.assertEqual([billed.cents for billed in app.events(OrderBilled)], [10, 2])
            self.assertEqual(app.dead_letters(), [])
            self.assertTrue(any("tax" in line for line in app.journal()))

    def test_failures_are_tried_again_and_rejections_are_dead_letters(self) -> None:
        with App(tax, count) as app:
            app.publish(OrderPlaced(order="flaky", cents=5))
            app.publish(OrderPlaced(order="bad", cents=5))
            app.settle()
            self.assertEqual(app.row(Sales, "flaky"), Sales(orders=1, cents=10))
            (letter,) = app.dead_letters()
            self.assertEqual((letter.function, letter.reason, letter.key), ("tax", "rejected", "bad"))
            self.assertEqual(letter.message, "no such order")
            self.assertRegex(letter.place, r"tests/test_app\.py:\d+")

    def test_time_passes_when_it_is_told_to(self) -> None:
        with App(tax, count, tick) as app:
            begin = app.time
            app.every(timedelta(minutes=20), tick)
            app.publish(OrderPlaced(order="later", cents=5))
            app.advance(timedelta(minutes=59))
            self.assertIsNone(app.row(Sales, "later"))
            self.assertEqual(len(app.state("ticks", "")["members"]), 2)
            app.advance(timedelta(minutes=1))
            self.assertEqual(app.row(Sales, "later"), Sales(orders=1, cents=10))
            self.assertEqual(app.time - begin, timedelta(hours=1))

    def test_files_are_those_of_the_app(self) -> None:
        with App(shorten) as app:
            app.put_file("o1", b"abcdef")
            app.publish(OrderPlaced(order="o1"))
            app.settle()
            self.assertEqual(app.file("o1-short"), b"abcd", app.journal())
            self.assertEqual(app.events(OrderBilled)[0].cents, 6)
            self.assertIsNone(app.file("none"))

    def test_what_cannot_be_is_said(self) -> None:
        with App(count) as app:
            with self.assertRaisesRegex(TypeError, "no event of the contract"):
                app.publish(descriptor_pb2.FileDescriptorSet())
            with self.assertRaisesRegex(AppError, "key"):
                app.publish(OrderBilled())
            with self.assertRaisesRegex(AppError, "whole seconds"):
                app.every(timedelta(milliseconds=1500), OrderBilled(order="o1"))
            for never in (count, tick):
                with self.assertRaisesRegex(AppError, "no function without an event"):
                    app.every(timedelta(minutes=1), never)
            with self.assertRaisesRegex(TypeError, "@function"):
                app.every(timedelta(minutes=1), len)
            with self.assertRaisesRegex(AppError, "advance"):
                app.advance(timedelta(seconds=-1))
            with self.assertRaisesRegex(AppError, "row"):
                app.row(Sales, 5)  # type: ignore[arg-type]
            with self.assertRaisesRegex(AppError, "no function of this app has a table nosuch; there are sales, totals"):
                app.state("nosuch", "o1")
        with self.assertRaisesRegex(AppError, "closed"):
            app.settle()
        with self.assertRaisesRegex(AppError, "two functions count"):
            App(count, count)
        with self.assertRaisesRegex(TypeError, "@function"):
            App(lambda: None)
        with self.assertRaisesRegex(TypeError, "functions"):
            App()
        with self.assertRaisesRegex(TypeError, "no field of text 'custmer' that could be the key; it has order"):
            function("wrong-key", key="custmer")(keyed)
        with self.assertRaisesRegex(TypeError, "no name of a function"):
            function("Wrong Name")(keyed)

    def test_an_app_goes_within_an_async_test(self) -> None:
        async def test() -> None:
            with App(tax, count) as app:
                app.publish(OrderPlaced(order="o1", cents=5))
                app.settle()
                self.assertEqual(app.row(Sales, "o1"), Sales(orders=1, cents=10))

        asyncio.run(test())


    def test_a_handler_that_ends_the_test_ends_the_app(self) -> None:
        for error in (SystemExit("enough"), KeyboardInterrupt(), GeneratorExit()):
            app = App(doubled)
            _doubles[:] = [error]
            app.publish(OrderPlaced(order="o1"))
            with self.assertRaises(type(error)):
                app.settle()
            with self.assertRaisesRegex(AppError, type(error).__name__):
                app.journal()
            app.close()

    def test_an_exception_of_any_kind_is_a_failed_attempt(self) -> None:
        class Odd(Exception):
            def __str__(self) -> str:
                raise ValueError("no text")

        for error, text in [(Odd(), "cannot be had"), (ValueError("half \ud800"), r"half \?"), (asyncio.CancelledError(), "CancelledError")]:
            of = doubled if isinstance(error, Exception) else doubled_later
            with App(of) as app:
                _doubles[:] = [error]
                app.publish(OrderPlaced(order="o1"))
                app.settle()
                (letter,) = app.dead_letters()
                self.assertEqual(letter.reason, "attempts")
                self.assertRegex(letter.message, text)

    def test_an_async_handler_has_its_time(self) -> None:
        with App(slow) as app:
            app.publish(OrderPlaced(order="o1"))
            app.settle()
            (letter,) = app.dead_letters()
            self.assertEqual(letter.message, "still running after 20 ms")
            self.assertRegex(letter.place, r"test_app\.py:\d+")

    def test_a_handler_observes_and_uses_nothing_else(self) -> None:
        with App(doubled) as app:
            _doubles[:] = [lambda: app.observe("called", ["once"])]
            app.publish(OrderPlaced(order="o1"))
            app.settle()
            self.assertEqual(app.dead_letters(), [])
            _doubles[:] = [lambda: app.publish(OrderPlaced(order="o2"))]
            app.publish(OrderPlaced(order="o3"))
            app.settle()
            self.assertRegex(app.dead_letters()[0].message, "the app is at work")
            _doubles[:] = [lambda: in_thread(app.settle)]
            app.publish(OrderPlaced(order="o4"))
            app.settle()
            self.assertEqual(len(app.dead_letters()), 2)
            with self.assertRaisesRegex(TypeError, "__repr__"):
                app.observe("object", object())

    def test_a_loop_is_that_of_all_events(self) -> None:
        with App(doubled_later) as app:
            shared = asyncio.Queue[int](maxsize=1)
            _doubles[:] = [lambda: shared.put_nowait(1) if shared.empty() else shared.get_nowait()]
            for order in ("o1", "o2"):
                app.publish(OrderPlaced(order=order))
            app.settle()
            loops = set(map(id, _loops))
            self.assertEqual((len(_loops), len(loops)), (2, 1), app.journal())

    def test_at_most_once_is_that_of_a_worker(self) -> None:
        with App(once) as app:
            app.publish(OrderPlaced(order="o1"))
            app.settle()
            (letter,) = app.dead_letters()
            self.assertEqual((letter.reason, letter.message), ("attempts", "KeyError: 'card refused'"))

    def test_a_test_may_have_threads(self) -> None:
        with App(tax, count) as app:
            threads = [threading.Thread(target=app.publish, args=[OrderPlaced(order=f"o{n}", cents=1)]) for n in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            app.settle()
            self.assertEqual(len(app.events(OrderBilled)), 8)

    def test_a_host_that_is_gone_says_so(self) -> None:
        app = App(tax)
        app._host.kill()
        with self.assertRaisesRegex(AppError, "oncue-host has ended"):
            app.publish(OrderPlaced(order="o1"))
        app.close()


class Lucks(unittest.TestCase):
    def scenario(self, *orders: str) -> Callable[[App], None]:
        def play(app: App) -> None:
            for order in orders:
                app.publish(OrderPlaced(order=order, cents=5))
            app.settle()

        return play

    def test_rows_and_events_are_the_same_whatever_the_luck(self) -> None:
        tally = luck(self.scenario("o1", "o2", "o1", "bad"), tax, count, seeds=range(60))
        self.assertEqual(tally.runs, 60)
        for brought in (tally.crashes, tally.redeliveries, tally.copies, tally.switches):
            self.assertGreater(brought, 0, tally)

    def test_what_a_process_remembers_is_found(self) -> None:
        def play(app: App) -> None:
            _seen.clear()
            self.scenario("o1", "o2", "o3")(app)

        with self.assertRaisesRegex(AssertionError, "seed") as found:
            luck(play, remember)
        self.assertIn("shop.order.billed", str(found.exception))
        self.assertIn("remember, worker", str(found.exception))

    def test_a_scenario_that_fails_fails_as_it_is(self) -> None:
        def play(app: App) -> None:
            self.scenario("o1")(app)
            self.assertEqual(app.events(OrderBilled), ["nothing"])

        with self.assertRaisesRegex(AssertionError, "nothing"):
            luck(play, tax)

    def test_a_scenario_that_fails_the_second_time_keeps_state(self) -> None:
        plays: list[int] = []

        def play(app: App) -> None:
            self.scenario("o1")(app)
            plays.append(1)
            self.assertEqual(len(plays), 1)

        with self.assertRaisesRegex(AssertionError, "keeps state from run to run"):
            luck(play, tax)

    def test_a_clock_is_told_from_luck(self) -> None:
        def play(app: App) -> None:
            self.scenario("o1")(app)
            clock.append(1)
            app.observe("clock", len(clock) // 40)

        clock: list[int] = []
        with self.assertRaisesRegex(AssertionError, "asks the clock or chance"):
            luck(play, tax)

    def test_few_attempts_are_no_false_alarm(self) -> None:
        def play(app: App) -> None:
            self.scenario("o1", "o2", "o1")(app)

        self.assertEqual(luck(play, twice, seeds=range(600)).runs, 600)


if __name__ == "__main__":
    unittest.main()
