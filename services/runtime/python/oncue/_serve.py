"""The child's end of the function protocol: a thread reads frames, handlers run in the main thread, answers go out run by run.

Plain handlers run one after the other; async ones as one task for each run, the events of a run in turn. The thread that
reads also watches the time: it interrupts a plain handler by a signal, which ends loops and sleeps, and answers pings, so
that a busy process is told from a frozen one.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import importlib
import importlib.util
import io
import logging
import os
import queue
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, ClassVar

from oncue import _contract, _forkserver, _wire
from oncue._connection import Connection
from oncue._errors import Reject, reject
from oncue._function import Context, Function
from oncue._rows import Fields, RowError

_SOCKET = "ONCUE_SOCKET"
_VERSION = 1
# Results that are sent together at most; fewer where nothing else is to be done. Seconds for which they are held back.
_BATCH = 64
_HELD = 0.01
# Bytes of a frame for what stands around its contents.
_FRAMING = 1024
# Characters of a line that are logged, and of a failure's text that are sent.
_MAX_LINE = 16 << 10
_MAX_TEXT = 4 << 10
# Seconds between two looks at whether the next event of a run has begun.
_LOOK = 0.05
# Signal by which the reading thread interrupts a handler.
_INTERRUPT = signal.SIGUSR2

# Number of the run, and place of the event in it, to which what is logged belongs.
_current: contextvars.ContextVar[tuple[int, int]] = contextvars.ContextVar("oncue", default=(0, 0))


class _TooLong(BaseException):
    """Raised into a handler whose time is over; no Exception, so that no handler takes it for one of its own."""


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m oncue FILE, run by oncue-host", file=sys.stderr)
        return 2
    number = os.environ.pop(_SOCKET, "")
    if not number:
        print(
            "python -m oncue speaks to oncue-host, which has not started it: write\n"
            f'  [functions.NAME]\n  run = ["python", "-m", "oncue", "{arguments[0]}"]\n'
            "into oncue.toml, and run `oncue up`",
            file=sys.stderr,
        )
        return 2
    connection = Connection(socket.socket(fileno=int(number)))
    begin = connection.next("begin").begin
    _contract.use(begin.contract)
    before = _forkserver.descriptors() if begin.fork else {}
    if begin.fork:
        _forkserver.prepare()
    try:
        function = _load(arguments[0], begin.function)
        hello = greeting(function)
    except Exception as e:
        traceback.print_exc()
        place = _place(e.__traceback__)
        if isinstance(e, SyntaxError) and e.filename:
            place = f"{os.path.relpath(e.filename)}:{e.lineno}"
        why = f"{place}: {type(e).__name__}: {e}" if place else str(e)
        fatal = _wire.Frame()
        fatal.fatal.sentence = _cut(why)
        connection.send(fatal)
        return 1
    if begin.fork:
        if why := _forkserver.obstacle(before):
            print(f"each child imports {arguments[0]} by itself, and is not forked from one that has: {why}", flush=True)
        else:
            hello.hello.features.append(_forkserver.FEATURE)
    connection.send(hello)
    connection, welcome = _forkserver.welcomed(connection)
    connection.has_files = "files" in welcome.features
    _speak_through(connection)
    answers = _Answers(connection, welcome.max_frame)
    server = _AsyncServer(function, connection, answers) if function.is_async else _Server(function, connection, answers)
    server.serve()
    return 0


def greeting(function: Function) -> Any:
    """What this child is, for the host."""
    frame = _wire.Frame()
    hello = frame.hello
    hello.lowest = hello.highest = _VERSION
    hello.sdk, hello.sdk_version = "oncue-python", sys.modules["oncue"].__version__
    for name, value in function.manifest().items():
        if isinstance(value, list):
            getattr(hello.manifest, name).extend(value)
        else:
            setattr(hello.manifest, name, value)
    hello.contract = function.contract()
    return frame


def _load(path: str, name: str) -> Function:
    """The function `name` of a file."""
    folder = os.path.dirname(os.path.abspath(path))
    for place in (os.getcwd(), folder):
        if place not in sys.path:
            sys.path.insert(0, place)
    module_name = os.path.splitext(os.path.basename(path))[0].replace("-", "_")
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    spec.loader.exec_module(module)
    for function in Function.all:
        if function.name == name:
            return function
    known = ", ".join(function.name for function in Function.all) or "none"
    raise LookupError(f"{path} has no @function({name!r}); it has {known}")


class _Answers:
    """Results of runs on their way, together as far as they fit a frame; one that fits none goes in parts."""

    def __init__(self, connection: Connection, max_frame: int) -> None:
        self._connection = connection
        self._room = max_frame - _FRAMING if max_frame else sys.maxsize
        # Bytes that an event may answer, so that a part has room for it.
        self.largest = self._room - _FRAMING
        self._lock = threading.Lock()
        self._results: list[Any] = []
        self._bytes = 0
        # When the first of them was there.
        self._since = 0.0

    def add(self, result: Any) -> None:
        with self._lock:
            for part in _parts(result, self._room):
                size = part.ByteSize()
                if self._bytes + size > self._room:
                    self._send()
                if not self._results:
                    self._since = time.monotonic()
                self._results.append(part)
                self._bytes += size
                if len(self._results) >= _BATCH:
                    self._send()

    def is_held(self) -> bool:
        return bool(self._results)

    def flush(self, held: float = 0.0) -> None:
        """Sends what there is, if it has been held back for this long."""
        with self._lock:
            if self._results and time.monotonic() - self._since >= held:
                self._send()

    def _send(self) -> None:
        if self._results:
            frame = _wire.Frame()
            frame.answer.results.extend(self._results)
            self._results, self._bytes = [], 0
            self._connection.send(frame)


def _parts(result: Any, room: int) -> list[Any]:
    """A result as several of at most so many bytes: its events in turn, its row with the last of them."""
    if result.ByteSize() <= room:
        return [result]
    parts = [_wire.RunResult(number=result.number)]
    rest = [_wire.RunResult(events=[event]) for event in result.events]
    rest.append(_wire.RunResult(set=result.set, deleted=result.deleted))
    used = 0
    for one in rest:
        if used and used + one.ByteSize() > room - _FRAMING:
            parts[-1].more = True
            parts.append(_wire.RunResult(number=result.number))
            used = 0
        parts[-1].MergeFrom(one)
        used += one.ByteSize()
    return parts


class _Server:
    """Runs plain handlers in the main thread, one after the other."""

    def __init__(self, function: Function, connection: Connection, answers: _Answers) -> None:
        self.function, self.connection, self.answers = function, connection, answers
        self.begun = 0
        # Number of the run at work.
        self._at = 0
        self._runs: deque[Any] = deque()
        self._more = threading.Semaphore(0)
        # The event that runs, by its number; when its time is over; and the one that is to be interrupted.
        self._running = 0
        self._deadline = 0.0
        self._interrupted = 0
        # Runs that have come, and those that are worked off.
        self._given = self._done = 0
        # Who waits for a reply, by the number of the request.
        self._replies: dict[int, queue.SimpleQueue[Any]] = {}

    def serve(self) -> None:
        signal.signal(_INTERRUPT, self._interrupt)
        self.connection.when_held = lambda: self._interrupt(0, None)
        main = threading.main_thread().ident
        assert main is not None
        threading.Thread(target=self._read, args=(main,), name="oncue", daemon=True).start()
        while True:
            if not self._more.acquire(blocking=False):
                self.answers.flush()
                self._more.acquire()
            run = self._runs.popleft()
            if run is None:
                break
            result = _wire.RunResult()
            started = time.monotonic()
            self._run(run, result)
            self.answers.add(result)
            # The next may be as slow, and the host would take this one to be at work all the while.
            self.answers.flush(0.0 if time.monotonic() - started > _HELD else _HELD)
            self._done += 1
        self.answers.flush()
        drained = _wire.Frame()
        drained.drained.SetInParent()
        self.connection.send(drained)

    def _read(self, main: int) -> None:
        while True:
            running = self._running
            frames = self.connection.frames(self._wait(running))
            if running:
                self.answers.flush(_HELD)
            for frame in frames:
                kind = frame.WhichOneof("frame")
                if kind == "invoke":
                    self._given += len(frame.invoke.runs)
                    for run in frame.invoke.runs:
                        self._runs.append(run)
                        self._more.release()
                elif kind == "ping":
                    _pong(self.connection, frame.ping.number, self.begun)
                elif kind == "file_reply":
                    if waiting := self._replies.pop(frame.file_reply.number, None):
                        waiting.put(frame.file_reply)
                elif kind == "cancel":
                    if frame.cancel.run == self._at:
                        self._stop(self._running, main)
                elif kind == "drain":
                    self._runs.append(None)
                    self._more.release()
                elif kind == "fatal":
                    print(f"oncue-host: {frame.fatal.sentence}", file=sys.__stderr__)
            if running and running == self._running and time.monotonic() >= self._deadline:
                self._stop(running, main)
                time.sleep(0.01)

    def _wait(self, running: int) -> float | None:
        """Time until there is something to see to besides frames."""
        if running:
            left = max(0.0, self._deadline - time.monotonic())
            # What is done meanwhile, by this run or the next, may have to be sent.
            return min(left, _LOOK) if self.answers.is_held() or self._given > self._done + 1 else left
        return _LOOK if self._given > self._done else None

    def _stop(self, running: int, main: int) -> None:
        if running:
            self._interrupted = running
            signal.pthread_kill(main, _INTERRUPT)

    def _interrupt(self, _signal: int, _frame: Any) -> None:
        if self.connection.holds_interrupts:
            self.connection.has_held = True
            return
        # One that has ended meanwhile is not interrupted, nor is its successor.
        if self._running and self._running == self._interrupted:
            raise _TooLong

    def _ask(self, run: int, act: dict[str, Any]) -> Any:
        frame = self.connection.file_request(run, act)
        reply: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._replies[frame.file_request.number] = reply
        self.connection.send(frame)
        return reply.get()

    def _run(self, run: Any, result: Any) -> None:
        work = Work(self.function, run, result, functools.partial(self._ask, run.number), self.answers.largest)
        self._at = run.number
        for place, event in enumerate(work.events()):
            self.begun += 1
            started = time.monotonic()
            self._deadline = started + event.timeout_ms / 1000
            _current.set((run.number, place))
            context = work.context(event)
            try:
                try:
                    message = work.decode(event)
                    self._running = self.begun
                    with joined(event):
                        result = self.function.call(message, work.row, context)
                    done = self.function.done(result, context)
                finally:
                    self._running = 0
                work.succeeded(done, started)
            except _TooLong as e:
                work.failed(_timeout(event, e), started)
            except Exception as e:
                work.failed(e, started)
            _Lines.end_all()
            if context.file_requests.open_numbers:
                self.connection.close_files(run.number, context.file_requests.open_numbers)
        _current.set((0, 0))


class _AsyncServer:
    """Runs async handlers, a task for each run."""

    def __init__(self, function: Function, connection: Connection, answers: _Answers) -> None:
        self.function, self.connection, self.answers = function, connection, answers
        self.begun = 0
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._loop: asyncio.AbstractEventLoop
        # Runs that have come, and those that are worked off.
        self._given = self._done = 0
        # Who waits for a reply, by the number of the request.
        self._replies: dict[int, asyncio.Future[Any]] = {}

    def serve(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._drain = asyncio.Event()
        threading.Thread(target=self._read, name="oncue", daemon=True).start()
        await self._drain.wait()
        while self._tasks:
            await asyncio.wait(self._tasks.values())
        self.answers.flush()
        drained = _wire.Frame()
        drained.drained.SetInParent()
        self.connection.send(drained)

    def _read(self) -> None:
        while True:
            # A handler that computes holds up the loop, and with it what others have answered.
            frames = self.connection.frames(_LOOK if self._given > self._done else None)
            self.answers.flush(_HELD)
            for frame in frames:
                kind = frame.WhichOneof("frame")
                if kind == "invoke":
                    self._given += len(frame.invoke.runs)
                    self._loop.call_soon_threadsafe(self._begin, list(frame.invoke.runs))
                elif kind == "ping":
                    _pong(self.connection, frame.ping.number, self.begun)
                elif kind == "file_reply":
                    self._loop.call_soon_threadsafe(self._replied, frame.file_reply)
                elif kind == "cancel":
                    self._loop.call_soon_threadsafe(self._cancel, frame.cancel.run)
                elif kind == "drain":
                    self._loop.call_soon_threadsafe(self._drain.set)

    def _begin(self, runs: list[Any]) -> None:
        for run in runs:
            self._tasks[run.number] = self._loop.create_task(self._run(run))

    def _cancel(self, number: int) -> None:
        if task := self._tasks.get(number):
            task.cancel()

    async def _ask(self, run: int, act: dict[str, Any]) -> Any:
        frame = self.connection.file_request(run, act)
        reply = self._loop.create_future()
        self._replies[frame.file_request.number] = reply
        self.connection.send(frame)
        return await reply

    def _replied(self, reply: Any) -> None:
        waiting = self._replies.pop(reply.number, None)
        # Nobody waits any more where the time of the handler was over, or for what was closed.
        if waiting and not waiting.done():
            waiting.set_result(reply)

    async def _run(self, run: Any) -> None:
        work = Work(self.function, run, _wire.RunResult(), functools.partial(self._ask, run.number), self.answers.largest)
        for place, event in enumerate(work.events()):
            self.begun += 1
            started = time.monotonic()
            _current.set((run.number, place))
            context = work.context(event)
            try:
                result = await in_time(work, event, context)
                work.succeeded(self.function.done(result, context), started)
            except asyncio.CancelledError as e:
                work.failed(_timeout(event, e), started)
            except Exception as e:
                work.failed(e, started)
            _Lines.end_all()
            if context.file_requests.open_numbers:
                self.connection.close_files(run.number, context.file_requests.open_numbers)
        del self._tasks[run.number]
        if not self.answers.is_held():
            # Whatever else is done in this turn goes with it.
            self._loop.call_soon(self.answers.flush)
        self.answers.add(work.result)
        self._done += 1


class _Timeout(Exception):
    """An event whose handler has run for too long, with the place where it was."""


def _timeout(event: Any, at: BaseException) -> _Timeout:
    made = _Timeout(f"still running after {event.timeout_ms} ms")
    return made.with_traceback(at.__traceback__)


_ALONE = contextlib.nullcontext()


def joined(event: Any) -> contextlib.AbstractContextManager[None]:
    """Makes the event's span the current one of OpenTelemetry, where the app has imported that: spans of its own are within it then,
    and what it calls gets its trace."""
    if "opentelemetry.trace" not in sys.modules or not event.traceparent:
        return _ALONE
    return _Joined(event)


class _Joined(contextlib.AbstractContextManager[None]):
    def __init__(self, event: Any) -> None:
        self._event = event

    def __enter__(self) -> None:
        context, propagate = importlib.import_module("opentelemetry.context"), importlib.import_module("opentelemetry.propagate")
        event = self._event
        carrier = {"traceparent": event.traceparent, "tracestate": event.tracestate, "baggage": event.baggage}
        self._detach = functools.partial(context.detach, context.attach(propagate.extract(carrier)))

    def __exit__(self, *_: object) -> None:
        self._detach()


async def in_time(work: Work, event: Any, context: Context) -> Any:
    """Result of an async handler, whose time is limited."""
    message = work.decode(event)
    limit = asyncio.timeout(event.timeout_ms / 1000)
    try:
        with joined(event):
            async with limit:
                return await work.function.call(message, work.row, context)
    except TimeoutError as e:
        if limit.expired():
            # Where the handler was says what it was cancelled by.
            raise _timeout(event, e.__cause__ or e) from None
        raise


class _Undecodable(Exception):
    """An event whose payload is no message of its type."""


class Work:
    """A run that is being worked off: its row, and what came of its events."""

    def __init__(
        self,
        function: Function,
        run: Any,
        result: Any,
        ask: Callable[[dict[str, Any]], Any] | None = None,
        largest: int = sys.maxsize,
    ) -> None:
        self.function, self.run, self.result, self.ask = function, run, result, ask
        # Bytes that an event may answer.
        self._largest = largest
        result.number = run.number
        self.row: Any = None
        self._read: Fields = {field.name: field.value for field in run.fields}
        # The row as the last event that succeeded has left it: to go back to, and as it is stored.
        self._kept: Any = None
        self._fields: Fields | None = None
        if function.row is None:
            return
        try:
            self.row = function.row.open(self._read, run.row_version)
            if run.check:
                function.row.fields(self.row)
        except Exception as e:
            result.failure.text = _cut(_text(e) if isinstance(e, RowError) else f"{type(e).__name__}: {_text(e)}")
            setattr(result.failure, "class", "row")
            return
        if len(run.events) > 1:
            self._kept = function.row.snapshot(self.row)

    def events(self) -> Any:
        """Events that are to be run; none where the row cannot be read, or where only that was asked."""
        if self.result.HasField("failure"):
            return
        if not self.run.check:
            yield from self.run.events
        else:
            for event in self.run.events:
                outcome = self.result.events.add()
                outcome.done.SetInParent()
                try:
                    self.decode(event)
                except Exception as e:
                    _describe(outcome.reject, e)
        self._finish()

    def context(self, event: Any) -> Context:
        return Context(event, self.run.key, self.function, self.run.dry_run, self.ask)

    def decode(self, event: Any) -> Any:
        try:
            return self.function.decode(event)
        except Exception as e:
            raise _Undecodable(f"{event.type} is not readable as protobuf: {e}") from None

    def succeeded(self, done: Any, started: float) -> None:
        row = self.function.row
        try:
            # What cannot be stored or sent is found out here, so that only this event fails by it.
            self._check_size("the events that follow have", done.ByteSize())
            if row is not None:
                fields = row.fields(self.row)
                self._check_size("the row has", sum(len(name) + len(value) + 16 for name, value in fields.items()))
                self._fields = fields
        except (Reject, RowError) as e:
            return self.failed(e, started)
        if row is not None:
            if len(self.run.events) > 1:
                self._kept = row.snapshot(self.row)
        outcome = self.result.events.add(micros=int((time.monotonic() - started) * 1e6))
        outcome.done.CopyFrom(done)

    def _check_size(self, what: str, size: int) -> None:
        if size > self._largest:
            raise reject(f"{what} {size} bytes, and an answer to the host at most {self._largest}; what is large goes into a file")

    def failed(self, error: BaseException, started: float) -> None:
        outcome = self.result.events.add(micros=int((time.monotonic() - started) * 1e6))
        rejected = isinstance(error, (Reject, _Undecodable))
        _describe(outcome.reject if rejected else outcome.retry, error)
        if self._kept is not None and self.function.row is not None:
            self.row = self.function.row.snapshot(self._kept)

    def _finish(self) -> None:
        row = self.function.row
        if row is None or self._fields is None:
            return
        fields, gone = row.changes(self._fields, self._read, self.run.row_version)
        for name, value in fields.items():
            self.result.set.add(name=name, value=value)
        self.result.deleted.extend(gone)


def _describe(failure: Any, error: BaseException) -> None:
    names: dict[type, str] = {Reject: "rejected", _Timeout: "timeout", _Undecodable: "decode", MemoryError: "memory"}
    text = _text(error)
    kind = names.get(type(error), type(error).__name__)
    setattr(failure, "class", kind)
    if type(error) not in names or not text:
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    failure.text = _cut(text)
    failure.place = _place(error.__traceback__)


def _cut(text: str, most: int = _MAX_TEXT) -> str:
    return text if len(text) <= most else f"{text[:most]}..."


def _text(error: BaseException) -> str:
    """Text of an exception, whatever its author has made of it."""
    try:
        return str(error).encode(errors="replace").decode()
    except Exception as e:
        return f"(its text cannot be had: {type(e).__name__})"


_HERE = os.path.dirname(os.path.abspath(__file__))


def _place(trace: TracebackType | None) -> str:
    """`file:line` of the last frame in the app's own files, as seen from its folder."""
    roots = [os.path.abspath(folder).rstrip(os.sep) for folder in (_contract.folder, os.getcwd()) if folder]
    found = ""
    for frame, line in traceback.walk_tb(trace):
        path = os.path.abspath(frame.f_code.co_filename)
        root = next((root for root in roots if path.startswith(root + os.sep)), None)
        if root is not None and not path.startswith(_HERE) and "site-packages" not in path:
            found = f"{os.path.relpath(path, root)}:{line}"
    return found


