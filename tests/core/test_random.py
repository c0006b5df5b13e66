"""Randomness by key: one stream whatever the transform, uniform and independent as far as statistics can see."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from funcrec.core import random
from funcrec.core.errors import FuncrecError

seeds = st.integers(min_value=0, max_value=2**63 - 1)
DRAWS = {
    "bits": lambda k: random.bits(k, (7, 3)),
    "uniform32": lambda k: random.uniform(k, (5, 4), -2.0, 3.0, torch.float32),
    "uniform64": lambda k: random.uniform(k, 11, dtype=torch.float64),
    "normal": lambda k: random.normal(k, (3, 5), dtype=torch.float32),
    "bernoulli": lambda k: random.bernoulli(k, 0.3, (40,)),
    "randint": lambda k: random.randint(k, (9,), -4, 1000),
    "permutation": lambda k: random.permutation(k, 17),
    "split": lambda k: random.split(k, 5),
    "fold_name": lambda k: random.fold_in(k, "layer.0"),
    "fold_number": lambda k: random.fold_in(k, 12),
}


@pytest.mark.parametrize("name", DRAWS)
@given(seed=seeds)
def test_member_of_a_vmapped_draw_is_that_draw(name, seed):
    draw, keys = DRAWS[name], random.split(random.key(seed), 3)
    together = torch.vmap(draw)(keys)
    for member, k in zip(together, keys, strict=True):
        assert torch.equal(member, draw(k))


def test_compiled_draws_have_the_same_bits():
    """Of those that the others are made of: inductor takes ten seconds for each."""
    names = ("uniform32", "normal", "randint", "permutation", "split")

    def everything(k):
        return {name: DRAWS[name](random.fold_in(k, name)) for name in names}

    compiled = torch.compile(everything, fullgraph=True)
    for seed in (0, 1, 2**62 + 12345):
        expected, seen = everything(random.key(seed)), compiled(random.key(seed))
        for name in names:
            assert torch.equal(expected[name], seen[name]), name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", DRAWS)
def test_gpu_draws_have_the_same_bits(name):
    for seed in range(20):
        assert torch.equal(DRAWS[name](random.key(seed, "cuda")).cpu(), DRAWS[name](random.key(seed)))


@given(seed=seeds, n=st.integers(1, 200))
def test_permutation_contains_each_index_once(seed, n):
    assert torch.equal(random.permutation(random.key(seed), n).sort().values, torch.arange(n))


@given(seed=seeds, low=st.integers(-(2**40), 2**40), width=st.integers(1, 2**50))
def test_randint_stays_in_range(seed, low, width):
    x = random.randint(random.key(seed), (64,), low, low + width)
    assert int(x.min()) >= low
    assert int(x.max()) < low + width


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_uniform_lies_in_the_half_open_interval(dtype):
    x = random.uniform(random.key(3), (200_000,), dtype=dtype)
    assert float(x.min()) >= 0.0
    assert float(x.max()) < 1.0, "rounding up to 1 would break log1p(-u) and inverse transforms"


# A p-value under 1e-6 is a defect: the draws are deterministic, so these tests cannot flicker.
def test_uniform_and_normal_have_their_distributions():
    k = random.key(11)
    assert stats.kstest(random.uniform(k, 200_000).numpy(), "uniform").pvalue > 1e-6
    assert stats.kstest(random.normal(k, 200_000).double().numpy(), "norm").pvalue > 1e-6
    ones = int(random.bernoulli(k, 0.2, (200_000,)).sum())
    assert stats.binomtest(ones, 200_000, 0.2).pvalue > 1e-6


@pytest.mark.parametrize("related", ["split", "fold", "seed"])
def test_draws_of_related_keys_are_uncorrelated(related):
    root = random.key(5)
    keys = {
        "split": list(random.split(root, 8)),
        "fold": [random.fold_in(root, i) for i in range(8)],
        "seed": [random.key(i) for i in range(8)],
    }[related]
    x = torch.stack([random.uniform(k, 50_000) for k in keys])
    correlations = torch.corrcoef(x)[torch.triu_indices(8, 8, 1).unbind()]
    assert float(correlations.abs().max()) < 5.5 / math.sqrt(50_000)
    # neighbours in one stream, and the same position in two streams, jointly uniform on a grid
    for a, b in [(x[0, :-1], x[0, 1:]), (x[0], x[1]), (x[2], x[7])]:
        cells = torch.bincount((a * 16).long() * 16 + (b * 16).long(), minlength=256)
        assert stats.chisquare(cells.numpy()).pvalue > 1e-6


def test_keys_do_not_collide():
    k = random.key(0)
    keys = torch.cat([random.split(k, 200_000), torch.vmap(lambda i: random.fold_in(k, i))(torch.arange(200_000))])
    assert keys.unique().numel() == keys.numel()
    assert int(keys.min()) >= 0


def test_every_input_bit_of_a_key_matters():
    base = random.bits(random.key(9), (64,))
    for bit in range(62):
        changed = random.bits(random.key(9) ^ (1 << bit), (64,))
        flipped = torch.stack([((base ^ changed) >> i) & 1 for i in range(32)]).float().mean()
        assert 0.4 < float(flipped) < 0.6, f"key bit {bit}"


@pytest.mark.parametrize("flip", [1, 1 << 7, 1 << 32, 1 << 40])
def test_keys_that_share_one_half_do_not_share_an_orbit(flip):
    """Keyed by one half at a time, the words of one key would be those of the other in another order."""
    k = random.key(6)
    words = torch.cat([random.bits(k, (4096,)), random.bits(k ^ flip, (4096,))])
    assert words.unique().numel() > 8192 - 64


def test_a_long_draw_continues_a_short_one(monkeypatch):
    k = random.key(4)
    whole = random.uniform(k, 1000)
    monkeypatch.setattr(random, "_CHUNK", 64)
    assert torch.equal(random.uniform(k, 1000), whole)
    assert torch.equal(random.uniform(k, 100), whole[:100])


def test_what_is_no_key_is_refused():
    for bad in (7, torch.zeros(2, dtype=torch.int64), torch.zeros(())):
        with pytest.raises(FuncrecError, match="scalar int64 tensor"):
            random.uniform(bad, 3)  # type: ignore[arg-type]
