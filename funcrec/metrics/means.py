"""Metrics that are a weighted mean over rows, summed in float64: log loss, accuracy, absolute and squared error."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import softplus

from funcrec.core.errors import ConfigError, ShapeError, fail
from funcrec.metrics.checks import (
    read_binary,
    read_classes,
    read_finite,
    read_predictions,
    read_probabilities,
    read_real,
    weights_or_ones,
)
from funcrec.metrics.metric import Metric, State, Undefined, UndefinedPolicy, additive


def weighted_average(name: str, per_row: Callable[[Tensor, Tensor], Tensor], undefined: UndefinedPolicy) -> Metric:
    """``Σ w_b v_b / Σ w_b`` with ``v = per_row(predictions, labels)``, float64 ``[B]``."""

    def contribution(predictions: Tensor, labels: Tensor, weights: Tensor | None) -> State:
        values, w = per_row(predictions, labels), weights_or_ones(name, weights, labels)
        return {"total": (w * values).sum(), "weight": w.sum()}

    def value(state: State) -> Tensor | Undefined:
        if state["weight"] == 0:
            return Undefined(f"{float(state['rows']):.0f} rows of total weight 0", "a positive total weight")
        return state["total"] / state["weight"]

    return additive(name, {"total": (), "weight": ()}, contribution, value, undefined)


def cross_entropy(probabilities: Tensor, positive: Tensor, eps: float) -> Tensor:
    """``-log p`` of the class that came, in float64, with p clamped to [eps, 1 - eps]."""
    p = probabilities.double().clamp(eps, 1.0 - eps)
    return -torch.where(positive, torch.log(p), torch.log1p(-p))


def log_loss(*, eps: float | None = None, undefined: UndefinedPolicy = "raise") -> Metric:
    """Mean of ``-log p`` of the class that came, from probabilities ``[B]`` of class 1.

    Probabilities are clamped to [eps, 1 - eps]. By default eps is the distance from 1 to the next number in the dtype
    of the predictions, as in scikit-learn: 1.2e-7 in float32, so a certain and wrong row costs 15.9. Prefer
    :func:`log_loss_from_logits`, which clamps nothing.

    Raises:
        DataError: in compute, for no rows, unless ``undefined="nan"``; in update, for predictions outside of [0, 1],
            labels outside of {0, 1}, bad weights.
        NonFiniteError: in update, for NaN predictions.
    """
    if eps is not None and not 0.0 < eps < 0.5:
        fail(ConfigError, "log_loss: eps", got=eps, expected="a number between 0 and 0.5, or None")

    def per_row(predictions: Tensor, labels: Tensor) -> Tensor:
        p = read_probabilities("log_loss", predictions, labels)
        nearest = torch.finfo(predictions.dtype).eps if eps is None else eps
        return cross_entropy(p, read_binary("log_loss", labels), nearest)

    return weighted_average("log_loss", per_row, undefined)


def log_loss_from_logits(*, undefined: UndefinedPolicy = "raise") -> Metric:
    """Mean binary cross-entropy of logits ``[B]``, computed and summed in float64, nothing clamped.

    Raises:
        DataError: in compute, for no rows, unless ``undefined="nan"``; in update, for labels outside of {0, 1} or bad
            weights.
        NonFiniteError: in update, for NaN or infinite predictions.
    """

    def per_row(predictions: Tensor, labels: Tensor) -> Tensor:
        z = read_finite("log_loss_from_logits", predictions, labels)
        sign = torch.where(read_binary("log_loss_from_logits", labels), -1.0, 1.0)
        return softplus(sign * z, threshold=40.0)

    return weighted_average("log_loss_from_logits", per_row, undefined)


def mean_absolute_error(*, undefined: UndefinedPolicy = "raise") -> Metric:
    """Mean of ``|prediction - label|``.

    Raises:
        DataError: in compute, for no rows, unless ``undefined="nan"``; in update, for labels that are not finite.
        NonFiniteError: in update, for predictions that are not finite.
    """
    name = "mean_absolute_error"
    return weighted_average(name, lambda p, y: (read_finite(name, p, y) - read_real(name, y)).abs(), undefined)


def mean_squared_error(*, undefined: UndefinedPolicy = "raise") -> Metric:
    """Mean of ``(prediction - label)²``.

    Raises:
        DataError: in compute, for no rows, unless ``undefined="nan"``; in update, for labels that are not finite.
        NonFiniteError: in update, for predictions that are not finite.
    """
    name = "mean_squared_error"
    return weighted_average(name, lambda p, y: (read_finite(name, p, y) - read_real(name, y)) ** 2, undefined)


def top_k_share(scores: Tensor, k: int) -> Tensor:
    """The chance of each candidate to be among the k best of its row, ties broken at random; ``[B, N]``, float64.

    1 above the k-th score, 0 below, and the remaining places shared out among the candidates that equal it: a model
    that scores everything alike is not rewarded for the order of the columns.
    """
    kth = scores.topk(k, dim=1).values[:, -1:]
    above, level = scores > kth, scores == kth
    places = k - above.sum(1, keepdim=True)
    return torch.where(above, 1.0, level.double() * places / level.sum(1, keepdim=True))


def accuracy(*, threshold: float = 0.5, top_k: int = 1, undefined: UndefinedPolicy = "raise") -> Metric:
    """Share of rows that are predicted right.

    Predictions ``[B]`` or ``[B, 1]`` are right when ``p > threshold`` is the label. Predictions ``[B, C]`` are right
    when the label is among the ``top_k`` best classes; of classes that tie for the last place, each is there in part.

    Raises:
        DataError: in compute, for no rows, unless ``undefined="nan"``; in update, for labels outside of their range.
        NonFiniteError: in update, for NaN predictions.
        ShapeError: in update, for fewer classes than ``top_k`` + 1.
    """
    if top_k < 1:
        fail(ConfigError, "accuracy: top_k", got=top_k, expected="a positive integer")

    def per_row(predictions: Tensor, labels: Tensor) -> Tensor:
        if predictions.dim() < 2 or predictions.shape[1] == 1:
            p = read_predictions("accuracy", predictions, labels)
            return ((p > threshold) == read_binary("accuracy", labels)).double()
        classes = predictions.shape[1]
        if classes <= top_k:
            expected = f"more than {top_k} classes"
            fail(ShapeError, "accuracy: predictions", got=tuple(predictions.shape), expected=expected)
        scores = read_predictions("accuracy", predictions, labels, columns=classes)
        target = read_classes("accuracy", labels, classes)
        return top_k_share(scores, top_k).gather(1, target[:, None]).squeeze(1)

    return weighted_average("accuracy", per_row, undefined)


def recall_at_k(k: int = 5, *, undefined: UndefinedPolicy = "raise") -> Metric:
    """Share of the relevant candidates that are among the k best of their row: ``Σ hits / Σ relevant`` over all rows.

    Not the mean of a recall per row: rows count by their relevant candidates. Update takes scores ``[B, N]`` and
    labels ``[B, N]`` in {0, 1}; row weights ``[B]``. Of candidates that tie for the last place, each is there in part.

    Raises:
        DataError: in compute, without a relevant candidate, unless ``undefined="nan"``; in update, for labels outside
            of {0, 1} or bad weights.
        NonFiniteError: in update, for NaN predictions.
        ShapeError: in update, for labels of another shape, or fewer candidates than k.
    """
    if k < 1:
        fail(ConfigError, "recall_at_k: k", got=k, expected="a positive integer")

    def contribution(predictions: Tensor, labels: Tensor, weights: Tensor | None) -> State:
        if labels.dim() != 2 or labels.shape[1] < k:
            expected = f"[B, N] with N ≥ {k} candidates"
            fail(ShapeError, "recall_at_k: labels", got=tuple(labels.shape), expected=expected)
        scores = read_predictions("recall_at_k", predictions, labels, columns=labels.shape[1])
        relevant = read_binary("recall_at_k", labels).double()
        relevant = relevant * weights_or_ones("recall_at_k", weights, labels)[:, None]
        return {"hits": (relevant * top_k_share(scores, k)).sum(), "relevant": relevant.sum()}

    def value(state: State) -> Tensor | Undefined:
        if state["relevant"] == 0:
            return Undefined(f"{float(state['rows']):.0f} rows without a relevant candidate", "at least one")
        return state["hits"] / state["relevant"]

    return additive("recall_at_k", {"hits": (), "relevant": ()}, contribution, value, undefined)
