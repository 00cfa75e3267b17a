"""What Brie promised to reach, as ratios between measured cells. Pure: rows in, verdicts out; it starts nothing."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Literal

from rounds import Row
from servers import Scenario

Metric = Literal["tokens_per_s", "ttft_p99", "itl_p99"]


@dataclass(frozen=True, slots=True)
class Cell:
    """One place of the table."""

    server: str
    scenario: Scenario
    concurrency: int


@dataclass(frozen=True, slots=True)
class Bar:
    """`over` divided by `under` must be at least `least`, or at most `most`."""

    says: str
    over: Cell
    under: Cell
    least: float | None = None
    most: float | None = None
    metric: Metric = "tokens_per_s"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A bar, and what was measured against it; None where a cell is missing."""

    bar: Bar
    ratio: float | None

    @property
    def passed(self) -> bool | None:
        """Whether the bar was reached; None if it could not be told."""
        if self.ratio is None:
            return None
        return self.ratio >= (self.bar.least or 0) and (self.bar.most is None or self.ratio <= self.bar.most)


def medians(rows: Iterable[Row], metric: Metric) -> dict[Cell, float]:
    """Of each cell over the rounds; rows with a failed request, or without the figure, count for nothing."""
    values: dict[Cell, list[float]] = defaultdict(list)
    for row in rows:
        value: float | None = getattr(row.figures, metric)
        if value is not None and not row.figures.failures:
            values[Cell(row.server, row.scenario, row.concurrency)].append(value)
    return {cell: median(found) for cell, found in values.items()}


def judge(bars: Iterable[Bar], rows: Iterable[Row]) -> list[Verdict]:
    """The ratio of medians behind each bar."""
    rows = list(rows)
    return [Verdict(bar, _ratio(bar, medians(rows, bar.metric))) for bar in bars]


def _ratio(bar: Bar, values: Mapping[Cell, float]) -> float | None:
    over, under = values.get(bar.over), values.get(bar.under)
    return None if over is None or not under else over / under


def bars_of(torch: str, llamacpp: str) -> list[Bar]:
    """Issue 3's bars for the Brie servers of these names."""
    base, few, many = Scenario.BASE, Scenario.FEW, Scenario.MANY
    own, vllm, llama = Cell(torch, base, 32), Cell("vllm-lora", base, 32), Cell("llama-server", base, 32)
    few_own, few_vllm = Cell(torch, few, 32), Cell("vllm-lora", few, 32)
    return [
        Bar("base, 32 streams, to vLLM with LoRA enabled", own, vllm, least=1.3),
        Bar("base, 32 streams, to llama-server", own, llama, least=2.0),
        Bar("base, 8 streams, to vLLM with LoRA enabled", Cell(torch, base, 8), Cell("vllm-lora", base, 8), least=1.15),
        Bar("base, 1 stream, to vLLM with LoRA enabled", Cell(torch, base, 1), Cell("vllm-lora", base, 1), least=1.5),
        Bar("8 adapters, 32 streams, to vLLM's", few_own, few_vllm, least=4.0),
        Bar("8 adapters, 32 streams, to own base", few_own, own, least=0.8),
        Bar("64 adapters, 32 streams, to own base", Cell(torch, many, 32), own, least=0.75),
        Bar("TTFT p99, 8 adapters, 32 streams, to vLLM's", few_own, few_vllm, most=1.0, metric="ttft_p99"),
        Bar(
            "llamacpp engine, 1 stream, to llama-server on the same file",
            Cell(llamacpp, base, 1),
            Cell("llama-server", base, 1),
            least=0.95,
        ),
    ]
