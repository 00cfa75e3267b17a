"""`brie eval`, `brie compare` and the example as a person runs them: in words, in JSON, and gates by exit status."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import typer

from brie_cli import comparing, evaluating, report_tables
from brie_client import Brie
from brie_processes import BrieProcesses
from clients.test_command_line import EXAMPLES, ROWS, brie_command, run

NAME = "eval-by-command"
SHORT = ("--max-tokens", "4", "--held-out-prompts", "1", "--seed", "5")


@pytest.fixture(scope="module")
def client(brie: BrieProcesses, tiny_lora: Path) -> Iterator[Brie]:
    """Of a server that has an adapter."""
    folder = shutil.copytree(tiny_lora, brie.home / "tmp" / NAME)
    body = {"lora_name": NAME, "lora_path": str(folder)}
    assert httpx2.post(f"{brie.url}/v1/load_lora_adapter", json=body).status_code == 200
    with Brie(base_url=f"{brie.url}/v1") as opened:
        yield opened


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Held-out rows, prompts, and three gates; by one of them no other test evaluates."""
    folder = tmp_path_factory.mktemp("asked")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[:3]))
    prompts = [{"id": "a", "theme": "facts", "prompt": "Who?"}, {"id": "b", "theme": "code", "prompt": "Why?"}]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    (folder / "open.json").write_text(json.dumps({"perplexity": {"max": 1e9}}))
    (folder / "unheard.json").write_text(json.dumps({"perplexity": {"max": 2e9}}))
    (folder / "shut.json").write_text(json.dumps({"perplexity": {"max": 1.0}}))
    return folder


def test_a_report_is_told_in_tables_and_written_and_an_open_gate_is_status_0(
    client: Brie, brie: BrieProcesses, files: Path, tmp_path: Path
) -> None:
    options = ("--data", str(files / "rows.jsonl"), "--prompts", str(files / "prompts.jsonl"), *SHORT)
    more = ("--sweep", "temperature=0,1", "--judge-model", "tiny", "--gate", str(files / "open.json"))
    told = brie_command(brie, "eval", NAME, *options, *more, "--output", "report", folder=tmp_path)
    assert told.returncode == 0, told.stderr
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert (tmp_path / "report" / "page.html").read_text().startswith("<!doctype html>")
    assert report["comparisons"][0]["sentence"] in told.stdout
    assert f"{report['candidates'][NAME]['figures']['perplexity']['value']:.0f}" in told.stdout
    assert f"{NAME} minus tiny" in told.stdout
    assert "win rate" in told.stdout
    assert "The gate is passed." in told.stdout
    assert {cell["settings"]["temperature"] for cell in report["sweep"]} == {0, 1}


def test_a_gate_that_is_not_kept_is_a_status_of_its_own_and_an_evaluation_is_told_again(
    client: Brie, brie: BrieProcesses, files: Path
) -> None:
    options = ("--data", str(files / "rows.jsonl"), "--prompts", "none", "--gate", str(files / "shut.json"))
    told = brie_command(brie, "eval", NAME, *options, "--json")
    assert told.returncode == evaluating.GATE_FAILED, told.stderr
    last = json.loads(told.stdout.splitlines()[-1])
    assert last["gate_passed"] is False
    assert set(last["report"]["candidates"]) == {NAME, "tiny"}
    again = brie_command(brie, "eval", "--id", last["id"])
    assert again.returncode == evaluating.GATE_FAILED
    assert "The gate is not passed." in again.stdout
    assert len(client.evaluations.list()) == len({each.id for each in client.evaluations.list()})


