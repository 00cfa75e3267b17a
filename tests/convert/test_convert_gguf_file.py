"""The header's arrays, byte for byte as the library writes them."""

from pathlib import Path
from typing import Any

import gguf
import pytest

from brie_convert.gguf_file import Contents, write_gguf


@pytest.mark.parametrize(
    "value",
    [["<|a|>", "é 中 😀", " ", "b" * 300], [1, -1, 2**31 - 1, 0], [0.0, -1.5, 1e-6], [True, False], ["one"]],
    ids=["texts", "integers", "numbers", "switches", "one"],
)
def test_an_array_is_written_as_by_the_library(value: Any, tmp_path: Path) -> None:
    write_gguf(tmp_path / "ours.gguf", Contents("llama", {"tokenizer.things": value}, [], []), lambda _: None)
    theirs = gguf.GGUFWriter(tmp_path / "theirs.gguf", "llama")
    theirs.add_array("tokenizer.things", value)
    theirs.write_header_to_file()
    theirs.write_kv_data_to_file()
    theirs.write_ti_data_to_file()
    theirs.close()
    written = (tmp_path / "theirs.gguf").read_bytes()
    assert (tmp_path / "ours.gguf").read_bytes().startswith(written)
    assert len((tmp_path / "ours.gguf").read_bytes()) - len(written) < 32  # the tensors' alignment
