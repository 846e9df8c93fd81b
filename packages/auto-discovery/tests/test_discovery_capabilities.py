"""What is claimed of a model: evidence decides, unknown is an answer, no parser is offered that is not there."""

# ruff: noqa: RUF001  (templates hold the models' own characters)
from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_auto_discovery.core.abilities.capabilities import capabilities
from vllm_auto_discovery.core.abilities.claims import Capability, CapabilityName
from vllm_auto_discovery.core.abilities.model_files import ModelFiles
from vllm_auto_discovery.core.abilities.reasoning_formats import BUILT_IN_REASONING, REASONING_FORMATS
from vllm_auto_discovery.core.abilities.tool_formats import BUILT_IN_TOOLS, TOOL_FORMATS
from vllm_mcp_protocol.vllm_models import VllmModels

_TOOL_PARSERS = """
apertus cohere_command3 cohere_command4 deepseek_v3 deepseek_v31 deepseek_v32 deepseek_v4 deepseek_v41 dots ernie45
functiongemma gemma4 gigachat3 glm45 glm47 granite granite-20b-fc granite4 hermes hf hunyuan_a13b hy_v3 hy_v4 inkling
internlm jamba k2_horizon kimi_k2 kimi_k3 lfm2 ling3 llama3_json llama4_json llama4_pythonic longcat mimo minicpm5
minimax_m2 minimax_m3 mistral muse_glimmer olmo3 openai phi4_mini_json plamo3 poolside_v1 pythonic qwen3_coder
qwen3_json qwen3_xml seed_oss step3 step3p5 xlam
"""
_REASONING_PARSERS = """
cohere_command3 cohere_command4 deepseek_r1 deepseek_v3 deepseek_v4 deepseek_v41 ernie45 gemma4 glm45 glm47 granite
granite_thinking_parser hf holo2 hunyuan_a13b hy_v3 hy_v4 inkling k2_horizon kimi_k2 kimi_k3 ling3 mimo minicpmv
minimax_m2 minimax_m2_append_think minimax_m3 mistral muse_glimmer nemotron_v3 olmo3 openai_gptoss plamo3 poolside_v1
qwen3 seed_oss step3 step3p5
"""
TOOL_PARSERS, REASONING_PARSERS = _TOOL_PARSERS.split(), _REASONING_PARSERS.split()
"""Of vLLM 0.32; tests/engine holds what is offered against the real one."""

