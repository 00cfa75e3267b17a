"""`python -m brie_trainer.run FOLDER`: one attempt at one fine-tuning job. The folder is the whole contract.

In: job.json, the data it names, earlier attempts' checkpoints. Out: events.jsonl and checkpoints. It opens no database,
and it dies with the worker that started it. SIGTERM ends it at its next micro-batch, with a checkpoint.

A job that asks for several processes becomes torch's launcher of them; under a launcher of several machines, with the
folder where all of them see it, the same command is one of its processes.
"""

import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

from brie_core.errors import BrieError
from brie_core.libraries import prepare_libraries
from brie_core.lifeline import die_with_parent
from brie_core.weights.base_model import read_json
from brie_trainer.training.wakefulness import keep_awake


class StopSignal:
    """Whether SIGTERM has come."""

    def __init__(self) -> None:
        self.received = False
        signal.signal(signal.SIGTERM, self._note)

    def _note(self, *_: object) -> None:
        self.received = True


def main(folder: Path) -> int:
    """Run the attempt in `folder`; the exit status is 0 if its last event is a result, or that it was stopped."""
    launched = "RANK" in os.environ
    die_with_parent(stdin_is_ours=not launched)
    stop = StopSignal()
    prepare_libraries(os.environ)
    os.environ["HF_HUB_OFFLINE"] = "1"
    job = read_json(folder / "job.json")
    if (count := job["spec"]["brie"]["num_processes"] or 1) > 1 and not launched:
        launch(folder, count)
    keep_awake()
    speaks = os.environ.get("RANK", "0") == "0"
    with (folder / "events.jsonl" if speaks else Path(os.devnull)).open("a", buffering=1) as events:

        def emit(event: dict[str, Any]) -> None:
            events.write(json.dumps(event) + "\n")

        try:
            from brie_trainer.training.attempt import attempt

            emit(attempt(folder, job, emit, lambda: stop.received))
        except BrieError as error:
            emit(_error(error.code or "training_failed", error.message, error.param))
            return 1
        except Exception as error:  # noqa: BLE001  # the last word of this process, whatever happened
            traceback.print_exc()
            emit(_error("training_failed", f"{type(error).__name__}: {error}", None))
            return 1
    return 0


def launch(folder: Path, count: int) -> NoReturn:
    """Become torch's launcher of `count` processes like this one; they meet on loopback."""
    meeting = ["--nnodes=1", f"--nproc-per-node={count}", "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0"]
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    launcher = [sys.executable, "-m", "torch.distributed.run", *meeting, "--local-addr=127.0.0.1"]
    os.execv(sys.executable, [*launcher, "-m", "brie_trainer.run", str(folder)])


def _error(code: str, message: str, param: str | None) -> dict[str, Any]:
    return {"type": "error", "code": code, "message": message, "param": param}


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
