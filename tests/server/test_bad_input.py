"""Whatever is wrong with a request is said in OpenAI's envelope, by field; nothing is a 500, nothing is lost."""

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from brie_processes import BrieProcesses

CHAT = "/v1/chat/completions"
GOOD: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "x"}]}


def error_of(response: httpx2.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return error


def post(brie: BrieProcesses, path: str, body: Any) -> httpx2.Response:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx2.post(f"{brie.url}{path}", content=text, headers={"content-type": "application/json"})


def upload(brie: BrieProcesses, data: bytes, name: str = "rows.jsonl") -> httpx2.Response:
    return httpx2.post(f"{brie.url}/v1/files", data={"purpose": "fine-tune"}, files={"file": (name, data)})


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": 1e400}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 2**63}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"seed": 2**64}, "seed"),
        ({"n": 129}, "n"),
        ({"n": 0}, "n"),
        ({"stop": [""]}, "stop[0]"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"logit_bias": {"x": 2}}, "logit_bias"),
        ({"logit_bias": {"-1": 2}}, "logit_bias"),
        ({"logit_bias": {"1": 100.5}}, "logit_bias"),
        ({"logit_bias": {"1": True}}, "logit_bias"),
        ({"logit_bias": {"1": float("nan")}}, "logit_bias"),
        ({"logit_bias": {"01": 1}}, "logit_bias"),
        ({"logit_bias": {"49152": 1}}, "logit_bias"),
        ({"logit_bias": [1]}, "logit_bias"),
        ({"logit_bias": {str(token): 1 for token in range(1025)}}, "logit_bias"),
        ({"frequency_penalty": 2.1}, "frequency_penalty"),
        ({"presence_penalty": float("nan")}, "presence_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"repetition_penalty": float("inf")}, "repetition_penalty"),
        ({"top_k": -2}, "top_k"),
        ({"top_k": 1.5}, "top_k"),
        ({"min_p": 1.1}, "min_p"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens"),
        ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
        ({"stop_token_ids": 3}, "stop_token_ids"),
        ({"ignore_eos": 1}, "ignore_eos"),
        ({"logprobs": 3}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
        ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
        ({"tools": [{}]}, "tools[0].type"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_object", "json_schema": {"name": "x"}}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
            "response_format.json_schema.name",
        ),
        ({"guided_json": {"type": "object"}}, "guided_json"),
        ({"structured_outputs": {"regex": "a"}}, "structured_outputs"),
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        (
            {"messages": [GOOD["messages"][0], {"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[1].content",
        ),
        ({"messages": [{"role": "user", "content": "half \ud83d"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x", "\ud800": 1}]}, "messages[0]"),
        ({"model": ""}, "model"),
        ({"model": None}, "model"),
    ],
)
def test_a_bad_field_is_named(change: dict[str, Any], param: str, brie: BrieProcesses) -> None:
    assert error_of(post(brie, CHAT, GOOD | change), 400)["param"] == param


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ["a", ""]}, "prompt"),
        ({"prompt": [[1], ["a"]]}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [1, True]}, "prompt"),
        ({"prompt": [1, -1]}, "prompt"),
        ({"prompt": [1, 49152]}, "prompt"),
        ({"prompt": [1, 2**63]}, "prompt"),
        ({"logprobs": 6}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"echo": "yes"}, "echo"),
        ({"suffix": "x"}, "suffix"),
        ({"lora": [{"id": 0, "scale": 1.0}]}, "lora"),
        ({"adapter_id": "tuned"}, "adapter_id"),
        ({"mirostat": 2}, "mirostat"),
    ],
)
def test_a_bad_field_of_a_text_completion_is_named(change: dict[str, Any], param: str, brie: BrieProcesses) -> None:
    assert error_of(post(brie, "/v1/completions", {"model": "tiny", "prompt": "x"} | change), 400)["param"] == param


@pytest.mark.parametrize("model", ["nope", "../../x", "ft:tiny:brie:x:y", "tiny\x00", "x" * 500, "тест🧀", "TINY"])
def test_an_unknown_model_is_never_the_base_in_disguise(model: str, brie: BrieProcesses) -> None:
    error = error_of(post(brie, CHAT, GOOD | {"model": model}), 404)
    assert (error["param"], error["code"]) == ("model", "model_not_found")


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b"{", b"hello", b"\xff\xfe{}", b"[" * 100_000, b'{"model": "\xed\xa0\x80"}', b"1" * 5000],
)
def test_a_body_that_is_no_json_object_says_so(body: bytes, brie: BrieProcesses) -> None:
    error_of(post(brie, CHAT, body), 400)


