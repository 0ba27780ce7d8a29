"""A function: a name, a handler, and everything its signature says."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import hashlib
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from oncue import _contract, _wire
from oncue._errors import Reject as Reject
from oncue._errors import reject
from oncue._files import USES, AsyncFiles, Files, Requests
from oncue._rows import RowType

_NAME = re.compile(r"[a-z0-9-]{1,64}\Z")
# Beyond it every worker rejects the event whose handler asks for it.
_LONGEST_DELAY = datetime.timedelta(days=3650)

E = TypeVar("E")
F = TypeVar("F", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True)
class Delayed(Generic[E]):
    """An event that is to happen later, ten years at most: kept by the bus until it is due. Counted from the run of the function."""

    event: E
    after: datetime.timedelta

    def __post_init__(self) -> None:
        if not datetime.timedelta(0) <= self.after <= _LONGEST_DELAY:
            raise ValueError(f"a delay of {self.after}: it is from none to {_LONGEST_DELAY.days} days")


class Context:
    """Identity and time of the event, and changes that need no row."""

    __slots__ = ("_event", "_key", "_function", "_ask", "file_requests", "operations", "is_dry_run")

    def __init__(
        self,
        event: Any,
        key: str,
        function: Function,
        is_dry_run: bool = False,
        ask: Callable[[dict[str, Any]], Any] | None = None,
    ) -> None:
        self._event, self._key, self._function = event, key, function
        # How files are asked for: returns the reply, or in an async function what becomes it.
        self._ask = ask or _no_files
        self.file_requests = Requests(function.name, function.files)
        # Changes without a row, in order.
        self.operations: list[dict[str, Any]] = []
        # Whether an operator only wants to see what would come of the event: calls to the outside are to be left out.
        self.is_dry_run = is_dry_run

    @property
    def id(self) -> str:
        """Id of the event: the same for every attempt and every copy."""
        return str(self._event.id)

    @property
    def type(self) -> str:
        """Type of the event, `shop.order.placed`."""
        return str(self._event.type)

    @property
    def source(self) -> str:
        """Source of the event: a function, the gateway, or a client's own."""
        return str(self._event.source)

    @property
    def key(self) -> str:
        """Key of the function's row."""
        return self._key

    @property
    def flow(self) -> str:
        """Id of the root event of the flow."""
        return str(self._event.flow)

    @property
    def cause(self) -> str:
        """Id of the event that caused this one; empty for a root."""
        return str(self._event.cause)

    @property
    def time(self) -> datetime.datetime:
        """When the event happened: the same for every attempt, unlike the clock."""
        begin = datetime.datetime.fromtimestamp(0, datetime.timezone.utc)
        return begin + datetime.timedelta(milliseconds=self._event.time_ms)

    @property
    def attempt(self) -> int:
        """1 for the first run; one that ended with its process counts as well."""
        return int(self._event.attempt)

    @property
    def traceparent(self) -> str:
        """Span of the event in this function [W3C Trace Context], for spans of one's own; empty where nobody traces."""
        return str(self._event.traceparent)

    def idempotency_key(self, step: str) -> str:
        """For calls to the outside, which can only be made at least once: the same however often this event is run."""
        sha = hashlib.sha256()
        for part in ("idempotency", self.id, self._function.name, step):
            encoded = part.encode()
            sha.update(len(encoded).to_bytes(8, "big"))
            sha.update(encoded)
        return base64.urlsafe_b64encode(sha.digest()[:16]).rstrip(b"=").decode()

    @property
    def files(self) -> Files:
        """The files of the app, for a plain handler: `context.files.read(name, limit=1 << 20)`."""
        function = self._function
        if function.is_async:
            raise TypeError(f"{function.name} is an async function: use context.async_files")
        return Files(self._ask, self.file_requests)

    @property
    def async_files(self) -> AsyncFiles:
        """The files of the app, for an async handler: `await context.async_files.read(name, limit=1 << 20)`."""
        function = self._function
        if not function.is_async:
            raise TypeError(f"{function.name} is a plain function: use context.files")
        return AsyncFiles(self._ask, self.file_requests)

    def add(self, table: str, field: str, by: int) -> None:
        """Adds to an integer field of the key's row in `table`; an absent field counts as 0."""
        self._change(table, add={"field": field, "by": by})

    def max(self, table: str, field: str, to: int) -> None:
        """Raises an integer field of the key's row in `table`, or leaves it where it is as high already."""
        self._change(table, max={"field": field, "by": to})

    def set_add(self, table: str, member: str) -> None:
        """Adds a member to the key's set in `table`."""
        self._change(table, set_add=member)

    def top_n(self, table: str, member: str, score: int, limit: int) -> None:
        """Gives a member a score in the key's ranking in `table`, which keeps the `limit` highest."""
        self._change(table, top_n={"member": member, "score": score, "limit": limit})

    def distinct(self, table: str, member: str) -> None:
        """Counts a member in the key's approximate count of distinct members in `table`."""
        self._change(table, distinct=member)

    def _change(self, table: str, **change: Any) -> None:
        function = self._function
        if not table or (function.row is not None and table == function.row.table):
            raise reject(f"{change} changes the row table {table!r} behind the handler's back; change the row itself")
        if table not in function.changes:
            raise reject(
                f'{function.name} does not declare that it changes the table "{table}": '
                f'add changes=["{table}"] to its @function'
            )
        self.operations.append({"table": table, **change})


