"""The compiled functions against torch's operations, and against memory: what a call must not touch stays as it was."""

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from brie_server.engine.torch.architecture import PARTS, Architecture, Site, read_architecture
from brie_server.engine.torch.compiled.build import load_rows
from brie_server.engine.torch.compiled.rows import HeadNorm, Heads, Norm, Rows, rows_for
from brie_server.engine.torch.lora import DeviceAdapter, Pair
from brie_server.engine.torch.lora_rows import PackedAdapters
from brie_server.engine.torch.operations import TensorOperations
from brie_server.engine.torch.rotation import rotation
from server.engine.asking import CPU, packed

pytestmark = pytest.mark.skipif(load_rows() is None, reason="no compiler here")

DTYPES = st.sampled_from([torch.float32, torch.bfloat16])
SEEDS = st.integers(0, 2**32)
SHAPES = st.tuples(st.integers(0, 5), st.integers(1, 200))
some = settings(max_examples=30, deadline=None)
CONFIG = {
    "model_type": "llama",
    "vocab_size": 8,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
LLAMA = read_architecture(CONFIG)
GEMMA = read_architecture({**CONFIG, "model_type": "gemma3_text"})


def rows_of(dtype: torch.dtype) -> Rows:
    rows = rows_for(CPU, dtype)
    assert rows is not None
    return rows


def close(ours: Tensor, theirs: Tensor, scale: float = 1.0) -> None:
    """Up to a few roundings of the type; absolutely, of numbers of size `scale`."""
    step = 2**-7 if ours.dtype is torch.bfloat16 else 2e-6
    torch.testing.assert_close(ours.double(), theirs.double(), rtol=step, atol=step * scale)


@some
@given(DTYPES, SHAPES, st.booleans(), st.sampled_from([LLAMA, GEMMA]), SEEDS)
def test_norm(dtype: torch.dtype, shape: tuple[int, int], adds: bool, architecture: Architecture, seed: int) -> None:
    torch.manual_seed(seed)
    size = shape[1]
    x_NE, added_NE = (torch.randn(shape).to(dtype) * 3 for _ in range(2))
    weight_E = torch.randn(size) if architecture is GEMMA else torch.randn(size).to(dtype)
    theirs_NE, before_NE = x_NE.clone(), added_NE.clone()
    expected_NE = TensorOperations(architecture).norm(weight_E)(theirs_NE, added_NE if adds else None)
    own = Norm(weight_E.float(), architecture.rms_eps, rounds=architecture is LLAMA)
    close(rows_of(dtype).norm(x_NE, added_NE if adds else None, own), expected_NE)
    assert torch.equal(x_NE, theirs_NE)
    assert torch.equal(added_NE, before_NE)


@some
@given(DTYPES, SHAPES, st.sampled_from([LLAMA, GEMMA]), SEEDS)
def test_gate(dtype: torch.dtype, shape: tuple[int, int], architecture: Architecture, seed: int) -> None:
    torch.manual_seed(seed)
    gate_up_NF = (torch.randn(shape[0], 2 * shape[1]) * 5).to(dtype)
    name = "gelu" if architecture is GEMMA else "silu"
    close(rows_of(dtype).gate(name, gate_up_NF), TensorOperations(architecture).gate(gate_up_NF), scale=5.0)


def gated(name: str, x: Tensor) -> Tensor:
    return rows_of(torch.float32).gate(name, torch.cat([x, torch.ones_like(x)])[None])[0]


def test_the_exponential_is_exact_to_two_units_in_the_last_place() -> None:
    x = torch.linspace(-87, 88, 1_000_001, dtype=torch.float64).float()
    exact_F = functional.silu(x.double())
    assert ((gated("silu", x).double() - exact_F).abs() <= exact_F.abs() * 2**-22).all()


def test_the_ends_of_the_exponential_are_zero_and_infinity() -> None:
    x = torch.tensor([-torch.inf, -3e38, -1e38, -1e13, -100, -88.5, 0, 88.5, 100, 1e13, 3e38, torch.inf, torch.nan])
    for name, theirs in (("silu", functional.silu), ("gelu", lambda x: functional.gelu(x, approximate="tanh"))):
        torch.testing.assert_close(gated(name, x), theirs(x), equal_nan=True, atol=1e-35, rtol=1e-6)


def make_heads(sizes: tuple[int, int, int], kv_cache: Tensor, lines: tuple[Tensor, Tensor]) -> Heads:
    """`sizes` are key heads, query heads for each and their size."""
    key, per_key, size = sizes
    rows_N, positions_N = lines
    at = rows_N.data_ptr(), positions_N.data_ptr()
    return Heads(len(rows_N), key * per_key, key, size, kv_cache.shape[1], kv_cache.shape[3], *at)


def lines_of(num_rows: int, capacity: int, num: int) -> tuple[Tensor, Tensor]:
    """Rows and positions of so many tokens, none twice."""
    places_N = torch.randperm(num_rows * capacity)[:num]
    return places_N // capacity, places_N % capacity


HEADS = st.tuples(st.integers(1, 3), st.integers(1, 8), st.sampled_from([2, 16, 64, 80, 128, 512]))


@some
@given(DTYPES, HEADS, st.tuples(st.integers(1, 3), st.integers(1, 20)), st.sampled_from([None, LLAMA, GEMMA]), SEEDS)
def test_place(
    dtype: torch.dtype, sizes: tuple[int, int, int], area: tuple[int, int], norms: Architecture | None, seed: int
) -> None:
    torch.manual_seed(seed)
    (num_rows, capacity), (key, per_key, size) = area, sizes
    cache_2RHCD = torch.randn(2, num_rows, key, capacity, size).to(dtype)
    rows_N, positions_N = lines_of(num_rows, capacity, 5)
    qkv_NO = torch.randn(len(rows_N), (per_key + 2) * key * size).to(dtype)
    weight_JD = torch.randn((per_key + 1) * key, size).to(dtype).float()
    turning = rotation(positions_N, torch.rand(size // 2), dtype)
    before_NJD, before_2RHCD = qkv_NO.clone().view(len(rows_N), -1, size), cache_2RHCD.clone()

    head_norm = HeadNorm(weight_JD.data_ptr() if norms else None, 1e-6, norms is LLAMA)
    heads = make_heads(sizes, cache_2RHCD, (rows_N, positions_N))
    rows_of(dtype).place(qkv_NO, turning, head_norm, cache_2RHCD, heads)

    after_NJD, num_values = qkv_NO.view(len(rows_N), -1, size), key
    normed_NJD = before_NJD[:, :-num_values]
    if norms:
        weight = weight_JD if norms is GEMMA else weight_JD.to(dtype)
        normed_NJD = TensorOperations(norms).norm(weight)(normed_NJD)
    close(after_NJD[:, :-num_values], turned(normed_NJD.double(), turning), scale=4)
    assert torch.equal(after_NJD[:, -num_values:], before_NJD[:, -num_values:])
    before_2RHCD[0, rows_N, :, positions_N] = after_NJD[:, per_key * key : -num_values]
    before_2RHCD[1, rows_N, :, positions_N] = after_NJD[:, -num_values:]
    assert torch.equal(cache_2RHCD, before_2RHCD)


def turned(x: Tensor, turning: tuple[Tensor, Tensor]) -> Tensor:
    cos_N1d, sin_N1d = (each.double()[:, None] for each in turning)
    a_NJd, b_NJd = x.chunk(2, -1)
    return torch.cat([a_NJd * cos_N1d - b_NJd * sin_N1d, b_NJd * cos_N1d + a_NJd * sin_N1d], -1)


@some
@given(DTYPES, HEADS, st.tuples(st.integers(1, 4), st.integers(1, 200)), st.integers(0, 150), SEEDS)
def test_attend(dtype: torch.dtype, sizes: tuple[int, int, int], area: tuple[int, int], window: int, seed: int) -> None:
    torch.manual_seed(seed)
    (num_rows, capacity), (key, per_key, size) = area, sizes
    cache_2RHCD = torch.randn(2, num_rows, key, capacity, size).to(dtype)
    rows_N, positions_N = torch.randperm(num_rows), torch.randint(capacity, (num_rows,))
    for row, position in zip(rows_N, positions_N, strict=True):
        hidden_C = torch.arange(capacity) > position
        if window:
            hidden_C |= torch.arange(capacity) <= position - window
        cache_2RHCD[:, row, :, hidden_C] = torch.nan  # whoever looks at it is seen
    qkv_NO = torch.randn(num_rows, (per_key + 2) * key * size).to(dtype)
    out_NO = torch.full((num_rows, per_key * key * size), torch.nan, dtype=dtype)
    scale = size**-0.5
    heads = make_heads(sizes, cache_2RHCD, (rows_N, positions_N))
    rows_of(dtype).attend(qkv_NO, cache_2RHCD, out_NO, heads, (scale, window))
    for row, position, out_O, qkv_O in zip(rows_N, positions_N, out_NO, qkv_NO, strict=True):
        seen = slice(max(0, int(position) + 1 - window) if window else 0, int(position) + 1)
        k_HCD, v_HCD = cache_2RHCD[:, row, :, seen].double()
        q_HGD = qkv_O[: per_key * key * size].view(key, per_key, size).double()
        expected_HGD = torch.softmax(q_HGD @ k_HCD.transpose(1, 2) * scale, -1) @ v_HCD
        close(out_O, expected_HGD.flatten())


def a_head(dtype: torch.dtype, row: int, position: int) -> tuple[Tensor, Tensor, Heads, tuple[Tensor, Tensor]]:
    """One token's qkv, a cache of two rows of four positions, and its heads."""
    lines, cache_2RHCD = (torch.tensor([row]), torch.tensor([position])), torch.zeros(2, 2, 1, 4, 16, dtype=dtype)
    return torch.zeros(1, 48, dtype=dtype), cache_2RHCD, make_heads((1, 1, 16), cache_2RHCD, lines), lines


@pytest.mark.parametrize(("row", "position"), [(2, 0), (-1, 0), (0, 4), (0, -1), (2**40, 0), (0, 2**40)])
def test_a_line_outside_the_cache_is_refused(row: int, position: int) -> None:
    qkv_NO, cache_2RHCD, heads, _lines = a_head(torch.float32, row, position)
    turning, rows = (torch.ones(1, 8), torch.zeros(1, 8)), rows_of(torch.float32)
    with pytest.raises(ValueError, match="outside the cache"):
        rows.place(qkv_NO, turning, HeadNorm(None, 1e-6, False), cache_2RHCD, heads)
    with pytest.raises(ValueError, match="outside the cache"):
        rows.attend(qkv_NO, cache_2RHCD, torch.zeros(1, 16), heads, (1.0, 0))
    assert not cache_2RHCD.any()


def test_a_head_without_room_and_queries_without_keys_are_refused() -> None:
    cache_2RHCD, lines, rows = torch.zeros(2, 1, 1, 1, 514), (torch.zeros(1).long(),) * 2, rows_of(torch.float32)
    with pytest.raises(ValueError, match="no room"):
        heads = make_heads((1, 1, 514), cache_2RHCD, lines)
        rows.attend(torch.zeros(1, 3 * 514), cache_2RHCD, torch.zeros(1, 514), heads, (1.0, 0))
    uneven = Heads(1, 3, 2, 16, 1, 1, *(each.data_ptr() for each in lines))
    with pytest.raises(ValueError, match="no room"):
        rows.attend(torch.zeros(1, 7 * 16), torch.zeros(2, 1, 2, 1, 16), torch.zeros(1, 48), uneven, (1.0, 0))


def test_what_is_too_small_of_another_type_or_in_pieces_is_refused() -> None:
    rows, x_NE, norm = rows_of(torch.float32), torch.zeros(2, 16), Norm(torch.ones(16), 1e-6, True)
    wrong: list[Callable[[], object]] = [
        lambda: rows.norm(x_NE.bfloat16(), None, norm),
        lambda: rows.norm(torch.zeros(16, 2).T, None, norm),
        lambda: rows.norm(x_NE, torch.zeros(1, 16), norm),
        lambda: rows.norm(x_NE, None, Norm(torch.ones(15), 1e-6, True)),
        lambda: rows.norm(x_NE, None, Norm(torch.ones(16).bfloat16(), 1e-6, True)),
        lambda: rows.gate("silu", torch.zeros(32, 2).T),
    ]
    for call in wrong:
        with pytest.raises(ValueError, match="was promised"):
            call()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nan_stays_in_its_row(dtype: torch.dtype) -> None:
    x_NE = torch.randn(3, 64, dtype=dtype)
    x_NE[1, 5] = torch.nan
    rows, norm = rows_of(dtype), Norm(torch.ones(64), 1e-6, True)
    for out_NE in (rows.norm(x_NE.clone(), None, norm), rows.gate("silu", x_NE)):
        assert out_NE.isnan().any(1).tolist() == [False, True, False]
    cache_2RHCD = torch.randn(2, 3, 1, 100, 16).to(dtype)
    cache_2RHCD[0, 1, 0, 3, 2] = torch.nan
    lines = torch.arange(3), torch.full((3,), 99)
    out_NO = torch.zeros(3, 16, dtype=dtype)
    rows.attend(torch.randn(3, 48).to(dtype), cache_2RHCD, out_NO, make_heads((1, 1, 16), cache_2RHCD, lines), (1.0, 0))
    assert out_NO.isnan().all(1).tolist() == out_NO.isnan().any(1).tolist() == [False, True, False]


def an_adapter(ranks: Sequence[int]) -> DeviceAdapter:
    """For one site after the other and each of its parts one of `ranks`, again and again; 0 leaves the part alone."""
    pairs, number = {}, 0
    for layer, site in ((layer, site) for layer in range(LLAMA.num_layers) for site in Site):
        parts: list[Pair | None] = []
        for part in PARTS[site]:
            (outputs, inputs), rank = LLAMA.shape(part), ranks[number % len(ranks)]
            parts.append(Pair(torch.randn(rank, inputs), torch.randn(rank, outputs)) if rank else None)
            number += 1
        if any(parts):
            pairs[layer, site] = tuple(parts)
    return DeviceAdapter(pairs)


def expected_of(adapter: DeviceAdapter, layer: int, site: Site, x: Tensor) -> Tensor:
    parts = adapter.pairs.get((layer, site), (None,) * len(PARTS[site]))
    added = [
        (x.double() @ pair.a_rI.double().T) @ pair.b_rO.double()
        if pair
        else torch.zeros(len(x), LLAMA.shape(part)[0], dtype=torch.float64)
        for part, pair in zip(PARTS[site], parts, strict=True)
    ]
    return torch.cat(added, 1)


RANKS = st.lists(st.sampled_from([0, 0, 1, 2, 7, 8, 16, 33, 40]), min_size=1, max_size=9).filter(any)
RUNS = st.lists(
    st.tuples(st.integers(-1, 8), st.sampled_from([1, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 70])), min_size=1, max_size=20
)


@some
@given(DTYPES, st.lists(RANKS, min_size=1, max_size=9), RUNS, SEEDS)
def test_lora(dtype: torch.dtype, ranks: list[list[int]], runs: list[tuple[int, int]], seed: int) -> None:
    torch.manual_seed(seed)
    of_digest = {f"a{number}": an_adapter(each) for number, each in enumerate(ranks)}
    adapters = PackedAdapters(LLAMA, rows_of(dtype))
    for digest, adapter in of_digest.items():
        adapters.load(digest, packed(adapter, LLAMA))
    tokens = [(None if number < 0 else f"a{number % len(ranks)}", count) for number, count in runs]
    owners = [digest for digest, count in tokens for _ in range(count)]
    batch = adapters.batch(tokens)
    if batch is None:
        assert set(owners) == {None}
        return
    for layer, site in ((layer, site) for layer in range(LLAMA.num_layers) for site in Site):
        shapes = [LLAMA.shape(part) for part in PARTS[site]]
        x_NI = torch.randn(len(owners), shapes[0][1]).to(dtype)
        out_NO = torch.randn(len(owners), sum(outputs for outputs, _ in shapes)).to(dtype)
        before_NO = out_NO.clone()
        batch.add(layer, site, x_NI, out_NO)
        for owner in set(owners):
            own = torch.tensor([each == owner for each in owners])
            if owner is None:
                assert torch.equal(out_NO[own], before_NO[own])
            else:
                added_NO = expected_of(of_digest[owner], layer, site, x_NI[own])
                close(out_NO[own], before_NO[own].double() + added_NO, scale=64)


def one_adapter(constant: float) -> DeviceAdapter:
    return DeviceAdapter({(0, Site.O): (Pair(torch.ones(1, 64), torch.full((1, 48), constant)),)})


def test_a_digest_loaded_again_is_the_new_adapter() -> None:
    adapters, tokens = PackedAdapters(LLAMA, rows_of(torch.float32)), [("a", 1)]
    for constant in (1.0, 2.0):
        adapters.load("a", packed(one_adapter(constant), LLAMA))
        out_NO, batch = torch.zeros(1, 48), adapters.batch(tokens)
        assert batch is not None
        assert adapters.batch(list(tokens)) is batch
        batch.add(0, Site.O, torch.ones(1, 64), out_NO)
        assert (out_NO == 64 * constant).all()
        adapters.unload("a")
    assert adapters.num_bytes == 0
    with pytest.raises(KeyError):
        adapters.batch(tokens)


def test_fewer_tokens_than_the_batch_has_are_refused() -> None:
    adapters = PackedAdapters(LLAMA, rows_of(torch.float32))
    adapters.load("a", packed(one_adapter(1.0), LLAMA))
    batch = adapters.batch([(None, 2), ("a", 1)])
    assert batch is not None
    for num_x, num_out in ((2, 3), (3, 2)):
        with pytest.raises(ValueError, match="was promised"):
            batch.add(0, Site.O, torch.zeros(num_x, 64), torch.zeros(num_out, 48))


def test_an_adapters_nan_stays_with_its_tokens() -> None:
    adapters = PackedAdapters(LLAMA, rows_of(torch.float32))
    for digest, constant in (("a", 1.0), ("b", torch.nan)):
        adapters.load(digest, packed(one_adapter(constant), LLAMA))
    out_NO, batch = torch.zeros(5, 48), adapters.batch([("a", 1), (None, 1), ("b", 1), ("a", 2)])
    assert batch is not None
    x_NI = torch.ones(5, 64)
    x_NI[4] = torch.nan
    batch.add(0, Site.O, x_NI, out_NO)
    assert out_NO.isnan().any(1).tolist() == [False, False, True, False, True]
    assert out_NO[[0, 1, 3], 0].tolist() == [64, 0, 64]


def everything(dtype: torch.dtype) -> list[Tensor]:
    """What all functions make of rows enough for several threads."""
    torch.manual_seed(0)
    rows, num = rows_of(dtype), 70
    x_NE, gate_up_NF = torch.randn(num, 512).to(dtype), torch.randn(num, 1024).to(dtype)
    cache_2RHCD, lines = torch.randn(2, num, 2, 90, 64).to(dtype), (torch.arange(num), torch.arange(num))
    qkv_NO, out_NO = torch.randn(num, 10 * 64).to(dtype), torch.zeros(num, 6 * 64, dtype=dtype)
    heads, turning = make_heads((2, 3, 64), cache_2RHCD, lines), rotation(lines[1], torch.rand(32), dtype)
    normed_NE = rows.norm(x_NE, x_NE.clone(), Norm(torch.randn(512), 1e-6, True))
    rows.place(qkv_NO, turning, HeadNorm(None, 1e-6, False), cache_2RHCD, heads)
    rows.attend(qkv_NO, cache_2RHCD, out_NO, heads, (0.1, 0))
    adapters = PackedAdapters(LLAMA, rows)
    for number in range(9):
        adapters.load(f"a{number}", packed(an_adapter([number + 1]), LLAMA))
    batch, added_NO = adapters.batch([(f"a{number % 9}", 1) for number in range(num)]), torch.zeros(num, 128).to(dtype)
    assert batch is not None
    batch.add(0, Site.QKV, torch.randn(num, 48).to(dtype), added_NO)
    return [x_NE, normed_NE, rows.gate("gelu", gate_up_NF), qkv_NO, cache_2RHCD, out_NO, added_NO]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_threads_change_nothing(dtype: torch.dtype) -> None:
    alone = everything(dtype)
    torch.set_num_threads(4)
    try:
        together = everything(dtype)
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
