"""Metrics: named tuples of pure functions over a state that is a value of its own, never part of a model.

>>> import torch
>>> metric = auc()
>>> state = metric.init()
>>> for scores, labels in [([0.1, 0.6], [0, 1]), ([0.4, 0.3], [0, 1])]:
...     state = metric.update(state, torch.tensor(scores), torch.tensor(labels))
>>> float(metric.compute(state))
0.75

States of ranks merge, in any grouping. A metric without a value (one class, no rows) raises in compute, or is NaN for
``undefined="nan"``; NaN predictions and labels out of range raise in update. Sums are float64.
"""

from funcrec.metrics.auc import auc, gauc
from funcrec.metrics.binned import binned_auc, multiclass_auc
from funcrec.metrics.calibration import calibration, expected_calibration_error, normalized_entropy
from funcrec.metrics.decay import decayed, decayed_auc
from funcrec.metrics.means import (
    accuracy,
    log_loss,
    log_loss_from_logits,
    mean_absolute_error,
    mean_squared_error,
    recall_at_k,
)
from funcrec.metrics.metric import Metric, State
from funcrec.metrics.xauc import grouped_xauc, xauc

__all__ = [
    "Metric",
    "State",
    "accuracy",
    "auc",
    "binned_auc",
    "calibration",
    "decayed",
    "decayed_auc",
    "expected_calibration_error",
    "gauc",
    "grouped_xauc",
    "log_loss",
    "log_loss_from_logits",
    "mean_absolute_error",
    "mean_squared_error",
    "multiclass_auc",
    "normalized_entropy",
    "recall_at_k",
    "xauc",
]
