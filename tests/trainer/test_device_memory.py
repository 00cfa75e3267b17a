"""What a container leaves: limits of the process's own group and of every group above it, v1 and v2."""

from pathlib import Path

import pytest

from brie_trainer.training import device_memory
from brie_trainer.training.device_memory import container_limits, free_memory

MIB = 2**20
UNLIMITED = 9223372036854771712


def group(folder: Path, limit: str, usage: int, stat: str = "", *, v1: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ("memory.limit_in_bytes" if v1 else "memory.max")).write_text(f"{limit}\n")
    (folder / ("memory.usage_in_bytes" if v1 else "memory.current")).write_text(f"{usage}\n")
    (folder / "memory.stat").write_text(stat)


def test_the_limit_of_the_processs_own_group_counts(tmp_path: Path) -> None:
    group(tmp_path / "user.slice" / "run-7.scope", str(600 * MIB), 100 * MIB)
    assert list(container_limits(tmp_path, "0::/user.slice/run-7.scope\n")) == [500 * MIB]


def test_a_limit_further_up_counts_too_and_max_is_none(tmp_path: Path) -> None:
    group(tmp_path / "pod" / "box", "max", 100 * MIB)
    group(tmp_path / "pod", str(300 * MIB), 120 * MIB)
    assert list(container_limits(tmp_path, "0::/pod/box\n")) == [180 * MIB]


def test_what_files_hold_that_can_be_dropped_is_not_in_use(tmp_path: Path) -> None:
    group(tmp_path, str(600 * MIB), 500 * MIB, f"anon 1\ninactive_file {300 * MIB}\n")
    assert list(container_limits(tmp_path, "0::/\n")) == [400 * MIB]


def test_version_1_has_a_tree_of_its_own(tmp_path: Path) -> None:
    group(tmp_path / "memory", str(UNLIMITED), 900 * MIB, v1=True)
    stat = f"inactive_file {5 * MIB}\ntotal_inactive_file {50 * MIB}\n"
    group(tmp_path / "memory" / "job", str(400 * MIB), 200 * MIB, stat, v1=True)
    found = list(container_limits(tmp_path, "9:name=systemd:/\n4:cpu,memory:/job\n0::/\n"))
    assert min(found) == 250 * MIB


def test_inside_a_container_whose_group_is_the_root_that_it_sees(tmp_path: Path) -> None:
    """Docker with version 1 tells the host's path, and mounts the group itself as the root."""
    group(tmp_path / "memory", str(400 * MIB), 100 * MIB, v1=True)
    assert list(container_limits(tmp_path, "4:memory:/docker/abc\n")) == [300 * MIB]


def test_a_machine_without_groups_has_no_limit(tmp_path: Path) -> None:
    assert list(container_limits(tmp_path, "")) == []


def test_processes_of_one_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_memory, "_machine", lambda: 800 * MIB)
    monkeypatch.setattr(device_memory, "container_limits", lambda *_: [600 * MIB])
    assert free_memory("cpu") == 600 * MIB
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert free_memory("cpu") == 300 * MIB
