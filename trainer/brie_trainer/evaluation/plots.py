"""Plots as inline SVG: values with their intervals, and histograms. Pure; it knows numbers and labels alone."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

_ROW, _TOP, _AXIS = 26, 10, 30
_WIDTH, _LABELS, _RIGHT = 440, 150, 18
_MOST_LABEL = 22
_COLOURS = 6


@dataclass(frozen=True, slots=True)
class Mark:
    """One row: a dot where the value is, and a line over its interval."""

    label: str
    value: float
    low: float | None
    high: float | None
    colour: int
    """Which of the page's colours, from 0; the same candidate has the same one everywhere."""


def intervals(
    marks: Sequence[Mark], words: str, *, ends: tuple[float, float] | None = None, line: float | None = None
) -> str:
    """A row for each mark over one scale; `ends` are those of the scale, `line` is where nothing differs."""
    low, high = ends or _ends(
        [bound for mark in marks for bound in (mark.value, mark.low, mark.high) if bound is not None]
    )
    height = _TOP + _ROW * len(marks) + _AXIS

    def at(value: float) -> float:
        return _LABELS + (min(max(value, low), high) - low) / (high - low) * (_WIDTH - _LABELS - _RIGHT)

    bottom = _TOP + _ROW * len(marks)
    body = [_tick(at(value), bottom, text) for value, text in ticks(low, high)]
    if line is not None:
        body.append(f'<line class="zero" x1="{at(line):.1f}" y1="{_TOP}" x2="{at(line):.1f}" y2="{bottom}"/>')
    for row, mark in enumerate(marks):
        body += _mark(mark, _TOP + _ROW * row + _ROW / 2, at)
    return _svg(_WIDTH, height, words, body)


def histogram(edges: Sequence[float], counts: Sequence[int], peak: int, colour: int, words: str) -> str:
    """Bars between the edges, the highest of all compared histograms being `peak`."""
    width, bottom, left = _WIDTH, 110, 36
    step = (width - left - _RIGHT) / max(len(counts), 1)
    body = []
    for number, count in enumerate(counts):
        tall = (bottom - 14) * count / max(peak, 1)
        place = f'x="{left + number * step + 1:.1f}" y="{bottom - tall:.1f}" width="{max(step - 2, 1):.1f}"'
        body.append(f'<rect class="c{colour % _COLOURS}" {place} height="{tall:.1f}"/>')
    body.append(f'<line class="axis" x1="{left}" y1="{bottom}" x2="{width - _RIGHT}" y2="{bottom}"/>')
    body.append(_text(left - 6, 20, f"{peak}", "end"))
    body.append(_text(left - 6, bottom, "0", "end"))
    for value, text in ticks(edges[0], edges[-1]):
        x = left + (value - edges[0]) / (edges[-1] - edges[0]) * (width - left - _RIGHT)
        body.append(_text(x, bottom + 18, text, "middle"))
    return _svg(width, bottom + 26, words, body)


def ticks(low: float, high: float, number: int = 4) -> list[tuple[float, str]]:
    """Round values between the ends with their texts: about `number` multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / number
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    places = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [(index * step, f"{index * step:.{places}f}") for index in range(first, last + 1)]


def _ends(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = (high - low) * 0.08 or max(abs(high) * 0.08, 1e-3)
    return low - room, high + room


def _mark(mark: Mark, y: float, at: Callable[[float], float]) -> Iterator[str]:
    colour = f"c{mark.colour % _COLOURS}"
    yield _text(_LABELS - 10, y + 4, _shortened(mark.label), "end")
    told = f"{mark.label}: {mark.value:.4g}"
    if mark.low is not None and mark.high is not None:
        ends = f'x1="{at(mark.low):.1f}" y1="{y:.1f}" x2="{at(mark.high):.1f}" y2="{y:.1f}"'
        yield f'<line class="whisker {colour}" {ends}/>'
        told += f" ({mark.low:.4g} to {mark.high:.4g})"
    yield f'<circle class="{colour}" cx="{at(mark.value):.1f}" cy="{y:.1f}" r="5">'
    yield f"<title>{escape(told)}</title></circle>"


def _shortened(label: str) -> str:
    """Both ends of a long one: the checkpoints of a job differ at theirs."""
    return label if len(label) <= _MOST_LABEL else f"{label[:6]}…{label[-(_MOST_LABEL - 7) :]}"


def _tick(x: float, bottom: float, text: str) -> str:
    return f'<line class="grid" x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{bottom}"/>' + _text(
        x, bottom + 18, text, "middle"
    )


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _svg(width: float, height: float, words: str, body: Sequence[str]) -> str:
    head = f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(words)}">'
    return head + "".join(body) + "</svg>"