MULTIMODAL = ["SupportsMultiModal", "SupportsLoRA"]
VLLM = VllmModels.model_validate(
    {
        "version": "0.32.0",
        "architectures": {
            "LlamaForCausalLM": ["generate", "embed"],
            "Qwen3ForCausalLM": ["generate"],
            "JambaForCausalLM": ["generate"],
            "DeepseekV32ForCausalLM": ["generate"],
            "DeepseekV4ForCausalLM": ["generate"],
            "SeedOssForCausalLM": ["transformers"],
            "BertModel": ["embed"],
            "HF_ColBERT": ["late_interaction"],
            "RobertaForSequenceClassification": ["classify"],
            "BertForTokenClassification": ["token_classify"],
            "Qwen2ForRewardModel": ["reward"],
            "LlavaForConditionalGeneration": ["multimodal"],
            "Qwen2VLForConditionalGeneration": ["multimodal", "embed"],
            "Gemma4ForConditionalGeneration": ["multimodal"],
            "Emu3ForConditionalGeneration": ["transformers"],
            "WhisperForConditionalGeneration": ["multimodal"],
            "EagleLlamaForCausalLM": ["speculative"],
            "PluginForCausalLM": [],
        },
        "interfaces": {
            "LlamaForCausalLM": ["SupportsLoRA", "SupportsPP"],
            "Qwen3ForCausalLM": ["SupportsLoRA"],
            "JambaForCausalLM": ["SupportsLoRA"],
            "DeepseekV32ForCausalLM": [],
            "DeepseekV4ForCausalLM": [],
            "SeedOssForCausalLM": ["SupportsLoRA"],
            "BertModel": ["SupportsQuant"],
            "LlavaForConditionalGeneration": MULTIMODAL,
            "Qwen2VLForConditionalGeneration": MULTIMODAL,
            "Gemma4ForConditionalGeneration": MULTIMODAL,
            "Emu3ForConditionalGeneration": MULTIMODAL,
            "WhisperForConditionalGeneration": [
                *MULTIMODAL,
                "SupportsTranscription",
                "supports_transcription_only",
            ],
        },
        "inputs": {
            "LlavaForConditionalGeneration": ["image"],
            "Qwen2VLForConditionalGeneration": ["image", "video"],
            "Gemma4ForConditionalGeneration": ["image", "video", "audio"],
            "WhisperForConditionalGeneration": ["audio"],
        },
        "conversions": [
            ["ForCausalLM", "generate", "none"],
            ["ForSequenceClassification", "pooling", "classify"],
            ["Model", "pooling", "embed"],
        ],
        "retired": {"MotifForCausalLM": "0.10.2"},
        "plugins": {"BartModel": "https://example.org/bart-plugin"},
        "transformers_architectures": ["OptForCausalLM"],
        "tool_call_parsers": TOOL_PARSERS,
        "reasoning_parsers": REASONING_PARSERS,
        "tokenizer_modes": ["hf", "mistral", "deepseek_v32", "deepseek_v4"],
        "quantization_methods": ["fp8", "compressed-tensors"],
    }
)
JSON_CALL = '{%- if tools %}<tools>{{ tools | tojson }}</tools>\n<tool_call>\n{"name": <n>, "arguments": <a>}\n'
XML_CALL = "{%- if tools is defined %}<tool_call>\n<function=f>\n<parameter=p>\nv\n</parameter>\n</function>\n"
GLM_CALL = (
    "[gMASK]<sop>{% for tool in tools %}<tool_call>{function-name}\n<arg_key>k</arg_key>\n<arg_value>v</arg_value>"
)
DEEPSEEK = "{% for t in tools %}<｜Assistant｜><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>"
THINK = "{{ '<think>' + m.reasoning_content + '</think>' }}"
LLAMA3 = '{% if tools %}<|start_header_id|>ipython: {"name": f, "parameters": dictionary of argument name and value}'