def _no_files(_act: dict[str, Any]) -> Any:
    raise RuntimeError("this context has no files: give some to oncue.testing.call(..., files={...})")


def function(
    name: str,
    *,
    version: str = "0.0.0",
    key: str = "",
    timeout: float = 0,
    attempts: int = 0,
    concurrency: int = 0,
    changes: Iterable[str] = (),
    files: str = "",
    at_most_once: bool = False,
) -> Callable[[F], F]:
    """Makes a handler the function `name`, as oncue.toml calls it. The handler stays what it was: a test calls it.

    Arguments are told by their annotations: an event of the contract (or one of several), a row, a `Context`, each of them
    or not. The annotation of the result says which events may follow. `key` is the field of the event whose text is the key,
    where that is not the contract's; `timeout` is in seconds. `changes` names the tables that the handler changes without a
    row, by `context.add` and the like; an operation on another one is rejected.
    `files` is "read" or "write" for one that uses the app's files. `at_most_once`, for calls to the outside that must not be
    repeated: that a run begins is written down first, any failure is a dead letter at once, and an interrupted run one with
    the reason `outcome_unknown`; only for a function without a row.
    """

    def of(handler: F) -> F:
        limits = {"timeout_ms": int(timeout * 1000), "attempts": attempts, "concurrency": concurrency}
        limits["at_most_once"] = at_most_once
        made = Function(handler, name, version, key, limits, changes, files)
        setattr(handler, "__oncue__", made)
        Function.all.append(made)
        return handler

    return of


