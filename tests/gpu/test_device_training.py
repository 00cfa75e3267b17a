"""On whatever device is here: training gives the CPU's numbers, repeats bit for bit, and outlives a lack of memory."""

from pathlib import Path
from typing import Any

import pytest
import torch

from brie_trainer.training.batches import collate
from brie_trainer.training.memory_errors import give_back
from trainer.families import FAMILIES, opened, random_examples, write_family
from trainer_jobs import CHATS, Event, bits, job_of, run, spec_of, steps

LONG = [
    {"messages": [{"role": "user", "content": f"Count {i}"}, {"role": "assistant", "content": f"{i} and " * 120}]}
    for i in range(48)
]
PAIRS = [
    {
        "input": {"messages": [{"role": "user", "content": f"Say {i}"}]},
        "preferred_output": [{"role": "assistant", "content": f"{i}, gladly."}],
        "non_preferred_output": [{"role": "assistant", "content": "No." * (1 + i % 3)}],
    }
    for i in range(12)
]


def run_on(
    device: torch.device, folder: Path, base: Path, spec: dict[str, Any], **told: Any
) -> tuple[list[Event], Event]:
    stop_after, dtype = told.pop("stop_after", None), told.pop("dtype", "float32")
    job = job_of(folder, base, spec, **told) | {"device": device.type, "dtype": dtype}
    return run(job, folder, stop_after=stop_after)


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probabilities_and_gradients_are_the_cpus(family: str, device: torch.device, tmp_path: Path) -> None:
    folder, examples = write_family(tmp_path, family), random_examples()
    found = []
    for each in ("cpu", device.type):
        model = opened(folder, device=each)
        log_probs_N = model.score(collate(examples), training=True).log_probs_N
        log_probs_N.sum().backward()  # type: ignore[no-untyped-call]
        gradients = {name: tensor.grad for name, tensor in model.parameters.items()}
        found.append((log_probs_N.detach().cpu(), gradients))
    (wanted_N, gradients), (log_probs_N, others) = found
    assert torch.allclose(log_probs_N, wanted_N, rtol=1e-4, atol=1e-4)
    for name, gradient in gradients.items():
        other = others[name]
        assert gradient is not None and other is not None
        assert float((other.cpu() - gradient).norm()) <= 1e-4 * float(gradient.norm()), name


@pytest.mark.parametrize("method", ["supervised", "dpo"])
def test_a_run_takes_the_cpus_steps(chat_model: Path, device: torch.device, tmp_path: Path, method: str) -> None:
    rows = PAIRS if method == "dpo" else CHATS
    spec = spec_of(method, n_epochs=2, batch_size=4)
    cpu, here = (tmp_path / "cpu", torch.device("cpu")), (tmp_path / "here", device)
    both = [run_on(each, folder, chat_model, spec, rows=rows)[0] for folder, each in (cpu, here)]
    wanted, found = ([step["train_loss"] for step in steps(events)] for events in both)
    assert len(found) == 6
    assert found == pytest.approx(wanted, rel=1e-3)


def test_a_stopped_run_goes_on_to_the_same_adapter_bit_for_bit(
    chat_model: Path, device: torch.device, tmp_path: Path
) -> None:
    spec = spec_of(n_epochs=3, batch_size=4)
    _, whole = run_on(device, tmp_path / "whole", chat_model, spec, dtype="auto")
    _, stopped = run_on(device, tmp_path / "1", chat_model, spec, dtype="auto", stop_after=4)
    assert stopped == {"type": "stopped", "step": 4}
    _, last = run_on(device, tmp_path / "2", chat_model, spec, dtype="auto", earlier=[tmp_path / "1"])
    assert bits(tmp_path / "2", last) == bits(tmp_path / "whole", whole)


def test_a_device_that_is_too_small_makes_micro_batches_smaller_and_nothing_else(
    chat_model: Path, device: torch.device, tmp_path: Path
) -> None:
    if device.type != "cuda":
        pytest.skip("only CUDA's allocator can be told a limit")
    spec = spec_of(n_epochs=1, batch_size=24)
    roomy, _ = run_on(device, tmp_path / "roomy", chat_model, spec, rows=LONG)
    give_back(device)
    limit = torch.cuda.memory_reserved(device) + 280 * 2**20
    torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.get_device_properties(device).total_memory)
    try:
        events, last = run_on(device, tmp_path / "narrow", chat_model, spec, rows=LONG)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert any("Out of memory" in event["message"] for event in events if event["type"] == "message")
    assert last["type"] == "result" and len(steps(events)) == len(steps(roomy)) == 2
    wanted, found = ([step["train_loss"] for step in steps(each)] for each in (roomy, events))
    assert found == pytest.approx(wanted, rel=1e-4)
