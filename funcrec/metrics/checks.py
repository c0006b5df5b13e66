"""What an update accepts: shapes, then values, each refusal naming the row."""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor

from funcrec.core.errors import DataError, FuncrecError, NonFiniteError, ShapeError, fail


def _refuse(error: type[FuncrecError], what: str, values: Tensor, bad: Tensor, expected: str, fix: str) -> NoReturn:
    at = torch.nonzero(bad)
    first = tuple(int(i) for i in at[0])
    place = f"row {first[0]}" + (f", column {first[1]}" if len(first) > 1 else "")
    got = f"{len(at)} of {values.numel()} values outside, the first in {place}: {values[first].item()}"
    fail(error, what, got=got, expected=expected, fix=fix)


def read_predictions(metric: str, predictions: Tensor, labels: Tensor, *, columns: int | None = None) -> Tensor:
    """Predictions ``[B]`` (``[B, 1]`` is squeezed) for labels ``[B]``, or ``[B, columns]``, without NaN.

    Half precision becomes float32, exactly. Infinities are fine where only the order counts.
    """
    x = predictions.squeeze(1) if columns is None and predictions.shape[1:] == (1,) else predictions
    shape = labels.shape if columns is None else (*labels.shape[:1], columns)
    if not x.is_floating_point() or x.shape != shape or x.dim() != (1 if columns is None else 2):
        got = f"{tuple(predictions.shape)} {predictions.dtype} for labels {tuple(labels.shape)}"
        expected = "[B] or [B, 1] for labels [B]" if columns is None else f"[B, {columns}]"
        fail(ShapeError, f"{metric}: predictions", got=got, expected=f"floating {expected}")
    bad = torch.isnan(x)
    if bool(bad.any()):
        fix = "find out where the model or its input became NaN"
        _refuse(NonFiniteError, f"{metric}: predictions", x, bad, "numbers", fix)
    return x.to(torch.promote_types(x.dtype, torch.float32))


def read_probabilities(metric: str, predictions: Tensor, labels: Tensor, *, columns: int | None = None) -> Tensor:
    """Predictions in [0, 1]."""
    x = read_predictions(metric, predictions, labels, columns=columns)
    bad = (x < 0) | (x > 1)
    if bool(bad.any()):
        fix = "pass probabilities, not logits"
        _refuse(DataError, f"{metric}: predictions", x, bad, "probabilities in [0, 1]", fix)
    return x


def read_finite(metric: str, predictions: Tensor, labels: Tensor) -> Tensor:
    """Finite predictions ``[B]``, as float64."""
    x = read_predictions(metric, predictions, labels)
    bad = torch.isinf(x)
    if bool(bad.any()):
        fix = "find out where the model diverged"
        _refuse(NonFiniteError, f"{metric}: predictions", x, bad, "finite numbers", fix)
    return x.double()


def _one_dim(metric: str, labels: Tensor) -> None:
    if labels.dim() != 1:
        fail(ShapeError, f"{metric}: labels", got=tuple(labels.shape), expected="[B]")


def read_binary(metric: str, labels: Tensor) -> Tensor:
    """Labels in {0, 1} of any dtype and shape, as bool."""
    positive = labels == 1
    good = positive | (labels == 0)
    if not bool(good.all()):
        _refuse(DataError, f"{metric}: labels", labels, ~good, "0 or 1", "drop these rows or map their labels")
    return positive


def read_classes(metric: str, labels: Tensor, classes: int) -> Tensor:
    """Labels ``[B]`` in 0..classes-1 of any dtype, as int64."""
    _one_dim(metric, labels)
    good = (labels >= 0) & (labels < classes) & (labels == labels.long())
    if not bool(good.all()):
        expected = f"integers in 0..{classes - 1}"
        _refuse(DataError, f"{metric}: labels", labels, ~good, expected, "drop these rows or map their labels")
    return labels.long()


def read_real(metric: str, labels: Tensor) -> Tensor:
    """Finite labels ``[B]``, as float64."""
    _one_dim(metric, labels)
    good = torch.isfinite(labels)
    if not bool(good.all()):
        _refuse(DataError, f"{metric}: labels", labels, ~good, "finite numbers", "drop these rows")
    return labels.double()


def read_weights(metric: str, weights: Tensor, labels: Tensor) -> Tensor:
    """Weights ``[B]``, finite and not negative, as float64."""
    if weights.shape != labels.shape[:1]:
        expected = f"one weight a row, {tuple(labels.shape[:1])}"
        fail(ShapeError, f"{metric}: weights", got=tuple(weights.shape), expected=expected)
    good = (weights >= 0) & torch.isfinite(weights)
    if not bool(good.all()):
        _refuse(DataError, f"{metric}: weights", weights, ~good, "finite numbers ≥ 0", "drop rows by weight 0")
    return weights.detach().double()


def weights_or_ones(metric: str, weights: Tensor | None, labels: Tensor) -> Tensor:
    """The weights ``[B]`` in float64; all 1 without any."""
    if weights is None:
        return torch.ones(len(labels), dtype=torch.float64, device=labels.device)
    return read_weights(metric, weights, labels)


def read_groups(metric: str, groups: Tensor | None, labels: Tensor) -> Tensor:
    """Group numbers ``[B]``, as int64."""
    if groups is None or groups.shape != labels.shape or groups.is_floating_point():
        got = "none" if groups is None else f"{tuple(groups.shape)} {groups.dtype}"
        expected = f"one integer a row, {tuple(labels.shape)}"
        fail(ShapeError, f"{metric}: groups", got=got, expected=expected, fix="pass groups= to update")
    return groups.long()


def no_weights(metric: str, weights: Tensor | None) -> None:
    """Refuse weights rather than ignore them."""
    if weights is not None:
        fail(DataError, f"{metric}: weights", got=f"weights {tuple(weights.shape)}", expected="none")
