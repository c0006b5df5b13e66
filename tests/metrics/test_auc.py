"""AUC in its four forms: against loops over pairs, scikit-learn, torchmetrics, and its invariances."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import Tensor

from funcrec import metrics
from funcrec.metrics.binned import bins
from tests.metrics.drawn import Rows, evaluate, make_rows, rows, take

quick = settings(max_examples=30, deadline=None)


def loop_auc(r: Rows) -> float:
    """NaN without a pair."""
    right = total = 0.0
    columns = list(zip(r.predictions.tolist(), r.labels.tolist(), r.weights.tolist(), strict=True))
    for p, y, w in columns:
        for q, z, v in columns:
            if y == 1 and z == 0:
                right += w * v * ((p > q) + 0.5 * (p == q))
                total += w * v
    return right / total if total else float("nan")


@quick
@given(rows)
def test_auc_is_a_loop_over_pairs_and_that_of_sklearn(r: Rows) -> None:
    weighted = float(evaluate(metrics.auc(), r, weighted=True))
    assert weighted == pytest.approx(loop_auc(r), rel=1e-12)
    assert weighted == pytest.approx(roc_auc_score(r.labels, r.predictions, sample_weight=r.weights), rel=1e-9)
    assert float(evaluate(metrics.auc(), r)) == pytest.approx(roc_auc_score(r.labels, r.predictions), rel=1e-9)


@quick
@given(rows)
def test_gauc_is_a_loop_over_groups(r: Rows) -> None:
    parts = [take(r, r.groups == g) for g in r.groups.unique()]
    mixed = [p for p in parts if len(p.labels.unique()) == 2]
    if not mixed:
        assert evaluate(metrics.gauc(undefined="nan"), r, weighted=True).isnan()
        return
    areas = [loop_auc(p) for p in mixed]
    sizes = [float(p.weights.sum()) for p in mixed]
    macro = evaluate(metrics.gauc(), r, weighted=True)
    assert float(macro) == pytest.approx(sum(areas) / len(areas), rel=1e-12)
    by_size = evaluate(metrics.gauc(average="weighted"), r, weighted=True)
    expected = sum(a * s for a, s in zip(areas, sizes, strict=True)) / sum(sizes)
    assert float(by_size) == pytest.approx(expected, rel=1e-12)


@quick
@given(rows)
def test_invariances(r: Rows) -> None:
    metric = metrics.auc()
    value = evaluate(metric, r, weighted=True)
    close = lambda x: torch.testing.assert_close(x, value, rtol=1e-12, atol=0)  # noqa: E731
    for increasing in (torch.exp, lambda x: 5 * x - 3, lambda x: torch.where(x > 0.5, torch.inf, x)):
        mapped: Tensor = increasing(r.predictions)
        if len(mapped.unique()) == len(r.predictions.unique()):
            close(evaluate(metric, r._replace(predictions=mapped), weighted=True))
    close(evaluate(metric, r._replace(predictions=1 - r.predictions, labels=1 - r.labels), weighted=True))
    torch.testing.assert_close(evaluate(metric, r._replace(predictions=-r.predictions), weighted=True), 1 - value)
    one_group = r._replace(groups=torch.full_like(r.groups, -7))
    close(evaluate(metrics.gauc(), one_group, weighted=True))
    close(evaluate(metrics.gauc(average="weighted"), one_group, weighted=True))


def test_rows_of_weight_zero_are_absent() -> None:
    r = make_rows(3, 20)
    more = Rows(*(torch.cat([x, y]) for x, y in zip(r, make_rows(4, 20), strict=True)))
    more.weights[20:] = 0
    for metric in (metrics.auc(), metrics.gauc(), metrics.gauc(average="weighted"), metrics.binned_auc()):
        torch.testing.assert_close(evaluate(metric, more, weighted=True), evaluate(metric, r, weighted=True))


def test_a_light_group_does_not_drown_in_heavy_ones() -> None:
    r = make_rows(5, 12)
    both = Rows(*(torch.cat([x, x]) for x in r))
    both.groups[:] = torch.arange(2).repeat_interleave(12)
    both.weights[:12] *= 1e20
    torch.testing.assert_close(
        evaluate(metrics.gauc(), both, weighted=True), torch.tensor(loop_auc(r), dtype=torch.float64)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@quick
@given(seed=st.integers(0, 10**6), thresholds=st.sampled_from([2, 7, 200]))
def test_binned_auc_is_that_of_torchmetrics(torchmetrics, dtype: torch.dtype, seed: int, thresholds: int) -> None:
    r = make_rows(seed, 40, levels=199)  # on and between the thresholds, below 1
    p = r.predictions.to(dtype)
    got = evaluate(metrics.binned_auc(thresholds=thresholds), r._replace(predictions=p))
    expected = torchmetrics.binary_auroc(p, r.labels, thresholds=thresholds)
    torch.testing.assert_close(got.float(), expected)


@quick
@given(rows, st.sampled_from([2, 5, 50]))
def test_binned_auc_is_the_exact_one_of_rounded_scores(r: Rows, thresholds: int) -> None:
    r.predictions[0] = 1.0  # where torchmetrics loses the first trapezoid of the curve
    rounded = bins(r.predictions, thresholds).double()
    got = evaluate(metrics.binned_auc(thresholds=thresholds), r, weighted=True)
    exact = evaluate(metrics.auc(), r._replace(predictions=rounded), weighted=True)
    torch.testing.assert_close(got, exact, rtol=1e-12, atol=0)


@pytest.mark.parametrize("average", ["macro", "weighted"])
@quick
@given(seed=st.integers(0, 10**6))
def test_multiclass_auc_is_that_of_torchmetrics(torchmetrics, average, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    p = torch.softmax(torch.randn(25, 3, generator=g), 1)
    y = torch.cat([torch.arange(3), torch.randint(0, 3, (22,), generator=g)])
    metric = metrics.multiclass_auc(3, thresholds=20, average=average)
    got = metric.compute(metric.update(metric.init(), p, y))
    expected = torchmetrics.multiclass_auroc(p, y, num_classes=3, thresholds=20, average=average)
    torch.testing.assert_close(got.float(), expected)


def test_multiclass_auc_averages_one_against_the_rest() -> None:
    g = torch.Generator().manual_seed(0)
    p, y = torch.softmax(torch.randn(30, 3, generator=g), 1), torch.arange(30) % 3
    w = torch.rand(30, generator=g)
    areas, sizes = [], []
    for c in range(3):
        one = metrics.binned_auc()
        areas.append(one.compute(one.update(one.init(), p[:, c], y == c, w)))
        sizes.append(w[y == c].double().sum())
    size = torch.stack(sizes)
    for average, expected in [
        ("macro", torch.stack(areas).mean()),
        ("weighted", (torch.stack(areas) * size).sum() / size.sum()),
    ]:
        metric = metrics.multiclass_auc(3, average=average)  # type: ignore[arg-type]
        first = metric.update(metric.init(), p[:11], y[:11], w[:11])
        both = metric.merge(first, metric.update(metric.init(), p[11:], y[11:], w[11:]))
        torch.testing.assert_close(metric.compute(both), expected)
