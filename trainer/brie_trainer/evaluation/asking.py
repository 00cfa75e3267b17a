"""Asks an OpenAI-compatible server, as often as its manners allow. It knows HTTP, not what is asked.

A server that is busy, breaks down, does not answer in time or answers what is no JSON is asked again, a bounded number
of times, after the time that it names by Retry-After or else after a doubling one. What it refuses is not asked again.
One that knows no such caller or model says nothing of the question: that is a failure, and no refusal.
"""

import json
import math
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

from brie_core.errors import BadConfiguration
from brie_trainer.evaluation.contract import Endpoint
from brie_trainer.evaluation.questions import NotTold, Question, UnusableAnswer
from brie_trainer.evaluation.rows import Answered

Read = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""From an answer's body to what is kept of it; raises UnusableAnswer or NotTold."""

_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_OF_THE_CALLER = frozenset({401, 402, 403, 404})
"""No valid key, no credit, no such model: the same for every question, until somebody sees to it."""
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 8.0
MOST_WAIT = 120.0
"""Seconds: a server that names a longer time is not waited for."""


class Stopped(Exception):
    """The process is to end: nothing came of the question, and it is to be asked another time."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of a question in the end."""

    outcome: str
    """answered, refused or failed."""
    tries: int
    data: Mapping[str, Any]
    by: Answered | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class _Again:
    """A try that another may do better than."""

    reason: str
    after: float | None = None


class Asker:
    """One model's door. Threads may share it."""

    def __init__(self, endpoint: Endpoint, stop: threading.Event) -> None:
        """Raises BadConfiguration if the key's variable is not set. `stop` ends all waiting."""
        self._endpoint = endpoint
        self._stop = stop
        self._client = httpx2.Client(
            headers=_headers(endpoint), timeout=httpx2.Timeout(endpoint.timeout_seconds, connect=10.0), trust_env=False
        )

    def close(self) -> None:
        """Let the connections go."""
        self._client.close()

    def ask(self, question: Question, read: Read) -> Reply:
        """Until it is answered or refused, or has been tried often enough; raises Stopped."""
        tries, wait = 0, _FIRST_WAIT
        while True:
            tries += 1
            found = self._try(question, read, tries)
            if isinstance(found, Reply):
                return found
            after = wait if found.after is None else found.after
            if tries > self._endpoint.retries or after > MOST_WAIT:
                return Reply("failed", tries, {}, reason=found.reason)
            if self._stop.wait(after):
                raise Stopped
            wait = min(wait * 2, _LONGEST_WAIT)

    def tokens_of(self, messages: list[dict[str, str]]) -> list[int] | None:
        """What the server makes of a conversation that awaits an answer; None if it has no /tokenize beside /v1."""
        root = self._endpoint.base_url.rstrip("/").removesuffix("/v1")
        body = {"model": self._endpoint.model, "messages": messages}
        try:
            answer = self._client.post(f"{root}/tokenize", json=body)
            tokens = answer.json().get("tokens") if answer.status_code == 200 else None
        except (httpx2.HTTPError, ValueError, AttributeError):
            return None
        return tokens if isinstance(tokens, list) else None

    def _try(self, question: Question, read: Read, tries: int) -> Reply | _Again:
        if self._stop.is_set():
            raise Stopped
        url = f"{self._endpoint.base_url.rstrip('/')}/{question.path}"
        try:
            answer = self._client.post(url, json=question.body)
        except httpx2.TimeoutException:
            return _Again("timeout")
        except httpx2.HTTPError as error:
            return _Again(f"connection: {type(error).__name__}")
        if answer.status_code in _AGAIN:
            return _Again(f"status {answer.status_code}", retry_after(answer.headers, datetime.now(UTC)))
        if answer.status_code != 200:
            outcome = "failed" if answer.status_code in _OF_THE_CALLER else "refused"
            return Reply(outcome, tries, {}, reason=_refusal(answer))
        return _read(answer, read, tries)


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds to wait by OpenAI's `retry-after-ms` or HTTP's Retry-After, in seconds or as a date; None if neither is
    one."""
    if (milliseconds := _seconds(headers.get("retry-after-ms"))) is not None:
        return milliseconds / 1000
    named = headers.get("retry-after")
    if named is None or (seconds := _seconds(named)) is not None:
        return None if named is None else seconds
    try:
        moment = parsedate_to_datetime(named)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())


def _read(answer: httpx2.Response, read: Read, tries: int) -> Reply | _Again:
    try:
        body = json.loads(answer.content)
        if not isinstance(body, Mapping):
            raise UnusableAnswer("the answer is no JSON object")
        reply = Reply("answered", tries, read(body), by=_who(answer.headers, body))
        if not _is_unicode(reply):
            raise UnusableAnswer("the answer has half a character (a lone surrogate)")
        return reply
    except NotTold as error:
        return Reply("refused", tries, {}, reason=str(error))
    except UnusableAnswer as error:
        return _Again(str(error))
    except (ValueError, RecursionError):
        return _Again("the answer is no JSON")


def _is_unicode(reply: Reply) -> bool:
    """Whether it can be written down: JSON may spell halves of characters that no UTF-8 has."""
    try:
        json.dumps([reply.data, reply.by and (reply.by.fingerprint, reply.by.model)], ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _who(headers: Mapping[str, str], body: Mapping[str, Any]) -> Answered:
    fingerprint, model = body.get("system_fingerprint"), body.get("model")
    return Answered(
        version=headers.get("brie-adapter-version"),
        fingerprint=fingerprint if isinstance(fingerprint, str) else None,
        model=model if isinstance(model, str) else None,
    )


def _headers(endpoint: Endpoint) -> dict[str, str]:
    if endpoint.key_env is None:
        return {}
    if not (key := os.environ.get(endpoint.key_env)):
        raise BadConfiguration(
            f"The key of {endpoint.name!r} is to be in {endpoint.key_env}, which is not set where Brie's worker runs.",
            param="key_env",
            code="evaluation_key_missing",
        )
    return {"authorization": f"Bearer {key}"}


def _refusal(answer: httpx2.Response) -> str:
    """The server's own words, as far as they are in OpenAI's envelope."""
    try:
        error = answer.json()["error"]
        told = error.get("code") or error.get("message")
    except (ValueError, KeyError, TypeError, AttributeError):
        told = None
    words = str(told)[:200].encode(errors="replace").decode()
    return f"status {answer.status_code}" + (f": {words}" if told else "")


def _seconds(text: str | None) -> float | None:
    try:
        seconds = float(text or "")
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
