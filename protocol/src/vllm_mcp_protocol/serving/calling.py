"""Tools called from a command line: words become arguments by the tool's own schema, it runs in-process.

Used by `vllm-model-manager call load-model --model-id X`, and by
`vllm-mcp tool mcp_vllm-model-manager_load-model --model-id X`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vllm_mcp_protocol.errors import BadInput, ErrorInfo, UnknownArgument
from vllm_mcp_protocol.serving.naming import closest, did_you_mean

if TYPE_CHECKING:
    from vllm_mcp_protocol.serving.server import SuiteServer

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NOBODY = 3
"""There is no hub, and none could be started."""

_USAGE_CODES = ("INVALID_ARGUMENT", "UNKNOWN_ARGUMENT", "INVALID_SETTING", "TOOL_NOT_FOUND")
_WORDS = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}

ProgressSink = Callable[[float, float | None, str | None], None]
"""Takes done, total (same unit) and a message."""


@dataclass(frozen=True)
class ToolAnswer:
    """What a tool answered: the wire object, and whether it is a success."""

    payload: dict[str, Any]
    failed: bool

    @property
    def error(self) -> ErrorInfo | None:
        """The error of a failure."""
        return ErrorInfo.model_validate(self.payload["error"]) if self.failed else None

    @property
    def exit_code(self) -> int:
        """0 done, 1 the tool failed, 2 bad usage, 3 nothing to talk to."""
        return EXIT_DONE if self.error is None else exit_code(self.error)


def exit_code(error: ErrorInfo) -> int:
    """The exit code that tells scripts what kind of failure `error` is."""
    if error.code == "HUB_UNAVAILABLE":
        return EXIT_NOBODY
    return EXIT_USAGE if error.code in _USAGE_CODES else EXIT_FAILED


def parse_tool_arguments(schema: Mapping[str, Any], argv: Sequence[str]) -> dict[str, Any]:
    """Arguments for a tool with the input schema `schema`, from words like `--model-id X --pin`.

    `--model_id` is the same as `--model-id`, `--name=value` the same as `--name value`. A boolean needs no
    value and has `--no-name`. Lists are repeated, comma-separated or JSON; objects are JSON. One word that is
    a JSON object gives any number of arguments. What does not fit its type stays text: the tool's own check
    explains it. Raises UnknownArgument, BadInput (a value is missing).
    """
    parser = _Words(schema.get("properties", {}), list(argv))
    while parser.left:
        parser.take()
    return parser.found


class _Words:
    """The words that are left, and the arguments found so far."""

    def __init__(self, properties: Mapping[str, Any], left: list[str]) -> None:
        self._properties = properties
        self.left = left
        self.found: dict[str, Any] = {}

    def take(self) -> None:
        word = self.left.pop(0)
        if word.startswith("{"):
            self.found |= _object(word)
            return
        if not word.startswith("--") or word == "--":
            raise BadInput(f"{word!r} stands alone; arguments are --name value.", suggestion="see --help", value=word)
        given, equals, value = word[2:].partition("=")
        name, negated = self._name(given)
        if negated:
            self.found[name] = False
        elif self._kind(name) == "boolean":
            self.found[name] = self._boolean(name, value if equals else None)
        else:
            self._store(name, value if equals else self._value(given))

    def _name(self, given: str) -> tuple[str, bool]:
        """The parameter that is meant, and whether it is switched off."""
        name = given.replace("-", "_")
        if name in self._properties:
            return name, False
        if name.startswith("no_") and self._kind(name[3:]) == "boolean":
            return name[3:], True
        raise self._unknown(given)

    def _kind(self, name: str) -> str:
        return str(self._properties.get(name, {}).get("type", ""))

    def _boolean(self, name: str, value: str | None) -> Any:
        if value is None and self.left and self.left[0].lower() in _WORDS:
            value = self.left.pop(0)
        return True if value is None else _WORDS.get(value.lower(), value)

    def _value(self, given: str) -> str:
        """The next word, which may begin with dashes unless it is itself a parameter."""
        if not self.left or self._is_parameter(self.left[0]):
            raise BadInput(f"--{given} needs a value.", suggestion=f"write --{given} VALUE", parameter=given)
        return self.left.pop(0)

    def _is_parameter(self, word: str) -> bool:
        return word.startswith("--") and word[2:].partition("=")[0].replace("-", "_") in self._properties

    def _store(self, name: str, text: str) -> None:
        kind = self._kind(name)
        if kind == "array":
            self.found[name] = [
                *self.found.get(name, []),
                *_items(text, self._properties[name].get("items", {})),
            ]
        else:
            self.found[name] = _scalar(text, kind)

    def _unknown(self, given: str) -> UnknownArgument:
        known = [name.replace("_", "-") for name in self._properties]
        close = closest(given.replace("_", "-"), known)
        hint = did_you_mean(f"--{close}" if close else None)
        options = ", ".join(f"--{name}" for name in known) or "none"
        return UnknownArgument(
            f"There is no --{given}.{hint} The parameters are: {options}.",
            suggestion=f"use --{close}" if close else "leave it out",
            argument=given,
            allowed=known,
        )


def _object(text: str) -> dict[str, Any]:
    try:
        parsed = json.loads(text)
    except ValueError as error:
        raise BadInput(f"{text[:100]!r} is not a JSON object: {error}.", suggestion="check the quotes") from None
    return dict(parsed)


def _items(text: str, items: Mapping[str, Any]) -> list[Any]:
    if text.lstrip().startswith(("[", "{")):
        try:
            parsed = json.loads(text)
        except ValueError:
            return [text]
        return parsed if isinstance(parsed, list) else [parsed]
    return [_scalar(part.strip(), str(items.get("type", ""))) for part in text.split(",") if part.strip()]


def _scalar(text: str, kind: str) -> Any:
    """`text` as the JSON value of type `kind`; unchanged when it is none."""
    if kind in ("string", "array"):
        return text
    try:
        value = json.loads(text)
    except ValueError:
        return text
    fits: dict[str, tuple[type, ...]] = {
        "integer": (int,),
        "number": (int, float),
        "object": (dict,),
        "boolean": (bool,),
    }
    return value if isinstance(value, fits.get(kind, (object,))) else text


async def call_in_process(
    server: "SuiteServer", tool: str, arguments: Mapping[str, Any], on_progress: ProgressSink | None = None
) -> ToolAnswer:
    """Call `tool` as a client would, without a process in between."""
    from mcp import Client

    async def progressed(progress: float, total: float | None, message: str | None) -> None:
        if on_progress is not None:
            on_progress(progress, total, message)

    async with Client(server, mode="auto") as client:
        result = await client.call_tool(tool, dict(arguments), progress_callback=progressed)
    return ToolAnswer(dict(result.structured_content or {}), bool(result.is_error))
