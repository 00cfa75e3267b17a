"""Each operation of OpenAI's document that Brie has is answered as it says there; and the judge finds what is not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from brie_processes import BrieProcesses
from openai_document.judge import Exchange, faults_of, operation_of

Ask = Callable[..., Any]
SAID: Any = {"model": "tiny", "messages": [{"role": "user", "content": "Who was Spinoza?"}], "max_tokens": 3}
TEXT: Any = {"model": "tiny", "prompt": ["Once", "upon"], "max_tokens": 3}
ROW = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'


def ask_of(brie: BrieProcesses, asked: set[str]) -> Ask:
    """Sends a request, checks its status, and remembers its operation; the answer is judged on its way."""

    def ask(method: str, path: str, status: int = 200, **how: Any) -> Any:
        answer = httpx2.request(method, f"{brie.url}/v1{path}", **how)
        assert answer.status_code == status, answer.text
        if status == 200:
            asked.add(operation_of(method, path) or "")
        return answer.json() if answer.headers["content-type"].startswith("application/json") else answer.text

    return ask


def walk_answers(ask: Ask) -> None:
    usage = {"stream": True, "stream_options": {"include_usage": True}}
    for more in ({}, {"logprobs": True, "top_logprobs": 2, "n": 2}, {"stream": True}, usage | {"n": 2}):
        ask("POST", "/chat/completions", json=SAID | more)
    for more in ({}, {"logprobs": 2, "echo": True}, {"stream": True}, usage | {"logprobs": 1}):
        ask("POST", "/completions", json=TEXT | more)
    for path, body in (("/chat/completions", SAID), ("/completions", TEXT)):
        ask("POST", path, 404, json=body | {"model": "nobody"})
        ask("POST", path, 400, json=body | {"temperature": 3})
        ask("POST", path, 400, content=b"{", headers={"content-type": "application/json"})
        ask("POST", path, 415, content=b"{}", headers={"content-type": "text/plain"})
        ask("PUT", path, 405)


def walk_models(ask: Ask, lora: Path) -> None:
    ask("POST", "/load_lora_adapter", json={"lora_name": "walked", "lora_path": str(lora)})
    ask("GET", "/models/walked")
    ask("DELETE", "/models/walked")
    assert ask("GET", "/models")["data"][0]["id"] == "tiny"
    ask("GET", "/models/tiny")
    for method in ("GET", "DELETE"):
        ask(method, "/models/nobody", 404)
    ask("DELETE", "/models/tiny", 400)


def walk_files(ask: Ask) -> str:
    """Returns the id of a file to train on."""
    ask("GET", "/files", params={"purpose": "vision"})
    kept = ask("POST", "/files", data={"purpose": "fine-tune"}, files={"file": ("rows.jsonl", ROW)})["id"]
    until = {"purpose": "evals", "expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    gone = ask("POST", "/files", data=until, files={"file": ("rows.jsonl", ROW)})["id"]
    ask("GET", "/files", params={"limit": 1})
    ask("GET", f"/files/{kept}")
    assert ask("GET", f"/files/{kept}/content") == ROW.decode()
    ask("DELETE", f"/files/{gone}")
    for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        ask(method, f"/files/{gone}{path}", 404)
    ask("POST", "/files", 400, data={"purpose": "fine-tune"})
    ask("POST", "/files", 400, data={"purpose": "fine-tune"}, files={"file": ("rows.jsonl", b"{")})
    return str(kept)


def walk_jobs(ask: Ask, file_id: str) -> None:
    wanted: Any = {"model": "tiny", "training_file": file_id, "hyperparameters": {"n_epochs": 1}}
    job = ask("POST", "/fine_tuning/jobs", json=wanted | {"metadata": {"of": "the walk"}, "validation_file": file_id})
    path = f"/fine_tuning/jobs/{job['id']}"
    ask("GET", path)
    ask("GET", "/fine_tuning/jobs", params={"limit": 2})
    ask("GET", f"{path}/events", params={"limit": 2})
    ask("POST", f"{path}/cancel")
    ask("POST", f"{path}/cancel", 400)
    ask("GET", f"{path}/checkpoints")
    for method, rest in (("GET", ""), ("POST", "/cancel"), ("GET", "/events"), ("GET", "/checkpoints")):
        ask(method, f"/fine_tuning/jobs/ftjob-0{rest}", 404)
    ask("POST", "/fine_tuning/jobs", 400, json=wanted | {"training_file": "file-0"})
    ask("GET", "/fine_tuning/jobs", 400, params={"limit": 0})


def walk_embeddings(ask: Ask) -> None:
    for more in ({}, {"input": ["a", "b"]}, {"encoding_format": "base64"}):
        ask("POST", "/embeddings", json={"model": "tiny", "input": "a"} | more)
    ask("POST", "/embeddings", 404, json={"model": "nobody", "input": "a"})
    ask("POST", "/embeddings", 400, json={"model": "tiny"})


def walk_responses(ask: Ask, has: set[str]) -> None:
    body: Any = {"model": "tiny", "input": "Who was Spinoza?", "max_output_tokens": 16}
    made = ask("POST", "/responses", json=body)
    ask("POST", "/responses", json=body | {"stream": True})
    ask("POST", "/responses", 404, json=body | {"model": "nobody"})
    ask("POST", "/responses", 400, json=body | {"temperature": 3})
    if "post /responses/input_tokens" in has:
        ask("POST", "/responses/input_tokens", json={"model": "tiny", "input": "a"})
    for path in ("", "/input_items"):
        if f"get /responses/{{response_id}}{path}" in has:
            ask("GET", f"/responses/{made['id']}{path}")
            ask("GET", f"/responses/resp_0{path}", 404)
    ask("POST", f"/responses/{made['id']}/cancel", 400)


def test_each_operation_answers_as_the_document_has_it(
    brie: BrieProcesses, tiny_lora: Path, openai_faults: list[str]
) -> None:
    asked, has = set[str](), served(brie)
    ask = ask_of(brie, asked)
    walk_answers(ask)
    walk_models(ask, Path(shutil.copytree(tiny_lora, brie.home / "walked")))
    walk_jobs(ask, walk_files(ask))
    if "post /embeddings" in has:
        walk_embeddings(ask)
    if "post /responses" in has:
        walk_responses(ask, has)
    ask("GET", "/nowhere", 404)
    assert not openai_faults
    assert asked >= has - {"post /responses/{response_id}/cancel"}, "what has ended cannot be cancelled"


def served(brie: BrieProcesses) -> set[str]:
    """The operations of OpenAI's document that Brie's own document names."""
    paths = httpx2.get(f"{brie.url}/docs/openapi.json").json()["paths"]
    own = {f"{method} {path.removeprefix('/v1')}" for path, methods in paths.items() for method in methods}
    return {found for name in own if (found := operation_of(*name.split(" ")))}


ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "tiny",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "x", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}


def changed(told: Any, path: str, value: Any) -> Any:
    """A copy with another value at the path, or none there."""
    copy = json.loads(json.dumps(told))
    *above, last = [int(key) if key.isdecimal() else key for key in path.split(".")]
    place = copy
    for key in above:
        place = place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return copy


def judged(body: Any, **how: Any) -> list[str]:
    told = body if isinstance(body, bytes) else json.dumps(body).encode()
    given: dict[str, Any] = {"method": "POST", "path": "/chat/completions", "status": 200}
    return faults_of(Exchange(**(given | {"content_type": "application/json", "body": told} | how)))


def test_a_good_answer_has_no_faults() -> None:
    assert judged(ANSWER) == []
    assert judged(ANSWER, path="/tokenize") == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("created", None),
        ("object", "chat"),
        ("choices.0.finish_reason", "eos"),
        ("choices.0.logprobs", None),
        ("choices.0.logprobs", {"content": []}),
        ("choices.0.message.refusal", None),
        ("choices.0.message.tool_calls", [{"id": "x", "type": "function", "function": {"name": "f", "arguments": {}}}]),
        ("usage.total_tokens", 1.5),
    ],
)
def test_a_broken_answer_is_found_out(path: str, value: Any) -> None:
    assert judged(changed(ANSWER, path, value))


ERROR = {"error": {"message": "m", "type": "invalid_request_error", "param": "x", "code": "invalid_value"}}


@pytest.mark.parametrize("path", ["/chat/completions", "/tokenize", "/nowhere"])
def test_a_broken_error_is_found_out_wherever_it_comes_from(path: str) -> None:
    assert judged(ERROR, path=path, status=400) == []
    assert judged(changed(ERROR, "error.param", None), path=path, status=400)
    assert judged(changed(ERROR, "error.code", 400), path=path, status=400)
    assert judged(changed(ERROR, "error.more", 1), path=path, status=400)
    assert judged(ERROR, path=path, status=400, content_type="text/plain")
    assert judged(b"Internal Server Error", path=path, status=500)


def chunk(delta: Any, finish: str | None = None, **more: Any) -> Any:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "tiny"} | (
        {"choices": [choice], "usage": None} | more
    )


FIRST, TOLD, LAST = chunk({"role": "assistant", "content": ""}), chunk({"content": "x"}), chunk({}, "stop")
USAGE = chunk({}, choices=[], usage=ANSWER["usage"])


def streamed(*chunks: Any, end: str = "data: [DONE]\n\n", **how: Any) -> list[str]:
    body = "".join(f"data: {json.dumps(each)}\n\n" for each in chunks) + end
    asked = json.dumps({"stream_options": {"include_usage": True}}).encode()
    return judged(body.encode(), content_type="text/event-stream", request=asked, **how)


def test_a_good_stream_has_no_faults() -> None:
    assert streamed(FIRST, TOLD, LAST, USAGE) == []
    assert streamed(FIRST, ERROR, end="") == []
    assert streamed(FIRST, TOLD, end="data: {", is_whole=False) == []


@pytest.mark.parametrize(
    "chunks",
    [
        [TOLD, LAST, USAGE],
        [FIRST, FIRST, LAST, USAGE],
        [FIRST, TOLD, USAGE],
        [FIRST, LAST, TOLD, USAGE],
        [FIRST, LAST, LAST, USAGE],
        [FIRST, TOLD, LAST],
        [FIRST, USAGE, LAST],
        [FIRST, chunk({}, "stop", usage=ANSWER["usage"]), USAGE],
        [FIRST, changed(TOLD, "id", "chatcmpl-2"), LAST, USAGE],
        [FIRST, changed(TOLD, "choices.0.index", 1), LAST, USAGE],
        [FIRST, changed(TOLD, "choices.0.finish_reason", "eos"), LAST, USAGE],
        [FIRST, changed(TOLD, "choices.0.logprobs", {"content": []}), LAST, USAGE],
        [FIRST, changed(ERROR, "error.param", None)],
    ],
)
def test_a_broken_stream_is_found_out(chunks: list[Any]) -> None:
    assert streamed(*chunks)


def test_a_stream_without_its_end_is_found_out() -> None:
    assert streamed(FIRST, TOLD, LAST, USAGE, end="")
