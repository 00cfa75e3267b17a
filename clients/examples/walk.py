"""The whole loop through the openai SDK alone: ask the base, train, ask the adapter, export, ask the file.

python clients/examples/walk.py            # against a server started by `make serve`
"""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openai import HttpxBinaryResponseContent, OpenAI

EXAMPLES = Path(__file__).parent
QUESTION = "Who was Spinoza?"
FINAL = {"succeeded", "failed", "cancelled"}


@dataclass
class Report:
    """What the walk did."""

    base: str = ""
    adapter: str = ""
    job_id: str = ""
    base_answer: str = ""
    adapter_answer: str = ""
    file_answer: str = ""
    events: list[str] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    """Validation loss before the first step, then after each epoch."""
    checkpoints: list[str] = field(default_factory=list)
    file: Path = Path()
    seconds: dict[str, float] = field(default_factory=dict)


def walk(client: OpenAI, folder: Path, epochs: int, quantization: str, say: Callable[[str], None] = print) -> Report:
    """Do it all, leaving the GGUF file in `folder`; raises RuntimeError where something failed."""
    report = Report(base=client.models.list().data[0].id)
    for step in (_ask_base, _train, _ask_adapter, _export, _ask_file):
        started = time.monotonic()
        step(client, report, folder=folder, epochs=epochs, quantization=quantization, say=say)
        report.seconds[step.__name__.strip("_").replace("_", " ")] = round(time.monotonic() - started, 1)
    return report


def _ask_base(client: OpenAI, report: Report, say: Callable[[str], None], **_: Any) -> None:
    report.base_answer = ask(client, report.base)
    say(f"{report.base} says: {report.base_answer}")


def _train(client: OpenAI, report: Report, epochs: int, say: Callable[[str], None], **_: Any) -> None:
    job = client.fine_tuning.jobs.create(
        model=report.base,
        training_file=_upload(client, "philosophy.jsonl"),
        validation_file=_upload(client, "philosophy-validation.jsonl"),
        suffix="philosophy",
        seed=7,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": epochs, "batch_size": 2}}},
    )
    report.job_id = job.id
    while job.status not in FINAL:
        time.sleep(1)
        told = len(report.events)
        events = list(reversed(list(client.fine_tuning.jobs.list_events(job.id, limit=50))))
        for event in events[told:]:
            report.events.append(event.message)
            say(f"  {event.message}")
        job = client.fine_tuning.jobs.retrieve(job.id)
    if job.status != "succeeded" or job.fine_tuned_model is None:
        raise RuntimeError(f"training ended as {job.status}: {job.error}")
    report.adapter = job.fine_tuned_model
    every = reversed(list(client.fine_tuning.jobs.list_events(job.id, limit=50)))
    metrics: list[Any] = [event.data for event in every if event.type == "metrics"]
    report.losses = [data["full_valid_loss"] for data in metrics if "full_valid_loss" in data]
    found = client.fine_tuning.jobs.checkpoints.list(job.id)
    report.checkpoints = [checkpoint.fine_tuned_model_checkpoint for checkpoint in found]


def _ask_adapter(client: OpenAI, report: Report, say: Callable[[str], None], **_: Any) -> None:
    report.adapter_answer = ask(client, "philosophy")
    say(f"philosophy says: {report.adapter_answer}")


def _export(
    client: OpenAI, report: Report, folder: Path, quantization: str, say: Callable[[str], None], **_: Any
) -> None:
    body = {"model": "philosophy", "quantization": quantization}
    export: Any = client.post("/exports", body=body, cast_to=object)
    while export["status"] not in FINAL:
        time.sleep(0.5)
        export = client.get(f"/exports/{export['id']}", cast_to=object)
    if export["status"] != "succeeded":
        raise RuntimeError(f"the export ended as {export['status']}: {export['error']}")
    report.file = folder / export["files"][0]["filename"]
    content = client.get(f"/exports/{export['id']}/content", cast_to=HttpxBinaryResponseContent)
    content.write_to_file(report.file)
    say(f"wrote {report.file} ({report.file.stat().st_size / 1e6:.0f} MB)")


def _ask_file(_client: OpenAI, report: Report, say: Callable[[str], None], **_: Any) -> None:
    command = [sys.executable, str(EXAMPLES / "llama_cpp_chat.py"), str(report.file), QUESTION]
    report.file_answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    say(f"llama.cpp says: {report.file_answer}")


def ask(client: OpenAI, model: str, question: str = QUESTION) -> str:
    """One greedy answer, streamed."""
    messages: Any = [{"role": "user", "content": question}]
    stream = client.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=80, stream=True)
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def _upload(client: OpenAI, name: str) -> str:
    with (EXAMPLES / "data" / name).open("rb") as file:
        return client.files.create(file=file, purpose="fine-tune").id


def tell(report: Report) -> str:
    """The walk in a few lines, both answers one under the other."""
    times = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in report.seconds.items())
    losses = " -> ".join(f"{loss:.3f}" for loss in report.losses)
    return (
        f"\nThe whole loop in {sum(report.seconds.values()):.0f} s ({times}).\n"
        f"Validation loss: {losses}\n"
        f"{report.adapter}, checkpoints {', '.join(report.checkpoints)}\n\n"
        f"Q: {QUESTION}\n\n  base:      {report.base_answer}\n\n  adapter:   {report.adapter_answer}\n\n"
        f"  GGUF file: {report.file_answer}\n"
    )


if __name__ == "__main__":
    server = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
    print(tell(walk(OpenAI(base_url=f"{server}/v1", api_key="none"), Path.cwd(), 2, "q8_0")))
