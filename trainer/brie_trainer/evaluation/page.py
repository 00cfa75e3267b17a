"""The report as a page: one HTML file without resources or scripts, for light and for dark. Pure; it knows no file.

Whatever a model or a person wrote is escaped; the page's own policy lets nothing be loaded or run.
"""

from collections.abc import Iterator, Mapping, Sequence
from html import escape

from brie_trainer.evaluation import plots
from brie_trainer.evaluation.report import Comparison, Difference, Figure, JudgeReport, JudgingReport, Report, Sample
from brie_trainer.evaluation.wording import counts_sentence, number, percent, title

_STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --soft: #59636e; --line: #d1d9e0; --back: #ffffff; --card: #f6f8fa;
  --c0: #0969da; --c1: #bc4c00; --c2: #1a7f37; --c3: #8250df; --c4: #bf3989; --c5: #4d5d6c }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9198a1; --line: #3d444d; --back: #0d1117;
  --card: #151b23; --c0: #4493f8; --c1: #f0883e; --c2: #3fb950; --c3: #ab7df8; --c4: #db61a2; --c5: #9fb1c1 } }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--back); margin: 0 auto;
  max-width: 1000px; padding: 32px 20px 80px }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem } h2 { margin: 2.6rem 0 .8rem; font-size: 1.3rem }
h3 { margin: 1.6rem 0 .5rem; font-size: 1rem }
p, li { max-width: 75ch } .soft { color: var(--soft) } .lead { font-size: 1.1rem; font-weight: 600 }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 420px), 1fr)); gap: 16px }
figure { margin: 0; padding: 12px 14px; background: var(--card); border-radius: 8px }
figcaption { font-weight: 600; margin-bottom: 4px } figcaption small { font-weight: 400; color: var(--soft) }
svg { width: 100%; height: auto; display: block } svg text { font-size: 12px; fill: var(--soft) }
svg .grid { stroke: var(--line) } svg .axis { stroke: var(--soft) }
svg .zero { stroke: var(--soft); stroke-dasharray: 4 3 } svg .whisker { stroke-width: 2.5; stroke-linecap: round }
.c0 { fill: var(--c0); stroke: var(--c0) } .c1 { fill: var(--c1); stroke: var(--c1) }
.c2 { fill: var(--c2); stroke: var(--c2) } .c3 { fill: var(--c3); stroke: var(--c3) }
.c4 { fill: var(--c4); stroke: var(--c4) } .c5 { fill: var(--c5); stroke: var(--c5) }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: 5px 14px 5px 0; border-bottom: 1px solid var(--line); vertical-align: top }
th { font-weight: 600; color: var(--soft) } code { font-size: .85em; overflow-wrap: anywhere }
details { border-top: 1px solid var(--line); padding: 10px 0 } summary { cursor: pointer; font-weight: 600 }
.answers { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr)); gap: 16px }
.answer { background: var(--card); border-radius: 8px; padding: 10px 14px } .answer h4 { margin: 0 0 6px }
.prose { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0 }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(report: Report) -> str:
    """The whole file."""
    head = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(report.title)}</title><style>{_STYLE}</style></head><body>\n"
    )
    return head + "\n".join(_sections(report)) + "\n</body></html>\n"


def _sections(report: Report) -> Iterator[str]:
    yield f"<h1>{escape(report.title)}</h1>"
    yield f'<p class="soft">{escape(_what(report))}</p>'
    yield from (f'<p class="lead">{escape(each.sentence)}</p>' for each in report.comparisons)
    yield from _figures(report)
    yield from _lengths(report)
    for comparison in report.comparisons:
        yield from _comparison(comparison, report)
    yield from _themes(report)
    yield from _sweep(report)
    yield from _asked(report)
    yield from _samples(report)


def _what(report: Report) -> str:
    asked = report.material
    parts = []
    if asked.held_out_sha256 is not None:
        parts.append(f"{asked.held_out_rows} held-out rows")
    if asked.prompts_sha256 is not None:
        parts.append(f"{asked.prompts} prompts of {len(asked.themes)} themes")
    drawn = f"Intervals are of {percent(report.confidence)}, from a bootstrap over prompts; seed {report.seed}"
    return f"{' and '.join(parts)}. {drawn}."


def _figures(report: Report) -> Iterator[str]:
    names = list(dict.fromkeys(name for told in report.candidates.values() for name in told.figures))
    plotted = [plot for name in names if (plot := _figure(report, name))]
    if plotted:
        yield f'<h2>Figures</h2><div class="grid">{"".join(plotted)}</div>'


