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
STEPS = 3  # length of the padded histories
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
    """Embeddings by group and dense features by field; histories of 3, 2, 1, 0 steps and so on, with their queries."""
    sequences = list(dict.fromkeys(s for g in model.groups for s in g.sequences))
    groups = [*model.groups, *(s.query_group for s in sequences if s.query_group)]

    def draw(name: str, *shape: int) -> torch.Tensor:
        return normal(fold_in(key(seed), name), shape, dtype=dtype)

    emb = {g.name: draw(g.name, batch, *g.embedded_shape) for g in groups if g.embedded}
    dense = {f.name: draw(f.name, batch, f.width) for g in groups for f in g.dense}
    features: dict[str, Any] = {"dense": dict(sorted(dense.items())), "label": torch.zeros(batch, dtype=dtype)}
    for i, s in enumerate(sequences):
        lengths = (torch.arange(batch) + i + 3) % (STEPS + 1)  # from full to empty
        real = torch.arange(STEPS) < lengths[:, None]
        width = sum(f.dim for f in s.embedded)
        if width:
            emb[s.name] = draw(s.name, batch, STEPS, width) * real[..., None]
        raw = {f.name: draw(f.name, batch, STEPS, f.dim) * real[..., None] for f in s.keys if f.dense}
        features.setdefault("length", {})[s.name] = lengths
        features.setdefault("sequence", {}).update(raw)
    return TensorDict(dict(sorted(emb.items())), [batch]), TensorDict(features, [batch])


def weights(model: Model, seed: int = 1, dtype: torch.dtype = torch.float64):
    """Initial parameters and state, every leaf nudged away from the special values 0 and 1."""
    params, state = model.init(key(seed))
    noise = key(seed + 100)

    def nudge(x):
        nonlocal noise
        noise = fold_in(noise, 1)
        return x.to(dtype) + 0.1 * normal(noise, x.shape, dtype=dtype)

    return map_leaves(nudge, params), map_leaves(lambda x: x.to(dtype), state)
