"""A server that is busy, breaks down, falls silent or talks nonsense: how often it is asked, and what is said of it."""

import math
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from brie_core.errors import BadConfiguration
from brie_trainer.evaluation.asking import Asker, Reply, Stopped, _headers, retry_after
from brie_trainer.evaluation.contract import Endpoint
from brie_trainer.evaluation.material import HeldOutExample
from brie_trainer.evaluation.questions import Question, UnusableAnswer, read_answer, read_loss
from scripted_api import Body, Said, ScriptedApi, chat

QUESTION = Question("chat/completions", {"model": "m"})
BUSY = Said({"error": {"message": "busy"}}, 429, {"retry-after": "0"})
NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


def asked(answers: Sequence[Said | type[ConnectionError]], **options: Any) -> tuple[Reply, int]:
    """What came of a question to a server that says these one after another, and how often it was asked."""
    left: Iterator[Said | type[ConnectionError]] = iter(answers)

    def says(_: str, __: Body) -> Said:
        said = next(left)
        if isinstance(said, Said):
            return said
        raise said

    with ScriptedApi(says) as api:
        endpoint = Endpoint(name="e", base_url=api.url, model="m", **options)
        asker = Asker(endpoint, threading.Event())
        try:
            return asker.ask(QUESTION, read_answer), len(api.asked)
        finally:
            asker.close()


def test_an_answer_is_an_answer() -> None:
    reply, times = asked([chat("so", version="v1")])
    assert (reply.outcome, reply.tries, times) == ("answered", 1, 1)
    assert reply.data == {"text": "so", "finish": "stop", "tokens": 1}
    assert reply.by is not None
    assert (reply.by.version, reply.by.model) == ("v1", "scripted")


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again_as_often_as_was_agreed(status: int) -> None:
    busy = Said({}, status, {"retry-after": "0"})
    reply, times = asked([busy, busy, chat("so")], retries=2)
    assert (reply.outcome, reply.tries, times) == ("answered", 3, 3)
    reply, times = asked([busy] * 3, retries=2)
    assert (reply.outcome, reply.tries, times, reply.reason) == ("failed", 3, 3, f"status {status}")


