"""JRC: calibration and ranking from one pair of logits."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from funcrec.core.errors import ConfigError, ShapeError, fail
from funcrec.losses.reduction import class_columns, weighted_mean


def jrc(
    logits: Tensor, labels: Tensor, weights: Tensor | None = None, *, sessions: Tensor, alpha: float = 0.5
) -> Tensor:
    """Joint ranking and calibration: ``mean_b w_b (α CE_b + (1 - α) GE_b)``.

    CE is the cross-entropy over an example's two logits. GE compares, within a session, the logit of the example's
    own class c with that same logit of the examples of the other class:

        ``GE_i = log(exp z_ic + Σ_{j: session_j = session_i, y_j ≠ c} exp z_jc) - z_ic``,  c = y_i.

    An example without a rival in its session has GE = 0, so a batch of one class reduces to ``α CE`` (TorchEasyRec
    gives NaN there). Weights are normalised to mean 1. Memory is linear in B.

    Args:
        logits: ``[B, 2]``; column 1 is the positive class.
        labels: ``[B]`` integers in {0, 1}.
        weights: ``[B]``, or None for all equal.
        sessions: ``[B]`` integers; equal numbers are one session.
        alpha: in [0, 1], the share of the cross-entropy.

    Returns:
        A scalar, float32 or float64.

    Raises:
        ShapeError: for other shapes, labels that are not integers, or sessions that are not.
        ConfigError: for an alpha outside of its range.

    Reference:
        Sheng et al. 2023, "Joint Optimization of Ranking and Calibration with Contextualized Hybrid Model".
    """
    if not 0.0 <= alpha <= 1.0:
        fail(ConfigError, "jrc: alpha", got=alpha, expected="a number in [0, 1]")
    scores, targets = class_columns("jrc", logits, labels, classes=2)
    if sessions.shape != targets.shape or sessions.is_floating_point():
        fail(
            ShapeError,
            "jrc: sessions",
            got=f"{tuple(sessions.shape)} {sessions.dtype}",
            expected=f"one integer an example, {tuple(targets.shape)}",
        )
    cross_entropy = -log_softmax(scores, dim=1).gather(1, targets[:, None]).squeeze(1)
    return weighted_mean(alpha * cross_entropy + (1.0 - alpha) * _ranking(scores, targets, sessions), weights)


def _ranking(scores: Tensor, targets: Tensor, sessions: Tensor) -> Tensor:
    """GE ``[B]`` by a segment logsumexp: a segment is what the examples of one session and one class compete with."""
    own = scores.gather(1, targets[:, None]).squeeze(1)
    rival = scores.gather(1, 1 - targets[:, None]).squeeze(1)
    # The first position of a session among the sorted sessions numbers it below B, without a data-dependent shape.
    session = torch.searchsorted(sessions.sort().values, sessions)
    competed, joined = 2 * session + targets, 2 * session + (1 - targets)

    segments = 2 * len(targets)
    lowest = scores.new_full((segments,), -torch.inf)
    peak = lowest.scatter_reduce(0, joined, rival.detach(), "amax")
    total = scores.new_zeros(segments).index_add(0, joined, torch.exp(rival - peak[joined]))

    top = torch.maximum(own.detach(), peak[competed])
    both = torch.exp(own - top) + total[competed] * torch.exp(peak[competed] - top)
    return torch.log(both) + top - own
