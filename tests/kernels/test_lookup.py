"""The kernel of the pooled lookup, for every plan: a bag is the sum of its rows, whatever its neighbours hold."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from funcrec.core.random import fold_in, key, normal, randint, uniform
from funcrec.kernels import lookup
from tests.kernels.interpreter import interpreting


def bags(lengths: list[int], rows: int, dim: int, weighted: bool):
    k, n = key(0), sum(lengths)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    factors = uniform(fold_in(k, "f"), n, -1.0, 1.0) if weighted else None
    return normal(fold_in(k, "w"), (rows, dim)), randint(fold_in(k, "i"), n, 0, rows).int(), offsets, factors


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernel runs on the GPU, not in the interpreter")
@settings(max_examples=20)
@given(
    st.lists(st.integers(0, 9) | st.just(0), min_size=1, max_size=20),
    st.sampled_from([1, 33, 100, 130]),
    st.booleans(),
    st.integers(0, 5),
)
def test_every_bag_is_the_sum_of_its_rows(lengths, dim, weighted, which) -> None:
    """Two and more programs, each of a few bags: empty ones, long ones beside short ones."""
    weight, ids, offsets, factors = bags(lengths, 11, dim, weighted)
    with interpreting():
        from funcrec.kernels.gpu import lookup as kernel

        out = kernel.pooled(weight, ids, offsets, factors, kernel.PLANS[which % len(kernel.PLANS)])
    for b in range(len(lengths)):
        at = slice(int(offsets[b]), int(offsets[b + 1]))
        f = 1.0 if factors is None else factors[at].double().unsqueeze(1)
        total = (weight[ids[at].long()].double() * f).sum(0)
        torch.testing.assert_close(out[b].double(), total, rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_every_plan_on_the_gpu(dtype) -> None:
    from funcrec.kernels.gpu import lookup as kernel

    lengths = [*randint(key(3), 3001, 0, 20).tolist(), 5000, 0, 1]
    for dim in (1, 16, 33, 128, 200):
        weight, ids, offsets, factors = (x if x is None else x.cuda() for x in bags(lengths, 999, dim, dim != 16))
        assert weight is not None
        weight = weight.to(dtype)
        expected = lookup.pooled_reference(weight.double(), ids, offsets, factors)  # type: ignore[arg-type]
        for plan in kernel.PLANS:
            out = kernel.pooled(weight, ids, offsets, factors, plan)  # type: ignore[arg-type]
            assert out.dtype == dtype
            ratio = (out.double() - expected).norm() / expected.norm()
            assert ratio < (1e-6 if dtype == torch.float32 else 4e-3), (dim, plan)
            again = kernel.pooled(weight, ids, offsets, factors, plan)  # type: ignore[arg-type]
            assert torch.equal(out, again)
