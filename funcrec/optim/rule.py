"""What every optimizer shares: counting steps, reading the learning rate, checks, and the fused in-place path.

A rule is a direction, ``(grads, slots, leaves, lr, k) -> (updates, slots)``, and optionally a fused kernel that writes
the same step into leaves and slots.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from funcrec.optim import each
from funcrec.optim.base import Optimizer, State, apply_updates, check_matching, scalar
from funcrec.optim.schedules import Schedule, as_schedule

Slots = dict[str, list[Tensor]]
InitSlots = Callable[[Sequence[Tensor]], Slots]
Direction = Callable[[Sequence[Tensor], Slots, Sequence[Tensor], float, int], tuple[list[Tensor], Slots]]
Kernel = Callable[[list[Tensor], list[Tensor], Slots, float, int], None]


def from_rule(
    learning_rate: float | Schedule,
    slots: InitSlots,
    direction: Direction,
    kernel: Kernel | None = None,
    kernel_name: str = "",
) -> Optimizer:
    """An optimizer from its direction.

    Args:
        learning_rate: a number, or a schedule of ``k``, the number of steps already taken.
        slots: state that belongs to the leaves, by name.
        direction: pure; the updates include the learning rate and the minus sign.
        kernel: ``(leaves, grads, slots, lr, k)``, the same step written in place.
        kernel_name: its name in ``torch.ops.aten``, to ask whether a device has it.
    """
    schedule = as_schedule(learning_rate)

    def init(leaves: Sequence[Tensor], paths: Sequence[str]) -> State:
        del paths
        return {"step": scalar(0, torch.int64), "scale": scalar(1.0, torch.float64), "slots": slots(leaves)}

    def read(grads: Sequence[Tensor], state: State, leaves: Sequence[Tensor]) -> tuple[float, int]:
        check_matching(grads, leaves)
        for slot in state["slots"].values():
            check_matching(slot, leaves, "slot")
        k = int(state["step"])
        return schedule(k) * float(state["scale"]), k

    def update(grads: Sequence[Tensor], state: State, leaves: Sequence[Tensor]) -> tuple[list[Tensor], State]:
        lr, k = read(grads, state, leaves)
        updates, new = direction(grads, state["slots"], leaves, lr, k)
        return updates, {"step": state["step"] + 1, "scale": state["scale"], "slots": new}

    @torch.no_grad()
    def donated(grads: Sequence[Tensor], state: State, leaves: Sequence[Tensor]) -> tuple[list[Tensor], State]:
        lr, k = read(grads, state, leaves)
        held, own = list(leaves), state["slots"]
        if kernel is not None and _fusable(kernel_name, held, own):
            kernel(held, [_laid_out_as(g, w) for g, w in zip(grads, held, strict=True)], own, lr, k)
        else:
            updates, own = direction(grads, own, held, lr, k)
            each.add_(held, updates)
        return held, {"step": state["step"] + 1, "scale": state["scale"], "slots": own}

    def step(
        grads: Sequence[Tensor], state: State, leaves: Sequence[Tensor], *, donate: bool = False
    ) -> tuple[list[Tensor], State]:
        if donate:
            return donated(grads, state, leaves)
        updates, state = update(grads, state, leaves)
        return apply_updates(leaves, updates), state

    return Optimizer(init, update, step)


def zeros(leaves: Sequence[Tensor]) -> list[Tensor]:
    """A slot of zeros, one a leaf."""
    return [torch.zeros_like(w, requires_grad=False) for w in leaves]


def count_tensor(k: int, leaf: Tensor) -> Tensor:
    """The 1-based step as the fused kernels want it: a float32 scalar on the device of the leaves."""
    return torch.full((), k + 1.0, dtype=torch.float32, device=leaf.device)


@cache
def _has_kernel(name: str, device_type: str) -> bool:
    key = {"cpu": "CPU", "cuda": "CUDA"}.get(device_type)
    return key is not None and torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", key)


def _fusable(name: str, leaves: list[Tensor], slots: Slots) -> bool:
    """One device, one dtype, contiguous leaves and slots laid out as they are."""
    if not leaves or each.transforming() or not _has_kernel(name, leaves[0].device.type):
        return False
    kind = (leaves[0].device, leaves[0].dtype)
    return all((w.device, w.dtype) == kind and w.is_contiguous() for w in leaves) and all(
        (s.device, s.dtype) == kind and s.stride() == w.stride()
        for slot in slots.values()
        for s, w in zip(slot, leaves, strict=True)
    )


def _laid_out_as(grad: Tensor, leaf: Tensor) -> Tensor:
    # The CPU kernels walk raw memory: a transposed or expanded gradient would be read in the wrong order, silently.
    return grad if grad.stride() == leaf.stride() else torch.empty_like(leaf).copy_(grad)
