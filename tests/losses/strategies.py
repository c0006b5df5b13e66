"""Batches of logits and labels, float64, from a seed that hypothesis draws."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor

from funcrec import losses


class Case(NamedTuple):
    """One loss with its options fixed, and a batch that it accepts."""

    name: str
    loss: Any
    logits: Tensor
    labels: Tensor
    weights: Tensor


NAMES = ["bce", "bce_smooth", "focal", "softmax", "softmax_smooth", "l2", "jrc"]


def make_case(name: str, seed: int, rows: int = 6) -> Case:
    g = torch.Generator().manual_seed(seed)
    normal = partial(torch.randn, generator=g, dtype=torch.float64)
    weights = torch.rand(rows, generator=g, dtype=torch.float64) + 0.1
    binary = torch.randint(0, 2, (rows,), generator=g)
    if name.startswith("softmax"):
        smoothing = 0.2 if name.endswith("smooth") else 0.0
        loss = partial(losses.softmax_cross_entropy, label_smoothing=smoothing)
        return Case(name, loss, normal(rows, 3), torch.randint(0, 3, (rows,), generator=g), weights)
    if name == "jrc":
        sessions = torch.randint(-1, 2, (rows,), generator=g)
        return Case(name, partial(losses.jrc, sessions=sessions, alpha=0.3), normal(rows, 2), binary, weights)
    one_logit = {
        "bce": losses.bce,
        "bce_smooth": partial(losses.bce, label_smoothing=0.1),
        "focal": partial(losses.focal, gamma=1.5, alpha=0.3),
        "l2": losses.l2,
    }
    return Case(name, one_logit[name], normal(rows), binary.double() if name != "l2" else normal(rows), weights)


cases = st.builds(make_case, st.sampled_from(NAMES), st.integers(0, 10**6), st.integers(1, 8))