def _figure(report: Report, name: str) -> str:
    found = {who: told.figures[name] for who, told in report.candidates.items() if name in told.figures}
    marks = _marks({who: each for who, each in found.items() if each.value is not None}, report)
    if not marks:
        return ""
    one = next(iter(found.values()))
    words = f"{title(name)}: " + "; ".join(f"{mark.label} {number(mark.value)}" for mark in marks)
    line = 0.5 if name == "win_rate" else None
    note = ", ".join(part for part in (one.unit, f"{one.better} is better" if one.better else "") if part)
    drawn = plots.intervals(marks, words, ends=(0.0, 1.0) if name == "win_rate" else None, line=line)
    return f"<figure><figcaption>{escape(title(name))} <small>{escape(note)}</small></figcaption>{drawn}</figure>"


def _marks(figures: Mapping[str, Figure], report: Report) -> list[plots.Mark]:
    colours = {name: number for number, name in enumerate(report.candidates)}
    return [
        plots.Mark(name, each.value, each.low, each.high, colours.get(name, 0))
        for name, each in figures.items()
        if each.value is not None
    ]


def _lengths(report: Report) -> Iterator[str]:
    told = {name: each.lengths for name, each in report.candidates.items() if each.lengths is not None}
    if not told:
        return
    peak = max(max(each.histogram) for each in told.values())
    drawn = []
    for colour, name in enumerate(report.candidates):
        if (each := told.get(name)) is not None:
            lower, middle, upper = each.quartiles
            words = f"{name}: from {each.minimum} to {each.maximum} words, quartiles {lower:g}, {middle:g}, {upper:g}"
            svg = plots.histogram(each.edges, each.histogram, peak, colour, words)
            caption = (
                f"{escape(name)} <small>median {middle:g} words, {lower:g} to {upper:g} in the middle half</small>"
            )
            drawn.append(f"<figure><figcaption>{caption}</figcaption>{svg}</figure>")
    yield f'<h2>How long answers are</h2><div class="grid">{"".join(drawn)}</div>'


def _comparison(comparison: Comparison, report: Report) -> Iterator[str]:
    yield f"<h2>{escape(comparison.candidate)} against {escape(comparison.against)}</h2>"
    told = [each for each in comparison.figures.values() if each.difference is not None]
    if told:
        head = [
            "figure",
            comparison.candidate,
            comparison.against,
            "difference",
            "interval",
            "effect size",
            "p, adjusted",
            "",
        ]
        rows = [
            [
                title(each.figure),
                number(each.candidate),
                number(each.against),
                number(each.difference),
                _range(each.low, each.high),
                _effect(each),
                "" if each.p_adjusted is None else f"{each.p_adjusted:.2g}",
                "more than noise" if each.more_than_noise else "noise",
            ]
            for each in told
        ]
        yield _table(head, rows)
        sentences = "".join(f"<li>{escape(each.sentence)}</li>" for each in told)
        yield f"<details><summary>In sentences</summary><ul>{sentences}</ul></details>"
    if comparison.judging is not None:
        yield from _judging(comparison.judging, comparison, report)


def _judging(judging: JudgingReport, comparison: Comparison, report: Report) -> Iterator[str]:
    yield "<h3>Judged blind, each pair in both orders</h3>"
    yield f"<p>{escape(judging.win_rate.sentence)}</p>"
    colour = list(report.candidates).index(comparison.candidate)
    overall = {"all judges": judging.win_rate, **judging.criteria}
    marks = [
        plots.Mark(title(name), each.candidate, *_halved(each.low, each.high), colour)
        for name, each in overall.items()
        if each.candidate is not None
    ]
    by_judge = {name: judge.win_rate for name, judge in judging.judges.items() if judge.win_rate.value is not None}
    marks += [plots.Mark(name, each.value or 0.0, each.low, each.high, colour) for name, each in by_judge.items()]
    if marks:
        svg = plots.intervals(marks, "Win rates, overall, by criterion and by judge", ends=(0.0, 1.0), line=0.5)
        caption = f"<figcaption>Win rate of {escape(comparison.candidate)}</figcaption>"
        yield f'<div class="grid"><figure>{caption}{svg}</figure></div>'
    yield _table(
        [
            "judge",
            "model",
            "wins",
            "losses",
            "ties",
            "unparseable",
            "failed",
            "not asked",
            "retries",
            "both orders agree",
        ],
        [_judge(name, judge) for name, judge in judging.judges.items()],
    )
    biases = [bias.sentence for judge in judging.judges.values() for bias in judge.biases]
    said = [*biases, *(each.sentence for each in judging.agreements)]
    yield f"<ul>{''.join(f'<li>{escape(each)}</li>' for each in said)}</ul>"


