"""/v1/evaluations and /v1/gates over HTTP, with a real worker: reports, downloads, refusals, gates, deletion."""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from brie_client import Brie
from brie_core.settings import OWN_EVALUATION_KEY
from brie_core.wire import EvaluationObject
from brie_processes import BrieProcesses
from scripted_api import Body, Said, ScriptedApi, chat
from tiny_models import write_lora

NAME, OTHER = "evaluated", "evaluated-too"
ROWS = [
    {"messages": [{"role": "user", "content": f"Say {i}"}, {"role": "assistant", "content": f"Here is {i}, gladly."}]}
    for i in range(4)
]
PROMPTS = [
    {"id": "one", "theme": "facts", "prompt": "Who was Spinoza?", "reference": "A philosopher."},
    {"id": "two", "theme": "maths", "prompt": "What is two and two?"},
]
SHORT: dict[str, Any] = {"sampling": {"max_tokens": 6}, "statistics": {"resamples": 200}, "held_out_prompts": 2}
PASSED = {"perplexity": {"max": 1e9}, "answers.refused": {"max": 0}}


def _jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture(scope="module")
def client(brie: BrieProcesses, tiny_lora: Path, tiny_model: Path) -> Iterator[Brie]:
    """Of a server that has two adapters."""
    folder = brie.home / "tmp" / "evaluated"
    shutil.copytree(tiny_lora, folder / NAME)
    write_lora(folder / OTHER, tiny_model, seed=7)
    for name in (NAME, OTHER):
        body = {"lora_name": name, "lora_path": str(folder / name)}
        assert httpx2.post(f"{brie.url}/v1/load_lora_adapter", json=body).status_code == 200
    with Brie(base_url=f"{brie.url}/v1", max_retries=0) as opened:
        yield opened


@pytest.fixture(scope="module")
def data(client: Brie) -> str:
    return client.files.create(file=("held-out.jsonl", _jsonl(ROWS)), purpose="fine-tune").id


@pytest.fixture(scope="module")
def prompts(client: Brie) -> str:
    return client.files.create(file=("prompts.jsonl", _jsonl(PROMPTS)), purpose="user_data").id


def _done(client: Brie, **asked: Any) -> EvaluationObject:
    *_, last = client.evaluations.follow(client.evaluations.create(**asked).id, poll_seconds=0.1)
    assert last.status == "succeeded", last.error
    return last


@pytest.fixture(scope="module")
def judged(client: Brie, data: str, prompts: str) -> EvaluationObject:
    """An adapter against the base, with everything there is."""
    judge = {"model": "tiny", "name": "the base itself", "structured": False, "max_tokens": 16}
    return _done(
        client,
        model=NAME,
        data=data,
        prompts=prompts,
        judges=[judge],
        judging={"limit": 1},
        sweep={"temperature": [0, 1.5], "limit": 1},
        gate=PASSED,
        seed=3,
        **SHORT,
    )


def test_a_report_tells_exact_versions_figures_and_what_they_were_made_of(
    client: Brie, judged: EvaluationObject, data: str, prompts: str
) -> None:
    version = client.adapters.retrieve(NAME).version
    assert [(each.name, each.version) for each in judged.models] == [(NAME, version), ("tiny", "base")]
    assert (judged.against, judged.data, judged.data_source, judged.prompts) == ("tiny", data, "given", prompts)
    assert (judged.progress, judged.message, judged.gate_passed, judged.seed) == (1.0, None, True, 3)
    assert len(judged.gate_sentences) == len(PASSED)
    report = client.evaluations.report(judged.id)
    told = report["candidates"]
    assert told[NAME]["identity"]["version"] == version
    assert told["tiny"]["identity"]["version"] == "base"
    assert told[NAME]["figures"]["perplexity"]["items"] == len(ROWS)
    assert told[NAME]["figures"]["bleu"]["items"] == 1 + 2  # the references of a prompt and of two held-out rows
    assert told[NAME]["figures"]["perplexity"]["value"] != told["tiny"]["figures"]["perplexity"]["value"]
    assert [comparison["sentence"] for comparison in report["comparisons"]] == judged.sentences
    assert {cell["settings"]["temperature"] for cell in report["sweep"]} == {0, 1.5}
    counts = report["comparisons"][0]["judging"]["judges"]["the base itself"]["counts"]
    assert counts["planned"] == 2 * 3  # both orders of a prompt of each theme
    messages = [event.message for event in reversed(client.evaluations.events(judged.id))]
    assert messages[:2] == ["Created evaluation", "Evaluation started"]
    assert messages[-1] == "The evaluation has successfully completed"


