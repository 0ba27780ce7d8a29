"""The child's end of the protocol: what goes into frames, and what becomes of what is printed."""

import time
import unittest
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

from oncue import Delayed, _contract, _wire, function, row
from oncue._serve import _FRAMING, _MAX_LINE, _MAX_TEXT, Work, _Answers, _current, _describe, _Lines, _log

# The app of these tests, wherever they are started.
_contract.folder = str(Path(__file__).parent / "app")

from oncue.events import OrderPlaced  # noqa: E402

MAX_FRAME = 32 << 10


class Sent:
    """A connection that keeps what is sent."""

    def __init__(self) -> None:
        self.frames: list[Any] = []

    def send(self, frame: Any) -> None:
        self.frames.append(frame)

    def texts(self) -> list[str]:
        return [frame.log.text for frame in self.frames]

    def results(self) -> list[Any]:
        return [result for frame in self.frames for result in frame.answer.results]


@row("kept")
class Kept:
    text: str = ""


@function("keep")
def keep(order: OrderPlaced, kept: Kept) -> None:
    kept.text = order.order


@function("wait")
async def wait(order: OrderPlaced) -> None:
    pass


def result(events: int, size: int, row: int = 0) -> Any:
    made = _wire.RunResult(number=7)
    for n in range(events):
        made.events.add(micros=n).done.outputs.add(type="t", payload=bytes(size))
    if row:
        made.set.add(name="a", value=bytes(row))
        made.deleted.append("b")
    return made


class Frames(unittest.TestCase):
    def test_answers_of_a_run_that_fit_no_frame_come_in_several(self) -> None:
        for whole in (result(24, 2000), result(24, 2000, row=20_000), result(2, MAX_FRAME - 3 * _FRAMING, row=MAX_FRAME - 3 * _FRAMING)):
            sent: Any = Sent()
            answers = _Answers(sent, MAX_FRAME)
            answers.add(result(1, 10))
            answers.add(whole)
            answers.flush()
            self.assertGreater(len(sent.frames), 1)
            for frame in sent.frames:
                self.assertLessEqual(frame.ByteSize(), MAX_FRAME)
            _, *parts = sent.results()
            self.assertEqual([part.more for part in parts], [True] * (len(parts) - 1) + [False])
            together = _wire.RunResult()
            for part in parts:
                self.assertIn(len(part.set), (0, len(whole.set) * (not part.more)))
                together.MergeFrom(part)
            together.more = False
            self.assertEqual(together, whole)

    def test_answers_that_fit_a_frame_share_it(self) -> None:
        sent: Any = Sent()
        answers = _Answers(sent, MAX_FRAME)
        for _ in range(3):
            answers.add(result(2, 1000))
        answers.flush()
        self.assertEqual([len(frame.answer.results) for frame in sent.frames], [3])

    def test_a_row_that_fits_no_frame_is_a_rejection_of_its_event(self) -> None:
        run = _wire.Frame().invoke.runs.add(number=1, key="k", row_version=1)
        of = keep.__oncue__  # type: ignore[attr-defined]
        for text in ("first", "x" * 5000, "last"):
            run.events.add(type="shop.order.placed", payload=OrderPlaced(order=text).SerializeToString())
        work = Work(of, run, _wire.RunResult(), largest=4000)
        for event in work.events():
            context = work.context(event)
            work.succeeded(of.done(of.call(work.decode(event), work.row, context), context), time.monotonic())
        outcomes = [event.WhichOneof("outcome") for event in work.result.events]
        self.assertEqual(outcomes, ["done", "reject", "done"])
        self.assertRegex(work.result.events[1].reject.text, "the row has 50.. bytes, .* at most 4000")
        self.assertEqual([field.value for field in work.result.set], [b"last"])

    def test_what_follows_and_fits_no_frame_is_a_rejection(self) -> None:
        run = _wire.Frame().invoke.runs.add(number=1, key="k")
        run.events.add(type="shop.order.placed")
        work = Work(wait.__oncue__, run, _wire.RunResult(), largest=4000)  # type: ignore[attr-defined]
        for _ in work.events():
            work.succeeded(result(1, 5000).events[0].done, time.monotonic())
        self.assertRegex(work.result.events[0].reject.text, "the events that follow have 50.. bytes, .* at most 4000")

    def test_texts_of_failures_are_cut(self) -> None:
        failure = _wire.RunResult().events.add().retry
        _describe(failure, ValueError("x" * 17_000_000))
        self.assertEqual(failure.text, f"ValueError: {'x' * _MAX_TEXT}"[:_MAX_TEXT] + "...")

    def test_the_host_is_told_who_works_side_by_side(self) -> None:
        self.assertTrue(wait.__oncue__.manifest()["side_by_side"])  # type: ignore[attr-defined]
        self.assertFalse(keep.__oncue__.manifest()["side_by_side"])  # type: ignore[attr-defined]


class Lines(unittest.TestCase):
    def setUp(self) -> None:
        self.enterContext(mock.patch.object(_Lines, "_all", []))
        self.addCleanup(_current.set, (0, 0))
        self.sent: Any = Sent()
        self.lines = _Lines(self.sent, _wire.INFO)

    def test_a_line_ends_where_a_terminal_begins_another(self) -> None:
        print("a", file=self.lines)
        print("b\rc\r\nd", end="", file=self.lines)
        self.assertEqual(self.sent.texts(), ["a", "b", "c"])
        for percent in range(3):
            print(f"\r{percent}", end="", file=self.lines)
        self.assertEqual(self.sent.texts()[3:], ["d", "0", "1"])

    def test_a_long_line_is_cut(self) -> None:
        cut = f"{'x' * _MAX_LINE}..."
        print("x" * 17_000_000, file=self.lines)
        self.lines.write(f"{'x' * 17_000_000}\n")
        _log(self.sent, _wire.INFO, "x" * 17_000_000, "logger")
        self.assertEqual(self.sent.texts(), [cut] * 3)

    def test_text_that_has_no_end_is_not_kept_for_ever(self) -> None:
        for _ in range(_MAX_LINE + 1):
            self.lines.write("x")
        self.assertEqual(self.sent.texts(), ["x" * _MAX_LINE])
        _Lines.end_all()
        self.assertEqual(self.sent.texts()[1:], ["x"])

    def test_what_an_event_has_not_ended_is_a_line_of_it(self) -> None:
        _current.set((1, 0))
        self.lines.write("of one")
        _current.set((2, 3))
        self.lines.write("of another")
        _Lines.end_all()
        self.assertEqual([(frame.log.text, frame.log.run, frame.log.event) for frame in self.sent.frames], [("of another", 2, 3)])
        _current.set((1, 0))
        _Lines.end_all()
        self.assertEqual(self.sent.texts(), ["of another", "of one"])
        _Lines.end_all()
        self.assertEqual(len(self.sent.frames), 2)


class Delays(unittest.TestCase):
    def test_a_delay_is_from_now_to_ten_years(self) -> None:
        for days in (0, 3650):
            Delayed(OrderPlaced(), timedelta(days=days))
        for days in (-1, 3651):
            with self.assertRaisesRegex(ValueError, "a delay of .* days"):
                Delayed(OrderPlaced(), timedelta(days=days))


if __name__ == "__main__":
    unittest.main()
