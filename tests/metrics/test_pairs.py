"""XAUC: exact counts against a double loop, sampled ones against their expectation."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from funcrec import metrics
from funcrec.core import random
from funcrec.core.errors import ConfigError, DataError, KeyMissingError
from funcrec.metrics.pairs import concordant
from tests.metrics.drawn import Rows, evaluate, make_rows, rows, take

quick = settings(max_examples=30, deadline=None)


def loop_pairs(predictions: Tensor, labels: Tensor) -> tuple[int, int]:
    """Pairs in the same strict order, and all pairs."""
    right = total = 0
    columns = list(zip(predictions.tolist(), labels.tolist(), strict=True))
    for i, (p, y) in enumerate(columns):
        for q, z in columns[:i]:
            right += (p > q and y > z) or (p < q and y < z)
            total += 1
    return right, total


@quick
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 6), st.integers(1, 4))
def test_concordant_is_a_double_loop(seed: int, n: int, levels: int, n_groups: int) -> None:
    g = torch.Generator().manual_seed(seed)
    p, y = torch.randint(0, levels, (2, n), generator=g).float()
    group = torch.randint(0, n_groups, (n,), generator=g)
    expected = [loop_pairs(p[group == k], y[group == k])[0] for k in range(n_groups)]
    assert concordant(p, y, group, n_groups).tolist() == expected


@quick
@given(rows)
def test_xauc_and_grouped_xauc_are_double_loops(r: Rows) -> None:
    ratings = r._replace(labels=torch.round(r.weights * r.predictions * 4))
    right, total = loop_pairs(ratings.predictions, ratings.labels)
    assert float(evaluate(metrics.xauc(), ratings)) == pytest.approx(right / total)
    shares, sizes = [], []
    for k in ratings.groups.unique():
        part = take(ratings, ratings.groups == k)
        if len(part.labels) > 1:
            right, total = loop_pairs(part.predictions, part.labels)
            shares.append(right / total * len(part.labels))
            sizes.append(len(part.labels))
    got = float(evaluate(metrics.grouped_xauc(undefined="nan"), ratings))
    if sizes:
        assert got == pytest.approx(sum(shares) / sum(sizes))
    else:
        assert got != got


def test_on_binary_labels_without_ties_it_is_auc_on_the_mixed_pairs() -> None:
    g = torch.Generator().manual_seed(0)
    p, y = torch.rand(50, generator=g), torch.arange(50) % 2
    r = make_rows(0, 50)._replace(predictions=p, labels=y)
    torch.testing.assert_close(evaluate(metrics.xauc(), r), evaluate(metrics.auc(), r) * 25 * 25 / (25 * 49))


def test_products_that_underflow_still_count() -> None:
    tiny = torch.tensor([0.0, 1e-30])
    metric = metrics.xauc(max_pairs=1, key=random.key(0))
    assert float(metric.compute(metric.update(metric.init(), tiny, tiny))) == 1.0
    three = torch.tensor([0.0, 1e-30, 2e-30])
    assert float(metric.compute(metric.update(metric.init(), three, three))) == 1.0


def test_sampled_pairs_are_unbiased_and_reproducible() -> None:
    g = torch.Generator().manual_seed(1)
    n, draws = 300_000, 40_000  # 4.5e10 pairs, far above 2**24
    p = torch.rand(n, generator=g)
    r = Rows(p, p + torch.randn(n, generator=g), p, torch.arange(n) % 3)
    exact = float(evaluate(metrics.xauc(), take(r, slice(30_000))))
    sampled = evaluate(metrics.xauc(max_pairs=draws, key=random.key(5)), r)
    sigma = (exact * (1 - exact) / draws) ** 0.5
    assert abs(float(sampled) - exact) < 5 * sigma + 0.01
    assert sampled == evaluate(metrics.xauc(max_pairs=draws, key=random.key(5)), r)
    assert sampled != evaluate(metrics.xauc(max_pairs=draws, key=random.key(6)), r)
    grouped = evaluate(metrics.grouped_xauc(max_pairs_per_group=draws, key=random.key(5)), r)
    assert abs(float(grouped) - exact) < 5 * sigma + 0.01


def test_the_sample_draws_every_pair_and_no_row_with_itself() -> None:
    """Any pair of one row with itself would be a tie and lower the share below 1."""
    p = torch.arange(7.0)
    r = Rows(p, p, p, torch.zeros(7, dtype=torch.int64))
    assert float(evaluate(metrics.xauc(max_pairs=20, key=random.key(0)), r)) == 1.0
    swapped = p.clone()
    swapped[[2, 5]] = swapped[[5, 2]]
    share = evaluate(metrics.xauc(max_pairs=20, key=random.key(1)), r._replace(predictions=swapped))
    mean = sum(
        float(evaluate(metrics.xauc(max_pairs=20, key=random.key(s)), r._replace(predictions=swapped)))
        for s in range(200)
    )
    assert share < 1
    assert abs(mean / 200 - 16 / 21) < 5 * (16 * 5 / 21**2 / 4000) ** 0.5


def test_groups_within_the_limit_are_exact_beside_sampled_ones() -> None:
    small, large = make_rows(1, 4), make_rows(2, 60, levels=1000)
    r = Rows(*(torch.cat([x, y]) for x, y in zip(small, large, strict=True)))
    r.groups[:] = torch.tensor([9] * 4 + [-3] * 60)
    r.labels[4:] = 0  # every pair of the large group is a tie
    got = evaluate(metrics.grouped_xauc(max_pairs_per_group=6, key=random.key(0)), r)
    right, total = loop_pairs(small.predictions, small.labels)
    assert float(got) == pytest.approx(right / total * 4 / 64)


def test_in_batch_is_the_mean_of_batches() -> None:
    r = make_rows(8, 11)
    metric = metrics.xauc(in_batch=True)
    shares = [loop_pairs(r.predictions[i : i + 5], r.labels[i : i + 5]) for i in (0, 5)]  # and a batch of one row
    expected = sum(a / b for a, b in shares) / 2
    assert float(evaluate(metric, r, batch=5)) == pytest.approx(expected)


def test_options() -> None:
    with pytest.raises(ConfigError, match="at most one"):
        metrics.xauc(in_batch=True, max_pairs=3, key=random.key(0))
    with pytest.raises(ConfigError, match="ratio in"):
        metrics.xauc(sample_ratio=1.5, key=random.key(0))
    with pytest.raises(ConfigError, match="max_pairs_per_group"):
        metrics.grouped_xauc(max_pairs_per_group=0, key=random.key(0))
    with pytest.raises(KeyMissingError, match="key"):
        metrics.xauc(sample_ratio=0.1)
    one = take(make_rows(0, 2), slice(1))
    for metric in (metrics.xauc(), metrics.xauc(in_batch=True), metrics.grouped_xauc()):
        with pytest.raises(DataError, match="at least two"):
            evaluate(metric, one)
