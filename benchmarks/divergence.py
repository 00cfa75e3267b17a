"""How far a BRIE_DTYPE is from float32 on the same text: KL, top-1 and perplexity, token by token.

    python benchmarks/divergence.py [--dtypes int8,bfloat16] [--rows 12] [--tokens 200]

The text is the example conversations through the model's own template. It knows the engine's runner, and no server.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from brie_core.libraries import prepare_libraries

prepare_libraries(os.environ)

import torch  # noqa: E402  # OpenMP reads the environment when torch is loaded
from torch import Tensor  # noqa: E402

from brie_core.settings import Settings  # noqa: E402
from brie_core.text.tokenizer import Tokenizer  # noqa: E402
from brie_core.weights.base_model import BaseModel  # noqa: E402
from brie_core.weights.resolve import resolve_base_model  # noqa: E402
from brie_server.engine.base import Prompt, Sampling  # noqa: E402
from brie_server.engine.torch.architecture import read_architecture  # noqa: E402
from brie_server.engine.torch.device import choose_dtype, choose_target  # noqa: E402
from brie_server.engine.torch.runner import Runner  # noqa: E402
from brie_server.engine.torch.scheduler import Limits, Scheduler  # noqa: E402
from brie_server.engine.torch.sequence import Sequence  # noqa: E402

CPU = torch.device("cpu")
DATA = Path(__file__).resolve().parent.parent / "clients" / "examples" / "data" / "philosophy-validation.jsonl"


def main() -> None:
    """Print a row for each type."""
    given = _arguments()
    with tempfile.TemporaryDirectory() as home:
        base = resolve_base_model(Settings(home=Path(home), model=given.model))
        texts = list(_texts(base, given.rows, given.tokens))
        truth = [torch.log_softmax(logits, -1) for logits in _logits(base, "float32", texts)]
        print(f"{sum(map(len, texts))} tokens of {base.id}")
        print("| BRIE_DTYPE | mean KL | p99 KL | top-1 | perplexity, as a ratio |\n|---|---|---|---|---|")
        for dtype in given.dtypes.split(","):
            found = [torch.log_softmax(logits, -1) for logits in _logits(base, dtype, texts)]
            print(_row(dtype, torch.cat(truth), torch.cat(found), texts))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=Settings(home=Path()).model)
    parser.add_argument("--dtypes", default="float32,int8")
    parser.add_argument("--rows", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=200, help="of each row, at most")
    return parser.parse_args()


def _texts(base: BaseModel, rows: int, most: int) -> Iterator[list[int]]:
    tokenizer = Tokenizer(base.folder)
    for line in DATA.read_text().splitlines()[:rows]:
        text = tokenizer.render(json.loads(line)["messages"], add_generation_prompt=False)
        yield tokenizer.encode(text)[:most]


def _logits(base: BaseModel, dtype: str, texts: list[list[int]]) -> Iterator[Tensor]:
    """After each token of each text; one row at a time, so that int8 takes its own way, and in chunks of one token."""
    runner = Runner(base, read_architecture(base.config), choose_target(CPU, choose_dtype(dtype, CPU)))
    for text in texts:
        seen: list[Tensor] = []
        logits = runner._model.logits

        def recording(x_SE: Tensor, logits: Callable[[Tensor], Tensor] = logits, seen: list[Tensor] = seen) -> Tensor:
            logits_SV = logits(x_SE)
            seen.append(logits_SV.clone())
            return logits_SV

        runner._model.logits = recording  # type: ignore[method-assign]
        scheduler = Scheduler(Limits(chunk_size=1, max_blocks=0), token_budget=8192, context_length=8192)
        how = Sampling(temperature=0)
        asked = Prompt(token_ids=tuple(text), max_tokens=1, stop_ids=frozenset(), sampling=how, prompt_logprobs=0)
        scheduler.add(Sequence(asked))
        while step := scheduler.plan():
            scheduler.advance(step, runner.run(step))
        runner._model.logits = logits  # type: ignore[method-assign]
        yield torch.cat(seen)[: len(text)]


def _row(dtype: str, truth: Tensor, found: Tensor, texts: list[list[int]]) -> str:
    divergence = (truth.exp() * (truth - found)).sum(-1)
    top = (truth.argmax(-1) == found.argmax(-1)).float().mean()
    ratio = (_loss(found, texts) - _loss(truth, texts)).exp()
    return f"| {dtype} | {divergence.mean():.2e} | {divergence.quantile(0.99):.2e} | {100 * top:.1f} % | {ratio:.4f} |"


def _loss(logprobs: Tensor, texts: list[list[int]]) -> Tensor:
    """Of each text's tokens but the first."""
    losses, start = [], 0
    for text in texts:
        rows = logprobs[start : start + len(text) - 1]
        losses.append(-rows.gather(-1, torch.tensor(text[1:])[:, None])[:, 0])
        start += len(text)
    return torch.cat(losses).mean()


if __name__ == "__main__":
    main()
