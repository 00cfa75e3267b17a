"""The tiny checkpoints as GGUF files, written by the converter. It knows no engine."""

from pathlib import Path

from brie_convert.architecture import read_architecture
from brie_convert.gguf_file import Contents, write_gguf
from brie_convert.metadata import header
from brie_convert.plan import Storage, plan_tensors
from brie_convert.vocabulary import Vocabulary
from brie_core.weights.base_model import BaseModel
from brie_core.weights.gguf_model import GgufModel, open_gguf_model

_FILE_TYPES = {"F32": 0, "F16": 1}


def write_tiny_gguf(
    base: BaseModel, folder: Path, storage: Storage = "F32", first_tokens: tuple[str, ...] = ()
) -> GgufModel:
    """`base`, whose checkpoint has no tokenizer, with as many made-up tokens as it has embeddings."""
    architecture = read_architecture(base.config)
    tensors = plan_tensors(architecture, base.tensors, None, storage)
    vocabulary = _made_up(int(base.config["vocab_size"]), first_tokens)
    fields = header(architecture, vocabulary, {}, 1000, _FILE_TYPES[storage])
    file = folder / f"{base.id}.gguf"
    contents = Contents(architecture.family, fields, tensors, architecture.rope_factors)
    write_gguf(file, contents, lambda _fraction: None)
    return open_gguf_model(file, folder / "digests.json")


def _made_up(size: int, first: tuple[str, ...]) -> Vocabulary:
    return Vocabulary(
        tokens=(*first, *(f"t{number}" for number in range(len(first), size))),
        types=(1,) * size,
        merges=("t 0",),
        pre_tokenizer="gpt-2",
        normalizer=None,
        adds_bos=False,
        adds_eos=False,
        special_ids={},
        stop_ids=frozenset(),
        chat_template=None,
    )
