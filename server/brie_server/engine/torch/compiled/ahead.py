"""Compiles `rows.cpp`: for this machine, or ahead for a class of CPUs that have no compiler. It knows no torch.

An image is built with `python ahead.py`, which leaves the result in `ahead/` beside it.
"""

import hashlib
import platform
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("rows.cpp")
FLAGS = (
    "-std=c++17",
    "-O3",
    # nothing here may change a result: sums that may be taken in another order say so in the source
    "-fno-math-errno",
    "-fno-trapping-math",
    # the OpenMP library that is found is the one that torch has loaded: both share its threads
    "-fopenmp",
    "-shared",
    "-fPIC",
)
_CLASSES = {
    "x86_64": ("x86-64-v3", {"abm", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"}),
    "aarch64": ("armv8-a", {"asimd"}),
}
"""By machine: the compiler's name for the class, and what Linux calls its features."""


def compile_rows(compiler: str, architecture: str, to: Path, most_seconds: float | None = None) -> None:
    """Compile into the file `to`; raises OSError, or SubprocessError with what the compiler said."""
    command = [compiler, f"-march={architecture}", *FLAGS, "-o", str(to), str(SOURCE)]
    subprocess.run(command, check=True, capture_output=True, text=True, errors="replace", timeout=most_seconds)


def made_ahead(cpuinfo: str) -> Path | None:
    """The file that was compiled ahead from this very source, if a CPU with this /proc/cpuinfo can run it."""
    found = _CLASSES.get(platform.machine())
    if found is None:
        return None
    architecture, needed = found
    lines = (line.partition(":") for line in cpuinfo.splitlines())
    has = {feature for name, _, value in lines if name.strip() in {"flags", "Features"} for feature in value.split()}
    file = _file(architecture)
    return file if needed <= has and file.is_file() else None


def _file(architecture: str) -> Path:
    """The name holds what it was made from: a file that an older source left behind is not found."""
    made_from = hashlib.sha256(SOURCE.read_bytes() + " ".join(FLAGS).encode()).hexdigest()[:16]
    return SOURCE.parent / "ahead" / f"rows-{architecture}-{made_from}.so"


def main() -> None:
    """Compile for the class of CPUs that this machine belongs to; ends with a line where that cannot be done."""
    compiler = shutil.which("c++") or shutil.which("g++")
    found = _CLASSES.get(platform.machine())
    if compiler is None or found is None:
        sys.exit(f"ahead: no C++ compiler here, or no class of CPUs for {platform.machine()}")
    file = _file(found[0])
    file.parent.mkdir(exist_ok=True)
    try:
        compile_rows(compiler, found[0], file)
    except subprocess.CalledProcessError as error:
        sys.exit(f"ahead: {error.stderr}")


if __name__ == "__main__":
    main()
