"""The conformance functions in Python, as async handlers."""

import asyncio

from answers import FILES, Aged, Case, Owned, answer, called, found, half, parts, told, write
from oncue import AsyncFiles, Context, Delayed, function, reject
from oncue.events import Answered, Asked


@function("conform", changes=["sums", "members"], files="write")
async def conform(asked: Asked, case: Case, context: Context) -> list[Answered | Delayed[Answered]]:
    if asked.what in FILES:
        return await of_files(asked, case, context.async_files)
    if asked.what == "stall":
        write(asked, case)
    await asyncio.sleep(60 if asked.what in ("slow", "stall") else 0)
    if asked.what == "told" and context.attempt == 1:
        try:
            await asyncio.sleep(60)
        finally:
            told.add(asked.key)
    return answer(asked, case, context)


async def of_files(asked: Asked, case: Case, files: AsyncFiles) -> list[Answered]:
    name, text = f"{asked.key}/file", asked.text.encode()
    if asked.what == "large":
        await files.read(name, 1000)
    if asked.what == "half":
        await files.put(f"{asked.key}/half", half())
    if asked.what == "keep":
        if case.count:
            await files.put(f"{asked.key}/kept", text)
        raise reject("told to reject")
    if asked.what == "stat":
        file = await files.stat(f"{asked.key}/half")
        return [Answered(key=asked.key, note="there" if file else "absent")]
    stored = await files.put(name, parts(text), {"of": "conform"})
    read = await files.read(name, len(text))
    content = await files.open(name)
    opened = b"".join([part async for part in content]) if content else b""
    await files.put(f"{name}-2", text)
    await files.delete(f"{name}-2")
    is_whole = read == opened == text and await files.stat(name) == stored
    return [found(asked, stored, is_whole, await files.stat(f"{name}-2") is None)]


@function("owned", key="owner")
async def owned(asked: Asked, case: Owned) -> None:
    case.count += bool(asked.owner)


@function("aged")
async def aged(asked: Asked, case: Aged) -> None:
    case.views += 1


@function("once", at_most_once=True)
async def once(asked: Asked) -> Answered | None:
    return called(asked)
