"""Small tokenizers with chat templates that behave as those of well-known families. It knows no model and no trainer.

The formats are the families' own; the templates are written afresh, with what is peculiar to each: who trims, who moves
the system message, who rewrites earlier answers. Vocabularies are of a few hundred tokens, built of the same parts.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = (
    "Why is there bread, and who was Spinoza? Because of hunger. The answer is 42, or 1,234.50 in all.",
    'system user assistant model tool {"name": "look", "arguments": {"at": "here"}} and so on and on',
    "Das hat er nicht gesagt. 日本語のテキスト。 def main(arguments):\n    return [n * 2 for n in arguments]\n",
    "Hi. Hello!\n\nHi there\n\n\n  indented\n\tHello,  hi \n \n..\n",
)
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

CHATML = """{%- for m in messages %}
{{- '<|im_start|>' ~ m.role ~ '\\n' ~ m.content ~ '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}"""

_HERMES_TOOLS = """{%- macro offered(tools) %}{{- '# Tools\\n<tools>' }}
{%- for tool in tools %}{{- '\\n' ~ (tool | tojson) }}{% endfor %}
{{- '\\n</tools>\\nCalls stand in <tool_call></tool_call>.' }}{% endmacro %}
{%- macro called(call) %}{{- '<tool_call>\\n{"name": "' ~ call.function.name ~ '", "arguments": ' }}
{{- call.function.arguments | tojson }}{{- '}\\n</tool_call>' }}{% endmacro %}"""

QWEN25 = (
    _HERMES_TOOLS
    + """{%- set given = messages[0].content if messages[0].role == 'system' else 'You are Qwen.' %}
{{- '<|im_start|>system\\n' ~ given }}
{%- if tools %}{{- '\\n\\n' ~ offered(tools) }}{% endif %}
{{- '<|im_end|>\\n' }}
{%- for m in messages %}
    {%- if m.role == 'tool' %}
        {%- if loop.first or loop.previtem.role != 'tool' %}{{- '<|im_start|>user' }}{% endif %}
        {{- '\\n<tool_response>\\n' ~ m.content ~ '\\n</tool_response>' }}
        {%- if loop.last or loop.nextitem.role != 'tool' %}{{- '<|im_end|>\\n' }}{% endif %}
    {%- elif m.tool_calls %}
        {{- '<|im_start|>assistant' }}
        {%- if m.content %}{{- '\\n' ~ m.content }}{% endif %}
        {%- for call in m.tool_calls %}{{- '\\n' ~ called(call) }}{% endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif m.role != 'system' or not loop.first %}
        {{- '<|im_start|>' ~ m.role ~ '\\n' ~ m.content ~ '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}"""
)

QWEN3 = (
    _HERMES_TOOLS
    + """{%- if messages[0].role == 'system' or tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content ~ ('\\n\\n' if tools else '') }}{% endif %}
    {%- if tools %}{{- offered(tools) }}{% endif %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- set seen = namespace(question=0) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set seen.question = loop.index0 %}{% endif %}{% endfor %}
{%- for m in messages %}
    {%- if m.role == 'tool' %}
        {%- if loop.first or loop.previtem.role != 'tool' %}{{- '<|im_start|>user' }}{% endif %}
        {{- '\\n<tool_response>\\n' ~ m.content ~ '\\n</tool_response>' }}
        {%- if loop.last or loop.nextitem.role != 'tool' %}{{- '<|im_end|>\\n' }}{% endif %}
    {%- elif m.role == 'assistant' %}
        {%- set said, thought = m.content, '' %}
        {%- if '</think>' in said %}
            {%- set thought = said.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set said = said.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if loop.index0 > seen.question and (loop.last or thought) %}
            {{- '<think>\\n' ~ thought.strip('\\n') ~ '\\n</think>\\n\\n' ~ said.lstrip('\\n') }}
        {%- else %}
            {{- said }}
        {%- endif %}
        {%- for call in m.tool_calls or [] %}
            {{- ('' if loop.first and not said else '\\n') ~ called(call) }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif m.role != 'system' or not loop.first %}
        {{- '<|im_start|>' ~ m.role ~ '\\n' ~ m.content ~ '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and not enable_thinking %}{{- '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{%- endif %}"""
)

LLAMA3 = """{%- macro head(role) %}{{- '<|start_header_id|>' ~ role ~ '<|end_header_id|>\\n\\n' }}{% endmacro %}
{{- bos_token }}
{%- set system = messages[0].content | trim if messages[0].role == 'system' else '' %}
{%- set said = messages[1:] if messages[0].role == 'system' else messages %}
{{- head('system') ~ ('Environment: ipython\\n' if tools else '') }}
{{- 'Cutting Knowledge Date: December 2023\\nToday Date: ' ~ strftime_now('%d %b %Y') ~ '\\n\\n' }}
{{- system ~ '<|eot_id|>' }}
{%- for m in said %}
    {%- if m.role == 'user' and tools and loop.first %}
        {{- head('user') ~ 'Functions, as {"name": name, "parameters": arguments}:\\n\\n' }}
        {%- for tool in tools %}{{- (tool | tojson(indent=4)) ~ '\\n\\n' }}{% endfor %}
        {{- m.content | trim }}{{- '<|eot_id|>' }}
    {%- elif m.tool_calls %}
        {%- if m.tool_calls | length != 1 %}{{ raise_exception('This model makes one call at a time!') }}{% endif %}
        {%- set call = m.tool_calls[0].function %}
        {{- head('assistant') ~ '{"name": "' ~ call.name ~ '", "parameters": ' }}
        {{- call.arguments | tojson }}{{- '}<|eot_id|>' }}
    {%- elif m.role == 'tool' %}
        {{- head('ipython') ~ (m.content | tojson) ~ '<|eot_id|>' }}
    {%- else %}
        {{- head(m.role) ~ (m.content | trim) ~ '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- head('assistant') }}{% endif %}"""

MISTRAL = """{%- set system = messages[0].content if messages[0].role == 'system' else none %}
{%- set said = messages if system is none else messages[1:] %}
{%- set asked = said | selectattr('role', 'equalto', 'user') | list %}
{{- bos_token }}
{%- set turn = namespace(number=0) %}
{%- for m in said %}
    {%- if m.role == 'user' or (m.role == 'assistant' and not m.tool_calls) %}
        {%- if (m.role == 'user') != (turn.number % 2 == 0) %}{{ raise_exception('Roles must alternate!') }}{% endif %}
        {%- set turn.number = turn.number + 1 %}
    {%- endif %}
    {%- if m.role == 'user' %}
        {%- if tools and m == asked[-1] %}
            {{- '[AVAILABLE_TOOLS] ' ~ (tools | tojson) ~ '[/AVAILABLE_TOOLS]' }}
        {%- endif %}
        {{- '[INST] ' ~ (system ~ '\\n\\n' if loop.last and system is not none else '') ~ m.content ~ '[/INST]' }}
    {%- elif m.tool_calls %}
        {{- '[TOOL_CALLS] [' }}
        {%- for call in m.tool_calls %}
            {%- if call.id | length != 9 %}{{ raise_exception('Tool call IDs have 9 characters!') }}{% endif %}
            {{- '{"name": "' ~ call.function.name ~ '", "arguments": ' ~ (call.function.arguments | tojson) }}
            {{- ', "id": "' ~ call.id ~ '"}' ~ ('' if loop.last else ', ') }}
        {%- endfor %}
        {{- ']' ~ eos_token }}
    {%- elif m.role == 'assistant' %}
        {{- ' ' ~ (m.content | trim) ~ eos_token }}
    {%- elif m.role == 'tool' %}
        {{- '[TOOL_RESULTS] {"content": ' ~ (m.content | tojson) ~ ', "call_id": "' ~ m.tool_call_id }}
        {{- '"}[/TOOL_RESULTS]' }}
    {%- endif %}
{%- endfor %}"""

GEMMA3 = """{{- bos_token }}
{%- set system = messages[0].content ~ '\\n\\n' if messages[0].role == 'system' else '' %}
{%- for m in (messages[1:] if system else messages) %}
    {%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate!') }}{% endif %}
    {{- '<start_of_turn>' ~ ('model' if m.role == 'assistant' else m.role) ~ '\\n' ~ (system if loop.first else '') }}
    {{- m.content | trim }}{{- '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\\n' }}{% endif %}"""


def _as_it_is(content: str) -> str:
    return content


def _thinking(content: str) -> str:
    """What Qwen3 is expected to write: a thought, if only an empty one, and the answer without lines before it."""
    thought, _, said = content.rpartition("</think>")
    thought = thought.partition("</think>")[0].rstrip("\n").rpartition("<think>")[2].strip("\n")
    return f"<think>\n{thought}\n</think>\n\n" + said.lstrip("\n")


@dataclass(frozen=True, kw_only=True)
class Family:
    """What one family of models does to a conversation."""

    name: str
    template: str
    build: Callable[[Sequence[str]], Tokenizer]
    special: tuple[str, ...]
    plain: tuple[str, ...] = ()
    """Added tokens that are not special."""
    bos: str | None = None
    eos: str
    stops: tuple[str, ...]
    """As generation_config.json lists them."""
    answer: Callable[[str], str] = _as_it_is
    """The content of a message to what the model has to write."""
    most_calls: int = 2

    def write(self, folder: Path) -> Path:
        """The tokenizer's files in `folder`, as a model's folder has them."""
        folder.mkdir(parents=True)
        fast = self.build(self.special)
        fast.add_tokens([AddedToken(text, special=False, normalized=False) for text in self.plain])
        if self.bos is not None:
            pair = (self.bos, fast.token_to_id(self.bos))
            fast.post_processor = processors.TemplateProcessing(single=f"{self.bos} $A", special_tokens=[pair])
        fast.save(str(folder / "tokenizer.json"))
        config = {"bos_token": self.bos, "eos_token": self.eos, "chat_template": self.template}
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        stops = {"eos_token_id": [fast.token_to_id(text) for text in self.stops]}
        (folder / "generation_config.json").write_text(json.dumps(stops))
        return folder


def _byte_level(special: Sequence[str]) -> Tokenizer:
    """As GPT-2's: the model sees bytes, and no text has a space put before it."""
    fast = Tokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return _trained_on_bytes(fast, special)


def _byte_level_by_words(special: Sequence[str]) -> Tokenizer:
    """As Qwen's and Llama 3's: the same, cut by a pattern in which a word takes the character before it."""
    fast = Tokenizer(models.BPE(ignore_merges=True))
    words, to_bytes = Regex(_WORDS), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    fast.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(words, "isolated"), to_bytes])
    return _trained_on_bytes(fast, special)


