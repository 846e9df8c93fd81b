"""One registered tool: its schemas, its arguments, its run."""

import inspect
import re
from base64 import b64encode
from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, get_args, get_origin

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.resolve import (
    Resolve,
    build_resolver_plans,
    find_resolved_parameters,
    resolve_arguments,
)
from mcp_types import CallToolResult, ImageContent, InputRequiredResult, TextContent, ToolAnnotations
from mcp_types import Tool as ListedTool
from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.fields import FieldInfo

from vllm_mcp_protocol.serving.arguments import prepared, validated
from vllm_mcp_protocol.serving.results import OUTPUT_LIMIT_BYTES, ToolResult, compact_json, success_payload
from vllm_mcp_protocol.serving.schema import Schema, input_schema, output_schema

READ = ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False)
WRITE = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False)
DESTROY = ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False)


def open_world(hints: ToolAnnotations) -> ToolAnnotations:
    """`hints` of a tool that reaches beyond this machine, as a download does."""
    return hints.model_copy(update={"open_world_hint": True})


_NAME = re.compile(r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$")
_NAME_LIMIT_CHARS = 35
"""Clients put `mcp__<server>__` in front, and some refuse more than 64 characters in all."""

_FIELD = "argument_"
"""Prefix of the argument model's fields, so that a parameter may be called `schema` or `copy`."""


class OutputTooLong(Exception):
    """A tool built more than OUTPUT_LIMIT_BYTES: it has to page or cut, which only it can do sensibly."""


class _Arguments(BaseModel):
    """Base of all argument models. NaN and infinities are never an argument that somebody meant."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)


@dataclass(frozen=True)
class SuiteTool:
    """A tool as registered. Validators are built at its first call, because start-up does not need them."""

    fn: Callable[..., Awaitable[ToolResult]]
    name: str
    title: str
    description: str
    annotations: ToolAnnotations
    result: type[ToolResult]
    input_schema: Schema
    output_schema: Schema
    context_parameter: str | None
    resolved: Mapping[str, tuple[Resolve, bool]]
    resolver_plans: Mapping[Hashable, Any]

    @property
    def read_only(self) -> bool:
        """True when the tool changes nothing."""
        return bool(self.annotations.read_only_hint)

    @cached_property
    def listed(self) -> ListedTool:
        """The tool as `tools/list` shows it."""
        return ListedTool(
            name=self.name,
            title=self.title,
            description=self.description,
            input_schema=self.input_schema,
            output_schema=self.output_schema,
            annotations=self.annotations,
        )

    @cached_property
    def arguments_model(self) -> type[BaseModel]:
        """Validator of the arguments."""
        fields: dict[str, Any] = {}
        for name, parameter in inspect.signature(self.fn, eval_str=True).parameters.items():
            if name in self.input_schema["properties"]:
                kind: Any = parameter.annotation
                default = ... if parameter.default is parameter.empty else parameter.default
                fields[_FIELD + name] = (Annotated[kind, Field(alias=name)], default)
        return create_model(f"Arguments of {self.name}", __base__=_Arguments, **fields)

    def bind(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Keyword arguments for the function. Raises UnknownArgument, BadInput."""
        values = prepared(self.name, self.input_schema, arguments)
        model = validated(self.arguments_model, self.input_schema, values)
        return {name: getattr(model, _FIELD + name) for name in self.input_schema["properties"]}

    async def run(self, arguments: Mapping[str, Any], context: Context[Any, Any]) -> ToolResult | InputRequiredResult:
        """Check the arguments, ask what has to be asked, call the function."""
        keywords = self.bind(arguments)
        if self.resolved:
            answers = await resolve_arguments(self.resolved, self.resolver_plans, keywords, context)
            if isinstance(answers, InputRequiredResult):
                return answers
            keywords |= answers
        if self.context_parameter is not None:
            keywords[self.context_parameter] = context
        return await self.fn(**keywords)


def call_result(payload: Mapping[str, Any], *, is_error: bool = False) -> CallToolResult:
    """One object, as structure and as text: clients show the model either the one or the other."""
    text = TextContent(type="text", text=compact_json(payload))
    return CallToolResult(content=[text], structured_content=dict(payload), is_error=is_error)


def success_result(tool: SuiteTool, result: ToolResult) -> CallToolResult:
    """The wire form of a result. Raises TypeError when the function broke its annotation."""
    if not isinstance(result, tool.result):
        raise TypeError(f"{tool.name} returned {type(result).__name__} instead of {tool.result.__name__}")
    answer = call_result(success_payload(result))
    answer.content += [_image(picture) for picture in result.pictures]
    return answer


def _image(picture: bytes) -> ImageContent:
    return ImageContent(type="image", data=b64encode(picture).decode(), mime_type="image/png")


def too_long(result: CallToolResult) -> str | None:
    """A sentence when the result's text exceeds the limit."""
    size_bytes = sum(len(block.text.encode()) for block in result.content if isinstance(block, TextContent))
    if size_bytes <= OUTPUT_LIMIT_BYTES:
        return None
    return f"the result has {size_bytes} bytes, more than {OUTPUT_LIMIT_BYTES}: page it or cut it in the tool"


def make_tool(
    fn: Callable[..., Any], *, name: str, title: str, description: str, annotations: ToolAnnotations
) -> SuiteTool:
    """A tool from an async function. Raises TypeError or ValueError for one that breaks the suite's rules."""
    _check(fn, name, title, description)
    signature = inspect.signature(fn, eval_str=True)
    result = signature.return_annotation
    if not (isinstance(result, type) and issubclass(result, ToolResult)):
        raise TypeError(f"{name}: the return annotation must be a ToolResult, not {result!r}")
    parameters = signature.parameters
    context = next((key for key, p in parameters.items() if _is_context(p.annotation)), None)
    asks = any(_is_resolved(parameter.annotation) for parameter in parameters.values())
    resolved = find_resolved_parameters(fn) if asks else {}
    fields = {key: _field(p) for key, p in parameters.items() if key != context and key not in resolved}
    return SuiteTool(
        fn=fn,
        name=name,
        title=title,
        description=description,
        annotations=annotations,
        result=result,
        input_schema=_described(name, input_schema(fields)),
        output_schema=output_schema(result),
        context_parameter=context,
        resolved=resolved,
        resolver_plans=build_resolver_plans(resolved, set(fields)),
    )


def _check(fn: Callable[..., Any], name: str, title: str, description: str) -> None:
    if not inspect.iscoroutinefunction(fn):
        raise TypeError(f"{name}: tools are async functions, because threads cannot be cancelled")
    if not _NAME.match(name) or len(name) > _NAME_LIMIT_CHARS:
        raise ValueError(f"{name!r}: tool names are kebab-case and at most {_NAME_LIMIT_CHARS} characters")
    if not title or not description:
        raise ValueError(f"{name}: a title and a docstring are required; models choose tools by them")


def _described(tool: str, schema: Schema) -> Schema:
    silent = [name for name, part in schema["properties"].items() if not part.get("description")]
    if silent:
        raise ValueError(f"{tool}: parameters without a description: {', '.join(silent)}")
    return schema


def _field(parameter: inspect.Parameter) -> FieldInfo:
    if parameter.annotation is parameter.empty or parameter.kind in (
        parameter.VAR_POSITIONAL,
        parameter.VAR_KEYWORD,
    ):
        raise TypeError(f"parameter {parameter}: every parameter is annotated and named")
    if parameter.default is parameter.empty:
        return FieldInfo.from_annotation(parameter.annotation)
    return FieldInfo.from_annotated_attribute(parameter.annotation, parameter.default)


def _is_context(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Context)


def _is_resolved(annotation: Any) -> bool:
    return get_origin(annotation) is Annotated and any(isinstance(item, Resolve) for item in get_args(annotation))
