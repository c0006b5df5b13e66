"""DeepFM: a wide part, a factorization machine and an MLP over shared embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.groups import Group
from funcrec.core.impl import Impl, check_impl
from funcrec.core.init import Initializer
from funcrec.core.model import Model
from funcrec.core.random import fold_in
from funcrec.core.tree import tree
from funcrec.layers.fm import fm
from funcrec.layers.inputs import init_inputs, stacked
from funcrec.layers.linear import init_linear, linear
from funcrec.layers.mlp import MLPConfig, init_mlp
from funcrec.models.checks import check_classes, check_wide, distinct, one_dim
from funcrec.models.parts import begin


@dataclass(frozen=True, kw_only=True)
class DeepFMConfig:
    """Config of :func:`deepfm`.

    Attributes:
        wide: looked-up fields of any dim, summed over fields *and* components; tables of its own.
        deep: input of the MLP; embedded and dense fields.
        fm: fields of the factorization machine, of one dim; ``deep`` itself when None.
        deep_mlp: the MLP over the deep group, its last layer activated too.
        final: MLP over [wide; fm; deep], or None to add the three logits.
        n_classes: width of the logits.
        weight, bias_init: initializers of the output layer; None: U(±1/√fan_in).
        impl: which form of the factorization machine runs; see :data:`funcrec.core.impl.Impl`.
    """

    wide: Group
    deep: Group
    fm: Group | None = None
    deep_mlp: MLPConfig
    final: MLPConfig | None = None
    n_classes: int = 1
    weight: Initializer | None = None
    bias_init: Initializer | None = None
    impl: Impl = "auto"

    def __post_init__(self) -> None:
        check_impl("DeepFM", self.impl)
        check_classes("DeepFM", self.n_classes)
        check_wide("DeepFM", self.wide)
        one_dim("DeepFM", self.fm or self.deep, "embedding dimension of fm features must be same")
        _ = self.groups  # checked now: here the error belongs

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups it reads, each once."""
        return distinct("DeepFM", self.wide, self.deep, self.fm)


def deepfm(config: DeepFMConfig) -> Model:
    """Logits ``[B, C]`` of DeepFM.

    ``y_w = Σ wide``, ``y_fm = FM(fm) ∈ R^D``, ``y_d = MLP(deep)``. With ``final``:
    ``y = Linear(MLP_final([y_w; y_fm; y_d]))``; without: ``y = y_w + Σ_d y_fm + Linear(y_d)``.

    Reference: Guo et al. 2017, "DeepFM: A Factorization-Machine based Neural Network for CTR Prediction", eq. 1-4;
    TorchEasyRec's form of it.
    """
    c = config
    fm_group = c.fm or c.deep
    _, dim = fm_group.require_stacked("DeepFM")
    groups = c.groups
    final_in = 1 + dim + c.deep_mlp.output_dim
    head_in = c.final.output_dim if c.final else c.deep_mlp.output_dim

    def init(key: Tensor) -> tuple[TensorDict, TensorDict]:
        params, state = {}, {}
        params["inputs"], state["inputs"] = init_inputs(fold_in(key, "inputs"), groups)
        params["deep"], state["deep"] = init_mlp(fold_in(key, "deep"), c.deep.width, c.deep_mlp)
        if c.final:
            params["final"], state["final"] = init_mlp(fold_in(key, "final"), final_in, c.final)
        params["head"] = init_linear(fold_in(key, "head"), head_in, c.n_classes, weight=c.weight, bias_init=c.bias_init)
        return tree(params), tree(state)

    def apply(params, emb, batch, state, *, key=None, train=False) -> tuple[Tensor, TensorDict]:
        x, part, new = begin(groups, params, emb, batch, state, key=key, train=train)
        wide = x[c.wide.name].sum(1, keepdim=True)
        pairs = fm(stacked(fm_group, x[fm_group.name]), impl=c.impl)
        deep = part("deep", c.deep_mlp, x[c.deep.name])
        if c.final is None:
            return wide + pairs.sum(-1, keepdim=True) + linear(params["head"], deep), tree(new)
        hidden = part("final", c.final, torch.cat([wide, pairs, deep], dim=-1))
        return linear(params["head"], hidden), tree(new)

    return Model(init, apply, config, groups)
