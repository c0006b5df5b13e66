"""Batch normalization with its running statistics as a value: state in, state out, nothing written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from einops import rearrange
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import ShapeError, fail
from funcrec.core.tree import tree

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


def init_batch_norm(
    n: int,
    affine: bool = True,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> tuple[TensorDict, TensorDict]:
    """Params ``{"bias": 0, "weight": 1}``, none if not ``affine``, and state ``{"mean": 0, "var": 1}``, all ``[n]``."""
    zeros, ones = torch.zeros(n, dtype=dtype, device=device), torch.ones(n, dtype=dtype, device=device)
    params = tree({"bias": zeros, "weight": ones} if affine else {})
    return params, tree({"mean": zeros.clone(), "var": ones.clone()})


def _train(
    params: TensorDict, rows: Tensor, present: Tensor | None, state: TensorDict, momentum: float, eps: float
) -> tuple[Tensor, TensorDict]:
    """Training over the present rows only, None: all; ``rows`` ``[n, c]``, ``present`` ``[n, 1]``.

    Plain operations: the gradient of the jvp of torch's kernel is wrong (torch 2.13), and silently so.
    """
    if present is None:
        n = torch.full((), rows.shape[0], device=rows.device)
        mean = rows.mean(0)
        centred = rows - mean
    else:
        n = present.sum()
        mean = torch.where(present, rows, 0.0).sum(0) / n.clamp(min=1)
        centred = torch.where(present, rows - mean, 0.0)
    var = centred.square().sum(0) / n.clamp(min=1)
    y = centred * torch.rsqrt(var + eps)
    if "weight" in params.keys():
        y = y * params["weight"] + params["bias"]
    # No row says nothing about the mean, a single one nothing about the variance. (n and n - 1 are integers: their
    # quotient by themselves would be float32.)
    unbiased = var.detach() * n / (n - 1).clamp(min=1)
    towards = {"mean": (mean.detach(), n > 0), "var": (unbiased, n > 1)}
    moved = {
        # The flag is cast before it is scaled: a bool times 0.1 is 0.1 in float32 only.
        name: torch.lerp(state[name], to.to(state[name].dtype), known.to(state[name].dtype) * momentum)
        for name, (to, known) in towards.items()
    }
    return y, TensorDict(moved, batch_size=[])


def batch_norm(
    params: TensorDict,
    x: Float[Tensor, "... c"],
    state: TensorDict,
    *,
    train: bool = False,
    mask: Bool[Tensor, "*rows"] | None = None,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[Float[Tensor, "... c"], TensorDict]:
    """``y = w ⊙ (x − μ) / √(σ² + eps) + b`` per channel, the last axis.

    Training takes μ and the biased σ² over all leading axes and returns the running statistics moved by ``momentum``
    towards μ and the unbiased σ²; no gradient flows through them. Evaluation takes μ and σ² from ``state``.
    Half-precision inputs are normalized in float32 and returned in their own dtype. Under ``torch.vmap`` each member
    has statistics of its own.

    Args:
        params: ``{"bias", "weight"}``, or an empty tree for w = 1, b = 0.
        state: ``{"mean", "var"}``.
        mask: which rows are real, of the shape of x without its channels; the statistics of training are those of the
            real rows only, and what is returned at the others is without meaning. None: all of them.

    Shape: x ``[..., c]``, returns ``[..., c]`` and the new state.

    Raises:
        ShapeError: another number of channels, or training with fewer than two rows. (With a mask any number will do:
            no real row leaves the running statistics alone, a single one the variance.)

    Reference: Ioffe & Szegedy 2015, Batch Normalization, algorithms 1 and 2.
    """
    mean, var = state["mean"], state["var"]
    if x.shape[-1:] != mean.shape:
        fail(ShapeError, "batch_norm: input", got=f"[..., {x.shape[-1]}]", expected=f"[..., {mean.shape[0]}]")
    rows = rearrange(x, "... c -> (...) c")
    if rows.dtype in (torch.bfloat16, torch.float16):
        rows = rows.float()
    weight, bias = params.get("weight", None), params.get("bias", None)
    if not train:
        scale = torch.rsqrt(var + eps) if weight is None else torch.rsqrt(var + eps) * weight
        shift = -mean * scale if bias is None else bias - mean * scale
        return torch.addcmul(shift, rows, scale).to(x.dtype).reshape(x.shape), state

    present = None if mask is None else rearrange(mask, "... -> (...) 1")
    if present is None and rows.shape[0] < 2:
        fail(
            ShapeError,
            "Expected more than 1 value per channel when training: batch_norm",
            got=f"input {tuple(x.shape)}",
            fix="drop batches of fewer than two rows, or evaluate with train=False",
        )
    y, moved = _train(params, rows, present, state, momentum, eps)
    return y.to(x.dtype).reshape(x.shape), moved
