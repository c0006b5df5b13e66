"""Labels, checked once where the data enters and not in the loss, which must not look at values."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from funcrec.core.errors import ConfigError, DataError, ShapeError, fail

LabelKind = Literal["binary", "classes", "real"]


def check_labels(labels: Tensor, kind: LabelKind, *, classes: int | None = None) -> Tensor:
    """The labels, if a loss of this kind can use every one of them.

    Args:
        labels: ``[B]``, of any dtype.
        kind: ``"binary"`` for {0, 1} (bce, focal), ``"classes"`` for 0..classes-1 (softmax_cross_entropy; jrc with
            two classes), ``"real"`` for any finite number (l2).
        classes: the number of classes, for ``"classes"`` only.

    Returns:
        ``[B]``: the same labels, as int64 for ``"classes"``.

    Raises:
        DataError: for labels outside, with their number and the row and value of the first.
        ShapeError: for labels that are not ``[B]``.
        ConfigError: for an unknown kind, or classes that are missing or out of place.
    """
    if kind not in ("binary", "classes", "real") or (kind == "classes") != (classes is not None):
        fail(
            ConfigError,
            "check_labels: kind and classes",
            got=(kind, classes),
            expected="'binary' or 'real' alone, or 'classes' with classes=C",
        )
    if labels.dim() != 1:
        fail(ShapeError, "labels", got=tuple(labels.shape), expected="[B]")
    if kind == "real":
        good, expected = torch.isfinite(labels), "finite numbers"
    elif classes is None:
        good, expected = (labels == 0) | (labels == 1), "0 or 1"
    else:
        # NaN fails the first comparison, a fraction the second.
        good = (labels >= 0) & (labels < classes) & (labels == labels.long())
        expected = f"an integer in 0..{classes - 1}"
    if not bool(good.all()):
        bad = torch.nonzero(~good).flatten()
        first = int(bad[0])
        fail(
            DataError,
            "labels",
            got=f"{len(bad)} of {len(labels)} rows outside, the first in row {first}: {labels[first].item()}",
            expected=expected,
            fix="drop these rows or map their labels",
        )
    return labels.to(torch.int64) if kind == "classes" else labels
