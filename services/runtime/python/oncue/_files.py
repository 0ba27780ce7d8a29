"""Files of the app: those that clients uploaded, under their ids, and those that functions made.

Not part of the commit, unlike rows and events: a run that is repeated writes once more. So give files names that a second run
gives again, such as the id of the file that they were made of.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from oncue._errors import Reject

T = TypeVar("T")
# What a handler wants to know, one request after the other: a generator that yields acts and is sent replies.
Asking = Generator[dict[str, Any], Any, T]
# Content, or a part of it.
Part = bytes | bytearray | memoryview
# Bytes of one part that is written.
_PART = 128 << 10
# Uses in their order: each allows those before it.
USES = ("", "read", "write")


class FileError(OSError):
    """The object store could not do it now: the event is tried again."""


@dataclasses.dataclass(frozen=True)
class File:
    """Description of a stored file."""

    name: str
    size: int
    sha256: str
    metadata: Mapping[str, str]


class Requests:
    """Requests of every kind, as far as the function declares them; how they are sent is another's to know."""

    def __init__(self, function: str, declared: str) -> None:
        self._function, self._declared = function, declared
        # Numbers of the requests that opened what is still open.
        self.open_numbers: set[int] = set()

    def _must_declare(self, wanted: str) -> None:
        if USES.index(self._declared) < USES.index(wanted):
            raise Reject(
                f'{self._function} does not declare that it {wanted}s files: add files="{wanted}" to its @function'
            )

    def stat(self, name: str) -> Asking[File | None]:
        self._must_declare("read")
        return _file((yield {"stat": name}))

    def open(self, name: str) -> Asking[int | None]:
        """Number by which the content is asked for."""
        self._must_declare("read")
        reply = yield {"open": name}
        if _file(reply) is None:
            return None
        self.open_numbers.add(reply.number)
        return int(reply.number)

    def next(self, number: int) -> Asking[bytes | None]:
        reply = _checked((yield {"next": number}))
        if reply.WhichOneof("outcome") == "chunk":
            return bytes(reply.chunk)
        self.open_numbers.discard(number)
        return None

    def read(self, name: str, limit: int) -> Asking[bytes | None]:
        file = yield from self.stat(name)
        if file is None:
            return None
        if file.size > limit:
            raise Reject(f"file {name} has {file.size} bytes, more than the {limit} allowed")
        number = yield from self.open(name)
        if number is None:
            return None
        whole = bytearray()
        while (part := (yield from self.next(number))) is not None:
            whole += part
        return bytes(whole)

    def create(self, name: str, metadata: Mapping[str, str]) -> Asking[int]:
        self._must_declare("write")
        reply = _checked((yield {"create": {"name": name, "metadata": dict(metadata)}}))
        self.open_numbers.add(reply.number)
        return int(reply.number)

    def append(self, number: int, data: Part) -> Asking[None]:
        for at in range(0, len(data), _PART):
            reply = _checked((yield {"append": {"create": number, "chunk": bytes(data[at : at + _PART])}}))
            if reply.WhichOneof("outcome") == "file":
                raise FileError("the store took no more of the file")

    def finish(self, number: int) -> Asking[File]:
        self.open_numbers.discard(number)
        file = _file((yield {"finish": number}))
        assert file is not None
        return file

    def delete(self, name: str) -> Asking[None]:
        self._must_declare("write")
        _checked((yield {"delete": name}))


class Files:
    """Files for a plain handler."""

    def __init__(self, ask: Callable[[dict[str, Any]], Any], requests: Requests) -> None:
        self._ask, self._requests = ask, requests

    def _drive(self, asking: Asking[T]) -> T:
        reply = None
        while True:
            try:
                act = asking.send(reply)
            except StopIteration as done:
                value: T = done.value
                return value
            reply = self._ask(act)

    def stat(self, name: str) -> File | None:
        """Size, digest and metadata; None where there is no such file (any more)."""
        return self._drive(self._requests.stat(name))

    def read(self, name: str, limit: int) -> bytes | None:
        """The whole content; None where there is no such file. More than `limit` bytes are a rejection of the event."""
        return self._drive(self._requests.read(name, limit))

    def open(self, name: str) -> Iterator[bytes] | None:
        """The content part by part, whatever its size; ends in an error if it is not what was stored."""
        number = self._drive(self._requests.open(name))
        return None if number is None else self._parts(number)

    def _parts(self, number: int) -> Iterator[bytes]:
        while (part := self._drive(self._requests.next(number))) is not None:
            yield part

    def put(self, name: str, data: Part | Iterable[Part], metadata: Mapping[str, str] | None = None) -> File:
        """Stores a file, in place of one of this name. In a dry run only the description is made."""
        number = self._drive(self._requests.create(name, metadata or {}))
        for part in [data] if isinstance(data, (bytes, bytearray, memoryview)) else data:
            self._drive(self._requests.append(number, part))
        return self._drive(self._requests.finish(number))

    def delete(self, name: str) -> None:
        """Deletes a file; one that is not there is deleted already."""
        self._drive(self._requests.delete(name))


class AsyncFiles:
    """Files for an async handler."""

    def __init__(self, ask: Callable[[dict[str, Any]], Awaitable[Any]], requests: Requests) -> None:
        self._ask, self._requests = ask, requests

    async def _drive(self, asking: Asking[T]) -> T:
        reply = None
        while True:
            try:
                act = asking.send(reply)
            except StopIteration as done:
                value: T = done.value
                return value
            reply = await self._ask(act)

    async def stat(self, name: str) -> File | None:
        """Size, digest and metadata; None where there is no such file (any more)."""
        return await self._drive(self._requests.stat(name))

    async def read(self, name: str, limit: int) -> bytes | None:
        """The whole content; None where there is no such file. More than `limit` bytes are a rejection of the event."""
        return await self._drive(self._requests.read(name, limit))

    async def open(self, name: str) -> AsyncIterator[bytes] | None:
        """The content part by part, whatever its size; ends in an error if it is not what was stored."""
        number = await self._drive(self._requests.open(name))
        return None if number is None else self._parts(number)

    async def _parts(self, number: int) -> AsyncIterator[bytes]:
        while (part := await self._drive(self._requests.next(number))) is not None:
            yield part

    async def put(
        self, name: str, data: Part | Iterable[Part] | AsyncIterator[Part], metadata: Mapping[str, str] | None = None
    ) -> File:
        """Stores a file, in place of one of this name. In a dry run only the description is made."""
        number = await self._drive(self._requests.create(name, metadata or {}))
        if isinstance(data, AsyncIterator):
            async for part in data:
                await self._drive(self._requests.append(number, part))
        else:
            for part in [data] if isinstance(data, (bytes, bytearray, memoryview)) else data:
                await self._drive(self._requests.append(number, part))
        return await self._drive(self._requests.finish(number))

    async def delete(self, name: str) -> None:
        """Deletes a file; one that is not there is deleted already."""
        await self._drive(self._requests.delete(name))


def _checked(reply: Any) -> Any:
    if reply.WhichOneof("outcome") == "failure":
        failure = reply.failure
        raise Reject(failure.text) if getattr(failure, "class") == "rejected" else FileError(failure.text)
    return reply


def _file(reply: Any) -> File | None:
    if _checked(reply).WhichOneof("outcome") != "file":
        return None
    file = reply.file
    return File(file.name, file.size, file.sha256, dict(file.metadata))
