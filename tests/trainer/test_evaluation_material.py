"""What is asked: the project's own prompts, rows from files, and figures over what both sides have."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from brie_core.errors import InvalidRequest
from brie_core.text.tokenizer import Tokenizer
from brie_core.weights.base_model import BaseModel
from brie_trainer.data.labels import IGNORED, build_examples
from brie_trainer.evaluation.contract import HeldOut, Job, Prompts
from brie_trainer.evaluation.figures import ANSWERS, HELD_OUT, Item, answer_summands, differences, loss_summands
from brie_trainer.evaluation.material import (
    HeldOutExample,
    Material,
    held_out_examples,
    held_out_prompt,
    held_out_rows,
    prompts_file,
    read_material,
    read_prompts,
)
from brie_trainer.evaluation.plan import loss_key, planned
from brie_trainer.evaluation.questions import sample_seed
from brie_trainer.evaluation.rows import Row
from brie_trainer.evaluation.statistics import Chance
from brie_trainer.evaluation.summary import build_report

VALIDATION = Path("clients/examples/data/philosophy-validation.jsonl")
THEMES = {
    *("philosophy-of-ai", "continental-philosophy", "brainstorming", "methodology", "contemplative-prose"),
    *("code", "maths", "facts", "practical"),
}
CHANCE = Chance(0.95, 100, 0)


def test_the_projects_own_prompts_are_enough_of_each_theme_and_each_once() -> None:
    prompts = list(read_prompts(prompts_file(Prompts())))
    assert Counter(prompt.theme for prompt in prompts).keys() == THEMES
    assert min(Counter(prompt.theme for prompt in prompts).values()) >= 5
    assert len({prompt.cluster for prompt in prompts}) == len(prompts)


@pytest.mark.parametrize("limit", [None, 100])
def test_held_out_labels_are_those_of_training(default_model: BaseModel, limit: int | None) -> None:
    tokenizer = Tokenizer(default_model.folder)
    rows = held_out_rows(HeldOut(file=str(VALIDATION)))
    trained, _ = build_examples(rows, tokenizer, limit or 10**9)
    scored = held_out_examples(rows, tokenizer, limit)
    assert [(list(one.input_ids), list(one.labels)) for one in scored] == [
        (one.input_ids, one.labels) for one in trained
    ]
    assert all(one.num_bytes > 0 for one in scored)
    first = next(label for label in scored[0].labels if label != IGNORED)
    assert tokenizer.decode([first]).strip()


def test_rows_of_one_question_are_one_cluster(default_model: BaseModel, tmp_path: Path) -> None:
    def row(question: str, answer: str) -> str:
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return json.dumps({"messages": messages}) + "\n"

    file = tmp_path / "rows.jsonl"
    file.write_text(row("Why?", "So.") + row("Why?", "Because.") + row("How?", "So."))
    rows = held_out_rows(HeldOut(file=str(file)))
    one, again, other = held_out_examples(rows, Tokenizer(default_model.folder), None)
    assert one.cluster == again.cluster != other.cluster
    prompt = held_out_prompt(1, rows[0])
    assert prompt is not None
    assert (prompt.messages, prompt.reference) == ([{"role": "user", "content": "Why?"}], "So.")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"question": "Why?"}', "either 'prompt' or 'messages'"),
        ('{"prompt": "a", "messages": []}', "either 'prompt' or 'messages'"),
        ('{"prompt": ""}', "must hold texts"),
        ('{"messages": [{"role": "tool", "content": "x"}]}', "must hold texts"),
        ('{"messages": [{"role": "assistant", "content": "x"}]}', "must end with a message of the role user"),
        ('{"prompt": "a", "theme": 1}', "theme or a reference"),
        ('{"prompt": "a", "id": 1}\n{"prompt": "b", "id": "1"}', "which an earlier line has"),
    ],
)
def test_a_line_that_is_no_prompt_is_named(line: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(line + "\n")
    with pytest.raises(InvalidRequest, match=says) as error:
        list(read_prompts(file))
    assert error.value.param == "prompts.file"
    assert error.value.message.startswith(f"Line {line.count(chr(10)) + 1} of the prompts file")


def material(tmp_path: Path, **changes: Any) -> tuple[Job, Material]:
    doors = [{"name": name, "model": name, "base_url": "http://127.0.0.1:1/v1"} for name in ("one", "two")]
    whole = {"output": str(tmp_path), "candidates": doors, "against": "two", "prompts": {"limit": 1}} | changes
    job = Job.model_validate(whole)
    return job, read_material(job)


def test_every_question_is_planned_once(tmp_path: Path) -> None:
    judges = [{"name": name, "model": name, "base_url": "http://127.0.0.1:1/v1"} for name in ("a", "b")]
    prompts = {"limit": 1, "samples": 3}
    sweep = {"temperature": [0.1, 0.2, 0.1], "top_p": [0.5, 1.0], "limit": 1}
    job, asked = material(tmp_path, prompts=prompts, judging={"judges": judges, "samples": 2}, sweep=sweep)
    keys = list(planned(job, asked))
    assert len(set(keys)) == len(keys)
    assert Counter(key.kind for key in keys) == {
        "answer": 2 * 9 * 3,
        "sweep": 2 * 9 * 4,  # 0.1 is one value, however often it is named
        "verdict": 9 * 2 * 2 * 2,
    }


def test_seeds_are_of_the_prompt_and_the_sample_and_not_of_the_candidate() -> None:
    seeds = {sample_seed(0, f"p{n}", sample) for n in range(50) for sample in range(4)}
    assert len(seeds) == 200
    assert sample_seed(0, "p1", 2) == sample_seed(0, "p1", 2) != sample_seed(1, "p1", 2)


def items(texts: dict[str, str], finish: str = "stop") -> list[Item]:
    return [Item((name, 0), name, "all", answer_summands(text, finish, None)) for name, text in texts.items()]


def test_only_what_both_sides_have_is_compared() -> None:
    ones = items({"a": "one two three", "b": "one", "c": "a lot more words than all the others have together"})
    others = items({"a": "one", "b": "one two", "d": "and one that the first side has not"})
    told = differences(ones, others, ANSWERS, CHANCE, "two")
    assert (told["words"].candidate, told["words"].against, told["words"].clusters) == (2.0, 1.5, 2)
    assert told["mtld"].difference is None
    assert told["mtld"].more_than_noise is None
    assert "cannot be compared" in told["mtld"].sentence


def test_an_answer_that_one_side_lacks_is_compared_with_none() -> None:
    """Of two answers to a prompt the other side has one: its first is compared with ours."""
    ones = [
        Item(("a", n), "a", "all", answer_summands(text, "stop", None)) for n, text in enumerate(("one", "two of it"))
    ]
    others = [Item(("a", 0), "a", "all", answer_summands("so it is now", "stop", None))]
    told = differences(ones, others, ANSWERS, CHANCE, "two")["words"]
    assert (told.candidate, told.against) == (1.0, 4.0)


def test_what_losses_and_answers_are_summed_from() -> None:
    summed = loss_summands({"nll": 8 * math.log(2), "tokens": 5, "correct": 2, "bytes": 4})
    assert summed["bits_per_byte"] == pytest.approx((8.0, 4))
    assert summed["loss"] == summed["perplexity"] == (8 * math.log(2), 5)
    assert summed["token_accuracy"] == (2, 5)
    assert loss_summands({"nll": 1.0, "tokens": 1, "correct": 0, "bytes": 0})["bits_per_byte"] is None
    ended, cut = (answer_summands("so", finish, None)["stop_rate"] for finish in ("stop", "length"))
    assert (ended, cut) == ((1.0, 1.0), (0.0, 1.0))


def test_loss_and_perplexity_are_one_test() -> None:
    def losses(shift: float) -> list[Item]:
        data = [{"nll": 10.0 + n % 3 + shift, "tokens": 5 + n % 2, "correct": n % 4, "bytes": 20} for n in range(12)]
        return [Item((f"{n}", 0), f"{n}", "", loss_summands(each)) for n, each in enumerate(data)]

    told = differences(losses(-2.0), losses(0.0), HELD_OUT, CHANCE, "two")
    assert told["perplexity"].p_adjusted == told["loss"].p_adjusted == told["bits_per_byte"].p_adjusted
    assert told["loss"].p_adjusted == pytest.approx(2 * (told["loss"].p_value or 0.0))  # with accuracy, a family of two
    assert told["token_accuracy"].difference == 0.0
    assert told["token_accuracy"].more_than_noise is False
    assert "more than noise, and better" in told["perplexity"].sentence


@pytest.mark.parametrize("theirs", ["same", "another"])
def test_losses_over_other_tokens_are_compared_by_byte_alone(theirs: str) -> None:
    endpoint = {"base_url": "http://127.0.0.1:1/v1", "tokenizer": "folder"}
    candidates = [{"name": name, "model": name, **endpoint} for name in ("one", "two")]
    job = Job.model_validate(
        {"output": "out", "candidates": candidates, "against": "two", "held_out": {"file": "rows"}, "seed": 1}
    )
    examples = [
        HeldOutExample(id=f"{n}", cluster=f"{n}", input_ids=(1, 2), labels=(1, 2), num_bytes=9) for n in range(9)
    ]
    material = Material(
        prompts=(),
        examples={"same": examples, "another": examples},
        tokenizers={"one": "same", "two": theirs},
        first_prompts={},
        held_out_sha256="0",
        held_out_rows=9,
        held_out_skipped=0,
        prompts_sha256=None,
    )
    data = {"nll": 5.0, "tokens": 4, "correct": 1, "bytes": 9}
    keys = [loss_key(candidate, example.id) for candidate in job.candidates for example in examples]
    rows = [Row(key=key, outcome="answered", tries=1, data=data) for key in keys]
    (comparison,) = build_report(job, material, rows).comparisons
    same_tokens = {"loss", "perplexity", "token_accuracy"} if theirs == "same" else set()
    assert set(comparison.figures) == {"bits_per_byte"} | same_tokens
