"""`python -m brie_trainer.check` and `brie data check`: the report without a server, in words, JSON, exit statuses."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from brie_trainer import check

TORCHLESS = """
import sys
from brie_trainer.check import main
status = main(sys.argv[1:])
loaded = sorted({"torch", "transformers", "peft", "trl", "datasets", "accelerate"} & sys.modules.keys())
sys.exit(f"imported {loaded}" if loaded else status)
"""


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, model_home: Path) -> Path:
    monkeypatch.setenv("BRIE_HOME", str(model_home))
    return model_home


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "rows.jsonl", *[chat(f"q{n}", f"an answer, the {n}th") for n in range(12)])


def chat(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def write(file: Path, *rows: Any) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_good_data_is_told_in_words_with_its_first_rows(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main([str(file), "--max-length", "100", "--rows", "1"]) == 0
    told = capsys.readouterr().out
    assert "supervised, smollm2-135m-instruct, at most 100 tokens per example" in told
    assert "training: 12 rows, 12 examples" in told
    assert "⟦an answer, the 0th<|im_end|>⟧" in told
    assert "the 1th" not in told


def test_the_same_as_one_json_object(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held_out = write(tmp_path / "held-out.jsonl", chat("q3", "an answer, the other"))
    assert check.main([str(file), "--validation", str(held_out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["training"]["rows"], told["validation"]["rows"], told["leaked_rows"]) == (12, 1, 1)
    assert [finding["code"] for finding in told["findings"]] == ["leaked_prompts"]
    assert told["max_length"] == 8192
    assert [row["line"] for row in told["preview"]] == [1, 2]
    assert told["preview"][0]["segments"][-1] == {"text": "an answer, the 0th<|im_end|>", "trained": True}


def test_bad_data_ends_with_1_and_the_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "rows.jsonl", chat("q", "a"), {"messages": []})
    assert check.main([str(file)]) == 1
    assert "Line 2 of the training file" in capsys.readouterr().err
    assert check.main([str(file), "--json"]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["code"], error["param"]) == ("invalid_training_file", "training_file")


def test_preferences_are_checked_for_their_method(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = {"prompt": [{"role": "user", "content": "q"}], "chosen": "a", "rejected": "b"}
    file = write(tmp_path / "rows.jsonl", pair)
    assert check.main([str(file), "--method", "dpo", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)["preview"]] == ["chosen", "rejected"]
    assert check.main([str(file)]) == 1


def test_the_floor_is_a_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BRIE_MIN_EXAMPLES", "10")
    assert check.main([str(write(tmp_path / "rows.jsonl", chat("q", "a"))), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "invalid_n_examples"


def test_settings_that_cannot_be_used_end_with_2(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BRIE_PROT", "1")
    assert check.main([str(file)]) == 2
    assert "BRIE_PROT" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["nowhere.jsonl"], ["--max-length", "0", "x"], ["--method", "ppo", "x"], []])
def test_what_is_asked_wrongly_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        check.main(arguments)
    assert ended.value.code == 2
    assert "brie data check" in capsys.readouterr().err


def test_no_framework_is_imported(file: Path) -> None:
    done = subprocess.run([sys.executable, "-c", TORCHLESS, str(file)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_command_line_hands_over_and_keeps_the_status(tmp_path: Path, file: Path) -> None:
    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "brie_cli", "data", "check", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = run(str(file), "--json", "--max-length", "60", "--rows", "0")
    told = json.loads(done.stdout)
    assert (done.returncode, told["training"]["rows"], told["max_length"], told["preview"]) == (0, 12, 60, [])
    bad = write(tmp_path / "--json", {})
    refused = run("--", str(bad))
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "Line 1 of the training file" in refused.stderr
