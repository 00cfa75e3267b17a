"""How a step's tokens are divided between one padded product and products of their own. No tensor."""

from random import Random

import pytest

from brie_server.engine.torch.lora_share import Run, share_out


def test_rows_of_several_adapters_share_one_product() -> None:
    share = share_out([Run(0, 1, 2), Run(1, 1, 3), Run(2, 1, 2)])
    assert (share.first, share.num_slots, share.width) == (2, 2, 2)
    assert dict(zip(share.tokens, share.places, strict=True)) == {0: 0, 2: 1, 1: 2}
    assert share.long_runs == ()


def test_a_long_prompt_among_single_tokens_goes_by_itself() -> None:
    share = share_out([Run(0, 1, 0), Run(1, 1, 1), Run(2, 200, 2)])
    assert share.long_runs == (Run(2, 200, 2),)
    assert share.tokens == (0, 1)


@pytest.mark.parametrize("seed", range(50))
def test_every_token_has_exactly_one_place(seed: int) -> None:
    chance, runs, start = Random(seed), [], 0
    for _ in range(chance.randint(1, 40)):
        start += chance.randint(0, 3)
        runs.append(Run(start, chance.choice([1, 1, 1, 5, 60, 256]), chance.randint(0, 31)))
        start = runs[-1].end
    share = share_out(runs)
    single = [token for run in share.long_runs for token in range(run.start, run.end)]
    assert sorted([*share.tokens, *single]) == sorted(token for run in runs for token in range(run.start, run.end))
    assert len(set(share.places)) == len(share.places)
    slots = {token: run.slot for run in runs for token in range(run.start, run.end)}
    for token, place in zip(share.tokens, share.places, strict=True):
        assert share.first + place // share.width == slots[token]
    assert share.num_slots * share.width <= max(2 * len(share.tokens), 64)
