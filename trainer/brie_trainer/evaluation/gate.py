"""Does a model keep to stated bounds? A pure function of a report and a gate; it moves nothing.

A gate is {"PATH": {"min": ..., "max": ...}}. A path that begins with what is known of a candidate holds for each, less
the one in `against`:

    perplexity                a figure of `candidates`; also perplexity.low, perplexity.high, perplexity.items
    win_rate                  where there were judges
    difference.perplexity     the figure minus that of `against`; also .low, .high, .effect_size, .p_adjusted,
                              and .more_than_noise, which is 0 or 1
    difference.win_rate       and difference.depth, or any other criterion
    themes.code.stop_rate     a figure of a theme
    answers.refused           what became of questions; held_out.answered

Any other goes through the report from its top: candidates.NAME.figures.perplexity.value, comparisons.0.judging... A
name with points in it is found as it stands. What is not in the report is an error, and never passes; what is there but
was not measured fails.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from brie_core.errors import InvalidRequest
from brie_trainer.evaluation.contract import Bound, Gate

_LEAVES = ("value", "difference")
"""Of a figure and of a difference: what a path that ends there means."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateVerdict:
    """One bound, held against one figure."""

    path: str
    candidate: str | None
    """None for a path from the report's top."""
    value: float | None
    min: float | None
    max: float | None
    passed: bool
    sentence: str


@dataclass(frozen=True, slots=True)
class GateReport:
    """gate.json in an evaluation's output."""

    passed: bool
    verdicts: Sequence[GateVerdict]

    def as_json(self) -> dict[str, Any]:
        """As it is written."""
        return {"passed": self.passed, "verdicts": [asdict(verdict) for verdict in self.verdicts]}


def judge(report: Mapping[str, Any], gate: Gate) -> GateReport:
    """`report` is report.json as it is read; InvalidRequest for a path that is not in it, and for a gate of nothing."""
    if not gate:
        raise InvalidRequest("The gate bounds nothing, so that everything would pass it.", param="gate")
    verdicts = [
        _held(path, candidate, value, bound)
        for path, bound in gate.items()
        for candidate, value in _values(report, path)
    ]
    return GateReport(all(verdict.passed for verdict in verdicts), verdicts)


def _values(report: Mapping[str, Any], path: str) -> Iterator[tuple[str | None, float | None]]:
    if path.endswith("."):
        raise InvalidRequest(f"The gate's {path!r} ends in a point.", param=f"gate.{path}")
    views = _views(report)
    found = {name: value for name, view in views.items() for value in _at(view, path)}
    if found and len(found) < len(views):
        missing = next(name for name in views if name not in found)
        raise InvalidRequest(f"The gate's {path!r} is not in the report of {missing!r}.", param=f"gate.{path}")
    if found:
        yield from ((name, _number(value, path)) for name, value in found.items())
        return
    at_top = list(_at(report, path))
    if not at_top:
        known = sorted({name for view in views.values() for name in view})
        raise InvalidRequest(
            f"The gate's {path!r} is not in the report. Known of a candidate are: {', '.join(known)}.",
            param=f"gate.{path}",
        )
    yield None, _number(at_top[0], path)


def _views(report: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What is known of each candidate, the one that they are compared with left out if there is another."""
    against = report["against"]
    names = [name for name in report["candidates"] if name != against] or list(report["candidates"])
    return {name: _view(report, name) for name in names}


def _view(report: Mapping[str, Any], name: str) -> dict[str, Any]:
    told = report["candidates"][name]
    view = {**told["figures"], "themes": told["themes"]}
    view |= {part: told[part] for part in ("held_out", "answers") if told[part] is not None}
    for comparison in report["comparisons"]:
        if comparison["candidate"] == name:
            judging = comparison["judging"]
            judged = {} if judging is None else {"win_rate": judging["win_rate"], **judging["criteria"]}
            view["difference"] = {**comparison["figures"], **judged}
    return view


def _at(tree: Any, path: str) -> Iterator[Any]:
    """What stands at the path, if anything; keys may have points in them."""
    if not path:
        yield tree
        return
    if isinstance(tree, list):
        first, _, rest = path.partition(".")
        if first.isdigit() and int(first) < len(tree):
            yield from _at(tree[int(first)], rest)
        return
    if not isinstance(tree, Mapping):
        return
    for key in sorted(tree, key=len, reverse=True):
        if path == key or path.startswith(f"{key}."):
            found = list(_at(tree[key], path[len(key) + 1 :]))
            if found:
                yield found[0]
                return


def _number(found: Any, path: str) -> float | None:
    if isinstance(found, Mapping):
        found = next((found[leaf] for leaf in _LEAVES if leaf in found), found)
    if found is None or (isinstance(found, int | float) and math.isfinite(found)):
        return None if found is None else float(found)
    raise InvalidRequest(f"The gate's {path!r} is no number in the report.", param=f"gate.{path}")


def _held(path: str, candidate: str | None, value: float | None, bound: Bound) -> GateVerdict:
    whose = f"{path} of {candidate}" if candidate else path
    passed, what = True, "is within its bounds"
    if value is None:
        passed, what = False, "was not measured"
    elif bound.min is not None and value < bound.min:
        passed, what = False, f"is below {bound.min:g}"
    elif bound.max is not None and value > bound.max:
        passed, what = False, f"is above {bound.max:g}"
    number = "" if value is None else f", {value:.6g},"
    return GateVerdict(
        path=path,
        candidate=candidate,
        value=value,
        min=bound.min,
        max=bound.max,
        passed=passed,
        sentence=f"{whose}{number} {what}.",
    )
