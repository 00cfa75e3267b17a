"""The numbers of a comparison, against the textbook and against scipy-free arithmetic on small cases."""

from dataclasses import asdict

import numpy as np
import pytest

from brie_convert.gguf_file import TensorTally
from brie_convert.judgement import limits, stored_in_words
from brie_convert.quality import Divergence, measure

_DICE = np.random.default_rng(0)
_REFERENCE = _DICE.normal(0, 3, (40, 50)).astype(np.float32)
_OTHER = (_REFERENCE + _DICE.normal(0, 0.5, (40, 50))).astype(np.float32)
_NEXT = _DICE.integers(0, 50, 40)


def _measure(candidate: np.ndarray, block: int = 40) -> Divergence:
    starts = range(0, 40, block)
    return measure((_REFERENCE[i : i + block], candidate[i : i + block], _NEXT[i : i + block]) for i in starts)


def test_the_numbers_are_those_of_torch() -> None:
    import torch
    from torch.nn.functional import cross_entropy, kl_div

    p, q = (torch.tensor(logits).double().log_softmax(-1) for logits in (_REFERENCE, _OTHER))
    each = kl_div(q, p, reduction="none", log_target=True).sum(-1)
    found = _measure(_OTHER)
    assert found.kl_mean == pytest.approx(each.mean().item())
    assert found.kl_max == pytest.approx(each.max().item())
    assert found.kl_median == pytest.approx(np.median(each.numpy()))
    assert found.kl_p99 == pytest.approx(np.quantile(each.numpy(), 0.99))
    assert found.top_1 == (p.argmax(-1) == q.argmax(-1)).double().mean().item()
    following = torch.tensor(_NEXT)
    assert found.perplexity == pytest.approx(cross_entropy(q, following).exp().item())
    assert found.perplexity_reference == pytest.approx(cross_entropy(p, following).exp().item())
    assert found.perplexity_ratio == pytest.approx(found.perplexity / found.perplexity_reference)


def test_blocks_change_nothing() -> None:
    assert asdict(_measure(_OTHER, 7)) == pytest.approx(asdict(_measure(_OTHER)))


def test_the_same_logits_are_no_distance_whatever_is_added_to_all() -> None:
    found = _measure(_REFERENCE + np.float32(3))
    assert found.kl_max == pytest.approx(0, abs=1e-9)
    assert (found.top_1, found.top_1_decided) == (1.0, 1.0)
    assert found.perplexity_ratio == pytest.approx(1)


def test_a_position_without_a_next_token_counts_for_no_perplexity() -> None:
    following = _NEXT.copy()
    following[[3, 9]] = -1
    found = measure([(_REFERENCE, _OTHER, following)])
    assert (found.tokens, found.predicted_tokens) == (40, 38)


def test_a_tie_falls_either_way() -> None:
    reference = np.zeros((2, 3), np.float32)
    reference[0, 1], reference[1, 2] = 5, 0.001
    found = measure([(reference, np.array([[0, 5, 0], [0.001, 0, 0]], np.float32), np.array([1, -1]))])
    assert (found.top_1, found.top_1_decided) == (0.5, 1.0)


@pytest.mark.parametrize(
    ("types", "noise", "passes"),
    [
        (("F32", "F16"), 0.005, True),
        (("F32", "F16"), 0.05, False),
        (("F32", "BF16"), 0.05, True),
        (("F32", "BF16"), 0.5, False),
        (("F32", "Q8_0"), 0.3, True),
        (("F32", "Q8_0"), 3.0, False),
        (("F32", "Q4_K"), 3.0, True),
        (("F32", "Q4_K"), np.nan, False),
        (("F32",), np.nan, False),
    ],
)
def test_limits_go_by_what_is_stored(types: tuple[str, ...], noise: float, passes: bool) -> None:
    noisy = (_REFERENCE + _DICE.normal(0, 1, (40, 50)) * noise).astype(np.float32)
    written = TensorTally(dict.fromkeys(types, 1), dict.fromkeys(types, 1), 1, 1)
    assert (limits(written).broken_by(_measure(noisy)) is None) is passes


def test_a_name_that_says_less_than_it_seems_to_is_explained() -> None:
    written = TensorTally({"F32": 61, "Q5_0": 166, "Q4_K": 16}, {"F32": 1, "Q5_0": 700, "Q4_K": 299}, 1000, 771)
    told = stored_in_words("q4_k_m", written, 180)
    assert "q4_k_m here is mostly Q5_0: 6.17 bits per weight; of all weights 70% Q5_0, 30% Q4_K." in told
    assert "180 of 243 tensors" in told
    assert "mostly" not in stored_in_words("q4_k_m", written, 0)
