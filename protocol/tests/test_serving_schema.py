"""Schemas: flat for every client, and saying the same as pydantic, which checks the values in the end."""

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any, Literal

import jsonschema
import pytest
from pydantic import BaseModel, Field, StringConstraints, create_model
from pydantic.fields import FieldInfo

from tests.fakes.toy_tools import build_server
from vllm_mcp_protocol.serving.results import ToolResult
from vllm_mcp_protocol.serving.schema import NotFlat, input_schema, output_schema
from vllm_mcp_protocol.serving.server import READ, SuiteServer
from vllm_mcp_protocol.settings import Settings


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Point(BaseModel):
    x: int = Field(description="Right", ge=0)
    label: str | None = None


class Shape(ToolResult):
    points: list[Point]
    centre: Point
    colour: Colour | None
    area: float | None
    tags: dict[str, int]
    kind: Literal["open", "closed"] = "open"


class Tree(ToolResult):
    children: list["Tree"]


class Clash(ToolResult):
    error: str


def _nodes(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
        for value in schema.values():
            yield from _nodes(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _nodes(value)


def _flattened(schema: Any, definitions: dict[str, Any]) -> Any:
    """What pydantic says, without titles, references and null: the oracle."""
    if isinstance(schema, list):
        return [_flattened(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        target = definitions[schema["$ref"].removeprefix("#/$defs/")]
        schema = {**target, **{key: value for key, value in schema.items() if key != "$ref"}}
    options = [option for option in schema.get("anyOf", []) if option != {"type": "null"}]
    if options:
        schema = {**options[0], **{key: value for key, value in schema.items() if key != "anyOf"}}
        return _flattened(schema, definitions)
    dropped = {"title", "$defs"} | ({"default"} if schema.get("default", 0) is None else set())
    if schema.get("additionalProperties") is True:
        dropped.add("additionalProperties")
    if schema.get("type") == "object" and "properties" in schema:
        dropped.add("description" if "x" in schema["properties"] else "")
    kept = {key: value for key, value in schema.items() if key not in dropped}
    if "const" in kept:
        kept["enum"] = [kept.pop("const")]
    return {
        key: {name: _flattened(part, definitions) for name, part in value.items()}
        if key == "properties"
        else _flattened(value, definitions)
        for key, value in kept.items()
    }


PARAMETERS: list[tuple[Any, Any]] = [
    (Annotated[int, Field(ge=1, le=64, description="Some")], ...),
    (Annotated[int | None, Field(ge=1, le=64, description="Some")], None),
    (Annotated[int, Field(ge=1)] | None, None),
    (Annotated[float, Field(gt=0, le=1)], 0.5),
    (Annotated[float | None, Field(ge=0, lt=2, multiple_of=0.5)], None),
    (Annotated[str, Field(min_length=1, max_length=9, pattern="^a+$")], ...),
    (Annotated[str | None, StringConstraints(max_length=3, pattern="^b")], None),
    (bool, False),
    (Literal["a", "b"], "a"),
    (Literal["a", "b"] | None, None),
    (Literal[1], 1),
    (Colour, Colour.RED),
    (list[Annotated[int, Field(ge=0)]], ...),
    (Annotated[list[str] | None, Field(max_length=5, min_length=1)], None),
    (tuple[int, ...], (1, 2)),
    (Annotated[dict[str, Any] | None, Field(description="Object")], None),
    (dict[str, int], ...),
    (list[Point], ...),
    (Point | None, None),
]


@pytest.mark.parametrize(("annotation", "default"), PARAMETERS)
def test_input_schemas_say_what_pydantic_checks(annotation: Any, default: Any) -> None:
    field = (
        FieldInfo.from_annotation(annotation)
        if default is ...
        else FieldInfo.from_annotated_attribute(annotation, default)
    )
    oracle: type[BaseModel] = create_model("Oracle", value=(annotation, default))
    theirs = oracle.model_json_schema()
    assert input_schema({"value": field}) == _flattened(theirs, theirs.get("$defs", {}))


def test_whole_numbers_have_inclusive_bounds() -> None:
    kind: Any = Annotated[int, Field(gt=0, lt=10)]
    field = FieldInfo.from_annotation(kind)
    assert input_schema({"value": field})["properties"]["value"] == {
        "type": "integer",
        "minimum": 1,
        "maximum": 9,
    }


async def two_kinds(value: Annotated[int | str, Field(description="x")]) -> Shape:
    """Cannot be flat."""
    raise AssertionError


async def pair(value: Annotated[tuple[int, str], Field(description="x")]) -> Shape:
    """Cannot be flat."""
    raise AssertionError


async def camel(modelId: Annotated[int, Field(description="x")]) -> Shape:
    """Is not snake_case."""
    raise AssertionError


async def aliased(value: Annotated[int, Field(description="x", alias="other")]) -> Shape:
    """Would be lost by the SDK."""
    raise AssertionError


async def recursive() -> Tree:
    """Cannot be inlined."""
    raise AssertionError


async def clash() -> Clash:
    """Its result cannot be told from a failure."""
    raise AssertionError


async def untyped(value) -> Shape:  # type: ignore[no-untyped-def]
    """Has no type."""
    raise AssertionError


async def silent(value: int) -> Shape:
    """Has no description."""
    raise AssertionError


async def undocumented() -> Shape:
    raise AssertionError


async def unstructured() -> str:
    """Is not a ToolResult."""
    raise AssertionError


def synchronous() -> Shape:
    """Cannot be cancelled."""
    raise AssertionError


BROKEN = [
    (two_kinds, NotFlat, "several types"),
    (pair, NotFlat, "one kind of item"),
    (camel, NotFlat, "snake_case"),
    (aliased, NotFlat, "alias"),
    (recursive, NotFlat, "contains itself"),
    (clash, NotFlat, "belongs to failures"),
    (untyped, TypeError, "annotated"),
    (silent, ValueError, "without a description: value"),
    (undocumented, ValueError, "docstring"),
    (unstructured, TypeError, "ToolResult"),
    (synchronous, TypeError, "async"),
]


@pytest.fixture
def server() -> SuiteServer:
    return build_server(Settings())


@pytest.mark.parametrize(("function", "error", "words"), BROKEN)
def test_registration_refuses_what_clients_would_not_understand(
    server: SuiteServer, function: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        server.tool("broken", title="Broken", annotations=READ)(function)


async def fine() -> Shape:
    """Fine."""
    raise AssertionError


@pytest.mark.parametrize("name", ["list_models", "List", "list-models", "x" * 36, "a--b", ""])
def test_names_are_kebab_case_short_and_unique(server: SuiteServer, name: str) -> None:
    with pytest.raises(ValueError, match=r"kebab-case|registered twice"):
        server.tool(name, title="Title", annotations=READ)(fine)


def test_every_schema_of_the_toy_is_flat(server: SuiteServer) -> None:
    forbidden = {"$ref", "$defs", "oneOf", "allOf"}
    for tool in server.registered_tools.values():
        assert not [node for node in _nodes(tool.input_schema) if "anyOf" in node]
        for schema in (tool.input_schema, tool.output_schema):
            assert not [node for node in _nodes(schema) if forbidden & set(node)]
            assert schema["type"] == "object"
            named = [node for node in _nodes(schema) if isinstance(node.get("title"), str)]
            assert not named, "generated titles cost bytes in every conversation"


def test_optional_parameters_look_like_required_ones(server: SuiteServer) -> None:
    properties = server.registered_tools["load-model"].input_schema["properties"]
    assert properties["tensor_parallel_size"] == {
        "type": "integer",
        "minimum": 1,
        "maximum": 64,
        "description": "GPUs that share each layer",
    }
    assert properties["dtype"] == {
        "type": "string",
        "enum": ["auto", "float16", "bfloat16"],
        "default": "auto",
        "description": "Type of the weights",
    }
    assert "ctx" not in properties
    assert "schema" in server.registered_tools["echo-values"].input_schema["properties"]


def test_results_are_written_out_in_place_and_may_be_null() -> None:
    properties = output_schema(Shape)["properties"]
    assert next(iter(properties)) == "success"
    assert properties["colour"] == {"anyOf": [{"type": "string", "enum": ["red", "blue"]}, {"type": "null"}]}
    assert properties["area"] == {"anyOf": [{"type": "number"}, {"type": "null"}]}
    assert properties["points"]["items"]["properties"]["label"]["anyOf"][1] == {"type": "null"}
    assert properties["points"]["items"]["required"] == ["x", "label"]
    assert properties["tags"] == {"type": "object", "additionalProperties": {"type": "integer"}}


def test_one_schema_describes_success_and_failure() -> None:
    schema = output_schema(Shape)
    shape = Shape(points=[], centre=Point(x=1), colour=None, area=None, tags={})
    jsonschema.validate(shape.model_dump(mode="json"), schema)
    jsonschema.validate({"success": False, "error": {"code": "X", "message": "y", "details": {}}}, schema)
