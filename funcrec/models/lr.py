"""Logistic regression: the baseline every other model has to beat."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import ConfigError, fail
from funcrec.core.groups import Group
from funcrec.core.model import Model
from funcrec.core.tree import tree
from funcrec.layers.inputs import group_vector
from funcrec.layers.linear import init_linear, linear


@dataclass(frozen=True, kw_only=True)
class LRConfig:
    """``wide``: its embedded fields hold the weight of each id (dim 1), its dense fields get a linear map."""

    wide: Group

    def __post_init__(self) -> None:
        self.wide.require_plain("LR")
        odd = {f.name: f.dim for f in self.wide.embedded if f.dim != 1}
        if odd:
            fail(ConfigError, f"LR: group {self.wide.name!r}: dims", got=odd, expected="dim 1: one weight an id")


def lr(config: LRConfig) -> Model:
    """``y = Σ_f w_f[id_f] + v·x + b``: logits ``[B, 1]``."""
    wide = config.wide
    dense = Group(wide.name, wide.dense) if wide.dense else None

    def init(key: Tensor) -> tuple[TensorDict, TensorDict]:
        params: dict = {"bias": torch.zeros(1, device=key.device)}
        if dense:
            params["dense"] = init_linear(key, dense.width, 1, bias=False)
        return tree(params), tree()

    def apply(params, emb, batch, state, *, key=None, train=False) -> tuple[Tensor, TensorDict]:
        del key, train
        y = params["bias"]
        if wide.embedded:
            y = y + emb[wide.name].flatten(1).sum(1, keepdim=True)
        if dense:
            y = y + linear(params["dense"], group_vector(dense, emb, batch))
        return y, state

    return Model(init, apply, config, (wide,))
