"""MaskBlocks side by side or in a chain, over one normalized vector: the body of MaskNet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from einops import rearrange
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


def _check(params: TensorDict, x: Tensor, blocks: Sequence[MaskBlockConfig], parallel: bool) -> None:
    """Raise ShapeError unless these blocks, in this order, are those of the parameters."""
    made = params["blocks"]
    of = lambda i: tuple(made[str(i)]["hidden"]["weight"].shape)  # noqa: E731
    held = [of(i) for i in range(len(made.keys()))]
    n_in = made["0"]["aggregate"]["weight"].shape[1]
    if x.shape[-1] != n_in:
        fail(ShapeError, "mask_net: input", got=tuple(x.shape), expected=f"[b, {n_in}]")
    widths = block_inputs(n_in, blocks, parallel=parallel)
    asked = [(block.hidden_dim, width) for block, width in zip(blocks, widths, strict=True)]
    if asked != held:
        fix = "pass the blocks and the parallel that init_mask_net was given"
        fail(ShapeError, "mask_net: (output, input) of each block", got=asked, expected=held, fix=fix)


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
        ShapeError: another width, other blocks, or the other value of ``parallel`` than the parameters were made for.
            (Where every block is as wide as x the two have the same shapes, and nothing can tell them apart.)
        KeyMissingError: training with dropout and no ``key``.

    Reference: Wang, She & Zhang 2021, MaskNet, sec. 3.4 and 3.5.
    """
    _check(params, x, blocks, parallel)
    y = x
    if "norm" in params.keys():
        norm = params["norm"]
        if norm["weight"].dim() == 2:
            fields = rearrange(x, "b (f d) -> b f d", f=norm["weight"].shape[0])
            y = rearrange(layer_norm(norm, fields), "b f d -> b (f d)")
        else:
            y = layer_norm(norm, x)
    outputs = []
    for i, block in enumerate(blocks):
        name = str(i)
        out = mask_block(params["blocks"][name], y, x, block, key=child(key, name), train=train)
        outputs.append(out)
        y = y if parallel else out
    return torch.cat(outputs, dim=-1) if parallel else outputs[-1]
