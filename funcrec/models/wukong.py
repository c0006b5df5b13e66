"""WuKong: layers of factorization machines whose degree doubles with each layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import ConfigError, fail
from funcrec.core.groups import Group
from funcrec.core.impl import Impl, check_impl
from funcrec.core.init import Initializer
from funcrec.core.model import Model
from funcrec.core.random import child, fold_in
from funcrec.core.tree import tree
from funcrec.layers.inputs import init_inputs, stacked
from funcrec.layers.linear import init_linear, linear
from funcrec.layers.mlp import MLPConfig, init_mlp
from funcrec.layers.wukong_layer import WuKongLayerConfig, init_wukong_layer, wukong_layer
from funcrec.models.checks import check_classes, check_sparse_and_dense, distinct
from funcrec.models.parts import begin


@dataclass(frozen=True, kw_only=True)
class WuKongConfig:
    """Config of :func:`wukong`.

    Attributes:
        sparse: embedded fields of one dim D.
        dense: the dense features, or None; needs ``dense_mlp``, whose last width must be D.
        dense_mlp: makes one more field of the dense features.
        layers: the interaction layers, one after the other.
        final: the top MLP.
        n_classes: width of the logits.
        weight, bias_init: initializers of the output layer; None: U(±1/√fan_in). Layers and MLPs have their own.
        impl: which form of the WuKong layers runs; see :data:`funcrec.core.impl.Impl`.
    """

    sparse: Group
    dense: Group | None = None
    dense_mlp: MLPConfig | None = None
    layers: tuple[WuKongLayerConfig, ...]
    final: MLPConfig
    n_classes: int = 1
    weight: Initializer | None = None
    bias_init: Initializer | None = None
    impl: Impl = "auto"

    def __post_init__(self) -> None:
        check_impl("WuKong", self.impl)
        object.__setattr__(self, "layers", tuple(self.layers))
        check_classes("WuKong", self.n_classes)
        check_sparse_and_dense("WuKong", self.sparse, self.dense, self.dense_mlp)
        _ = self.groups  # checked now: here the error belongs
        if not self.layers:
            fail(ConfigError, "WuKong: layers", got="none", expected="at least one WuKongLayerConfig")

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups it reads, each once."""
        return distinct("WuKong", self.sparse, self.dense)


def wukong(config: WuKongConfig) -> Model:
    """Logits ``[B, C]`` of WuKong.

    ``X_0 = [MLP_dense(x); S]`` on the field axis, dense first; ``X_{l+1} = Layer_l(X_l)``;
    ``y = Linear(MLP_final(flat(X_L)))``.

    Reference: Zhang et al. 2024, "Wukong: Towards a Scaling Law for Large-Scale Recommendation", sec. 3.
    """
    c = config
    n, dim = c.sparse.require_stacked("WuKong")
    groups = c.groups
    n_fields = (n + (c.dense is not None), *(layer.output_fields for layer in c.layers))

    def init(key: Tensor) -> tuple[TensorDict, TensorDict]:
        params, state = {}, {}
        params["inputs"], state["inputs"] = init_inputs(fold_in(key, "inputs"), groups)
        if c.dense and c.dense_mlp:
            params["dense"], state["dense"] = init_mlp(fold_in(key, "dense"), c.dense.width, c.dense_mlp)
        layers, kept, at = {}, {}, fold_in(key, "layers")
        for i, layer in enumerate(c.layers):
            layers[str(i)], kept[str(i)] = init_wukong_layer(fold_in(at, str(i)), dim, n_fields[i], layer)
        params["layers"], state["layers"] = tree(layers), tree(kept)
        params["final"], state["final"] = init_mlp(fold_in(key, "final"), n_fields[-1] * dim, c.final)
        params["head"] = init_linear(
            fold_in(key, "head"), c.final.output_dim, c.n_classes, weight=c.weight, bias_init=c.bias_init
        )
        return tree(params), tree(state)

    def apply(params, emb, batch, state, *, key=None, train=False) -> tuple[Tensor, TensorDict]:
        x, part, new = begin(groups, params, emb, batch, state, key=key, train=train)
        fields = stacked(c.sparse, x[c.sparse.name])
        if c.dense and c.dense_mlp:
            dense = part("dense", c.dense_mlp, x[c.dense.name])
            fields = torch.cat([rearrange(dense, "b d -> b 1 d"), fields], dim=1)
        at, moved = child(key, "layers"), {}
        for i, layer in enumerate(c.layers):
            name = str(i)
            fields, moved[name] = wukong_layer(
                params["layers"][name],
                fields,
                state["layers"][name],
                layer,
                key=child(at, name),
                train=train,
                impl=c.impl,
            )
        new["layers"] = tree(moved)
        hidden = part("final", c.final, rearrange(fields, "b n d -> b (n d)"))
        return linear(params["head"], hidden), tree(new)

    return Model(init, apply, config, groups)
