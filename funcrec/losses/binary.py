"""Losses of one logit against a label in {0, 1}: cross-entropy and the focal loss."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from funcrec.core.errors import ConfigError, fail
from funcrec.losses.reduction import one_column, weighted_mean


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """``y softplus(-z) + (1 - y) softplus(z)``: it cancels for no z, and is smooth at 0, where models start."""
    # Where softplus(z) = z is exact in float64 too; torch's own threshold of 20 is for float32.
    exact = 40.0
    return labels * softplus(-logits, threshold=exact) + (1.0 - labels) * softplus(logits, threshold=exact)


def check_smoothing(loss: str, label_smoothing: float) -> None:
    if not 0.0 <= label_smoothing < 1.0:
        fail(ConfigError, f"{loss}: label_smoothing", got=label_smoothing, expected="a number in [0, 1)")


def bce(logits: Tensor, labels: Tensor, weights: Tensor | None = None, *, label_smoothing: float = 0.0) -> Tensor:
    """Binary cross-entropy of logits.

    ``mean_b w_b · (-y_b log σ(z_b) - (1 - y_b) log(1 - σ(z_b)))`` with weights normalised to mean 1, and
    ``y ← y (1 - s) + s / 2`` under a label smoothing of s.

    Args:
        logits: ``[B]`` or ``[B, 1]``.
        labels: ``[B]`` in {0, 1}, of any dtype.
        weights: ``[B]``, or None for all equal.
        label_smoothing: in [0, 1).

    Returns:
        A scalar, float32 or float64.

    Raises:
        ShapeError: for other shapes.
        ConfigError: for a smoothing outside of its range.
    """
    check_smoothing("bce", label_smoothing)
    scores, targets = one_column("bce", logits, labels)
    if label_smoothing > 0.0:
        targets = targets * (1.0 - label_smoothing) + 0.5 * label_smoothing
    return weighted_mean(_cross_entropy(scores, targets), weights)


def focal(
    logits: Tensor, labels: Tensor, weights: Tensor | None = None, *, gamma: float = 2.0, alpha: float = 0.5
) -> Tensor:
    """Focal loss: cross-entropy with less weight on the examples that are already right.

    ``mean_b w_b m_b BCE(z_b, y_b)`` with ``m = α y (1 - p)^γ + (1 - α) (1 - y) p^γ`` and ``p = σ(z)``. The modulating
    weight m is a constant to differentiation, so the gradient is that of a weighted cross-entropy, and the sum is
    divided by B, not by Σ m.

    Args:
        logits: ``[B]`` or ``[B, 1]``.
        labels: ``[B]`` in {0, 1}, of any dtype.
        weights: ``[B]``, or None for all equal.
        gamma: ≥ 0; 0 leaves α-balanced cross-entropy.
        alpha: in (0, 1), the weight of the positives.

    Returns:
        A scalar, float32 or float64.

    Raises:
        ShapeError: for other shapes.
        ConfigError: for a gamma or alpha outside of its range.

    Reference:
        Lin et al. 2017, "Focal Loss for Dense Object Detection", eq. 5, with the modulating weight detached.
    """
    if gamma < 0.0 or not 0.0 < alpha < 1.0:
        fail(ConfigError, "focal: gamma and alpha", got=(gamma, alpha), expected="gamma ≥ 0 and 0 < alpha < 1")
    scores, targets = one_column("focal", logits, labels)
    z = scores.detach()
    of_positive = alpha * targets * torch.sigmoid(-z) ** gamma
    of_negative = (1.0 - alpha) * (1.0 - targets) * torch.sigmoid(z) ** gamma
    return weighted_mean((of_positive + of_negative) * _cross_entropy(scores, targets), weights)
