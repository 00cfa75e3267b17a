"""Reading checkpoints: every tensor has its place, or the model is refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from brie_core.errors import BadConfiguration
from brie_core.weights.base_model import BaseModel, open_base_model
from brie_server.engine.torch.architecture import Site, read_architecture
from brie_server.engine.torch.target import Target
from brie_server.engine.torch.weights import Weights, load_weights
from server.engine.tiny_models import TinyModel

CPU = torch.device("cpu")


def load(base: BaseModel, dtype: torch.dtype = torch.float32) -> Weights:
    return load_weights(base, read_architecture(base.config), Target(CPU, dtype))


def changed(
    model: TinyModel, folder: Path, tensors: dict[str, torch.Tensor], drop: str = "", **config: object
) -> BaseModel:
    """A copy of a checkpoint with other tensors and another config."""
    source = model.base.folder
    kept = {name: tensor for name, tensor in load_file(source / "model.safetensors").items() if name != drop}
    save_file(kept | tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(dict(model.base.config) | config))
    return open_base_model("changed", folder, folder / "digests.json")


def test_query_key_and_value_are_stacked_in_this_order(tiny_model: TinyModel) -> None:
    stored = load_file(tiny_model.base.folder / "model.safetensors")
    parts = [stored[f"model.layers.1.self_attn.{part}_proj.weight"] for part in "qkv"]
    x_NI = torch.eye(parts[0].shape[1])
    stacked_IO = load(tiny_model.base).layers[1].linears[Site.QKV].apply(x_NI)
    assert torch.equal(stacked_IO.T, torch.cat(parts))


def test_a_tied_head_is_the_embedding_itself(tiny_models: dict[str, TinyModel]) -> None:
    weights = load(tiny_models["llama-tied"].base)
    x_NE = torch.eye(weights.embedding_VE.shape[1])
    assert torch.equal(weights.head.apply(x_NE).T, weights.embedding_VE)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_are_read_in_any_floating_type(tiny_model: TinyModel, tmp_path: Path, stored: torch.dtype) -> None:
    norm = torch.randn(32).to(stored)
    base = changed(tiny_model, tmp_path, {"model.norm.weight": norm})
    assert torch.equal(load(base).norm_E, norm.float())
    assert load(base, torch.bfloat16).norm_E.dtype == torch.bfloat16


def test_a_tensor_that_nobody_reads_is_refused(tiny_model: TinyModel, tmp_path: Path) -> None:
    base = changed(tiny_model, tmp_path, {"model.layers.0.self_attn.o_proj.bias": torch.zeros(32)})
    with pytest.raises(BadConfiguration, match=r"o_proj\.bias"):
        load(base)


def test_a_missing_tensor_is_refused(tiny_model: TinyModel, tmp_path: Path) -> None:
    base = changed(tiny_model, tmp_path, {}, drop="model.layers.1.mlp.up_proj.weight")
    with pytest.raises(BadConfiguration, match=r"lacks model\.layers\.1\.mlp\.up_proj\.weight"):
        load(base)


def test_a_tensor_of_another_shape_is_refused(tiny_model: TinyModel, tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match="embed_tokens"):
        load(changed(tiny_model, tmp_path, {}, vocab_size=198))


def test_what_old_checkpoints_store_besides_is_no_obstacle(tiny_models: dict[str, TinyModel], tmp_path: Path) -> None:
    besides = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4), "lm_head.weight": torch.ones(199, 32)}
    base = changed(tiny_models["llama-tied"], tmp_path, besides)
    assert load(base).norm_E.shape == (32,)
