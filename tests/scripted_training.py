"""A training process that obeys the contract and does what folder/script.json says. It learns nothing, and is quick."""

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from brie_core.lifeline import die_with_parent


def main() -> None:
    """Do the script's moves, one after the other."""
    folder = Path(sys.argv[1])
    script = json.loads((folder / "script.json").read_text())
    for move in script["moves"]:
        _do(folder, Path(script["adapter"]), *move)


def _do(folder: Path, adapter: Path, move: str, step: Any = 0) -> None:
    provenance = {"history": [{"step": step, "total_steps": 9, "train_loss": 1.0}], "step": step}
    match move:
        case "checkpoint":
            shutil.copytree(adapter, folder / "checkpoints" / f"checkpoint-{step}")
            metrics = {"step": step, "total_steps": 9}
            _say(folder, {"type": move, "step": step, "best": False, "metrics": metrics, "provenance": provenance})
        case "result":
            _say(folder, {"type": move, "step": step, "trained_tokens": 5, "provenance": provenance})
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "wait":
            signal.sigwait({signal.SIGTERM})
            _say(folder, {"type": "stopped", "step": step})
        case "rest":
            time.sleep(step)
        case "hang":
            time.sleep(600)


def _say(folder: Path, event: Mapping[str, Any]) -> None:
    with (folder / "events.jsonl").open("a") as file:
        file.write(json.dumps(event) + "\n")


def write_script(folder: Path, moves: Sequence[Sequence[Any]], adapter: Path) -> None:
    """What the process in `folder` is to do; its checkpoints are copies of `adapter`."""
    (folder / "script.json").write_text(json.dumps({"moves": moves, "adapter": str(adapter)}))


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    die_with_parent()
    main()
