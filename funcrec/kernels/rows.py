"""The update of a table by row gradients: duplicates summed and the rule's step taken in one pass, in place.

    for each r in rows:  g = Σ_{i: rows[i] = r} factors[i] · values[source[i]];  (weight[r], slots[r]) = step of g

It writes into the table, so it is no primitive: nothing differentiates through an update. The reference is
``sum_duplicates`` and the rule's own function, which ``funcrec.embedding.rowwise`` runs where this does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from funcrec.kernels.primitive import interpreted

SLOTS: dict[str, tuple[str, ...]] = {
    "sgd": (),
    "adagrad": ("sum",),
    "rowwise_adagrad": ("sum",),
    "adam": ("mu", "nu"),
    "partial_rowwise_adam": ("mu", "nu"),
}
"""The rules that the kernels know, and the names of what each keeps of a row."""

MAX_DIM = 1024
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_LIBRARY = torch.library.Library("funcrec", "FRAGMENT")  # lives as long as the process
_LIBRARY.define(
    "update_rows(Tensor(a!) weight, Tensor(b!)? first, Tensor(c!)? second, Tensor rows, Tensor values, "
    "Tensor? source, Tensor? factors, bool unique, Tensor lr, Tensor correct_1, Tensor correct_2, "
    "str rule, str decay_mode, float[] constants) -> ()"
)


def _launch(weight: Tensor, *args: Any) -> None:
    from funcrec.kernels.gpu import rows  # imports Triton

    with torch.cuda.device(weight.device) if weight.is_cuda else nullcontext():
        rows.update(weight, *args)


for _key in ("CPU", "CUDA"):
    _LIBRARY.impl("update_rows", _launch, _key)
torch.library.register_fake("funcrec::update_rows", lambda *args: None, lib=_LIBRARY)


def unsupported(rule: str, constants: Mapping[str, float | str] | None, weight: Tensor, values: Tensor) -> str | None:
    """Why the kernels cannot take this update; None if they can."""
    if constants is None or rule not in SLOTS:
        return f"rule {rule!r}, none of {sorted(SLOTS)} with the constants of funcrec.optim.rowwise"
    if weight.shape[1] > MAX_DIM:
        return f"{weight.shape[1]} columns, more than {MAX_DIM}"
    if weight.dtype in DTYPES and values.dtype not in DTYPES:
        return f"a gradient of {values.dtype}"
    if not weight.is_contiguous():
        return "a table that is not contiguous"
    return None


def runs(weight: Tensor) -> bool:
    """Whether there is a kernel to run where this table is; without, impl="triton" means the reference."""
    return weight.is_cuda or (interpreted() and weight.dtype in DTYPES)


def _scalar(x: Tensor, like: Tensor) -> Tensor:
    """x where ``like`` is. A number of the CPU is filled in there: a copy would make the host wait."""
    return x if x.device == like.device else torch.full((), float(x), dtype=x.dtype, device=like.device)


@torch.no_grad()
def update(
    rule: str,
    constants: Mapping[str, float | str],
    weight: Tensor,
    slots: Mapping[str, Tensor],
    rows: Tensor,
    values: Tensor,
    source: Tensor | None,
    factors: Tensor | None,
    unique: bool,
    step: Tensor,
    lr: Tensor,
) -> None:
    """Write one step of all rows in ``rows`` into ``weight`` and ``slots``.

    Shapes: weight ``[N, D]`` in float32, bfloat16 or float16, slots ``[N]`` or ``[N, D]`` in float32, rows ``[n]``
    int32 or int64, values ``[m, D]``, source ``[n]`` with numbers below m (None: n = m, in order), factors ``[n]``.

    Args:
        rule, constants: of a ``RowRule``.
        unique: whether each row stands in ``rows`` once: nothing has to be sorted then.
        step, lr: float64 scalars, the number of this step and the learning rate. On the table's device they are read by
            the kernels, so that a captured graph sees new ones.
    """
    beta_1, beta_2 = float(constants.get("beta_1", 0.0)), float(constants.get("beta_2", 0.0))
    moving = "beta_1" in constants
    kept = [*(slots[name] for name in SLOTS[rule]), None, None]
    lr = _scalar(lr, weight)
    torch.ops.funcrec.update_rows(
        weight,
        kept[0],
        kept[1],
        rows,
        values,
        source,
        factors,
        unique,
        lr,
        _scalar(1.0 - beta_1**step, weight) if moving else lr,
        _scalar(1.0 - beta_2**step, weight) if moving else lr,
        rule,
        str(constants.get("weight_decay_mode", "none")),
        [float(constants.get("eps", 0.0)), float(constants.get("weight_decay", 0.0)), beta_1, beta_2],
    )
