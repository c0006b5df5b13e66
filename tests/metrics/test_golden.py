"""Values of the metrics' originals, from their published tests."""

from __future__ import annotations

import pytest
import torch

from funcrec import metrics
from funcrec.core import random
from funcrec.core.errors import DataError
from funcrec.metrics import Metric

SCORES = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
CLICKS = torch.tensor([1, 0, 1, 0, 0, 0, 1, 1])
OTHER = torch.tensor([1, 0, 1, 0, 1, 0, 1, 0])
GROUPS = torch.tensor([1, 2, 2, 1, 3, 3, 4, 4])
RATINGS = torch.tensor([0.2, 0.3, 0.5, 0.4, 0.3, 0.2, 0.8, 0.9])


def once(metric: Metric, predictions, labels, groups=None) -> float:
    state = metric.update(metric.init(), torch.as_tensor(predictions), torch.as_tensor(labels), groups=groups)
    return float(metric.compute(state))


def test_two_rows() -> None:
    probabilities, labels = torch.sigmoid(torch.tensor([0.2, 0.3])), torch.tensor([0, 1])
    assert once(metrics.auc(), probabilities, labels) == 1.0
    assert once(metrics.gauc(), probabilities, labels, torch.tensor([5, 5])) == 1.0
    assert once(metrics.accuracy(), probabilities, labels) == 0.5
    assert once(metrics.mean_absolute_error(), torch.tensor([0.2, 0.3]), labels) == pytest.approx(0.45)
    assert once(metrics.mean_squared_error(), torch.tensor([0.2, 0.3]), labels) == pytest.approx(0.2650)


def test_gauc() -> None:
    assert once(metrics.gauc(), SCORES, CLICKS, GROUPS) == 0.5


@pytest.mark.parametrize(
    ("p", "y", "expected"),
    [
        ([0.1, 0.4, 0.6, 0.9], [0, 0, 1, 1], 0.44448435),
        ([0.2, 0.5, 0.8], [0, 1, 1], 0.59670544),
        ([0.3, 0.7], [0, 1], 0.51457322),
        ([0.5] * 8, [0, 1, 0, 1, 1, 0, 1, 0], 1.0),
        ([0.0, 1.0, 0.0], [0, 1, 0], 0.0),
    ],
)
def test_normalized_entropy(p, y, expected) -> None:
    assert once(metrics.normalized_entropy(), p, y) == pytest.approx(expected, abs=1e-6)


def test_recall_at_2() -> None:
    scores = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]])
    relevant = torch.tensor([[True, False, False, False], [True, False, False, False]])
    assert once(metrics.recall_at_k(2), scores, relevant) == 0.5


def test_xauc() -> None:
    assert once(metrics.xauc(), SCORES, RATINGS) == pytest.approx(19 / 28)
    assert once(metrics.xauc(in_batch=True), SCORES, RATINGS) == pytest.approx(0.6786, abs=1e-4)
    assert once(metrics.xauc(sample_ratio=1.0, key=random.key(0)), SCORES, RATINGS) == pytest.approx(19 / 28)
    assert once(metrics.grouped_xauc(), SCORES, RATINGS, GROUPS) == 0.75


def test_decayed_auc() -> None:
    metric = metrics.decayed_auc(thresholds=10, decay_rate=0.9, decay_step=1)
    state = metric.init()
    with pytest.raises(DataError, match="0 rows"):  # the original reports 0 here
        metric.compute(state)
    for labels, expected in [(CLICKS, 0.5625), (CLICKS, 0.5625), (OTHER, 0.5437)]:
        state = metric.update(state, SCORES, labels)
        assert float(metric.compute(state)) == pytest.approx(expected, abs=1e-4)


def test_decayed_mean_absolute_error() -> None:
    metric = metrics.decayed(metrics.mean_absolute_error(), decay_rate=0.9, decay_step=1)
    state = metric.update(metric.init(), SCORES, SCORES - 0.1)
    assert float(metric.compute(state)) == pytest.approx(0.1)
    state = metric.update(state, SCORES, SCORES + 0.2)
    assert float(metric.compute(state)) == pytest.approx(0.11)