FAMILIES: list[tuple[str, str, str, str | None, str | None]] = [
    # name, model_type, what its template shows, tool parser, reasoning parser
    ("Qwen2.5", "qwen2", "<|im_start|>" + JSON_CALL, "hermes", None),
    ("Qwen2.5, quotes escaped", "qwen2", JSON_CALL.replace('"', '\\"'), "hermes", None),
    ("Hermes 2 Pro", "llama", "{% for t in tools %}<tool_call>{'arguments': <args-dict>, 'name': <n>}", "hermes", None),
    ("Qwen3", "qwen3", JSON_CALL + "{% if enable_thinking is false %}<think>\n\n</think>", "hermes", "qwen3"),
    ("Qwen3 Thinking", "qwen3", JSON_CALL + "<|im_start|>assistant\n<think>\n", "hermes", "deepseek_r1"),
    ("Qwen3-Coder", "qwen3_moe", XML_CALL, "qwen3_coder", None),
    ("Qwen3.5", "qwen3_5", XML_CALL + "enable_thinking" + THINK, "qwen3_coder", "qwen3"),
    ("Nemotron 3", "nemotron_h", XML_CALL + "enable_thinking" + THINK, "qwen3_coder", "nemotron_v3"),
    ("MiMo", "mimo_v2_flash", XML_CALL + "enable_thinking" + THINK, "mimo", "mimo"),
    ("Step 3.5", "step3p5", XML_CALL + THINK, "step3p5", "step3p5"),
    ("Granite 4.2", "granite", "<|start_of_role|>" + XML_CALL + THINK, "qwen3_coder", "granite_thinking_parser"),
    ("Granite 4", "granitemoehybrid", "<|start_of_role|>" + JSON_CALL, "granite4", None),
    ("Granite 3.1", "granite", "<|start_of_role|>{{ tools }}<|tool_call|>[", "granite", None),
    (
        "Granite 3.2",
        "granite",
        "<|start_of_role|> Here is my thought process:{{ tools }}<|tool_call|>",
        "granite",
        "granite",
    ),
    ("Granite 20B FC", "gpt_bigcode", "{{ tools }} <function_call> {", "granite-20b-fc", None),
    ("Mistral", "mistral", "[AVAILABLE_TOOLS] {{ tools }}[/AVAILABLE_TOOLS][TOOL_CALLS] [", "mistral", None),
    ("Magistral", "mistral3", "{{ tools }}[TOOL_CALLS]f[ARGS]{} [THINK]a[/THINK]", "mistral", "mistral"),
    ("Llama 3.1", "llama", LLAMA3 + "<|python_tag|>", "llama3_json", None),
    ("Llama 3.2", "llama", LLAMA3, "llama3_json", None),
    ("Llama 4", "llama4", '{{ tools }}<|header_start|>{"name": f, "parameters": {}}', "llama4_json", None),
    ("Llama 4, pythonic", "llama4", "{{ tools }}<|header_start|>[func_name1(p=v)]", "llama4_pythonic", None),
    ("ToolACE", "llama", "{{ tools }}<|start_header_id|>[func_name1(params_name1=v)]", "pythonic", None),
    ("gpt-oss", "gpt_oss", "{{ tools }}<|start|><|channel|>analysis<|message|>", "openai", "openai_gptoss"),
    ("DeepSeek V3", "deepseek_v3", DEEPSEEK + "f<｜tool▁sep｜>\n```json\n", "deepseek_v3", None),
    ("DeepSeek R1", "deepseek_v3", DEEPSEEK + "```json\n" + THINK, "deepseek_v3", "deepseek_r1"),
    ("DeepSeek V3.1", "deepseek_v3", DEEPSEEK + "thinking is defined" + THINK, "deepseek_v31", "deepseek_v3"),
    ("DeepSeek R1 distilled", "qwen2", "<｜Assistant｜><think>\n</think>", None, "deepseek_r1"),
    ("DeepSeek V3.2", "deepseek_v32", "{{ tools }}<｜DSML｜function_calls>", "deepseek_v32", None),
    ("DeepSeek V4", "deepseek_v4", "{{ tools }}<｜DSML｜tool_calls>" + THINK, "deepseek_v4", "deepseek_v4"),
    ("DeepSeek V4.1", "deepseek_v41", "{{ tools }}<｜DSML｜ calls></think>", "deepseek_v41", "deepseek_v41"),
    ("Kimi K2", "kimi_k2", "{{ tools }}<|tool_calls_section_begin|>", "kimi_k2", None),
    ("Kimi K2 Thinking", "kimi_k2", "{{ tools }}<|tool_calls_section_begin|><think>", "kimi_k2", "kimi_k2"),
    ("Kimi K3", "kimi_k3", "{{ tools }}<|open|>think<|sep|>", "kimi_k3", "kimi_k3"),
    ("GLM-4.5", "glm4_moe", GLM_CALL + THINK + "enable_thinking", "glm45", "glm45"),
    ("GLM-4.7", "glm4_moe", GLM_CALL.replace("}\n<arg_key>", "}<arg_key>") + THINK, "glm47", "glm45"),
    ("Ling 3", "bailing_moe_v3", "{{ tools }}<tool_call>f\n<arg_key>k</arg_key>" + THINK, "ling3", "ling3"),
    (
        "Laguna",
        "laguna",
        "{{ tools }}<assistant><tool_call>f<arg_key>k</arg_key>" + THINK,
        "poolside_v1",
        "poolside_v1",
    ),
    ("Hunyuan 3", "hy_v3", "{{ tools }}<tool_calls:x><tool_sep:x><arg_key:x><think:x>", "hy_v3", "hy_v3"),
    ("Hunyuan 4", "hy_v4", "{{ tools }}<tool_calls><arg_key>k</arg_key><think>", "hy_v4", "hy_v4"),
    ("Hunyuan A13B", "hunyuan_v1_moe", "{{ tools }}<tool_calls>[<think>\n<answer>\n", "hunyuan_a13b", "hunyuan_a13b"),
    ("Jamba", "jamba", "{{ tools }}<tool_calls>[", "jamba", None),
    ("MiniMax M2", "minimax_m2", "{{ tools }}]~b]ai\n<think>\n<minimax:tool_call>", "minimax_m2", "minimax_m2"),
    ("MiniMax M3", "minimax_m3_vl", "{{ tools }}]<]minimax[>[<tool_call><mm:think>", "minimax_m3", "minimax_m3"),
    ("MiniCPM5", "minicpm", '{{ tools }}<function name="f"><param name="p">v</param></function>', "minicpm5", None),
    ("MiniCPM-V 4.7", "minicpmv4_7", XML_CALL + THINK, "qwen3_coder", "minicpmv"),
    ("Seed-OSS", "seed_oss", "{{ tools }}<seed:think><seed:tool_call>", "seed_oss", "seed_oss"),
    ("Gemma 4", "gemma4", "{{ tools }}<|channel>thought<|tool_call>call:f{}", "gemma4", "gemma4"),
    ("FunctionGemma", "gemma3_text", "{{ tools }}<start_function_call>call:f{}", "functiongemma", None),
    ("Command A", "cohere2", "{{ tools }}<|START_THINKING|><|START_ACTION|>[", "cohere_command3", "cohere_command3"),
    (
        "Command A+",
        "cohere2_moe",
        "{{ tools }}<|START_THINKING|><|START_ACTION|>[<|START_TEXT|>",
        "cohere_command4",
        "cohere_command4",
    ),
    ("ERNIE 4.5 thinking", "ernie4_5_moe", JSON_CALL + "<response>" + THINK, "ernie45", "ernie45"),
    ("InternLM 2", "internlm2", "{{ tools }}<|action_start|><|plugin|>", "internlm", None),
    ("LFM2", "lfm2", "List of tools: <|tool_list_start|>{{ tools }}", "lfm2", None),
    ("LFM2.5", "lfm2_moe", "List of tools: [{{ tools }}]", "lfm2", None),
    ("LongCat", "longcat_flash", "{{ tools }}<longcat_tool_call>{", "longcat", None),
    ("Step 3", "step3_vl", '{{ tools }}<｜tool_calls_begin｜><steptml:invoke name="f">' + THINK, "step3", "step3"),
    ("Olmo 3", "olmo3", "<functions>{{ tools }}</functions><function_calls>f()" + THINK, "olmo3", "olmo3"),
    ("dots", "dots1", "{{ tools }}<dots_function_call>", "dots", None),
    (
        "PLaMo 3",
        "plamo3",
        "{{ tools }}<|plamo:begin_think:plamo|><|plamo:begin_tool_request:plamo|>",
        "plamo3",
        "plamo3",
    ),
    ("Apertus", "apertus", "{{ tools }}<|tools_prefix|>[", "apertus", None),
    ("GigaChat 3", "deepseek_v3", "{{ tools }}function call<|role_sep|>\n{", "gigachat3", None),
    ("Inkling", "inkling_text", "{{ tools }}<|content_invoke_tool_json|><|content_thinking|>", "inkling", "inkling"),
    (
        "Muse Glimmer",
        "muse_glimmer",
        "{{ tools }} to=self<|message|><atem:function_calls>",
        "muse_glimmer",
        "muse_glimmer",
    ),
    ("K2 Horizon", "k2", "{{ tools }}<ifm|think><ifm|tool_calls>", "k2_horizon", "k2_horizon"),
    ("SmolLM3", "smollm3", JSON_CALL + "enable_thinking <think>\n\n</think>", "hermes", "qwen3"),
    ("Phi-4-mini with functools", "phi3", "{{ tools }}functools[", "phi4_mini_json", None),
]


