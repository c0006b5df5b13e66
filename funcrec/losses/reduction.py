"""From a batch to one number: the shapes that a loss accepts, its precision, and the weighted mean."""

from __future__ import annotations

import torch
from torch import Tensor

from funcrec.core.errors import ShapeError, fail


def normalize_weights(weights: Tensor) -> Tensor:
    """``w / mean(w)``, so that the weights of a batch sum to its size; all zero where the mean is zero.

    A NaN or an infinite weight is not hidden: it makes the loss NaN.

    Args:
        weights: ``[B]``.

    Returns:
        ``[B]``; unchanged when all weights of the batch are multiplied by one positive number.
    """
    mean = weights.mean()
    empty = mean == 0
    # Dividing by a safe number on both branches keeps every derivative finite where the mean is zero.
    return torch.where(empty, torch.zeros_like(weights), weights / torch.where(empty, torch.ones_like(mean), mean))


def weighted_mean(losses: Tensor, weights: Tensor | None) -> Tensor:
    """``mean_b(ℓ_b)``, or ``mean_b(ℓ_b · w_b / mean(w))``; losses and weights ``[B]`` to a scalar."""
    if weights is None:
        return losses.mean()
    if weights.shape != losses.shape:
        fail(
            ShapeError,
            "loss weights",
            got=tuple(weights.shape),
            expected=f"one weight an example, {tuple(losses.shape)}",
        )
    return (losses * normalize_weights(weights.to(losses.dtype))).mean()


def full_precision(x: Tensor) -> Tensor:
    """Half precision to float32; float32 and float64 as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def one_column(loss: str, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits ``[B]`` or ``[B, 1]`` and labels ``[B]``, both as ``[B]`` in the precision of the loss."""
    scores = logits.squeeze(1) if logits.dim() == 2 and logits.shape[1] == 1 else logits
    # Checked because labels [B, 1] would broadcast against scores [B] to [B, B] and train on nonsense.
    if not logits.is_floating_point() or scores.dim() != 1 or len(scores) == 0 or labels.shape != scores.shape:
        fail(
            ShapeError,
            f"{loss}: logits and labels",
            got=f"{tuple(logits.shape)} {logits.dtype} and {tuple(labels.shape)}",
            expected="floating logits [B] or [B, 1] and labels [B], B > 0",
        )
    scores = full_precision(scores)
    return scores, labels.to(scores.dtype)


def class_columns(loss: str, logits: Tensor, labels: Tensor, classes: int | None = None) -> tuple[Tensor, Tensor]:
    """Logits ``[B, C]`` and integer labels ``[B]``, in the precision of the loss and as int64."""
    shapes = logits.dim() == 2 and labels.shape == logits.shape[:1] and len(labels) > 0
    columns = shapes and (logits.shape[1] > 1 if classes is None else logits.shape[1] == classes)
    if not (columns and logits.is_floating_point()) or labels.is_floating_point():
        fail(
            ShapeError,
            f"{loss}: logits and labels",
            got=f"{tuple(logits.shape)} {logits.dtype} and {tuple(labels.shape)} {labels.dtype}",
            expected=f"floating logits [B, {classes or 'C > 1'}] and integer labels [B], B > 0",
            fix="check_labels(labels, 'classes', classes=C) checks labels of any dtype and makes them int64",
        )
    return full_precision(logits), labels.to(torch.int64)
