"""Curves in characters."""

from brie_cli.curve import draw


def test_a_falling_line_falls_from_the_first_corner_to_the_last() -> None:
    lines = draw([(step, 10.0 - step) for step in range(10)], width=10, height=10).splitlines()
    assert [line.index("*") - 10 for line in lines[:10]] == list(range(10))
    assert lines[0].startswith(" 10.0000") and lines[9].startswith("  1.0000")
    assert lines[-1].split() == ["step", "0", "9"]


def test_one_point_and_a_flat_line_are_drawn() -> None:
    assert draw([(5, 1.0)], width=10, height=3).count("*") == 1
    assert draw([(1, 2.0), (2, 2.0)], width=10, height=3).splitlines()[0].count("*") == 2
