"""Event types of an app: which message or enum a name means, made from its `.proto` files by `oncue-host --contract`."""

import subprocess
import tempfile
import unittest
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from unittest import mock

from google.protobuf import timestamp_pb2

from oncue import _contract, events

ODD = """
syntax = "proto3";
package odd;
import "google/protobuf/descriptor.proto";
import "google/protobuf/timestamp.proto";
import "google/protobuf/any.proto";
import "oncue/v1/event.proto";
enum Color { COLOR_UNSPECIFIED = 0; RED = 1; }
message Painted {
  option (oncue.v1.event) = { type: "odd.painted", key: "id" };
  enum Size { SIZE_UNSPECIFIED = 0; LARGE = 1; }
  string id = 1;
  Color color = 2;
  Size size = 3;
  google.protobuf.Timestamp at = 4;
  google.protobuf.Any any = 5;
}
message FileUploaded { string mine = 1; }
message FileOptions { string mine = 1; }
message Twice { }
enum Shape { SHAPE_UNSPECIFIED = 0; ROUND = 1; }
"""
OTHER = """
syntax = "proto3";
package other;
message Twice { }
enum Shape { SHAPE_UNSPECIFIED = 0; SQUARE = 1; }
"""
BARE = 'syntax = "proto3"; message Shape { string mine = 1; }'


def contract(**files: str) -> _contract.Contract:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "oncue.toml").write_text('[app]\nname = "odd"\n')
        Path(folder, "proto").mkdir()
        for name, text in files.items():
            Path(folder, "proto", f"{name}.proto").write_text(text)
        made = subprocess.run([_contract.host(), "--contract"], cwd=folder, capture_output=True, check=True)
    return _contract.Contract(made.stdout)


class Contracts(unittest.TestCase):
    odd: Any

    @classmethod
    def setUpClass(cls) -> None:
        cls.odd = contract(odd=ODD)

    def setUp(self) -> None:
        self.use(self.odd)

    def use(self, odd: _contract.Contract) -> None:
        patch = mock.patch.object(_contract, "_contract", odd)
        patch.start()
        self.addCleanup(patch.stop)

    def test_an_enum_is_imported_with_its_values(self) -> None:
        from oncue.events import Color, Painted

        self.assertEqual(Painted(color=Color.RED).color, Color.RED)
        self.assertNotEqual(Painted().color, Color.RED)
        self.assertEqual((Color.Name(1), Color.Value("RED")), ("RED", 1))
        self.assertEqual(Painted(size=Painted.Size.LARGE).size, Painted.Size.LARGE)
        self.assertEqual(events.enum("Color").RED, events.enum("odd.Color").RED)
        self.assertEqual(events.enum("odd.Painted.Size").LARGE, 1)

    def test_own_messages_are_meant_before_those_of_google_and_the_platform(self) -> None:
        from oncue.events import FileOptions, FileUploaded

        self.assertEqual(FileUploaded(mine="a").DESCRIPTOR.full_name, "odd.FileUploaded")
        self.assertEqual(FileOptions(mine="a").DESCRIPTOR.full_name, "odd.FileOptions")
        self.assertEqual(events.message("files.FileUploaded")(owner="ann").owner, "ann")
        self.assertEqual(events.message("google.protobuf.FileOptions").DESCRIPTOR.full_name, "google.protobuf.FileOptions")

    def test_those_of_the_platform_and_google_are_had_where_the_app_has_none(self) -> None:
        from oncue.events import Any as GoogleAny
        from oncue.events import Timestamp

        self.assertEqual(Timestamp.DESCRIPTOR.full_name, "google.protobuf.Timestamp")
        self.assertEqual(GoogleAny.DESCRIPTOR.full_name, "google.protobuf.Any")
        self.use(contract(other=OTHER))
        self.assertEqual(events.FileUploaded.DESCRIPTOR.full_name, "files.FileUploaded")

    def test_an_unknown_name_is_told_with_what_the_app_has(self) -> None:
        own = "it has Color, FileOptions, FileUploaded, Painted, Shape, Twice"
        with self.assertRaises(ImportError) as caught:
            from oncue.events import Colour  # noqa: F401
        self.assertEqual(str(caught.exception), f"the contract has no message Colour; {own}")
        for ask, name, kind in [(events.enum, "Painted", "enum"), (events.message, "odd.Color", "message")]:
            with self.assertRaises(_contract.ContractError) as refused:
                ask(name)
            self.assertEqual(str(refused.exception), f"the contract has no {kind} {name}; {own}")

    def test_a_name_in_two_packages_of_the_app_is_told_with_both(self) -> None:
        self.use(contract(odd=ODD, other=OTHER))
        for name, asked in [("Twice", "message('odd.Twice')"), ("Shape", "enum('odd.Shape')")]:
            with self.assertRaises(ImportError) as caught:
                getattr(events, name)
            self.assertEqual(str(caught.exception), f"{name} is one of odd.{name}, other.{name}; write oncue.events.{asked}")
        self.assertEqual(events.enum("other.Shape").SQUARE, 1)
        self.assertEqual(events.message("other.Twice").DESCRIPTOR.full_name, "other.Twice")

    def test_a_message_without_a_package_has_its_name_for_itself(self) -> None:
        self.use(contract(odd=ODD, other=OTHER, bare=BARE))
        self.assertEqual(events.Shape(mine="a").mine, "a")
        self.assertEqual(events.enum("odd.Shape").ROUND, 1)

    def test_a_timestamp_is_a_datetime_or_that_of_the_events(self) -> None:
        from oncue.events import Painted, Timestamp

        at = datetime(2026, 1, 2, tzinfo=timezone.utc)
        self.assertEqual(Painted(at=at), Painted(at=Timestamp(seconds=int(at.timestamp()))))
        self.assertEqual(Painted(at=at), Painted(at=at.replace(tzinfo=None)), "without a zone it is UTC")
        # Of another pool, so another class [deploy/FUNCTIONS.md].
        other = timestamp_pb2.Timestamp(seconds=int(at.timestamp()))
        with self.assertRaises(TypeError):
            Painted(at=other)
        self.assertEqual(Painted(at=other.ToDatetime()), Painted(at=at))


if __name__ == "__main__":
    unittest.main()
