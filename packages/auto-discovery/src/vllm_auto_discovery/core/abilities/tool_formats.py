"""How families of models call tools, and which `--tool-call-parser` reads it. Pure.

Every marker is one that the parser of vLLM 0.32 looks for (`vllm/tool_parsers`, `vllm/parser`), so that a template
which teaches the model to write it decides. The first that matches wins: the special ones stand before `hermes`,
whose `<tool_call>` many others use too.
"""

# ruff: noqa: RUF001  (the markers are the models' own characters)
from vllm_auto_discovery.core.abilities.formats import Format

_ARGUMENTS = ('"arguments":', "'arguments':", '"arguments" :')
_XML_CALL = ("<function=", "<parameter=")

TOOL_FORMATS = (
    Format(("muse_glimmer",), ("<atem:function_calls>",)),
    Format(("openai",), ("<|channel|>", "<|message|>")),
    Format(("kimi_k3",), ("<|open|>", "<|sep|>")),
    Format(("kimi_k2",), ("<|tool_calls_section_begin|>",)),
    Format(("deepseek_v41",), ("<｜DSML｜ calls>",)),
    Format(("deepseek_v32",), ("｜DSML｜", "function_calls>")),
    Format(("deepseek_v4",), ("｜DSML｜", "tool_calls>")),
    Format(("deepseek_v3",), ("<｜tool▁calls▁begin｜>", "```json")),
    Format(("deepseek_v31",), ("<｜tool▁calls▁begin｜>",)),
    Format(("minimax_m3",), ("]<]minimax[>[",)),
    Format(("minimax_m2",), ("<minimax:tool_call>",)),
    Format(("seed_oss",), ("<seed:tool_call>",)),
    Format(("plamo3",), ("<|plamo:begin_tool_request",)),
    Format(("inkling",), ("<|content_invoke_tool_json|>",)),
    Format(("k2_horizon",), ("<ifm|tool_call",)),
    Format(("gemma4",), ("<|tool_call>",)),
    Format(("functiongemma",), ("<start_function_call>",)),
    Format(("apertus",), ("<|tools_prefix|>",)),
    Format(("gigachat3",), (("<|function_call|>", "function call<|role_sep|>"),)),
    Format(("lfm2",), (("<|tool_call_start|>", "<|tool_list_start|>"),)),
    Format(("lfm2",), ("List of tools:",), ("lfm2",)),
    Format(("internlm",), ("<|action_start|>", "<|plugin|>")),
    Format(("cohere_command4",), ("<|START_ACTION|>", "<|START_TEXT|>")),
    Format(("cohere_command3",), ("<|START_ACTION|>",)),
    Format(("dots",), ("<dots_function_call>",)),
    Format(("longcat",), ("<longcat_tool_call>",)),
    Format(("step3",), (("<｜tool_calls_begin｜>", "<steptml:invoke"),)),
    Format(("olmo3",), ("<function_calls>",), ("olmo",)),
    Format(("hy_v4",), ("<arg_key",), ("hy_v4",)),
    Format(("hy_v3",), ("<arg_key",), ("hy_v3",)),
    Format(("ling3",), ("<arg_key>", "<tool_call>"), ("bailing",)),
    Format(("poolside_v1",), ("<arg_key>", "<tool_call>", "<assistant>")),
    Format(("glm47", "glm45"), ("<tool_call>{function-name}<arg_key>",)),
    Format(("glm45", "glm47"), ("<arg_key>", "<tool_call>")),
    Format(("minicpm5",), ("<function name=", "<param name=")),
    Format(("mimo",), _XML_CALL, ("mimo",)),
    Format(("step3p5",), _XML_CALL, ("step3p",)),
    Format(("qwen3_coder", "qwen3_xml"), _XML_CALL),
    Format(("mistral",), ("[TOOL_CALLS]",)),
    Format(("granite",), ("<|tool_call|>", "<|start_of_role|>")),
    Format(("granite4",), ("<tool_call>", "<|start_of_role|>", _ARGUMENTS)),
    Format(("granite-20b-fc",), ("<function_call>",), ("gpt_bigcode",)),
    Format(("ernie45",), ("<tool_call>", "<response>")),
    Format(("ernie45",), ("<tool_call>",), ("ernie4_5",)),
    Format(("jamba",), ("<tool_calls>",), ("jamba",)),
    Format(("hunyuan_a13b",), ("<tool_calls>",), ("hunyuan",)),
    Format(("hermes", "qwen3_json"), ("<tool_call>", _ARGUMENTS)),
    Format(("llama4_pythonic",), ("<|header_start|>", "[func_name1(")),
    Format(("llama4_json", "llama3_json"), ("<|header_start|>", '"parameters":')),
    Format(("pythonic",), ("[func_name1(",)),
    Format(("llama3_json",), ("<|start_header_id|>", ("<|python_tag|>", '"parameters": dictionary of argument'))),
    Format(("phi4_mini_json",), ("functools[",)),
)
"""Not here: `xlam`, whose models are not recognised by their template, and `hf`, whose description is in
tokenizer_config.json."""

BUILT_IN_TOOLS = {
    "deepseek_v32": "deepseek_v32",
    "deepseek_v4": "deepseek_v4",
    "deepseek_v41": "deepseek_v41",
    "kimi_k3": "kimi_k3",
    "inkling": "inkling",
    "mistral": "mistral",
}
"""Tokenizer mode whose chat format vLLM renders itself → parser of its tool calls."""