def test_the_same_seed_gives_the_same_report_and_another_gives_another(
    client: Brie, judged: EvaluationObject, data: str, prompts: str
) -> None:
    asked: dict[str, Any] = {"model": NAME, "data": data, "prompts": prompts, **SHORT}
    first, again, other = (_done(client, **asked, seed=seed) for seed in (3, 3, 4))
    digests = [[file.sha256 for file in each.files if file.filename == "report.json"] for each in (first, again, other)]
    assert digests[0] == digests[1] != digests[2]
    assert client.evaluations.report(first.id) == client.evaluations.report(again.id)


def test_the_page_can_do_nothing_and_files_come_in_parts(
    client: Brie, judged: EvaluationObject, brie: BrieProcesses, tmp_path: Path
) -> None:
    url = f"{brie.url}/v1/evaluations/{judged.id}"
    page = httpx2.get(f"{url}/page")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert {"default-src 'none'", "sandbox"} <= {
        part.strip() for part in page.headers["content-security-policy"].split(";")
    }
    assert judged.sentences[0].split()[0] in page.text
    assert "<svg" in page.text and "<script" not in page.text
    names = {file.filename for file in judged.files}
    assert names == {"report.json", "page.html", "card.md", "rows.jsonl", "gate.json"}
    rows = client.evaluations.download(judged, tmp_path / "rows.jsonl", "rows.jsonl").read_bytes()
    kinds = [json.loads(line)["key"]["kind"] for line in rows.splitlines()]
    assert {kind: kinds.count(kind) for kind in kinds} == {"loss": 8, "answer": 8, "sweep": 12, "verdict": 6}
    part = httpx2.get(f"{url}/files/rows.jsonl", headers={"Range": "bytes=100-"})
    assert (part.status_code, part.content) == (206, rows[100:])
    assert httpx2.get(f"{url}/files/report.json").json() == client.evaluations.report(judged.id)
    for name in ("nothing", "asked.json", "..%2F..%2Fbrie.sqlite3", "%2Fetc%2Fpasswd"):
        assert httpx2.get(f"{url}/files/{name}").status_code == 404


def test_a_card_says_what_the_newest_evaluation_of_exactly_this_version_says(
    client: Brie, judged: EvaluationObject, data: str, tmp_path: Path
) -> None:
    newest = _done(client, models=[OTHER, NAME], data=data, prompts="none", title="a later one")
    assert client.adapters.retrieve(NAME).evaluation == newest.id
    *_, export = client.exports.follow(client.exports.create(model=NAME, format="peft").id, poll_seconds=0.1)
    card = client.exports.download(export, tmp_path / "README.md", "README.md").read_text()
    figures = client.evaluations.report(newest.id)["candidates"]
    assert card.count("## Evaluation") == 1
    assert "4 held-out rows" in card
    assert f"| {figures[NAME]['figures']['perplexity']['value']:.0f} (" in card
    assert f"version {figures[NAME]['identity']['version']}" in card
    assert f"version {figures[OTHER]['identity']['version']}" not in card  # the other candidate is not of this card


