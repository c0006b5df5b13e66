"""Mixed precision: autocast for the model, and a dynamic loss scale for fp16 that is right for tables too.

Gradients of embeddings are values that the step divides by the loss scale before any table is written, and a step with
an infinite gradient is skipped whole. Optimizers fused into the backward pass can do neither.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor

Precision = Literal["fp32", "bf16", "fp16"]

GROWTH, BACKOFF, GROWTH_INTERVAL, FIRST_SCALE = 2.0, 0.5, 2000, 65536.0


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager:
    """The autocast region of the forward pass and loss; matrix products in half precision, reductions in float32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16 if precision == "bf16" else torch.float16)


def init_loss_scale(precision: Precision) -> dict[str, Tensor]:
    if precision != "fp16":
        return {}
    return {"scale": torch.tensor(FIRST_SCALE), "good_steps": torch.tensor(0)}


def next_loss_scale(state: dict[str, Tensor], finite: bool) -> dict[str, Tensor]:
    """Halve after an overflow; double after ``GROWTH_INTERVAL`` steps without one."""
    if not finite:
        return {"scale": state["scale"] * BACKOFF, "good_steps": torch.zeros_like(state["good_steps"])}
    good = state["good_steps"] + 1
    if int(good) < GROWTH_INTERVAL:
        return {"scale": state["scale"], "good_steps": good}
    return {"scale": state["scale"] * GROWTH, "good_steps": torch.zeros_like(good)}
