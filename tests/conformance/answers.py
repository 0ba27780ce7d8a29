"""What the conformance functions in Python have in common."""

import dataclasses
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from oncue import Context, Delayed, File, reject, row
from oncue.events import Answered, Unnamed


@row("cases")
class Case:
    count: int = 0
    large: int = 0
    ratio: float = 0.0
    flag: bool = False
    last: str = ""
    note: str | None = None
    names: list[str] = dataclasses.field(default_factory=list)


def upgrade(version: int, fields: dict[str, str]) -> None:
    fields["views"] = fields.pop("hits", "0")


@row("aged", version=2, upgrade=upgrade)
class Aged:
    views: int = 0


@row("owned")
class Owned:
    count: int = 0


def answer(asked: Any, case: Case, context: Context) -> Any:
    """All but `slow`, which depends on the kind of handler."""
    match asked.what:
        case "echo":
            return Answered.FromString(asked.SerializeToString())
        case "many":
            return [Answered(key=asked.key, text=text) for text in "123"]
        case "later":
            return Delayed(Answered(key=asked.key, text=asked.text), timedelta(milliseconds=500))
        case "row" | "after" | "fail-once":
            if asked.what == "after" and not case.count:
                raise reject("told to reject")
            if asked.what == "fail-once" and context.attempt == 1:
                raise OSError("not yet")
            write(asked, case)
        case "operate":
            context.add("sums", "sum", asked.number)
            context.set_add("members", str(asked.number))
        case "undeclared":
            context.add("others", "sum", asked.number)
        case "reject":
            raise reject("told to reject")
        case "fail":
            raise OSError("told to fail")
        case "spoil":
            write(asked, case)
            raise OSError("told to fail")
        case "crash":
            os.abort()
        case "unnamed":
            return Unnamed(key=asked.key)
        case "told":
            return Answered(key=asked.key, note="told" if asked.key in told else "not told")
    return None


def called(asked: Any) -> Answered | None:
    """Of the function that runs at most once, which heeds its own words alone."""
    match asked.what:
        case "once":
            return Answered(key=asked.key, note="called")
        case "once-fail":
            raise OSError("told to fail")
        case "once-crash":
            os.abort()
    return None


# Words that are about files.
FILES = ("file", "large", "half", "stat", "keep")
# Keys of events whose run was told that its time is over.
told: set[str] = set()


def parts(text: bytes) -> list[bytes]:
    third = len(text) // 3
    return [text[:third], text[third : 2 * third], text[2 * third :]]


def half() -> Iterator[bytes]:
    yield bytes(300_000)
    raise OSError("told to fail")


def found(asked: Any, stored: File, is_whole: bool, is_gone: bool) -> Answered:
    note = f"{stored.size} bytes {stored.sha256} of {stored.metadata['of']}, "
    note += "read as stored, " if is_whole else "read otherwise, "
    return Answered(key=asked.key, note=note + ("the other gone" if is_gone else "the other there"))


def write(asked: Any, case: Case) -> None:
    case.count += 1
    case.large, case.ratio, case.flag, case.last = asked.number, asked.ratio, asked.flag, asked.text
    case.note = asked.note if asked.HasField("note") else None
    case.names = list(asked.names)