def claims(files: ModelFiles, vllm: VllmModels | None = VLLM) -> dict[str, Capability]:
    return {claim.name: claim for claim in capabilities(files, vllm)}


def model(architecture: str = "LlamaForCausalLM", *, template: str | None = None, **config: Any) -> ModelFiles:
    """The files of a model, all of them read."""
    return ModelFiles(
        names=frozenset({"config.json", "tokenizer_config.json"}),
        config={"architectures": [architecture], **config},
        tokenizer_config={},
        chat_template=template,
    )


@pytest.mark.parametrize(
    ("name", "model_type", "template", "tools", "reasoning"), FAMILIES, ids=lambda value: str(value)[:20]
)
def test_the_template_decides_about_the_parsers(
    name: str, model_type: str, template: str, tools: str | None, reasoning: str | None
) -> None:
    said = claims(model(template=template, model_type=model_type))
    assert (said["tools"].parser, said["reasoning"].parser) == (tools, reasoning), name
    assert said["tools"].value == ("yes" if tools else "no")
    assert said["reasoning"].value == ("yes" if reasoning else "no")
    if tools:
        assert said["tools"].flags == ("--enable-auto-tool-choice", "--tool-call-parser", tools)
        assert said["tools"].evidence.startswith("chat_template.jinja: `")


