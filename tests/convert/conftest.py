"""Small real models for the converter: random weights, and BPE vocabularies trained on the spot."""

import json
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from brie_convert.architecture import read_architecture
from brie_convert.gguf_file import Contents, write_gguf
from brie_convert.manifest import AdapterFolder, ExportRequest
from brie_convert.metadata import header
from brie_convert.pipeline import ExportResult, export
from brie_convert.plan import plan_tensors
from brie_convert.probe_texts import probe_texts
from brie_convert.quantize import STREAMED, file_type
from brie_convert.vocabulary import Vocabulary, read_vocabulary
from brie_core.errors import InvalidAdapter
from brie_core.store.adapters import adapter_digest
from brie_core.text.tokenizer import Tokenizer
from brie_core.weights.base_model import BaseModel, open_base_model
from brie_core.weights.lora import read_adapter
from pieces import FORMS, save_pieces

_ROWS = 704
_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{%- generation -%}{{ message['content'] + '<|im_end|>' }}{%- endgeneration %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
# llama.cpp's name -> the regex of Hugging Face's tokenizer.json; None splits as GPT-2
_PATTERNS = {
    "smollm": None,
    "gpt-2": None,
    "qwen2": rf"{_WORDS}\p{{N}}|{_REST}",
    "llama-bpe": rf"{_WORDS}\p{{N}}{{1,3}}|{_REST}",
    "smaug-bpe": rf"{_WORDS}\p{{N}}{{1,3}}|{_REST}",
}
_COMMON = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": _ROWS,
    "max_position_embeddings": 512,
    "initializer_range": 0.15,
    "bos_token_id": None,
    "eos_token_id": None,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
_GEMMA = {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 48, "num_hidden_layers": 3}
_GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 50000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0},
}
_MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("Llama", "smollm", {"tie_word_embeddings": True}),
    "llama3": ("Llama", "llama-bpe", {"head_dim": 32, "rope_parameters": _LLAMA3, "tie_word_embeddings": False}),
    "wide": ("Llama", "gpt-2", {"hidden_size": 256, "intermediate_size": 512, "tie_word_embeddings": False}),
    "qwen2": ("Qwen2", "qwen2", {"tie_word_embeddings": False}),
    "qwen3": ("Qwen3", "qwen2", {"head_dim": 32, "tie_word_embeddings": True}),
    "llama linear": ("Llama", "always", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}}),
    "llama yarn": ("Llama", "smollm", {"rope_parameters": _YARN | {"attention_factor": 1.5}}),
    "qwen2 yarn": ("Qwen2", "qwen2", {"rope_parameters": _YARN}),
    "qwen3 yarn": (
        "Qwen3",
        "qwen2",
        {"head_dim": 32, "rope_parameters": _YARN | {"mscale": 1.2, "mscale_all_dim": 0.7}},
    ),
    "mistral": ("Mistral", "always", {"sliding_window": 300}),
    "gemma2": ("Gemma2", "never", {**_GEMMA, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 12.0}),
    "gemma3": (
        "Gemma3Text",
        "never",
        {
            **_GEMMA,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": _GEMMA3_ROPE,
            "vocab_size": _ROWS + 5,
        },
    ),
}

Checkpoint = Callable[[str], BaseModel]
Export = Callable[..., tuple[Path, ExportResult]]
Request = Callable[..., ExportRequest]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A tiny random model as transformers saves it: one of each family, and each kind of rope."""

    @cache
    def build(name: str) -> BaseModel:
        folder = tmp_path_factory.mktemp("bases") / name
        _save_model(folder, name)
        _save_tokenizer(folder, _MODELS[name][1])
        return open_base_model(name, folder, folder.parent / "digests.json")

    return build


@pytest.fixture(scope="session")
def write_adapter() -> Callable[[BaseModel, Path], Path]:
    """A sound adapter with random B for the attention of a base, without PEFT."""
    return _write_adapter


@pytest.fixture(scope="session")
def save_tokenizer() -> Callable[[Path, str], None]:
    """Writes a tokenizer split as llama.cpp's pre-tokenizer of that name."""
    return _save_tokenizer


