"""A model card's section on an evaluation: the report in Markdown. Nobody types a number. It knows no file."""

from collections.abc import Iterator, Mapping

from brie_trainer.evaluation.report import CandidateReport, Comparison, Difference, Figure, JudgingReport, Report
from brie_trainer.evaluation.wording import counts_sentence, number, percent, title


def card_section(report: Report, candidate: str | None = None) -> str:
    """About one candidate, or about all; ends with a new line."""
    return "\n\n".join(part for part in _parts(report, candidate) if part) + "\n"


def _parts(report: Report, candidate: str | None) -> Iterator[str]:
    yield "## Evaluation"
    yield _what(report)
    chosen = {name: told for name, told in report.candidates.items() if candidate in (None, name)}
    if candidate is not None and report.against is not None and report.against in report.candidates:
        chosen[report.against] = report.candidates[report.against]
    yield _table(chosen, report.confidence)
    for comparison in report.comparisons:
        if candidate in (None, comparison.candidate):
            yield from _comparison(comparison)
    yield _identities(chosen)


def _what(report: Report) -> str:
    asked = report.material
    parts = []
    if asked.held_out_sha256 is not None:
        parts.append(f"{asked.held_out_rows} held-out rows (sha256 {asked.held_out_sha256})")
    if asked.prompts_sha256 is not None:
        parts.append(f"{asked.prompts} prompts (sha256 {asked.prompts_sha256})")
    intervals = f"Intervals are of {percent(report.confidence)}, over prompts; seed {report.seed}."
    return f"Measured by Brie on {' and '.join(parts)}. {intervals}"


def _table(candidates: Mapping[str, CandidateReport], confidence: float) -> str:
    names = list(dict.fromkeys(name for told in candidates.values() for name in told.figures))
    shown = [name for name in names if any(_value(told, name) is not None for told in candidates.values())]
    if not shown:
        return ""
    rows = [["figure", *(_cell(name) for name in candidates)], ["---"] * (len(candidates) + 1)]
    rows += [[title(name), *(_interval(told.figures.get(name)) for told in candidates.values())] for name in shown]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _value(told: CandidateReport, name: str) -> float | None:
    return told.figures[name].value if name in told.figures else None


def _interval(figure: Figure | None) -> str:
    if figure is None or figure.value is None:
        return ""
    if figure.low is None or figure.high is None:
        return number(figure.value)
    return f"{number(figure.value)} ({number(figure.low)} to {number(figure.high)})"


def _comparison(comparison: Comparison) -> Iterator[str]:
    yield f"**{_cell(comparison.sentence)}**"
    told = [each for each in comparison.figures.values() if each.difference is not None]
    yield "\n".join(f"- {_cell(each.sentence)}" for each in told)
    if comparison.judging is not None:
        yield _judging(comparison.judging)


def _judging(judging: JudgingReport) -> str:
    lines = [f"- {_cell(_said(judging.win_rate))}"]
    lines += [f"- {_cell(_said(each))}" for each in judging.criteria.values()]
    for name, judge in judging.judges.items():
        told = (
            f"{judge.wins} wins, {judge.losses} losses, {judge.ties} ties, {judge.unparseable} unparseable, "
            f"{judge.counts.failed + judge.counts.refused} failed"
        )
        lines.append(f"- {_cell(name)} ({_cell(judge.identity.model)}): {told}.")
        lines += [f"- {_cell(bias.sentence)}" for bias in judge.biases]
    lines += [f"- {_cell(each.sentence)}" for each in judging.agreements]
    return "Judged blind, each pair in both orders:\n\n" + "\n".join(lines)


def _said(told: Difference) -> str:
    return told.sentence


def _identities(candidates: Mapping[str, CandidateReport]) -> str:
    lines = []
    for name, told in candidates.items():
        who = f"version {told.identity.version}" if told.identity.version else "a server that tells no version"
        fingerprints = f" ({', '.join(told.identity.fingerprints)})" if told.identity.fingerprints else ""
        counts = [counts_sentence("held-out rows", told.held_out), counts_sentence("answers", told.answers)]
        asked = "; ".join(filter(None, counts))
        lines.append(f"- {_cell(name)}: {_cell(told.identity.model)}, {_cell(f'{who}{fingerprints}: {asked}')}")
    return "What answered:\n\n" + "\n".join(lines)


def _cell(text: str) -> str:
    """One line that Markdown and HTML leave as it is."""
    flat = " ".join(text.split())
    for sign in ("\\", "|", "<", ">", "*", "_", "`", "[", "]"):
        flat = flat.replace(sign, f"\\{sign}")
    return flat
