"""What rows of training data are once they are read, whatever form they came in. It knows no file and no token."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from brie_core.text.chat_template import Message, Tool
from brie_core.text.messages import template_message

FileParam = Literal["training_file", "validation_file"]
FILE_PARAMS: tuple[FileParam, ...] = ("training_file", "validation_file")

Method = Literal["supervised", "dpo", "kto"]
METHODS: tuple[Method, ...] = ("supervised", "dpo", "kto")


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation."""

    role: str
    content: str
    trained: bool
    """Whether the loss counts its tokens; only ever true of the assistant's."""
    calls: Sequence[Mapping[str, Any]] = ()
    """The functions it calls, each as a template is given it."""
    call_id: str | None = None
    """The call that a tool's result answers."""
    called: str | None = None
    """The function that gave the result."""

    def as_message(self) -> Message:
        """As a chat template reads it."""
        return template_message(self.role, self.content, calls=self.calls, call_id=self.call_id, called=self.called)


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns that end with the assistant's, as /v1/chat/completions would hold them."""

    turns: Sequence[Turn]
    tools: Sequence[Tool] | None = None
    """The functions that the assistant may call; None where there are none."""


@dataclass(frozen=True, slots=True)
class Completion:
    """A text and how it goes on, as /v1/completions would answer it: no template comes between."""

    prompt: str
    text: str


Learnable = Conversation | Completion
"""What a model may be taught to say."""


@dataclass(frozen=True, slots=True)
class Preference:
    """Two answers to one prompt; of both, only the answer is trained."""

    chosen: Learnable
    rejected: Learnable


@dataclass(frozen=True, slots=True)
class Rating:
    """One answer, which is wanted or is not; only the last answer is trained."""

    answered: Learnable
    desirable: bool


Row = Learnable | Preference | Rating
