"""Compiles what answers have to be into what an engine holds them to, and keeps it. It knows no HTTP and no schema.

A grammar is first tried in a process that can be ended, then compiled for the model's vocabulary and walked a little
way, on a thread: answers that stream meanwhile go on. What was compiled or refused is kept while it is used.
"""

import asyncio
import logging
from collections import OrderedDict
from random import Random

import numpy as np
from llguidance import LLMatcher, LLTokenizer

from brie_core.errors import InvalidRequest
from brie_core.text.codec import TextCodec
from brie_server.engine.base import Constraint, Form
from brie_server.generation.form_grammar import Asked
from brie_server.generation.grammar_trial import GrammarRefused, compiled, try_out
from brie_server.generation.numerals import Bits, Numerals, bits_of, numerals_of
from brie_server.generation.vocabulary import Vocabulary, vocabulary_of

logger = logging.getLogger(__name__)
MOST_FORMS = 32
MOST_BYTES = 2**20
_NUM_WALKS, _WALK_LENGTH = 3, 24
_Prepared = tuple[LLTokenizer, Bits, Numerals]
"""With the tokens that are no text, and those of numbers."""


class CompiledForm:
    """A form in the vocabulary of one model; what its answers find out about it they share."""

    def __init__(self, matcher: LLMatcher, no_text: Bits, numerals: Numerals) -> None:
        self._matcher, self._no_text, self._numerals = matcher, no_text, numerals

    def begin(self) -> Constraint:
        """An answer that has no token yet."""
        return Progress(self._matcher.deep_copy(), self._no_text, self._numerals)


class Progress:
    """One answer on its way. Where the grammar becomes too complex it allows nothing, and the request fails.

    A number ends (`numerals`): a small model that divides one by three would write digits for ever.
    """

    def __init__(self, matcher: LLMatcher, no_text: Bits, numerals: Numerals) -> None:
        self._matcher, self._no_text, self._numerals = matcher, no_text, numerals
        self._number = b""
        """The digits and points that the text ends with."""

    @property
    def may_end(self) -> bool:
        """Whether the answer is complete as it stands."""
        return not self._matcher.is_error() and self._matcher.is_accepting()

    @property
    def is_over(self) -> bool:
        """Whether it is complete and nothing may follow."""
        return not self._matcher.is_error() and self._matcher.is_stopped()

    def allowed(self) -> bytes:
        """A bit for each token that may be next in the text."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8) & ~self._no_text
        if self._matcher.is_error():
            logger.warning("an answer's form became too complex: %s", self._matcher.get_error()[:200])
            return b""
        return self._numerals.without(bits, self._number).tobytes()

    def accept(self, token: int) -> None:
        """Go on to what follows this token of the text."""
        self._matcher.consume_token(token)
        piece = self._numerals.pieces.get(token)
        self._number = b"" if piece is None else self._number + piece


class Forms:
    """The forms of one model's answers. Making it takes a second or two, much of it with the interpreter's lock."""

    def __init__(self, codec: TextCodec) -> None:
        self._codec = codec
        self._vocabulary = _prepared(codec)
        self._compiling = asyncio.Lock()
        self._known: OrderedDict[str, CompiledForm | GrammarRefused] = OrderedDict()

    async def compiled(self, asked: Asked) -> Form:
        """Raises InvalidRequest for what cannot be held, Overloaded where that cannot be found out in five seconds."""
        grammar = await asyncio.to_thread(asked.grammar, self._codec)
        if (known := self._known.get(grammar)) is None:
            async with self._compiling:
                if (known := self._known.get(grammar)) is None:
                    known = await asyncio.to_thread(self._compile, grammar)
        self._keep(grammar, known)
        if isinstance(known, GrammarRefused):
            raise InvalidRequest(f"The schema cannot be used: {known}.", param=asked.param)
        return known

    def _compile(self, grammar: str) -> CompiledForm | GrammarRefused:
        try:
            try_out(grammar)
            tokenizer, no_text, numerals = self._vocabulary
            form = CompiledForm(compiled(tokenizer, grammar), no_text, numerals)
            for seed in range(_NUM_WALKS):
                walk(form, Random(seed), _WALK_LENGTH)
        except GrammarRefused as refusal:
            return refusal
        return form

    def _keep(self, grammar: str, known: CompiledForm | GrammarRefused) -> None:
        self._known[grammar] = known
        self._known.move_to_end(grammar)
        while len(self._known) > MOST_FORMS or (sum(map(len, self._known)) > MOST_BYTES and len(self._known) > 1):
            self._known.popitem(last=False)


def _prepared(codec: TextCodec) -> _Prepared:
    """The end, which llguidance has a token for, is no token of the text."""
    vocabulary, size = Vocabulary(codec), codec.vocab_size
    return vocabulary_of(vocabulary), bits_of([size], size + 1), numerals_of(vocabulary.tokens)


def walk(form: Form, random: Random, length: int) -> list[int]:
    """Some answer's first tokens; raises GrammarRefused where it cannot go on."""
    constraint, tokens = form.begin(), list[int]()
    while len(tokens) < length and not constraint.is_over:
        bits = np.unpackbits(np.frombuffer(constraint.allowed(), np.uint8), bitorder="little")
        choice = np.flatnonzero(bits)
        if not len(choice):
            if constraint.may_end:
                return tokens
            raise GrammarRefused("it is too complex")
        tokens.append(int(choice[random.randrange(len(choice))]))
        constraint.accept(tokens[-1])
    return tokens
