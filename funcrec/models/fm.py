"""Factorization machine: all pairwise interactions in linear time."""

from __future__ import annotations

from dataclasses import dataclass

from tensordict import TensorDict
from torch import Tensor

from funcrec.core.groups import Group
from funcrec.core.impl import Impl, check_impl
from funcrec.core.model import Model
from funcrec.layers.fm import fm as fm_interaction
from funcrec.layers.inputs import group_vector, stacked
from funcrec.models.checks import distinct
from funcrec.models.lr import LRConfig, lr


@dataclass(frozen=True, kw_only=True)
class FMConfig:
    """``wide``: first-order weights (dim 1); ``fm``: the factors, embedded fields of one dim.

    One logit, as logistic regression, so no ``n_classes``. ``impl``: which form of the factorization machine runs; see
    :data:`funcrec.core.impl.Impl`.
    """

    wide: Group
    fm: Group
    impl: Impl = "auto"

    def __post_init__(self) -> None:
        check_impl("FM", self.impl)
        LRConfig(wide=self.wide)
        self.fm.require_plain("FM")
        self.fm.require_stacked("FM")
        _ = self.groups  # checked now: here the error belongs

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups it reads, each once."""
        return distinct("FM", self.wide, self.fm)


def fm(config: FMConfig) -> Model:
    """``y = LR(x) + Σ_{i<j} <e_i, e_j>``: logits ``[B, 1]``. Rendle 2010, eq. 1 and lemma 3.1."""
    first_order = lr(LRConfig(wide=config.wide))

    def init(key: Tensor) -> tuple[TensorDict, TensorDict]:
        return first_order.init(key)

    def apply(params, emb, batch, state, *, key=None, train=False) -> tuple[Tensor, TensorDict]:
        y, state = first_order.apply(params, emb, batch, state, key=key, train=train)
        factors = stacked(config.fm, group_vector(config.fm, emb, batch))
        return y + fm_interaction(factors, impl=config.impl).sum(-1, keepdim=True), state

    return Model(init, apply, config, config.groups)
