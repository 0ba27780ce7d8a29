"""A function for tests that does what its event's `referrer` says."""

import ctypes
import logging
import os
import signal
import stat
import struct
import time
from datetime import timedelta

from oncue import Context, Delayed, function, reject, row
from oncue.events import PageMilestone, PageViewed


@row("tallies")
class Tally:
    count: int = 0
    last: str = ""


# What a function that leaks holds on to.
kept: list[bytearray] = []


def look_up(page: str) -> str:
    return {"/": "home"}[page]


@function("tally", attempts=3, changes=["hits"])
def tally(view: PageViewed, tally: Tally, context: Context) -> list[PageMilestone] | Delayed[PageMilestone] | None:
    # Counted first: whatever fails below must leave no trace of this.
    tally.count += 1
    tally.last = context.id
    context.add("hits", "total", 1)
    word, _, number = view.referrer.partition(":")
    if word == "leak" or kept:
        kept.append(bytearray(64 << 20))
    if word == "reject":
        raise reject("told to reject")
    if word == "fail":
        look_up(view.page)
    if word == "fail-once" and context.attempt == 1:
        raise RuntimeError("not yet")
    if word == "nap":
        time.sleep(0.002)
    if word == "doze":
        time.sleep(int(number) / 1000)
    if word == "bulky":
        tally.last = "x" * 400_000
    if word == "sleep":
        time.sleep(60)
    if word == "frozen":
        # One call into C that gives the interpreter to nobody.
        ctypes.PyDLL(None).sleep(60)
    if word == "abort":
        os.write(2, b"last words of an aborting child\n")
        os.kill(os.getpid(), signal.SIGABRT)
    if word == "tear":
        # A frame of a thousand bytes, of which ten come.
        for name in os.listdir("/proc/self/fd"):
            # That of the list itself is closed.
            if os.path.exists(f"/proc/self/fd/{name}") and stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                os.write(int(name), struct.pack("<I", 1000) + bytes(10))
                os._exit(3)
    if word == "hog":
        hog = bytearray(1 << 30)
        assert hog
    if word == "wrong-row":
        tally.last = 7  # type: ignore[assignment]
    if word == "say":
        print("printed by a function")
        logging.getLogger("tally").warning("logged by a function")
        os.write(1, b"written by a function\n")
        names = sorted(name for name in os.environ if "URL" in name or name.startswith("ONCUE"))
        print(f"environment holds {names}")
    if word == "later":
        return Delayed(PageMilestone(page=view.page, views=tally.count), timedelta(milliseconds=int(number)))
    if tally.count % 10 == 0:
        return [PageMilestone(page=view.page, views=tally.count)]
    return None
