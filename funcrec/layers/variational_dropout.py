"""Variational dropout: one learned dropout rate a field, which ranks the fields by what they are worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import ConfigError, KeyMissingError, ShapeError, fail
from funcrec.core.random import normal, uniform
from funcrec.core.tree import tree

if TYPE_CHECKING:
    from jaxtyping import Float

TEMPERATURE = 0.1
_EPS = torch.finfo(torch.float32).eps


def init_variational_dropout(key: Tensor, n: int, *, dtype: torch.dtype | None = None) -> TensorDict:
    """Parameters ``{"logits": [n]}``, N(0, 1): n fields.

    Raises:
        ConfigError: ``n`` is not positive.
    """
    if n < 1:
        fail(ConfigError, "variational dropout: number of fields", got=n, expected="a positive integer")
    return tree({"logits": normal(key, (n,), dtype=dtype)})


def variational_dropout(
    params: TensorDict,
    x: Float[Tensor, "b w"],
    widths: Sequence[int],
    *,
    key: Tensor | None = None,
    train: bool = False,
) -> Float[Tensor, "b w"]:
    """Each field's slice of x times ``1 − δ`` in evaluation and ``1 − z`` in training, ``δ = σ(logit)`` its drop rate.

    ``z = σ((log(δ + ε) − log(1 − δ + ε) + log(u + ε) − log(1 − u + ε)) / 0.1)``, u uniform in [0, 1) for each row and
    field, ε = 2⁻²³: nearly 1 with probability δ, nearly 0 otherwise, and differentiable in δ.

    Args:
        widths: the width of each field's slice of x, in order.

    Shape: x ``[b, w]``, w = Σ widths, returns ``[b, w]``.

    Raises:
        KeyMissingError: training without a key.
        ShapeError: ``widths`` do not match x or the parameters.

    Reference: Ma et al. 2021, Towards a Better Tradeoff between Effectiveness and Efficiency in Pre-Ranking;
    the relaxation is that of Gal et al. 2017, Concrete Dropout.
    """
    logits = params["logits"]
    if x.shape[-1] != sum(widths) or logits.shape[0] != len(widths):
        seen = f"x {tuple(x.shape)}, {logits.shape[0]} rates, widths {list(widths)}"
        fail(ShapeError, "variational dropout", got=seen, expected="one width a rate, and their sum as the width of x")
    rate = torch.sigmoid(logits)
    drop = rate.unsqueeze(0)
    if train:
        if key is None:
            fix = "pass key=funcrec.core.random.key(seed), folded with the step, or train=False"
            fail(KeyMissingError, "variational dropout: no random key", got="train=True", fix=fix)
        u = uniform(key, (x.shape[0], len(widths)), dtype=rate.dtype)
        odds = torch.log(rate + _EPS) - torch.log(1.0 - rate + _EPS)
        drop = torch.sigmoid((odds + torch.log(u + _EPS) - torch.log(1.0 - u + _EPS)) / TEMPERATURE)
    field = torch.tensor([i for i, width in enumerate(widths) for _ in range(width)], device=x.device)
    return x * (1.0 - drop).index_select(1, field).to(x.dtype)


def variational_penalty(params: TensorDict, batch_size: int, weight: float = 0.01) -> Float[Tensor, ""]:
    """``(λ / B) Σ_f (1 − δ_f)``, a loss that pushes every field out unless the others need it; λ the ``weight``.

    Shape: returns a scalar.
    """
    return (1.0 - torch.sigmoid(params["logits"])).sum() * (weight / batch_size)
