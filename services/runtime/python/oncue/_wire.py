"""Messages of the function protocol, made from the descriptor set that lies beside this file."""

from __future__ import annotations

from importlib import resources
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "oncue.v1.function."

_pool = descriptor_pool.DescriptorPool()
_set = descriptor_pb2.FileDescriptorSet.FromString(
    resources.files("oncue").joinpath("function.binpb").read_bytes()
)
for _file in _set.file:
    _pool.AddSerializedFile(_file.SerializeToString())


def _message(name: str) -> Any:
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(PACKAGE + name))


Frame = _message("Frame")
Manifest = _message("Manifest")
RunResult = _message("RunResult")
Done = _message("Done")
Event = _message("Event")
FileRequest = _message("FileRequest")
FileReply = _message("FileReply")

# Log.Severity
INFO, DEBUG, WARN, ERROR = range(4)
