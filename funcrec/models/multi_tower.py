"""MultiTower: one MLP a feature group, side by side below a common one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
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
from funcrec.layers.mlp import MLPConfig, init_mlp, mlp
from funcrec.models.checks import check_classes
from funcrec.models.parts import begin


@dataclass(frozen=True)
class Tower:
    """A group and the MLP over it; None: the group vector as it is."""

    group: Group
    mlp: MLPConfig | None = None

    @property
    def output_dim(self) -> int:
        return self.mlp.output_dim if self.mlp else self.group.width


@dataclass(frozen=True, kw_only=True)
class MultiTowerConfig:
    """Config of :func:`multi_tower`.

    Attributes:
        towers: at least one, each of a group of its own: parameters are kept by group name.
        final: the MLP over the towers' outputs in their order.
        n_classes: width of the logits.
        weight, bias_init: initializers of the output layer; None: U(±1/√fan_in).
    """

    towers: tuple[Tower, ...]
    final: MLPConfig
    n_classes: int = 1
    weight: Initializer | None = None
    bias_init: Initializer | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "towers", tuple(self.towers))
        check_classes("MultiTower", self.n_classes)
        check_towers("MultiTower", self.towers)


def check_towers(model: str, towers: tuple[Tower, ...]) -> None:
    """Raise ConfigError unless there is a tower and their groups have different names."""
    names = [t.group.name for t in towers]
    if not names:
        fail(ConfigError, f"{model}: towers", got="none", expected="at least one")
    repeated = sorted({n for n in names if names.count(n) > 1})
    if repeated:
        fix = (
            "parameters are kept by group name: give each tower a group of another name, of the same fields if need be"
        )
        fail(ConfigError, f"{model}: several towers on one group", got=repeated, fix=fix)


def multi_tower(config: MultiTowerConfig) -> Model:
    """Logits ``[B, C]`` of MultiTower: ``y = Linear(MLP_final([MLP_1(g_1); …; MLP_n(g_n)]))``.

    Reference: TorchEasyRec's ``MultiTower``; Covington et al. 2016, "Deep Neural Networks for YouTube Recommendations",
    is its one-tower form.
    """
    c = config
    groups = tuple(t.group for t in c.towers)
    final_in = sum(t.output_dim for t in c.towers)

    def init(key: Tensor) -> tuple[TensorDict, TensorDict]:
        params, state = {}, {}
        params["inputs"], state["inputs"] = init_inputs(fold_in(key, "inputs"), groups)
        at = fold_in(key, "towers")
        made = {t.group.name: init_mlp(fold_in(at, t.group.name), t.group.width, t.mlp) for t in c.towers if t.mlp}
        params["towers"] = tree({name: p for name, (p, _) in made.items()})
        state["towers"] = tree({name: s for name, (_, s) in made.items()})
        params["final"], state["final"] = init_mlp(fold_in(key, "final"), final_in, c.final)
        params["head"] = init_linear(
            fold_in(key, "head"), c.final.output_dim, c.n_classes, weight=c.weight, bias_init=c.bias_init
        )
        return tree(params), tree(state)

    def apply(params, emb, batch, state, *, key=None, train=False) -> tuple[Tensor, TensorDict]:
        x, part, new = begin(groups, params, emb, batch, state, key=key, train=train)
        at, moved, parts = child(key, "towers"), {}, []
        for tower in c.towers:
            name = tower.group.name
            y = x[name]
            if tower.mlp:
                own, held = params["towers"][name], state["towers"][name]
                y, moved[name] = mlp(own, y, held, tower.mlp, key=child(at, name), train=train)
            parts.append(y)
        new["towers"] = tree(moved)
        return linear(params["head"], part("final", c.final, torch.cat(parts, dim=-1))), tree(new)

    return Model(init, apply, config, groups)
