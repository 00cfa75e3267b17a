"""Node's clients, unmodified, against a running Brie: each case of compat/node/*.test.mjs is a test here.

node is asked once for all cases of a file; what it told of each is looked up by name. The packages are installed once
for each lock file, outside the repository.
"""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from brie_processes import BrieProcesses

NODE = Path(__file__).parent / "node"
CACHE = Path.home() / ".cache" / "brie-tests"
SUITES = sorted(path.name for path in NODE.glob("*.test.mjs"))
NODE_SECONDS = 150
MISSING = "node (18 or newer) and npm run these tests; .ci/run installs them: apt-get install nodejs npm"


def cases_of(suite: str) -> list[str]:
    return re.findall(r"^test\('(.+?)', ", (NODE / suite).read_text(), re.MULTILINE)


@dataclass(frozen=True)
class Report:
    """What node told of a file: for each of its cases in order, whether it passed and what was said."""

    cases: dict[str, tuple[bool, str]]
    whole: str


def read_tap(told: str) -> dict[str, tuple[bool, str]]:
    """The cases of one flat TAP stream; what was skipped or is to do has not passed."""
    pattern = re.compile(r"^(not )?ok \d+ - (.*?)( # (?:SKIP|TODO).*)?\n((?:[ ]{2}.*\n|\n)*)", re.MULTILINE)
    return {found[2]: (not found[1] and not found[3], found[4]) for found in pattern.finditer(told)}


@pytest.fixture(scope="session")
def packages() -> Path:
    """The folder with node_modules as the lock file has it, installed now or earlier."""
    assert shutil.which("node"), MISSING
    assert shutil.which("npm"), MISSING
    digest = hashlib.sha256((NODE / "package-lock.json").read_bytes()).hexdigest()[:16]
    kept = CACHE / f"node-{digest}"
    if not kept.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as name:
            made = Path(name) / "made"
            made.mkdir()
            for file in ("package.json", "package-lock.json"):
                shutil.copyfile(NODE / file, made / file)
            command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            installed = subprocess.run(command, cwd=made, capture_output=True, text=True, check=False)
            assert installed.returncode == 0, installed.stderr
            if not kept.exists():  # another run of the tests may have been faster
                made.rename(kept)
    return kept


@pytest.fixture(scope="module")
def report(
    packages: Path, brie: BrieProcesses, scripted_url: str, narrow_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Report]:
    """Run a file, once, beside the packages."""
    folder, told = tmp_path_factory.mktemp("node"), dict[str, Report]()
    for file in NODE.glob("*.mjs"):
        shutil.copyfile(file, folder / file.name)
    (folder / "node_modules").symlink_to(packages / "node_modules")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "BRIE_"))}
    environment |= {"BRIE_URL": brie.url, "BRIE_SCRIPTED_URL": scripted_url, "BRIE_NARROW_URL": narrow_url}

    def run(suite: str) -> Report:
        if suite not in told:
            told[suite] = run_node(folder, suite, environment)
        return told[suite]

    return run


def run_node(folder: Path, suite: str, environment: dict[str, str]) -> Report:
    command = ["node", "--test-reporter=tap", suite]
    with (folder / f"{suite}.log").open("w+") as log:  # a file, so that what was told is there if it does not end
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            process.wait(NODE_SECONDS)
        except subprocess.TimeoutExpired:
            log.write(f"\nnode did not end within {NODE_SECONDS} seconds\n")
        finally:
            process.kill()
            process.wait()
        log.seek(0)
        whole = log.read()
    return Report(read_tap(whole), whole)


@pytest.mark.parametrize("suite", SUITES)
def test_every_case_of_a_file_is_told_by_name(suite: str, report: Callable[[str], Report]) -> None:
    told = report(suite)
    assert list(told.cases) == cases_of(suite), told.whole
    assert len(told.cases) > 0


@pytest.mark.parametrize(("suite", "case"), [(suite, case) for suite in SUITES for case in cases_of(suite)])
def test_node(suite: str, case: str, report: Callable[[str], Report]) -> None:
    told = report(suite)
    passed, said = told.cases.get(case, (False, told.whole))
    assert passed, said


def test_tap_is_read_as_node_writes_it() -> None:
    told = "TAP version 13\n# Subtest: a\nok 1 - a\n  ---\n  duration_ms: 2\n  ...\n# Subtest: b\nnot ok 2 - b\n  ---\n"
    told += "  error: |-\n    1 !== 2\n\n  ...\nok 3 - c # SKIP\n  ---\n  ...\n1..3\n"
    assert {name: passed for name, (passed, _) in read_tap(told).items()} == {"a": True, "b": False, "c": False}
    assert "1 !== 2" in read_tap(told)["b"][1]
