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
    """``wide``: its embedded fields hold the weight of each id (dim 1), its dense fields get a linear map.

    One logit, so no ``n_classes``: a weight an id is a weight for one of them.
    """

    wide: Group

    def __post_init__(self) -> None:
        self.wide.require_plain("LR")
        odd = {f.name: f.dim for f in self.wide.embedded if f.dim != 1}
        if odd:
            fail(ConfigError, f"LR: group {self.wide.name!r}: dims", got=odd, expected="dim 1: one weight an id")


def lr(config: LRConfig) -> Model:
    """``y = Σ_f w_f[id_f] + v·x + b``: logits ``[B, 1]``.

    Reference: Richardson, Dominowska & Ragno 2007, "Predicting Clicks: Estimating the Click-Through Rate for New Ads",
    eq. 3; McMahan et al. 2013, "Ad Click Prediction: a View from the Trenches", sec. 3, for one weight an id.
    """
    wide, n_ids = config.wide, len(config.wide.embedded)
    in_order = Group(wide.name, (*wide.embedded, *wide.dense))

    def init(key: Tensor) -> tuple[TensorDict, TensorDict]:
        params: dict = {"bias": torch.zeros(1, device=key.device)}
        if wide.dense:
            params["dense"] = init_linear(key, wide.width - n_ids, 1, bias=False)
        return tree(params), tree()

    def apply(params, emb, batch, state, *, key=None, train=False) -> tuple[Tensor, TensorDict]:
        del key, train
        x = group_vector(in_order, emb, batch)
        y = params["bias"] + x[:, :n_ids].sum(1, keepdim=True)
        if wide.dense:
            y = y + linear(params["dense"], x[:, n_ids:])
        return y, state

    return Model(init, apply, config, (wide,))