def test_a_name_moves_by_its_gate_only_to_what_has_passed_it(client: Brie, data: str) -> None:
    name, versions = "gated", {each: client.adapters.retrieve(each).version for each in (NAME, OTHER)}
    client.adapters.point(name, versions[NAME], None)

    def refused(**options: Any) -> str:
        with pytest.raises(openai.ConflictError) as error:
            client.adapters.point(name, versions[OTHER], versions[NAME], **options)
        assert client.adapters.retrieve(name).version == versions[NAME]
        return str(error.value.code)

    assert refused(gate=True) == "gate_missing"
    bounds = {"perplexity": {"max": 1e9}}
    assert client.gates.put(name, bounds).bounds == {"perplexity": {"min": None, "max": 1e9}}
    assert refused(gate=True) == "gate_not_evaluated"
    _done(client, model=NAME, data=data, prompts="none", gate_of=name)  # another version's
    _done(client, model=OTHER, data=data, prompts="none", gate={"perplexity": {"max": 1e8}})  # another gate
    assert refused(gate=True) == "gate_not_evaluated"

    client.gates.put(name, {"perplexity": {"max": 1.0}})
    failed = _done(client, model=OTHER, data=data, prompts="none", gate_of=name)
    assert (failed.status, failed.gate_passed) == ("succeeded", False)
    assert refused(gate=True) == "gate_failed"

    client.gates.put(name, bounds)
    assert _done(client, model=OTHER, data=data, prompts="none", gate_of=name).gate_passed
    with pytest.raises(openai.ConflictError) as lost:
        client.adapters.point(name, versions[OTHER], versions[OTHER], gate=True)
    assert lost.value.code == "version_conflict"
    assert client.adapters.point(name, versions[OTHER], versions[NAME], gate=True).version == versions[OTHER]
    assert client.gates.delete(name).deleted
    with pytest.raises(openai.NotFoundError):
        client.gates.retrieve(name)
    client.adapters.delete(name)


def test_every_checkpoint_of_a_job_is_compared_on_its_own_validation_file(client: Brie, data: str) -> None:
    hyperparameters = {"n_epochs": 2, "batch_size": 2}
    method: Any = {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}
    job = client.fine_tuning.jobs.create(
        model="tiny", training_file=data, validation_file=data, suffix="with-checkpoints", method=method
    )
    with pytest.raises(openai.BadRequestError) as early:
        client.evaluations.create(job=job.id)
    assert (early.value.param, early.value.code) == ("job", "no_checkpoints")
    while client.fine_tuning.jobs.retrieve(job.id).status not in {"succeeded", "failed", "cancelled"}:
        time.sleep(0.2)
    names = [each.fine_tuned_model_checkpoint for each in client.fine_tuning.jobs.checkpoints.list(job.id)]
    assert len(names) == 2
    asked = client.evaluations.create(job=job.id)
    client.evaluations.cancel(asked.id)
    assert [each.name for each in asked.models] == [*reversed(names), "tiny"]
    assert (asked.job, asked.data, asked.data_source) == (job.id, data, f"validation_file of {job.id}")
    by_model = client.evaluations.create(model="with-checkpoints")
    client.evaluations.cancel(by_model.id)
    assert (by_model.data, by_model.data_source) == (data, f"validation_file of {job.id}")
    none = client.evaluations.create(model="with-checkpoints", data="none")
    client.evaluations.cancel(none.id)
    assert (none.data, none.data_source, none.prompts) == (None, None, "default")
    client.adapters.delete(names[0])
    with pytest.raises(openai.NotFoundError) as gone:
        client.evaluations.create(job=job.id)
    assert (gone.value.param, gone.value.code) == ("job", "model_not_found")


