"""`src/bin/record.rs` in Python: records every milestone it applies, so that a lost or doubled one shows.

SIGUSR1 has it tear its next answer, SIGHUP has it hold on to more and more memory.
"""

import dataclasses
import os
import signal
import stat
import struct

from oncue import Context, function, reject, row
from oncue.events import PageMilestone


@row("records")
class Record:
    count: int = 0
    # Ids applied, in order.
    ids: list[str] = dataclasses.field(default_factory=list)
    # What the milestones said.
    views: list[int] = dataclasses.field(default_factory=list)


# Faults that are asked for, by the number of their signal.
asked: set[int] = set()
for number in (signal.SIGUSR1, signal.SIGHUP):
    signal.signal(number, lambda number, _frame: asked.add(number))
leaked: list[bytearray] = []


def tear() -> None:
    """Sends ten of a frame's thousand bytes, and ends."""
    for name in os.listdir("/proc/self/fd"):
        # That of the list itself is closed.
        if os.path.exists(f"/proc/self/fd/{name}") and stat.S_ISSOCK(os.fstat(int(name)).st_mode):
            os.write(int(name), struct.pack("<I", 1000) + bytes(10))
            os._exit(3)


@function("record", changes=["recorded"])
def record(milestone: PageMilestone, record: Record, context: Context) -> None:
    if signal.SIGUSR1 in asked:
        tear()
    if signal.SIGHUP in asked:
        leaked.append(bytearray(32 << 20))
    record.count += 1
    record.ids.append(context.id)
    record.views.append(milestone.views)
    context.add("recorded", "total", 1)
    if "refuse" in milestone.page:
        raise reject("a page to refuse")
    if "falter" in milestone.page and context.attempt == 1:
        raise OSError("the first run falters")
