"""Sleep between steps, and staying awake on a Mac; test_plan.py holds what a step itself notices."""

import os
import subprocess
import sys
import time
from typing import Any

import pytest

from brie_trainer.training.wakefulness import Wakefulness, boot_time, keep_awake


def test_sleep_between_two_steps_is_told_of_once_by_the_next() -> None:
    now = [0.0, 1000.0]
    watch = Wakefulness(awake=lambda: now[0], all_time=lambda: now[1])
    told = []
    for slept_before in (0.0, 0.0, 600.0, 0.0):
        now[1] += slept_before  # in a validation, say
        watch.begin()
        now[0] += 2.0
        now[1] += 2.0
        told.append(watch.end())
    assert [seconds for seconds, _ in told] == [2.0] * 4
    assert [words is not None for _, words in told] == [False, False, True, False]
    assert "slept for 600 seconds" in (told[2][1] or "")


def test_clocks_of_this_machine_agree_while_it_is_awake() -> None:
    watch = Wakefulness()
    watch.begin()
    time.sleep(0.05)
    seconds, words = watch.end()
    assert 0.05 <= seconds < 5 and words is None


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's clock")
def test_nobody_can_set_the_clock_that_tells_of_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    before = boot_time()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert before <= boot_time() < before + 60


def test_a_mac_stays_awake_for_as_long_as_the_process_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(subprocess, "Popen", started.append)
    keep_awake()
    assert (started == []) == (sys.platform != "darwin")
    monkeypatch.setattr(sys, "platform", "darwin")
    keep_awake()
    assert started[-1] == ["/usr/bin/caffeinate", "-i", "-w", str(os.getpid())]


def test_a_mac_without_caffeinate_trains_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(command: Any) -> None:
        raise FileNotFoundError(command[0])

    monkeypatch.setattr(subprocess, "Popen", missing)
    monkeypatch.setattr(sys, "platform", "darwin")
    keep_awake()