def test_a_model_against_itself_and_one_behind_another_server(client: Brie, brie: BrieProcesses, data: str) -> None:
    foreign = {"base_url": f"{brie.url}/v1", "model": NAME, "name": "elsewhere"}
    asked = client.evaluations.create(model=foreign, against=NAME, data=data)
    client.evaluations.cancel(asked.id)
    assert [(each.name, each.base_url, each.version is None) for each in asked.models] == [
        ("elsewhere", f"{brie.url}/v1", True),
        (NAME, None, False),
    ]
    itself = client.evaluations.create(model=NAME, against=NAME, data=data)
    client.evaluations.cancel(itself.id)
    assert ([each.name for each in itself.models], itself.against) == ([NAME, f"{NAME} again"], f"{NAME} again")
    alone = client.evaluations.create(model="tiny")
    client.evaluations.cancel(alone.id)
    assert ([each.name for each in alone.models], alone.against) == (["tiny"], None)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"model": "nope"}, (404, "model", "model_not_found")),
        ({"model": None, "models": [NAME, "nope"]}, (404, "models[1]", "model_not_found")),
        ({"against": "nope"}, (404, "against", "model_not_found")),
        ({"judges": [{"model": "nope"}]}, (404, "judges[0].model", "model_not_found")),
        ({"model": None, "job": "ftjob-nope"}, (404, "job", "job_not_found")),
        ({"gate_of": "nope"}, (404, "gate_of", "gate_missing")),
        ({"data": "file-nope"}, (400, "data", "file_not_found")),
        ({"prompts": "file-nope"}, (400, "prompts", "file_not_found")),
        ({"model": None}, (400, "model", "invalid_value")),
        ({"job": "ftjob-nope"}, (400, "job", "invalid_value")),
        ({"models": [OTHER]}, (400, "models", "invalid_value")),
        ({"model": None, "models": [NAME, NAME]}, (400, "models[0].name", None)),
        ({"prompts": "none"}, (400, "data", None)),
        ({"data": "none", "max_length": 9}, (400, "max_length", None)),
        ({"gate": {"perplexity": {"max": 9}}, "gate_of": NAME}, (400, "gate_of", "invalid_value")),
        ({"gate": {"perplexity": {"min": 2, "max": 1}}}, (400, "gate.perplexity.max", "invalid_value")),
        ({"judging": {"limit": 1}}, (400, "judging", None)),
        ({"judges": [{"model": NAME}], "judging": {"samples": 2}}, (400, "judging.samples", None)),
        ({"gate": {}}, (400, "gate", "invalid_value")),
        ({"gate": {"perplexity": {}}}, (400, "gate.perplexity", "invalid_value")),
        ({"gate": {"perplexity": {"max": "x"}}}, (400, "gate.perplexity.max", "invalid_value")),
        ({"model": {"model": "x", "base_url": "ftp://x"}}, (400, "model.base_url", "invalid_value")),
        ({"model": {"model": "x", "base_url": "http://me:secret@x/v1"}}, (400, "model.base_url", "invalid_value")),
        ({"sweep": {"limit": 1}}, (400, "sweep", None)),
        ({"model": {"model": "x", "key_env": "BRIE_EVALUATION_KEY_X"}}, (400, "model.key_env", "invalid_value")),
        (
            {"judges": [{"model": "x", "base_url": "http://x/v1", "key_env": "BRIE_API_KEYS"}]},
            (400, "judges[0].key_env", "invalid_value"),
        ),
        (
            {"judges": [{"model": "x", "base_url": "http://x/v1", "key_env": OWN_EVALUATION_KEY}]},
            (400, "judges[0].key_env", "invalid_value"),
        ),
        ({"judges": [{"model": NAME}, {"model": NAME}]}, (400, "judges[0].name", None)),
        ({"model": "tiny", "judges": [{"model": NAME}]}, (400, "against", None)),
        ({"sampling": {"temperature": 9}}, (400, "sampling.temperature", "invalid_value")),
        ({"sweep": {"top_p": [0]}}, (400, "sweep.top_p[0]", "invalid_value")),
        ({"samples": 0}, (400, "samples", "invalid_value")),
        ({"seed": -1}, (400, "seed", "invalid_value")),
        ({"sede": 1}, (400, "sede", "invalid_value")),
    ],
)
def test_what_cannot_be_asked_is_refused_by_name(
    body: dict[str, Any], said: tuple[int, str | None, str | None], client: Brie, brie: BrieProcesses
) -> None:
    answer = httpx2.post(f"{brie.url}/v1/evaluations", json={"model": NAME} | body)
    error = answer.json().get("error", {})
    assert (answer.status_code, error.get("param"), error.get("code")) == said, answer.text


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"samples": 2}, "samples"),
        ({"sampling": {"temperature": 0}}, "sampling"),
        ({"limit": 1}, "limit"),
        (
            {"model": {"model": "x", "base_url": "http://x/v1"}, "against": {"model": "y", "base_url": "http://x/v1"}},
            "prompts",
        ),
    ],
)
def test_what_would_do_nothing_without_prompts_is_refused(
    body: dict[str, Any], param: str, client: Brie, brie: BrieProcesses, data: str
) -> None:
    asked: dict[str, Any] = {"model": NAME, "data": data, "prompts": "none"}
    answer = httpx2.post(f"{brie.url}/v1/evaluations", json=asked | body)
    assert (answer.status_code, answer.json().get("error", {}).get("param")) == (400, param), answer.text
    neutral: dict[str, Any] = {"samples": 1, "sampling": {}, "judging": {}, "held_out_prompts": 0}
    accepted = client.evaluations.create(**asked, **neutral)
    assert client.evaluations.cancel(accepted.id).status == "cancelled"


