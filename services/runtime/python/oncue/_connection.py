"""Frames of the function protocol on the socket between this process and its host."""

from __future__ import annotations

import itertools
import os
import select
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

from oncue import _wire
from oncue._files import FileError

_HEAD = struct.Struct("<I")


class Connection:
    """Frames on the socket. One thread reads; several write, each frame whole."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        sock.set_inheritable(False)
        self._socket = sock
        self._buffer = bytearray()
        self._lock = threading.Lock()
        # Whether an interrupt of the main thread has to wait, whether one does, and what it does then.
        self.holds_interrupts = self.has_held = False
        self.when_held: Callable[[], None] = lambda: None
        # Whether descriptors may come with frames, and those that have.
        self.takes_descriptors = False
        self.descriptors: list[int] = []
        # Whether the host replies to requests for files; their numbers.
        self.has_files = False
        self._numbers = itertools.count(1)
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def next(self, *wanted: str) -> Any:
        """The next frame of these kinds, before there are any runs."""
        while True:
            for frame in self.frames(None):
                kind = frame.WhichOneof("frame")
                if kind == "fatal":
                    raise SystemExit(frame.fatal.sentence)
                if kind in wanted:
                    return frame

    def close(self) -> None:
        self._socket.close()

    def frames(self, wait: float | None) -> list[Any]:
        """Frames that have come, after at most `wait` seconds. Ends the process where the host is gone."""
        found = self._take()
        while not found:
            if wait is not None and not self._poll.poll(max(0, int(wait * 1000) + 1)):
                return []
            received = self._receive()
            if not received:
                os._exit(0)
            self._buffer += received
            found = self._take()
            if not found and wait is not None:
                return []
        return found

    def _receive(self) -> bytes:
        if not self.takes_descriptors:
            return self._socket.recv(1 << 18)
        received, descriptors, _, _ = socket.recv_fds(self._socket, 1 << 18, 3, socket.MSG_CMSG_CLOEXEC)
        self.descriptors += descriptors
        return received

    def _take(self) -> list[Any]:
        frames, at, buffer = [], 0, self._buffer
        while len(buffer) - at >= 4:
            (length,) = _HEAD.unpack_from(buffer, at)
            if len(buffer) - at - 4 < length:
                break
            frames.append(_wire.Frame.FromString(bytes(buffer[at + 4 : at + 4 + length])))
            at += 4 + length
            # What comes before any runs comes one by one.
            if frames[-1].WhichOneof("frame") in ("begin", "welcome", "fork", "bury"):
                break
        if at:
            del buffer[:at]
        return frames

    def file_request(self, run: int, act: dict[str, Any]) -> Any:
        """A request with a number of its own, to be sent once somebody waits for its reply."""
        if not self.has_files:
            raise FileError("this oncue-host knows nothing of files: bring both to one release")
        frame = _wire.Frame()
        frame.file_request.CopyFrom(_wire.FileRequest(number=next(self._numbers), run=run, **act))
        return frame

    def close_files(self, run: int, numbers: set[int]) -> None:
        """Closes what an event has left open. Nobody waits for the replies."""
        for number in numbers:
            self.send(self.file_request(run, {"close": number}))
        numbers.clear()

    def send(self, frame: Any) -> None:
        encoded = frame.SerializeToString()
        is_main = threading.current_thread() is threading.main_thread()
        try:
            with self._lock:
                # A handler whose time is over is interrupted behind the frame: half of one would be the end of the process.
                self.holds_interrupts = is_main
                self._socket.sendall(_HEAD.pack(len(encoded)) + encoded)
                self.holds_interrupts = False
        except OSError:
            os._exit(0)
        if is_main and self.has_held:
            self.has_held = False
            self.when_held()
