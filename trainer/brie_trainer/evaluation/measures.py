"""What can be said of one answer's text without a model: length, variety, repetition, nearness to a reference.

It knows strings. Words are runs of letters, digits and underscores of any script, in lower case; nothing is stemmed.
"""

import re
from collections.abc import Sequence
from itertools import pairwise

_WORD = re.compile(r"\w+(?:['\u2019]\w+)*")
_ROUGE_WORD = re.compile(r"[^\W_]+")
MTLD_THRESHOLD = 0.72
MTLD_LEAST_WORDS = 50
REPEATED_N = 4


def words_of(text: str) -> list[str]:
    """Its words, apostrophes within them kept."""
    return _WORD.findall(text.lower())


def distinct(words: Sequence[str], n: int) -> float | None:
    """Different n-grams over all of them (Li et al. 2016, by answer); None without any."""
    grams = _grams(words, n)
    return len(set(grams)) / len(grams) if grams else None


def repetition(words: Sequence[str]) -> float | None:
    """The share of an answer's sequences of four words that stand earlier in the same answer; None without any."""
    different = distinct(words, REPEATED_N)
    return None if different is None else 1.0 - different


def mtld(words: Sequence[str]) -> float | None:
    """Measure of textual lexical diversity (McCarthy and Jarvis 2010): mean words until types over tokens fall to 0.72.

    Forwards and backwards, averaged. None below 50 words, where it says little.
    """
    if len(words) < MTLD_LEAST_WORDS:
        return None
    return (_one_way(words) + _one_way(words[::-1])) / 2


def rouge_l(answer: str, reference: str) -> float:
    """F1 of the longest common subsequence of words (Lin 2004), from 0 to 1, as `rouge-score` has it without stemming.

    That library keeps only a to z and digits, and so would find nothing in most languages: here words of any script
    count.
    """
    ours, theirs = _ROUGE_WORD.findall(answer.lower()), _ROUGE_WORD.findall(reference.lower())
    common = _longest_common(ours, theirs)
    return 2 * common / (len(ours) + len(theirs)) if common else 0.0


def _grams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[at : at + n]) for at in range(len(words) - n + 1)]


def _one_way(words: Sequence[str]) -> float:
    factors, types, tokens = 0.0, set[str](), 0
    for word in words:
        types.add(word)
        tokens += 1
        if len(types) / tokens <= MTLD_THRESHOLD:
            factors, types, tokens = factors + 1, set(), 0
    if tokens:
        factors += (1 - len(types) / tokens) / (1 - MTLD_THRESHOLD)
    return len(words) / factors if factors else float(len(words))


def _longest_common(ours: Sequence[str], theirs: Sequence[str]) -> int:
    row = [0] * (len(theirs) + 1)
    for word in ours:
        earlier = row
        row = [0]
        for other, (corner, above) in zip(theirs, pairwise(earlier), strict=True):
            row.append(corner + 1 if word == other else max(above, row[-1]))
    return row[-1]
