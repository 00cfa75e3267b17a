"""The page and the card: what was measured is on them, nothing is loaded, and nothing that was written is markup."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import evaluations
from brie_trainer.evaluation.card import card_section
from brie_trainer.evaluation.page import page
from brie_trainer.evaluation.plots import Mark, intervals, ticks
from brie_trainer.evaluation.report import Report
from scripted_api import Body, Said, ScriptedApi, chat

EVIL = "<script>alert('x')</script> & \"quotes\" </style> | `code`"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Of candidates, prompts and judges that all write markup."""
    folder = tmp_path_factory.mktemp("evaluation")

    def says(_: str, body: Body) -> Said:
        return chat(f"{body['model']} {EVIL} {'so ' * (body['seed'] % 40)}", version=None, model=EVIL)

    with ScriptedApi(says) as api:
        judges = [{"name": f"judge {EVIL}", "base_url": api.url, "model": "j"}]
        job: dict[str, Any] = {
            "candidates": [{"name": f"{n} {EVIL}", "model": n, "base_url": api.url} for n in ("one", "two")],
            "against": f"two {EVIL}",
            "prompts": {"limit": 1},
            "judging": {"judges": judges, "limit": 1},
            "sweep": {"temperature": [0.1, 1.1], "system_prompt": [EVIL], "limit": 1},
            "statistics": {"resamples": 100},
            "title": EVIL,
        }
        written = evaluations.write_job(folder / "1", **job)
        assert evaluations.run(written)[-1]["type"] == "result"
    return evaluations.report(written)


class Reader(HTMLParser):
    """Which elements and attributes a page has, and whether they close."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes += attrs
        if tag not in {"meta", "line", "rect"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_what_was_written_is_no_markup(report: Report) -> None:
    reader = Reader()
    reader.feed(page(report))
    reader.close()
    assert not reader.open
    assert "script" not in reader.seen
    assert {"svg", "circle", "rect", "table", "details"} <= set(reader.seen)
    assert not [name for name, _ in reader.attributes if name.startswith("on") or name in {"src", "href"}]


def test_the_page_loads_nothing(report: Report) -> None:
    written = page(report)
    assert not re.search(r"https?:|url\(|@import", written)
    assert "default-src 'none'" in written
    assert "prefers-color-scheme: dark" in written


def test_every_plot_has_words_for_who_cannot_see_it(report: Report) -> None:
    plots = re.findall(r"<svg [^>]*>", page(report))
    assert len(plots) >= 6
    assert all('role="img" aria-label="' in plot for plot in plots)


def test_the_card_says_what_the_report_says_and_is_no_markup(report: Report) -> None:
    written = card_section(report)
    assert written.startswith("## Evaluation\n")
    assert "<script" not in re.sub(r"\\<", "", written)
    rows = [line for line in written.splitlines() if line.startswith("|")]
    assert {re.sub(r"\\\|", "", row).count("|") for row in rows} == {4}
    mean = report.candidates[f"one {EVIL}"].figures["words"].value
    assert f"{mean:.4g}" in written


def test_page_and_card_are_pure(report: Report) -> None:
    again = Report.model_validate_json(report.model_dump_json())
    assert page(again) == page(report)
    assert card_section(again) == card_section(report)


def test_checkpoints_of_a_job_are_told_apart_in_plots() -> None:
    """Their names differ at their ends alone."""
    marks = [Mark(f"ft:base:brie:philosophy:1abc:ckpt-step-{step}", 1.0, 0.5, 2.0, 0) for step in (8, 16)]
    shown = re.findall(r'text-anchor="end">([^<]*)<', intervals(marks, "words"))
    assert shown == ["ft:bas…abc:ckpt-step-8", "ft:bas…bc:ckpt-step-16"]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3, 7), (0.0001, 0.0002), (0, 54321), (7.2, 7.3)])
def test_ticks_lie_within_and_are_told_apart(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 11
    assert all(low - 1e-12 <= value <= high + 1e-9 for value, _ in found)
    assert len({text for _, text in found}) == len(found)


def test_nothing_measured_is_still_a_page(tmp_path: Path) -> None:
    """One candidate, one prompt, nobody to compare with."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "Why?"}\n')
    with ScriptedApi(lambda _, __: chat("")) as api:
        candidates = [{"name": "one", "model": "one", "base_url": api.url}]
        job = evaluations.write_job(tmp_path / "1", candidates=candidates, prompts={"file": str(prompts)})
        assert evaluations.run(job)[-1]["type"] == "result"
    told = evaluations.report(job)
    assert told.candidates["one"].figures["mtld"].note == "no answer has 50 words"
    assert told.candidates["one"].figures["bleu"].note == "no prompt has a reference"
    assert "<h1>one</h1>" in page(told)
