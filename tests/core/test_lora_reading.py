"""Reading adapters: whatever is not whole, sound and of this base is refused by a stable code."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peft import LoraConfig
from peft.tuners.lora import LoraModel
from safetensors.numpy import load_file, save_file

from brie_core.errors import InvalidAdapter
from brie_core.weights.base_model import BaseModel
from brie_core.weights.lora import check_values, read_adapter
from tiny_models import write_lora, write_tiny_llama

Tensors = dict[str, Any]
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def folder(tiny_lora: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_lora, tmp_path / "lora"))


def configure(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | changes))


def retensor(folder: Path, change: Callable[[Tensors], Any]) -> None:
    tensors = dict(load_file(folder / WEIGHTS))
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def code_of(folder: Path, base: BaseModel) -> str | None:
    with pytest.raises(InvalidAdapter) as caught:
        check_values(read_adapter(folder, base.linear_modules))
    return caught.value.code


def test_a_sound_adapter_is_read_whole(folder: Path, tiny_base: BaseModel) -> None:
    adapter = read_adapter(folder, tiny_base.linear_modules)
    check_values(adapter)
    assert [module.name for module in adapter.modules] == sorted(tiny_base.linear_modules)
    assert {(module.rank, module.scale) for module in adapter.modules} == {(4, 2.0)}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"use_rslora": True}, {("q_proj", 4, 4.0), ("v_proj", 4, 4.0)}),
        ({"rank_pattern": {"q_proj": 8}}, {("q_proj", 8, 1.0), ("v_proj", 4, 2.0)}),
        (
            {"alpha_pattern": {"layers.0.self_attn.v_proj": 16}},
            {("q_proj", 4, 2.0), ("v_proj", 4, 4.0), ("v_proj", 4, 2.0)},
        ),
    ],
)
def test_ranks_and_scales_are_those_of_peft(
    options: dict[str, Any],
    expected: set[tuple[str, int, float]],
    tiny_model: Path,
    tiny_base: BaseModel,
    tmp_path: Path,
) -> None:
    write_lora(tmp_path / "lora", tiny_model, target_modules=["q_proj", "v_proj"], **options)
    modules = read_adapter(tmp_path / "lora", tiny_base.linear_modules).modules
    assert {(module.name.split(".")[-1], module.rank, module.scale) for module in modules} == expected
    assert modules[0].scale == pytest.approx(_peft_scale(tmp_path / "lora", tiny_model, modules[0].name))


def _peft_scale(folder: Path, base: Path, name: str) -> float:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)
    assert isinstance(model.base_model, LoraModel)
    return float(model.base_model.model.get_submodule(name).scaling["default"])


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"peft_type": "LOHA"}, "adapter_unsupported"),
        ({"use_dora": True}, "adapter_unsupported"),
        ({"modules_to_save": ["lm_head"]}, "adapter_unsupported"),
        ({"bias": "all"}, "adapter_unsupported"),
        ({"r": 0}, "adapter_config_invalid"),
        ({"lora_alpha": "x"}, "adapter_config_invalid"),
        ({"r": 8}, "adapter_shape_mismatch"),
        ({"rank_pattern": {"(": 2}}, "adapter_config_invalid"),
        ({"layers_to_transform": 1.5}, "adapter_config_invalid"),
        ({"layers_to_transform": [[1]]}, "adapter_config_invalid"),
    ],
)
def test_a_config_that_cannot_be_applied_is_refused(
    changes: dict[str, Any], code: str, folder: Path, tiny_base: BaseModel
) -> None:
    configure(folder, **changes)
    assert code_of(folder, tiny_base) == code


def test_a_missing_tensor_is_refused(folder: Path, tiny_base: BaseModel) -> None:
    retensor(folder, lambda tensors: tensors.pop(next(name for name in tensors if "lora_B" in name)))
    assert code_of(folder, tiny_base) == "adapter_missing_keys"


def test_a_module_the_config_promises_must_be_there(folder: Path, tiny_base: BaseModel) -> None:
    def drop(tensors: Tensors) -> None:
        for name in [name for name in tensors if "layers.1.mlp.up_proj" in name]:
            del tensors[name]

    retensor(folder, drop)
    assert code_of(folder, tiny_base) == "adapter_missing_keys"


def test_a_tensor_without_a_place_is_refused(folder: Path, tiny_base: BaseModel) -> None:
    extra = {"base_model.model.lm_head.lora_A.weight": np.ones((4, 64), np.float32)}
    retensor(folder, lambda tensors: tensors.update(extra))
    assert code_of(folder, tiny_base) == "adapter_unexpected_keys"


def test_an_adapter_of_another_architecture_matches_nothing(folder: Path, tiny_base: BaseModel) -> None:
    def rename(tensors: Tensors) -> None:
        for name in list(tensors):
            tensors[name.replace("model.layers", "transformer.h")] = tensors.pop(name)

    retensor(folder, rename)
    assert code_of(folder, tiny_base) == "adapter_no_modules_matched"


def test_an_adapter_of_another_size_is_refused(tiny_base: BaseModel, default_model: BaseModel, tmp_path: Path) -> None:
    other = write_tiny_llama(tmp_path / "other", default_model.folder, hidden_size=32)
    assert code_of(write_lora(tmp_path / "lora", other), tiny_base) == "adapter_shape_mismatch"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(value: float, folder: Path, tiny_base: BaseModel) -> None:
    def spoil(tensors: Tensors) -> None:
        name = sorted(tensors)[3]
        tensors[name] = tensors[name].copy()
        tensors[name].flat[5] = value

    retensor(folder, spoil)
    assert code_of(folder, tiny_base) == "adapter_not_finite"


def test_an_adapter_that_does_nothing_is_refused(tiny_model: Path, tiny_base: BaseModel, tmp_path: Path) -> None:
    assert code_of(write_lora(tmp_path / "zero", tiny_model, zero_b=True), tiny_base) == "adapter_no_effect"


def test_pickles_are_never_opened(folder: Path, tiny_base: BaseModel) -> None:
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")
    assert code_of(folder, tiny_base) == "adapter_pickle"


@pytest.mark.parametrize("keep", [0, 4, 100, 5000])
def test_a_torn_file_is_refused(keep: int, folder: Path, tiny_base: BaseModel) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:keep])
    assert code_of(folder, tiny_base) == "adapter_weights_corrupt"


def test_an_absurd_header_is_refused_without_reading_it(folder: Path, tiny_base: BaseModel) -> None:
    (folder / WEIGHTS).write_bytes((2**63).to_bytes(8, "little") + b"{}")
    assert code_of(folder, tiny_base) == "adapter_weights_corrupt"


def test_a_folder_without_config_says_so(tmp_path: Path, tiny_base: BaseModel) -> None:
    assert code_of(tmp_path, tiny_base) == "adapter_config_missing"


HARMLESS = {"lora_dropout", "task_type", "revision", "inference_mode", "peft_version", "auto_mapping"}
HARMLESS |= {"base_model_name_or_path", "ensure_weight_tying", "loftq_config", "megatron_core", "runtime_config"}
APPLIED = {"r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "peft_type", "qalora_group_size"}
APPLIED |= {"target_modules", "exclude_modules", "layers_to_transform"}


@pytest.mark.parametrize(
    "field", sorted(set(LoraConfig.__dataclass_fields__) - HARMLESS - APPLIED - {"init_lora_weights"})
)
def test_whatever_else_peft_can_do_is_refused_by_name(field: str, folder: Path, tiny_base: BaseModel) -> None:
    configure(folder, **{field: "something"})
    assert code_of(folder, tiny_base) == "adapter_unsupported"


def test_an_initialisation_that_changed_the_base_is_refused(folder: Path, tiny_base: BaseModel) -> None:
    configure(folder, init_lora_weights="pissa")
    assert code_of(folder, tiny_base) == "adapter_unsupported"
