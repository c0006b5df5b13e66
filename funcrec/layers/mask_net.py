"""MaskBlocks side by side or in a chain, over one normalized vector: the body of MaskNet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from einops import rearrange, reduce
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import ConfigError, ShapeError, fail
from funcrec.core.random import child, fold_in
from funcrec.core.tree import map_leaves, tree
from funcrec.layers.mask_block import MaskBlockConfig, init_mask_block, mask_block
from funcrec.layers.norm import init_layer_norm, layer_norm

if TYPE_CHECKING:
    from jaxtyping import Float

InputNorm = Literal["vector", "field"] | None


def block_inputs(n_in: int, blocks: Sequence[MaskBlockConfig], *, parallel: bool = True) -> tuple[int, ...]:
    """The input width of each block: n_in beside each other; in a chain, the output width of the block before."""
    return tuple(n_in if parallel or i == 0 else blocks[i - 1].hidden_dim for i in range(len(blocks)))


def init_mask_net(
    key: Tensor,
    n_in: int,
    blocks: Sequence[MaskBlockConfig],
    *,
    parallel: bool = True,
    input_norm: InputNorm = "vector",
    n_fields: int = 1,
    dtype: torch.dtype | None = None,
) -> TensorDict:
    """Parameters of :func:`mask_net`.

    Args:
        input_norm: layer normalization of the whole vector, of each of ``n_fields`` equal slices by itself, or None.

    Returns:
        ``{"blocks": {"0": …}, "norm": {"bias", "weight"}}``, the norm's leaves ``[n_in]`` or ``[n_fields, d]``.

    Raises:
        ConfigError: no blocks, or fields that do not divide the vector.
    """
    if not blocks:
        fail(ConfigError, "mask_net: blocks", got="none", expected="at least one")
    if input_norm not in ("vector", "field", None):
        fail(ConfigError, "mask_net: input_norm", got=repr(input_norm), expected="'vector', 'field' or None")
    if input_norm == "field" and n_in % n_fields:
        fail(ConfigError, "mask_net: n_fields", got=n_fields, expected=f"a divisor of the input width {n_in}")
    widths = block_inputs(n_in, blocks, parallel=parallel)
    made = {
        str(i): init_mask_block(fold_in(fold_in(key, "blocks"), str(i)), width, n_in, block, dtype=dtype)
        for i, (width, block) in enumerate(zip(widths, blocks, strict=True))
    }
    params: dict[str, TensorDict] = {"blocks": tree(made)}
    if input_norm:
        norm = init_layer_norm(n_in, dtype=dtype, device=key.device)
        if input_norm == "field":
            norm = map_leaves(lambda v: rearrange(v, "(f d) -> f d", f=n_fields), norm)
        params["norm"] = norm
    return tree(params)


def field_norm(params: TensorDict, x: Float[Tensor, "b w"], eps: float = 1e-5) -> Float[Tensor, "b w"]:
    """Layer normalization of each of f equal slices of x, with weights of their own: leaves ``[f, d]``, w = f d."""
    weight = params["weight"]
    f, d = weight.shape
    if x.shape[-1] != f * d:
        fail(ShapeError, "field_norm: input", got=tuple(x.shape), expected=f"[b, {f * d}]")
    # Plain operations, and in half precision float32 inside, for the reasons given in layer_norm.
    fields = rearrange(x.float() if x.dtype in (torch.bfloat16, torch.float16) else x, "b (f d) -> b f d", f=f)
    centred = fields - reduce(fields, "b f d -> b f 1", "mean")
    scale = torch.rsqrt(reduce(centred.square(), "b f d -> b f 1", "mean") + eps)
    return rearrange(centred * scale * weight + params["bias"], "b f d -> b (f d)").to(x.dtype)


def mask_net(
    params: TensorDict,
    x: Float[Tensor, "b n"],
    blocks: Sequence[MaskBlockConfig],
    *,
    parallel: bool = True,
    key: Tensor | None = None,
    train: bool = False,
) -> Float[Tensor, "b h"]:
    """MaskBlocks over ``LN(x)``, every mask generated from ``x`` itself, before its normalization.

    Parallel: ``[B_1(LN x); …; B_K(LN x)]``. Serial: ``B_K(… B_1(LN x))``.

    Shape: x ``[b, n]``, returns ``[b, h]``: the sum of the hidden widths, or the last one.

    Raises:
        ShapeError: another width than the parameters were made for.
        KeyMissingError: training with dropout and no ``key``.

    Reference: Wang, She & Zhang 2021, MaskNet, sec. 3.4 and 3.5.
    """
    y = x
    if "norm" in params.keys():
        norm = params["norm"]
        y = field_norm(norm, x) if norm["weight"].dim() == 2 else layer_norm(norm, x)
    outputs = []
    for i, block in enumerate(blocks):
        name = str(i)
        out = mask_block(params["blocks"][name], y, x, block, key=child(key, name), train=train)
        outputs.append(out)
        y = y if parallel else out
    return torch.cat(outputs, dim=-1) if parallel else outputs[-1]
