"""A line of numbers drawn in characters. Pure; it knows no job."""

from collections.abc import Sequence


def draw(points: Sequence[tuple[int, float]], *, width: int, height: int) -> str:
    """`points` as (step, value) in ascending steps; steps that share a column are averaged. Axes bear their ends."""
    first, last = points[0][0], points[-1][0]
    columns: dict[int, list[float]] = {}
    for step, value in points:
        columns.setdefault(round((step - first) / max(last - first, 1) * (width - 1)), []).append(value)
    means = {column: sum(values) / len(values) for column, values in columns.items()}
    low, high = min(means.values()), max(means.values())
    rows = {column: round((high - mean) / ((high - low) or 1.0) * (height - 1)) for column, mean in means.items()}
    grid = [["*" if rows.get(column) == row else " " for column in range(width)] for row in range(height)]
    labels = [f"{high:8.4f}", *[" " * 8] * (height - 2), f"{low:8.4f}"]
    lines = [f"{label} |{''.join(row).rstrip()}" for label, row in zip(labels, grid, strict=True)]
    steps = f"step {first}".ljust(width - len(str(last))) + str(last)
    return "\n".join([*lines, f"{'':8} +{'-' * width}", f"{'':10}{steps}"])
