"""Evaluations in a worker: what the child is told, what becomes of its words, and what kill -9 cannot undo."""

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from brie_core.errors import BrieError
from brie_core.settings import OWN_EVALUATION_KEY, Settings
from brie_core.store.evaluations import candidate_of, has_passed, newest_evaluation, same_bounds
from brie_core.store.files import FileStore
from brie_core.store.job_store import JobStore
from brie_core.store.jobs import Job, JobKind, JobStatus
from brie_core.store.schema import open_database
from brie_core.weights.base_model import BaseModel
from brie_processes import BrieProcesses
from brie_trainer.evaluating import EvaluationKind
from brie_trainer.evaluation.__main__ import read_job

KIND = JobKind.EVALUATION
_SPEC: dict[str, Any] = {
    "data_limit": None,
    "max_length": None,
    "themes": None,
    "limit": None,
    "samples": 1,
    "sampling": {"temperature": 0.7, "top_p": 1.0, "repetition_penalty": None, "max_tokens": 8, "system_prompt": None},
    "statistics": {"confidence": 0.95, "resamples": 200},
    "seed": 1,
    "concurrency": 1,
    "against": "two",
    "job": None,
    "data": None,
    "data_source": None,
    "prompts": "default",
    "held_out_prompts": 0,
    "sweep": None,
    "judging": None,
    "gate": None,
    "title": None,
}


def entry(name: str, **changes: Any) -> dict[str, Any]:
    """A model as a row has it."""
    plain = dict.fromkeys(("base_url", "key_env", "timeout_seconds", "retries", "version"))
    return {"name": name, "model": name, **plain, "seed_offset": 0, **changes}


def spec_of(base: BaseModel, **changes: Any) -> dict[str, Any]:
    """A row's spec: two models of this server."""
    told = {"id": base.id, "folder": str(base.folder), "digest": base.digest}
    candidates = [entry("one", version="1" * 64), entry("two", version="base")]
    return {**_SPEC, "candidates": candidates, "base": told, **changes}


async def prepared(settings: Settings, base: BaseModel, **changes: Any) -> dict[str, Any]:
    """job.json as the child reads it."""
    database = await open_database(settings)
    try:
        job = await JobStore(database).create(KIND, spec_of(base, **changes), JobStatus.QUEUED, [])
        folder = settings.home / "jobs" / job.id / "attempts" / "1"
        folder.mkdir(parents=True)
        await EvaluationKind(settings, base, FileStore(database, settings.home)).prepare(job, folder)
    finally:
        await database.aclose()
    assert read_job(folder).seed == 1  # the child's own rules
    told: dict[str, Any] = json.loads((folder / "job.json").read_text())
    assert told["output"] == str(settings.home / "evaluations" / job.id)
    return told


async def test_this_server_is_asked_where_it_is_with_patience_and_others_as_they_are_told(
    tiny_base: BaseModel, tmp_path: Path
) -> None:
    elsewhere = entry("two", base_url="http://other/v1", key_env="BRIE_EVALUATION_KEY_TWO", retries=1)
    candidates = [entry("one", version="1" * 64), elsewhere]
    told = await prepared(Settings(home=tmp_path, port=8123), tiny_base, candidates=candidates)
    own, other = told["candidates"]
    assert (own["base_url"], own["key_env"], own["version"]) == ("http://127.0.0.1:8123/v1", None, "1" * 64)
    assert (own["tokenizer"], own["retries"]) == (str(tiny_base.folder), 20)
    assert (other["base_url"], other["key_env"]) == ("http://other/v1", "BRIE_EVALUATION_KEY_TWO")
    assert (other["tokenizer"], other["retries"], other["version"]) == (None, 1, None)


async def test_a_key_goes_by_environment_and_this_servers_own_to_nobody_else(
    tiny_base: BaseModel, tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path, url="http://brie:9", api_keys=("secret-key", "another"))
    told = await prepared(settings, tiny_base)
    assert {each["key_env"] for each in told["candidates"]} == {OWN_EVALUATION_KEY}
    assert "secret-key" not in json.dumps(told)
    database = await open_database(settings)
    kind = EvaluationKind(settings, tiny_base, FileStore(database, tmp_path))
    await database.aclose()
    assert kind.environment == {OWN_EVALUATION_KEY: "secret-key"}
    thief = entry("two", base_url="http://thief/v1", key_env=OWN_EVALUATION_KEY)
    with pytest.raises(BrieError, match="no other server's key"):
        await prepared(settings, tiny_base, candidates=[entry("one"), thief])


async def test_a_file_that_is_gone_before_the_first_attempt_is_told_by_name(
    tiny_base: BaseModel, tmp_path: Path
) -> None:
    with pytest.raises(BrieError) as missing:
        await prepared(Settings(home=tmp_path), tiny_base, data="file-gone")
    assert (missing.value.param, missing.value.code) == ("data", "file_not_found")


def a_job(base: BaseModel, status: JobStatus = JobStatus.RUNNING, **result: Any) -> Job:
    return Job(
        id="eval-1",
        kind=KIND,
        status=status,
        spec=spec_of(base),
        result=result,
        error=None,
        created_at=1,
        finished_at=None,
        attempt=1,
        events_offset=0,
    )


async def test_an_evaluation_that_gets_on_may_crash_as_often_as_it_likes(tiny_base: BaseModel, tmp_path: Path) -> None:
    kind = EvaluationKind(Settings(home=tmp_path), tiny_base, None)  # type: ignore[arg-type]
    job, event = a_job(tiny_base, progress=0.5, crashes=2), {"type": "progress", "message": "asked"}
    same = await kind.change(job, tmp_path, {**event, "fraction": 0.5})
    further = await kind.change(job, tmp_path, {**event, "fraction": 0.6})
    assert "crashes" not in (same.result or {})
    assert (further.result or {})["crashes"] == 0