class Function:
    """A handler with what its signature says."""

    all: typing.ClassVar[list[Function]] = []

    def __init__(
        self,
        handler: Callable[..., Any],
        name: str,
        version: str,
        key: str,
        limits: dict[str, int],
        changes: Iterable[str] = (),
        files: str = "",
    ) -> None:
        if files not in USES:
            raise TypeError(f'{name}: files is "read" or "write", and not {files!r}')
        self.files = files
        if isinstance(changes, str):
            raise TypeError(f"{name}: changes is a list of tables, such as [{changes!r}]")
        self.changes = frozenset(changes)
        self.handler, self.name, self.version, self.key, self.limits = handler, name, version, key, limits
        self.is_async = inspect.iscoroutinefunction(handler)
        self.events: dict[str, type[Message]] = {}
        self.row: RowType | None = None
        self._order: list[str] = []
        hints = typing.get_type_hints(handler)
        for parameter in inspect.signature(handler).parameters:
            if parameter not in hints:
                raise TypeError(f"{name}: say by an annotation what {parameter} is: an event, a row, or a Context")
            self._order.append(self._argument(parameter, hints[parameter]))
        repeated = [what for what in ("event", "row", "context") if self._order.count(what) > 1]
        if repeated:
            raise TypeError(f"{name}: two arguments are its {repeated[0]}; it has one")
        # Types by the full names of their messages.
        self._check_key()
        self.emits: dict[str, str] = {}
        self._emitted: list[type[Message]] = []
        self._result(hints.get("return", type(None)))

    def _argument(self, parameter: str, hint: Any) -> str:
        if hint is Context:
            return "context"
        row = getattr(hint, "__oncue_row__", None)
        if isinstance(row, RowType):
            row.codecs()
            self.row = row
            return "row"
        is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
        for message in typing.get_args(hint) if is_union else [hint]:
            self.events[self._type(message, parameter)] = message
        return "event"

    def _check_key(self) -> None:
        if not _NAME.match(self.name):
            raise TypeError(f"{self.name!r} is no name of a function: 1 to 64 of a-z, 0-9 and '-'")
        for message in self.events.values() if self.key else ():
            fields = [field.name for field in message.DESCRIPTOR.fields if _is_text(field)]
            if self.key not in fields:
                known = ", ".join(fields) or "none"
                full = message.DESCRIPTOR.full_name
                raise TypeError(f"{self.name}: {full} has no field of text {self.key!r} that could be the key; it has {known}")

    def _type(self, message: Any, place: str) -> str:
        is_message = isinstance(message, type) and issubclass(message, Message)
        found = _contract.event_type(message) if is_message else None
        if found is None:
            raise TypeError(
                f"{self.name}: {place} is {message!r}, which is no event of the contract, no @row class and no Context"
            )
        return found

    def _result(self, hint: Any) -> None:
        """Event types that a result may hold, at every depth of unions, lists, tuples and delays."""
        if hint is None or hint is type(None):
            return
        if typing.get_origin(hint) is not None:
            for part in typing.get_args(hint):
                if part is not Ellipsis:
                    self._result(part)
            return
        self.emits[hint.DESCRIPTOR.full_name if hasattr(hint, "DESCRIPTOR") else ""] = self._type(hint, "its result")
        self._emitted.append(hint)

    def manifest(self) -> dict[str, Any]:
        """The function as data, for Hello."""
        return {
            "name": self.name,
            "version": self.version,
            "triggers": sorted(self.events),
            "emits": sorted(self.emits.values()),
            "key": self.key,
            "table": self.row.table if self.row else "",
            "row_version": self.row.version if self.row else 1,
            "changes": sorted(self.changes),
            "declares": True,
            "files": USES.index(self.files),
            "side_by_side": self.is_async,
            **self.limits,
        }

    def contract(self) -> bytes:
        """Descriptor set of all events in the signature."""
        return _contract.descriptors([*self.events.values(), *self._emitted])

    def decode(self, event: Any) -> Message | None:
        """The event's payload as its message; none for a function without an event."""
        message = self.events.get(event.type)
        return message.FromString(event.payload) if message is not None else None

    def call(self, event: Message | None, row: Any, context: Context) -> Any:
        """Calls the handler with the arguments it has."""
        values = {"event": event, "row": row, "context": context}
        return self.handler(*[values[what] for what in self._order])

    def done(self, result: Any, context: Context) -> Any:
        """Effects of a run, as they are sent."""
        done = _wire.Done()
        for event in _flat(result):
            delay = 0
            while isinstance(event, Delayed):
                delay += round(event.after.total_seconds() * 1000)
                event = event.event
            name = event.DESCRIPTOR.full_name if isinstance(event, Message) else ""
            if name not in self.emits:
                raise reject(
                    f"{self.name} returned {type(event).__name__}, which the annotation of its result does not name"
                )
            done.outputs.add(type=self.emits[name], payload=event.SerializeToString(), delay_ms=delay)
        for operation in context.operations:
            done.operations.add(**operation)
        return done


def _is_text(field: Any) -> bool:
    # Older releases of protobuf know no `is_repeated`, and newer ones warn of `label`.
    repeated = field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED
    return field.type == field.TYPE_STRING and not repeated


def _flat(result: Any) -> Iterable[Any]:
    if result is None:
        return
    if isinstance(result, Iterable) and not isinstance(result, (Message, Delayed)):
        for part in result:
            yield from _flat(part)
    elif isinstance(result, Delayed) and isinstance(result.event, (list, tuple)):
        for part in result.event:
            yield Delayed(part, result.after)
    else:
        yield result
