"""Cross-entropy of C logits against a class."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import log_softmax

from funcrec.losses.binary import check_smoothing
from funcrec.losses.reduction import class_columns, weighted_mean


def softmax_cross_entropy(
    logits: Tensor, labels: Tensor, weights: Tensor | None = None, *, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy of a softmax.

    ``mean_b w_b · Σ_c -q_bc log softmax(z_b)_c`` with weights normalised to mean 1 and
    ``q = (1 - s) onehot(y) + s / C`` under a label smoothing of s. No label is ignored: one
    outside of 0..C-1 raises.

    Args:
        logits: ``[B, C]``, C > 1.
        labels: ``[B]`` integers in 0..C-1.
        weights: ``[B]``, or None for all equal.
        label_smoothing: in [0, 1).

    Returns:
        A scalar, float32 or float64.

    Raises:
        ShapeError: for other shapes, or labels that are not integers.
        ConfigError: for a smoothing outside of its range.
    """
    check_smoothing("softmax_cross_entropy", label_smoothing)
    scores, targets = class_columns("softmax_cross_entropy", logits, labels)
    log_p = log_softmax(scores, dim=1)
    losses = -log_p.gather(1, targets[:, None]).squeeze(1)
    if label_smoothing > 0.0:
        losses = (1.0 - label_smoothing) * losses - label_smoothing * log_p.mean(1)
    return weighted_mean(losses, weights)
