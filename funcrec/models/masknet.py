"""MaskNet: MaskBlocks over the embeddings, beside each other or in a chain."""

from __future__ import annotations

from dataclasses import dataclass

from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import ConfigError, fail
from funcrec.core.groups import Group
from funcrec.core.init import Initializer
from funcrec.core.model import Model
from funcrec.core.random import child, fold_in
from funcrec.core.tree import tree
from funcrec.layers.inputs import init_inputs
from funcrec.layers.linear import init_linear, linear
from funcrec.layers.mask_block import MaskBlockConfig
from funcrec.layers.mask_net import InputNorm, block_inputs, init_mask_net, mask_net
from funcrec.layers.mlp import MLPConfig, init_mlp
from funcrec.models.checks import check_classes
from funcrec.models.parts import begin


@dataclass(frozen=True, kw_only=True)
class MaskNetConfig:
    """Config of :func:`masknet`.

    Attributes:
        group: the one group it reads; embedded and dense fields.
        blocks: the MaskBlocks, ``(block,) * 3`` for three alike.
        parallel: all blocks read the normalized group and their outputs are joined; else each reads the one before.
        input_norm: ``"vector"``: one layer normalization of the whole group vector, as in TorchEasyRec; ``"field"``:
            of each field by itself, as in the paper, for fields of one dim; None: none.
        top_mlp: MLP over the blocks' output, or None to go straight to the output layer.
        head_bias: whether the output layer has a bias; TorchEasyRec's has none.
        n_classes: width of the logits.
        weight, bias_init: initializers of the output layer; None: U(±1/√fan_in). Blocks and MLP have their own.
    """

    group: Group
    blocks: tuple[MaskBlockConfig, ...]
    parallel: bool = True
    input_norm: InputNorm = "vector"
    top_mlp: MLPConfig | None = None
    head_bias: bool = False
    n_classes: int = 1
    weight: Initializer | None = None
    bias_init: Initializer | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", tuple(self.blocks))
        check_classes("MaskNet", self.n_classes)
        if not self.blocks:
            fail(ConfigError, "MaskNet: blocks", got="none", expected="at least one MaskBlockConfig")
        if self.input_norm not in ("vector", "field", None):
            fail(ConfigError, "MaskNet: input_norm", got=repr(self.input_norm), expected="'vector', 'field' or None")
        if self.input_norm == "field":
            self.group.require_stacked("MaskNet with input_norm='field'")
        widths = block_inputs(self.group.width, self.blocks, parallel=self.parallel)
        for block, width in zip(self.blocks, widths, strict=True):
            block.aggregation(width)

    @property
    def blocks_dim(self) -> int:
        """Width of the blocks' output."""
        return sum(b.hidden_dim for b in self.blocks) if self.parallel else self.blocks[-1].hidden_dim


def masknet(config: MaskNetConfig) -> Model:
    """Logits ``[B, C]`` of MaskNet: ``y = Linear(MLP_top(MaskBlocks(LN(g), mask input g)))``.

    Reference: Wang, She & Zhang 2021, "MaskNet: Introducing Feature-Wise Multiplication to CTR Ranking Models by
    Instance-Guided Mask", sec. 3.4 and 3.5.
    """
    c = config
    head_in = c.top_mlp.output_dim if c.top_mlp else c.blocks_dim

    def init(key: Tensor) -> tuple[TensorDict, TensorDict]:
        params, state = {}, {}
        params["inputs"], state["inputs"] = init_inputs(fold_in(key, "inputs"), (c.group,))
        params["mask_net"] = init_mask_net(
            fold_in(key, "mask_net"),
            c.group.width,
            c.blocks,
            parallel=c.parallel,
            input_norm=c.input_norm,
            n_fields=len(c.group.dims),
        )
        if c.top_mlp:
            params["top"], state["top"] = init_mlp(fold_in(key, "top"), c.blocks_dim, c.top_mlp)
        at = fold_in(key, "head")
        params["head"] = init_linear(at, head_in, c.n_classes, bias=c.head_bias, weight=c.weight, bias_init=c.bias_init)
        return tree(params), tree(state)

    def apply(params, emb, batch, state, *, key=None, train=False) -> tuple[Tensor, TensorDict]:
        x, part, new = begin((c.group,), params, emb, batch, state, key=key, train=train)
        g = x[c.group.name]
        y = mask_net(params["mask_net"], g, c.blocks, parallel=c.parallel, key=child(key, "mask_net"), train=train)
        if c.top_mlp:
            y = part("top", c.top_mlp, y)
        return linear(params["head"], y), tree(new)

    return Model(init, apply, config, (c.group,))
