"""An evaluation that is killed, refused, given up or changed under way: it goes on where it was, or says why not."""

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import evaluations
from brie_trainer.evaluation.contract import CRITERIA
from scripted_api import Body, Said, ScriptedApi, chat

PROMPTS = [{"id": f"p{n}", "prompt": f"What is {n}?", "theme": "odd" if n % 2 else "even"} for n in range(8)]
VERDICT = json.dumps(dict.fromkeys([*CRITERIA, "overall"], "A"))


def answer(path: str, body: Body) -> Said:
    """Each model has its own answer to each prompt and seed; judges say A."""
    if body["model"].startswith("judge"):
        return chat(VERDICT, version=None, model=body["model"])
    text = f"{body['model']} says {body['messages'][-1]['content']} " + "so " * (body["seed"] % 7)
    return chat(text, version=f"v-{body['model']}")


def job(url: str, folder: Path, **changes: Any) -> dict[str, Any]:
    """Two candidates, eight prompts, one judge."""
    prompts = folder / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(prompt) + "\n" for prompt in PROMPTS))
    quick = {"base_url": url, "retries": 1}
    whole: dict[str, Any] = {
        "candidates": [{"name": name, "model": name, **quick} for name in ("one", "two")],
        "against": "two",
        "prompts": {"file": str(prompts), "samples": 2},
        "judging": {"judges": [{"name": "judge", "model": "judge", **quick}], "give_up_after": 3},
        "sweep": {"top_p": [0.5, 0.9], "limit": 1},
        "statistics": {"resamples": 100},
    }
    return whole | changes


def questions(api: ScriptedApi) -> list[str]:
    return [json.dumps([path, body], sort_keys=True) for path, body in api.asked]


def test_killed_twice_it_asks_nothing_twice_and_says_the_same(tmp_path: Path) -> None:
    pause = threading.Event()

    def slowly(path: str, body: Body) -> Said:
        pause.wait(0.02)
        return answer(path, body)

    with ScriptedApi(slowly) as api:
        asked_of = job(api.url, tmp_path)
        whole = evaluations.write_job(tmp_path / "whole" / "1", **asked_of)
        assert evaluations.run(whole)[-1]["type"] == "result"
        undisturbed, expected = set(questions(api)), len(api.asked)
        assert len(undisturbed) == expected == 2 * 16 + 2 * 4 + 16
        api.asked.clear()
        for attempt, least in ((1, 12), (2, 40)):
            folder = evaluations.write_job(tmp_path / "killed" / str(attempt), **asked_of)
            child = evaluations.start(folder)
            while len(api.asked) < least:
                time.sleep(0.005)
            os.kill(child.pid, signal.SIGKILL)
            assert evaluations.finish(child) == -signal.SIGKILL
        last = evaluations.write_job(tmp_path / "killed" / "3", **asked_of)
        assert evaluations.finish(evaluations.start(last)) == 0
        assert evaluations.events(last)[-1]["type"] == "result"
        assert set(questions(api)) == undisturbed
        assert len(api.asked) <= expected + 2  # what was in flight at each kill
    for name in ("report.json", "page.html", "card.md", "asked.json", "rows.jsonl"):
        assert (tmp_path / "killed/output" / name).read_bytes() == (tmp_path / "whole/output" / name).read_bytes()


def test_a_torn_row_is_asked_again(tmp_path: Path) -> None:
    with ScriptedApi(answer) as api:
        folder = evaluations.write_job(tmp_path / "1", **job(api.url, tmp_path, judging=None, sweep=None))
        evaluations.run(folder)
        log = tmp_path / "output" / "rows.jsonl"
        before = log.read_bytes()
        log.write_bytes(before[:-20])
        api.asked.clear()
        assert evaluations.run(folder)[-1]["type"] == "result"
        assert len(api.asked) == 1
        assert log.read_bytes() == before


