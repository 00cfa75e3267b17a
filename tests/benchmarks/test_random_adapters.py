"""The benchmarks' random adapters are adapters, and the same ones every time."""

from pathlib import Path

from adapters import write_adapters
from brie_core.weights.base_model import BaseModel
from brie_core.weights.lora import check_values, read_adapter


def test_they_are_sound_and_depend_on_their_number_alone(tiny_base: BaseModel, tmp_path: Path) -> None:
    first, second = write_adapters(tmp_path / "once", tiny_base, 2)
    again = write_adapters(tmp_path / "again", tiny_base, 2)[1]
    adapter = read_adapter(first, tiny_base.linear_modules)
    check_values(adapter)
    assert {module.name for module in adapter.modules} == set(tiny_base.linear_modules)
    assert {module.rank for module in adapter.modules} == {16}
    weights = [(folder / "adapter_model.safetensors").read_bytes() for folder in (first, second, again)]
    assert weights[1] == weights[2] != weights[0]
