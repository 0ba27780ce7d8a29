"""An app in process, for tests: functions act on each other's events, over a store in memory and with a time of its own.

`oncue-host --testing` plays the part of the servers and of the workers, by the code of the test kit in Rust; handlers run in
the test itself, so that breakpoints, coverage and patched modules are there. What is said between the two is a JSON object for
each line: acts of the test and their results, and frames of the function protocol in base64.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import contextvars
import dataclasses
import datetime
import functools
import json
import subprocess
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, TypeVar

from google.protobuf.message import Message

from oncue import _contract, _wire
from oncue._function import Function
from oncue._rows import RowType
from oncue._serve import Work, greeting, in_time

E = TypeVar("E", bound=Message)
R = TypeVar("R")


class AppError(Exception):
    """The app cannot do what the test asks for."""


@dataclasses.dataclass(frozen=True)
class DeadLetter:
    """An event that a function has given up."""

    function: str
    # One of few, as of any dead letter: rejected, attempts, decode, bounds, outcome_unknown.
    reason: str
    message: str
    # `file:line` of what refused the event: of the handler, as a rule.
    place: str
    attempts: int
    event_id: str
    event_type: str
    key: str


@dataclasses.dataclass(frozen=True)
class Tally:
    """Faults and turns that luck brought, in all runs together."""

    runs: int
    # Workers that died with events in hand.
    crashes: int
    # Events that were delivered again while a worker had them, or after an ack that got lost.
    redeliveries: int
    # Messages that were published again under their id.
    copies: int
    # Commits that another worker was ahead of.
    conflicts: int
    # Steps at which one key overtook another.
    switches: int


def luck(
    scenario: Callable[[App], None],
    *handlers: Callable[..., Any],
    seeds: range = range(200),
    workers: int = 2,
    faults: bool = True,
) -> Tally:
    """Plays a scenario under many lucks: order of steps, crashes between any two of them, second deliveries and copies, several
    workers at one key. Rows, events, dead letters, files and what was observed must come out as in the plain run; otherwise it
    fails with the smallest schedule it finds under which they do not.

        def scenario(app):
            for order in ("o1", "o2"):
                app.publish(OrderPlaced(order=order, customer="ann", cents=1000))
            app.settle()

        def test_whatever_the_luck():
            assert luck(scenario, bill_order, count_sales).crashes > 0

    The same seed brings the same luck each time: `seeds=range(17, 18)` plays one again. The order of one key's events holds only
    within one worker and while nothing fails, so a function whose result hangs on that order is found as well; with
    `workers=1, faults=False` it holds.
    """
    if seeds.step != 1 or len(seeds) == 0:
        raise ValueError(f"{seeds} is no row of seeds, one behind the other")
    with App(*handlers) as app:
        return app._luck(scenario, {"seeds": [seeds.start, seeds.stop], "workers": workers, "faults": faults})


class App:
    """An app in process: these functions, over a store in memory, with a time of its own that begins with the year 2026 and
    passes in `advance` alone.

        with App(bill_order, count_sales) as app:
            app.publish(OrderPlaced(order="o1", customer="ann", cents=1000))
            app.settle()
            assert app.row(Customer, "ann") == Customer(orders=1, cents=1190)
            assert not app.dead_letters()

    Keys, rows with their versions, ids of outputs, bounds, attempts, dead letters and the rules of the commit are those of a
    worker, by the same code. Not modelled: delays between attempts (a retry comes when nothing else is left to do), time limits
    of plain handlers, limits of the servers and their failures, cron lines, `oncue.toml`, redrives.
    """

    def __init__(self, *handlers: Callable[..., Any]) -> None:
        if not handlers:
            raise TypeError("an app has functions: App(bill_order, count_sales)")
        self._functions: dict[str, Function] = {}
        self._replies: dict[int, dict[str, Any]] = {}
        self._numbers = self._requests = 0
        self._lock = threading.RLock()
        # What was observed since the last act, and how a handler has ended it all.
        self._observed: list[dict[str, Any]] = []
        self._ended_by: BaseException | None = None
        # Whether a handler runs, which cannot use the app that waits for it.
        self._is_at_work = False
        # One loop for all async handlers, as in a worker: what belongs to it may live in a module.
        self._loop: asyncio.Runner | None = None
        # The scenario of `luck`, how often it was played, and what it failed by where luck had no part in it.
        self._scenario: Callable[[App], None] = lambda _: None
        self._plays = 0
        self._failure: BaseException | None = None
        program = _contract.host()
        try:
            self._host = subprocess.Popen(
                [program, "--testing"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        except OSError as e:
            raise AppError(f"{program} cannot be run: {e}") from None
        self._end = weakref.finalize(self, _stop, self._host)
        try:
            for handler in handlers:
                self._add(handler)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> App:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _e: BaseException | None, _at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends the app; all that was in it is gone."""
        self._end()
        if self._loop:
            _beside(self._loop.close)
            self._loop = None

    def _add(self, handler: Callable[..., Any]) -> None:
        of = _function(handler)
        frame = base64.b64encode(greeting(of).SerializeToString()).decode()
        # Known before its first event can come.
        self._functions[of.name] = of
        self._act({"with": frame})

    def publish(self, event: Message) -> str:
        """Publishes an event, as a client would, and returns its id. Nothing acts on it before `settle`."""
        return str(self._act({"publish": _encoded(event)}))

    def every(self, interval: datetime.timedelta, what: Message | Callable[..., Any]) -> None:
        """Fires an event again and again, first when the interval has passed: a `[[schedule]]` of `oncue.toml`. For a function
        that takes no event it is the function itself. Whole seconds, at least one."""
        if isinstance(what, Message):
            fired = _encoded(what)
        else:
            fired = {"function": _function(what).name}
        self._act({"every": {"seconds": interval.total_seconds(), **fired}})

    def settle(self) -> None:
        """Goes on until nothing is left to do at this time: every event is handled or set aside, and so is what followed."""
        self._act("settle")

    def advance(self, by: datetime.timedelta) -> None:
        """Lets time pass: schedules and delayed events happen at their times, one after the other, and all that follows."""
        self._act({"advance": round(by.total_seconds() * 1000)})

    @property
    def time(self) -> datetime.datetime:
        """Time in the app."""
        return datetime.datetime.fromtimestamp(self._act("time") / 1000, datetime.timezone.utc)

    def row(self, cls: type[R], key: str) -> R | None:
        """Row of a key; none where none was written."""
        row = getattr(cls, "__oncue_row__", None)
        if not isinstance(row, RowType):
            raise TypeError(f"{cls.__name__} is no @row class")
        found = self._act({"row": {"table": row.table, "key": key}})
        if found is None:
            return None
        fields = {name: text.encode() for name, text in found["fields"].items()}
        opened: R = row.open(fields, found["version"])
        return opened

    def state(self, table: str, key: str) -> Any:
        """Value under a key of a table, as the gateway shows it: the fields of a row, `members` of a set, a `ranking`, or a
        `count`."""
        return self._act({"state": {"table": table, "key": key}})

    def events(self, cls: type[E]) -> list[E]:
        """Events of one type, the oldest first, those that were published and those that followed."""
        found = self._act({"events": {"type": _type(cls)}})
        return [cls.FromString(base64.b64decode(event)) for event in found]

    def dead_letters(self) -> list[DeadLetter]:
        """Dead letters, by function and event."""
        return [DeadLetter(**letter) for letter in self._act("dead_letters")]

    def journal(self) -> list[str]:
        """Steps of the app so far, a line each: what was published, run, committed, set aside."""
        return [str(line) for line in self._act("journal")]

    def put_file(self, name: str, content: bytes, metadata: dict[str, str] | None = None) -> None:
        """A file of the app, for functions that read it."""
        encoded = base64.b64encode(content).decode()
        self._act({"put_file": {"name": name, "content": encoded, "metadata": metadata or {}}})

    def file(self, name: str) -> bytes | None:
        """Content of a file of the app; none where there is none."""
        found = self._act({"file": {"name": name}})
        return None if found is None else base64.b64decode(found)

    def observe(self, name: str, value: Any) -> None:
        """Notes something that the app has done outside of its rows and events, such as the mails that a double of the mail
        server has been given: `luck` compares it as well. The last value under a name counts."""
        shown = repr(value).encode(errors="replace").decode()
        if " object at 0x" in shown:
            raise TypeError(f"{shown} looks otherwise in every run: give it a __repr__, or observe what is in it")
        self._observed.append({"observe": {"name": name, "value": shown}})

    def _luck(self, scenario: Callable[[App], None], act: dict[str, Any]) -> Tally:
        self._scenario = scenario
        try:
            tally = self._act({"luck": act})
        except AppError as e:
            raise self._failure or AssertionError(str(e)) from None
        if self._failure:
            raise self._failure
        return Tally(**tally)

    def _play(self) -> None:
        """Plays the scenario once. Where it fails by itself, luck has no part in it."""
        failed = None
        self._plays += 1
        try:
            if self._failure:
                raise self._failure
            self._scenario(self)
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as e:
            # pytest.fail and pytest.raises fail by what is no Exception.
            failed = "".join(traceback.format_exception_only(e)).strip()
            if self._plays == 1:
                self._failure = e
            elif self._plays == 2:
                self._failure = AssertionError(f"played once more by itself, the scenario fails: it keeps state from run to run\n{failed}")
                self._failure.__cause__ = e
        self._send_act({"played": {"failed": failed}})

    def _act(self, act: Any) -> Any:
        """Result of an act; what it makes handlers do, they do meanwhile."""
        # Not by the lock, which a thread that a handler waits for would never get.
        if self._is_at_work:
            raise AppError("the app is at work: a handler cannot use it, but for `observe`")
        with self._lock:
            return self._send_act(act)

    def _send_act(self, act: Any) -> Any:
        observed, self._observed = self._observed, []
        for seen in observed:
            self._result_of(seen)
        return self._result_of(act)

    def _result_of(self, act: Any) -> Any:
        if self._ended_by is not None:
            raise AppError(f"a handler has ended the app by {self._ended_by!r}")
        if not self._end.alive:
            raise AppError("the app is closed")
        self._numbers += 1
        number = self._numbers
        self._write({"number": number, "act": act})
        while number not in self._replies:
            self._take(self._read())
        reply = self._replies.pop(number)
        if "error" in reply:
            raise AppError(reply["error"])
        return reply.get("result")

    def _take(self, line: dict[str, Any]) -> None:
        if line.get("number") == 0:
            self._end()
            raise AppError(line["error"])
        if "number" in line:
            self._replies[line["number"]] = line
            return
        if "play" in line:
            self._play()
            return
        function = self._functions[line["function"]]
        frame = _wire.Frame.FromString(base64.b64decode(line["frame"]))
        if frame.WhichOneof("frame") == "invoke":
            for run in frame.invoke.runs:
                self._is_at_work = True
                try:
                    self._run(function, run)
                except BaseException as e:
                    # What is no Exception is meant for the test: the app stands still in the middle of an act.
                    self._ended_by = e
                    self._end()
                    raise
                finally:
                    self._is_at_work = False

    def _run(self, function: Function, run: Any) -> None:
        answer = _wire.Frame()
        ask = functools.partial(self._ask, function, run.number)
        work = Work(function, run, answer.answer.results.add(), _later(ask) if function.is_async else ask)
        for event in work.events():
            started = time.monotonic()
            context = work.context(event)
            try:
                if function.is_async:
                    result = self._complete(in_time(work, event, context))
                else:
                    result = function.call(work.decode(event), work.row, context)
                work.succeeded(function.done(result, context), started)
            except (Exception, asyncio.CancelledError) as e:
                work.failed(e, started)
            for number in context.file_requests.open_numbers:
                ask({"close": number})
        self._send(function, answer)

    def _complete(self, coroutine: Coroutine[Any, Any, R]) -> R:
        self._loop = self._loop or asyncio.Runner()
        return complete(coroutine, self._loop)

    def _ask(self, function: Function, run: int, act: dict[str, Any]) -> Any:
        """Reply to a handler that asks for a file."""
        self._requests += 1
        frame = _wire.Frame()
        frame.file_request.CopyFrom(_wire.FileRequest(number=self._requests, run=run, **act))
        self._send(function, frame)
        while True:
            # One handler is at work at a time, so whatever comes is for it.
            reply = _wire.Frame.FromString(base64.b64decode(self._read()["frame"]))
            if reply.WhichOneof("frame") == "file_reply":
                return reply.file_reply

    def _send(self, function: Function, frame: Any) -> None:
        self._write({"function": function.name, "frame": base64.b64encode(frame.SerializeToString()).decode()})

    def _write(self, line: dict[str, Any]) -> None:
        assert self._host.stdin is not None
        try:
            self._host.stdin.write(json.dumps(line).encode() + b"\n")
            self._host.stdin.flush()
        except OSError:
            raise self._gone() from None

    def _read(self) -> dict[str, Any]:
        assert self._host.stdout is not None
        line = self._host.stdout.readline()
        if not line:
            raise self._gone()
        read: dict[str, Any] = json.loads(line)
        return read

    def _gone(self) -> AppError:
        return AppError(f"oncue-host has ended with exit code {self._host.wait()}; what it wrote says why")


