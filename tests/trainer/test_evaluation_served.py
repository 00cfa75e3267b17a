"""An evaluation of a real server: losses are transformers' own, and the same seed gives the same report."""

import hashlib
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch

import evaluations
from brie_processes import BrieProcesses
from brie_trainer.evaluation.rows import read_rows

HELD_OUT = Path("clients/examples/data/philosophy-validation.jsonl")
ROWS = 5
NAME = "evaluated-alone"


@pytest.fixture(scope="module")
def served(brie: BrieProcesses, tiny_lora: Path) -> Iterator[str]:
    """The name of an adapter that the running Brie answers from."""
    folder = brie.home / "tmp" / NAME
    shutil.copytree(tiny_lora, folder)
    loaded = httpx2.post(f"{brie.url}/v1/load_lora_adapter", json={"lora_name": NAME, "lora_path": str(folder)})
    assert loaded.status_code == 200, loaded.text
    yield NAME
    httpx2.post(f"{brie.url}/v1/unload_lora_adapter", json={"lora_name": NAME})


@pytest.fixture(scope="module")
def job(brie: BrieProcesses, served: str, tiny_model: Path) -> dict[str, Any]:
    door = {"base_url": f"{brie.url}/v1", "tokenizer": str(tiny_model)}
    judge = {"base_url": f"{brie.url}/v1", "model": "tiny", "max_tokens": 100}
    return {
        "candidates": [{"name": "adapter", "model": served, **door}, {"name": "base", "model": "tiny", **door}],
        "against": "base",
        "held_out": {"file": str(HELD_OUT.absolute()), "limit": ROWS},
        "prompts": {"themes": ["code"], "limit": 1, "from_held_out": 1, "sampling": {"max_tokens": 12}},
        "judging": {"judges": [{"name": "one", **judge}, {"name": "other", "structured": False, **judge}], "limit": 1},
        "sweep": {"temperature": [0.0, 1.0], "candidates": ["adapter"], "limit": 1},
        "gate": {"perplexity": {"min": 1.0}, "difference.loss": {"min": -10.0, "max": 10.0}},
        "seed": 3,
    }


