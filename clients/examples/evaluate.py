"""Is an adapter better than its base? Measured twice with one seed; the second report is the first, byte for byte.

python clients/examples/evaluate.py philosophy [FOLDER]            # against a server started by `make serve`
"""

import os
import sys
from pathlib import Path
from typing import Any

from brie_client import Brie


def evaluate(client: Brie, folder: Path, **asked: Any) -> dict[str, Any]:
    """Leave report.json and page.html in `folder`, and return the report; RuntimeError where it failed."""
    *_, done = client.evaluations.follow(client.evaluations.create(**asked).id)
    if done.status != "succeeded":
        raise RuntimeError(f"the evaluation ended as {done.status}: {done.error}")
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("report.json", "page.html"):
        client.evaluations.download(done, folder / name, name)
    return client.evaluations.report(done.id)


def tell(report: dict[str, Any]) -> str:
    """Perplexities with their intervals, and each comparison in a sentence."""
    lines = []
    for name, told in report["candidates"].items():
        figure = told["figures"].get("perplexity")
        if figure is not None and figure["value"] is not None:
            lines.append(f"perplexity of {name}: {figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})")
    return "\n".join([*lines, *(comparison["sentence"] for comparison in report["comparisons"])])


def main(model: str, folder: Path, url: str) -> None:
    """Two evaluations of one model."""
    client = Brie(base_url=url)
    asked: dict[str, Any] = {"model": model, "limit": 1, "sampling": {"max_tokens": 64}, "seed": 1}
    first, again = (evaluate(client, folder / part, **asked) for part in ("first", "again"))
    print(tell(first))
    is_same = (folder / "first" / "report.json").read_bytes() == (folder / "again" / "report.json").read_bytes()
    print("The second report is the first, byte for byte." if is_same and first == again else "The reports differ.")


if __name__ == "__main__":
    where = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1")
    main(sys.argv[1], Path(sys.argv[2] if len(sys.argv) > 2 else "evaluation"), where)
