"""What a model can do in a conversation: text, chat, tools, reasoning. Pure.

The chat template decides: it teaches the model how calls and thoughts are written, so it shows which parser reads them.
"""

import re
from collections.abc import Mapping

from vllm_auto_discovery.core.abilities.claims import Capability, Case
from vllm_auto_discovery.core.abilities.formats import LONGEST_TEMPLATE, Format, Match, offered, recognise
from vllm_auto_discovery.core.abilities.model_files import TOKENIZER_CONFIG
from vllm_auto_discovery.core.abilities.reasoning_formats import BUILT_IN_REASONING, REASONING_FORMATS
from vllm_auto_discovery.core.abilities.tool_formats import BUILT_IN_TOOLS, TOOL_FORMATS

_TOOLS_VARIABLE = re.compile(r"\btools\b")


def text(case: Case) -> Capability:
    if case.use.purpose is None:
        return Capability("text", "unknown", case.use.evidence)
    return Capability("text", "yes" if case.use.purpose == "generate" else "no", case.use.evidence)


def chat(case: Case) -> Capability:
    writes = text(case)
    if writes.value != "yes":
        return Capability("chat", writes.value, writes.evidence)
    if template := case.files.template:
        return Capability("chat", "yes", f"{template[1]}: a chat template; {writes.evidence}")
    if case.renderer:
        return Capability("chat", "yes", f"{case.label}: writes its chats itself (tokenizer mode {case.renderer})")
    if case.files.tokenizer_config is None:
        return Capability("chat", "unknown", f"no chat template was found, and {TOKENIZER_CONFIG} was not read")
    return Capability("chat", "no", f"{TOKENIZER_CONFIG} has no chat_template, and there is no file for it")


def tools(case: Case) -> Capability:
    talks = chat(case)
    if talks.value != "yes":
        return Capability("tools", talks.value, talks.evidence)
    match = _tools_format(case)
    if match:
        return _tools_by(case, match)
    template = case.files.template
    if template and _takes_tools(template[0]):
        evidence = f"{template[1]}: the chat template takes tools, but its format of calls is not known here"
        return Capability("tools", "unknown", evidence)
    where = template[1] if template else talks.evidence
    return Capability("tools", "no", f"{where}: the chat template does not look at tools")


def _tools_format(case: Case) -> Match | None:
    template = case.files.template
    if template and _takes_tools(template[0]):
        shown = recognise(TOOL_FORMATS, template[0], case.files.model_type, template[1])
        if shown or (shown := _described(case, "tool_calls")):
            return shown
    return _built_in(case, BUILT_IN_TOOLS)


def _takes_tools(template: str) -> bool:
    return bool(_TOOLS_VARIABLE.search(template[:LONGEST_TEMPLATE]))


def _built_in(case: Case, parsers: Mapping[str, str]) -> Match | None:
    """The format of chats that vLLM renders itself."""
    renderer = case.renderer
    if renderer is None or renderer not in parsers:
        return None
    return Match(Format((parsers[renderer],), ()), f"{case.label}: tokenizer mode {renderer}")


def _tools_by(case: Case, match: Match) -> Capability:
    parsers = case.vllm.tool_call_parsers if case.vllm else None
    if parsers is None:
        return Capability("tools", "yes", f"{match.evidence}; the parsers of this vLLM are not known")
    parser = offered(match, parsers)
    if parser is None:
        wanted = " or ".join(match.format.parsers)
        return Capability("tools", "no", f"{match.evidence}; {case.label} has no tool call parser {wanted}")
    return Capability(
        "tools", "yes", match.evidence, parser, ("--enable-auto-tool-choice", "--tool-call-parser", parser)
    )


def reasoning(case: Case) -> Capability:
    talks = chat(case)
    if talks.value != "yes":
        return Capability("reasoning", talks.value, talks.evidence)
    template = case.files.template
    shown = recognise(REASONING_FORMATS, template[0], case.files.model_type, template[1]) if template else None
    match = shown or _described(case, "thinking") or _built_in(case, BUILT_IN_REASONING)
    if match:
        return _reasoning_by(case, match)
    if not template:
        return Capability("reasoning", "unknown", f"{talks.evidence}; there is no template that shows it")
    return Capability("reasoning", "no", f"{template[1]}: no marker of reasoning that is known here")


def _reasoning_by(case: Case, match: Match) -> Capability:
    """Without a parser the model reasons all the same; its thoughts stay in the answer's text."""
    parsers = case.vllm.reasoning_parsers if case.vllm else None
    if parsers is None:
        return Capability("reasoning", "yes", f"{match.evidence}; the parsers of this vLLM are not known")
    parser = offered(match, parsers)
    if parser is None:
        wanted = " or ".join(match.format.parsers) or "for this format"
        return Capability("reasoning", "yes", f"{match.evidence}; {case.label} has no reasoning parser {wanted}")
    return Capability("reasoning", "yes", match.evidence, parser, ("--reasoning-parser", parser))


def _described(case: Case, field: str) -> Match | None:
    """The model's own description of its answers, which vLLM's parser `hf` follows."""
    described = (case.files.tokenizer_config or {}).get("response_template")
    fields = described.get("fields") if isinstance(described, dict) else None
    if not isinstance(fields, dict) or field not in fields:
        return None
    return Match(Format(("hf",), ()), f"{TOKENIZER_CONFIG}: response_template has {field}")