def test_every_format_is_shown_by_a_family_and_read_by_a_parser_of_vllm() -> None:
    shown = {parser for _, _, _, *parsers in FAMILIES for parser in parsers}
    for one in (*TOOL_FORMATS, *REASONING_FORMATS):
        assert not one.parsers or shown & set(one.parsers), f"no family shows {one.parsers}"
    offered = {parser for one in TOOL_FORMATS for parser in one.parsers} | set(BUILT_IN_TOOLS.values())
    assert offered <= set(TOOL_PARSERS)
    thought = {parser for one in REASONING_FORMATS for parser in one.parsers} | set(BUILT_IN_REASONING.values())
    assert thought <= set(REASONING_PARSERS)


@pytest.mark.parametrize(
    "template", [XML_CALL + "enable_thinking" + THINK, "{{ tools }}[TOOL_CALLS][THINK]", JSON_CALL + THINK]
)
def test_a_parser_that_this_vllm_lacks_is_not_offered(template: str) -> None:
    old = VLLM.model_copy(update={"tool_call_parsers": frozenset({"jamba"}), "reasoning_parsers": frozenset({"hf"})})
    said = claims(model(template=template), old)
    assert (said["tools"].value, said["tools"].parser, said["tools"].flags) == ("no", None, ())
    assert "vLLM 0.32.0 has no tool call parser" in said["tools"].evidence
    assert (said["reasoning"].value, said["reasoning"].parser) == ("yes", None)
    assert "vLLM 0.32.0 has no reasoning parser" in said["reasoning"].evidence


def test_the_next_best_parser_of_a_format_is_offered() -> None:
    old = VLLM.model_copy(update={"tool_call_parsers": frozenset({"qwen3_xml"})})
    assert claims(model(template=XML_CALL), old)["tools"].parser == "qwen3_xml"


def test_when_the_parsers_are_not_known_none_is_offered() -> None:
    said = claims(model(template=JSON_CALL + THINK), None)
    assert (said["tools"].value, said["tools"].parser) == ("yes", None)
    assert "not known" in said["tools"].evidence
    assert (said["reasoning"].value, said["reasoning"].parser) == ("yes", None)


def test_a_format_of_calls_that_is_not_known_is_unknown() -> None:
    said = claims(model(template="{% if tools %}[[CALL]]"))
    assert said["tools"].value == "unknown"
    assert "not known" in said["tools"].evidence


def test_a_template_that_does_not_look_at_tools_has_none() -> None:
    said = claims(model(template='{{ messages[0].content }} <tool_call> "arguments": toolset'))
    assert said["tools"].value == "no"
    assert "does not look at tools" in said["tools"].evidence


def test_thoughts_that_no_parser_reads_are_still_thoughts() -> None:
    said = claims(model(template="<|start_of_role|><think></think><response>"))
    assert (said["reasoning"].value, said["reasoning"].parser) == ("yes", None)


def test_a_model_may_describe_its_answers_itself() -> None:
    described = {"chat_template": "{{ tools }}", "response_template": {"fields": {"tool_calls": {}, "thinking": {}}}}
    said = claims(replace(model(), tokenizer_config=described))
    assert (said["tools"].parser, said["reasoning"].parser) == ("hf", "hf")
    assert said["tools"].evidence == "tokenizer_config.json: response_template has tool_calls"