def test_asked_to_stop_it_stops_and_goes_on(tmp_path: Path) -> None:
    held = threading.Event()

    def busy(path: str, body: Body) -> Said:
        return answer(path, body) if held.is_set() else Said({}, 503, {"retry-after": "30"})

    with ScriptedApi(busy) as api:
        folder = evaluations.write_job(tmp_path / "1", **job(api.url, tmp_path, judging=None, sweep=None))
        child = evaluations.start(folder)
        while not api.asked:
            time.sleep(0.01)
        child.terminate()
        assert evaluations.finish(child, 20) == 0
        assert evaluations.events(folder)[-1] == {"type": "stopped"}
        held.set()
        assert evaluations.run(folder)[-1]["type"] == "result"


def test_a_candidate_that_does_not_answer_fails_the_evaluation_and_is_asked_later(tmp_path: Path) -> None:
    down = threading.Event()

    def says(path: str, body: Body) -> Said:
        if down.is_set() and body["model"] == "two":
            return Said({}, 500, {"retry-after": "0"})
        return answer(path, body)

    down.set()
    with ScriptedApi(says) as api:
        folder = evaluations.write_job(tmp_path / "1", **job(api.url, tmp_path, judging=None, sweep=None))
        event = evaluations.run(folder)[-1]
        assert (event["code"], event["param"]) == ("candidate_unavailable", "two")
        assert "status 500" in event["message"]
        down.clear()
        api.asked.clear()
        assert evaluations.run(folder)[-1]["type"] == "result"
        assert len(api.asked) == 16  # those of "one" are there already


def test_a_version_that_changes_in_the_midst_ends_it(tmp_path: Path) -> None:
    def moves(path: str, body: Body) -> Said:
        return chat("so it goes", version="v1" if len(api.asked) < 6 else "v2")

    with ScriptedApi(moves) as api:
        folder = evaluations.write_job(tmp_path / "1", **job(api.url, tmp_path, judging=None, sweep=None))
        event = evaluations.run(folder)[-1]
        assert event["code"] == "version_changed"
        assert "v1" in event["message"]
        assert "v2" in event["message"]
        assert evaluations.run(folder)[-1]["code"] == "version_changed"  # an attempt later, against its rows


def judged_by(api: ScriptedApi, folder: Path, *names: str) -> Path:
    judges = [{"name": name, "model": name, "base_url": api.url, "retries": 1} for name in names]
    asked_of = job(api.url, folder, sweep=None, judging={"judges": judges, "give_up_after": 3})
    return evaluations.write_job(folder / "1", **asked_of)


def test_a_judges_failures_are_counted_and_one_that_only_refuses_is_given_up(tmp_path: Path) -> None:
    calls = 0

    def judged(path: str, body: Body) -> Said:
        nonlocal calls
        if body["model"] == "unable":
            return Said({"error": {"message": "no response_format here"}}, 400)
        if body["model"] != "judge":
            return answer(path, body)
        calls += 1
        match calls % 4:
            case 0:
                return Said({"error": {"code": "content_policy"}}, 400)
            case 1:
                return chat("Response A is clearly better.", version=None)
            case 2:
                return Said({}, 429, {"retry-after": "0"}) if calls < 3 else chat(VERDICT, version=None)
            case _:
                return chat(VERDICT, version=None)

    with ScriptedApi(judged) as api:
        folder = judged_by(api, tmp_path, "judge", "unable")
        events = evaluations.run(folder)
        assert events[-1]["type"] == "result"
        assert any("unable failed 3 times in a row" in event.get("message", "") for event in events)
    (comparison,) = evaluations.report(folder).comparisons
    assert comparison.judging is not None
    told, unable = comparison.judging.judges["judge"], comparison.judging.judges["unable"]
    assert told.counts.model_dump() == {
        "planned": 16,
        "answered": 12,
        "refused": 4,
        "failed": 0,
        "not_asked": 0,
        "retries": 1,
        "reasons": {"status 400: content_policy": 4},
    }
    assert told.unparseable == 5
    assert told.wins + told.losses == 7
    assert (unable.counts.refused, unable.counts.failed, unable.counts.not_asked) == (3, 0, 13)
    assert unable.win_rate.value is None


