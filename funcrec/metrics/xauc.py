"""XAUC: the share of pairs of rows whose predictions are in the order of their real-valued labels."""

from __future__ import annotations

import torch
from torch import Tensor

from funcrec.core.errors import ConfigError, KeyMissingError, fail
from funcrec.metrics.checks import no_weights, read_groups, read_predictions, read_real
from funcrec.metrics.metric import Metric, State, Undefined, UndefinedPolicy, additive, collected
from funcrec.metrics.pairs import ordered_share
from funcrec.metrics.rows import Columns


def _check_sampling(metric: str, option: str, limit: float | None, key: Tensor | None) -> None:
    if limit is not None and limit <= 0:
        fail(ConfigError, f"{metric}: {option}", got=limit, expected="a positive number, or None for all pairs")
    if limit is not None and key is None:
        fail(KeyMissingError, f"{metric}: sampled pairs", got="no key", fix="pass key=funcrec.core.random.key(seed)")


def _share(predictions: Tensor, labels: Tensor, limit: int | None = None, key: Tensor | None = None) -> Tensor:
    one_group = torch.zeros_like(labels, dtype=torch.int64)
    return ordered_share(predictions, labels, one_group, limit, key)[0][0]


def xauc(
    *,
    in_batch: bool = False,
    sample_ratio: float | None = None,
    max_pairs: int | None = None,
    key: Tensor | None = None,
    undefined: UndefinedPolicy = "raise",
) -> Metric:
    """Share of pairs of rows with ``(p_i - p_j)(y_i - y_j) > 0``; a tie in either counts as wrong.

    All pairs, exactly, by default (n log² n steps); or an estimate from pairs sampled with replacement, a function of
    the key and of the order of the rows; or the mean over batches of the exact XAUC within each batch of two rows or
    more, whose state is two sums. Takes no weights.

    Args:
        in_batch: compare rows within a batch only.
        sample_ratio: sample this share of all pairs, in (0, 1].
        max_pairs: sample this many pairs, if there are more.
        key: of ``funcrec.core.random``, for sampling.

    Raises:
        ConfigError: for more than one of in_batch, sample_ratio, max_pairs, or one out of range.
        KeyMissingError: for sampling without a key.
        DataError: in compute, for less than two rows, unless ``undefined="nan"``; in update, for labels that are not
            finite, or weights.
        NonFiniteError: in update, for NaN predictions.
    """
    if in_batch + (sample_ratio is not None) + (max_pairs is not None) > 1 or (sample_ratio or 0) > 1:
        got = f"in_batch={in_batch}, sample_ratio={sample_ratio}, max_pairs={max_pairs}"
        fail(ConfigError, "xauc", got=got, expected="at most one of them, and a ratio in (0, 1]")
    _check_sampling("xauc", "sample_ratio", sample_ratio, key)
    _check_sampling("xauc", "max_pairs", max_pairs, key)

    def columns(predictions: Tensor, labels: Tensor, weights: Tensor | None, groups: Tensor | None = None) -> Columns:
        del groups
        no_weights("xauc", weights)
        return {"predictions": read_predictions("xauc", predictions, labels), "labels": read_real("xauc", labels)}

    def value(rows: Columns) -> Tensor | Undefined:
        n = len(rows["labels"])
        if n < 2:
            return Undefined(f"{n} rows", "at least two")
        limit = max_pairs if sample_ratio is None else max(1, int(n * (n - 1) // 2 * sample_ratio))
        return _share(rows["predictions"], rows["labels"], limit, key)

    def contribution(predictions: Tensor, labels: Tensor, weights: Tensor | None) -> State:
        rows = columns(predictions, labels, weights)
        if len(labels) < 2:
            return {"total": rows["labels"].new_zeros(()), "batches": rows["labels"].new_zeros(())}
        return {"total": _share(rows["predictions"], rows["labels"]), "batches": rows["labels"].new_ones(())}

    def batch_mean(state: State) -> Tensor | Undefined:
        if state["batches"] == 0:
            return Undefined(f"{float(state['rows']):.0f} rows in batches of one", "a batch of at least two rows")
        return state["total"] / state["batches"]

    if in_batch:
        return additive("xauc", {"total": (), "batches": ()}, contribution, batch_mean, undefined)
    return collected("xauc", columns, value, undefined)


def grouped_xauc(
    *, max_pairs_per_group: int | None = None, key: Tensor | None = None, undefined: UndefinedPolicy = "raise"
) -> Metric:
    """Mean over groups, weighted by their rows, of the XAUC within each; groups of one row are left out.

    Update needs ``groups``, integers ``[B]``. Takes no weights.

    Args:
        max_pairs_per_group: sample this many pairs of a group, with replacement, if it has more; None for all pairs.
        key: of ``funcrec.core.random``, for sampling.

    Raises:
        ConfigError: for a limit below 1.
        KeyMissingError: for sampling without a key.
        DataError: in compute, when all groups are of one row, unless ``undefined="nan"``; in update as for
            :func:`xauc`.
        NonFiniteError: in update, for NaN predictions.
        ShapeError: in update, without groups.
    """
    _check_sampling("grouped_xauc", "max_pairs_per_group", max_pairs_per_group, key)

    def columns(predictions: Tensor, labels: Tensor, weights: Tensor | None, groups: Tensor | None) -> Columns:
        no_weights("grouped_xauc", weights)
        scores = read_predictions("grouped_xauc", predictions, labels)
        ids = read_groups("grouped_xauc", groups, labels)
        return {"predictions": scores, "labels": read_real("grouped_xauc", labels), "groups": ids}

    def value(rows: Columns) -> Tensor | Undefined:
        share, size = ordered_share(rows["predictions"], rows["labels"], rows["groups"], max_pairs_per_group, key)
        several = size > 1
        if not bool(several.any()):
            return Undefined(f"{len(size)} rows, each of a group of its own", "a group of at least two rows")
        return (share * size)[several].sum() / size[several].sum()

    return collected("grouped_xauc", columns, value, undefined)
