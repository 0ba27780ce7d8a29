"""The conformance functions in Python, as plain handlers."""

import time

from answers import Aged, Case, Owned, answer, write
from oncue import Context, Delayed, function
from oncue.events import Answered, Asked


@function("conform", changes=["sums", "members"])
def conform(asked: Asked, case: Case, context: Context) -> list[Answered | Delayed[Answered]]:
    if asked.what == "stall":
        write(asked, case)
    if asked.what in ("slow", "stall"):
        time.sleep(60)
    return answer(asked, case, context)


@function("owned", key="owner")
def owned(asked: Asked, case: Owned) -> None:
    case.count += bool(asked.owner)


@function("aged")
def aged(asked: Asked, case: Aged) -> None:
    case.views += 1
