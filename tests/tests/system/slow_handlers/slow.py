"""A function for tests whose handler waits, or has much to say, as its event's `referrer` tells."""

import asyncio
import os

from oncue import function
from oncue.events import PageViewed

# Who waits for others, and what tells them that all are there.
here = 0
all_here = asyncio.Event()


@function("slow", attempts=2, concurrency=50)
async def slow(view: PageViewed) -> list[PageViewed]:
    global here
    word, _, number = view.referrer.partition(":")
    if word == "meet":
        here += 1
        if here == int(number):
            all_here.set()
        await all_here.wait()
    while word == "deaf":
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            print("will not end")
    while word == "hold" and not os.path.exists("go"):
        await asyncio.sleep(0.01)
    if word == "shout":
        print("x" * 17_000_000)
        raise ValueError("y" * 17_000_000)
    if word == "much":
        return [PageViewed(page="/much", referrer="z" * 900_000)] * int(number)
    return []
