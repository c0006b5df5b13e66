"""Ragged rows: selection, conversion, and segment sums against plain loops."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from funcrec.core.errors import ShapeError
from funcrec.core.ragged import Nested, Ragged, concat_ids, rows_at, segment_mean, segment_sum

rows = st.lists(st.lists(st.integers(0, 99), max_size=5), min_size=1, max_size=8)


def ragged(rs: list[list[int]], weighted: bool = False) -> Ragged:
    flat = [x for r in rs for x in r]
    weights = torch.arange(1.0, len(flat) + 1) if weighted else None
    return Ragged.from_lengths(torch.tensor(flat, dtype=torch.int64), torch.tensor([len(r) for r in rs]), weights)


def as_lists(x: Ragged) -> list[list[int]]:
    return [x.values[a:b].tolist() for a, b in zip(x.offsets[:-1], x.offsets[1:], strict=True)]


@given(rows, st.data())
def test_select_takes_rows_with_their_weights(rs, data):
    x = ragged(rs, weighted=True)
    index = data.draw(st.lists(st.integers(0, len(rs) - 1), max_size=6))
    y = x.select(torch.tensor(index, dtype=torch.int64))
    assert as_lists(y) == [rs[i] for i in index]
    assert x.weights is not None
    assert y.weights is not None
    slices = [x.weights[x.offsets[i] : x.offsets[i + 1]].tolist() for i in index]
    assert y.weights.tolist() == [w for s in slices for w in s]


@given(rows.filter(lambda rs: any(rs)))
def test_nested_tensors_round_trip(rs):
    x = ragged(rs, weighted=True)
    y = Ragged.from_nested(*x.to_nested())
    assert as_lists(y) == rs
    assert x.weights is not None
    assert y.weights is not None
    assert torch.equal(y.weights, x.weights)


@given(rows)
def test_segment_sum_and_mean_are_the_loops(rs):
    x = ragged(rs, weighted=True)
    v = torch.randn(x.values.numel(), 3, dtype=torch.float64)
    assert x.weights is not None
    w = x.weights.double()
    total, mean = segment_sum(v, x.segments(), len(x)), segment_mean(v, x.segments(), len(x), w)
    for b in range(len(rs)):
        s = slice(int(x.offsets[b]), int(x.offsets[b + 1]))
        torch.testing.assert_close(total[b], v[s].sum(0))
        expected = (v[s] * w[s, None]).sum(0) / w[s].sum() if rs[b] else torch.zeros(3, dtype=torch.float64)
        torch.testing.assert_close(mean[b], expected)


def test_bad_parts_are_named():
    with pytest.raises(ShapeError, match="sum 3, expected 2 values"):
        Ragged.from_lengths(torch.tensor([1, 2]), torch.tensor([1, 2]))
    with pytest.raises(ShapeError, match="one weight a value"):
        Ragged(torch.tensor([1, 2]), torch.tensor([0, 2]), torch.ones(3))
    with pytest.raises(ShapeError, match="offsets"):
        Ragged(torch.tensor([1, 2]), torch.tensor([0.0, 2.0]))


@given(st.lists(rows.map(lambda bags: bags[:4]), min_size=1, max_size=5), st.data())
def test_nested_rows_are_taken_with_all_their_bags(histories, data):
    x = Nested.from_lengths(ragged([bag for h in histories for bag in h]), torch.tensor([len(h) for h in histories]))
    index = data.draw(st.lists(st.integers(0, len(histories) - 1), max_size=6))
    y = x.select(torch.tensor(index, dtype=torch.int64))
    bags = as_lists(y.bags)
    assert [bags[a:b] for a, b in zip(y.offsets[:-1], y.offsets[1:], strict=True)] == [histories[i] for i in index]
    assert y.lengths.tolist() == [len(histories[i]) for i in index]
    with pytest.raises(ShapeError, match="nested offsets"):
        Nested(x.bags, x.offsets.float())


@given(rows, st.data())
def test_rows_at_takes_rows_and_is_the_adjoint_of_segment_sum(rs, data):
    x = ragged(rs)
    segments, n = x.segments(), len(x)
    inner = data.draw(st.sampled_from([(), (3,), (2, 3)]))
    row, value = (torch.randn(k, *inner, dtype=torch.float64) for k in (n, segments.shape[0]))
    taken = rows_at(row, segments)
    assert torch.equal(taken, row[segments])
    torch.testing.assert_close((taken * value).sum(), (row * segment_sum(value, segments, n)).sum())


def test_forward_over_reverse_of_rows_and_sums_compiles_with_inductor():
    w, direction = torch.randn(2, 37, 5)
    ids, segments = torch.randint(37, (50,)), torch.randint(9, (50,))
    loss = lambda w: torch.sin(segment_sum(rows_at(w, ids), segments, 9)).square().sum()  # noqa: E731
    hvp = lambda w: torch.func.jvp(torch.func.grad(loss), (w,), (direction,))[1]  # noqa: E731
    torch.testing.assert_close(torch.compile(hvp, fullgraph=True)(w), hvp(w), rtol=1e-4, atol=1e-5)


@given(kinds=st.lists(st.sampled_from(["one", "bags", "weighted"]), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_batches_of_one_feature_are_joined_whatever_their_form(kinds: list[str], seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    parts: list[torch.Tensor | Ragged] = []
    expected: list[list[tuple[int, float]]] = []
    for kind in kinds:
        lengths = torch.ones(3, dtype=torch.int64) if kind == "one" else torch.randint(0, 3, (3,), generator=g)
        values = torch.randint(0, 9, (int(lengths.sum()),), generator=g)
        weights = torch.rand(values.shape, generator=g) if kind == "weighted" else None
        parts.append(values if kind == "one" else Ragged.from_lengths(values, lengths, weights))
        factors = torch.ones(values.shape) if weights is None else weights
        pairs = list(zip(values.tolist(), factors.tolist(), strict=True))
        ends = [0, *lengths.cumsum(0).tolist()]
        expected += [pairs[a:b] for a, b in pairwise(ends)]
    joined = concat_ids(parts)
    assert isinstance(joined, torch.Tensor) == (set(kinds) == {"one"})
    assert len(joined) == len(expected)
    assert not isinstance(joined, Nested)
    bags = Ragged(joined, torch.arange(len(joined) + 1)) if isinstance(joined, torch.Tensor) else joined
    factors = torch.ones(bags.values.shape) if bags.weights is None else bags.weights
    pairs, ends = list(zip(bags.values.tolist(), factors.tolist(), strict=True)), bags.offsets.tolist()
    assert [pairs[a:b] for a, b in pairwise(ends)] == expected


def test_bags_a_step_and_bags_a_row_are_not_joined() -> None:
    bag = Ragged.from_lengths(torch.arange(2), torch.tensor([1, 1]))
    with pytest.raises(ShapeError, match=r"several batches: got \['Nested', 'Ragged'\]"):
        concat_ids([Nested.from_lengths(bag, torch.tensor([2, 0])), bag])
