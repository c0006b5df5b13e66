"""Whether probabilities mean what they say: normalized entropy, the calibration ratio, expected calibration error."""

from __future__ import annotations

import torch
from torch import Tensor

from funcrec.core.errors import ConfigError, fail
from funcrec.metrics.auc import one_class
from funcrec.metrics.binned import bins, histogram
from funcrec.metrics.checks import read_binary, read_probabilities, weights_or_ones
from funcrec.metrics.means import cross_entropy
from funcrec.metrics.metric import Metric, State, Undefined, UndefinedPolicy, additive


def normalized_entropy(*, eta: float = 1e-12, undefined: UndefinedPolicy = "raise") -> Metric:
    """Log loss in units of the log loss of always predicting the share of positives: below 1 beats it.

    ``NE = Σ w BCE(p, y) / Σ w BCE(p̄, y)`` with ``p̄ = Σ w y / Σ w``, from probabilities ``[B]`` of class 1.

    Args:
        eta: probabilities are clamped to [eta, 1 - eta].

    Raises:
        DataError: in compute, when a class is missing (p̄ would be 0 or 1), unless ``undefined="nan"``; in update, for
            predictions outside of [0, 1], labels outside of {0, 1}, bad weights.
        NonFiniteError: in update, for NaN predictions.

    Reference:
        He et al. 2014, "Practical Lessons from Predicting Clicks on Ads at Facebook".
    """
    if not 0.0 < eta < 0.5:
        fail(ConfigError, "normalized_entropy: eta", got=eta, expected="a number between 0 and 0.5")

    def contribution(predictions: Tensor, labels: Tensor, weights: Tensor | None) -> State:
        p = read_probabilities("normalized_entropy", predictions, labels)
        positive = read_binary("normalized_entropy", labels)
        w = weights_or_ones("normalized_entropy", weights, labels)
        entropy = (w * cross_entropy(p, positive, eta)).sum()
        return {"entropy": entropy, "positive": (w * positive).sum(), "negative": (w * ~positive).sum()}

    def value(state: State) -> Tensor | Undefined:
        positive, negative = state["positive"], state["negative"]
        if positive == 0 or negative == 0:
            return one_class(float(state["rows"]), positive, negative)
        weight = positive + negative
        base = -positive * torch.log(positive / weight) - negative * torch.log(negative / weight)
        return state["entropy"] / base

    shapes: dict[str, tuple[int, ...]] = {"entropy": (), "positive": (), "negative": ()}
    return additive("normalized_entropy", shapes, contribution, value, undefined)


def calibration(*, undefined: UndefinedPolicy = "raise") -> Metric:
    """Predicted over observed positives, ``Σ w p / Σ w y``: 1 on average right, above 1 too high.

    Raises:
        DataError: in compute, without a positive, unless ``undefined="nan"``; in update as for
            :func:`normalized_entropy`.
        NonFiniteError: in update, for NaN predictions.
    """

    def contribution(predictions: Tensor, labels: Tensor, weights: Tensor | None) -> State:
        p = read_probabilities("calibration", predictions, labels).double()
        w = weights_or_ones("calibration", weights, labels)
        return {"predicted": (w * p).sum(), "observed": (w * read_binary("calibration", labels)).sum()}

    def value(state: State) -> Tensor | Undefined:
        if state["observed"] == 0:
            return Undefined(f"{float(state['rows']):.0f} rows without a positive", "at least one positive")
        return state["predicted"] / state["observed"]

    return additive("calibration", {"predicted": (), "observed": ()}, contribution, value, undefined)


def expected_calibration_error(*, n_bins: int = 10, undefined: UndefinedPolicy = "raise") -> Metric:
    """``Σ_k |Σ_{b in k} w_b (p_b - y_b)| / Σ_b w_b`` over equally wide bins k of the probability of class 1.

    A bin holds its lower edge, the last one its upper edge too. The value depends on the number of bins.

    Raises:
        DataError: in compute, for no rows, unless ``undefined="nan"``; in update as for :func:`normalized_entropy`.
        NonFiniteError: in update, for NaN predictions.

    Reference:
        Naeini et al. 2015, "Obtaining Well Calibrated Probabilities Using Bayesian Binning", of the positive class.
    """
    name = "expected_calibration_error"
    if n_bins < 1:
        fail(ConfigError, f"{name}: n_bins", got=n_bins, expected="a positive integer")

    def contribution(predictions: Tensor, labels: Tensor, weights: Tensor | None) -> State:
        p, w = read_probabilities(name, predictions, labels), weights_or_ones(name, weights, labels)
        index = bins(p, n_bins + 1).clamp(max=n_bins - 1)
        gap = histogram(index, w * (p.double() - read_binary(name, labels).double()), n_bins)
        return {"gap": gap, "weight": w.sum()}

    def value(state: State) -> Tensor | Undefined:
        if state["weight"] == 0:
            return Undefined(f"{float(state['rows']):.0f} rows of total weight 0", "a positive total weight")
        return state["gap"].abs().sum() / state["weight"]

    return additive(name, {"gap": (n_bins,), "weight": ()}, contribution, value, undefined)
