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
from google.protobuf.message import Message

# Extension of google.protobuf.MessageOptions that makes a message an event: (oncue.v1.event).
_OPTION = 50401


class ContractError(Exception):
    """The event types of the app are not known, or lack what was asked for."""


class Contract:
    """Messages of a descriptor set, by full name and by simple name."""

    def __init__(self, descriptor_set: bytes) -> None:
        self.bytes = descriptor_set
        self._pool = descriptor_pool.DescriptorPool()
        self._names: dict[str, list[str]] = {}
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
            full = f"{file.package}.{message.name}" if file.package else message.name
            self._names.setdefault(message.name, []).append(full)

    def message(self, name: str) -> type[Message]:
        """Class of a message by its full name, `shop.OrderPlaced`, or by `OrderPlaced` where only one is called so."""
        known = self._names.get(name, [name] if "." in name else [])
        if len(known) > 1:
            raise ContractError(f"{name} is one of {', '.join(known)}; write oncue.events.message({known[0]!r})")
        try:
            descriptor = self._pool.FindMessageTypeByName(known[0])
        except (KeyError, IndexError):
            everything = ", ".join(sorted(self._names))
            raise ContractError(f"the contract has no message {name}; it has {everything}") from None
        return message_factory.GetMessageClass(descriptor)


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
