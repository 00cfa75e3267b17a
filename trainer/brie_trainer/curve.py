"""A run's losses as a standalone SVG, for light and for dark pages. Pure; it knows a history and no file."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from brie_trainer.results import merged

_WIDTH, _HEIGHT = 720, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 700, 44, 352
_COLUMNS = 600
"""More points than this are averaged: no screen shows them apart."""
_WINDOWS = 30
"""The smoothed line is a mean over two of this many parts of the run."""
_STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #57606a }
  .title { font-weight: 600; fill: #24292f }
  .grid { stroke: #57606a; stroke-opacity: .18 }
  .axis { stroke: #57606a; stroke-opacity: .6 }
  .raw, .train { stroke: #0969da; fill: none; stroke-width: 1.8; stroke-linejoin: round }
  .raw { stroke-opacity: .28; stroke-width: 1 }
  .valid { stroke: #bc4c00; fill: none; stroke-width: 1.2; stroke-dasharray: 3 3 }
  .point { fill: #bc4c00 }
  .best { stroke: #bc4c00; fill: none; stroke-width: 1.8 }
  @media (prefers-color-scheme: dark) {
    text { fill: #8d96a0 }
    .title { fill: #e6edf3 }
    .grid, .axis { stroke: #8d96a0 }
    .raw, .train { stroke: #4493f8 }
    .valid, .best { stroke: #f0883e }
    .point { fill: #f0883e }
  }
"""

Points = Sequence[tuple[float, float]]
"""(step, loss), in ascending steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What part of the plane is drawn."""

    steps: tuple[float, float]
    losses: tuple[float, float]

    def at(self, step: float, loss: float) -> tuple[float, float]:
        """Where a point lies on the picture, in pixels."""
        (first, last), (low, high) = self.steps, self.losses
        x = _LEFT + (step - first) / (last - first) * (_RIGHT - _LEFT)
        return x, _BOTTOM - (loss - low) / (high - low) * (_BOTTOM - _TOP)


def svg(history: Sequence[Mapping[str, Any]], *, best_step: int | None = None) -> str:
    """The picture of a run so far; without `best_step`, the lowest validation behind the first step is the best."""
    records = merged(history)
    train, valid = points_of(records, "train_loss"), points_of(records, "valid_loss")
    best = best_of(valid, best_step)
    words = _words(train, valid, best)
    body = _drawing(train, valid, best) if train or valid else [_text(382, 200, "No step has ended yet", "middle")]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
        f'viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-labelledby="title desc">'
    )
    titles = [f'<title id="title">Loss by step</title>\n<desc id="desc">{words}</desc>', f"<style>{_STYLE}</style>"]
    return "\n".join([head, *titles, *body, "</svg>"]) + "\n"


