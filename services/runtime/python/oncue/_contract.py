"""Event types of the app: message classes made at run time from its `.proto` files, so that nothing has to be generated.

The host compiles the files and sends them with its first frame. Elsewhere, in a test or a notebook, they come from the file
that ONCUE_CONTRACT names, or from `oncue-host --contract`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import Message

# Extension of google.protobuf.MessageOptions that makes a message an event: (oncue.v1.event).
_OPTION = 50401


class ContractError(Exception):
    """The event types of the app are not known, or lack what was asked for."""


class Contract:
    """Messages and enums of a descriptor set, by full name and by simple name."""

    def __init__(self, descriptor_set: bytes) -> None:
        self.bytes = descriptor_set
        self._pool = descriptor_pool.DescriptorPool()
        # Full names by simple ones: those of the app's own files are meant before those of files that come along.
        self._own: dict[str, list[str]] = {}
        self._others: dict[str, list[str]] = {}
        self._enums: set[str] = set()
        files = {f.name: f for f in descriptor_pb2.FileDescriptorSet.FromString(descriptor_set).file}
        added: set[str] = set()
        for name in files:
            self._add(files, name, added)

    def _add(self, files: dict[str, Any], name: str, added: set[str]) -> None:
        if name in added or name not in files:
            return
        added.add(name)
        file = files[name]
        for imported in file.dependency:
            self._add(files, imported, added)
        self._pool.AddSerializedFile(file.SerializeToString())
        for message in file.message_type:
            self._name(file, message.name)
        for enum in file.enum_type:
            self._enums.add(self._name(file, enum.name))

    def _name(self, file: Any, name: str) -> str:
        full = f"{file.package}.{name}" if file.package else name
        names = self._own if _is_own(file) else self._others
        names.setdefault(name, []).append(full)
        return full

    def find(self, name: str) -> Any:
        """Message class or enum of that name, whichever it is."""
        return self.enum(name) if self._full_name(name) in self._enums else self.message(name)

    def message(self, name: str) -> type[Message]:
        """Class of a message by its full name, `shop.OrderPlaced`, or by `OrderPlaced` where only one is called so."""
        try:
            descriptor = self._pool.FindMessageTypeByName(self._full_name(name))
        except KeyError:
            raise self._unknown("message", name) from None
        return message_factory.GetMessageClass(descriptor)

    def enum(self, name: str) -> EnumTypeWrapper:
        """Enum by its full name, `shop.Color`, or by `Color` where only one is called so."""
        try:
            descriptor = self._pool.FindEnumTypeByName(self._full_name(name))
        except KeyError:
            raise self._unknown("enum", name) from None
        return EnumTypeWrapper(descriptor)

    def _full_name(self, name: str) -> str:
        known = self._own.get(name) or self._others.get(name) or [name]
        # One without a package has no other name.
        if name in known:
            return name
        if len(known) > 1:
            kind = "enum" if known[0] in self._enums else "message"
            raise ContractError(f"{name} is one of {', '.join(known)}; write oncue.events.{kind}({known[0]!r})")
        return known[0]

    def _unknown(self, kind: str, name: str) -> ContractError:
        own = ", ".join(sorted(self._own)) or "none"
        return ContractError(f"the contract has no {kind} {name}; it has {own}")


def _is_own(file: Any) -> bool:
    """Whether a file is the app's, and neither Google's nor the platform's, some of which are in every contract."""
    return not (f"{file.package}.".startswith("google.") or file.name.startswith("oncue/v1/"))


_contract: Contract | None = None
# Folder of the app, where that is not the one in which the process was started.
folder: str | None = None


def use(descriptor_set: bytes) -> None:
    """Makes this the contract of the process."""
    global _contract
    _contract = Contract(descriptor_set)


def current() -> Contract:
    """Contract of the process, looked for at first use."""
    if _contract is None:
        use(_find())
    assert _contract is not None
    return _contract


def _find() -> bytes:
    if path := os.environ.get("ONCUE_CONTRACT"):
        with open(path, "rb") as file:
            return file.read()
    made = subprocess.run([host(), "--contract"], capture_output=True, check=False, cwd=folder)
    if made.returncode != 0:
        raise ContractError(made.stderr.decode(errors="replace").strip())
    return made.stdout


def host() -> str:
    """Program of oncue-host, which knows the events and runs whole apps in tests."""
    programs = os.environ.get("ONCUE_BIN_DIR")
    beside = os.path.join(programs, "oncue-host") if programs else None
    named = os.environ.get("ONCUE_HOST", beside)
    found = named if named and os.path.exists(named) else shutil.which("oncue-host")
    if found is None:
        raise ContractError(
            "oncue-host, which knows the app's events, is not found: put it on PATH or name its folder in ONCUE_BIN_DIR; "
            "for the events alone a descriptor set in ONCUE_CONTRACT does as well"
        )
    # It is run in the folder of the app.
    return os.path.abspath(found)


def event_type(message: type[Message]) -> str | None:
    """Type of the event that a message is, `shop.order.placed`; none for a message that is no event."""
    option = _field(message.DESCRIPTOR.GetOptions().SerializeToString(), _OPTION)
    name = _field(option, 1) if option is not None else None
    return name.decode() if name else None


def descriptors(messages: list[type[Message]]) -> bytes:
    """Descriptor set of the files that these messages are from, and of all that those import."""
    files: dict[str, bytes] = {}

    def add(file: Any) -> None:
        if file.name not in files:
            for imported in file.dependencies:
                add(imported)
            files[file.name] = file.serialized_pb

    for message in messages:
        add(message.DESCRIPTOR.file)
    made = descriptor_pb2.FileDescriptorSet()
    for file in files.values():
        made.file.add().MergeFromString(file)
    return made.SerializeToString()


def _field(encoded: bytes, number: int) -> bytes | None:
    """Content of a length-delimited field, read by hand: the option may or may not be registered in this process."""
    at, found = 0, None
    while at < len(encoded):
        key, at = _varint(encoded, at)
        wire = key & 7
        if wire == 0:
            _, at = _varint(encoded, at)
        elif wire == 2:
            length, at = _varint(encoded, at)
            if key >> 3 == number:
                found = encoded[at : at + length]
            at += length
        else:
            at += 8 if wire == 1 else 4
    return found


def _varint(encoded: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = encoded[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
