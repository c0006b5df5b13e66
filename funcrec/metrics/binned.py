"""Area under the ROC curve of binned probabilities: fixed memory, and states that add up across ranks and steps."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from funcrec.core.errors import ConfigError, fail
from funcrec.metrics.auc import one_class
from funcrec.metrics.checks import read_binary, read_classes, read_probabilities, weights_or_ones
from funcrec.metrics.metric import Metric, State, Undefined, UndefinedPolicy, additive


def check_thresholds(metric: str, thresholds: int) -> None:
    if thresholds < 2:
        fail(ConfigError, f"{metric}: thresholds", got=thresholds, expected="at least 2")


def bins(probabilities: Tensor, edges: int) -> Tensor:
    """The bin of each probability: how many of the ``edges`` evenly spaced numbers from 0 to 1 it reaches, less one.

    int64 in 0..edges-1; the last bin is that of 1 alone. The edges are float32 numbers for every dtype, so that
    rounding does not move a row into another bin.
    """
    at = torch.linspace(0, 1, edges, dtype=torch.float32, device=probabilities.device).to(probabilities.dtype)
    return torch.bucketize(probabilities.contiguous(), at, right=True) - 1


def histogram(index: Tensor, weights: Tensor, size: int) -> Tensor:
    """``out[k] = Σ_{i: index_i = k} w_i``, float64 ``[size]``."""
    return weights.new_zeros(size).index_add(0, index.flatten(), weights.flatten())


def class_histogram(probabilities: Tensor, positive: Tensor, weights: Tensor, thresholds: int) -> Tensor:
    """The weight of the negatives and of the positives in each bin, ``[B]`` to ``[2, thresholds]``."""
    index = positive.long() * thresholds + bins(probabilities, thresholds)
    return histogram(index, weights, 2 * thresholds).view(2, thresholds)


def histogram_auc(counts: Tensor) -> Tensor:
    """AUC of histograms ``[..., 2, T]`` whose rows are class 0 and 1: rows of one bin are ties. NaN without a class."""
    negative, positive = counts.unbind(-2)
    beaten = negative.cumsum(-1) - 0.5 * negative
    return (positive * beaten).sum(-1) / (positive.sum(-1) * negative.sum(-1))


def binned_auc(*, thresholds: int = 200, undefined: UndefinedPolicy = "raise") -> Metric:
    """AUC of probabilities rounded down to evenly spaced thresholds: the exact AUC with more ties.

    Equal to torchmetrics' binned ``BinaryAUROC``, but for rows of probability exactly 1: there the curve starts at
    (0, 0), where that one drops the area before its first point. Off the exact AUC by at most half of the chance that
    a positive and a negative row share a bin, which is large when all probabilities are small.

    Args:
        thresholds: how many, from 0 to 1 inclusive.

    Raises:
        DataError: in compute, when a class is missing, unless ``undefined="nan"``; in update, for predictions outside
            of [0, 1], labels outside of {0, 1}, bad weights.
        NonFiniteError: in update, for NaN predictions.
    """
    check_thresholds("binned_auc", thresholds)

    def contribution(predictions: Tensor, labels: Tensor, weights: Tensor | None) -> State:
        p = read_probabilities("binned_auc", predictions, labels)
        positive, w = read_binary("binned_auc", labels), weights_or_ones("binned_auc", weights, labels)
        return {"histogram": class_histogram(p, positive, w, thresholds)}

    def value(state: State) -> Tensor | Undefined:
        negative, positive = state["histogram"].sum(1)
        if negative == 0 or positive == 0:
            return one_class(float(state["rows"]), positive, negative)
        return histogram_auc(state["histogram"])

    return additive("binned_auc", {"histogram": (2, thresholds)}, contribution, value, undefined)


def multiclass_auc(
    classes: int,
    *,
    thresholds: int = 200,
    average: Literal["macro", "weighted"] = "macro",
    undefined: UndefinedPolicy = "raise",
) -> Metric:
    """Mean over classes of the binned AUC of one class against the rest.

    Update takes probabilities ``[B, classes]`` and labels ``[B]`` in 0..classes-1.

    Args:
        classes: their number.
        thresholds: as in :func:`binned_auc`.
        average: ``"macro"`` gives every class the same say, ``"weighted"`` one in proportion to its rows.

    Raises:
        DataError: in compute, when a class (for "weighted", one that has rows) has no AUC, unless ``undefined="nan"``;
            in update as for :func:`binned_auc`.
        NonFiniteError: in update, for NaN predictions.
    """
    check_thresholds("multiclass_auc", thresholds)
    if classes < 2 or average not in ("macro", "weighted"):
        expected = "at least 2 classes, and 'macro' or 'weighted'"
        fail(ConfigError, "multiclass_auc: classes and average", got=(classes, average), expected=expected)

    def contribution(predictions: Tensor, labels: Tensor, weights: Tensor | None) -> State:
        p = read_probabilities("multiclass_auc", predictions, labels, columns=classes)
        target, w = read_classes("multiclass_auc", labels, classes), weights_or_ones("multiclass_auc", weights, labels)
        column = torch.arange(classes, device=p.device)
        index = (2 * column + (target[:, None] == column)) * thresholds + bins(p, thresholds)
        counts = histogram(index, w[:, None].expand(-1, classes), classes * 2 * thresholds)
        return {"histogram": counts.view(classes, 2, thresholds)}

    def value(state: State) -> Tensor | Undefined:
        negative, positive = state["histogram"].sum(2).unbind(1)
        say = positive if average == "weighted" else torch.ones_like(positive)
        lacking = (say > 0) & ((negative == 0) | (positive == 0))
        if bool(lacking.any()) or float(say.sum()) == 0:
            got = f"{float(state['rows']):.0f} rows, and for classes {lacking.nonzero().flatten().tolist()} all or none"
            return Undefined(got, "rows of each class and rows of others")
        areas = histogram_auc(state["histogram"])
        return (torch.where(say > 0, areas, 0.0) * say).sum() / say.sum()

    return additive("multiclass_auc", {"histogram": (classes, 2, thresholds)}, contribution, value, undefined)
