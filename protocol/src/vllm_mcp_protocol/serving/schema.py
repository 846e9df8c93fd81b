"""Flat JSON schemas from annotations. Pure.

Clients differ in what they understand of JSON Schema: Crush forwards only `properties` and `required`, and several
mishandle `anyOf` with null. So parameters have no `$ref`, no `$defs`, no `anyOf` and no generated titles (results use
`anyOf` for null alone), and what cannot be said that way is refused at registration. Written here rather than derived
from pydantic's schemas because building twelve validators before the first `tools/list` cost 90 ms of start. A test
compares both.
"""

import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from pathlib import PurePath
from typing import Annotated, Any, Literal, get_args, get_origin

from annotated_types import Ge, GroupedMetadata, Gt, Le, Lt, MaxLen, MinLen, MultipleOf
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

Schema = dict[str, Any]

_SCALARS: dict[type, str] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    SecretStr: "string",
}
_PARAMETER_NAME = re.compile(r"^[a-z][a-z0-9_]*$")


class NotFlat(TypeError):
    """An annotation that has no flat schema; the message names where."""


def input_schema(fields: Mapping[str, FieldInfo]) -> Schema:
    """The schema of a tool's parameters. Raises NotFlat."""
    for name, field in fields.items():
        if not _PARAMETER_NAME.match(name) or (field.alias or name) != name:
            raise NotFlat(f"{name}: parameters are snake_case and have no alias (the SDK loses others)")
    return _Walk(optional_as_null=False).object_of(fields, where="")


def output_schema(result: type[BaseModel]) -> Schema:
    """The schema of a tool's result, success or failure. Raises NotFlat.

    Clients built on the TypeScript SDK check error results against it too, so it must describe both:
    `success` is a plain boolean, and nothing else is required at the root.
    """
    schema = _Walk(optional_as_null=True).model(result, where="")
    properties = schema["properties"]
    if "error" in properties:
        raise NotFlat(f"{result.__name__}.error: the root key `error` belongs to failures; name it otherwise")
    properties["success"] = {"type": "boolean"}
    properties["error"] = {"type": "object", "description": "Only on failure: code, message, details"}
    return {"type": "object", "properties": properties, "required": ["success"]}


class _Walk:
    """One walk over annotations; `optional_as_null`: does `| None` show in the schema? (Only in results.)"""

    def __init__(self, *, optional_as_null: bool) -> None:
        self._optional_as_null = optional_as_null
        self._inside: list[type[BaseModel]] = []

    def object_of(self, fields: Mapping[str, FieldInfo], where: str) -> Schema:
        """An object with `fields` as its properties."""
        properties = {name: self._field(field, f"{where}.{name}".lstrip(".")) for name, field in fields.items()}
        required = [name for name, field in fields.items() if self._optional_as_null or field.is_required()]
        return {"type": "object", "properties": properties} | ({"required": required} if required else {})

    def model(self, model: type[BaseModel], where: str) -> Schema:
        """`model`, written out in place."""
        if model in self._inside:
            raise NotFlat(f"{where}: {model.__name__} contains itself, which cannot be written without $ref")
        self._inside.append(model)
        schema = self.object_of(model.model_fields, where)
        self._inside.pop()
        if self._optional_as_null:
            for name, computed in model.model_computed_fields.items():
                schema["properties"][name] = self._type(computed.return_type, [], f"{where}.{name}")
        return schema

    def _field(self, field: FieldInfo, where: str) -> Schema:
        schema = self._type(field.annotation, field.metadata, where)
        if field.description:
            schema["description"] = field.description
        if not self._optional_as_null and not field.is_required():
            default = field.get_default(call_default_factory=True, validated_data={})
            if default is not None:
                schema["default"] = _jsonable(default)
        return schema

    def _type(self, annotation: Any, metadata: Sequence[Any], where: str) -> Schema:
        annotation, metadata = _unwrapped(annotation, metadata)
        origin = get_origin(annotation)
        if origin in (typing.Union, types.UnionType):
            return self._union(annotation, metadata, where)
        schema = self._plain(annotation, origin, where)
        for name, value in _constraints(metadata, schema.get("type")):
            schema[name] = value
        return schema

    def _union(self, annotation: Any, metadata: Sequence[Any], where: str) -> Schema:
        members = [member for member in get_args(annotation) if member is not type(None)]
        if len(members) != 1:
            raise NotFlat(f"{where}: {annotation} has several types; give each its own parameter or field")
        schema = self._type(members[0], metadata, where)
        return _or_null(schema) if self._optional_as_null else schema

    def _plain(self, annotation: Any, origin: Any, where: str) -> Schema:
        if annotation is Any or annotation is object:
            return {}
        if origin is Literal:
            return _enum(get_args(annotation))
        if origin is not None and issubclass(origin, Sequence | set | frozenset):
            return {"type": "array", "items": self._type(_item(annotation, where), [], f"{where}[]")}
        if origin is not None and issubclass(origin, Mapping):
            return self._mapping(get_args(annotation)[1], where)
        if isinstance(annotation, type):
            return self._class(annotation, where)
        raise NotFlat(f"{where}: {annotation!r} has no flat schema")

    def _class(self, annotation: type, where: str) -> Schema:
        if issubclass(annotation, Enum):
            return _enum([member.value for member in annotation])
        if annotation in _SCALARS:
            return {"type": _SCALARS[annotation]}
        if issubclass(annotation, PurePath):
            return {"type": "string"}
        if issubclass(annotation, BaseModel):
            return self.model(annotation, where)
        if annotation is dict:
            return {"type": "object"}
        raise NotFlat(f"{where}: {annotation.__name__} has no flat schema")

    def _mapping(self, value: Any, where: str) -> Schema:
        values = self._type(value, [], f"{where}.*")
        return {"type": "object"} | ({"additionalProperties": values} if values else {})


