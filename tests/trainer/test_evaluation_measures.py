"""What is said of a text: the libraries' own BLEU, chrF and ROUGE-L, and measures that can be reckoned by hand."""

import random

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from brie_trainer.evaluation.measures import distinct, mtld, repetition, rouge_l, words_of
from brie_trainer.evaluation.overlap import bleu, bleu_summands, chrf

PAIRS = [
    ("The cat sat on the mat.", "The cat is sitting on the mat."),
    (
        "It is a guide to action which ensures obedience.",
        "It is a guide to action that ensures that the military obeys.",
    ),
    ("", "Something was said here."),
    (
        "Bread is not an answer to hunger but its oldest question",
        "Bread is hunger's oldest question, and no answer to it.",
    ),
    ("Don't stop; U.S. prices rose 3.5%!", "Do not stop. U.S. prices rose by 3.5 %."),
    ("a a a a a b", "a b a b a b a b"),
]


def test_corpus_bleu_is_sacrebleus() -> None:
    sums = np.array([bleu_summands(*pair) for pair in PAIRS]).sum(0)
    answers, references = zip(*PAIRS, strict=True)
    assert bleu(sums) == pytest.approx(BLEU().corpus_score(list(answers), [list(references)]).score, abs=1e-9)


def test_bleu_of_nothing_is_no_number() -> None:
    assert np.isnan(bleu(np.zeros(10)))


@pytest.mark.parametrize("pair", PAIRS)
def test_chrf_and_rouge_l_are_the_libraries_own(pair: tuple[str, str]) -> None:
    answer, reference = pair
    assert chrf(answer, reference) == CHRF().sentence_score(answer, [reference]).score
    theirs = RougeScorer(["rougeL"]).score(reference, answer)["rougeL"].fmeasure
    assert rouge_l(answer, reference) == pytest.approx(theirs, abs=1e-12)


def test_rouge_l_is_the_librarys_own_on_random_texts() -> None:
    drawn, scorer = random.Random(5), RougeScorer(["rougeL"])
    for _ in range(50):
        one, other = (" ".join(drawn.choices("abcde", k=drawn.randint(1, 40))) for _ in range(2))
        assert rouge_l(one, other) == pytest.approx(scorer.score(other, one)["rougeL"].fmeasure, abs=1e-12)


def test_rouge_l_reads_any_script() -> None:
    assert rouge_l("хлеб и соль", "хлеб да соль") == pytest.approx(2 / 3)


def test_words_are_of_any_script_and_keep_their_apostrophes() -> None:
    assert words_of("Don\u2019t say «über», 漢字 or it's") == ["don\u2019t", "say", "über", "漢字", "or", "it's"]


def test_distinct_and_repetition_by_hand() -> None:
    words = ["so", "it", "goes", "and", "so", "it", "goes", "and", "so"]
    assert distinct(words, 1) == 4 / 9
    assert distinct(words, 2) == 4 / 8
    assert repetition(words) == pytest.approx(2 / 6)  # of six runs of four words, the last two stand earlier
    assert repetition(words[:4]) == 0.0
    assert distinct([], 1) is repetition(words[:3]) is None


def test_mtld_by_hand() -> None:
    # a b a b ...: at the third word 2/3 of the words are different, so that a factor ends each third word
    assert mtld(["a", "b"] * 30) == pytest.approx(3.0)
    # all different: no factor is ever whole, and the length itself is the measure
    assert mtld([str(number) for number in range(60)]) == 60.0
    assert mtld(["a"] * 49) is None


@pytest.mark.parametrize(
    ("seed", "expected"), [(1, 28.10452418096724), (2, 25.736235595390525), (3, 22.646103896103895)]
)
def test_mtld_is_that_of_lexicalrichness(seed: int, expected: float) -> None:
    """The expected values are what lexicalrichness 0.5.1 says of the same words."""
    drawn = random.Random(seed)
    words = [f"w{min(int(drawn.expovariate(0.05)), 200)}" for _ in range(300)]
    assert mtld(words) == pytest.approx(expected, rel=1e-12)
