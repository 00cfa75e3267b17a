"""Log-probabilities of labels under a frozen head, without ever holding all logits. It knows no decoder.

The head is not trained, so what the loss asks of it is one vector per label: the gradient of its log-probability with
regard to its hidden state. The forward computes that beside the log-probability, chunk by chunk, while the chunk's
probabilities are at hand; the backward only scales it. Two products of the vocabulary's size, nothing computed twice.
"""

from typing import Any

import torch
from torch import Tensor

_CHUNK_ELEMENTS = 2**24
"""Logits at once: 64 MiB in float32."""


def label_log_probs(hidden_NH: Tensor, weight_VH: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
    """float32 log p(label) of shape (N,), differentiable by `hidden_NH`, and whether the label is the likeliest."""
    log_probs_N, is_top1_N = _LabelLogProbs.apply(hidden_NH, weight_VH, labels_N)  # type: ignore[no-untyped-call]
    return log_probs_N, is_top1_N


class _LabelLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
        wants_gradient = ctx.needs_input_grad[0]
        log_probs_N = torch.empty(len(hidden_NH), device=hidden_NH.device)
        is_top1_N = torch.empty(len(hidden_NH), dtype=torch.bool, device=hidden_NH.device)
        gradient_NH = torch.empty_like(hidden_NH) if wants_gradient else None
        step = max(_CHUNK_ELEMENTS // len(weight_VH), 1)
        for begin in range(0, len(hidden_NH), step):
            here = slice(begin, begin + step)
            labels_C1 = labels_N[here, None]
            logits_CV = (hidden_NH[here] @ weight_VH.T).float()
            is_top1_N[here] = logits_CV.argmax(-1) == labels_C1[:, 0]
            norms_C1 = logits_CV.logsumexp(-1, keepdim=True)
            log_probs_N[here] = (logits_CV.gather(-1, labels_C1) - norms_C1)[:, 0]
            if gradient_NH is not None:
                probs_CV = logits_CV.sub_(norms_C1).exp_()
                gradient_NH[here] = weight_VH[labels_C1[:, 0]] - probs_CV.to(weight_VH.dtype) @ weight_VH
        ctx.save_for_backward(gradient_NH)
        ctx.mark_non_differentiable(is_top1_N)
        return log_probs_N, is_top1_N

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient_NH,) = ctx.saved_tensors
        return gradient_NH * gradients[0][:, None].to(gradient_NH.dtype), None, None


def softcapped_log_probs(logits_NV: Tensor, cap: float | None, labels_N: Tensor) -> tuple[Tensor, Tensor]:
    """The same for a head that bends its logits, or has a bias: all of them at once, differentiated as they come."""
    logits_NV = logits_NV.float()
    if cap is not None:
        logits_NV = torch.tanh(logits_NV / cap) * cap
    log_probs_N = logits_NV.log_softmax(-1).gather(-1, labels_N[:, None])[:, 0]
    return log_probs_N, logits_NV.argmax(-1) == labels_N
