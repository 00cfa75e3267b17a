"""The Modelfile: a template where pieces around messages say the same as the model's own, and else none."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from brie_convert.manifest import Sources
from brie_convert.modelfile import modelfile, read_turns
from brie_core.text.tokenizer import Tokenizer
from brie_core.weights.base_model import BaseModel

_CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_DEFAULT = "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe good.<|im_end|>\n' }}{% endif %}"
_GO = (
    "{{- range .Messages }}"
    '{{ if eq .Role "system" }}<|im_start|>system\n{{ .Content }}<|im_end|>\n'
    '{{ else if eq .Role "user" }}<|im_start|>user\n{{ .Content }}<|im_end|>\n'
    '{{ else if eq .Role "assistant" }}<|im_start|>assistant\n{{ .Content }}<|im_end|>\n'
    "{{ end }}{{ end }}<|im_start|>assistant\n"
)


@pytest.fixture
def folder(save_tokenizer: Callable[[Path, str], None], tmp_path: Path) -> Path:
    save_tokenizer(tmp_path, "smollm")
    return tmp_path


def _sources(folder: Path, template: str) -> Sources:
    return Sources(Tokenizer(folder, template), None, {})


def test_turns_become_a_go_template_and_stops_parameters(folder: Path) -> None:
    text = modelfile("x.gguf", _sources(folder, _CHATML))
    assert text == (
        f'FROM ./x.gguf\nTEMPLATE """{_GO}"""\n'
        'PARAMETER stop "<|endoftext|>"\nPARAMETER stop "<|im_end|>"\nPARAMETER stop "<|extra|>"\n'
    )


def test_what_the_template_says_as_the_system_is_the_system_of_the_modelfile(folder: Path) -> None:
    text = modelfile("x.gguf", _sources(folder, _DEFAULT + _CHATML))
    assert f'TEMPLATE """{_GO}"""\nSYSTEM """Be good."""\n' in text


def test_an_adapters_own_system_goes_before_the_templates(folder: Path) -> None:
    sources = Sources(Tokenizer(folder, _DEFAULT + _CHATML), None, {"system": "Be a philosopher."})
    assert 'SYSTEM """Be a philosopher."""' in modelfile("x.gguf", sources)


@pytest.mark.parametrize(
    "template",
    [
        _CHATML.replace("m['content']", "m['content'] | trim"),
        _CHATML.replace("{% for m in messages %}", "{% for m in messages[-2:] %}"),
        _CHATML + "{{ tools }}",
        _CHATML.replace("<|im_start|>", "{{"),
        "{{ raise_exception('no system') if messages[0]['role'] == 'system' }}" + _CHATML,
        "{{ strftime_now('%d') }}" + _CHATML,
    ],
)
def test_a_template_that_is_more_than_turns_is_left_to_the_file(folder: Path, template: str) -> None:
    text = modelfile("x.gguf", _sources(folder, template))
    assert "TEMPLATE" not in text
    assert 'PARAMETER stop "<|im_end|>"' in text


def test_what_ollama_puts_before_every_text_is_not_in_the_template(
    save_tokenizer: Callable[[Path, str], None], tmp_path: Path
) -> None:
    save_tokenizer(tmp_path, "llama-bpe")  # its tokenizer begins every text with <|im_start|>
    turns = read_turns(Tokenizer(tmp_path, "<|im_start|>" + _CHATML))
    assert turns is not None
    assert turns.go_template() == _GO
    assert read_turns(Tokenizer(tmp_path, _CHATML.replace("<|im_start|>", "<|x|>"))) is None


def test_the_default_models_template_is_one_of_turns(default_model: BaseModel) -> None:
    tokenizer = Tokenizer(default_model.folder)
    turns = read_turns(tokenizer)
    assert turns is not None
    assert turns.system
    conversation = [{"role": "user", "content": "Who was Spinoza?"}]
    assert turns.rendered(conversation) == tokenizer.render(conversation, add_generation_prompt=True)
    assert json.dumps(turns.system)[1:-1] in json.dumps(modelfile("x.gguf", Sources(tokenizer, None, {})))
