"""When a loss is not finite: which tensor was the first to go bad?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NoReturn

import torch
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import NonFiniteError, fail
from funcrec.core.tree import leaves, paths


def _named(prefix: str, t: TensorDict) -> Iterator[tuple[str, Tensor]]:
    yield from zip((f"{prefix}.{p}" for p in paths(t)), leaves(t), strict=True)


def first_bad(trees: dict[str, TensorDict]) -> str | None:
    """The first tensor with a NaN or infinity in causal order, with its first bad entry; None if all are fine."""
    for prefix, t in trees.items():
        for name, x in _named(prefix, t):
            bad = ~torch.isfinite(x) if x.is_floating_point() else torch.zeros_like(x, dtype=torch.bool)
            if bool(bad.any()):
                at = tuple(bad.nonzero()[0].tolist())
                return f"{name} ({int(bad.sum())} of {x.numel()} entries; first at {at}: {float(x[at])})"
    return None


def fail_non_finite(step: int, loss: float, trees: dict[str, TensorDict]) -> NoReturn:
    """Raise, naming the step and the first bad tensor among inputs, weights, embeddings, logits and gradients."""
    found = first_bad(trees)
    fail(
        NonFiniteError,
        f"step {step}: the loss is not finite" if not math.isfinite(loss) else f"step {step}: a gradient is not finite",
        got=f"loss {loss}; first bad tensor: {found or 'none: the loss itself overflowed'}",
        fix="this step changed nothing; lower the learning rate, clip gradients, or clean this input",
    )