@pytest.mark.parametrize(
    ("param", "field"),
    [("prompts.themes", "themes"), ("prompts.file", "prompts"), ("validation_file", "data"), ("gate.x", "gate.x")],
)
async def test_what_the_child_refuses_is_told_by_the_apis_name(
    param: str, field: str, tiny_base: BaseModel, tmp_path: Path
) -> None:
    kind = EvaluationKind(Settings(home=tmp_path), tiny_base, None)  # type: ignore[arg-type]
    event = {"type": "error", "code": "x", "message": "y", "param": param}
    change = await kind.change(a_job(tiny_base), tmp_path, event)
    assert (change.error or {})["param"] == field


def test_a_gate_is_passed_by_a_version_only_if_all_that_was_said_of_it_holds(tiny_base: BaseModel) -> None:
    def judged(*verdicts: tuple[str | None, bool]) -> Job:
        told = [{"candidate": name, "passed": passed} for name, passed in verdicts]
        return a_job(tiny_base, JobStatus.SUCCEEDED, gate={"passed": False, "verdicts": told})

    version = "1" * 64
    assert candidate_of(judged(), version) == "one"
    assert candidate_of(judged(), "3" * 64) is None
    assert has_passed(judged(("one", True), ("other", False)), version)
    assert not has_passed(judged(("one", True), ("one", False)), version)
    assert not has_passed(judged(("one", True), (None, False)), version)
    assert not has_passed(judged(("other", True)), version)  # nothing was said of it
    assert not has_passed(a_job(tiny_base), version)
    assert same_bounds({"a": {"min": 1}}, {"a": {"min": 1.0, "max": None}})
    assert not same_bounds({"a": {"min": 1}}, {"a": {"min": 2}})
    assert not same_bounds({"a": {"min": 1}}, {})


class _Counting(BaseHTTPRequestHandler):
    """Answers each question, slowly, with its own words, and counts how often it was asked."""

    asked: Counter[str]
    seconds = 0.15

    def do_POST(self) -> None:  # the framework's name
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        question = body["messages"][-1]["content"]
        self.asked[f"{body['model']}: {question}"] += 1
        threading.Event().wait(self.seconds)
        message = {"role": "assistant", "content": f"You asked: {question}"}
        answer = {"model": body["model"], "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        try:
            self.wfile.write(data)
        except OSError:
            return  # killed meanwhile

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the framework's name
        return


@pytest.fixture
def counting() -> Iterator[tuple[str, Counter[str]]]:
    """A server of any model, and what it was asked."""
    asked: Counter[str] = Counter()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Counting", (_Counting,), {"asked": asked}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1", asked
    server.shutdown()
    server.server_close()
    thread.join()


def child_of(home: Path) -> psutil.Process | None:
    """The evaluation's process under this home."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "brie_trainer.evaluation" in words and words[-1].startswith(str(home)):
            return process
    return None


async def until(is_so: Callable[[], bool]) -> None:
    for _ in range(4000):
        if is_so():
            return
        await asyncio.sleep(0.05)
    raise TimeoutError


async def test_killed_it_goes_on_where_it_was_and_asks_nothing_twice(
    counting: tuple[str, Counter[str]], tiny_base: BaseModel, tiny_model: Path, tmp_path: Path
) -> None:
    url, asked = counting
    home = tmp_path / "home"
    home.mkdir()
    candidates = [entry("one", base_url=url), entry("two", base_url=url)]
    spec = spec_of(tiny_base, candidates=candidates, samples=1)
    spec["base"]["id"] = "tiny"
    database = await open_database(Settings(home=home))
    jobs = JobStore(database)
    job = await jobs.create(KIND, spec, JobStatus.QUEUED, [])
    rows = home / "evaluations" / job.id / "rows.jsonl"

    def done() -> set[str]:
        lines = rows.read_bytes().split(b"\n")[:-1] if rows.is_file() else []
        keys = [json.loads(line)["key"] for line in lines]
        return {f"{key['candidate']} {key['item']}" for key in keys}

    worker = BrieProcesses(home, tiny_model)
    worker.start("brie_trainer")
    try:
        await until(lambda: len(done()) >= 10)
        child = child_of(home)
        assert child is not None
        child.kill()
        await until(lambda: len(done()) >= 25)
        worker.kill("brie_trainer")  # its child ends with it
        await until(lambda: child_of(home) is None)
        kept = done()
        worker.start("brie_trainer")
        await until((rows.parent / "report.json").is_file)
        await asyncio.sleep(2.0)  # for the worker to read the child's last word
    finally:
        worker.stop_all()
    job = await jobs.get(job.id)
    assert job.status is JobStatus.SUCCEEDED, job.error
    assert job.attempt == 3
    assert kept < done()
    lines = rows.read_text().splitlines()
    assert len(lines) == len(done()) == len(asked)  # one row for each question
    again = [question for question, times in asked.items() if times > 1]
    assert len(again) <= 2, again  # what was under way at each of two kills, and not one more
    assert max(asked.values()) == 2 or not again
    report = json.loads((rows.parent / "report.json").read_text())
    assert report["candidates"]["one"]["answers"]["answered"] * 2 == len(lines)
    assert await newest_evaluation(jobs, "1" * 64) is None  # the versions of other servers are not told
    await database.aclose()