@pytest.mark.parametrize(
    "garbage",
    [
        Said(b"<html>Bad gateway</html>"),
        Said(b"[" * 100_000),
        Said([]),
        Said({"choices": []}),
        Said({"choices": [{"message": None, "finish_reason": "stop"}]}),
        Said({"choices": [{"message": {"content": 5}, "finish_reason": "stop"}]}),
        Said(b'{"choices": [{"message": {"content": "\\ud83d"}, "finish_reason": "stop"}]}'),
        ConnectionError,
    ],
)
def test_garbage_is_asked_for_again_and_counted(garbage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("brie_trainer.evaluation.asking._FIRST_WAIT", 0.01)
    reply, times = asked([garbage, chat("so")], retries=1)
    assert (reply.outcome, reply.tries, times) == ("answered", 2, 2)
    reply, times = asked([garbage] * 2, retries=1)
    assert (reply.outcome, times) == ("failed", 2)
    assert reply.reason


def test_what_is_refused_is_not_asked_again() -> None:
    reply, times = asked([Said({"error": {"code": "context_length_exceeded", "message": "..."}}, 400)])
    assert (reply.outcome, reply.reason, times) == ("refused", "status 400: context_length_exceeded", 1)


def test_a_silent_server_times_out() -> None:
    silence = threading.Event()

    def says(_: str, __: Body) -> Said:
        silence.wait(5)
        return chat("late")

    with ScriptedApi(says) as api:
        asker = Asker(
            Endpoint(name="e", base_url=api.url, model="m", timeout_seconds=0.2, retries=0), threading.Event()
        )
        reply = asker.ask(QUESTION, read_answer)
        asker.close()
        silence.set()
    assert (reply.outcome, reply.reason) == ("failed", "timeout")


def test_the_named_time_is_waited_for() -> None:
    begun = time.monotonic()
    reply, _ = asked([Said({}, 429, {"retry-after": "1"}), chat("so")], retries=1)
    assert reply.outcome == "answered"
    assert time.monotonic() - begun >= 1.0


class Waits(threading.Event):
    """A stop that never comes, and how long it was waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds.append(timeout)
        return False


def test_without_a_named_time_waits_double_up_to_eight_seconds() -> None:
    waits = Waits()
    with ScriptedApi(lambda _, __: Said({}, 503)) as api:
        asker = Asker(Endpoint(name="e", base_url=api.url, model="m", retries=6), waits)
        assert asker.ask(QUESTION, read_answer).outcome == "failed"
        asker.close()
    assert waits.seconds == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0]


def test_a_time_that_is_too_long_is_given_up() -> None:
    reply, times = asked([Said({}, 429, {"retry-after": "86400"})], retries=5)
    assert (reply.outcome, times) == ("failed", 1)


def test_a_stop_ends_waiting_at_once() -> None:
    stop = threading.Event()
    with ScriptedApi(lambda _, __: Said({}, 503, {"retry-after": "60"})) as api:
        asker = Asker(Endpoint(name="e", base_url=api.url, model="m"), stop)
        threading.Timer(0.2, stop.set).start()
        begun = time.monotonic()
        with pytest.raises(Stopped):
            asker.ask(QUESTION, read_answer)
        asker.close()
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "3"}, 3.0),
        ({"retry-after-ms": "250", "retry-after": "3"}, 0.25),
        ({"retry-after": "Thu, 26 Nov 2026 12:00:07 GMT"}, 7.0),
        ({"retry-after": "Thu, 26 Nov 2026 11:00:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({}, None),
    ],
)
def test_the_time_that_a_server_names(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, NOW) == seconds


def test_the_key_comes_from_the_environment_and_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = Endpoint(name="e", base_url="http://127.0.0.1:1/v1", model="m", key_env="BRIE_EVALUATION_KEY_TEST")
    with pytest.raises(BadConfiguration, match="BRIE_EVALUATION_KEY_TEST"):
        Asker(endpoint, threading.Event())
    monkeypatch.setenv("BRIE_EVALUATION_KEY_TEST", "secret")
    assert _headers(endpoint) == {"authorization": "Bearer secret"}
    assert _headers(endpoint.model_copy(update={"key_env": None})) == {}
    with pytest.raises(ValueError, match="key_env"):
        Endpoint(name="e", base_url="http://127.0.0.1:1/v1", model="m", key_env="AWS_SECRET_ACCESS_KEY")


def test_a_server_that_tells_no_prompt_logprobs_refuses() -> None:
    example = HeldOutExample(id="1", cluster="c", input_ids=[1, 2], labels=[-100, 2], num_bytes=1)
    with ScriptedApi(lambda _, __: Said({"choices": [{"text": "x"}]})) as api:
        asker = Asker(Endpoint(name="e", base_url=api.url, model="m"), threading.Event())
        reply = asker.ask(Question("completions", {}), lambda answer: read_loss(answer, example))
        asker.close()
    assert (reply.outcome, reply.tries) == ("refused", 1)
    assert "logprobs" in (reply.reason or "")


def test_only_labelled_tokens_are_scored() -> None:
    example = HeldOutExample(id="1", cluster="c", input_ids=[5, 6, 7, 8], labels=[-100, -100, 7, 8], num_bytes=3)
    told = [None, *({str(t): {"logprob": -float(t), "rank": r}} for t, r in ((6, 1), (7, 1), (8, 2)))]
    read = read_loss({"choices": [{"prompt_logprobs": told}]}, example)
    assert read == {"nll": 15.0, "tokens": 2, "correct": 1, "bytes": 3}


@pytest.mark.parametrize("logprob", [math.nan, math.inf, None, "-1"])
def test_a_logprob_that_is_no_number_is_no_answer(logprob: Any) -> None:
    example = HeldOutExample(id="1", cluster="c", input_ids=[5, 6], labels=[-100, 6], num_bytes=3)
    told = {"choices": [{"prompt_logprobs": [None, {"6": {"logprob": logprob, "rank": 1}}]}]}
    with pytest.raises(UnusableAnswer):
        read_loss(told, example)
