"""What the tests of kernels quantify over: an op, its einops form, and how to make arguments for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch

Size = Literal["tiny", "odd"]


class OpCase(NamedTuple):
    """``op(*args)`` must be ``reference(*args)``. ``make(dtype, device, size)`` makes the arguments: ``"tiny"`` ones
    for the interpreter, ``"odd"`` ones for a GPU, with no power of two among their sizes."""

    name: str
    op: Callable[..., Any]
    reference: Callable[..., Any]
    make: Callable[[torch.dtype, str, Size], tuple[Any, ...]]