def _trained_on_bytes(fast: Tokenizer, special: Sequence[str]) -> Tokenizer:
    fast.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        show_progress=False, vocab_size=600, initial_alphabet=alphabet, special_tokens=list(special)
    )
    fast.train_from_iterator(CORPUS, trainer)
    return fast


def _pieces(special: Sequence[str], *, prefix: str) -> Tokenizer:
    """As SentencePiece's BPE: spaces are letters, what is not in the vocabulary is bytes.

    `prefix` says where a space is put before a text: never, first (before all of it), or always (behind special tokens,
    too, as older conversions do).
    """
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.Replace(" ", "▁")
    learner.pre_tokenizer = pre_tokenizers.Split(Regex("(?=▁)"), "isolated")
    learner.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=300, show_progress=False))
    learnt = json.loads(learner.to_str())["model"]
    names = ["<unk>", *special, *(f"<0x{byte:02X}>" for byte in range(256)), *learnt["vocab"], "\n", "\n\n"]
    merges = [(left, right) for left, right in learnt["merges"]]
    if prefix == "never":
        merges.append(("\n", "\n"))
    else:  # Llama's have no token of line feeds
        names = names[:-2]
    vocabulary = {name: number for number, name in enumerate(dict.fromkeys(names))}
    fast = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    strip = [] if prefix == "never" else [decoders.Strip(" ", 1, 0)]
    fast.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    if prefix == "first":
        fast.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    elif prefix == "always":
        fast.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        fast.normalizer = normalizers.Replace(" ", "▁")
    fast.add_special_tokens(["<unk>", *special])
    return fast


