"""xDeepFM: a compressed interaction network beside an MLP."""

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
from funcrec.layers.cin import cin, init_cin
from funcrec.layers.inputs import init_inputs, stacked
from funcrec.layers.linear import init_linear, linear
from funcrec.layers.mlp import MLPConfig, init_mlp
from funcrec.models.checks import check_classes, check_wide, distinct
from funcrec.models.parts import begin


@dataclass(frozen=True, kw_only=True)
class XDeepFMConfig:
    """Config of :func:`xdeepfm`.

    Attributes:
        cin_group: fields of the CIN, of one dim; the "wide" group of TorchEasyRec, with tables of its own. The same
            group as ``deep`` shares the embeddings, which is the paper's model.
        cin_layer_size: width of each CIN layer.
        deep: input of the MLP, embedded and dense fields, or None for the CIN alone.
        deep_mlp: the MLP over the deep group, its last layer activated too.
        wide: the paper's linear part: looked-up fields summed over fields and components and added to each logit.
            TorchEasyRec's model has none.
        final: MLP over [CIN; deep], TorchEasyRec's form; None to add a linear map of each, the paper's.
        n_classes: width of the logits.
        weight, bias_init: initializers of CIN and output layers; None: U(±1/√fan_in).
        impl: which form of the CIN runs; see :data:`funcrec.core.impl.Impl`.
    """

    cin_group: Group
    cin_layer_size: tuple[int, ...]
    deep: Group | None = None
    deep_mlp: MLPConfig | None = None
    wide: Group | None = None
    final: MLPConfig | None = None
    n_classes: int = 1
    weight: Initializer | None = None
    bias_init: Initializer | None = None
    impl: Impl = "auto"

    def __post_init__(self) -> None:
        check_impl("xDeepFM", self.impl)
        object.__setattr__(self, "cin_layer_size", tuple(self.cin_layer_size))
        check_classes("xDeepFM", self.n_classes)
        if not self.cin_layer_size or any(h < 1 for h in self.cin_layer_size):
            expected = "one positive integer a layer"
            fail(ConfigError, "xDeepFM: cin_layer_size", got=self.cin_layer_size, expected=expected)
        self.cin_group.require_stacked("xDeepFM")
        if self.wide is not None:
            check_wide("xDeepFM", self.wide)
        if (self.deep is None) != (self.deep_mlp is None):
            seen = f"deep={self.deep and self.deep.name}, deep_mlp={self.deep_mlp}"
            fail(ConfigError, "xDeepFM: deep group and deep_mlp", got=seen, expected="both or neither")
        _ = self.groups  # checked now: here the error belongs

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups it reads, each once."""
        return distinct("xDeepFM", self.cin_group, self.deep, self.wide)


def xdeepfm(config: XDeepFMConfig) -> Model:
    """Logits ``[B, C]`` of xDeepFM.

    ``p = CIN(cin_group)``, ``y_d = MLP(deep)``. With ``final``: ``y = Linear(MLP_final([p; y_d])) [+ Σ wide]``;
    without: ``y = Linear(y_d) + W p [+ Σ wide]``, with one bias.

    Reference: Lian et al. 2018, "xDeepFM", eq. 8, 9 and 14; TorchEasyRec's form has ``final`` and no ``wide``.
    """
    c = config
    groups = c.groups
    n, _ = c.cin_group.require_stacked("xDeepFM")
    cin_out = sum(c.cin_layer_size)
    joined_in = cin_out + (c.deep_mlp.output_dim if c.deep_mlp else 0)
    # Without a final MLP the two parts have output layers of their own: initial laws look at the fan-in.
    apart = c.final is None and c.deep_mlp is not None
    head_in = c.final.output_dim if c.final else joined_in - cin_out * apart

    def init(key: Tensor) -> tuple[TensorDict, TensorDict]:
        params, state = {}, {}
        params["inputs"], state["inputs"] = init_inputs(fold_in(key, "inputs"), groups)
        params["cin"] = init_cin(fold_in(key, "cin"), n, c.cin_layer_size, weight=c.weight, bias_init=c.bias_init)
        if c.deep and c.deep_mlp:
            params["deep"], state["deep"] = init_mlp(fold_in(key, "deep"), c.deep.width, c.deep_mlp)
        if c.final:
            params["final"], state["final"] = init_mlp(fold_in(key, "final"), joined_in, c.final)
        if apart:
            params["cin_head"] = init_linear(
                fold_in(key, "cin_head"), cin_out, c.n_classes, bias=False, weight=c.weight
            )
        params["head"] = init_linear(fold_in(key, "head"), head_in, c.n_classes, weight=c.weight, bias_init=c.bias_init)
        return tree(params), tree(state)

    def apply(params, emb, batch, state, *, key=None, train=False) -> tuple[Tensor, TensorDict]:
        x, part, new = begin(groups, params, emb, batch, state, key=key, train=train)
        products = cin(params["cin"], stacked(c.cin_group, x[c.cin_group.name]), impl=c.impl)
        hidden = [products]
        if c.deep and c.deep_mlp:
            hidden.append(part("deep", c.deep_mlp, x[c.deep.name]))
        if c.final:
            hidden = [part("final", c.final, torch.cat(hidden, dim=-1))]
        y = linear(params["head"], hidden[-1])
        if apart:
            y = y + linear(params["cin_head"], products)
        if c.wide:
            y = y + x[c.wide.name].sum(1, keepdim=True)
        return y, tree(new)

    return Model(init, apply, config, groups)