def _judge(name: str, judge: JudgeReport) -> list[str]:
    failed = judge.counts.failed + judge.counts.refused
    counts = (judge.wins, judge.losses, judge.ties + judge.identical, judge.unparseable, failed)
    asked = (judge.counts.not_asked, judge.counts.retries)
    agree = "" if judge.consistency is None else percent(round(judge.consistency, 3))
    return [name, judge.identity.model, *map(str, counts), *map(str, asked), agree]


def _themes(report: Report) -> Iterator[str]:
    themes = list(report.material.themes)
    if len(themes) < 2:
        return
    yield "<h2>By theme</h2>"
    shown = ("win_rate", "words", "mtld", "repetition", "stop_rate")
    rows = []
    for theme in themes:
        for name, told in report.candidates.items():
            figures = told.themes.get(theme, {})
            rows.append([theme, name, *(_value(figures.get(each)) for each in shown)])
    yield _table(["theme", "candidate", *map(title, shown)], rows)


def _sweep(report: Report) -> Iterator[str]:
    if not report.sweep:
        return
    yield "<h2>Sweep of samplings</h2>"
    settings = list(dict.fromkeys(name for cell in report.sweep for name in cell.settings))
    shown = [
        name for name in report.sweep[0].figures if any(cell.figures[name].value is not None for cell in report.sweep)
    ]
    rows = [
        [
            cell.candidate,
            *(f"{cell.settings.get(name, '')}" for name in settings),
            *(_value(cell.figures[name]) for name in shown),
        ]
        for cell in report.sweep
    ]
    yield _table(["candidate", *(name.replace("_", " ") for name in settings), *map(title, shown)], rows)


def _asked(report: Report) -> Iterator[str]:
    yield "<h2>What was asked, and what answered</h2>"
    rows = []
    for name, told in report.candidates.items():
        version = told.identity.version or "not told"
        counted = [counts_sentence("held-out rows", told.held_out), counts_sentence("answers", told.answers)]
        rows.append(
            [
                name,
                told.identity.model,
                version,
                ", ".join(told.identity.fingerprints),
                "; ".join(filter(None, counted)),
            ]
        )
    yield _table(["candidate", "model", "version", "fingerprint", "asked"], rows)
    digests = {
        "held-out rows": report.material.held_out_sha256,
        "prompts": report.material.prompts_sha256,
        "job": report.job_sha256,
    }
    lines = "".join(f"<li>{name}: <code>{digest}</code></li>" for name, digest in digests.items() if digest)
    yield f"<p>By sha256:</p><ul>{lines}</ul>"


def _samples(report: Report) -> Iterator[str]:
    if not report.samples:
        return
    yield "<h2>Answers</h2>"
    for theme in report.material.themes:
        yield f"<h3>{escape(theme)}</h3>"
        yield from (_sample(sample) for sample in report.samples if sample.theme == theme)


def _sample(sample: Sample) -> str:
    told = {**sample.answers, **({"reference": sample.reference} if sample.reference is not None else {})}
    answers = "".join(
        f'<div class="answer"><h4>{escape(name)}</h4><p class="prose">{escape(text)}</p></div>'
        for name, text in told.items()
    )
    short = " ".join(sample.prompt.split())
    short = short if len(short) <= 110 else short[:109] + "…"
    asked = f'<p class="prose soft">{escape(sample.prompt)}</p>'
    return f'<details><summary>{escape(short)}</summary>{asked}<div class="answers">{answers}</div></details>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{top}</tr>{body}</table></div>'


def _value(figure: Figure | None) -> str:
    return "" if figure is None or figure.value is None else number(figure.value)


def _range(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{number(low)} to {number(high)}"


def _effect(told: Difference) -> str:
    if told.effect_size is None:
        return ""
    interval = "" if told.effect_low is None else f" ({told.effect_low:.2f} to {told.effect_high:.2f})"
    return f"{told.effect_size:.2f}{interval}"


def _halved(low: float | None, high: float | None) -> tuple[float | None, float | None]:
    """Two rates that add up to one differ by twice what either is above a half."""
    return (None, None) if low is None or high is None else (0.5 + low / 2, 0.5 + high / 2)
