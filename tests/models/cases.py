"""Every model in its main variants, with random inputs of the right shapes."""

from typing import Any, NamedTuple

import torch
from tensordict import TensorDict

from funcrec import models
from funcrec.core.groups import Field, Group
from funcrec.core.model import Model
from funcrec.core.random import fold_in, key, normal
from funcrec.core.tree import map_leaves
from funcrec.layers.mlp import MLPConfig

IDS, DENSE = ["a", "b", "c"], ["x", "y"]
MLP = MLPConfig(hidden_units=(5, 3), activation="nn.Tanh")  # smooth: second derivatives and finite differences agree
BN = MLPConfig(hidden_units=(5, 3), activation="nn.Tanh", use_bn=True)
DROP = MLPConfig(hidden_units=(5, 3), activation="nn.Tanh", dropout=0.5)
WIDE, DEEP, FM = Group.of("wide", IDS, 2), Group.of("deep", IDS, 4), Group.of("fm", IDS, 4)
BOTH = Group.of("deep", IDS, 4, DENSE)
MIXED = Group("all", (Field("x", 1, dense=True), Field("a", 3), Field("b", 4), Field("y", 1, dense=True)))
SPARSE, NUMBERS = Group.of("sparse", IDS, 4), Group.of("dense", [], 1, DENSE)
BOTTOM = MLPConfig(hidden_units=(6, 4), activation="nn.Tanh")


class Case(NamedTuple):
    make: Any
    config: Any
    stochastic: bool = False

    def model(self) -> Model:
        return self.make(self.config)


CASES = {
    "lr": Case(models.lr, models.LRConfig(wide=Group.of("wide", IDS, 1))),
    "lr_dense": Case(models.lr, models.LRConfig(wide=Group.of("wide", IDS, 1, DENSE))),
    "fm": Case(models.fm, models.FMConfig(wide=Group.of("wide", IDS, 1, DENSE), fm=FM)),
    "deepfm": Case(models.deepfm, models.DeepFMConfig(wide=WIDE, deep=DEEP, deep_mlp=MLP)),
    "deepfm_final": Case(models.deepfm, models.DeepFMConfig(wide=WIDE, deep=BOTH, fm=FM, deep_mlp=MLP, final=MLP)),
    "deepfm_classes": Case(models.deepfm, models.DeepFMConfig(wide=WIDE, deep=DEEP, deep_mlp=MLP, n_classes=3)),
    "deepfm_bn": Case(models.deepfm, models.DeepFMConfig(wide=WIDE, deep=DEEP, deep_mlp=BN, final=BN)),
    "deepfm_dropout": Case(models.deepfm, models.DeepFMConfig(wide=WIDE, deep=DEEP, deep_mlp=DROP), True),
    "dlrm": Case(models.dlrm, models.DLRMConfig(sparse=SPARSE, dense=NUMBERS, dense_mlp=BOTTOM, final=MLP)),
    "dlrm_dots_only": Case(models.dlrm, models.DLRMConfig(sparse=SPARSE, arch_with_sparse=False, final=MLP)),
    "dlrm_cat": Case(models.dlrm, models.DLRMConfig(sparse=SPARSE, interaction="cat", final=BN)),
    "dcn_v2_stacked": Case(models.dcn_v2, models.DCNv2Config(group=MIXED, low_rank=2, final=MLP)),
    "dcn_v2_parallel": Case(models.dcn_v2, models.DCNv2Config(group=BOTH, low_rank=None, deep=BN)),
    "dcn_v2_backbone": Case(
        models.dcn_v2, models.DCNv2Config(group=BOTH, backbone=MLP, low_rank=2, deep=DROP, final=MLP), True
    ),
}


def inputs(model: Model, batch: int, seed: int = 0, dtype: torch.dtype = torch.float64):
    """Embeddings by group and dense features by field."""
    k = key(seed)
    emb = {
        g.name: normal(fold_in(k, g.name), (batch, *g.embedded_shape), dtype=dtype)
        for g in sorted(model.groups, key=lambda g: g.name)
        if g.embedded
    }
    dense = {f.name: normal(fold_in(k, f.name), (batch, f.dim), dtype=dtype) for g in model.groups for f in g.dense}
    features = {"dense": TensorDict(dict(sorted(dense.items())), [batch]), "label": torch.zeros(batch, dtype=dtype)}
    return TensorDict(emb, [batch]), TensorDict(features, [batch])


def weights(model: Model, seed: int = 1, dtype: torch.dtype = torch.float64):
    """Initial parameters and state, every leaf nudged away from the special values 0 and 1."""
    params, state = model.init(key(seed))
    noise = key(seed + 100)

    def nudge(x):
        nonlocal noise
        noise = fold_in(noise, 1)
        return x.to(dtype) + 0.1 * normal(noise, x.shape, dtype=dtype)

    return map_leaves(nudge, params), map_leaves(lambda x: x.to(dtype), state)
