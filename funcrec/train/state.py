"""What training carries from step to step, as one value."""

from __future__ import annotations

from typing import Any, NamedTuple

from tensordict import TensorDict
from torch import Tensor

from funcrec.embedding.store import Tables


class TrainState(NamedTuple):
    """Everything a training step reads and replaces. A step *donates* it: the old value is dead after the call.

    Attributes:
        params: dense weights.
        state: running statistics of the model.
        tables: embedding tables with their optimizer's entries.
        optimizer: the dense optimizer's state, nested dicts and lists of tensors.
        step: number of steps taken, int64 scalar on the CPU.
        key: random key; step k of training folds in k.
        loss_scale: dynamic loss scale and its counters (fp16 only), else empty.
    """

    params: TensorDict
    state: TensorDict
    tables: Tables
    optimizer: Any
    step: Tensor
    key: Tensor
    loss_scale: dict[str, Tensor]
