"""A job's folder tells its job, and nothing that is not one."""

import json
from pathlib import Path

import pytest

from brie_core.errors import InvalidRequest, NotFound
from brie_core.store.job_folder import read_job_folder

ID = "ftjob-0mwwjt2rmv8cypsze1gjs2is"


def written(jobs: Path, text: str, name: str = ID) -> None:
    (jobs / name / "attempts" / "2").mkdir(parents=True)
    (jobs / name / "job.json").write_text(text)


def test_a_folder_is_read_with_the_number_of_its_last_attempt(tmp_path: Path) -> None:
    written(tmp_path, json.dumps({"id": ID, "created_at": 7, "spec": {"model": "m"}}))
    found = read_job_folder(tmp_path, ID)
    assert (found.id, found.created_at, found.attempts, found.spec) == (ID, 7, 2, {"model": "m"})


@pytest.mark.parametrize("name", ["ftjob-00000000", "../jobs", f"../{ID}", "ftjob-a/b", "", ".", f"{ID}/attempts"])
def test_what_is_no_job_is_not_found(tmp_path: Path, name: str) -> None:
    written(tmp_path / "jobs", json.dumps({"id": ID, "created_at": 7, "spec": {}}))
    with pytest.raises(NotFound):
        read_job_folder(tmp_path / "jobs", name)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", json.dumps({"id": "ftjob-other000", "created_at": 7, "spec": {}})]
)
def test_a_broken_folder_is_told_as_such(tmp_path: Path, text: str) -> None:
    written(tmp_path, text)
    with pytest.raises(InvalidRequest) as refused:
        read_job_folder(tmp_path, ID)
    assert refused.value.code == "job_folder_broken"
