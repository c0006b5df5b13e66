"""One global norm over dense weights and tables together: measured, checked, clipped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from funcrec.core import tree
from funcrec.embedding import rows
from funcrec.optim import clip_factor
from funcrec.train.finite import fail_non_finite
from funcrec.train.state import TrainState

Gradients = tuple[Sequence[Tensor], rows.Gradient]


def clip(
    ts: TrainState, gradients: Gradients, max_norm: float | None, info: dict[str, Any], check_finite: bool
) -> Gradients | None:
    """Both gradients times one clip factor; their norm goes into ``info["grad_norm"]``.

    With ``check_finite`` the norm is read on the host. None where it is not finite and there is a loss scale to blame.

    Raises:
        NonFiniteError: the norm is not finite, and no loss scale is to blame.
    """
    d_params, d_table = gradients[0], rows.summed(gradients[1])  # once, for the norm and for the update
    squares = [torch.linalg.vector_norm(g, dtype=torch.float64).square() for g in d_params]
    norm = (sum(squares) + rows.squared_norm(d_table)).sqrt()
    info["grad_norm"] = float(norm) if check_finite else norm
    if check_finite and not info["grad_norm"] < math.inf:
        if ts.loss_scale:
            return None
        grads = tree.unflatten(tree.paths(ts.params), d_params)
        d_stacks = TensorDict({name: g.values for name, g in d_table.items()}, batch_size=[])
        fail_non_finite(int(ts.step), info["loss"], {"gradient of params": grads, "gradient of tables": d_stacks})
    if max_norm is None:
        return d_params, d_table
    factor: Any = clip_factor(norm.to(torch.get_default_dtype()), max_norm)
    if check_finite:
        factor = float(factor)
        if factor == 1.0:
            return d_params, d_table
    return torch._foreach_mul(list(d_params), factor), rows.scale(d_table, factor)
