"""Squared error."""

from __future__ import annotations

from torch import Tensor

from funcrec.losses.reduction import one_column, weighted_mean


def l2(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean squared error ``mean_b w_b (z_b - y_b)²``, weights normalised to mean 1.

    Args:
        logits: ``[B]`` or ``[B, 1]``, the predictions themselves.
        labels: ``[B]`` real numbers, of any dtype.
        weights: ``[B]``, or None for all equal.

    Returns:
        A scalar, float32 or float64.

    Raises:
        ShapeError: for other shapes.
    """
    scores, targets = one_column("l2", logits, labels)
    return weighted_mean((scores - targets) ** 2, weights)
