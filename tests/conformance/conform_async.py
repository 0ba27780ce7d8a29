"""The conformance functions in Python, as async handlers."""

import asyncio

from answers import Aged, Case, Owned, answer, write
from oncue import Context, Delayed, function
from oncue.events import Answered, Asked


@function("conform", changes=["sums", "members"])
async def conform(asked: Asked, case: Case, context: Context) -> list[Answered | Delayed[Answered]]:
    if asked.what == "stall":
        write(asked, case)
    await asyncio.sleep(60 if asked.what in ("slow", "stall") else 0)
    return answer(asked, case, context)


@function("owned", key="owner")
async def owned(asked: Asked, case: Owned) -> None:
    case.count += bool(asked.owner)


@function("aged")
async def aged(asked: Asked, case: Aged) -> None:
    case.views += 1