def test_a_name_is_pointed_through_its_gate(client: Brie, brie: BrieProcesses, files: Path) -> None:
    version = client.adapters.retrieve(NAME).version
    refused = brie_command(brie, "models", "point", "gated-here", NAME, "--gate")
    assert (refused.returncode, "has no gate" in refused.stderr) == (1, True)
    stored = brie_command(brie, "models", "gate", "gated-here", str(files / "unheard.json"))
    assert (stored.returncode, stored.stdout.split()) == (0, ["FIGURE", "MIN", "MAX", "perplexity", "2000000000.0"])
    assert brie_command(brie, "models", "gate", "gated-here").stdout == stored.stdout
    refused = brie_command(brie, "models", "point", "gated-here", NAME, "--gate")
    assert (refused.returncode, "POST /v1/evaluations" in refused.stderr) == (1, True)
    options = ("--data", str(files / "rows.jsonl"), "--prompts", "none", "--gate", "gated-here")
    assert brie_command(brie, "eval", NAME, *options).returncode == 0
    moved = brie_command(brie, "models", "point", "gated-here", NAME, "--gate", "--json")
    assert (moved.returncode, json.loads(moved.stdout)["version"]) == (0, version)
    client.adapters.delete("gated-here")
    client.gates.delete("gated-here")


def test_what_has_no_answer_is_told_with_its_reason() -> None:
    counts = {"planned": 9, "answered": 7, "reasons": {"status 400: context_length_exceeded": 2}}
    whole = {"planned": 4, "answered": 4, "reasons": {}}
    told = list(report_tables._missing("mine", {"held_out": whole, "answers": counts}))
    assert told == ["mine: 2 of 9 answers are missing (status 400: context_length_exceeded, 2 times)."]
    assert list(report_tables._missing("mine", {"held_out": None, "answers": whole})) == []
    verdicts = {"planned": 9, "answered": 2, "not_asked": 3, "identical": 2, "reasons": {"status 400": 2}}
    (line,) = report_tables._without("judge", "verdicts", verdicts)
    assert line == "judge: 5 of 9 verdicts are missing (status 400, 2 times; 3 not asked)."


@pytest.mark.parametrize(("number", "lines"), [(3, 2), (4, 5)])
def test_many_candidates_stand_below_each_other(number: int, lines: int, capsys: pytest.CaptureFixture[str]) -> None:
    figure = {"value": 48864.3, "low": 1.5, "high": 2.25}
    told = {"figures": {"rouge_l": figure, "mtld": {"value": None}}, "held_out": None, "answers": None}
    report = {"confidence": 0.9, "candidates": {f"ckpt-step-{n}": told for n in range(number)}}
    report_tables._show_figures(report)
    shown = capsys.readouterr().out.strip().splitlines()
    assert len(shown) == lines  # what none of them has is no line
    assert shown[0].startswith("figure (90 % intervals)")
    assert shown[1].startswith("ROUGE-L")
    assert shown[-1].endswith("48864 (1.5 to 2.25)")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nope",), (1, "does not exist")),
        ((NAME, "--against", "nope"), (1, "does not exist")),
        ((NAME, "--data", "nope.jsonl"), (1, "nope.jsonl")),
        ((NAME, "--gate", "nope"), (1, "has no gate")),
        ((NAME, "--sweep", "warmth=1"), (1, "warmth")),
        ((NAME, "--sweep", "temperature"), (2, "is not like")),
        ((NAME, "--judge", "http://x/v1"), (2, "--judge-model")),
        ((), (2, "MODEL")),
        (("--id", "eval-1", "--gate", "nope"), (2, "--json alone")),
        (("--resume", "eval-1", "--seed", "1"), (2, "--json alone")),
        (("--resume", "eval-1"), (1, "no job")),
        ((NAME, "--job", "ftjob-1"), (2, "MODEL")),
    ],
)
def test_what_cannot_be_asked_is_told_in_one_line(
    arguments: tuple[str, ...],
    said: tuple[int, str],
    client: Brie,
    brie: BrieProcesses,
) -> None:
    result = brie_command(brie, "eval", *arguments)
    status, words = said
    assert result.returncode == status, result.stderr
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_what_is_said_on_the_command_line_is_what_is_asked() -> None:
    foreign = evaluating._candidate("http://h/v1#m", "BRIE_EVALUATION_KEY_H")
    assert foreign == {"base_url": "http://h/v1", "model": "m", "key_env": "BRIE_EVALUATION_KEY_H"}
    assert evaluating._candidate("ft:base:brie:x#y", None) == "ft:base:brie:x#y"
    keys = ["BRIE_EVALUATION_KEY_A", "BRIE_EVALUATION_KEY_B"]
    judges = evaluating._judges(["http://a/v1", "http://b/v1"], ["m", "n"], keys)
    assert judges == [
        {"model": "m", "base_url": "http://a/v1", "key_env": "BRIE_EVALUATION_KEY_A"},
        {"model": "n", "base_url": "http://b/v1", "key_env": "BRIE_EVALUATION_KEY_B"},
    ]
    assert evaluating._judges([], ["m"], []) == [{"model": "m"}]
    grid = evaluating._sweep(["temperature=0,0.7", "system_prompt=Be brief, please."])
    assert grid == {"temperature": [0.0, 0.7], "system_prompt": ["Be brief, please."]}


