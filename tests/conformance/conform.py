"""The conformance functions in Python, as plain handlers."""

import time

from answers import FILES, Aged, Case, Owned, answer, called, found, half, parts, told, write
from oncue import Context, Delayed, Files, function, reject
from oncue.events import Answered, Asked


@function("conform", changes=["sums", "members"], files="write")
def conform(asked: Asked, case: Case, context: Context) -> list[Answered | Delayed[Answered]]:
    if asked.what in FILES:
        return of_files(asked, case, context.files)
    if asked.what == "stall":
        write(asked, case)
    if asked.what in ("slow", "stall"):
        time.sleep(60)
    if asked.what == "told" and context.attempt == 1:
        try:
            time.sleep(60)
        finally:
            told.add(asked.key)
    return answer(asked, case, context)


def of_files(asked: Asked, case: Case, files: Files) -> list[Answered]:
    name, text = f"{asked.key}/file", asked.text.encode()
    if asked.what == "large":
        files.read(name, 1000)
    if asked.what == "half":
        files.put(f"{asked.key}/half", half())
    if asked.what == "keep":
        if case.count:
            files.put(f"{asked.key}/kept", text)
        raise reject("told to reject")
    if asked.what == "stat":
        file = files.stat(f"{asked.key}/half")
        return [Answered(key=asked.key, note="there" if file else "absent")]
    stored = files.put(name, parts(text), {"of": "conform"})
    read = files.read(name, len(text))
    opened = b"".join(files.open(name) or [])
    files.put(f"{name}-2", text)
    files.delete(f"{name}-2")
    is_whole = read == opened == text and files.stat(name) == stored
    return [found(asked, stored, is_whole, files.stat(f"{name}-2") is None)]


@function("owned", key="owner")
def owned(asked: Asked, case: Owned) -> None:
    case.count += bool(asked.owner)


@function("aged")
def aged(asked: Asked, case: Aged) -> None:
    case.views += 1


@function("once", at_most_once=True)
def once(asked: Asked) -> Answered | None:
    return called(asked)
