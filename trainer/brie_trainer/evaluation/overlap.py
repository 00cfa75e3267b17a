"""BLEU and chrF by sacrebleu, of single answers and of sums over them. It knows strings and that library."""

import numpy as np
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from brie_trainer.evaluation.statistics import Array

_BLEU = BLEU()
_CHRF = CHRF()
BLEU_SUMMANDS = 10


def bleu_summands(answer: str, reference: str) -> list[float]:
    """What corpus BLEU is summed from: matches and n-grams of orders 1 to 4, and both lengths."""
    found = _BLEU.corpus_score([answer], [[reference]])
    return [float(each) for each in (*found.counts, *found.totals, found.sys_len, found.ref_len)]


def bleu(sums: Array) -> Array:
    """Corpus BLEU, 0 to 100, from sums on the last axis: 13a tokens, exponential smoothing, as sacrebleu by default."""
    flat = [_bleu(each) for each in sums.reshape(-1, BLEU_SUMMANDS)]
    return np.array(flat).reshape(sums.shape[:-1])


def chrf(answer: str, reference: str) -> float:
    """Sentence chrF2, 0 to 100."""
    return float(_CHRF.sentence_score(answer, [reference]).score)


def _bleu(sums: Array) -> float:
    whole = [round(float(each)) for each in sums]
    if not whole[9]:
        return float("nan")
    return float(BLEU.compute_bleu(whole[:4], whole[4:8], whole[8], whole[9], smooth_method="exp").score)
