"""DLRM: dot products between all pairs of embeddings and the projected dense features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
from funcrec.layers.dot import dot_interaction
from funcrec.layers.inputs import init_inputs, stacked
from funcrec.layers.linear import init_linear, linear
from funcrec.layers.mlp import MLPConfig, init_mlp
from funcrec.models.checks import check_classes, check_sparse_and_dense, distinct
from funcrec.models.parts import begin


@dataclass(frozen=True, kw_only=True)
class DLRMConfig:
    """Config of :func:`dlrm`.

    Attributes:
        sparse: embedded fields of one dim D.
        dense: the dense features, or None; needs ``dense_mlp``, whose last width must be D.
        dense_mlp: the bottom MLP.
        interaction: ``"dot"``: pairwise dot products; ``"cat"``: the fields concatenated, no products (the
            ``arch-interaction-op`` of the original).
        arch_with_sparse: whether the embeddings themselves join the dot products.
        final: the top MLP.
        n_classes: width of the logits.
        weight, bias_init: initializers of the output layer; None: U(±1/√fan_in). The MLPs have their own.
        impl: which form of the dot products runs; see :data:`funcrec.core.impl.Impl`.
    """

    sparse: Group
    dense: Group | None = None
    dense_mlp: MLPConfig | None = None
    interaction: Literal["dot", "cat"] = "dot"
    arch_with_sparse: bool = True
    final: MLPConfig
    n_classes: int = 1
    weight: Initializer | None = None
    bias_init: Initializer | None = None
    impl: Impl = "auto"

    def __post_init__(self) -> None:
        check_impl("DLRM", self.impl)
        check_classes("DLRM", self.n_classes)
        check_sparse_and_dense("DLRM", self.sparse, self.dense, self.dense_mlp)
        _ = self.groups  # checked now: here the error belongs
        if self.interaction not in ("dot", "cat"):
            fail(ConfigError, "DLRM: interaction", got=repr(self.interaction), expected="'dot' or 'cat'")
        if self.interaction == "cat" and not self.arch_with_sparse:
            fail(ConfigError, "DLRM: interaction 'cat' without the embeddings", fix="set arch_with_sparse=True")

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups it reads, each once."""
        return distinct("DLRM", self.sparse, self.dense)


def dlrm(config: DLRMConfig) -> Model:
    """Logits ``[B, C]`` of DLRM.

    ``d = MLP_dense(x) ∈ R^D``; ``X = [d; S]`` on the field axis, dense first; ``I_ij = <X_i, X_j>`` for i < j;
    ``y = Linear(MLP_final([I; d; S]))``.

    Reference: Naumov et al. 2019, "Deep Learning Recommendation Model for Personalization and Recommendation Systems".
    """
    c = config
    n, dim = c.sparse.require_stacked("DLRM")
    groups = c.groups
    n_all = n + (c.dense is not None)
    pairs = n_all * (n_all - 1) // 2 if c.interaction == "dot" else 0
    final_in = pairs + (dim if c.dense else 0) + (n * dim if c.arch_with_sparse else 0)
    if final_in == 0:
        fail(ConfigError, "DLRM: nothing reaches the top MLP", got="one field and arch_with_sparse=False")

    def init(key: Tensor) -> tuple[TensorDict, TensorDict]:
        params, state = {}, {}
        params["inputs"], state["inputs"] = init_inputs(fold_in(key, "inputs"), groups)
        if c.dense and c.dense_mlp:
            params["dense"], state["dense"] = init_mlp(fold_in(key, "dense"), c.dense.width, c.dense_mlp)
        params["final"], state["final"] = init_mlp(fold_in(key, "final"), final_in, c.final)
        params["head"] = init_linear(
            fold_in(key, "head"), c.final.output_dim, c.n_classes, weight=c.weight, bias_init=c.bias_init
        )
        return tree(params), tree(state)

    def apply(params, emb, batch, state, *, key=None, train=False) -> tuple[Tensor, TensorDict]:
        x, part, new = begin(groups, params, emb, batch, state, key=key, train=train)
        parts = []
        dense = part("dense", c.dense_mlp, x[c.dense.name]) if c.dense and c.dense_mlp else None
        if c.interaction == "dot":
            parts.append(dot_interaction(stacked(c.sparse, x[c.sparse.name]), dense=dense, impl=c.impl))
        elif dense is not None:
            parts.append(dense)
        if c.arch_with_sparse:
            parts.append(x[c.sparse.name])
        return linear(params["head"], part("final", c.final, torch.cat(parts, dim=-1))), tree(new)

    return Model(init, apply, config, groups)
