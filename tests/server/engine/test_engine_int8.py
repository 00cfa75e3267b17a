"""Weights in eight bits: what they lose, and that one row computes with the same as many."""

import pytest
import torch

from brie_core.errors import BadConfiguration
from brie_server.engine.torch.architecture import read_architecture
from brie_server.engine.torch.compiled.rows import int8_row
from brie_server.engine.torch.device import choose_dtype, choose_target
from brie_server.engine.torch.linear import fits_half
from brie_server.engine.torch.linear_int8 import int8_linear, quantize
from brie_server.engine.torch.runner import Runner
from brie_server.engine.torch.scheduler import Limits, Scheduler
from server.engine.asking import CPU, drive, prompt
from server.engine.tiny_models import CONTEXT_LENGTH, TinyModel, token_ids


def weight(outputs: int = 48, inputs: int = 100) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(outputs, inputs, generator=generator) * torch.logspace(-4, 1, outputs)[:, None]


def test_a_number_loses_at_most_half_a_step_and_a_step_is_as_small_as_four_bits_allow() -> None:
    weight_OI = weight()
    int8_OI, scale_O1 = quantize(weight_OI)
    assert ((int8_OI * scale_O1 - weight_OI).abs() <= scale_O1 / 2 * 1.0001).all()
    least_O1 = weight_OI.abs().amax(1, keepdim=True) / 127
    assert ((scale_O1 >= least_O1) & (scale_O1 <= least_O1 * 1.126)).all()
    assert fits_half(int8_OI * scale_O1)


def test_a_line_of_zeros_stays_one() -> None:
    int8_OI, scale_O1 = quantize(torch.zeros(3, 8))
    assert not int8_OI.any()
    assert not scale_O1.any()


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("inputs", [8, 32, 100, 576])
def test_one_row_is_computed_with_the_weights_of_many(inputs: int, has_bias: bool) -> None:
    weight_OI, x_NI = weight(inputs=inputs), torch.randn(5, inputs, generator=torch.Generator().manual_seed(2))
    bias_O = torch.arange(48.0) if has_bias else None
    product = int8_linear(weight_OI, bias_O, int8_row())
    several, one = product.apply(x_NI), product.apply(x_NI[2:3].contiguous())
    int8_OI, scale_O1 = quantize(weight_OI)
    expected = torch.nn.functional.linear(x_NI, int8_OI * scale_O1, bias_O)
    assert torch.allclose(several, expected, rtol=1e-5, atol=1e-4)
    assert torch.allclose(one, several[2:3], rtol=1e-5, atol=1e-4)


def test_a_model_with_such_weights_answers_alone_as_among_others(tiny_model: TinyModel) -> None:
    base = tiny_model.base
    runner = Runner(base, read_architecture(base.config), choose_target(CPU, choose_dtype("int8", CPU)))
    asked = [prompt(token_ids(20, seed), 12) for seed in range(4)]

    def answers(prompts: list[prompt]) -> list[list[int]]:  # type: ignore[valid-type]
        return drive(Scheduler(Limits(), token_budget=4096, context_length=CONTEXT_LENGTH), runner, prompts)[0]

    together = answers(asked)
    assert together == [answers([each])[0] for each in asked]


def test_other_devices_refuse_them() -> None:
    with pytest.raises(BadConfiguration, match="int8"):
        choose_target(torch.device("mps"), torch.int8)