@pytest.fixture(scope="module")
def ended(job: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = evaluations.write_job(tmp_path_factory.mktemp("evaluation") / "1", **job)
    events = evaluations.run(folder)
    assert events[-1]["type"] == "result", events[-1]
    return folder


def answers_of(tokenizer: Any, messages: list[dict[str, str]]) -> tuple[list[int], list[int]]:
    """A conversation's tokens by transformers, and the places of all that the assistant says in it."""
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    places: list[int] = []
    for number, message in enumerate(messages):
        if message["role"] == "assistant":
            before = tokenizer.apply_chat_template(messages[:number], add_generation_prompt=True, tokenize=False)
            end = len(before) + len(message["content"] + "<|im_end|>")
            offsets = enumerate(found["offset_mapping"])
            places += [place for place, (begin, _) in offsets if len(before) <= begin < end]
    return found["input_ids"], places


def transformers_losses(base: Path, adapter: Path | None) -> tuple[float, int, int]:
    """Sum of losses over the assistant's tokens, how many there are, and how many were the most probable."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = model if adapter is None else PeftModel.from_pretrained(model, str(adapter))
    total, tokens, correct = 0.0, 0, 0
    for line in HELD_OUT.read_text().splitlines()[:ROWS]:
        input_ids, places = answers_of(tokenizer, json.loads(line)["messages"])
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([input_ids])).logits[0, [place - 1 for place in places]]
        answer = torch.tensor(input_ids)[places]
        total += torch.nn.functional.cross_entropy(logits.double(), answer, reduction="sum").item()
        correct += int((logits.argmax(-1) == answer).sum())
        tokens += len(places)
    return total, tokens, correct


@pytest.mark.parametrize("name", ["adapter", "base"])
def test_losses_are_those_of_transformers(ended: Path, tiny_model: Path, tiny_lora: Path, name: str) -> None:
    total, tokens, correct = transformers_losses(tiny_model, tiny_lora if name == "adapter" else None)
    figures = evaluations.report(ended).candidates[name].figures
    rows = read_rows(ended.parent / "output" / "rows.jsonl")
    scored = [row.data["tokens"] for row in rows if (row.key.kind, row.key.candidate) == ("loss", name)]
    assert sum(scored) == tokens
    assert figures["loss"].value == pytest.approx(total / tokens, rel=1e-4)
    assert figures["perplexity"].value == pytest.approx(math.exp(total / tokens), rel=1e-4)
    assert figures["token_accuracy"].value == pytest.approx(correct / tokens, abs=1e-12)
    assert figures["loss"].items == figures["loss"].clusters == ROWS


def test_the_versions_that_answered_are_kept(ended: Path, brie: BrieProcesses, served: str) -> None:
    version = httpx2.get(f"{brie.url}/v1/adapters/{served}").json()["version"]
    told = evaluations.report(ended).candidates
    assert told["adapter"].identity.version == version
    assert told["base"].identity.version == "base"
    assert told["adapter"].identity.fingerprints != told["base"].identity.fingerprints
    assert len(told["base"].identity.tokenizer or "") == 64
    assert told["adapter"].identity.tokenizer == told["base"].identity.tokenizer
    asked = evaluations.report(ended).material
    assert asked.held_out_sha256 == hashlib.sha256(HELD_OUT.read_bytes()).hexdigest()
    assert len(asked.prompts_sha256 or "") == 64


def test_every_question_is_counted(ended: Path) -> None:
    told = evaluations.report(ended)
    for candidate in told.candidates.values():
        assert candidate.held_out is not None
        assert candidate.answers is not None
        assert (candidate.held_out.planned, candidate.held_out.answered) == (ROWS, ROWS)
        assert (candidate.answers.planned, candidate.answers.answered) == (2, 2)
    assert [cell.counts.answered for cell in told.sweep] == [2, 2]
    (comparison,) = told.comparisons
    assert comparison.judging is not None
    for judge in comparison.judging.judges.values():
        said = judge.wins + judge.losses + judge.ties + judge.unparseable
        assert said + judge.identical == judge.counts.planned == 4
    assert comparison.judging.judges["other"].unparseable == 4  # a random model asked without a form


def test_the_same_seed_gives_the_same_report(ended: Path, job: dict[str, Any], tmp_path: Path) -> None:
    again = evaluations.write_job(tmp_path / "1", **job)
    assert evaluations.run(again)[-1]["type"] == "result"
    assert (tmp_path / "output" / "report.json").read_bytes() == (ended.parent / "output/report.json").read_bytes()
    assert (tmp_path / "output" / "page.html").read_bytes() == (ended.parent / "output/page.html").read_bytes()


def test_the_gate_is_held_against_the_report(ended: Path) -> None:
    gate = json.loads((ended.parent / "output" / "gate.json").read_text())
    assert gate["passed"] is True
    assert [verdict["candidate"] for verdict in gate["verdicts"]] == ["adapter", "adapter"]


def test_another_tokenizer_than_the_servers_is_refused(job: dict[str, Any], tiny_model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    (other / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}")
    candidate = job["candidates"][1] | {"tokenizer": str(other)}
    folder = evaluations.write_job(tmp_path / "1", candidates=[candidate], held_out={"file": str(HELD_OUT.absolute())})
    assert evaluations.run(folder)[-1]["code"] == "tokenizer_mismatch"


def test_a_version_that_changes_ends_the_evaluation(ended: Path, job: dict[str, Any], tmp_path: Path) -> None:
    pinned = [job["candidates"][0] | {"version": "0" * 64}, job["candidates"][1]]
    folder = evaluations.write_job(tmp_path / "1", **(job | {"candidates": pinned}))
    event = evaluations.run(folder)[-1]
    assert (event["code"], event["param"]) == ("version_changed", "adapter")
