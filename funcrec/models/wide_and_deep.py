"""Wide & Deep: a linear part with a weight an id beside an MLP over embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.groups import Group
from funcrec.core.init import Initializer
from funcrec.core.model import Model
from funcrec.core.random import fold_in
from funcrec.core.tree import tree
from funcrec.layers.inputs import init_inputs
from funcrec.layers.linear import init_linear, linear
from funcrec.layers.mlp import MLPConfig, init_mlp
from funcrec.models.checks import check_classes, check_wide, distinct
from funcrec.models.parts import begin


@dataclass(frozen=True, kw_only=True)
class WideAndDeepConfig:
    """Config of :func:`wide_and_deep`.

    Attributes:
        wide: looked-up fields of any dim, summed over fields *and* components; tables of its own. The paper's model has
            dim 1. TorchEasyRec's has 4, the least its tables allow: the same model, each weight the sum of 4 numbers
            that learn alike, so with SGD at four times the rate.
        deep: input of the MLP; embedded and dense fields.
        deep_mlp: the MLP over the deep group, its last layer activated too.
        final: MLP over [wide; deep], or None to add the two logits.
        n_classes: width of the logits; without ``final`` the wide sum is added to each.
        weight, bias_init: initializers of the output layer; None: U(±1/√fan_in).
    """

    wide: Group
    deep: Group
    deep_mlp: MLPConfig
    final: MLPConfig | None = None
    n_classes: int = 1
    weight: Initializer | None = None
    bias_init: Initializer | None = None

    def __post_init__(self) -> None:
        check_classes("WideAndDeep", self.n_classes)
        check_wide("WideAndDeep", self.wide)
        _ = self.groups  # checked now: here the error belongs

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups it reads, each once."""
        return distinct("WideAndDeep", self.wide, self.deep)


def wide_and_deep(config: WideAndDeepConfig) -> Model:
    """Logits ``[B, C]`` of Wide & Deep.

    ``y_w = Σ wide``, ``y_d = MLP(deep)``. With ``final``: ``y = Linear(MLP_final([y_w; y_d]))``; without:
    ``y = y_w + Linear(y_d)``.

    Reference: Cheng et al. 2016, "Wide & Deep Learning for Recommender Systems", eq. 3; TorchEasyRec's form of it.
    """
    c = config
    groups = c.groups
    deep_out = c.deep_mlp.output_dim
    head_in = c.final.output_dim if c.final else deep_out

    def init(key: Tensor) -> tuple[TensorDict, TensorDict]:
        params, state = {}, {}
        params["inputs"], state["inputs"] = init_inputs(fold_in(key, "inputs"), groups)
        params["deep"], state["deep"] = init_mlp(fold_in(key, "deep"), c.deep.width, c.deep_mlp)
        if c.final:
            params["final"], state["final"] = init_mlp(fold_in(key, "final"), 1 + deep_out, c.final)
        params["head"] = init_linear(fold_in(key, "head"), head_in, c.n_classes, weight=c.weight, bias_init=c.bias_init)
        return tree(params), tree(state)

    def apply(params, emb, batch, state, *, key=None, train=False) -> tuple[Tensor, TensorDict]:
        x, part, new = begin(groups, params, emb, batch, state, key=key, train=train)
        wide = x[c.wide.name].sum(1, keepdim=True)
        deep = part("deep", c.deep_mlp, x[c.deep.name])
        if c.final is None:
            return wide + linear(params["head"], deep), tree(new)
        hidden = part("final", c.final, torch.cat([wide, deep], dim=-1))
        return linear(params["head"], hidden), tree(new)

    return Model(init, apply, config, groups)
