"""The picture of a run's losses: well-formed, true to the history, and readable without seeing it."""

import math
import re
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import pytest

from brie_trainer.curve import smoothed, svg, ticks

HISTORY: list[dict[str, Any]] = [
    {"step": 0, "valid_loss": 4.5},
    *({"step": step, "train_loss": 4.5 - step / 20} for step in range(1, 41)),
    {"step": 20, "valid_loss": 3.25},
    {"step": 40, "valid_loss": 3.5},
]
SVG = "{http://www.w3.org/2000/svg}"


def elements(drawn: str, tag: str, kind: str) -> list[ElementTree.Element]:
    return [each for each in ElementTree.fromstring(drawn).iter(f"{SVG}{tag}") if each.get("class") == kind]


def points(drawn: str, kind: str) -> list[tuple[float, float]]:
    (path,) = elements(drawn, "path", kind)[:1]
    numbers = [float(number) for number in re.findall(r"[\d.]+", path.get("d") or "")]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def test_it_tells_what_it_shows_to_whoever_cannot_see_it() -> None:
    root = ElementTree.fromstring(svg(HISTORY))
    assert root.findtext(f"{SVG}title") == "Loss by step"
    told = root.findtext(f"{SVG}desc") or ""
    assert "Training loss: 4.4500 at step 1, 2.5000 at step 40." in told
    assert "The best validation is 3.2500 at step 20." in told


def test_a_straight_fall_of_the_loss_is_a_straight_line_between_the_axes() -> None:
    raw = points(svg(HISTORY), "raw")
    assert len(raw) == 40
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(raw)]
    assert all(slope == pytest.approx(slopes[0], abs=0.02) and slope > 0 for slope in slopes)
    assert all(64 <= x <= 700 and 44 <= y <= 352 for x, y in raw)


def test_every_validation_is_a_point_and_the_best_behind_the_base_is_marked() -> None:
    shown = elements(svg(HISTORY), "circle", "point")
    places = [(circle.get("cx"), circle.get("cy")) for circle in shown[:3]]
    assert len(shown) == 4  # and one in the legend
    best, _ = elements(svg(HISTORY), "circle", "best")
    assert (best.get("cx"), best.get("cy")) == places[1]
    told, _ = elements(svg(HISTORY, best_step=40), "circle", "best")
    assert (told.get("cx"), told.get("cy")) == places[2]
    rising = [{"step": 0, "valid_loss": 1.0}, {"step": 5, "valid_loss": 2.0}]
    assert "best: 2.0000 at step 5" in svg(rising)


def test_the_smoothed_line_forgets_noise_and_does_not_lag_behind_a_fall() -> None:
    noisy = smoothed([(float(step), 3.0 + (-1) ** step) for step in range(400)])
    assert all(abs(loss - 3.0) < 0.05 for _, loss in noisy[20:-20])
    falling = [(float(step), 5.0 - step / 100) for step in range(400)]
    assert [loss for _, loss in smoothed(falling)] == pytest.approx([loss for _, loss in falling])


def test_ticks_are_round_and_inside() -> None:
    assert ticks(2.4, 4.6, 6) == [2.5, 3.0, 3.5, 4.0, 4.5]
    assert ticks(0, 3, 8, whole=True) == [0, 1, 2, 3]
    assert ticks(0, 1000, 8, whole=True) == [0, 200, 400, 600, 800, 1000]


@pytest.mark.parametrize(
    "history",
    [
        [],
        [{"step": 1, "train_loss": 2.0}],
        [{"step": 0, "valid_loss": 0.0}],
        [{"step": 1, "train_loss": math.nan}, {"step": 2, "train_loss": math.inf}],
        [{"step": step, "train_loss": 1e-9 * step} for step in range(3)],
    ],
)
def test_a_run_with_little_to_show_is_still_a_picture(history: list[dict[str, Any]]) -> None:
    drawn = svg(history)
    ElementTree.fromstring(drawn)
    assert "nan" not in drawn and "inf" not in drawn.replace("initial", "")


def test_a_long_run_is_no_larger_than_a_screen() -> None:
    long = [{"step": step, "train_loss": 1 / (step + 1)} for step in range(100_000)]
    assert len(svg(long)) < 40_000
    assert len(points(svg(long), "raw")) <= 600


def test_both_kinds_of_pages_have_their_colours() -> None:
    assert "prefers-color-scheme: dark" in svg(HISTORY)
