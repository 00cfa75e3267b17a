"""The model's products: whichever form a weight gets, float32 arithmetic cannot tell it from the weight itself."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from brie_server.engine.torch.linear import fits_half, linear


@pytest.mark.parametrize("size", [1.0, 0.1, 0.03])
def test_a_weight_that_was_bfloat16_fits_half(size: float) -> None:
    torch.manual_seed(0)
    assert fits_half((torch.randn(40, 600) * size).bfloat16().float())


@pytest.mark.parametrize("number", [7e4, 65519.0, 1e38, torch.inf, torch.nan, 1e-6, 2**-26, 1e-30, 1.0001])
def test_a_row_that_half_would_change_does_not_fit(number: float) -> None:
    weight_OI = torch.ones(5000, 4)
    weight_OI[4500] = 0
    assert fits_half(weight_OI)
    weight_OI[4500, 2] = number
    assert not fits_half(weight_OI)


def test_random_float32_does_not_fit_half() -> None:
    assert not fits_half(torch.randn(8, 64))


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(st.integers(0, 70), st.integers(1, 130), st.integers(1, 200)),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_a_product_is_exact_to_float32(sizes: tuple[int, int, int], is_half: bool, has_bias: bool, seed: int) -> None:
    torch.manual_seed(seed)
    num, outputs, inputs = sizes
    weight_OI, bias_O = torch.randn(outputs, inputs), torch.randn(outputs) if has_bias else None
    weight_OI = weight_OI.bfloat16().float() if is_half else weight_OI
    x_NI, product = torch.randn(num, inputs), linear(weight_OI, bias_O)
    exact_NO = functional.linear(x_NI.double(), weight_OI.double(), None if bias_O is None else bias_O.double())
    room_NO = x_NI.norm(dim=1, keepdim=True) * weight_OI.norm(dim=1) + 4
    for x in (x_NI, x_NI.T.contiguous().T):
        out_NO = product.apply(x)
        assert out_NO.shape == (num, outputs)
        assert out_NO.is_contiguous()
        assert ((out_NO - exact_NO).abs() <= room_NO * 2**-20).all()


@pytest.mark.parametrize("is_half", [True, False])
def test_nan_in_one_row_of_a_product_stays_there(is_half: bool) -> None:
    weight_OI = torch.randn(33, 48)
    x_NI = torch.randn(9, 48)
    x_NI[4, 7], x_NI[6, 1] = torch.nan, torch.inf
    out_NO = linear(weight_OI.bfloat16().float() if is_half else weight_OI).apply(x_NI)
    assert out_NO.isfinite().all(1).tolist() == [True] * 4 + [False, True, False, True, True]
    assert not out_NO[4].isfinite().any()
    assert not out_NO[6].isfinite().any()
