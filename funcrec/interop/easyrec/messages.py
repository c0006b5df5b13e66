"""From the text of a pipeline config to messages: descriptors built at run time, errors that name the line."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from funcrec.core.errors import ConfigError, fail
from funcrec.interop.easyrec.schema import ENUMS, MODEL, PIPELINE
from funcrec.interop.easyrec.schema_features import FEATURE_ENUMS, FEATURES
from funcrec.interop.easyrec.schema_training import TRAINING

Message = Any
"""A protobuf message; its fields are attributes."""

_PACKAGE = "easyrec"
_FIELD = re.compile(r"(?:<(\w+)> )?(\w+) (\w+)([*!]?)(?:=(.*))?$", re.DOTALL)
_TABLES = {**PIPELINE, **MODEL, **FEATURES, **TRAINING}
_ENUMS = {**ENUMS, **FEATURE_ENUMS}
_MAPS = {"map": "uint64", "floats": "float"}


def _add_field(message: Any, number: int, text: str) -> None:
    """One field of the notation of ``schema.py``, appended to a DescriptorProto."""
    from google.protobuf.descriptor_pb2 import FieldDescriptorProto as F

    scalars = {
        "bool": F.TYPE_BOOL,
        "float": F.TYPE_FLOAT,
        "string": F.TYPE_STRING,
        "uint32": F.TYPE_UINT32,
        "uint64": F.TYPE_UINT64,
    }
    found = _FIELD.match(text)
    assert found, text
    oneof, name, kind, label, default = found.groups()
    field = message.field.add(name=name, number=number)
    field.label = {"*": F.LABEL_REPEATED, "!": F.LABEL_REQUIRED}.get(label, F.LABEL_OPTIONAL)
    if kind in scalars:
        field.type = scalars[kind]
    elif kind in _MAPS:  # a map is a repeated message of pairs
        entry = message.nested_type.add(name="".join(w.capitalize() for w in name.split("_")) + "Entry")
        entry.options.map_entry = True
        for i, (part, of) in enumerate((("key", "string"), ("value", _MAPS[kind])), start=1):
            entry.field.add(name=part, number=i, type=scalars[of], label=F.LABEL_OPTIONAL)
        field.type, field.label = F.TYPE_MESSAGE, F.LABEL_REPEATED
        field.type_name = f".{_PACKAGE}.{message.name}.{entry.name}"
    elif kind == "Struct":
        field.type, field.type_name = F.TYPE_MESSAGE, ".google.protobuf.Struct"
    else:
        field.type = F.TYPE_ENUM if kind in _ENUMS else F.TYPE_MESSAGE
        field.type_name = f".{_PACKAGE}.{kind}"
    if default is not None:
        field.default_value = default[1:-1] if default.startswith("'") else default
    if oneof:
        names = [o.name for o in message.oneof_decl]
        if oneof not in names:
            message.oneof_decl.add(name=oneof)
            names.append(oneof)
        field.oneof_index = names.index(oneof)


@cache
def _pipeline_class() -> Any:
    """The class of whole pipeline configs."""
    from google.protobuf import descriptor_pool, message_factory, struct_pb2
    from google.protobuf.descriptor_pb2 import FileDescriptorProto

    file = FileDescriptorProto(name="funcrec_easyrec.proto", package=_PACKAGE, syntax="proto2")
    file.dependency.append("google/protobuf/struct.proto")
    for name, values in _ENUMS.items():
        enum = file.enum_type.add(name=name)
        for number, value in enumerate(values.split()):
            enum.value.add(name=value, number=number)
    for name, text in _TABLES.items():
        message = file.message_type.add(name=name)
        for number, field in enumerate((f for f in text.split(", ") if f), start=1):
            _add_field(message, number, field)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(struct_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.EasyRecConfig"))


def read_pipeline(text: str) -> Message:
    """The message of a pipeline config in protobuf's text format.

    Raises:
        ConfigError: a field that the schema does not have, a value of the wrong type, a required field left out; with
            the message, the field and the line.
    """
    try:
        from google.protobuf import text_format
    except ImportError as e:
        fix = "pip install 'funcrec[interop]'"
        raise ConfigError(f"easyrec.parse needs the package protobuf: {e}; {fix}.") from e
    message = _pipeline_class()()
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as e:
        line = e.GetLine()
        where = f"pipeline config, line {line}" if line else "pipeline config"
        unknown = re.search(r'Message type "(?:\w+\.)*(\w+)" has no field named "(\w+)"', str(e))
        if unknown is None:
            reason = re.sub(r"^\d+:\d+ ?: ?", "", str(e)).rstrip(".")
            fail(ConfigError, f"{where}: {reason}", fix="see the text format of protocol buffers")
        kind, name = unknown.groups()
        known = sorted(f.name for f in _pipeline_class().DESCRIPTOR.file.message_types_by_name[kind].fields)
        fix = "this library reads the ranking part of TorchEasyRec's schema; correct the name, or remove the field"
        fail(ConfigError, f"{where}: message {kind} has no field {name!r}", expected=f"one of {known}", fix=fix)
    missing = message.FindInitializationErrors()
    if missing:
        fail(ConfigError, "pipeline config: required fields left out", got=missing, fix="set them")
    return message


def shortest(x: float) -> float:
    """The number that was written, ``0.1``, of a float32 field, which holds ``0.10000000149…``."""
    import numpy as np

    return float(str(np.float32(x)))


def set_fields(message: Message, path: str = "") -> list[tuple[str, str, Any]]:
    """(path, "Message.field", value) of every field that a config sets, at any depth."""
    out: list[tuple[str, str, Any]] = []
    for field, value in message.ListFields():
        at = f"{path}.{field.name}" if path else field.name
        name = f"{message.DESCRIPTOR.name}.{field.name}"
        out.append((at, name, value))
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        if field.message_type.file.package != _PACKAGE:
            continue
        parts = value if hasattr(value, "__len__") and not hasattr(value, "ListFields") else [value]
        for i, part in enumerate(parts):
            out += set_fields(part, at if part is value else f"{at}[{i}]")
    return out
