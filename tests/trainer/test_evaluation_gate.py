"""Bounds on a report: which figures a path means, what passes, and that an unknown path never does."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from brie_core.errors import InvalidRequest
from brie_trainer.evaluation.contract import Gate
from brie_trainer.evaluation.gate import judge


def read_gate(text: str) -> Gate:
    """As the child reads it in job.json."""
    return TypeAdapter(Gate).validate_json(text)


def figure(value: float | None) -> dict[str, Any]:
    return {"value": value, "low": None if value is None else value - 1, "high": None if value is None else value + 1}


def candidate(perplexity: float | None, win_rate: float | None = None) -> dict[str, Any]:
    figures = {"perplexity": figure(perplexity), "win_rate": figure(win_rate)}
    themes = {"code": {"stop_rate": figure(0.5)}}
    return {"figures": figures, "themes": themes, "held_out": None, "answers": {"refused": 2}}


def comparison(name: str, difference: float) -> dict[str, Any]:
    told = {"difference": difference, "low": difference - 1, "more_than_noise": True}
    return {"candidate": name, "figures": {"perplexity": told}, "judging": None}


REPORT: dict[str, Any] = {
    "against": "base",
    "candidates": {
        "ft:base:brie:x:ckpt-step-1.5": candidate(8.0, 0.6),
        "other": candidate(11.0, 0.4),
        "base": candidate(20.0),
    },
    "comparisons": [comparison("ft:base:brie:x:ckpt-step-1.5", -12.0), comparison("other", -9.0)],
}


def passed(**gate: dict[str, float]) -> bool:
    return judge(REPORT, read_gate(json.dumps({path.replace("__", "."): bound for path, bound in gate.items()}))).passed


@pytest.mark.parametrize(
    ("path", "bound", "expected"),
    [
        ("perplexity", {"max": 12}, True),  # of both, and not of the base
        ("perplexity", {"max": 11}, True),  # a bound is still within
        ("perplexity", {"max": 10}, False),
        ("perplexity.high", {"max": 12}, True),
        ("perplexity.low", {"min": 7.5}, False),
        ("win_rate", {"min": 0.4, "max": 0.6}, True),
        ("win_rate", {"min": 0.5}, False),
        ("difference.perplexity", {"max": -9}, True),
        ("difference.perplexity.low", {"min": -12}, False),
        ("difference.perplexity.more_than_noise", {"min": 1}, True),
        ("themes.code.stop_rate", {"min": 0.5}, True),
        ("answers.refused", {"max": 0}, False),
        ("candidates.base.figures.perplexity.value", {"max": 12}, False),
        ("candidates.ft:base:brie:x:ckpt-step-1.5.figures.perplexity", {"max": 8}, True),
        ("comparisons.1.figures.perplexity.difference", {"max": -9}, True),
    ],
)
def test_a_path_means_a_figure(path: str, bound: dict[str, float], expected: bool) -> None:
    assert judge(REPORT, read_gate(json.dumps({path: bound}))).passed is expected


def test_every_candidate_is_held_and_the_sentence_says_which_fails() -> None:
    report = judge(REPORT, read_gate('{"perplexity": {"max": 10}}'))
    assert [(each.candidate, each.passed) for each in report.verdicts] == [
        ("ft:base:brie:x:ckpt-step-1.5", True),
        ("other", False),
    ]
    assert report.verdicts[1].sentence == "perplexity of other, 11, is above 10."


def test_a_lone_candidate_is_held_though_nothing_is_compared() -> None:
    alone: dict[str, Any] = {"against": None, "candidates": {"base": candidate(20.0)}, "comparisons": []}
    assert not judge(alone, read_gate('{"perplexity": {"max": 12}}')).passed


def test_what_was_not_measured_fails() -> None:
    report: dict[str, Any] = {"against": None, "candidates": {"one": candidate(None)}, "comparisons": []}
    told = judge(report, read_gate('{"perplexity": {"max": 12}}'))
    assert not told.passed
    assert told.verdicts[0].sentence == "perplexity of one was not measured."


def test_a_path_that_one_candidate_lacks_is_an_error_and_passes_nobody() -> None:
    lacking = {**candidate(1.0), "themes": {}}
    report = {**REPORT, "candidates": {**REPORT["candidates"], "other": lacking}}
    with pytest.raises(InvalidRequest, match="not in the report of 'other'"):
        judge(report, read_gate('{"themes.code.stop_rate": {"min": 0.1}}'))


@pytest.mark.parametrize("path", ["perplexty", "", "perplexity.", "perplexity.median", "candidates.nobody", "themes"])
def test_an_unknown_path_is_an_error(path: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        judge(REPORT, read_gate(json.dumps({path: {"max": 1}})))
    assert error.value.param == f"gate.{path}"


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"perplexity": 12}', '{"perplexity": {}}', '{"perplexity": {"maximum": 12}}',
     '{"perplexity": {"max": "low"}}', '{"perplexity": {"max": NaN}}', '{"perplexity": {"min": 2, "max": 1}}'],
)  # fmt: skip
def test_what_is_no_gate_is_an_error(text: str) -> None:
    with pytest.raises(ValidationError):
        read_gate(text)


def test_an_empty_gate_is_an_error_and_passes_nothing() -> None:
    with pytest.raises(InvalidRequest):
        judge(REPORT, read_gate("{}"))


def test_the_docstrings_gate_is_one(tmp_path: Path) -> None:
    assert passed(perplexity={"max": 12.0}, answers__refused={"max": 2})
