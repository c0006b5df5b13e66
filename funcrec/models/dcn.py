"""DCN: cross layers with one vector of weights each, beside an MLP."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import ConfigError, fail
from funcrec.core.groups import Group
from funcrec.core.impl import Impl, check_impl
from funcrec.core.init import Initializer
from funcrec.core.model import Model
from funcrec.core.random import fold_in
from funcrec.core.tree import tree
from funcrec.layers.cross import cross, init_cross
from funcrec.layers.inputs import init_inputs
from funcrec.layers.linear import init_linear, linear
from funcrec.layers.mlp import MLPConfig, init_mlp
from funcrec.models.checks import check_classes
from funcrec.models.parts import begin


@dataclass(frozen=True, kw_only=True)
class DCNConfig:
    """Config of :func:`dcn`.

    Attributes:
        group: the one group it reads; embedded and dense fields.
        cross_num: number of cross layers L.
        deep: MLP beside the cross layers, or None for the cross network alone.
        final: MLP over [cross; deep], or None to go straight to the output layer, as the paper does.
        head_bias: whether the output layer has a bias; the paper's has one, TorchEasyRec's has none.
        n_classes: width of the logits.
        weight, bias_init: initializers of the output layer; None: U(±1/√fan_in).
        impl: which form of the cross network runs; see :data:`funcrec.core.impl.Impl`.
    """

    group: Group
    cross_num: int = 3
    deep: MLPConfig | None = None
    final: MLPConfig | None = None
    head_bias: bool = False
    n_classes: int = 1
    weight: Initializer | None = None
    bias_init: Initializer | None = None
    impl: Impl = "auto"

    def __post_init__(self) -> None:
        check_impl("DCN", self.impl)
        check_classes("DCN", self.n_classes)
        if self.cross_num < 1:
            fail(ConfigError, "DCN: cross_num", got=self.cross_num, expected="at least 1")


def dcn(config: DCNConfig) -> Model:
    """Logits ``[B, C]`` of DCN.

    ``x_{l+1} = (x_l · w_l) g + b_l + x_l`` from ``x_0 = g``; ``y = Linear(MLP_final([x_L; MLP_deep(g)]))``.

    Reference: Wang et al. 2017, "Deep & Cross Network for Ad Click Predictions", eq. 3 and 6.
    """
    c = config
    width = c.group.width
    joined_in = width + (c.deep.output_dim if c.deep else 0)
    head_in = c.final.output_dim if c.final else joined_in

    def init(key: Tensor) -> tuple[TensorDict, TensorDict]:
        params, state = {}, {}
        params["inputs"], state["inputs"] = init_inputs(fold_in(key, "inputs"), (c.group,))
        for name, part_config, n_in in (("deep", c.deep, width), ("final", c.final, joined_in)):
            if part_config is not None:
                params[name], state[name] = init_mlp(fold_in(key, name), n_in, part_config)
        params["cross"] = init_cross(fold_in(key, "cross"), width, c.cross_num)
        at = fold_in(key, "head")
        params["head"] = init_linear(at, head_in, c.n_classes, bias=c.head_bias, weight=c.weight, bias_init=c.bias_init)
        return tree(params), tree(state)

    def apply(params, emb, batch, state, *, key=None, train=False) -> tuple[Tensor, TensorDict]:
        x, part, new = begin((c.group,), params, emb, batch, state, key=key, train=train)
        g = x[c.group.name]
        y = cross(params["cross"], g, impl=c.impl)
        if c.deep:
            y = torch.cat([y, part("deep", c.deep, g)], dim=-1)
        if c.final:
            y = part("final", c.final, y)
        return linear(params["head"], y), tree(new)

    return Model(init, apply, config, (c.group,))
