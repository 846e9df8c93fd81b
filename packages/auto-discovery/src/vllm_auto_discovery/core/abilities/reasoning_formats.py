"""How families of models write their reasoning, and which `--reasoning-parser` separates it. Pure.

As in `tool_formats`, the markers are those that vLLM 0.32's parsers look for (`vllm/reasoning`, `vllm/parser`). Many
families write `<think>` … `</think>` and differ in whether the prompt opens it and whether it can be switched off;
for them other markers, or `model_type`, decide.
"""

# ruff: noqa: RUF001  (the markers are the models' own characters)
from vllm_auto_discovery.core.abilities.formats import Format

_THINK = ("<think>", "</think>")
_CAN_SWITCH_OFF = "enable_thinking"
_NO_PARSER: tuple[str, ...] = ()

REASONING_FORMATS = (
    Format(("openai_gptoss",), ("<|channel|>", "analysis")),
    Format(("muse_glimmer",), ("to=self", "<|message|>")),
    Format(("kimi_k3",), ("<|open|>", "think")),
    Format(("inkling",), ("<|content_thinking|>",)),
    Format(("plamo3",), ("<|plamo:begin_think",)),
    Format(("seed_oss",), ("<seed:think>",)),
    Format(("mistral",), ("[THINK]",)),
    Format(("minimax_m3",), ("<mm:think>",)),
    Format(("gemma4",), ("<|channel>",)),
    Format(("cohere_command4",), ("<|START_THINKING|>", "<|START_TEXT|>")),
    Format(("cohere_command3",), ("<|START_THINKING|>",)),
    Format(("k2_horizon",), ("<ifm|think",)),
    Format(("granite",), ("my thought process",)),
    Format(("granite_thinking_parser",), ("<think>", "<|start_of_role|>", "<function=")),
    Format(_NO_PARSER, ("<think>", "<|start_of_role|>")),
    Format(("hy_v4",), (("<think", "think_begin"),), ("hy_v4",)),
    Format(("hy_v3",), (("<think", "think_begin"),), ("hy_v3",)),
    Format(("hunyuan_a13b",), ("<think>", "<answer>"), ("hunyuan",)),
    Format(("kimi_k2",), ("<think>", "<|tool_calls_section_begin|>")),
    Format(("deepseek_v41",), (_THINK, "<｜DSML｜ calls>")),
    Format(("deepseek_v4",), (_THINK, "｜DSML｜", "tool_calls>")),
    Format(("deepseek_v3",), (_THINK, "<｜Assistant｜>", ("thinking is defined", "if thinking"))),
    Format(("deepseek_r1",), (_THINK, "<｜Assistant｜>")),
    Format(("minimax_m2",), ("<think>", "<minimax:tool_call>")),
    Format(("ling3",), (_THINK,), ("bailing_moe_v3", "bailing_hybrid")),
    Format(("poolside_v1",), (_THINK, "<assistant>")),
    Format(("glm45", "glm47"), (_THINK, "[gMASK]")),
    Format(("ernie45",), (_THINK,), ("ernie4_5",)),
    Format(("step3p5",), ("<think>",), ("step3p",)),
    Format(("step3",), (_THINK,), ("step3",)),
    Format(("mimo",), ("<think>",), ("mimo",)),
    Format(("nemotron_v3",), ("<think>",), ("nemotron",)),
    Format(("olmo3",), ("<think>",), ("olmo",)),
    Format(("minicpmv",), ("<think>",), ("minicpmv",)),
    Format(("qwen3",), ("<think>", _CAN_SWITCH_OFF)),
    Format(("deepseek_r1",), ("<think>",)),
)

BUILT_IN_REASONING = {
    "deepseek_v32": "deepseek_v3",
    "deepseek_v4": "deepseek_v4",
    "deepseek_v41": "deepseek_v41",
    "kimi_k3": "kimi_k3",
    "inkling": "inkling",
}
"""Tokenizer mode whose chat format vLLM renders itself → parser of its reasoning. Not `mistral`: only some of
those models reason, and no file says which."""
