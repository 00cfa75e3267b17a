"""The Modelfile by which Ollama takes an exported file. It knows a chat template by what it renders, not by its source.

Ollama's templates are Go's, and no Jinja becomes one in general. So the template is written only where a few pieces of
text around each message say the same as the model's own on every conversation tried; else Ollama is left to the
template inside the file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from brie_convert.manifest import Sources
from brie_core.errors import InvalidRequest
from brie_core.text.chat_template import ChatTemplate
from brie_core.text.tokenizer import Tokenizer

MODELFILE = "Modelfile"
_SYSTEM, _USER, _ANSWER, _NEXT = "4f1c-system", "4f1c-user", "4f1c-answer", "4f1c-next"

Message = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Turns:
    """What a chat template writes around messages."""

    before: Mapping[str, str]
    """By role."""
    after: Mapping[str, str]
    opening: str
    """Where the answer begins."""
    system: str | None
    """What it says as the system where a conversation does not."""

    def rendered(self, messages: Sequence[Message]) -> str:
        """A conversation as Ollama would make it of `go_template` and SYSTEM."""
        if self.system is not None and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self.system}, *messages]
        parts = (self.before[m["role"]] + m["content"] + self.after[m["role"]] for m in messages)
        return "".join(parts) + self.opening

    def go_template(self) -> str:
        """The same in Go's words."""
        branches = (f'if eq .Role "{role}" }}}}{self._around(role)}' for role in self.before)
        return "{{- range .Messages }}{{ " + "{{ else ".join(branches) + "{{ end }}{{ end }}" + self.opening

    def _around(self, role: str) -> str:
        return f"{self.before[role]}{{{{ .Content }}}}{self.after[role]}"


def modelfile(filename: str, sources: Sources) -> str:
    """The text of the file that stands beside `filename`."""
    tokenizer, system = sources.tokenizer, sources.facts.get("system")
    lines = [f"FROM ./{filename}"]
    turns = read_turns(tokenizer)
    if turns is not None:
        lines.append(f'TEMPLATE """{turns.go_template()}"""')
        system = system or turns.system
    if system and '"""' not in system:
        lines.append(f'SYSTEM """{system}"""')
    stops = (tokenizer.piece(token).decode(errors="replace") for token in sorted(tokenizer.stop_ids))
    lines += [f'PARAMETER stop "{stop}"' for stop in stops if stop and '"' not in stop]
    return "\n".join(lines) + "\n"


def read_turns(tokenizer: Tokenizer) -> Turns | None:
    """The pieces of the model's chat template; None if it is more than pieces around messages."""
    template = tokenizer.chat_template
    if template is None or template.reads_tools or "strftime_now" in template.source:
        return None
    try:
        turns = _pieces(tokenizer, template)
        right = turns is not None and all(
            turns.rendered(conversation) == _rendered(tokenizer, template, conversation)
            for conversation in _CONVERSATIONS
        )
    except InvalidRequest:  # it does not take a system message
        return None
    texts = [*turns.before.values(), *turns.after.values(), turns.opening] if turns else []
    return turns if right and not any(mark in text for text in texts for mark in ("{{", '"""')) else None


def _pieces(tokenizer: Tokenizer, template: ChatTemplate) -> Turns | None:
    """Found between the contents of one conversation; `_CONVERSATIONS` judges them."""
    whole = _rendered(tokenizer, template, _conversation(_SYSTEM, _USER, _ANSWER, _NEXT))
    rest, between = whole, []
    for content in (_SYSTEM, _USER, _ANSWER, _NEXT):
        head, found, rest = rest.partition(content)
        if not found:
            return None
        between.append(head)
    begin, after_system, before_answer, after_answer = between
    closed = _rendered(tokenizer, template, _conversation(_SYSTEM, _USER), opened=False).partition(_USER)[2]
    if not before_answer.startswith(closed) or not rest.startswith(closed):
        return None
    system = _default_system(tokenizer, template)
    if system is None:  # a conversation may begin with the user's turn, and shows where that one begins
        user = _rendered(tokenizer, template, _conversation(None, _USER)).partition(_USER)[0]
    else:  # then every turn is taken to end as the user's does
        user = after_system.removeprefix(closed)
    return Turns(
        before={"system": begin, "user": user, "assistant": before_answer.removeprefix(closed)},
        after={
            "system": after_system.removesuffix(user),
            "user": closed,
            "assistant": after_answer.removesuffix(user),
        },
        opening=rest.removeprefix(closed),
        system=system,
    )


def _default_system(tokenizer: Tokenizer, template: ChatTemplate) -> str | None:
    bare = _rendered(tokenizer, template, _conversation(None, _USER))
    head, _, tail = _rendered(tokenizer, template, _conversation(_SYSTEM, _USER)).partition(_SYSTEM)
    is_there = len(bare) > len(head) + len(tail) and bare.startswith(head) and bare.endswith(tail)
    return bare[len(head) : len(bare) - len(tail)] if is_there else None


def _rendered(tokenizer: Tokenizer, template: ChatTemplate, messages: Sequence[Message], *, opened: bool = True) -> str:
    """Without what the tokenizer puts before every text, which Ollama puts there too; InvalidRequest if it cannot."""
    text = template.render(messages, add_generation_prompt=opened)
    first = "".join(tokenizer.piece(token).decode() for token in tokenizer.encode("", add_special_tokens=True))
    if not text.startswith(first):
        raise InvalidRequest("Ollama would begin every text with what the template does not.")
    return text.removeprefix(first)


def _conversation(system: str | None, *turns: str) -> list[Message]:
    """The user's turns and the assistant's, one after the other."""
    told: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    return told + [{"role": "assistant" if at % 2 else "user", "content": turn} for at, turn in enumerate(turns)]


_CONVERSATIONS = (
    _conversation(None, "Who?"),
    _conversation("Be brief.", "Who?"),
    _conversation(None, " spaces \n", "\n as they are  ", "Again?"),
    _conversation("\nBe brief. ", "Who?", "Spinoza.", "When?", "1632.", "Where?"),
)