@pytest.fixture
def write_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes one file as the pipeline does, without its judgement; `change` may spoil the vocabulary."""

    def write(
        base: BaseModel,
        quantization: str = "f16",
        adapter: Path | None = None,
        change: Callable[[Vocabulary], Vocabulary] = lambda vocabulary: vocabulary,
    ) -> Path:
        architecture, file = read_architecture(base.config), tmp_path / f"{base.id}-{quantization}.gguf"
        lora = read_adapter(adapter, base.linear_modules) if adapter else None
        tensors = plan_tensors(architecture, base.tensors, lora, STREAMED[quantization])
        rows = tensors[0].source.shape[0]
        vocabulary = change(read_vocabulary(base.folder, Tokenizer(base.folder), rows))
        fields = header(architecture, vocabulary, {}, 1000, file_type(quantization))
        contents = Contents(architecture.family, fields, tensors, architecture.rope_factors)
        write_gguf(file, contents, lambda _fraction: None)
        return file

    return write


@pytest.fixture
def request_for(tmp_path: Path) -> Request:
    """A request whose output is a folder under `tmp_path`; logits are not compared, which takes seconds."""

    def build(base: BaseModel, quantization: str | None, adapter: Path | None = None, **options: Any) -> ExportRequest:
        version = AdapterFolder(_version(base, adapter), adapter) if adapter else None
        output, given = tmp_path / "exports" / (quantization or str(options["format"])), {"compare": False} | options
        return ExportRequest("ft:tiny:brie:test", base, version, quantization, output, tmp_path / "work", **given)

    return build


@pytest.fixture
def run_export(request_for: Request) -> Export:
    """Exports, and gives the main file with the result."""

    def run(
        base: BaseModel, quantization: str | None, adapter: Path | None = None, **options: Any
    ) -> tuple[Path, ExportResult]:
        request = request_for(base, quantization, adapter, **options)
        result = export(request, lambda _message, _fraction: None)
        return request.output / result.files[0].filename, result

    return run


@pytest.fixture(scope="session", autouse=True)
def _llama_cpp_closes_its_files() -> Iterator[None]:
    """llama_cpp keeps /dev/null open until the interpreter ends, and that end complains of it."""
    yield
    if "llama_cpp" in sys.modules:
        for file in (sys.modules["llama_cpp._utils"].outnull_file, sys.modules["llama_cpp._utils"].errnull_file):
            file.close()


@pytest.fixture(autouse=True)
def _training_libraries_may_deprecate_each_other() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft)\.")
        yield


def _version(base: BaseModel, adapter: Path) -> str:
    """As the store would name it; a folder it would refuse has no name."""
    try:
        return adapter_digest(read_adapter(adapter, base.linear_modules), base.digest)
    except InvalidAdapter:
        return "0" * 64


def _save_model(folder: Path, name: str) -> None:
    import torch
    import transformers

    prefix, _, options = _MODELS[name]
    config = getattr(transformers, f"{prefix}Config")(**{**_COMMON, **options})
    torch.manual_seed(0)
    model = getattr(transformers, f"{prefix.removesuffix('Text')}ForCausalLM")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # norms and biases start as ones and zeros, under which a lost one goes unseen
                parameter.uniform_(0.5, 1.5)
    model.save_pretrained(folder)


def _write_adapter(base: BaseModel, folder: Path) -> Path:
    folder.mkdir(parents=True)
    dice = np.random.default_rng(0)
    tensors = {}
    for name, (rows, columns) in base.linear_modules.items():
        if "self_attn" in name:
            prefix = f"base_model.model.{name}.lora_"
            tensors[f"{prefix}A.weight"] = dice.normal(0, 0.02, (4, columns)).astype(np.float32)
            tensors[f"{prefix}B.weight"] = dice.normal(0, 0.02, (rows, 4)).astype(np.float32)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": [f"{x}_proj" for x in "qkvo"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def _save_tokenizer(folder: Path, pre_tokenizer: str) -> None:
    if pre_tokenizer in FORMS:
        save_pieces(folder, pre_tokenizer)
    else:
        _save_bytes(folder, pre_tokenizer)


def _save_bytes(folder: Path, pre_tokenizer: str) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(ignore_merges=pre_tokenizer == "llama-bpe"))
    tokenizer.pre_tokenizer = _splitting(pre_tokenizer)
    tokenizer.decoder = decoders.ByteLevel()
    if pre_tokenizer == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=_ROWS - 20,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(probe_texts((), 1000), trainer)
    tokenizer.add_tokens([AddedToken("<|extra|>", special=False, normalized=False)])
    if pre_tokenizer == "llama-bpe":
        bos = [("<|im_start|>", 1)]
        tokenizer.post_processor = processors.TemplateProcessing(single="<|im_start|> $A", special_tokens=bos)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"eos_token": "<|im_end|>"} | ({} if pre_tokenizer == "qwen2" else {"bos_token": "<|im_start|>"})
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    (folder / "chat_template.jinja").write_text(_TEMPLATE)
    (folder / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [2, 0, tokenizer.token_to_id("<|extra|>")]})
    )


def _splitting(name: str) -> Any:
    from tokenizers import Regex, pre_tokenizers

    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if name == "smollm" else []
    if pattern := _PATTERNS[name]:
        steps.append(pre_tokenizers.Split(Regex(pattern), behavior="isolated"))
    return pre_tokenizers.Sequence(
        [*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)]
    )
