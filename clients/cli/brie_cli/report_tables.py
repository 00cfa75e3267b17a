"""An evaluation's report as tables and sentences for a terminal. It knows report.json, not how it was made."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.markup import escape

from brie_cli.output import console, show_table

Told = Mapping[str, Any]
_TITLES = {"bleu": "BLEU", "chrf": "chrF", "rouge_l": "ROUGE-L", "mtld": "MTLD"}
_MOST_COLUMNS = 3
"""Candidates beside each other; more stand below each other."""


def show_report(report: Told) -> None:
    """Every figure of each candidate, every comparison, what judges said, and the sweep."""
    console.print(f"[bold]{escape(report['title'])}[/bold]")
    _show_figures(report)
    for comparison in report["comparisons"]:
        _show_differences(comparison)
        if comparison["judging"] is not None:
            _show_judging(comparison["judging"])
    _show_sweep(report["sweep"])
    for comparison in report["comparisons"]:
        console.print(f"[bold]{escape(comparison['sentence'])}[/bold]")


def _show_figures(report: Told) -> None:
    candidates = report["candidates"]
    names = [
        name
        for name in dict.fromkeys(name for told in candidates.values() for name in told["figures"])
        if any((told["figures"].get(name) or {}).get("value") is not None for told in candidates.values())
    ]
    head = f"figure ({report['confidence'] * 100:g} % intervals)"
    if len(candidates) <= _MOST_COLUMNS:
        rows = [
            [_words(name), *(_interval(each["figures"].get(name)) for each in candidates.values())] for name in names
        ]
        _print([head, *candidates], rows)
    else:
        found = [(name, who, told["figures"].get(name)) for name in names for who, told in candidates.items()]
        _print([head, "model", ""], [[_words(name), who, _interval(figure)] for name, who, figure in found])
    _print_lines(line for name, told in candidates.items() for line in _missing(name, told))


def _missing(name: str, told: Told) -> Iterator[str]:
    """What has no answer, and why: figures are made of the rest."""
    yield from _without(name, "held-out rows", told["held_out"])
    yield from _without(name, "answers", told["answers"])


def _without(name: str, what: str, counts: Told | None) -> Iterator[str]:
    if counts is not None and counts["answered"] < counts["planned"]:
        left = counts["planned"] - counts["answered"] - counts.get("identical", 0)
        reasons = [f"{reason}, {number} times" for reason, number in counts["reasons"].items()]
        reasons += [f"{counts['not_asked']} not asked"] if counts.get("not_asked") else []
        if left > 0:
            yield f"{name}: {left} of {counts['planned']} {what} are missing ({'; '.join(reasons)})."


def _show_differences(comparison: Told) -> None:
    told = [each for each in comparison["figures"].values() if each["difference"] is not None]
    rows = [
        [
            _words(each["figure"]),
            _number(each["difference"]),
            _between(each),
            _effect(each),
            _number(each["p_adjusted"]),
            str(each["clusters"]),
            "more than noise" if each["more_than_noise"] else "noise",
        ]
        for each in told
    ]
    head = f"{comparison['candidate']} minus {comparison['against']}"
    _print([head, "difference", "interval", "effect size", "p, adjusted", "prompts", ""], rows)


def _show_judging(judging: Told) -> None:
    rows = []
    for name, judge in judging["judges"].items():
        failed = judge["counts"]["failed"] + judge["counts"]["refused"]
        counts = [judge["wins"], judge["losses"], judge["ties"] + judge["identical"], judge["unparseable"], failed]
        counts.append(judge["counts"]["not_asked"])
        rows.append([name, judge["identity"]["model"], _interval(judge["win_rate"]), *map(str, counts)])
    _print(["judge", "model", "win rate", "wins", "losses", "ties", "unparseable", "failed", "not asked"], rows)
    console.print(escape(judging["win_rate"]["sentence"]))
    for name, judge in judging["judges"].items():
        told = {**judge["counts"], "identical": judge["identical"]}
        _print_lines(_without(name, "verdicts", told))
    found = [bias for judge in judging["judges"].values() for bias in judge["biases"] if bias["found"]]
    _print_lines(each.get("sentence", "") for each in [*found, *judging["agreements"]])
    console.print()


def _show_sweep(cells: Sequence[Told]) -> None:
    if not cells:
        return
    settings = list(dict.fromkeys(name for cell in cells for name in cell["settings"]))
    shown = [name for name in cells[0]["figures"] if any(cell["figures"][name]["value"] is not None for cell in cells)]
    rows = [
        [
            cell["candidate"],
            *(str(cell["settings"].get(name, "")) for name in settings),
            *(_number(cell["figures"][name]["value"]) for name in shown),
        ]
        for cell in cells
    ]
    _print(["candidate", *map(_words, settings), *map(_words, shown)], rows)


def _print(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if rows:
        show_table(head, rows)
        console.print()


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        console.print(escape(line))


def _words(name: str) -> str:
    return _TITLES.get(name, name.replace("_", " "))


def _number(value: float | None) -> str:
    """Four digits, or all before the point."""
    return "" if value is None else f"{value:.0f}" if 1e4 <= abs(value) < 1e12 else f"{value:.4g}"


def _interval(figure: Told | None) -> str:
    if figure is None or figure["value"] is None:
        return ""
    return _number(figure["value"]) + (f" ({_between(figure)})" if figure["low"] is not None else "")


def _effect(told: Told) -> str:
    if told["effect_size"] is None:
        return ""
    interval = "" if told.get("effect_low") is None else f" ({told['effect_low']:.2f} to {told['effect_high']:.2f})"
    return f"{told['effect_size']:.2f}{interval}"


def _between(told: Told) -> str:
    return "" if told["low"] is None or told["high"] is None else f"{_number(told['low'])} to {_number(told['high'])}"
