"""The house's own rules, held against the tree."""

import ast
import re
from pathlib import Path

import pytest

import brie_core

ROOT = Path(__file__).parent.parent
PACKAGES = ("core", "server", "trainer", "convert", "clients", "benchmarks")
SOURCES = sorted(path for folder in PACKAGES for path in (ROOT / folder).rglob("*.py"))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_module_says_what_it_is_and_can_be_seen_whole(path: Path) -> None:
    source = path.read_text()
    tree = ast.parse(source)
    assert ast.get_docstring(tree), "no docstring"
    assert source.count("\n") <= 400
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno <= 60, node.name


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_no_file_is_named_for_being_useful(path: Path) -> None:
    assert not re.search(r"util|helper|manager|common_|misc", path.stem)


def test_the_changelog_begins_with_this_version() -> None:
    found = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert found is not None
    assert found[1] == brie_core.__version__


def test_every_dependency_is_pinned() -> None:
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    assert pins
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==\S+", pin) for pin in pins)
    assert "torch==2.13.0" in pins
