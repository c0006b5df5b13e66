"""Log losses, errors, accuracy, recall and calibration: against scikit-learn, torchmetrics and their definitions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import mean_absolute_error, mean_squared_error
from torch import Tensor

from funcrec import metrics
from funcrec.metrics import Metric
from tests.metrics.drawn import Rows, evaluate, make_rows, rows

quick = settings(max_examples=30, deadline=None)


def once(metric: Metric, predictions: Tensor, labels: Tensor, weights: Tensor | None = None) -> float:
    return float(metric.compute(metric.update(metric.init(), predictions, labels, weights)))


@quick
@given(rows)
def test_sklearn(r: Rows) -> None:
    p, y, w = r.predictions, r.labels, r.weights
    expected = sklearn_log_loss(y, p, sample_weight=w, labels=[0, 1])  # zeros among the probabilities
    assert once(metrics.log_loss(), p, y, w) == pytest.approx(expected, rel=1e-12)
    z = 20 * p - 7
    expected = sklearn_log_loss(y, torch.sigmoid(z), sample_weight=w, labels=[0, 1])
    assert once(metrics.log_loss_from_logits(), z, y, w) == pytest.approx(expected, rel=1e-9)
    expected = mean_absolute_error(y, z, sample_weight=w)
    assert once(metrics.mean_absolute_error(), z, y, w) == pytest.approx(expected, rel=1e-12)
    assert once(metrics.mean_squared_error(), z, y, w) == pytest.approx(mean_squared_error(y, z, sample_weight=w))


def test_log_loss_clamps_by_the_dtype_of_the_predictions() -> None:
    for dtype in (torch.float32, torch.float64):
        p, y = torch.tensor([0.0, 1.0], dtype=dtype), torch.tensor([1, 0])
        assert once(metrics.log_loss(), p, y) == pytest.approx(
            sklearn_log_loss(y.numpy(), p.numpy(), labels=[0, 1]), rel=1e-6
        )
    assert once(metrics.log_loss(eps=0.25), torch.tensor([0.0]), torch.tensor([1])) == pytest.approx(1.3862943611)


def test_log_loss_of_extreme_logits_is_not_clamped() -> None:
    got = once(metrics.log_loss_from_logits(), torch.tensor([500.0, -500.0, 30.0]), torch.tensor([0, 1, 1]))
    assert got == pytest.approx((1000 + 9.357622968840175e-14) / 3, rel=1e-15)


@quick
@given(rows)
def test_the_base_rate_has_normalized_entropy_one(r: Rows) -> None:
    rate = (r.weights * r.labels).sum() / r.weights.sum()
    constant = r._replace(predictions=torch.full_like(r.predictions, float(rate)))
    assert float(evaluate(metrics.normalized_entropy(), constant, weighted=True)) == pytest.approx(1.0, abs=1e-12)
    assert float(evaluate(metrics.calibration(), constant, weighted=True)) == pytest.approx(1.0, abs=1e-12)
    error = evaluate(metrics.expected_calibration_error(), constant, weighted=True)
    assert float(error) == pytest.approx(0.0, abs=1e-12)


@quick
@given(rows)
def test_normalized_entropy_is_a_ratio_of_log_losses(r: Rows) -> None:
    rate = (r.weights * r.labels).sum() / r.weights.sum()
    p = r.predictions.clamp(0.01, 0.99)
    over = once(metrics.log_loss(), p, r.labels, r.weights)
    under = once(metrics.log_loss(), torch.full_like(p, float(rate)), r.labels, r.weights)
    assert once(metrics.normalized_entropy(), p, r.labels, r.weights) == pytest.approx(over / under)


@quick
@given(rows, st.sampled_from([1, 4, 10]))
def test_calibration_errors(torchmetrics, r: Rows, n_bins: int) -> None:
    p, y, w = r.predictions, r.labels, r.weights
    assert once(metrics.calibration(), p, y, w) == pytest.approx(float((w * p).sum() / (w * y).sum()))
    got = once(metrics.expected_calibration_error(n_bins=n_bins), p.float(), y)
    expected = torchmetrics.binary_calibration_error(p.float(), y, n_bins=n_bins, norm="l1")
    assert got == pytest.approx(float(expected), abs=1e-6)


def test_the_last_bin_holds_its_upper_edge() -> None:
    """0.95 and 1 are in one bin, so their errors cancel."""
    p, y = torch.tensor([0.95, 1.0]), torch.tensor([1, 0])
    got = once(metrics.expected_calibration_error(n_bins=10), p, y)
    assert got == pytest.approx(0.95 / 2)


@quick
@given(st.integers(0, 10**6), st.integers(1, 4))
def test_accuracy_is_that_of_torchmetrics(torchmetrics, seed: int, k: int) -> None:
    g = torch.Generator().manual_seed(seed)
    scores, y = torch.randn(20, 5, generator=g), torch.randint(0, 5, (20,), generator=g)
    expected = torchmetrics.multiclass_accuracy(scores, y, num_classes=5, top_k=k, average="micro")
    assert once(metrics.accuracy(top_k=k), scores, y) == pytest.approx(float(expected))
    p, y = torch.rand(20, generator=g), torch.randint(0, 2, (20,), generator=g)
    p[0] = 0.25 * k
    expected = torchmetrics.binary_accuracy(p, y, threshold=0.25 * k)
    assert once(metrics.accuracy(threshold=0.25 * k), p, y) == pytest.approx(float(expected))
    assert once(metrics.accuracy(threshold=0.25 * k), p[:, None], y) == pytest.approx(float(expected))


@quick
@given(st.integers(0, 10**6), st.integers(1, 6), st.sampled_from([3, 1000]))
def test_recall_is_its_mean_over_random_breaks_of_ties(seed: int, k: int, levels: int) -> None:
    """Exactly so: the share of a place is that of all orders of the candidates."""
    g = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, levels, (4, 6), generator=g).float()
    relevant = torch.randint(0, 2, (4, 6), generator=g)
    relevant[0, 0] = 1
    w = torch.rand(4, generator=g)
    hits = 0.0
    for s, r, v in zip(scores.tolist(), relevant.tolist(), w.tolist(), strict=True):
        for score, hit in zip(s, r, strict=True):
            above, level = sum(x > score for x in s), s.count(score)
            hits += v * hit * min(1.0, max(0.0, (k - above) / level))
    expected = hits / float((w[:, None] * relevant).sum())
    assert once(metrics.recall_at_k(k), scores, relevant, w) == pytest.approx(expected, rel=1e-6)
    order = torch.randperm(6, generator=g)
    assert once(metrics.recall_at_k(k), scores[:, order], relevant[:, order], w) == pytest.approx(expected, rel=1e-6)


def test_a_constant_model_is_not_rewarded_for_the_order_of_the_columns() -> None:
    flat, y = torch.zeros(4, 4), torch.zeros(4, dtype=torch.int64)
    assert once(metrics.accuracy(), flat, y) == 0.25
    assert once(metrics.recall_at_k(2), flat, torch.eye(4)) == 0.5


def test_half_precision_predictions_are_read_exactly() -> None:
    r = make_rows(0, 20)
    for metric in (metrics.log_loss(eps=1e-6), metrics.auc(), metrics.mean_squared_error(), metrics.binned_auc()):
        half = evaluate(metric, r._replace(predictions=r.predictions.to(torch.bfloat16)))
        torch.testing.assert_close(half, evaluate(metric, r))
