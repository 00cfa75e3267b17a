"""A Brie of real processes whose PostgreSQL is restarted, then silent, then cut off, in mid-training.

    python benchmarks/outage_drill.py --seconds 30

An API and two workers train a tiny model for real, and reach their database through a wire that is cut. Meanwhile an
adapter, the base, and what needs the database are asked over and over. PostgreSQL is a throw-away server.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2

TESTS = Path(__file__).parents[1] / "tests"
ROWS = [
    {"messages": [{"role": "user", "content": f"Say {i}"}, {"role": "assistant", "content": f"Here is {i}, gladly."}]}
    for i in range(128)
]
PATIENCE = 600.0


class Asked:
    """What came of asking over and over."""

    def __init__(self, url: str) -> None:
        self._http = httpx2.Client(base_url=url, timeout=60.0)
        self.statuses: dict[str, Counter[str]] = {}
        self.slowest: dict[str, float] = {}

    def ask(self, what: str, method: str, path: str, **more: Any) -> None:
        """One request; a 503 counts as one that says when to come back, or as a fault."""
        began = time.monotonic()
        answer = self._http.request(method, path, **more)
        told = str(answer.status_code)
        if answer.status_code == 503:
            told += " " + str(answer.json()["error"]["code"]) + (" Retry-After" * ("retry-after" in answer.headers))
        self.statuses.setdefault(what, Counter())[told] += 1
        self.slowest[what] = round(max(self.slowest.get(what, 0.0), time.monotonic() - began), 2)

    def chat(self, what: str, model: str) -> None:
        """A short answer."""
        body = {"model": model, "messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
        self.ask(what, "POST", "/v1/chat/completions", json=body)

    def all(self) -> None:
        """Everything once."""
        self.chat("chat by an adapter", "known")
        self.chat("chat by the base", "tiny")
        self.ask("list of jobs", "GET", "/v1/fine_tuning/jobs")

    def close(self) -> None:
        self._http.close()

    def told(self) -> dict[str, Any]:
        return {
            what: {"answers": dict(answers), "slowest_s": self.slowest[what]} for what, answers in self.statuses.items()
        }


def _start_job(client: Any, folder: Path, epochs: int) -> str:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    with file.open("rb") as stream:
        file_id = client.files.create(file=stream, purpose="fine-tune").id
    chosen = {"n_epochs": epochs, "batch_size": 4}
    made = client.fine_tuning.jobs.create(
        model="tiny",
        training_file=file_id,
        suffix="known",
        seed=1,
        hyperparameters=chosen,
        extra_body={"brie": {"save_steps": 200}},
    )
    return str(made.id)


def _until(client: Any, job_id: str, statuses: set[str]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        job = client.fine_tuning.jobs.retrieve(job_id)
        if job.status in statuses:
            return job
        time.sleep(0.2)
    raise TimeoutError(job_id)


def _events(client: Any, job_id: str) -> list[Any]:
    return list(client.fine_tuning.jobs.list_events(job_id, limit=1000))[::-1]


def _last_step(client: Any, job_id: str) -> int:
    return max(
        (int(event.data["step"]) for event in _events(client, job_id) if "step" in (event.data or {})), default=0
    )


def outage(brie: Any, how: str, fail: Any, mend: Any, seconds: float) -> dict[str, Any]:
    """One job that trains through it."""
    client, asked = brie.client(max_retries=20), Asked(brie.url)
    asked.chat("chat by an adapter, before", "known")
    job_id = _start_job(client, brie.home, epochs=50)
    _until(client, job_id, {"running"})
    while (before := _last_step(client, job_id)) < 20:
        time.sleep(0.2)
    fail()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        asked.all()
        time.sleep(1.0)
    mend()
    back = time.monotonic()
    after = _last_step(client, job_id)
    done = _until(client, job_id, {"succeeded", "failed"})
    events = _events(client, job_id)
    steps = [event.data["step"] for event in events if event.type == "metrics"]
    asked.close()
    return {
        "outage": how,
        "away_s": seconds,
        "asked_meanwhile": asked.told(),
        "step_before": before,
        "step_when_back": after,
        "status": done.status,
        "attempts": done.brie["attempts"],
        "each_step_told_once_in_order": steps == sorted(set(steps)),
        "ended_s_after": round(time.monotonic() - back, 1),
    }


def main() -> None:
    """From the command line."""
    sys.path.append(str(TESTS))
    import brie_processes
    from brie_core.settings import Settings
    from brie_core.weights.resolve import resolve_base_model
    from brie_processes import BrieProcesses
    from postgres_cluster import PostgresCluster
    from tcp_proxy import Wire
    from tiny_models import write_tiny_llama

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0)
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        model = write_tiny_llama(home / "tiny", resolve_base_model(Settings(home=home / "default")).folder)
        brie_processes._START_SECONDS = PATIENCE  # the machine may be busy
        cluster = PostgresCluster()
        wire = Wire(cluster.port)
        url = cluster.url(cluster.new_database(), wire.port)
        brie = BrieProcesses(home / "brie", model, {"BRIE_DATABASE_URL": url})
        try:
            brie.start("brie_server", "brie_trainer")
            brie.start_another_worker()
            client = brie.client(max_retries=20)
            _until(client, _start_job(client, home, epochs=1), {"succeeded"})
            through = lambda: wire.be("through")  # noqa: E731
            for how, fail, mend, away in (
                ("restarted", cluster.stop, cluster.start, 3.0),
                ("silent", lambda: wire.be("silent"), through, seconds),
                ("cut", lambda: wire.be("cut"), through, seconds),
            ):
                print(json.dumps(outage(brie, how, fail, mend, away)), flush=True)
        finally:
            with closing(cluster), closing(wire):
                brie.stop_all()


if __name__ == "__main__":
    main()
