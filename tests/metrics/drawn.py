"""Rows that hypothesis draws, with ties, and the metrics that take them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor

from funcrec import metrics
from funcrec.core import random
from funcrec.metrics import Metric


class Rows(NamedTuple):
    predictions: Tensor
    labels: Tensor
    weights: Tensor
    groups: Tensor


def take(rows: Rows, index: Tensor | slice) -> Rows:
    return Rows(*(x[index] for x in rows))


def make_rows(seed: int, n: int, levels: int = 8) -> Rows:
    """Probabilities on a coarse grid (so with ties), both classes present from two rows on."""
    g = torch.Generator().manual_seed(seed)
    predictions = torch.randint(0, levels, (n,), generator=g, dtype=torch.float64) / levels
    labels = torch.randint(0, 2, (n,), generator=g)
    labels[:2] = torch.tensor([0, 1])[: min(n, 2)]
    weights = torch.randint(1, 5, (n,), generator=g, dtype=torch.float64) / 2
    return Rows(predictions, labels, weights, torch.randint(-1, 3, (n,), generator=g))


rows = st.builds(make_rows, st.integers(0, 10**6), st.integers(2, 30), st.sampled_from([2, 8, 1000]))

# By name: the metric, and whether it takes weights.
METRICS: dict[str, tuple[Callable[[], Metric], bool]] = {
    "auc": (metrics.auc, True),
    "gauc": (lambda: metrics.gauc(undefined="nan"), True),
    "gauc_weighted": (lambda: metrics.gauc(average="weighted", undefined="nan"), True),
    "binned_auc": (lambda: metrics.binned_auc(thresholds=11), True),
    "log_loss": (metrics.log_loss, True),
    "log_loss_from_logits": (metrics.log_loss_from_logits, True),
    "normalized_entropy": (metrics.normalized_entropy, True),
    "accuracy": (metrics.accuracy, True),
    "mean_absolute_error": (metrics.mean_absolute_error, True),
    "mean_squared_error": (metrics.mean_squared_error, True),
    "calibration": (metrics.calibration, True),
    "expected_calibration_error": (metrics.expected_calibration_error, True),
    "xauc": (metrics.xauc, False),
    "xauc_many_pairs": (lambda: metrics.xauc(max_pairs=10**6, key=random.key(0)), False),
    "grouped_xauc": (lambda: metrics.grouped_xauc(undefined="nan"), False),
}


def evaluate(metric: Metric, r: Rows, weighted: bool = False, batch: int | None = None) -> Tensor:
    """The value over these rows, updated in batches."""
    state = metric.init()
    for start in range(0, len(r.labels), batch or len(r.labels)):
        b = take(r, slice(start, start + (batch or len(r.labels))))
        state = metric.update(state, b.predictions, b.labels, b.weights if weighted else None, b.groups)
    return metric.compute(state)
