"""A call's arguments: nothing unknown, nothing silently dropped, every refusal explained."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from vllm_mcp_protocol.errors import BadInput, UnknownArgument
from vllm_mcp_protocol.redaction import shown
from vllm_mcp_protocol.serving.naming import closest, did_you_mean
from vllm_mcp_protocol.serving.schema import Schema

_NUMBERS = ("integer", "number")
_KINDS = {
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "array": "a list",
    "object": "an object",
}


def prepared(tool: str, schema: Schema, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """`arguments` ready for validation: unset ones left out, lists and objects that came as JSON text parsed.

    Raises UnknownArgument, and BadInput where pydantic would be too lenient (true as a number).
    """
    properties: Mapping[str, Schema] = schema["properties"]
    required = schema.get("required", ())
    values: dict[str, Any] = {}
    for name, value in arguments.items():
        if name not in properties:
            raise _unknown(tool, name, tuple(properties))
        if value is None and name not in required:
            continue  # Many clients send null for every parameter that the model left out.
        values[name] = _from_text(value, properties[name])
        if isinstance(value, bool) and properties[name].get("type") in _NUMBERS:
            raise _refused([_problem(name, value, allowed(properties[name]))])
    return values


def validated(model: type[BaseModel], schema: Schema, values: Mapping[str, Any]) -> BaseModel:
    """`values` as an instance of `model`. Raises BadInput naming parameter, value and what is allowed."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = [_explained(item, schema) for item in error.errors(include_url=False)]
    raise _refused(problems)


def allowed(schema: Schema) -> str:
    """What a parameter may be, in words: `a whole number from 1 to 64`."""
    if "enum" in schema:
        return "one of " + ", ".join(json.dumps(value) for value in schema["enum"])
    kind = schema.get("type", "")
    text = _KINDS.get(kind, "any value") + _range(schema)
    if kind == "array" and schema.get("items"):
        return f"{text}, each {allowed(schema['items'])}"
    return text + (f" matching {schema['pattern']}" if "pattern" in schema else "")


def _range(schema: Schema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    parts = [f"from {low}"] if low is not None else []
    parts += [f"above {above}"] if above is not None else []
    parts += [f"to {high}" if low is not None else f"up to {high}"] if high is not None else []
    parts += [f"below {below}"] if below is not None else []
    for unit, noun in (("Length", "characters"), ("Items", "items"), ("Properties", "keys")):
        few, many = schema.get(f"min{unit}"), schema.get(f"max{unit}")
        if few and many:
            parts.append(f"of {few} to {many} {noun}")
        elif few or many is not None:
            parts.append(f"of at least {few} {noun}" if few else f"of at most {many} {noun}")
    return "".join(f" {part}" for part in parts)


def _unknown(tool: str, name: str, known: tuple[str, ...]) -> UnknownArgument:
    close = closest(name.replace("-", "_").lower(), known)
    takes = ", ".join(known) or "no arguments"
    return UnknownArgument(
        f"{tool} has no argument {name[:100]!r}.{did_you_mean(close)} It takes: {takes}.",
        suggestion=f"use {close}" if close else "leave it out",
        argument=name[:100],
        closest=close,
        allowed=list(known),
    )


def _from_text(value: Any, schema: Schema) -> Any:
    """A list or object that the client sent as JSON text (several models do), else `value`."""
    wanted: type | None = {"array": list, "object": dict}.get(schema.get("type", ""))
    if wanted is None or not isinstance(value, str):
        return value
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        return value
    return parsed if isinstance(parsed, wanted) else value


def _explained(error: Mapping[str, Any], schema: Schema) -> dict[str, Any]:
    """One pydantic error as a problem: where, what came, what is allowed there."""
    where, part = "", schema
    for step in error["loc"]:
        if isinstance(step, int):
            where, part = f"{where}[{step}]", part.get("items") or {}
        else:
            where, part = f"{where}.{step}".lstrip("."), part.get("properties", {}).get(step) or {}
    if error["type"] == "missing":
        return {"parameter": where, "value": None, "allowed": allowed(part), "missing": True}
    words = allowed(part) if part else error["msg"]
    if error["type"] in ("value_error", "assertion_error"):
        words = error["msg"].partition(", ")[2] or error["msg"]
    return _problem(where, error["input"], words)


def _problem(where: str, value: Any, words: str) -> dict[str, Any]:
    return {
        "parameter": where,
        "value": shown(where.partition("[")[0].partition(".")[0], value),
        "allowed": words,
    }


def _refused(problems: list[dict[str, Any]]) -> BadInput:
    sentences = [
        f"{p['parameter']} is required: {p['allowed']}."
        if p.get("missing")
        else f"{p['parameter']}={p['value']} cannot be used: it must be {p['allowed']}."
        for p in problems
    ]
    first = problems[0]
    details = {"problems": problems} if len(problems) > 1 else {}
    return BadInput(
        " ".join(sentences[:5]),
        suggestion=f"call again with {first['parameter']} set to {first['allowed']}",
        parameter=first["parameter"],
        value=first["value"],
        allowed=first["allowed"],
        **details,
    )
