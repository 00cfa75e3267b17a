"""Sends a run's metrics where its owner follows runs: TensorBoard, Weights & Biases, trackio. It knows no loop.

Through accelerate's trackers. What cannot be opened stops a run before its first step; behind that a tracker that
fails is told of once and let go, for a run is worth more than its pictures. `brie.report_to` and OpenAI's
`integrations` say which; TensorBoard's files lie in `tensorboard` in the folder that is given.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from brie_core.errors import InvalidRequest

_PROJECT = "brie"


class Tracker(Protocol):
    """What of accelerate's trackers is used."""

    def start(self) -> None:
        """Open the run."""

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Hyperparameters; text and numbers only."""

    def log(self, values: dict[str, Any], step: int | None = None) -> None:
        """Metrics of a step."""

    def finish(self) -> None:
        """Close the run."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One tracker that a job asks for."""

    name: str
    param: str
    """The field of the job that asks."""
    project: str = _PROJECT
    run: str | None = None
    """What the run is called there; None for the job's own id."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """What else its `init` is told."""


def asked_for(spec: Mapping[str, Any]) -> list[Asked]:
    """Each tracker once; an integration says more than `report_to`, so it goes first."""
    found = [_integration(each["wandb"]) for each in spec.get("integrations") or () if each["type"] == "wandb"]
    named = [Asked(name, "brie.report_to") for name in spec["brie"].get("report_to") or ()]
    return list({asked.name: asked for asked in reversed([*found, *named])}.values())[::-1]


@dataclass(slots=True)
class Trackers:
    """The open trackers of a run; none is fine."""

    warn: Callable[[str], None] = lambda _: None
    """Told once of each tracker that fails."""
    running: dict[str, Tracker] = field(default_factory=dict)

    @classmethod
    def open(  # noqa: PLR0913  # all that a run is known by
        cls,
        spec: Mapping[str, Any],
        folder: Path,
        hyperparameters: Mapping[str, Any],
        *,
        run: str,
        warn: Callable[[str], None],
        step: int = 0,
    ) -> "Trackers":
        """Open what `spec` asks for; only in the process that speaks, and after `Processes.join`.

        `run` is the run's name and, where the tracker can go on with one, its identity: the same in all attempts.
        Raises InvalidRequest if one cannot be had, or, with `step` > 0, lets a run that is half done go on without.
        """
        trackers = cls(warn)
        for asked in asked_for(spec):
            try:
                trackers.running[asked.name] = _opened(asked, folder, run, step, _plain(hyperparameters))
            except InvalidRequest as error:
                if not step:
                    trackers.close()
                    raise
                warn(f"The run goes on, and {asked.name} is told nothing more: {error.message}")
        return trackers

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Send the numbers among `metrics`; never raises."""
        numbers = {name: value for name, value in metrics.items() if _is_number(name, value)}
        for name, tracker in list(self.running.items()):
            self._attempt(name, partial(tracker.log, numbers, step=step))

    def close(self) -> None:
        """Let them write what they hold; never raises."""
        for name, tracker in list(self.running.items()):
            self._attempt(name, tracker.finish)
        self.running.clear()

    def _attempt(self, name: str, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # noqa: BLE001  # a tracker's client may raise anything
            self.running.pop(name, None)
            self.warn(f"{name} failed and is told nothing more: {type(error).__name__}: {error}")


def _integration(given: Mapping[str, Any]) -> Asked:
    names = {"entity": given.get("entity"), "tags": given.get("tags")}
    more = {name: value for name, value in names.items() if value}
    return Asked("wandb", "integrations", given["project"], given.get("name"), more)


def _opened(asked: Asked, folder: Path, run: str, step: int, settings: dict[str, Any]) -> Tracker:
    if find_spec(asked.name) is None:
        raise InvalidRequest(
            f"{asked.name} was asked for, but is not installed where Brie trains: pip install {asked.name}",
            param=asked.param,
            code="missing_tracker",
        )
    try:
        tracker = _built(asked, folder, run, step)
        tracker.start()
        if not step:
            tracker.store_init_configuration(settings)
    except Exception as error:  # a tracker's client may raise anything
        words = f"{asked.name} cannot be told of this run: {type(error).__name__}: {error}"
        raise InvalidRequest(words, param=asked.param, code="tracker_failed") from error
    return tracker


def _built(asked: Asked, folder: Path, run: str, step: int) -> Tracker:
    from accelerate import tracking

    called = asked.run or run
    tracker: Tracker
    match asked.name:
        case "tensorboard":  # what a killed attempt told of later steps is not shown
            tracker = tracking.TensorBoardTracker("tensorboard", folder, purge_step=step + 1 if step else 0)
        case "wandb":
            again = {"name": called, "id": run, "resume": "allow", "dir": str(folder)}
            tracker = tracking.WandBTracker(asked.project, **again, **asked.more)
        case _:
            tracker = tracking.TrackioTracker(asked.project, name=called, resume="allow")
    return tracker


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """TensorBoard takes no lists and no None."""
    listed = {name: ", ".join(map(str, v)) if isinstance(v, list | tuple) else v for name, v in values.items()}
    return {name: value for name, value in listed.items() if isinstance(value, str | int | float)}


def _is_number(name: str, value: Any) -> bool:
    return name not in {"step", "total_steps"} and isinstance(value, int | float)