def test_of_several_templates_the_one_for_tools_is_read() -> None:
    written = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": JSON_CALL}, 7, {"name": []}]
    said = claims(replace(model(), tokenizer_config={"chat_template": written}))
    assert said["tools"].parser == "hermes"
    assert said["tools"].evidence.startswith("tokenizer_config.json: ")


def test_chats_that_vllm_writes_itself_need_no_template() -> None:
    deepseek = claims(model("DeepseekV4ForCausalLM"))
    assert (deepseek["chat"].value, deepseek["tools"].parser, deepseek["reasoning"].parser) == (
        "yes",
        "deepseek_v4",
        "deepseek_v4",
    )
    mistral = claims(replace(model(), names=frozenset({"tekken.json"})))
    assert (mistral["chat"].value, mistral["tools"].parser, mistral["reasoning"].value) == ("yes", "mistral", "unknown")
    older = VLLM.model_copy(update={"tokenizer_modes": frozenset({"hf"})})
    assert claims(model("DeepseekV4ForCausalLM"), older)["chat"].value == "no"


def test_a_base_model_writes_text_and_does_not_chat() -> None:
    said = claims(model())
    assert said["text"].value == said["structured_output"].value == "yes"
    assert said["chat"].value == said["tools"].value == said["reasoning"].value == "no"
    assert "tokenizer_config.json has no chat_template" in said["chat"].evidence
    assert claims(replace(model(), tokenizer_config=None))["chat"].value == "unknown"


@pytest.mark.parametrize(
    ("architecture", "config", "yes"),
    [
        ("BertModel", {}, {"embeddings"}),
        ("HF_ColBERT", {}, {"embeddings", "rerank"}),
        ("RobertaForSequenceClassification", {"id2label": {"0": "relevance"}}, {"rerank", "classification"}),
        ("RobertaForSequenceClassification", {"id2label": {"0": "a", "1": "b"}}, {"classification"}),
        ("Qwen3ForSequenceClassification", {"num_labels": 1}, {"rerank", "classification"}),
        ("BertForTokenClassification", {"num_labels": 9}, {"classification"}),
        ("Qwen2ForRewardModel", {}, {"classification"}),
        ("LlamaForCausalLM", {}, {"text", "structured_output"}),
        ("SeedOssForCausalLM", {}, {"text", "structured_output"}),
        ("EagleLlamaForCausalLM", {}, {"draft"}),
        ("WhisperForConditionalGeneration", {}, {"audio", "transcription"}),
    ],
)
def test_what_an_architecture_is_for(architecture: str, config: dict[str, Any], yes: set[str]) -> None:
    said = claims(model(architecture, **config))
    asked = {"text", "structured_output", "embeddings", "rerank", "classification", "transcription", "draft"}
    assert {name for name in asked | {"audio"} if said[name].value == "yes"} == yes
    assert all(said[name].flags == ("--runner", "pooling") for name in yes & {"embeddings", "rerank", "classification"})
    assert said["supported"].value == "yes"


@pytest.mark.parametrize("modules", [[{"type": "sentence_transformers.models.Pooling"}], None])
def test_a_generating_architecture_that_is_pooled_embeds(modules: Any) -> None:
    names = frozenset() if modules else frozenset({"1_Pooling/config.json"})
    said = claims(replace(model("Qwen3ForCausalLM", template=JSON_CALL), modules=modules, names=names))
    assert (said["embeddings"].value, said["text"].value, said["chat"].value, said["tools"].value) == (
        "yes",
        "no",
        "no",
        "no",
    )
    assert said["embeddings"].evidence.startswith("modules.json" if modules else "1_Pooling")


def test_a_ranking_card_on_a_generating_model_is_not_enough() -> None:
    said = claims(replace(model("Qwen3ForCausalLM"), pipeline_tag="text-ranking"))
    assert said["rerank"].value == "unknown"
    assert "--hf-overrides" in said["rerank"].evidence