def test_another_content_type_is_refused(brie: BrieProcesses) -> None:
    response = httpx2.post(f"{brie.url}{CHAT}", content=b"{}", headers={"content-type": "text/plain"})
    assert error_of(response, 415)["code"] == "unsupported_media_type"


def test_a_body_too_large_is_refused(brie: BrieProcesses) -> None:
    error_of(post(brie, CHAT, b" " * (17 * 2**20)), 413)


def test_unknown_routes_and_methods_have_the_same_envelope(brie: BrieProcesses) -> None:
    error_of(httpx2.get(f"{brie.url}/v1/nope"), 404)
    error_of(httpx2.delete(f"{brie.url}{CHAT}"), 405)


def test_a_prompt_beyond_the_context_is_told_with_counts(brie: BrieProcesses) -> None:
    error = error_of(post(brie, CHAT, GOOD | {"messages": [{"role": "user", "content": "word " * 600}]}), 400)
    assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")
    assert "512" in error["message"]
    error = error_of(post(brie, "/v1/completions", {"model": "tiny", "prompt": "word " * 600}), 400)
    assert (error["code"], error["param"]) == ("context_length_exceeded", "prompt")
    error = error_of(post(brie, CHAT, GOOD | {"max_completion_tokens": 600}), 400)
    assert (error["code"], error["param"]) == ("context_length_exceeded", "max_completion_tokens")


def test_an_unknown_field_is_accepted_and_logged_once(brie: BrieProcesses) -> None:
    for _ in range(2):
        assert post(brie, CHAT, GOOD | {"max_tokens": 1, "wibble": 1}).status_code == 200
    assert brie.log("brie_server").count("wibble") == 1


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty"),
        (b"\n\n", "empty"),
        (b'{"messages": []}\n' * 6 + b'{"messages": [}\n', "line 7"),
        (b"[]\n", "line 1 is not a JSON object"),
        (b'{"a": "\xff"}\n', "not UTF-8"),
        ('{"a": 1}\n'.encode("utf-16"), "line 1"),
        (b"[" * 200_000, "line 1"),
    ],
)
def test_an_upload_that_is_not_json_lines_names_the_line(data: bytes, said: str, brie: BrieProcesses) -> None:
    before = len(httpx2.get(f"{brie.url}/v1/files").json()["data"])
    error = error_of(upload(brie, data), 400)
    assert error["param"] == "file"
    assert said in error["message"]
    assert len(httpx2.get(f"{brie.url}/v1/files").json()["data"]) == before


def test_an_upload_without_file_or_purpose_says_what_is_missing(brie: BrieProcesses) -> None:
    files = {"file": ("x", b"{}")}
    assert (
        error_of(httpx2.post(f"{brie.url}/v1/files", files={"x": b""}, data={"purpose": "x"}), 400)["param"] == "file"
    )
    assert error_of(httpx2.post(f"{brie.url}/v1/files", files=files), 400)["param"] == "purpose"
    assert error_of(httpx2.post(f"{brie.url}/v1/files", files=files, data={"purpose": "x"}), 400)["param"] == "purpose"


