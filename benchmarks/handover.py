"""From a job's last step to the first token of its model, and from a cancellation to the end of the job's process.

    python benchmarks/handover.py [--jobs 3] [--cancellations 20]

`brie serve` with the default model. The last step is seen in the file where the training process tells it; the first
token is that of a stream asked under the job's name as soon as the API knows the name.
"""

import argparse
import json
import random
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import openai
import psutil

from brie_core.settings import Settings
from brie_core.weights.resolve import resolve_base_model
from servers import brie, running

_ANSWER = "Here is {0}, gladly. " * 8
_POLL_SECONDS = 0.005
_PATIENCE_SECONDS = 300.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=3)
    parser.add_argument("--cancellations", type=int, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="brie-benchmark-") as scratch:
        home = Path(scratch)
        model = resolve_base_model(Settings(home=home / "imported")).folder
        server = brie("brie", home / "home", home, {"BRIE_MODEL": str(model)})
        with running(server, home / "brie.log") as url, openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
            trainer = Trainer(client, home / "home", home / "rows.jsonl")
            handovers = [trainer.handover() for _ in range(arguments.jobs)]
            print("last step to first token, s:", " ".join(f"{seconds:.2f}" for seconds in handovers), flush=True)
            steps, ends = zip(*(trainer.cancellation() for _ in range(arguments.cancellations)), strict=True)
    print(f"a step of one micro-batch, s: median {median(steps):.2f}, most {max(steps):.2f}")
    print("cancellation to the process's end, s:", " ".join(f"{seconds:.2f}" for seconds in sorted(ends)))
    late = sum(end > step + 1 for step, end in zip(steps, ends, strict=True))
    print("met" if median(handovers) < 2 and not late else "MISSED")


class Trainer:
    """A client that starts jobs and looks at what they do from outside."""

    def __init__(self, client: openai.OpenAI, home: Path, rows: Path) -> None:
        rows.write_text("".join(json.dumps({"messages": _conversation(i)}) + "\n" for i in range(40)))
        self._client = client
        self._home = home
        self._file = client.files.create(file=rows, purpose="fine-tune").id
        self._model = client.models.list().data[0].id
        self._moments = random.Random(1)

    def handover(self) -> float:
        """Seconds from the last step of a short job to the first token of its model."""
        job = self._start(epochs=1, batch_size=4)
        began = self._reached(job, 10)
        while (name := self._client.fine_tuning.jobs.retrieve(job).fine_tuned_model) is None:
            time.sleep(_POLL_SECONDS)
        asked = self._client.chat.completions.create(model=name, messages=_conversation(3)[:1], stream=True)
        with asked as stream:
            next(chunk for chunk in stream if chunk.choices and chunk.choices[0].delta.content)
        return time.monotonic() - began

    def cancellation(self) -> tuple[float, float]:
        """The seconds of one of a job's steps, and those from its cancellation in mid-step to its process's end."""
        job = self._start(epochs=40, batch_size=1)
        step = -self._reached(job, 2) + self._reached(job, 3)
        process = self._process(job)
        time.sleep(self._moments.random())
        began = time.monotonic()
        self._client.fine_tuning.jobs.cancel(job)
        process.wait(_PATIENCE_SECONDS)
        return step, time.monotonic() - began

    def _start(self, epochs: int, batch_size: int) -> str:
        hyperparameters: Any = {"n_epochs": epochs, "batch_size": batch_size}
        return self._client.fine_tuning.jobs.create(
            model=self._model, training_file=self._file, hyperparameters=hyperparameters, seed=1
        ).id

    def _reached(self, job: str, step: int) -> float:
        """When the training process told of this step, on the monotonic clock."""
        file = self._home / "jobs" / job / "attempts" / "1" / "events.jsonl"
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not (file.is_file() and f'"data": {{"step": {step},' in file.read_text()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{job} came to no step {step}")
            time.sleep(_POLL_SECONDS)
        return time.monotonic()

    def _process(self, job: str) -> psutil.Process:
        found = psutil.process_iter(["cmdline"])
        return next(process for process in found if job in " ".join(process.info["cmdline"] or []))


def _conversation(i: int) -> Any:
    return [{"role": "user", "content": f"Say {i}"}, {"role": "assistant", "content": _ANSWER.format(i)}]


if __name__ == "__main__":
    main()