def _pong(connection: Connection, number: int, begun: int) -> None:
    pong = _wire.Frame()
    pong.pong.number, pong.pong.begun = number, begun
    connection.send(pong)


def _log(connection: Connection, severity: int, text: str, logger: str = "") -> None:
    frame = _wire.Frame()
    frame.log.severity, frame.log.text, frame.log.logger = severity, _cut(text, _MAX_LINE), logger
    frame.log.run, frame.log.event = _current.get()
    connection.send(frame)


def _speak_through(connection: Connection) -> None:
    """What is printed and logged becomes log records with trace and flow. What reaches the descriptors past Python, of a
    subprocess or an extension in C, the host reads as lines."""
    sys.stdout = _Lines(connection, _wire.INFO)
    sys.stderr = _Lines(connection, _wire.WARN)
    root = logging.getLogger()
    root.addHandler(_Records(connection))
    if root.level == logging.WARNING:
        root.setLevel(logging.INFO)


# A bar that shows progress begins its line anew.
_LINE_END = re.compile(r"\r\n|\r|\n")


class _Lines(io.TextIOBase):
    """Printed text, line by line; what an event leaves without an end is a line at its end."""

    _all: ClassVar[list[_Lines]] = []

    def __init__(self, connection: Connection, severity: int) -> None:
        self._connection, self._severity = connection, severity
        # Begun lines, by the events that have begun them.
        self._begun: dict[tuple[int, int], str] = {}
        _Lines._all.append(self)

    @staticmethod
    def end_all() -> None:
        """Ends the lines that the event at work has begun."""
        for lines in _Lines._all:
            line = lines._begun.pop(_current.get(), "")
            if line:
                _log(lines._connection, lines._severity, line)

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        first, *others = _LINE_END.split(text)
        line = self._begun.pop(_current.get(), "")
        if first and len(line) + len(first) > _MAX_LINE:
            if line:
                _log(self._connection, self._severity, line)
            line = ""
        # Only what is new is looked through, and added in place.
        line += first
        for other in others:
            _log(self._connection, self._severity, line)
            line = other
        if line:
            # One that is longer is cut where it is logged.
            self._begun[_current.get()] = line[: _MAX_LINE + 1]
        return len(text)

    def flush(self) -> None:
        pass


class _Records(logging.Handler):
    """Records of `logging`."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection

    def emit(self, record: logging.LogRecord) -> None:
        levels = [(logging.ERROR, _wire.ERROR), (logging.WARNING, _wire.WARN), (logging.INFO, _wire.INFO)]
        severity = next((ours for level, ours in levels if record.levelno >= level), _wire.DEBUG)
        try:
            _log(self._connection, severity, self.format(record), record.name)
        except Exception:
            self.handleError(record)
