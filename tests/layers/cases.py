"""Every layer as ``f(params, x) -> y`` on small float64 inputs: what the transform contract quantifies over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.groups import Field, Group
from funcrec.core.ragged import Ragged
from funcrec.core.random import fold_in, key, normal
from funcrec.core.tree import map_leaves, tree
from funcrec.layers.batch_norm import batch_norm, init_batch_norm
from funcrec.layers.cross import cross, init_cross
from funcrec.layers.cross_v2 import cross_v2, init_cross_v2
from funcrec.layers.dice import dice, init_dice
from funcrec.layers.dot import dot_interaction
from funcrec.layers.dropout import dropout
from funcrec.layers.fm import fm
from funcrec.layers.inputs import group_vector, stacked
from funcrec.layers.linear import init_linear, linear
from funcrec.layers.mlp import MLPConfig, init_mlp, mlp
from funcrec.layers.norm import init_layer_norm, layer_norm
from funcrec.layers.pooling import Pool, pool_padded, pool_ragged

F64 = torch.float64


@dataclass(frozen=True)
class Case:
    name: str
    f: Callable[[TensorDict, Tensor], Tensor]
    params: TensorDict
    x: Tensor
    rowwise: bool = True  # row b of the output depends on row b of the input only


def noise(seed: int, *shape: int) -> Tensor:
    return normal(key(seed), shape, dtype=F64)


def jitter(t: TensorDict, seed: int = 7, std: float = 0.3) -> TensorDict:
    """``t`` away from its initial zeros and ones, where a wrong derivative could hide."""
    keys = iter(range(1000))
    return map_leaves(lambda v: v + std * normal(fold_in(key(seed), next(keys)), v.shape, dtype=v.dtype), t)


def positive(t: TensorDict) -> TensorDict:
    return map_leaves(lambda v: v.abs() + 0.5, t)


def _batch_norm(train: bool, affine: bool = True) -> Case:
    params, state = init_batch_norm(3, affine, dtype=F64)
    state = positive(jitter(state))
    name = f"batch_norm_{'train' if train else 'eval'}{'' if affine else '_plain'}"
    return Case(name, lambda p, x: batch_norm(p, x, state, train=train)[0], jitter(params), noise(1, 5, 3), not train)


def _dice(train: bool) -> Case:
    params, state = init_dice(key(0), 3, F64)
    state = positive(jitter(state))
    name = f"dice_{'train' if train else 'eval'}"
    return Case(name, lambda p, x: dice(p, x, state, train=train)[0], jitter(params), noise(1, 5, 3), not train)


def _mlp(name: str, config: MLPConfig, train: bool) -> Case:
    params, state = init_mlp(key(3), 3, config, F64)
    f = lambda p, x: mlp(p, x, state, config, key=key(4), train=train)[0]  # noqa: E731
    return Case(f"mlp_{name}", f, jitter(params), noise(1, 5, 3), not train)


def _pool_padded(kind: Pool) -> Case:
    mask = torch.tensor([[True, True, False], [False] * 3, [False, True, True]])
    return Case(f"pool_padded_{kind}", lambda p, x: pool_padded(x, mask, kind), tree(), noise(1, 3, 3, 2), False)


def _pool_ragged(kind: Pool) -> Case:
    offsets = torch.tensor([0, 2, 2, 5])
    return Case(
        f"pool_ragged_{kind}", lambda p, x: pool_ragged(Ragged(x, offsets), kind), tree(), noise(1, 5, 2), False
    )


def _group() -> Case:
    fields = (Field("a", 2), Field("b", 2), Field("raw", 1, dense=True), Field("c", 2))
    group, embedded = Group("g", fields), Group("g", tuple(f for f in fields if not f.dense))
    batch = TensorDict({"dense": {"raw": noise(2, 4, 1)}}, batch_size=[])

    def f(p: TensorDict, x: Tensor) -> Tensor:
        emb = TensorDict({"g": x}, batch_size=[])
        rows = batch["dense"]["raw"][: x.shape[0]]
        features = TensorDict({"dense": {"raw": rows}}, batch_size=[])
        vector = group_vector(group, emb, features)
        pairs = stacked(embedded, group_vector(embedded, emb, features))
        return vector.sum(1, keepdim=True) * pairs.flatten(1)

    return Case("group", f, tree(), noise(1, 4, 3, 2), False)


CASES = [
    Case("linear", linear, init_linear(key(0), 3, 2, dtype=F64), noise(1, 4, 3)),
    Case("layer_norm", layer_norm, jitter(init_layer_norm(3, dtype=F64)), noise(1, 4, 3)),
    _batch_norm(train=True),
    _batch_norm(train=False),
    _batch_norm(train=True, affine=False),
    _dice(train=True),
    _dice(train=False),
    Case("dropout", lambda p, x: dropout(x, 0.4, key=key(9), train=True), tree(), noise(1, 4, 3), False),
    _mlp("bn_dice", MLPConfig(hidden_units=(3, 2), use_bn=True, activation="Dice"), train=True),
    _mlp("ln_dropout", MLPConfig(hidden_units=(2,), use_ln=True, activation="nn.GELU", dropout=0.3), train=True),
    _mlp("prelu", MLPConfig(hidden_units=(3, 2), activation="nn.PReLU"), train=False),
    *(_pool_padded(kind) for kind in ("sum", "mean", "max")),
    *(_pool_ragged(kind) for kind in ("sum", "mean", "max")),
    Case("fm", lambda p, x: fm(x), tree(), noise(1, 3, 4, 2)),
    Case("dot", lambda p, x: dot_interaction(x), tree(), noise(1, 3, 4, 2)),
    Case("dot_self", lambda p, x: dot_interaction(x, self_interaction=True), tree(), noise(1, 3, 3, 2)),
    Case("cross", cross, jitter(init_cross(key(0), 3, 2, dtype=F64)), noise(1, 3, 3)),
    Case("cross_v2_full", cross_v2, jitter(init_cross_v2(key(0), 3, 2, None, dtype=F64)), noise(1, 3, 3)),
    Case("cross_v2_low_rank", cross_v2, jitter(init_cross_v2(key(0), 3, 2, 2, dtype=F64)), noise(1, 3, 3)),
    _group(),
]
