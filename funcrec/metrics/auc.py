"""Exact area under the ROC curve, of all rows or within groups."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from funcrec.core.errors import ConfigError, fail
from funcrec.core.ragged import segment_sum
from funcrec.metrics.checks import read_binary, read_groups, read_predictions, read_weights
from funcrec.metrics.metric import Metric, Undefined, UndefinedPolicy, collected
from funcrec.metrics.rows import Columns, starts


class GroupAuc(NamedTuple):
    """By group ``[G]``: the area (NaN where a class is missing), and the weight of each class."""

    area: Tensor
    positive: Tensor
    negative: Tensor


def group_auc(scores: Tensor, positive: Tensor, weights: Tensor | None, groups: Tensor | None) -> GroupAuc:
    """``Σ w_i w_j ([s_i > s_j] + [s_i = s_j] / 2) / Σ w_i w_j`` over positives i and negatives j of one group.

    One sort by score, and a stable one by group. Rows of equal score form a block; a block's positives beat the
    negatives of all lower blocks of their group, and half of those of their own. All ``[n]``; at least one row.
    """
    sorted_scores, order = scores.sort()
    if groups is not None:
        by_group = torch.argsort(groups[order], stable=True)
        sorted_scores, order = sorted_scores[by_group], order[by_group]
    block_starts = starts(sorted_scores)
    if groups is None:
        of_block = torch.zeros(int(block_starts.sum()), dtype=torch.int64, device=scores.device)
    else:
        group_starts = starts(groups[order])
        block_starts |= group_starts
        of_block = (group_starts.cumsum(0) - 1)[block_starts]
    block, n_blocks, n_groups = block_starts.cumsum(0) - 1, len(of_block), int(of_block[-1]) + 1

    won = positive[order].double()
    lost = 1.0 - won
    if weights is not None:
        weight = weights[order]
        won, lost = won * weight, lost * weight
    won, lost = segment_sum(won, block, n_blocks), segment_sum(lost, block, n_blocks)
    n_won, n_lost = segment_sum(won, of_block, n_groups), segment_sum(lost, of_block, n_groups)

    # The running sum below goes over all groups. Whole numbers are exact in it; weights become shares of their own
    # group, or a group of small weights would drown in the sum of those before it.
    share, per_group = lost, n_lost
    if weights is not None:
        share, per_group = lost / torch.where(n_lost > 0, n_lost, 1.0)[of_block], (n_lost > 0).double()
    before_group = per_group.cumsum(0) - per_group
    beaten = share.cumsum(0) - 0.5 * share - before_group[of_block]
    return GroupAuc(segment_sum(won * beaten, of_block, n_groups) / (n_won * per_group), n_won, n_lost)


def one_class(rows: float, positive: Tensor, negative: Tensor) -> Undefined:
    got = f"{rows:.0f} rows with weight {float(positive):g} in class 1 and {float(negative):g} in class 0"
    return Undefined(got, "both classes")


def auc(*, undefined: UndefinedPolicy = "raise") -> Metric:
    """Area under the ROC curve: the chance that a positive row scores above a negative one, a tie counting half.

    Exact, from all rows; row weights multiply. Update takes any scores ``[B]``, infinite ones included.

    Raises:
        DataError: in compute, when a class is missing, unless ``undefined="nan"``; in update, for labels outside of
            {0, 1} or bad weights.
        NonFiniteError: in update, for NaN predictions.

    Reference:
        Hanley & McNeil 1982, "The Meaning and Use of the Area under a ROC Curve".
    """

    def columns(predictions: Tensor, labels: Tensor, weights: Tensor | None, groups: Tensor | None) -> Columns:
        del groups
        scores = read_predictions("auc", predictions, labels)
        chunk = {"scores": scores, "positive": read_binary("auc", labels)}
        return chunk if weights is None else {**chunk, "weights": read_weights("auc", weights, labels)}

    def value(rows: Columns) -> Tensor | Undefined:
        area, positive, negative = group_auc(rows["scores"], rows["positive"], rows.get("weights"), None)
        if positive[0] == 0 or negative[0] == 0:
            return one_class(len(rows["scores"]), positive[0], negative[0])
        return area[0]

    return collected("auc", columns, value, undefined)


def gauc(*, average: Literal["macro", "weighted"] = "macro", undefined: UndefinedPolicy = "raise") -> Metric:
    """Grouped AUC: the mean over groups (users, sessions) of the exact AUC within each.

    Groups with one class only have no AUC and are left out. Update needs ``groups``, integers ``[B]``.

    Args:
        average: ``"macro"`` gives every group the same say, ``"weighted"`` one in proportion to its rows (their
            weights, where rows are weighted).

    Raises:
        DataError: in compute, when no group has both classes, unless ``undefined="nan"``; in update as for :func:`auc`.
        ShapeError: in update, without groups.

    Reference:
        Zhou et al. 2018, "Deep Interest Network for Click-Through Rate Prediction" (average="weighted").
    """
    if average not in ("macro", "weighted"):
        fail(ConfigError, "gauc: average", got=repr(average), expected="'macro' or 'weighted'")

    def columns(predictions: Tensor, labels: Tensor, weights: Tensor | None, groups: Tensor | None) -> Columns:
        scores = read_predictions("gauc", predictions, labels)
        chunk = {"scores": scores, "positive": read_binary("gauc", labels)}
        chunk["groups"] = read_groups("gauc", groups, labels)
        return chunk if weights is None else {**chunk, "weights": read_weights("gauc", weights, labels)}

    def value(rows: Columns) -> Tensor | Undefined:
        result = group_auc(rows["scores"], rows["positive"], rows.get("weights"), rows["groups"])
        mixed = (result.positive > 0) & (result.negative > 0)
        if not bool(mixed.any()):
            got = f"{len(rows['scores'])} rows in {len(mixed)} groups, each of one class only"
            return Undefined(got, "a group with both classes")
        area = result.area[mixed]
        if average == "macro":
            return area.mean()
        size = (result.positive + result.negative)[mixed]
        return (area * size).sum() / size.sum()

    return collected("gauc", columns, value, undefined)
