"""What the Brie that runs in this container holds, as one JSON object: what its API lists, and what its models answer.

Read by `backup.sh` before and after, from standard input of `python -`. It knows no test and imports nothing of Brie.
"""

import hashlib
import json
import os
import urllib.request
from typing import Any

_API = "http://127.0.0.1:8000/v1"
_HEADERS = {"authorization": f"Bearer {os.environ['BRIE_API_KEYS'].split(',')[0]}", "content-type": "application/json"}
_QUESTION = [{"role": "user", "content": "Who was Spinoza?"}]


def fetched(path: str, body: dict[str, Any] | None = None) -> bytes:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(_API + path, data, _HEADERS), timeout=600) as answer:
        content: bytes = answer.read()
    return content


def listed(path: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(fetched(path))["data"]
    return found


def answered(model: str) -> str:
    body = {"model": model, "messages": _QUESTION, "temperature": 0, "max_completion_tokens": 24}
    answer: str = json.loads(fetched("/chat/completions", body))["choices"][0]["message"]["content"]
    return answer


def sha256(path: str) -> str:
    return hashlib.sha256(fetched(path)).hexdigest()


def holdings() -> dict[str, Any]:
    held: dict[str, Any] = {}
    for model in listed("/models"):
        held[f"model {model['id']}"] = {name: model.get(name) for name in ("root", "parent")}
        held[f"answer of {model['id']}"] = answered(model["id"])
    for adapter in listed("/adapters"):
        held[f"adapter {adapter['id']}"] = adapter
    for file in listed("/files"):
        held[f"file {file['id']}"] = file | {"sha256": sha256(f"/files/{file['id']}/content")}
    for job in listed("/fine_tuning/jobs?limit=100"):
        path = f"/fine_tuning/jobs/{job['id']}"
        held[f"job {job['id']}"] = [job, listed(f"{path}/checkpoints?limit=100"), listed(f"{path}/events?limit=100")]
    for export in listed("/exports?limit=100"):
        held[f"export {export['id']}"] = [export, sha256(f"/exports/{export['id']}/content")]
    return held


print(json.dumps(holdings(), indent=1, sort_keys=True))