def test_an_encoder_that_vllm_was_not_asked_about_embeds_when_its_card_says_so() -> None:
    bert = model("BertModel")
    assert claims(bert, None)["embeddings"].value == "unknown"
    said = claims(replace(bert, pipeline_tag="sentence-similarity"), None)
    assert (said["embeddings"].value, said["embeddings"].evidence) == (
        "yes",
        "README.md: pipeline_tag sentence-similarity",
    )


@pytest.mark.parametrize(
    ("files", "takes"),
    [
        (model("LlavaForConditionalGeneration", vision_config={"x": 1}, image_token_index=0), "yes no no"),
        (model("Qwen2VLForConditionalGeneration", vision_config={"x": 1}, video_token_id=5), "yes no yes"),
        (model("Gemma4ForConditionalGeneration", audio_config={"x": 1}), "yes yes yes"),
        (model("Gemma4ForConditionalGeneration", audio_config=None, audio_token_id=9), "yes no yes"),
        (model("LlamaForCausalLM", vision_config={"x": 1}), "no no no"),
        (model("Emu3ForConditionalGeneration", vision_config={"x": 1}), "yes no no"),
        (model("NewOmniModel", thinker_config={"audio_config": {"x": 1}, "vision_config": {"x": 1}}), "yes yes no"),
        (replace(model("NewModel"), preprocessor={"feature_extractor_type": "W"}), "unknown yes unknown"),
        (ModelFiles(), "unknown unknown unknown"),
    ],
)
def test_inputs_are_what_the_files_say_and_the_class_takes(files: ModelFiles, takes: str) -> None:
    said = claims(files)
    assert [said[name].value for name in ("vision", "audio", "video")] == takes.split()


def test_without_vllm_the_files_alone_tell_the_inputs() -> None:
    said = claims(model("Qwen2VLForConditionalGeneration", vision_config={"x": 1}), None)
    assert (said["vision"].value, said["vision"].evidence) == ("yes", "config.json: vision_config")
    assert said["audio"].value == "no"
    assert "audio_config" in said["audio"].evidence
    larger = claims(model("Gemma4ForConditionalGeneration", audio_config=None, audio_token_id=9), None)
    assert (larger["audio"].value, larger["audio"].evidence) == ("no", "config.json: audio_config is null")


@pytest.mark.parametrize(
    ("files", "value", "words"),
    [
        (model("LlamaForCausalLM"), "yes", "vLLM 0.32.0: its registry has LlamaForCausalLM"),
        (model("PluginForCausalLM"), "yes", "PluginForCausalLM"),
        (model("Qwen3Model"), "yes", "by its class Qwen3ForCausalLM, converted"),
        (model("MotifForCausalLM"), "no", "until 0.10.2"),
        (model("BartModel"), "no", "https://example.org/bart-plugin"),
        (model("OptForCausalLM"), "unknown", "Transformers"),
        (model("OwnForCausalLM", auto_map={"AutoModelForCausalLM": "m.Own"}), "unknown", "auto_map"),
        (model("OwnForCausalLM", auto_map={"AutoConfig": "m.Own"}), "no", "no OwnForCausalLM"),
        (model("LlamaForCausalLM", quantization_config={"quant_method": "bitsandbytes"}), "unknown", "bitsandbytes"),
        (model("LlamaForCausalLM", quantization_config={"quant_method": "fp8"}), "yes", "LlamaForCausalLM"),
        (ModelFiles(config={}), "unknown", "names no architecture"),
        (ModelFiles(), "unknown", "config.json was not read"),
    ],
)
def test_support_is_asked_of_the_installed_vllm(files: ModelFiles, value: str, words: str) -> None:
    claim = claims(files)["supported"]
    assert claim.value == value
    assert words in claim.evidence


def test_a_vllm_that_could_not_be_asked_is_unknown_with_its_reason() -> None:
    said = claims(model(), VllmModels(unknown={"vllm": "bin/python does not exist"}))
    assert said["supported"].value == said["lora"].value == said["transcription"].value == "unknown"
    assert "bin/python does not exist" in said["supported"].evidence
    assert said["text"].value == "yes"


