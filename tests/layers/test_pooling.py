"""Laws of pooling: slow loops, padded = ragged, and padding that nothing can leak from."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import grad

from funcrec.core.errors import ConfigError, ShapeError
from funcrec.core.ragged import Ragged
from funcrec.layers.pooling import Pool, pool_padded, pool_ragged
from tests.layers.cases import noise

each_kind = pytest.mark.parametrize("kind", ["sum", "mean", "max"])
lengths_lists = st.lists(st.integers(0, 4), min_size=1, max_size=5)


def sequences(lengths: list[int], d: int = 3) -> tuple[Ragged, Tensor, Tensor]:
    """The same sequences ragged, and padded with NaN, with their mask."""
    values = noise(1, sum(lengths), d)
    rows = Ragged.from_lengths(values, torch.tensor(lengths))
    mask = torch.arange(4) < torch.tensor(lengths)[:, None]
    padded = values.new_full((len(lengths), 4, d), torch.nan)
    padded[mask] = values
    return rows, padded, mask


def slow(rows: Ragged, kind: Pool) -> Tensor:
    out = []
    for start, end in zip(rows.offsets[:-1].tolist(), rows.offsets[1:].tolist(), strict=True):
        row = rows.values[start:end]
        pooled = {"sum": lambda r: r.sum(0), "mean": lambda r: r.mean(0), "max": lambda r: r.amax(0)}[kind]
        out.append(pooled(row) if len(row) else row.new_zeros(row.shape[1]))
    return torch.stack(out)


@each_kind
@settings(max_examples=20, deadline=None)
@given(lengths=lengths_lists)
def test_both_forms_are_the_loop(kind: Pool, lengths: list[int]) -> None:
    rows, padded, mask = sequences(lengths)
    torch.testing.assert_close(pool_ragged(rows, kind), slow(rows, kind))
    torch.testing.assert_close(pool_padded(padded, mask, kind), slow(rows, kind))


@each_kind
def test_gradients_of_both_forms_agree_and_padding_has_none(kind: Pool) -> None:
    rows, padded, mask = sequences([2, 0, 4])
    weights = noise(5, 3, 3)
    by_padded = grad(lambda x: (weights * pool_padded(x, mask, kind)).sum())(padded)
    by_ragged = grad(lambda v: (weights * pool_ragged(Ragged(v, rows.offsets), kind)).sum())(rows.values)
    torch.testing.assert_close(by_padded[mask], by_ragged)
    assert (by_padded[~mask] == 0).all()


@each_kind
def test_histories_without_any_step_are_zero(kind: Pool) -> None:
    """Of either form, gradients included: T = 0, and no value at all."""
    none, mask = noise(1, 2, 0, 3), torch.zeros(2, 0, dtype=torch.bool)
    torch.testing.assert_close(pool_padded(none, mask, kind), none.new_zeros(2, 3), rtol=0, atol=0)
    assert grad(lambda x: pool_padded(x, mask, kind).sum())(none).shape == (2, 0, 3)
    offsets = torch.zeros(3, dtype=torch.int64)
    torch.testing.assert_close(pool_ragged(Ragged(none[0], offsets), kind), none.new_zeros(2, 3), rtol=0, atol=0)


@each_kind
def test_the_order_within_a_row_does_not_matter(kind: Pool) -> None:
    rows, padded, mask = sequences([3, 1, 4])
    torch.testing.assert_close(pool_padded(padded.flip(1), mask.flip(1), kind), pool_padded(padded, mask, kind))
    reverse = torch.cat([torch.arange(s, e).flip(0) for s, e in ((0, 3), (3, 4), (4, 8))])
    torch.testing.assert_close(pool_ragged(Ragged(rows.values[reverse], rows.offsets), kind), pool_ragged(rows, kind))


def test_ties_of_the_maximum_share_its_gradient() -> None:
    tied = torch.ones(1, 3, 1, dtype=torch.float64)
    mask = torch.tensor([[True, True, False]])
    by_padded = grad(lambda x: pool_padded(x, mask, "max").sum())(tied)
    by_ragged = grad(lambda v: pool_ragged(Ragged(v, torch.tensor([0, 2])), "max").sum())(tied[0, :2])
    torch.testing.assert_close(by_padded[0, :2], by_ragged)
    torch.testing.assert_close(by_ragged, torch.full_like(by_ragged, 0.5))


def test_weights_of_a_ragged_row() -> None:
    rows, _, _ = sequences([2, 0, 3])
    weights = noise(2, 5).abs()
    weighted = Ragged(rows.values, rows.offsets, weights)
    scaled = Ragged(rows.values * weights[:, None], rows.offsets)
    torch.testing.assert_close(pool_ragged(weighted, "sum"), pool_ragged(scaled, "sum"))
    totals = torch.stack([weights[:2].sum(), weights.new_ones(()), weights[2:].sum()])
    torch.testing.assert_close(pool_ragged(weighted, "mean"), pool_ragged(scaled, "sum") / totals[:, None])
    with pytest.raises(ConfigError, match="weighted"):
        pool_ragged(weighted, "max")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_long_rows_in_half_precision_are_counted_in_single(dtype: torch.dtype) -> None:
    """A count one by one stops at 256 or 2048."""
    values = torch.ones(5003, 2, dtype=dtype)
    rows = Ragged(values, torch.tensor([0, 5000, 5003]))
    for weights in (None, torch.full((5003,), 0.25, dtype=dtype)):
        y = pool_ragged(Ragged(values, rows.offsets, weights), "mean")
        assert y.dtype == dtype
        torch.testing.assert_close(y, torch.ones_like(y))


def test_errors() -> None:
    rows, padded, mask = sequences([2, 1])
    with pytest.raises(ConfigError, match="got 'min'"):
        pool_padded(padded, mask, "min")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="got 'min'"):
        pool_ragged(rows, "min")  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="mask"):
        pool_padded(padded, mask.long())
    with pytest.raises(ShapeError, match="mask"):
        pool_padded(padded, mask[:, :3])
    with pytest.raises(ShapeError, match=r"padded steps: got \(2, 4\), expected \[b, t, d\]"):
        pool_padded(padded[..., 0], mask)
    with pytest.raises(ShapeError, match="values"):
        pool_ragged(Ragged(torch.arange(3), torch.tensor([0, 3])))
