"""Pairs of rows that predictions put in the order of their labels, counted all or sampled."""

from __future__ import annotations

import torch
from torch import Tensor

from funcrec.core import random
from funcrec.metrics.rows import starts

_CHUNK = 1 << 22  # sampled pairs looked at together


def lexsort(*columns: Tensor) -> Tensor:
    """The order of rows by the first column, then the second, and so on."""
    order = torch.arange(len(columns[0]), device=columns[0].device)
    for column in reversed(columns):
        order = order[torch.argsort(column[order], stable=True)]
    return order


def concordant(predictions: Tensor, labels: Tensor, group: Tensor, n_groups: int) -> Tensor:
    """The number of pairs in each group with strictly the same order in both columns; ``[n]`` to int64 ``[n_groups]``.

    Sort by group, label, and falling prediction: a pair is concordant exactly when its later row has the greater
    prediction. Ranks that fall from group to group keep pairs of two groups out, and a bottom-up merge sort counts
    the rest in n log²(n) steps, all blocks of a level at once.
    """
    n = len(predictions)
    count = torch.zeros(n_groups, dtype=torch.int64, device=group.device)
    if n == 0:
        return count
    by_value = lexsort(-group, predictions)
    value, owner = predictions[by_value], group[by_value]
    new = starts(value) | starts(owner)
    rank = torch.empty_like(group).scatter_(0, by_value, new.cumsum(0) - 1)
    group_of_rank = owner[new]

    width, size = 1, 1 << (n - 1).bit_length()
    # Padding at the end lies below every rank, so it is never above a row to its left.
    blocks = torch.nn.functional.pad(rank[lexsort(group, labels, -predictions)], (0, size - n), value=-1)
    while width < size:
        left, right = blocks.view(-1, 2, width).unbind(1)
        right = right.contiguous()
        ascents = torch.searchsorted(left.contiguous(), right)
        count.index_add_(0, group_of_rank[right.clamp(min=0)].flatten(), ascents.flatten())
        width *= 2
        blocks = blocks.view(-1, width).sort(-1).values
    return count


def same_order(predictions: Tensor, labels: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """Whether rows i and j are strictly in the same order in both columns; compared, as a product could underflow."""
    p, q, y, z = predictions[i], predictions[j], labels[i], labels[j]
    return ((p > q) & (y > z)) | ((p < q) & (y < z))


def _sampled(predictions: Tensor, labels: Tensor, start: Tensor, size: Tensor, draws: Tensor, key: Tensor) -> Tensor:
    """As :func:`concordant` of ``draws`` pairs a group, with replacement, from rows ``start .. start + size``.

    The second row of a pair is drawn from the others: no pair number has to be decoded, so none is too large.
    """
    count, wide = torch.zeros_like(draws), 1 << 62
    ends, total = draws.cumsum(0), int(draws.sum())
    for chunk, begin in enumerate(range(0, total, _CHUNK)):
        owner = torch.searchsorted(
            ends, torch.arange(begin, min(begin + _CHUNK, total), device=ends.device), right=True
        )
        here = random.fold_in(key, chunk)
        i = random.randint(random.fold_in(here, "first"), len(owner), 0, wide) % size[owner]
        j = random.randint(random.fold_in(here, "second"), len(owner), 0, wide) % (size[owner] - 1)
        right = same_order(predictions, labels, start[owner] + i, start[owner] + j + (j >= i))
        count.index_add_(0, owner, right.long())
    return count


def ordered_share(
    predictions: Tensor, labels: Tensor, groups: Tensor, limit: int | None, key: Tensor | None
) -> tuple[Tensor, Tensor]:
    """By group, the share of concordant pairs (NaN below two rows) and the number of rows, float64 and int64 ``[G]``.

    All pairs of a group count, or ``limit`` sampled ones where it has more.
    """
    ids, group, size = torch.unique(groups, return_inverse=True, return_counts=True)
    pairs = size * (size - 1) // 2
    if limit is None or key is None:
        return concordant(predictions, labels, group, len(ids)) / pairs.double(), size
    order = torch.argsort(group, stable=True)
    large = pairs > limit
    draws = torch.where(large, limit, 0)
    count = _sampled(predictions[order], labels[order], size.cumsum(0) - size, size, draws, key.to(size.device))
    small = ~large[group]
    count += concordant(predictions[small], labels[small], group[small], len(ids))
    return count / torch.where(large, limit, pairs).double(), size
