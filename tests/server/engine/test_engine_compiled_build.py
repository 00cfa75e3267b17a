"""How the compiled functions come to be: compiled once, kept whole, and done without where that cannot be."""

import logging
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from brie_server.engine.torch.compiled import ahead, build
from brie_server.engine.torch.compiled import rows as compiled
from brie_server.engine.torch.scheduler import Limits, Scheduler
from server.engine.asking import drive, make_runner, prompt
from server.engine.tiny_models import CONTEXT_LENGTH, TinyModel, token_ids

COMPILER = shutil.which("c++") or shutil.which("g++") or ""
pytestmark = pytest.mark.skipif(not COMPILER, reason="no compiler here")


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small source in place of the real one, with a folder of its own."""
    build.load_rows()  # the real one is remembered from here on
    path = tmp_path / "package" / "rows.cpp"
    path.parent.mkdir()
    path.write_text('extern "C" int one() { return 1; }')
    monkeypatch.setattr(build, "SOURCE", path)
    monkeypatch.setattr(ahead, "SOURCE", path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return path


def kept(source: Path) -> list[Path]:
    return list((source.parent / "__pycache__").iterdir())


def one(library: object) -> int:
    answer: int = library.one()  # type: ignore[attr-defined]  # a C library's functions
    return answer


def test_what_is_compiled_is_kept_whole_and_alone(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert one(build.load_rows.__wrapped__()) == 1
    (library,) = kept(source)
    monkeypatch.setattr(build, "_room", lambda _: pytest.fail("compiled again"))
    assert one(build.load_rows.__wrapped__()) == 1
    assert kept(source) == [library]


def test_another_source_is_compiled_anew(source: Path) -> None:
    build.load_rows.__wrapped__()
    source.write_text('extern "C" int one() { return 2; }')
    assert one(build.load_rows.__wrapped__()) == 2
    assert len(kept(source)) == 2


@pytest.mark.parametrize("content", [b"", b"\0" * 5000])
def test_a_file_that_was_cut_short_is_compiled_again(source: Path, content: bytes) -> None:
    name = f"rows-{build._key(COMPILER)}.so"
    (source.parent / "__pycache__").mkdir()
    (source.parent / "__pycache__" / name).write_bytes(content)
    assert one(build.load_rows.__wrapped__()) == 1
    assert [each.name for each in kept(source)] == [name]


def test_beside_a_read_only_installation_nothing_stays(source: Path, tmp_path: Path) -> None:
    (source.parent / "__pycache__").write_text("no folder")  # permissions would not stop root
    assert one(build.load_rows.__wrapped__()) == 1
    assert sorted(each.name for each in tmp_path.iterdir()) == ["package"]


def test_where_there_is_no_compiler_what_was_made_ahead_of_this_source_is_taken(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead.main()
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert one(build.load_rows.__wrapped__()) == 1
    monkeypatch.setattr(build, "_cpuinfo", lambda: b"flags : sse2 avx\nFeatures : fp\n")
    assert build.load_rows.__wrapped__() is None


def test_what_was_made_ahead_of_another_source_is_not_taken(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ahead.main()
    source.write_text('extern "C" int one() { return 2; }')
    no_compiler(source, monkeypatch)
    assert build.load_rows.__wrapped__() is None


def test_an_image_in_which_nothing_can_be_made_ahead_is_not_built(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.write_text("int one( {")
    with pytest.raises(SystemExit, match="error: "):
        ahead.main()
    no_compiler(source, monkeypatch)
    with pytest.raises(SystemExit, match=r"no C\+\+ compiler"):
        ahead.main()


def broken_source(source: Path, _monkeypatch: pytest.MonkeyPatch) -> None:
    source.write_text("int one( {")


def broken_compiler(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = source.with_name("c++")
    path.write_text("#!/bin/sh\nprintf '\\377 no licence' >&2\nexit 1\n")
    path.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda _: str(path))


def no_compiler(_source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)


@pytest.mark.parametrize("breaks", [broken_source, broken_compiler, no_compiler])
def test_without_compiled_operations_the_answer_is_the_same(
    breaks: Callable[[Path, pytest.MonkeyPatch], None],
    source: Path,
    tiny_model: TinyModel,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked = [prompt(token_ids(length), 8) for length in (3, 20)]
    limits = Limits(chunk_size=16, smallest_capacity=16)

    def answers() -> list[list[int]]:
        scheduler = Scheduler(limits, token_budget=2048, context_length=CONTEXT_LENGTH)
        return drive(scheduler, make_runner(tiny_model.base), asked)[0]

    expected = answers()
    breaks(source, monkeypatch)
    monkeypatch.setattr(compiled, "load_rows", cache(build.load_rows.__wrapped__))
    with caplog.at_level(logging.WARNING):
        assert [answers(), answers()] == [expected, expected]
    assert [record.name for record in caplog.records] == [build.logger.name]