_IM = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_HERMES_MARKS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
_MISTRAL_MARKS = ("[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]")

FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        Family(name="chatml", template=CHATML, build=_byte_level, special=_IM, eos="<|im_end|>", stops=("<|im_end|>",)),
        Family(
            name="qwen2.5",
            template=QWEN25,
            build=_byte_level_by_words,
            special=_IM,
            plain=_HERMES_MARKS[:2],
            eos="<|im_end|>",
            stops=("<|im_end|>", "<|endoftext|>"),
        ),
        Family(
            name="qwen3",
            template=QWEN3,
            build=_byte_level_by_words,
            special=_IM,
            plain=_HERMES_MARKS,
            eos="<|im_end|>",
            stops=("<|im_end|>", "<|endoftext|>"),
            answer=_thinking,
        ),
        Family(
            name="llama3",
            template=LLAMA3,
            build=_byte_level_by_words,
            special=(
                "<|begin_of_text|>",
                "<|end_of_text|>",
                "<|start_header_id|>",
                "<|end_header_id|>",
                "<|eom_id|>",
                "<|eot_id|>",
                "<|python_tag|>",
            ),
            bos="<|begin_of_text|>",
            eos="<|eot_id|>",
            stops=("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
            answer=str.strip,
            most_calls=1,
        ),
        Family(
            name="mistral",
            template=MISTRAL,
            build=lambda special: _pieces(special, prefix="first"),
            special=("<s>", "</s>", *_MISTRAL_MARKS, "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
            bos="<s>",
            eos="</s>",
            stops=("</s>",),
            answer=lambda content: " " + content.strip(),
        ),
        Family(
            name="mistral, older conversion",
            template=MISTRAL,
            build=lambda special: _pieces(special, prefix="always"),
            special=("<s>", "</s>", *_MISTRAL_MARKS, "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
            bos="<s>",
            eos="</s>",
            stops=("</s>",),
            answer=lambda content: "  " + content.strip(),  # that vocabulary puts a second space behind [/INST]
        ),
        Family(
            name="gemma3",
            template=GEMMA3,
            build=lambda special: _pieces(special, prefix="never"),
            special=("<bos>", "<eos>", "<pad>", "<start_of_turn>", "<end_of_turn>"),
            bos="<bos>",
            eos="<eos>",
            stops=("<eos>", "<end_of_turn>"),
            answer=str.strip,
        ),
    )
}


def spelled_by(tokenizer_json: str) -> list[str]:
    """The special tokens of a vocabulary, as text."""
    added: list[dict[str, Any]] = json.loads(tokenizer_json)["added_tokens"]
    return [token["content"] for token in added if re.search(r"\W", token["content"])]
