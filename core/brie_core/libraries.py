"""What third-party libraries must be told by environment before they are imported. It imports none of them."""

import sys
from collections.abc import MutableMapping


def prepare_libraries(environment: MutableMapping[str, str], platform: str = sys.platform) -> None:
    """Set what a Brie process needs in its environment; call first thing in a process's main.

    Telemetry is off. On macOS downloads go without Xet, which stalls there. Torch's OpenMP threads sleep instead of
    spinning while they wait: API and training share the cores, and two spinning pools slow each other a hundredfold
    (docs/log.md, 2026-11-23).
    """
    environment["HF_HUB_DISABLE_TELEMETRY"] = "1"
    environment["DO_NOT_TRACK"] = "1"
    environment.setdefault("TOKENIZERS_PARALLELISM", "false")
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if platform == "darwin":
        environment["HF_HUB_DISABLE_XET"] = "1"