def test_answers_that_are_the_same_are_ties_of_which_no_judge_is_asked(tmp_path: Path) -> None:
    def says(path: str, body: Body) -> Said:
        return answer(path, body) if body["model"] == "judge" else chat("The very same.")

    with ScriptedApi(says) as api:
        folder = judged_by(api, tmp_path, "judge")
        assert evaluations.run(folder)[-1]["type"] == "result"
        assert not [body for _, body in api.asked if body["model"] == "judge"]
    (comparison,) = evaluations.report(folder).comparisons
    assert comparison.judging is not None
    told = comparison.judging.judges["judge"]
    assert (told.identical, told.counts.answered, told.counts.not_asked, told.win_rate.value) == (16, 0, 0, 0.5)


def test_a_judge_that_is_away_fails_the_evaluation_behind_the_others_and_is_asked_again(tmp_path: Path) -> None:
    is_away = [True]

    def judged(path: str, body: Body) -> Said:
        if body["model"] == "judge-away" and is_away[0]:
            return Said({}, 500, {"retry-after": "0"})
        return answer(path, body)

    with ScriptedApi(judged) as api:
        folder = judged_by(api, tmp_path, "judge-away", "judge")
        event = evaluations.run(folder)[-1]
        assert (event["type"], event["code"], event["param"]) == ("error", "judge_unavailable", "judge-away")
        assert "3 times in a row (status 500)" in event["message"]
        assert sum(body["model"] == "judge" for _, body in api.asked) == 16
        is_away[0] = False
        api.asked.clear()
        assert evaluations.run(folder)[-1]["type"] == "result"
        assert [body["model"] for _, body in api.asked] == ["judge-away"] * 16
    (comparison,) = evaluations.report(folder).comparisons
    assert comparison.judging is not None
    assert comparison.judging.judges["judge-away"].counts.answered == 16
    assert comparison.judging.judges["judge-away"].counts.failed == 0


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_a_server_that_knows_no_such_caller_or_model_fails_the_evaluation(status: int, tmp_path: Path) -> None:
    """And is no candidate that refused every question."""

    def says(path: str, body: Body) -> Said:
        return Said({"error": {"code": "gone"}}, status) if body["model"] == "two" else answer(path, body)

    with ScriptedApi(says) as api:
        folder = evaluations.write_job(tmp_path / "1", **job(api.url, tmp_path, judging=None, sweep=None))
        event = evaluations.run(folder)[-1]
        assert (event["code"], event["param"]) == ("candidate_unavailable", "two")
        assert f"(status {status}: gone; once)" in event["message"]
        assert sum(body["model"] == "two" for _, body in api.asked) == 1


def test_rows_of_another_evaluation_are_refused(tmp_path: Path) -> None:
    with ScriptedApi(answer) as api:
        asked_of = job(api.url, tmp_path, judging=None, sweep=None)
        evaluations.run(evaluations.write_job(tmp_path / "1", **asked_of))
        event = evaluations.run(evaluations.write_job(tmp_path / "2", **(asked_of | {"seed": 1})))[-1]
        assert event["code"] == "evaluation_changed"
        assert "seed" in event["message"]


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"gate": {"perplexity": {"max": 12}}}, "gate.perplexity"),  # which is not measured here
        ({"gate": {}}, "gate"),
        ({"against": "three"}, None),
        ({"prompts": {"file": "/nowhere", "samples": 0}}, "prompts.samples"),
        ({"candidates": []}, "candidates"),
        ({"surprise": 1}, "surprise"),
        ({"prompts": {"themes": ["verse"]}}, "prompts.themes"),
    ],
)
def test_a_job_that_cannot_be_run_says_which_field(changes: dict[str, Any], param: str | None, tmp_path: Path) -> None:
    with ScriptedApi(answer) as api:
        event = evaluations.run(evaluations.write_job(tmp_path / "1", **job(api.url, tmp_path, **changes)))[-1]
        assert not api.asked
    assert event["type"] == "error"
    assert event["param"] == param
