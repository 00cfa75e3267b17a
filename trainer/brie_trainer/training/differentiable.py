"""The operations between a decoder's products, each with its gradient in as few passes over memory as it takes.

Frozen weights get no gradient here; that is what makes them short. It knows tensors, no model.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention, silu


class GroupedLora(torch.autograd.Function):
    """x W^T + scale (x A^T) B^T: linears that share their input are one, with a block-diagonal B.

    x_SI of S tokens, a frozen W_OI, A_RI and B_OR; R is the sum of the ranks. The scale is in B.
    """

    @staticmethod
    def forward(  # noqa: PLR0913, PLR0917  # the operands of one formula
        ctx: Any, x_SI: Tensor, weight_OI: Tensor, bias_O: Tensor | None, a_RI: Tensor, b_OR: Tensor
    ) -> Tensor:
        a_RI, b_OR = a_RI.to(x_SI.dtype), b_OR.to(x_SI.dtype)
        down_SR = x_SI @ a_RI.T
        y_SO = x_SI @ weight_OI.T
        y_SO.addmm_(down_SR, b_OR.T)
        if bias_O is not None:
            y_SO += bias_O
        ctx.save_for_backward(x_SI, weight_OI, a_RI, b_OR, down_SR)
        return y_SO

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x_SI, weight_OI, a_RI, b_OR, down_SR = ctx.saved_tensors
        (g_SO,) = gradients
        up_SR = g_SO @ b_OR
        g_SI = None
        if ctx.needs_input_grad[0]:
            g_SI = g_SO @ weight_OI
            g_SI.addmm_(up_SR, a_RI)
        return g_SI, None, None, (up_SR.T @ x_SI).float(), (g_SO.T @ down_SR).float()


class RmsNorm(torch.autograd.Function):
    """x / rms(x) * weight over the last dimension, the root taken in float32."""

    @staticmethod
    def forward(ctx: Any, x_SH: Tensor, weight_H: Tensor, eps: float) -> Tensor:
        mean_S1 = torch.linalg.vector_norm(x_SH, dim=-1, keepdim=True, dtype=torch.float32).square_()
        inverse_S1 = mean_S1.div_(x_SH.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x_SH, weight_H, inverse_S1)
        return torch.mul(x_SH, inverse_S1).to(x_SH.dtype).mul_(weight_H)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x_SH, weight_H, inverse_S1 = ctx.saved_tensors
        g_SH = (gradients[0] * weight_H).float()
        inner_S1 = torch.mul(g_SH, x_SH).sum(-1, keepdim=True)
        inner_S1.mul_(inverse_S1.pow(3)).div_(x_SH.shape[-1])
        return g_SH.mul_(inverse_S1).addcmul_(x_SH, inner_S1, value=-1).to(x_SH.dtype), None, None


class Rotation(torch.autograd.Function):
    """Rotary positions: the first and second half of every head are the two coordinates of a rotation."""

    @staticmethod
    def forward(ctx: Any, x_SND: Tensor, cos_S1C: Tensor, sin_S1C: Tensor) -> Tensor:
        ctx.save_for_backward(cos_S1C, sin_S1C)
        return _rotated(x_SND, cos_S1C, sin_S1C)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        cos_S1C, sin_S1C = ctx.saved_tensors
        return _rotated(gradients[0], cos_S1C, -sin_S1C), None, None


def _rotated(x_SND: Tensor, cos_S1C: Tensor, sin_S1C: Tensor) -> Tensor:
    half = cos_S1C.shape[-1]
    one, other = x_SND[..., :half], x_SND[..., half:]
    y_SND = torch.empty_like(x_SND, memory_format=torch.contiguous_format)
    torch.mul(one, cos_S1C, out=y_SND[..., :half]).addcmul_(other, sin_S1C, value=-1)
    torch.mul(other, cos_S1C, out=y_SND[..., half:]).addcmul_(one, sin_S1C)
    return y_SND


class SwiGlu(torch.autograd.Function):
    """silu(gate) * up, of both side by side."""

    @staticmethod
    def forward(ctx: Any, both_SJ: Tensor) -> Tensor:
        ctx.save_for_backward(both_SJ)
        gate_SI, up_SI = both_SJ.chunk(2, dim=-1)
        return silu(gate_SI).mul_(up_SI)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (both_SJ,) = ctx.saved_tensors
        (g_SI,) = gradients
        gate_SI, up_SI = both_SJ.chunk(2, dim=-1)
        result_SJ = torch.empty_like(both_SJ)
        of_gate_SI, of_up_SI = result_SJ.chunk(2, dim=-1)
        torch.mul(g_SI, silu(gate_SI), out=of_up_SI)
        of_gate_SI.copy_(torch.ops.aten.silu_backward(g_SI * up_SI, gate_SI))
        return result_SJ


def attention(  # noqa: PLR0913, PLR0917  # the operands of one formula
    q_SND: Tensor, k_SMD: Tensor, v_SMD: Tensor, lengths: tuple[int, ...], scale: float, window: int
) -> Tensor:
    """Causal attention within each sequence, of shape (S, N * D); no token sees more than `window` back, 0 for all."""
    rows, begin = [], 0
    for length in lengths:
        here = slice(begin, begin + length)
        q_1NTD, k_1MTD, v_1MTD = (x[here].transpose(0, 1)[None] for x in (q_SND, k_SMD, v_SMD))
        mask_TT = _band(length, window, q_SND.device) if 0 < window < length else None
        y_1NTD = scaled_dot_product_attention(
            q_1NTD, k_1MTD, v_1MTD, attn_mask=mask_TT, is_causal=mask_TT is None, scale=scale, enable_gqa=True
        )
        rows.append(y_1NTD[0].transpose(0, 1).reshape(length, -1))
        begin += length
    return rows[0] if len(rows) == 1 else torch.cat(rows)


def _band(length: int, window: int, device: torch.device) -> Tensor:
    places_T = torch.arange(length, device=device)
    back_TT = places_T[:, None] - places_T[None, :]
    return (back_TT >= 0) & (back_TT < window)
