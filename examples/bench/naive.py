"""The layers as their formulas are usually written down: what a user runs without funcrec, and the check in float64.

Independent of the library on purpose: a benchmark that compares a layer with itself would bless its errors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def dots(sparse: Tensor, dense: Tensor) -> Tensor:
    fields = torch.cat([dense.unsqueeze(1), sparse], dim=1)
    n = fields.shape[1]
    gram = torch.bmm(fields, fields.transpose(1, 2))
    i, j = torch.triu_indices(n, n, 1, device=fields.device)
    return torch.cat([gram[:, i, j], dense], dim=1)


def fm(x: Tensor) -> Tensor:
    return 0.5 * (x.sum(1).square() - x.square().sum(1))


def cin(x: Tensor, *weights_and_biases: Tensor) -> Tensor:
    hidden, sums = x, []
    for weight, bias in zip(weights_and_biases[::2], weights_and_biases[1::2], strict=True):
        products = torch.einsum("bhd,bfd->bhfd", hidden, x).flatten(1, 2)
        hidden = F.conv1d(products, weight.flatten(1).unsqueeze(2), bias)
        sums.append(hidden.sum(2))
    return torch.cat(sums, dim=1)


def cross(x: Tensor, *weights_and_biases: Tensor) -> Tensor:
    y = x
    for weight, bias in zip(weights_and_biases[::2], weights_and_biases[1::2], strict=True):
        y = x * (y @ weight.unsqueeze(1)) + bias + y
    return y


def cross_v2(x: Tensor, *maps: Tensor) -> Tensor:
    y = x
    for u, v, bias in zip(maps[::3], maps[1::3], maps[2::3], strict=True):
        y = x * F.linear(F.linear(y, u), v, bias) + y
    return y


def mask_net(x: Tensor, scale: Tensor, shift: Tensor, *blocks: Tensor) -> Tensor:
    """Parallel blocks of (aggregate w b, project w b, hidden w b, norm w b)."""
    normal, out = F.layer_norm(x, x.shape[1:], scale, shift), []
    for i in range(0, len(blocks), 8):
        a, a_b, p, p_b, h, h_b, s, t = blocks[i : i + 8]
        mask = F.linear(F.relu(F.linear(x, a, a_b)), p, p_b)
        out.append(F.relu(F.layer_norm(F.linear(mask * normal, h, h_b), h.shape[:1], s, t)))
    return torch.cat(out, dim=1)


def wukong(
    x: Tensor, compress: Tensor, lcb: Tensor, norm: Sequence[Tensor], mlp: Sequence[Tensor], out: Sequence[Tensor],
    last: Sequence[Tensor],
) -> Tensor:  # fmt: skip
    products = torch.bmm(x, (x.transpose(1, 2) @ compress)).flatten(1)
    hidden = F.relu(F.linear(F.layer_norm(products, products.shape[1:], *norm), *mlp))
    fmb = F.linear(hidden, *out).unflatten(1, (-1, x.shape[2]))
    compressed = (x.transpose(1, 2) @ lcb).transpose(1, 2)
    return F.layer_norm(torch.cat([fmb, compressed], dim=1) + x, x.shape[2:], *last)


def din(query: Tensor, keys: Tensor, lengths: Tensor, *layers: Tensor, softmax: bool = True) -> Tensor:
    q = query.unsqueeze(1).expand_as(keys)
    hidden = torch.cat([q, keys, q - keys, q * keys], dim=2)
    for weight, bias in zip(layers[:-2:2], layers[1:-2:2], strict=True):
        hidden = F.relu(F.linear(hidden, weight, bias))
    scores = F.linear(hidden, *layers[-2:]).squeeze(2)
    real = torch.arange(keys.shape[1], device=keys.device) < lengths.unsqueeze(1)
    if softmax:
        scores = torch.where(real, scores, torch.finfo(scores.dtype).min).softmax(1)
    return torch.bmm(torch.where(real, scores, 0.0).unsqueeze(1), keys).squeeze(1)
