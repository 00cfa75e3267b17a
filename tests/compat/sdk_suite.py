"""Runs openai-python's own tests against a Brie that has what they name, and tells what passes and why others do not.

    python tests/compat/sdk_suite.py CHECKOUT

CHECKOUT is one of https://github.com/openai/openai-python. Only its tests are used, with the installed SDK; none of it
is part of Brie. Tests over aiohttp are left out: it is another transport of the client, and an extra.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

import httpx2

TESTS = Path(__file__).parent.parent
sys.path.insert(0, str(TESTS))

from brie_core.settings import Settings  # noqa: E402  # tests are no package: their folder is put on the path above
from brie_core.weights.resolve import resolve_base_model  # noqa: E402
from brie_processes import BrieProcesses  # noqa: E402
from compat.sdk_seeds import BASE  # noqa: E402
from tiny_models import write_lora, write_tiny_llama  # noqa: E402

SUITES = (
    *("chat", "test_completions.py", "test_models.py", "test_files.py", "fine_tuning"),
    *("test_embeddings.py", "test_responses.py", "responses"),
)
ROW = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
CONFIGURATION = "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = session\n"


def main() -> None:
    """Serve, seed, run, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    checkout = parser.parse_args().checkout.resolve()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        served = resolve_base_model(Settings(home=folder / "default")).folder
        model = write_tiny_llama(folder / BASE, served)
        brie = BrieProcesses(folder / "home", model).start("brie_server")
        try:
            make_originals(brie, write_lora(brie.home / "lora", model))
            run_suite(checkout, brie, folder)
        finally:
            brie.stop_all()
        tell(list(results_of(folder / "results.xml")))


def make_originals(brie: BrieProcesses, lora: Path) -> None:
    """A file, a job, an adapter and a response, which the seeds are copies of."""
    root = f"{brie.url}/v1"
    sent = httpx2.post(f"{root}/files", data={"purpose": "fine-tune"}, files={"file": ("rows.jsonl", ROW)}).json()
    made = [
        httpx2.post(f"{root}/fine_tuning/jobs", json={"model": BASE, "training_file": sent["id"]}),
        httpx2.post(f"{root}/load_lora_adapter", json={"lora_name": "original", "lora_path": str(lora)}),
        httpx2.post(f"{root}/responses", json={"model": BASE, "input": "a", "max_output_tokens": 4}),
    ]
    for answer in made:
        answer.raise_for_status()


def run_suite(checkout: Path, brie: BrieProcesses, folder: Path) -> None:
    """Their tests in a process of their own, without their configuration, which is for their mock."""
    configuration = folder / "pytest.ini"
    configuration.write_text(CONFIGURATION)
    command = [sys.executable, "-m", "pytest", "-q", "-c", str(configuration), "--rootdir", str(checkout)]
    command += ["-p", "compat.sdk_seeds", "-p", "no:schemathesis", "-k", "not aiohttp", "--tb=line", "--timeout=120"]
    command += ["--junitxml", str(folder / "results.xml")]
    command += [str(checkout / "tests" / "api_resources" / suite) for suite in SUITES]
    path = os.pathsep.join([str(checkout), str(TESTS), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "TEST_API_BASE_URL": f"{brie.url}/v1", "BRIE_HOME": str(brie.home), "PYTHONPATH": path}
    subprocess.run(command, cwd=checkout, env=environment, check=False, stdout=subprocess.DEVNULL)


Result = tuple[str, str, str]
"""File, test, and why it failed; empty where it passed."""


def results_of(report: Path) -> Iterable[Result]:
    """From pytest's report."""
    for case in ElementTree.parse(report).iter("testcase"):
        file = re.sub(r"^tests\.api_resources\.|\.Test\w+$", "", case.get("classname", ""))
        faults = [each for each in case if each.tag in {"failure", "error"}]
        if any(each.tag == "skipped" for each in case):
            continue
        yield file, case.get("name", ""), faults[0].get("message", "")[:300] if faults else ""


def _outcome(why: str) -> str:
    """The framework names the route that it does not have."""
    if not why:
        return "passed"
    return "unrouted" if re.search(r"- [A-Z]+ /v1/\S+: (Not Found|Method Not Allowed)", why) else "refused"


def tell(results: list[Result]) -> None:
    """A table of files, and the tests that fail by their reason."""
    print("| file | tests | passed | no such operation | refused |\n|---|---|---|---|---|")
    for name in [*dict.fromkeys(file for file, _, _ in results), "all"]:
        told = Counter(_outcome(why) for file, _, why in results if name in (file, "all"))
        print(f"| {name} | {told.total()} | {told['passed']} | {told['unrouted']} | {told['refused']} |")
    print()
    reasons: dict[str, list[str]] = defaultdict(list)
    for file, test, why in results:
        if why:
            reasons[why].append(f"{file}::{test}")
    for why, tests in sorted(reasons.items(), key=lambda each: -len(each[1])):
        print(f"{len(tests)} x {why}")
        print("".join(f"    {name}\n" for name in sorted({re.sub(r"\[.*", "", test) for test in tests})), end="")


if __name__ == "__main__":
    main()
