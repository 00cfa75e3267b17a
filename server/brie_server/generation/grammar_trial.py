"""Compiles a grammar in a process of its own, which can be ended: `python -m` this, the grammar on its standard input.

Compiling has no bound that a compiler would keep in all cases: of some patterns it makes intersections without end. The
answer is the fault as text, or nothing. It knows no request and no model.
"""

import re
import subprocess
import sys
from contextlib import suppress

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from brie_core.errors import Overloaded

CPU_SECONDS = 0.6
"""For compiling; beside streams that keep all cores busy it takes up to twice as long."""
_PATIENCE = 5.0
_MEMORY = 2 * 2**30
_PLACE = re.compile(r"\n\s*\d+ \|")
LIMITS = LLParserLimits(
    initial_lexer_fuel=200_000,
    step_lexer_fuel=20_000,
    step_max_items=20_000,
    max_lexer_states=32_000,
    max_grammar_size=100_000,
    verbose_errors=False,
)
"""A token's mask costs at most some 10 ms, and a grammar's states some 60 MB."""


class GrammarRefused(ValueError):
    """Why a grammar cannot be used, in words."""


def try_out(grammar: str) -> None:
    """Raises GrammarRefused for a fault, or what takes too much time or memory; Overloaded where nobody can tell."""
    try:
        tried = subprocess.run(
            [sys.executable, "-m", __spec__.name if __spec__ else __name__],
            input=grammar.encode(),
            capture_output=True,
            timeout=_PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Overloaded("The server is too busy to compile what the answer has to be: try again.") from error
    if tried.returncode:
        raise GrammarRefused("it is too complex")
    if tried.stdout:
        raise GrammarRefused(tried.stdout.decode())


def compiled(tokenizer: LLTokenizer, grammar: str) -> LLMatcher:
    """Raises GrammarRefused for a fault of the grammar."""
    matcher = LLMatcher(tokenizer, LLMatcher.grammar_from_lark(grammar), log_level=0, limits=LIMITS)
    if matcher.is_error() or matcher.is_stopped():
        raise GrammarRefused(_in_short(matcher.get_error()))
    return matcher


def _in_short(error: str) -> str:
    """A compiler tells the place in the grammar too, which nobody has written."""
    told = error.partition("failed to compile JSON schema: ")[2] or error
    return " ".join(_PLACE.split(told)[0].split())[:300] or "nothing satisfies it"


class _Bytes:
    """A vocabulary of bytes."""

    is_tokenizer_wrapper = True
    bos_token_id = None
    eos_token_id = 256
    tokens = (*(bytes((byte,)) for byte in range(256)), b"<end>")
    special_token_ids = (256,)

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


def _main() -> None:
    import resource
    import signal

    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)  # its signal ends the process, even if nobody is left to
    with suppress(ValueError, OSError):  # not every system has this one
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    try:
        compiled(LLTokenizer(_Bytes(), slices=[]), sys.stdin.buffer.read().decode())  # type: ignore[arg-type]
    except GrammarRefused as refusal:
        sys.stdout.write(str(refusal))


if __name__ == "__main__":
    _main()
