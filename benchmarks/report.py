"""Measured rows as a Markdown page. It knows layout, and measures nothing."""

from collections.abc import Iterable, Sequence

from bars import Cell, Metric, Verdict, medians
from rounds import Row
from servers import Scenario


def table(rows: Sequence[Row], metric: Metric, unit: str) -> str:
    """Servers and scenarios down, concurrency across, medians within."""
    values = medians(rows, metric)
    columns = sorted({row.concurrency for row in rows})
    lines = [_line([unit, *map(str, columns)]), _line(["---"] * (len(columns) + 1))]
    for server, scenario in _in_order(rows):
        cells = (values.get(Cell(server, scenario, column)) for column in columns)
        lines.append(_line([f"{server}, {scenario}", *("" if each is None else f"{each:.0f}" for each in cells)]))
    return "\n".join(lines)


def _in_order(rows: Iterable[Row]) -> list[tuple[str, Scenario]]:
    order = list(Scenario)
    return sorted({(row.server, row.scenario) for row in rows}, key=lambda pair: (pair[0], order.index(pair[1])))


def verdicts(found: Iterable[Verdict]) -> str:
    """Each bar with its ratio."""
    lines = [_line(["bar", "asked", "measured", ""]), _line(["---"] * 4)]
    for verdict in found:
        bar = verdict.bar
        asked = f"at most {bar.most:g}" if bar.most is not None else f"at least {bar.least:g}"
        ratio = "" if verdict.ratio is None else f"{verdict.ratio:.2f}"
        word = {True: "pass", False: "MISS", None: "not measured"}[verdict.passed]
        lines.append(_line([bar.says, asked, ratio, word]))
    return "\n".join(lines)


def raw(rows: Iterable[Row]) -> str:
    """Every counted run."""
    names = ("round", "server", "scenario", "streams", "tokens/s", "TTFT p50", "TTFT p99", "ITL p50", "ITL p99")
    lines = [_line([*names, "answered", "failed"]), _line(["---"] * 11)]
    for row in rows:
        it = row.figures
        times = (it.ttft_p50, it.ttft_p99, it.itl_p50, it.itl_p99)
        shown = [row.round, row.server, row.scenario, row.concurrency, it.tokens_per_s, *times, it.answered]
        lines.append(_line([*("" if each is None else str(each) for each in shown), str(len(it.failures))]))
    return "\n".join(lines)


def first_failures(rows: Iterable[Row]) -> list[str]:
    """One line for each run in which requests failed."""
    failed = (row for row in rows if row.figures.failures)
    return [f"{row.server}, {row.scenario}, {row.concurrency} streams: {row.figures.failures[0]}" for row in failed]


def page(title: str, facts: Iterable[str], sections: Iterable[tuple[str, str]]) -> str:
    """The whole page: a list of facts, then headed sections; an empty section is left out."""
    parts = [f"# {title}", "\n".join(f"- {fact}" for fact in facts)]
    parts += [f"## {heading}\n\n{text}" for heading, text in sections if text]
    return "\n\n".join(parts) + "\n"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
