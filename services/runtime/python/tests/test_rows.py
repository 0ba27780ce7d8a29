"""Rows as they are stored: the form in which functions of every language write them."""

import enum
import unittest
from dataclasses import dataclass, field
from typing import Any

from oncue import row
from oncue._rows import RowError


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Line:
    article: str = ""
    count: int = 0


@row("everything")
class Everything:
    text: str = ""
    number: int = 0
    share: float = 0.0
    done: bool = False
    nothing: str | None = None
    colour: Colour = Colour.RED
    tags: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)
    raw: bytes = b""


def upgrade(version: int, fields: dict[str, str]) -> None:
    if version == 1 and "views" in fields:
        fields["visits"] = fields.pop("views")


@row("pages", version=2, upgrade=upgrade)
class Page:
    visits: int = 0


def kind(cls: Any) -> Any:
    return cls.__oncue_row__


class Rows(unittest.TestCase):
    def test_fields_are_stored_as_every_language_stores_them(self) -> None:
        value = Everything(
            text="Grüße \"2\"",
            number=2**63 + 1,
            share=1e16,
            done=True,
            colour=Colour.BLUE,
            tags=["b", "a"],
            counts={"z": 1, "a": 2},
            lines=[Line("x", 3)],
            raw=b"\x00\xff",
        )
        stored = kind(Everything).fields(value)
        self.assertEqual(
            stored,
            {
                "text": "Grüße \"2\"".encode(),
                "number": b"9223372036854775809",
                "share": b"1e16",
                "done": b"true",
                "colour": b"blue",
                "tags": b'["b","a"]',
                "counts": b'{"a":2,"z":1}',
                "lines": b'[{"article":"x","count":3}]',
                "raw": b"[0,255]",
            },
        )
        self.assertEqual(kind(Everything).open(stored, 1), value)

    def test_an_absent_field_has_its_default_and_a_strange_one_stays(self) -> None:
        read = {"number": b"3", "strange": b"x"}
        value = kind(Everything).open(read, 1)
        self.assertEqual((value.number, value.text, value.tags), (3, "", []))
        value.number = 4
        changed, gone = kind(Everything).changes(kind(Everything).fields(value), read, 1)
        self.assertEqual(changed["number"], b"4")
        self.assertEqual(gone, [])

    def test_none_takes_a_field_away(self) -> None:
        read = {"nothing": b"something"}
        value = kind(Everything).open(read, 1)
        value.nothing = None
        _, gone = kind(Everything).changes(kind(Everything).fields(value), read, 1)
        self.assertEqual(gone, ["nothing"])

    def test_what_cannot_be_read_or_written_names_its_field(self) -> None:
        for stored in [{"number": b"ten"}, {"number": b"1_0"}, {"done": b"yes"}, {"colour": b"green"}, {"tags": b"["}]:
            with self.assertRaisesRegex(RowError, f"field {next(iter(stored))}: "):
                kind(Everything).open(stored, 1)
        with self.assertRaisesRegex(RowError, "field number: 'x' is no whole number"):
            kind(Everything).fields(Everything(number="x"))  # type: ignore[arg-type]
        with self.assertRaisesRegex(RowError, "field share: "):
            kind(Everything).fields(Everything(share=float("nan")))

    def test_a_number_may_be_infinite(self) -> None:
        """As the least and the greatest are, of what has not come yet."""
        for value, text in [(float("inf"), b"Infinity"), (float("-inf"), b"-Infinity")]:
            self.assertEqual(kind(Everything).fields(Everything(share=value))["share"], text)
            self.assertEqual(kind(Everything).open({"share": text}, 1).share, value)

    def test_an_older_row_is_upgraded(self) -> None:
        read = {"views": b"7"}
        value = kind(Page).open(read, 1)
        self.assertEqual(value.visits, 7)
        self.assertEqual(kind(Page).changes(kind(Page).fields(value), read, 1), ({"visits": b"7"}, ["views"]))
        self.assertEqual(kind(Page).open({"visits": b"8", "views": b"1"}, 2).visits, 8)

    def test_a_snapshot_is_left_alone(self) -> None:
        value = Everything(tags=["a"])
        kept = kind(Everything).snapshot(value)
        value.tags.append("b")
        value.number = 1
        self.assertEqual(kept, Everything(tags=["a"]))

    def test_a_class_that_cannot_be_a_row_is_refused(self) -> None:
        with self.assertRaisesRegex(TypeError, "needs a default"):

            @row("a")
            class NoDefault:
                number: int

            kind(NoDefault).codecs()
        with self.assertRaisesRegex(TypeError, "cannot hold"):

            @row("a")
            class Odd:
                value: complex = 0j

            kind(Odd).codecs()
        with self.assertRaisesRegex(TypeError, "upgrade"):
            row("a", version=2)


if __name__ == "__main__":
    unittest.main()
