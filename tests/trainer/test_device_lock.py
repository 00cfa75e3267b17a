"""An accelerator is one job's at a time, and free only once its last process has ended."""

import subprocess
import sys
from pathlib import Path

import pytest

from brie_trainer.device_lock import DeviceLock, device_name


@pytest.mark.parametrize(
    ("wanted", "platform", "has_nvidia", "name"),
    [
        ("auto", "linux", True, "cuda:0"),
        ("auto", "linux", False, "cpu"),
        ("auto", "darwin", False, "mps"),
        ("cuda", "linux", False, "cuda:0"),
        ("cuda:3", "linux", True, "cuda:3"),
        ("cpu", "linux", True, "cpu"),
    ],
)
def test_a_device_has_one_name(wanted: str, platform: str, has_nvidia: bool, name: str, tmp_path: Path) -> None:
    driver = tmp_path / "nvidiactl"
    if has_nvidia:
        driver.touch()
    assert device_name(wanted, platform, driver) == name


def test_one_of_a_host_has_an_accelerator_and_all_have_the_cpu(tmp_path: Path) -> None:
    first, second = (DeviceLock(tmp_path, "h", "cuda:0") for _ in range(2))
    assert first.take() and first.take() and not second.take()
    assert DeviceLock(tmp_path, "h", "cuda:1").take()
    assert DeviceLock(tmp_path, "../h", "cuda:0").take()
    assert all(DeviceLock(tmp_path, "h", "cpu").take() for _ in range(2))
    first.give_back()
    first.give_back()
    assert second.take()


def test_it_is_free_only_once_the_jobs_process_has_ended(tmp_path: Path) -> None:
    worker, other = (DeviceLock(tmp_path, "h", "cuda:0") for _ in range(2))
    worker.take()
    command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=worker.handles) as process:
        worker.give_back()  # as if it were killed
        assert not other.take()
        process.communicate()
    assert other.take()