def complete(coroutine: Coroutine[Any, Any, R], loop: asyncio.Runner) -> R:
    """Result of a coroutine."""
    context = contextvars.copy_context()
    return _beside(lambda: loop.run(coroutine, context=context))


def _beside(work: Callable[[], R]) -> R:
    """Does what needs a loop of its own; in a thread where the test is async itself."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return work()
    done: list[R] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(work())
        except BaseException as e:
            failed.append(e)

    thread = threading.Thread(target=run, name="oncue")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return done[0]


def _later(ask: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    async def asked(act: dict[str, Any]) -> Any:
        return ask(act)

    return asked


def _function(handler: Any) -> Function:
    of = getattr(handler, "__oncue__", None)
    if not isinstance(of, Function):
        raise TypeError(f"{handler!r} was not made a function by @function")
    return of


def _type(cls: Any) -> str:
    found = _contract.event_type(cls) if isinstance(cls, type) and issubclass(cls, Message) else None
    if found is None:
        raise TypeError(f"{cls!r} is no event of the contract")
    return found


def _encoded(event: Message) -> dict[str, str]:
    return {"type": _type(type(event)), "payload": base64.b64encode(event.SerializeToString()).decode()}


def _stop(host: subprocess.Popen[bytes]) -> None:
    """Ends the host, which does so once nobody speaks to it."""
    for pipe in (host.stdin, host.stdout):
        # One that is gone takes nothing of what waits to be written.
        with contextlib.suppress(OSError):
            if pipe:
                pipe.close()
    try:
        host.wait(timeout=1)
    except subprocess.TimeoutExpired:
        # A process that the test has forked still holds the other end.
        host.kill()
        host.wait()