def test_an_evaluation_is_deleted_with_its_files_and_holds_what_it_needs_until_its_end(
    client: Brie, brie: BrieProcesses, data: str
) -> None:
    kept = client.files.create(file=("held-out.jsonl", _jsonl(ROWS)), purpose="fine-tune").id
    running = client.evaluations.create(model=NAME, data=kept)
    with pytest.raises(openai.ConflictError) as early:
        client.evaluations.delete(running.id)
    assert early.value.code == "job_not_finished"
    with pytest.raises(openai.ConflictError) as used:
        client.adapters.delete(NAME)
    assert used.value.code == "adapter_in_use"
    assert client.evaluations.cancel(running.id).status == "cancelled"
    for path in ("report", "page", "files/report.json"):
        assert (
            httpx2.get(f"{brie.url}/v1/evaluations/{running.id}/{path}").json()["error"]["code"]
            == "evaluation_not_ready"
        )
    with pytest.raises(openai.BadRequestError):
        client.evaluations.cancel(running.id)
    assert client.evaluations.delete(running.id).deleted

    done = _done(client, model=NAME, data=data, prompts="none")
    assert (brie.home / "evaluations" / done.id / "report.json").is_file()
    assert [each.id for each in client.evaluations.list(limit=1)] == [done.id]
    assert client.evaluations.delete(done.id).deleted
    assert not (brie.home / "evaluations" / done.id).exists()
    assert not (brie.home / "jobs" / done.id).exists()
    for path in ("", "/events", "/report", "/page", "/files/report.json"):
        assert httpx2.get(f"{brie.url}/v1/evaluations/{done.id}{path}").status_code == 404


def test_a_failed_evaluation_is_resumed_from_what_it_has_though_its_files_are_deleted(client: Brie) -> None:
    is_down, asked = [True], []

    def says(_: str, body: Body) -> Said:
        question = body["messages"][-1]["content"]
        if is_down[0] and question == PROMPTS[1]["prompt"]:
            return Said({"error": {"message": "out of order"}}, 500, {"retry-after": "0"})
        asked.append(question)
        return chat("So it is.", version=None)

    rows = client.files.create(file=("held-out.jsonl", _jsonl(ROWS)), purpose="fine-tune").id
    own = client.files.create(file=("prompts.jsonl", _jsonl(PROMPTS)), purpose="user_data").id
    with ScriptedApi(says) as api:
        elsewhere = {"base_url": api.url, "model": "m", "name": "elsewhere", "retries": 0}
        made = client.evaluations.create(model=elsewhere, data=rows, prompts=own, **SHORT)
        with pytest.raises(openai.ConflictError) as early:
            client.evaluations.resume(made.id)
        assert early.value.code == "job_not_failed"
        *_, failed = client.evaluations.follow(made.id, poll_seconds=0.1)
        assert failed.error is not None
        assert (failed.status, failed.error.code, failed.error.param) == (
            "failed",
            "candidate_unavailable",
            "elsewhere",
        )
        for file in (rows, own):
            client.files.delete(file)
        is_down[0], before = False, list(asked)
        assert before == [PROMPTS[0]["prompt"]]
        resumed = client.evaluations.resume(made.id)
        assert (resumed.id, resumed.error, resumed.finished_at) == (made.id, None, None)
        *_, done = client.evaluations.follow(made.id, poll_seconds=0.1)
    assert done.status == "succeeded", done.error
    assert len(asked) == 4  # two prompts and two held-out rows, none of them twice
    assert client.evaluations.report(made.id)["candidates"]["elsewhere"]["answers"]["answered"] == 4
    messages = [event.message for event in reversed(client.evaluations.events(made.id))]
    assert [each for each in messages if each.startswith(("The job is", "Evaluation"))] == [
        "Evaluation started",
        "The job is resumed",
        "Evaluation continued",
    ]
    with pytest.raises(openai.ConflictError):
        client.evaluations.resume(made.id)
