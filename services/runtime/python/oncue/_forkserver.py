"""Children that are forked from this process once it has imported the function's file: each costs a millisecond, shares its
memory, and runs the code that the first has described.

A fork copies one thread and every open descriptor. So where the file has left a thread running or a connection open, each
child imports it by itself.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from typing import Any

from oncue import _wire
from oncue._connection import Connection

FEATURE = "fork"
# PR_SET_PDEATHSIG of prctl(2): the signal that the end of its parent brings.
_PARENT_DEATH = 1


def descriptors() -> dict[str, str]:
    """Open descriptors, with what they are."""
    found = {}
    if sys.platform == "linux":
        for number in os.listdir("/proc/self/fd"):
            try:
                found[number] = os.readlink(f"/proc/self/fd/{number}")
            except OSError:
                # That of the list itself.
                continue
    return found


def obstacle(before: dict[str, str]) -> str:
    """Why children cannot be forked from this process; empty where they can. `before` is what was open before the file."""
    if sys.platform != "linux":
        return "the system cannot tie their lives to it"
    if signal.getsignal(signal.SIGCHLD) is not signal.SIG_DFL:
        return "it sees to the ends of processes by itself (SIGCHLD)"
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        return f"it runs {threads - 1} threads besides the main one"
    opened = [what for number, what in descriptors().items() if before.get(number) != what]
    if opened:
        return f"it holds open {', '.join(sorted(opened))}"
    try:
        import ctypes  # noqa: F401
    except ImportError as e:
        return f"{type(e).__name__}: {e}"
    return ""


def prepare() -> None:
    """Before the file is imported: in a child this comes before whatever the file has registered for one."""
    os.register_at_fork(after_in_child=_begin)


def welcomed(connection: Connection) -> tuple[Connection, Any]:
    """The connection to serve and its Welcome: this process's own or, in each that is forked from it meanwhile, that one's."""
    connection.takes_descriptors = True
    # What was printed meanwhile would be printed by each child once more.
    sys.stdout.flush()
    sys.stderr.flush()
    while True:
        frame = connection.next("welcome", "fork", "bury")
        kind = frame.WhichOneof("frame")
        if kind == "bury":
            answer = _wire.Frame()
            answer.buried.pid = frame.bury.pid
            # It has ended, so this does not take long.
            _, answer.buried.status = os.waitpid(frame.bury.pid, 0)
            connection.send(answer)
        elif kind == "fork":
            child = _fork(connection, frame.fork.number)
            if child is not None:
                connection = child
        else:
            connection.takes_descriptors = False
            return connection, frame.welcome


# Process that forks, while it does.
_parent = 0


def _begin() -> None:
    """First of all in a child: whatever else it does, it can be ended, and ends with its parent."""
    if not _parent:
        return
    import ctypes

    ctypes.CDLL(None).prctl(_PARENT_DEATH, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != _parent:
        os._exit(0)
    os.setpgid(0, 0)


def _fork(connection: Connection, number: int) -> Connection | None:
    """Forks, and returns the connection of the child in the child."""
    global _parent
    given, connection.descriptors = connection.descriptors, []
    # What is there already is never garbage, and is not touched by a collection, so it stays shared.
    gc.freeze()
    answer = _wire.Frame()
    answer.forked.number = number
    pid, _parent = -1, os.getpid()
    try:
        pid = os.fork()
    except OSError as e:
        answer.forked.error = str(e)
    _parent = 0
    if pid == 0:
        return _child(connection, given)
    if pid > 0:
        answer.forked.pid = pid
        try:
            # As the child does, so that it leads its group whoever is first.
            os.setpgid(pid, pid)
        except OSError:
            # It does already, or has ended.
            pass
    for descriptor in given:
        os.close(descriptor)
    connection.send(answer)
    return None


def _child(connection: Connection, given: list[int]) -> Connection:
    import socket

    connection.close()
    number, stdout, stderr = given
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    os.close(stdout)
    os.close(stderr)
    return Connection(socket.socket(fileno=number))
