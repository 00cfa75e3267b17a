"""A prompt that begins as an earlier one did is not computed again; never across adapters."""

from brie_server.engine.torch.prefix import BLOCK, PrefixIndex
from brie_server.engine.torch.runner import Runner
from brie_server.engine.torch.scheduler import Limits, Scheduler
from server.engine.asking import drive, load_kind, prompt
from server.engine.tiny_models import CONTEXT_LENGTH, TinyModel, token_ids

LONG = token_ids(3 * BLOCK + 5)


def a_scheduler(max_blocks: int = 100, max_rows: int = 4) -> Scheduler:
    limits = Limits(chunk_size=40, smallest_capacity=16, max_blocks=max_blocks, max_rows=max_rows)
    return Scheduler(limits, token_budget=1024, context_length=CONTEXT_LENGTH)


def kept(index: PrefixIndex, tokens: tuple[int, ...], adapter: str | None = None, start: int = 0) -> list[int]:
    return [block for block, _ in index.keep(adapter, tokens, start)]


def test_only_whole_blocks_are_kept_and_one_token_is_left_to_compute() -> None:
    index = PrefixIndex(100)
    blocks = kept(index, LONG)
    assert len(blocks) == 3
    assert index.match(None, LONG) == tuple(blocks)
    assert index.match(None, LONG[: 3 * BLOCK]) == tuple(blocks[:2])
    assert index.match(None, LONG[: 2 * BLOCK + 1]) == tuple(blocks[:2])


def test_what_follows_another_beginning_is_another_block() -> None:
    index = PrefixIndex(100)
    kept(index, LONG)
    assert index.match(None, (LONG[0] + 1, *LONG[1:])) == ()


def test_the_adapter_is_part_of_the_key() -> None:
    index = PrefixIndex(100)
    kept(index, LONG, adapter="a")
    assert index.match(None, LONG) == ()
    assert index.match("b", LONG) == ()
    assert len(index.match("a", LONG)) == 3


def test_only_new_blocks_are_kept() -> None:
    index = PrefixIndex(100)
    kept(index, LONG[: BLOCK + 3])
    assert index.keep(None, LONG, BLOCK + 3) == [(1, BLOCK), (2, 2 * BLOCK)]
    assert index.keep(None, LONG, 0) == []


def test_the_least_recently_used_is_dropped_and_ends_before_beginnings() -> None:
    index = PrefixIndex(4)
    first, second = kept(index, LONG), kept(index, token_ids(3 * BLOCK + 1, 9))
    index.match(None, token_ids(3 * BLOCK + 1, 9))
    index.match(None, LONG)
    assert index.drop_excess() == (second[2], second[1])
    assert index.match(None, LONG) == tuple(first)


def test_an_unloaded_adapter_leaves_no_block() -> None:
    index = PrefixIndex(100)
    blocks, other = kept(index, LONG, adapter="a"), kept(index, LONG)
    assert index.drop_adapter("a") == tuple(blocks)
    assert index.match("a", LONG) == ()
    assert index.match(None, LONG) == tuple(other)


def test_a_second_turn_computes_only_what_is_new_and_answers_as_cold(tiny_model: TinyModel, runner: Runner) -> None:
    scheduler = a_scheduler()
    (first,), _ = drive(scheduler, runner, [prompt(LONG, 40)])
    turn = (*LONG, *first, *token_ids(10, 3))
    (second,), steps = drive(scheduler, runner, [prompt(turn, 20)])
    assert steps[0].chunks[0].start == (len(LONG) + 39) // BLOCK * BLOCK
    assert second == tiny_model.reference(turn, 20)


def test_the_cache_of_one_adapter_never_answers_for_another(tiny_model: TinyModel, runner: Runner) -> None:
    digests = [None, *(load_kind(runner, tiny_model, kind) for kind in ("plain", "all-linear"))]
    scheduler = a_scheduler()
    for _ in range(2):
        for digest in digests:
            (answer,), _ = drive(scheduler, runner, [prompt(LONG, 10, adapter=digest)])
            assert answer == tiny_model.reference(LONG, 10, tiny_model.adapter(digest) if digest else None)


def test_many_prompts_with_few_blocks_are_answered_as_cold(tiny_model: TinyModel, runner: Runner) -> None:
    asked = [(*LONG[: BLOCK * (1 + n % 3) + n], *token_ids(7, n)) for n in range(12)]
    scheduler = a_scheduler(max_blocks=2)
    answers, steps = drive(scheduler, runner, [prompt(each, 12) for each in asked])
    assert answers == [tiny_model.reference(each, 12) for each in asked]
    assert any(step.restores for step in steps)
    assert any(step.dropped for step in steps)
    assert runner._cache.num_blocks <= 2