def _unwrapped(annotation: Any, metadata: Sequence[Any]) -> tuple[Any, list[Any]]:
    """`annotation` without `Annotated` and type aliases, and all metadata from inside to outside."""
    found = list(metadata)
    while True:
        if get_origin(annotation) is Annotated:
            annotation, *inner = get_args(annotation)
            found = [*inner, *found]
        elif isinstance(annotation, typing.NewType):
            annotation = annotation.__supertype__
        elif hasattr(annotation, "__value__"):
            annotation = annotation.__value__
        else:
            return annotation, found


def _item(annotation: Any, where: str) -> Any:
    arguments = [argument for argument in get_args(annotation) if argument is not Ellipsis]
    if len(arguments) != 1:
        raise NotFlat(f"{where}: {annotation} is not a list of one kind of item")
    return arguments[0]


def _enum(values: Sequence[Any]) -> Schema:
    kinds = {_SCALARS.get(type(value), "string") for value in values}
    plain = [value.value if isinstance(value, Enum) else value for value in values]
    return ({"type": kinds.pop()} if len(kinds) == 1 else {}) | {"enum": plain}


def _or_null(schema: Schema) -> Schema:
    # Not `"type": ["string", "null"]`: the inspector's --strict reports that as less portable, and nothing here.
    return {"anyOf": [schema, {"type": "null"}]} if schema else {}


def _constraints(metadata: Sequence[Any], kind: Any) -> Iterator[tuple[str, Any]]:
    for item in metadata:
        match item:
            case FieldInfo():
                yield from _constraints(item.metadata, kind)
            case GroupedMetadata():
                yield from _constraints(list(item), kind)
            case _:
                yield from _constraint(item, kind)


def _constraint(item: Any, kind: Any) -> Iterator[tuple[str, Any]]:
    length = {"array": "Items", "object": "Properties"}.get(kind, "Length")
    match item:
        case Ge(ge=bound):
            yield "minimum", bound
        case Le(le=bound):
            yield "maximum", bound
        # Several clients (Gemini among them) do not know the exclusive forms; integers do not need them.
        case Gt(gt=int(bound)) if kind == "integer":
            yield "minimum", bound + 1
        case Lt(lt=int(bound)) if kind == "integer":
            yield "maximum", bound - 1
        case Gt(gt=bound):
            yield "exclusiveMinimum", bound
        case Lt(lt=bound):
            yield "exclusiveMaximum", bound
        case MultipleOf(multiple_of=step):
            yield "multipleOf", step
        case MinLen(min_length=count):
            yield f"min{length}", count
        case MaxLen(max_length=count):
            yield f"max{length}", count
        case _ if isinstance(getattr(item, "pattern", None), str):
            yield "pattern", item.pattern


def _jsonable(value: Any) -> Any:
    match value:
        case Enum():
            return value.value
        case BaseModel():
            return value.model_dump(mode="json")
        case list() | tuple() | set() | frozenset():
            return [_jsonable(item) for item in value]
        case PurePath():
            return str(value)
        case _:
            return value
