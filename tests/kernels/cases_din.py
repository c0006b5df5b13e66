"""Target attention of DIN and its gradients: empty histories, rows of nobody before, between and behind them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from funcrec.core.random import fold_in, key, normal, randint
from funcrec.kernels import din, din_reference
from tests.kernels.cases import OpCase, Size


class Sizes(NamedTuple):
    """Samples, longest history, components of a step, hidden units."""

    b: int
    t: int
    d: int
    h1: int
    h2: int


SIZES: dict[Size, Sizes] = {"tiny": Sizes(4, 3, 3, 4, 2), "odd": Sizes(517, 83, 33, 70, 23)}


def histories(b: int, t: int) -> tuple[list[int], list[int], int]:
    """Starts and lengths of b histories of up to t steps, the second empty, and the number of rows around them."""
    lengths = randint(fold_in(key(1), "lengths"), b, 0, t + 1).tolist()
    gaps = randint(fold_in(key(1), "gaps"), b + 1, 0, 3).tolist()
    if b > 1:
        lengths[1] = 0
    starts, row = [], 1 + gaps[0]
    for n, gap in zip(lengths, gaps[1:], strict=True):
        starts.append(row)
        row += n + gap
    return starts, lengths, row


def arguments(sizes: Sizes, dtype: torch.dtype, device: str) -> tuple[Tensor, ...]:
    """What the op takes, before the activation. Units are far from linear: else gradients cancel under a softmax."""
    b, t, d, h1, h2 = sizes
    starts, lengths, rows = histories(b, t)
    at = lambda numbers: torch.tensor(numbers, dtype=torch.int64, device=device)  # noqa: E731

    def draw(name: str, scale: float, *shape: int) -> Tensor:
        return (scale * normal(fold_in(key(1, device), name), shape)).to(dtype)

    return (
        draw("a", 2.0, b, h1), draw("q", 1.0, b, d), draw("keys", 1.0, rows, d), at(starts), at(lengths),
        draw("by_key", 1.5 / d**0.5, h1, d), draw("by_product", 1.5 / d**0.5, h1, d), draw("w2", 4.0 / h1**0.5, h2, h1),
        draw("b2", 1.0, h2), draw("w3", 1.5 / h2**0.5, h2), draw("b3", 1.0, 1),
    )  # fmt: skip


def _case(name: str, activation: str, softmax: bool) -> OpCase:
    vjp = name.startswith("din_vjp")

    def make(dtype: torch.dtype, device: str, size: Size) -> tuple[Any, ...]:
        args = arguments(SIZES[size], dtype, device)
        c = normal(fold_in(key(1, device), "c"), tuple(args[1].shape)).to(dtype)
        return (c, *args, activation, softmax) if vjp else (*args, activation, softmax)

    return OpCase(name, din.din_vjp if vjp else din.din, din_reference.din_vjp if vjp else din_reference.din, make)


CASES = [
    _case("din", "relu", softmax=True),
    _case("din_scores", "sigmoid", softmax=False),
    _case("din_linear", "identity", softmax=False),
    _case("din_vjp", "sigmoid", softmax=True),
    _case("din_vjp_scores", "sigmoid", softmax=False),
]
