"""The model contract: a named tuple of two pure functions.

    params, state = model.init(key)
    logits, state = model.apply(params, emb, batch, state, key=None, train=False)

``params``: TensorDict of float leaves, the dense weights. ``emb``: TensorDict[B] of looked-up embeddings by group,
``[B, N, D]`` where the group's dims agree and ``[B, W]`` where they do not. So ``argnums=(0, 1)`` of
``torch.func.grad`` is the gradient of everything there is to learn. ``batch``: TensorDict[B] with ``"dense"``,
``"label"`` and ``"weight"`` entries. ``state``: TensorDict of running statistics, always returned, never written in
place. The model sees no id, no table, no device and no rank, so the local and the sharded model are the same function
object.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from tensordict import TensorDict
from torch import Tensor

from funcrec.core.groups import Group


class InitFn(Protocol):
    """``key -> (params, state)``."""

    def __call__(self, key: Tensor) -> tuple[TensorDict, TensorDict]: ...


class ApplyFn(Protocol):
    """``(params, emb, batch, state) -> (logits [B, C], state)``; deterministic and keyless unless ``train``."""

    def __call__(
        self,
        params: TensorDict,
        emb: TensorDict,
        batch: TensorDict,
        state: TensorDict,
        *,
        key: Tensor | None = None,
        train: bool = False,
    ) -> tuple[Tensor, TensorDict]: ...


class OutputsFn(Protocol):
    """As :class:`ApplyFn`, with every output by name instead of the logits alone."""

    def __call__(
        self,
        params: TensorDict,
        emb: TensorDict,
        batch: TensorDict,
        state: TensorDict,
        *,
        key: Tensor | None = None,
        train: bool = False,
    ) -> tuple[dict[str, Tensor], TensorDict]: ...


class Model(NamedTuple):
    """A model: pure functions, the frozen config they were made from, and the groups they read.

    ``outputs``: of models that compute more than logits, all of it: RocketLaunching's two nets and hidden layers.
    """

    init: InitFn
    apply: ApplyFn
    config: Any
    groups: tuple[Group, ...]
    outputs: OutputsFn | None = None


class Objective(Protocol):
    """What a training step differentiates, where it is more than a loss of the logits: distillation, penalties.

    ``(params, emb, features, state, key) -> (total, (logits, state))`` in training mode. ``total`` is a scalar, a mean
    over the batch; ``features`` holds ``"label"`` and, where there is one, ``"weight"``.
    """

    def __call__(
        self, params: TensorDict, emb: TensorDict, features: TensorDict, state: TensorDict, key: Tensor
    ) -> tuple[Tensor, tuple[Tensor, TensorDict]]: ...
