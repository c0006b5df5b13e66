"""DCNv2: cross layers with matrix weights, low-rank or full, beside or below an MLP."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import ConfigError, fail
from funcrec.core.groups import Group
from funcrec.core.init import Initializer
from funcrec.core.model import Model
from funcrec.core.random import fold_in
from funcrec.core.tree import tree
from funcrec.layers.cross_v2 import cross_v2, init_cross_v2
from funcrec.layers.inputs import init_inputs
from funcrec.layers.linear import init_linear, linear
from funcrec.layers.mlp import MLPConfig, init_mlp
from funcrec.models.checks import check_classes
from funcrec.models.parts import begin


@dataclass(frozen=True, kw_only=True)
class DCNv2Config:
    """Config of :func:`dcn_v2`.

    Attributes:
        group: the one group it reads; embedded and dense fields.
        backbone: MLP below the cross layers, or None.
        cross_num: number of cross layers L.
        low_rank: rank r of each cross layer, or None for full matrices.
        deep: MLP beside the cross layers (parallel form), or None (stacked form). It reads the raw group, not the
            backbone's output.
        final: MLP over [cross; deep], or None to go straight to the output layer.
        n_classes: width of the logits.
        weight, bias_init: initializers of cross and output layers; None: U(±1/√fan_in).
    """

    group: Group
    backbone: MLPConfig | None = None
    cross_num: int = 3
    low_rank: int | None = 32
    deep: MLPConfig | None = None
    final: MLPConfig | None = None
    n_classes: int = 1
    weight: Initializer | None = None
    bias_init: Initializer | None = None

    def __post_init__(self) -> None:
        check_classes("DCNv2", self.n_classes)
        if self.cross_num < 1:
            fail(ConfigError, "DCNv2: cross_num", got=self.cross_num, expected="at least 1")
        if self.low_rank is not None and self.low_rank < 1:
            fail(ConfigError, "DCNv2: low_rank", got=self.low_rank, expected="at least 1, or None for full rank")


def dcn_v2(config: DCNv2Config) -> Model:
    """Logits ``[B, C]`` of DCNv2; the output layer has no bias.

    ``n = backbone(g)``; ``x_{l+1} = n ⊙ (V_l U_l x_l + c_l) + x_l``; ``y = Linear(MLP_final([x_L; MLP_deep(g)]))``.

    Reference: Wang et al. 2021, "DCN V2", eq. 1 and 2, figure 1.
    """
    c = config
    width = c.backbone.output_dim if c.backbone else c.group.width
    joined_in = width + (c.deep.output_dim if c.deep else 0)
    head_in = c.final.output_dim if c.final else joined_in

    def init(key: Tensor) -> tuple[TensorDict, TensorDict]:
        params, state = {}, {}
        params["inputs"], state["inputs"] = init_inputs(fold_in(key, "inputs"), (c.group,))
        for name, config_, n_in in (
            ("backbone", c.backbone, c.group.width),
            ("deep", c.deep, c.group.width),
            ("final", c.final, joined_in),
        ):
            if config_ is not None:
                params[name], state[name] = init_mlp(fold_in(key, name), n_in, config_)
        params["cross"] = init_cross_v2(
            fold_in(key, "cross"), width, c.cross_num, c.low_rank, weight=c.weight, bias_init=c.bias_init
        )
        params["head"] = init_linear(fold_in(key, "head"), head_in, c.n_classes, bias=False, weight=c.weight)
        return tree(params), tree(state)

    def apply(params, emb, batch, state, *, key=None, train=False) -> tuple[Tensor, TensorDict]:
        x, part, new = begin((c.group,), params, emb, batch, state, key=key, train=train)
        g = x[c.group.name]
        y = cross_v2(params["cross"], part("backbone", c.backbone, g) if c.backbone else g)
        if c.deep:
            y = torch.cat([y, part("deep", c.deep, g)], dim=-1)
        if c.final:
            y = part("final", c.final, y)
        return linear(params["head"], y), tree(new)

    return Model(init, apply, config, (c.group,))
