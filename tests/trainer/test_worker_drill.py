"""Two workers, and kill -9 of them and of their processes: each job ends once. benchmarks/worker_drill.py does more."""

from pathlib import Path

import pytest

from brie_core.settings import Settings
from worker_drill import Drill, run


@pytest.mark.timeout(400)
async def test_killed_workers_and_processes_lose_no_job_and_end_none_twice(
    database_url: str, tiny_model: Path, tiny_lora: Path, tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path / "home", database_url=database_url)
    drill = Drill(settings, tiny_model, tiny_lora, lease_seconds=3.0)
    found = await run(drill, num_jobs=6, num_kills=5, seconds=300)
    assert found["faults"] == [], (settings.home / "workers.log").read_text()[-4000:]
    assert sum(found["killed"].values()) == 5
    assert found["attempts"] >= 6 + found["killed"].get("child", 0)