def test_lora_is_what_the_class_implements() -> None:
    assert claims(model())["lora"].flags == ("--enable-lora",)
    assert claims(model("BertModel"))["lora"].value == "no"
    assert claims(model("NewModel"))["lora"].value == "unknown"


def test_an_adapter_is_no_model() -> None:
    files = ModelFiles(adapter={"peft_type": "LORA", "base_model_name_or_path": "org/base"})
    said = claims(files)
    assert (said["adapter"].value, said["lora"].value, said["chat"].value) == ("yes", "no", "unknown")
    assert "org/base" in said["chat"].evidence
    assert claims(replace(files, adapter={"peft_type": "IA3"}))["adapter"].value == "no"
    assert claims(replace(files, adapter={"peft_type": "LORA", "use_dora": True}))["adapter"].value == "no"
    assert claims(model())["adapter"].value == "no"


def test_layers_for_multi_token_prediction_are_counted_by_config() -> None:
    assert claims(model(num_nextn_predict_layers=1))["mtp"].value == "yes"
    assert claims(model(text_config={"mtp_num_hidden_layers": 1}))["mtp"].value == "yes"
    assert claims(model(num_nextn_predict_layers=0))["mtp"].value == "no"
    assert claims(ModelFiles())["mtp"].value == "unknown"
    assert claims(model(speculators_config={"algorithm": "eagle3"}))["draft"].value == "yes"


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
JUNK = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner))
_FIELDS = (
    "architectures model_type quantization_config vision_config audio_config thinker_config auto_map id2label "
    "chat_template response_template num_nextn_predict_layers peft_type text_config speculators_config"
)
FIELDS = st.sampled_from(_FIELDS.split())
NAMES = st.sampled_from([*(VLLM.architectures or {}), "NewModel", "MotifForCausalLM"]).map(lambda name: [name])
OBJECTS = st.dictionaries(FIELDS, JUNK | NAMES, max_size=5)
FRAGMENTS = st.lists(st.sampled_from([family[2] for family in FAMILIES]) | st.text(max_size=30), max_size=3).map(
    "".join
)
FILES = st.builds(
    ModelFiles,
    names=st.frozensets(st.sampled_from(["tekken.json", "1_Pooling/config.json", "config.json"])),
    config=st.none() | OBJECTS,
    tokenizer_config=st.none() | OBJECTS,
    chat_template=st.none() | FRAGMENTS,
    modules=JUNK | st.just([{"type": "sentence_transformers.models.Pooling"}]),
    preprocessor=st.none() | OBJECTS,
    adapter=st.none() | OBJECTS,
    pipeline_tag=st.none() | st.sampled_from(["text-ranking", "feature-extraction"]),
)
SOME_PARSERS = st.none() | st.frozensets(st.sampled_from([*TOOL_PARSERS, *REASONING_PARSERS]))
PARTS = ("architectures", "interfaces", "inputs", "conversions", "retired", "plugins", "transformers_architectures")


@st.composite
def vllms(draw: st.DrawFn) -> VllmModels | None:
    """A vLLM that answered some of the questions, or none."""
    missing = draw(st.sets(st.sampled_from([*PARTS, "tokenizer_modes", "quantization_methods"])))
    parsers = {"tool_call_parsers": draw(SOME_PARSERS), "reasoning_parsers": draw(SOME_PARSERS)}
    return draw(st.sampled_from([None, VLLM.model_copy(update=dict.fromkeys(missing) | parsers)]))


@settings(max_examples=300, deadline=None)
@given(FILES, vllms())
def test_junk_never_raises_and_no_claim_is_without_evidence(files: ModelFiles, vllm: VllmModels | None) -> None:
    said = capabilities(files, vllm)
    assert [claim.name for claim in said] == list(get_args(CapabilityName))
    for claim in said:
        assert claim.value in ("yes", "no", "unknown")
        assert claim.evidence.strip()
        assert claim.value == "yes" or not claim.flags
    tools, reasoning = (next(claim.parser for claim in said if claim.name == name) for name in ("tools", "reasoning"))
    assert tools is None or (vllm and tools in (vllm.tool_call_parsers or ()))
    assert reasoning is None or (vllm and reasoning in (vllm.reasoning_parsers or ()))