def test_a_file_name_is_never_a_path(brie: BrieProcesses) -> None:
    stored = upload(brie, b'{"a": 1}\n', name="../../../escaped.jsonl").json()
    assert (brie.home / "files" / stored["id"]).is_file()
    assert not list(brie.home.parent.rglob("escaped.jsonl"))


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"model": "gpt-4"}, 404, "model"),
        ({"training_file": "file-nope"}, 400, "training_file"),
        ({"training_file": "../../etc/passwd"}, 400, "training_file"),
        ({"validation_file": "file-nope"}, 400, "validation_file"),
        ({"suffix": "../../x"}, 400, "suffix"),
        ({"suffix": "tiny"}, 400, "suffix"),
        ({"suffix": "x" * 65}, 400, "suffix"),
        ({"hyperparameters": {"n_epochs": 0}}, 400, "hyperparameters.n_epochs"),
        ({"hyperparameters": {"n_epochs": "3"}}, 400, "hyperparameters.n_epochs"),
        ({"hyperparameters": {"batch_size": True}}, 400, "hyperparameters.batch_size"),
        ({"seed": "3"}, 400, "seed"),
        (
            {"hyperparameters": {"learning_rate_multiplier": float("inf")}},
            400,
            "hyperparameters.learning_rate_multiplier",
        ),
        ({"method": {"type": "reinforcement"}}, 400, "method.type"),
        ({"seed": -1}, 400, "seed"),
        ({"metadata": {"x": 1}}, 400, "metadata.x"),
        ({"integrations": [{"type": "wandb"}]}, 400, "integrations[0].wandb"),
        ({"brie": {"rnak": 3}}, 400, "brie.rnak"),
    ],
)
def test_a_job_that_cannot_be_is_refused_at_once(
    change: dict[str, Any], status: int, param: str, brie: BrieProcesses
) -> None:
    file_id = upload(brie, b'{"messages": []}\n').json()["id"]
    body = {"model": "tiny", "training_file": file_id} | change
    assert error_of(post(brie, "/v1/fine_tuning/jobs", body), status)["param"] == param


@pytest.mark.parametrize("path", ["files/file-x", "fine_tuning/jobs/ftjob-x", "fine_tuning/jobs/x/events", "exports/x"])
def test_what_is_not_there_is_a_404(path: str, brie: BrieProcesses) -> None:
    error_of(httpx2.get(f"{brie.url}/v1/{path}"), 404)


@pytest.mark.parametrize("limit", ["0", "-1", "x", "100000"])
def test_a_bad_limit_is_named(limit: str, brie: BrieProcesses) -> None:
    assert error_of(httpx2.get(f"{brie.url}/v1/fine_tuning/jobs?limit={limit}"), 400)["param"] == "limit"


def test_an_export_of_nothing_is_refused(brie: BrieProcesses) -> None:
    assert error_of(post(brie, "/v1/exports", {"model": "nope"}), 404)["param"] == "model"
    bad = {"model": "tiny", "quantization": "q9"}
    assert error_of(post(brie, "/v1/exports", bad), 400)["param"] == "quantization"


def test_the_base_cannot_be_deleted(brie: BrieProcesses) -> None:
    error_of(httpx2.delete(f"{brie.url}/v1/models/tiny"), 400)


@pytest.mark.parametrize("path", ["/etc", "../../../etc", "/nonexistent"])
def test_adapters_come_only_from_where_the_operator_allows(path: str, brie: BrieProcesses) -> None:
    error = error_of(post(brie, "/v1/load_lora_adapter", {"lora_name": "x", "lora_path": path}), 400)
    assert error["code"] == "adapter_path_forbidden"


def test_a_link_out_of_the_allowed_folders_is_followed_before_it_is_judged(
    brie: BrieProcesses, tiny_lora: Path
) -> None:
    link = brie.home / "tmp" / "link"
    link.symlink_to(tiny_lora)
    error_of(post(brie, "/v1/load_lora_adapter", {"lora_name": "x", "lora_path": str(link)}), 400)
    link.unlink()
