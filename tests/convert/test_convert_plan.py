"""The plan is complete or it is an error."""

from pathlib import Path

import pytest

from brie_convert.architecture import Architecture, read_architecture
from brie_convert.plan import check_tied, plan_tensors
from brie_core.errors import InvalidAdapter, InvalidRequest
from brie_core.weights.lora import LoraAdapter, LoraModule
from brie_core.weights.safetensors import TensorInfo

_NORMS = ("input_layernorm", "post_attention_layernorm")
_MATRICES = {
    "self_attn.q_proj": (64, 64),
    "self_attn.k_proj": (32, 64),
    "self_attn.v_proj": (32, 64),
    "self_attn.o_proj": (64, 64),
    "mlp.gate_proj": (96, 64),
    "mlp.up_proj": (96, 64),
    "mlp.down_proj": (64, 96),
}


def _architecture(*, tied: bool = True) -> Architecture:
    return read_architecture(
        {
            "model_type": "llama",
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "hidden_size": 64,
            "intermediate_size": 96,
            "max_position_embeddings": 128,
            "tie_word_embeddings": tied,
        }
    )


def _info(name: str, shape: tuple[int, ...], dtype: str = "BF16") -> TensorInfo:
    return TensorInfo(name, dtype, shape, Path("model.safetensors"), 0, 2 * shape[0] * shape[-1])


def _tensors() -> dict[str, TensorInfo]:
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (100, 64), "model.norm.weight": (64,)}
    shapes |= {f"model.layers.0.{name}.weight": (64,) for name in _NORMS}
    shapes |= {f"model.layers.0.{name}.weight": shape for name, shape in _MATRICES.items()}
    return {name: _info(name, shape) for name, shape in shapes.items()}


def _adapter(*names: str) -> LoraAdapter:
    return LoraAdapter({}, tuple(LoraModule(name, 4, 2.0, _info("a", (4, 64)), _info("b", (64, 4))) for name in names))


def test_every_tensor_has_its_place_and_only_llamas_q_and_k_are_regrouped() -> None:
    plan = {tensor.name: tensor for tensor in plan_tensors(_architecture(), _tensors(), None, "F16")}
    assert len(plan) == len(_tensors())
    assert {name: tensor.heads for name, tensor in plan.items() if tensor.heads} == {
        "blk.0.attn_q.weight": 4,
        "blk.0.attn_k.weight": 2,
    }
    assert plan["blk.0.attn_norm.weight"].storage == "F32"
    assert plan["token_embd.weight"].storage == "F16"


def test_without_a_storage_only_what_is_merged_is_widened() -> None:
    adapter = _adapter("model.layers.0.mlp.up_proj")
    plan = {tensor.name: tensor for tensor in plan_tensors(_architecture(), _tensors(), adapter, None)}
    assert plan["blk.0.ffn_up.weight"].storage == "F32"
    assert plan["blk.0.ffn_down.weight"].storage == "BF16"


def test_each_module_is_merged_once() -> None:
    adapter = _adapter("model.layers.0.mlp.up_proj", "model.layers.0.self_attn.q_proj")
    plan = plan_tensors(_architecture(), _tensors(), adapter, "F16")
    assert {tensor.lora.name for tensor in plan if tensor.lora} == {module.name for module in adapter.modules}


def test_a_module_without_a_place_is_an_error() -> None:
    with pytest.raises(InvalidAdapter, match="lm_head"):
        plan_tensors(_architecture(), _tensors(), _adapter("lm_head"), "F16")


def test_a_missing_tensor_is_an_error() -> None:
    with pytest.raises(InvalidRequest, match=r"lacks lm_head\.weight"):
        plan_tensors(_architecture(tied=False), _tensors(), None, "F16")


def test_a_tensor_without_a_place_is_an_error() -> None:
    tensors = _tensors() | {"model.layers.0.self_attn.q_proj.bias": _info("x", (64,))}
    with pytest.raises(InvalidRequest, match=r"q_proj\.bias"):
        plan_tensors(_architecture(), tensors, None, "F16")


def test_an_old_checkpoints_rotary_buffer_is_passed_over() -> None:
    tensors = _tensors() | {"model.layers.0.self_attn.rotary_emb.inv_freq": _info("x", (8,), "F32")}
    assert len(plan_tensors(_architecture(), tensors, None, "F16")) == len(_tensors())


def test_integer_weights_are_an_error() -> None:
    tensors = _tensors() | {"model.norm.weight": _info("model.norm.weight", (64,), "I8")}
    with pytest.raises(InvalidRequest, match=r"model\.norm\.weight is stored as I8"):
        plan_tensors(_architecture(), tensors, None, "F16")


def test_rows_that_do_not_fit_q8_0_stay_f16() -> None:
    tensors = _tensors() | {"model.embed_tokens.weight": _info("model.embed_tokens.weight", (100, 40))}
    assert plan_tensors(_architecture(), tensors, None, "Q8_0")[0].storage == "F16"


def test_a_tied_model_may_repeat_its_embedding_but_not_contradict_it(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(bytes(range(8)))
    embedding = TensorInfo("model.embed_tokens.weight", "BF16", (2, 1), tmp_path / "w", 0, 4)
    check_tied(_architecture(), {embedding.name: embedding, "lm_head.weight": embedding})
    other = TensorInfo("lm_head.weight", "BF16", (2, 1), tmp_path / "w", 4, 4)
    with pytest.raises(InvalidRequest, match="lm_head"):
        check_tied(_architecture(), {embedding.name: embedding, other.name: other})