def points_of(records: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    """A diverged run's infinities have no place in a plane."""
    found = ((float(record["step"]), record.get(name)) for record in records)
    return [(step, float(loss)) for step, loss in found if loss is not None and math.isfinite(loss)]


def best_of(valid: Points, best_step: int | None) -> tuple[float, float] | None:
    """The untouched base, step 0, is never the best."""
    if best_step is not None:
        return next((point for point in valid if point[0] == best_step), None)
    return min((point for point in valid if point[0] > 0), key=lambda point: point[1], default=None)


def smoothed(points: Points) -> list[tuple[float, float]]:
    """Means over as many steps before as after: a line that lags behind a falling loss would not be true of it."""
    sums = [0.0, *accumulate(loss for _, loss in points)]
    line = []
    for index, (step, _) in enumerate(points):
        around = min(len(points) // _WINDOWS, index, len(points) - 1 - index)
        line.append((step, (sums[index + around + 1] - sums[index - around]) / (2 * around + 1)))
    return line


def thinned(points: Points) -> list[tuple[float, float]]:
    """Means of neighbours, at most as many as can be told apart."""
    size = math.ceil(len(points) / _COLUMNS) or 1
    groups = (points[start : start + size] for start in range(0, len(points), size))
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def ticks(low: float, high: float, number: int, *, whole: bool = False) -> list[float]:
    """Round values between the ends: about `number` multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / number
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    step = max(step, 1.0) if whole else step
    return [round(index * step, 12) for index in range(math.ceil(low / step - 1e-9), int(high / step + 1e-9) + 1)]


def _drawing(train: Points, valid: Points, best: tuple[float, float] | None) -> Iterator[str]:
    frame = _frame([*train, *valid])
    yield from _axes(frame)
    yield _line(frame, thinned(train), "raw")
    yield _line(frame, thinned(smoothed(train)), "train")
    yield _line(frame, valid, "valid")
    for point in valid:
        x, y = frame.at(*point)
        yield f'<circle class="point" cx="{x:.1f}" cy="{y:.1f}" r="3"/>'
    if best is not None:
        x, y = frame.at(*best)
        yield f'<circle class="best" cx="{x:.1f}" cy="{y:.1f}" r="7"/>'
    yield from _legend(has_train=bool(train), best=best, has_validation=bool(valid))


def _frame(points: Points) -> Frame:
    steps, losses = [step for step, _ in points], [loss for _, loss in points]
    low, high = min(losses), max(losses)
    room = (high - low) * 0.05 or max(abs(high) * 0.05, 1e-6)
    first, last = min(steps), max(steps)
    return Frame(steps=(first, max(last, first + 1)), losses=(low - room, high + room))


def _axes(frame: Frame) -> Iterator[str]:
    losses = ticks(*frame.losses, 6)
    places = _places(losses)
    for loss in losses:
        y = frame.at(frame.steps[0], loss)[1]
        yield f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{_RIGHT}" y2="{y:.1f}"/>'
        yield _text(_LEFT - 8, y + 4, f"{loss:.{places}f}", "end")
    for step in ticks(*frame.steps, 8, whole=True):
        x = frame.at(step, frame.losses[0])[0]
        yield f'<line class="axis" x1="{x:.1f}" y1="{_BOTTOM}" x2="{x:.1f}" y2="{_BOTTOM + 5}"/>'
        yield _text(x, _BOTTOM + 20, f"{step:.0f}", "middle")
    yield f'<path class="axis" fill="none" d="M{_LEFT} {_TOP}V{_BOTTOM}H{_RIGHT}"/>'
    yield _text((_LEFT + _RIGHT) / 2, _BOTTOM + 40, "step", "middle")
    yield _text(_LEFT - 8, _TOP - 10, "loss", "end")


def _places(losses: Sequence[float]) -> int:
    """Digits behind the point that keep neighbouring ticks apart."""
    gap = losses[1] - losses[0] if len(losses) > 1 else 0.01
    return max(0, -math.floor(math.log10(gap) + 1e-9))


def _legend(*, has_train: bool, best: tuple[float, float] | None, has_validation: bool) -> Iterator[str]:
    x = _LEFT
    if has_train:
        yield f'<path class="train" d="M{x} 20h22"/>{_text(x + 28, 24, "training, smoothed", "start", "title")}'
        x += 160
    if has_validation:
        yield f'<circle class="point" cx="{x + 11}" cy="20" r="3"/>{_text(x + 28, 24, "validation", "start", "title")}'
        x += 120
    if best is not None:
        told = f"best: {best[1]:.4f} at step {best[0]:.0f}"
        yield f'<circle class="best" cx="{x + 11}" cy="20" r="7"/>{_text(x + 28, 24, told, "start", "title")}'


def _line(frame: Frame, points: Points, kind: str) -> str:
    drawn = "L".join(f"{x:.1f} {y:.1f}" for x, y in (frame.at(*point) for point in points))
    return f'<path class="{kind}" d="M{drawn}"/>' if points else ""


def _text(x: float, y: float, words: str, anchor: str, kind: str = "label") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{words}</text>'


def _words(train: Points, valid: Points, best: tuple[float, float] | None) -> str:
    """For whoever cannot see the picture."""
    told = []
    for name, points in (("Training", train), ("Validation", valid)):
        if points:
            (first, start), (last, end) = points[0], points[-1]
            told.append(f"{name} loss: {start:.4f} at step {first:.0f}, {end:.4f} at step {last:.0f}.")
    if best is not None:
        told.append(f"The best validation is {best[1]:.4f} at step {best[0]:.0f}.")
    return " ".join(told) or "No step has ended yet."
