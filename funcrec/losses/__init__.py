"""Losses: pure functions ``loss(logits, labels, weights=None, *, options) -> scalar`` over one batch.

Every loss is differentiable to second order in its logits and in its weights, goes through ``torch.func.vmap`` and
compiles as one graph. Options are keywords: fix them with ``functools.partial``. Half-precision logits are computed in
float32, float64 stays float64. The values of the labels are checked apart, by :func:`check_labels`, once for the data.

>>> import torch
>>> from functools import partial
>>> loss = partial(bce, label_smoothing=0.1)
>>> gradient = torch.func.grad(loss)(torch.zeros(2), torch.tensor([0.0, 1.0]))
>>> [round(g, 3) for g in gradient.tolist()]
[0.225, -0.225]
"""

from collections.abc import Callable

from torch import Tensor

from funcrec.losses.binary import bce, focal
from funcrec.losses.jrc import jrc
from funcrec.losses.labels import check_labels
from funcrec.losses.multiclass import softmax_cross_entropy
from funcrec.losses.reduction import normalize_weights
from funcrec.losses.regression import l2

LOSSES: dict[str, Callable[..., Tensor]] = {
    "bce": bce,
    "focal": focal,
    "jrc": jrc,
    "l2": l2,
    "softmax_cross_entropy": softmax_cross_entropy,
}

__all__ = ["LOSSES", "bce", "check_labels", "focal", "jrc", "l2", "normalize_weights", "softmax_cross_entropy"]