def test_two_models_are_shown_side_by_side(client: Brie, brie: BrieProcesses, files: Path) -> None:
    one = brie_command(brie, "compare", NAME, "tiny", "Who was Spinoza?", "--max-tokens", "4", "--json")
    assert one.returncode == 0, one.stderr
    answers = json.loads(one.stdout)["answers"]
    assert set(answers) == {NAME, "tiny"}
    messages: Any = [{"role": "user", "content": "Who was Spinoza?"}]
    asked = client.chat.completions.create(model="tiny", messages=messages, temperature=0.7, seed=0, max_tokens=4)
    assert answers["tiny"] == asked.choices[0].message.content
    drawn = brie_command(brie, "compare", NAME, "tiny", "--theme", "methodology", "--max-tokens", "3")
    assert drawn.returncode == 0, drawn.stderr
    assert drawn.stdout.count("methodology") == 1  # Brie's own prompts, one of a theme
    assert any(NAME in line and "tiny" in line for line in drawn.stdout.splitlines())


def test_prompts_of_ones_own_are_compared_and_an_unknown_theme_is_told(
    client: Brie, brie: BrieProcesses, files: Path
) -> None:
    options = ("--prompts", str(files / "prompts.jsonl"), "--max-tokens", "2", "--json")
    result = brie_command(brie, "compare", NAME, "tiny", *options)
    assert [json.loads(line)["id"] for line in result.stdout.splitlines()] == ["a", "b"]
    result = brie_command(brie, "compare", NAME, "tiny", *options, "--theme", "nope")
    assert result.returncode == 2
    assert "facts, code" in result.stderr


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (b'{"prompt": "Why?"}\n"text"\n', "line 2 of"),
        (b'{"prompt": ""}\n', "neither a 'prompt' nor 'messages'"),
        (b'{"messages": [{"role": "user"}]}\n', "neither a 'prompt' nor 'messages'"),
        (b"\n{\n", "line 2 of"),
        (b'\xff\xfe{"prompt": "Why?"}\n', "is no JSON"),
    ],
)
def test_a_line_that_is_no_prompt_is_told_by_its_number(lines: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_bytes(lines)
    with pytest.raises(typer.BadParameter, match=said):
        comparing._lines(tmp_path / "prompts.jsonl")


def test_a_model_is_not_compared_with_itself(brie: BrieProcesses) -> None:
    told = brie_command(brie, "compare", "tiny", "tiny", "Who?")
    assert (told.returncode, "the same model" in told.stderr) == (2, True)


def test_the_example_gives_the_same_report_twice(client: Brie, brie: BrieProcesses, tmp_path: Path) -> None:
    told = run(brie, sys.executable, str(EXAMPLES / "evaluate.py"), NAME, "evaluated", folder=tmp_path)
    assert told.returncode == 0, told.stderr
    assert told.stdout.splitlines()[-1] == "The second report is the first, byte for byte."
    assert (tmp_path / "evaluated" / "again" / "page.html").is_file()
