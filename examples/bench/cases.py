"""The eleven models at the sizes of ``train_step.py``, and a batch that all of them read.

26 id fields with tables of dim 16, 13 dense features. Wide parts have tables of their own of dim 4, xDeepFM's CIN of
dim 16. DIN has a history of up to 50 steps of two fields besides, which share the tables of C1 and C2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tensordict import TensorDict

from funcrec import models, transform
from funcrec.core.batch import Batch
from funcrec.core.groups import Encoded, Field, Group, Sequence
from funcrec.core.model import Model, Objective
from funcrec.core.ragged import Ragged
from funcrec.core.random import bernoulli, fold_in, key, normal, randint
from funcrec.embedding import EmbeddingSpec, spec_for
from funcrec.layers.din_attention import DINEncoder
from funcrec.layers.mask_block import MaskBlockConfig
from funcrec.layers.mlp import MLPConfig
from funcrec.layers.wukong_layer import WuKongLayerConfig

IDS, DENSE = [f"C{i}" for i in range(1, 27)], [f"I{i}" for i in range(1, 14)]
STEPS = 50  # of the longest history
HISTORY = {"past_C1": "C1", "past_C2": "C2"}  # fields of a step, and whose tables they read


def mlp(*units: int, activation: str = "nn.ReLU") -> MLPConfig:
    return MLPConfig(hidden_units=units, activation=activation)


WIDE, DEEP = Group.of("wide", IDS, 4), Group.of("deep", IDS, 16, DENSE)
SPARSE, NUMBERS = Group.of("sparse", IDS, 16), Group.of("dense", [], 16, DENSE)
PAST = Sequence("past", [Field(n, 16) for n in HISTORY.values()], [Field(n, 16) for n in HISTORY])
TALL, FINAL = mlp(512, 256, 128), mlp(64)
WUKONG = WuKongLayerConfig(lcb=16, fmb=16, k=24, mlp=mlp(512))


@dataclass(frozen=True)
class Case:
    """A model, the groups with tables of their own, and what it minimizes where that is not the loss of its logits."""

    make: Callable[..., Model]
    config: Any
    private: tuple[str, ...] = ()
    objective: Callable[[Model], Objective] | None = None

    def model(self, impl: str = "auto") -> Model:
        """The model with this implementation of its layers."""
        return self.make(with_impl(self.config, impl))

    def spec(self, model: Model, rows: int) -> EmbeddingSpec:
        sizes = dict.fromkeys([*IDS, *HISTORY], rows)
        tables = HISTORY if any(g.sequences for g in model.groups) else None
        return spec_for(model.groups, sizes, private=self.private, tables=tables, pad_to=STEPS)


def with_impl(config: Any, impl: str) -> Any:
    """The config with this ``impl`` wherever it, or a config inside of it, has one: not every layer has kernels."""
    if isinstance(config, tuple):
        return tuple(with_impl(x, impl) for x in config)
    if not dataclasses.is_dataclass(config):
        return config
    held = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    new = {name: impl if name == "impl" else with_impl(x, impl) for name, x in held.items()}
    return config if new == held else dataclasses.replace(config, **new)  # type: ignore[type-var]


CASES = {
    "wide_and_deep": Case(
        models.wide_and_deep,
        models.WideAndDeepConfig(wide=WIDE, deep=DEEP, deep_mlp=TALL, final=FINAL),
        ("wide",),
    ),
    "deepfm": Case(
        models.deepfm,
        models.DeepFMConfig(wide=WIDE, deep=DEEP, fm=Group.of("fm", IDS, 16), deep_mlp=TALL, final=FINAL),
        ("wide",),
    ),
    "multi_tower": Case(
        models.multi_tower,
        models.MultiTowerConfig(
            towers=(
                models.Tower(Group.of("user", IDS[:13], 16, DENSE), TALL),
                models.Tower(Group.of("item", IDS[13:], 16), TALL),
            ),
            final=FINAL,
        ),
    ),
    "din": Case(
        models.din,
        models.DINConfig(
            towers=(models.Tower(DEEP, TALL),),
            # Without a softmax, as in the paper: it would leave the scores' bias no gradient but noise.
            interests=(Encoded(PAST, DINEncoder(attn_mlp=mlp(80, 40, activation="nn.Sigmoid"), softmax=False)),),
            final=FINAL,
        ),
    ),
    "rocket_launching": Case(
        models.rocket_launching,
        models.RocketLaunchingConfig(group=DEEP, shared=mlp(512, 256), booster=mlp(256, 128, 64), light=mlp(64)),
        objective=transform.rocket_objective,
    ),
    "dlrm": Case(
        models.dlrm, models.DLRMConfig(sparse=SPARSE, dense=NUMBERS, dense_mlp=mlp(64, 16), final=mlp(64, 32))
    ),
    "masknet": Case(
        models.masknet,
        models.MaskNetConfig(
            group=DEEP, blocks=(MaskBlockConfig(hidden_dim=512, reduction_ratio=3.0),) * 3, top_mlp=mlp(256, 128, 64)
        ),
    ),
    "dcn": Case(models.dcn, models.DCNConfig(group=DEEP, cross_num=3, deep=TALL, final=FINAL)),
    "dcn_v2": Case(models.dcn_v2, models.DCNv2Config(group=DEEP, cross_num=3, low_rank=32, deep=TALL, final=FINAL)),
    "xdeepfm": Case(
        models.xdeepfm,
        models.XDeepFMConfig(
            cin_group=Group.of("cin", IDS, 16), cin_layer_size=(64, 64), deep=DEEP, deep_mlp=TALL, final=FINAL
        ),
        ("cin",),
    ),
    "wukong": Case(
        models.wukong,
        models.WuKongConfig(
            sparse=SPARSE, dense=NUMBERS, dense_mlp=mlp(64, 16), layers=(WUKONG, WUKONG), final=mlp(512, 64)
        ),
    ),
}


def batch_of(size: int, rows: int, histories: bool) -> Batch:
    """Random ids, numbers and labels; lengths of histories are uniform between 0 and ``STEPS``."""
    k = key(0)
    dense = TensorDict({n: normal(fold_in(k, n), (size, 1)) for n in DENSE}, [size])
    features = {"dense": dense, "label": bernoulli(fold_in(k, "label"), 0.3, (size,)).float()}
    ids: dict[str, Any] = {n: randint(fold_in(k, n), size, 0, rows) for n in IDS}
    if histories:
        lengths = randint(fold_in(k, "lengths"), size, 0, STEPS + 1)
        for n in HISTORY:
            ids[n] = Ragged.from_lengths(randint(fold_in(k, n), int(lengths.sum()), 0, rows), lengths)
        features["length"] = TensorDict({PAST.name: lengths}, [size])
    return Batch(ids, TensorDict(features, [size]))
