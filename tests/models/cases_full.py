"""Every model with all of its optional parts, sizes and options left open: for laws about parts, options and sizes.

parts = Parts(options=lambda part: {"use_bn": True})
config = FULL["deepfm"].config(parts, n_classes=3)
model = FULL["deepfm"].make(config)                     # and parts.names lists the MLPs that it was made of
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from funcrec import models
from funcrec.core.groups import Encoded, Field, Group, Sequence
from funcrec.core.model import Model
from funcrec.layers.din_attention import DINEncoder
from funcrec.layers.mask_block import MaskBlockConfig
from funcrec.layers.mlp import MLPConfig
from funcrec.layers.wukong_layer import WuKongLayerConfig


class Parts:
    """Makes the groups and the MLPs of a model, and notes the names of the latter.

    Args:
        options: of the MLP of a part, by the part's name. A mask block, which is no MLP, takes its dropout rate only.
        units: hidden units of every MLP.
        ids, dim, dense: the embedded fields, their dim, and the raw numbers.
    """

    def __init__(
        self,
        options: Callable[[str], dict[str, Any]] = lambda part: {},
        units: tuple[int, ...] = (6, 4),
        ids: tuple[str, ...] = ("a", "b", "c"),
        dim: int = 4,
        dense: tuple[str, ...] = ("x", "y"),
    ) -> None:
        self.options, self.units, self.ids, self.dim, self.dense = options, units, ids, dim, dense
        self.names: list[str] = []  # of all parts
        self.layers: list[int] = []  # width of every layer of every MLP
        self.blocks = 0

    def mlp(self, part: str, last: int | None = None) -> MLPConfig:
        units = self.units if last is None else (*self.units[:-1], last)
        self.names.append(part)
        self.layers += units
        return MLPConfig(hidden_units=units, activation="nn.Tanh", **self.options(part))

    def block(self, part: str) -> MaskBlockConfig:
        self.names.append(part)
        self.blocks += 1
        return MaskBlockConfig(hidden_dim=self.units[0], dropout=self.options(part).get("dropout", 0.0))

    def layer(self, part: str) -> WuKongLayerConfig:
        """As many fields out as there are in with a dense one, and at least two."""
        return WuKongLayerConfig(lcb=1, fmb=max(1, len(self.ids)), k=2, mlp=self.mlp(part))

    def group(self, name: str, dim: int | None = None) -> Group:
        return Group.of(name, self.ids, dim or self.dim)

    def interest(self, part: str) -> Encoded:
        clicks = Sequence("clicks", (Field("a", self.dim),), (Field("h", self.dim),))
        return Encoded(clicks, DINEncoder(attn_mlp=self.mlp(part), softmax=False))

    def deep(self, part: str = "attention") -> Group:
        """All kinds of fields at once: embedded, raw, a history."""
        return Group("deep", Group.of("deep", self.ids, self.dim, self.dense).fields, (self.interest(part),))

    def sparse_and_dense(self) -> dict[str, Any]:
        numbers = Group.of("dense", [], 1, self.dense)
        return {"sparse": self.group("sparse"), "dense": numbers, "dense_mlp": self.mlp("dense", self.dim)}


class Full(NamedTuple):
    make: Callable[[Any], Model]
    config: Callable[..., Any]
    outputs: tuple[str, ...] = ("head",)
    """The parts of ``params`` that ``weight`` and ``bias_init`` are for."""


FULL = {
    "lr": Full(models.lr, lambda p: models.LRConfig(wide=Group.of("wide", p.ids, 1, p.dense)), ()),
    "fm": Full(models.fm, lambda p: models.FMConfig(wide=p.group("wide", 1), fm=p.group("fm")), ()),
    "wide_and_deep": Full(
        models.wide_and_deep,
        lambda p, **o: models.WideAndDeepConfig(
            wide=p.group("wide", 1), deep=p.deep(), deep_mlp=p.mlp("deep"), final=p.mlp("final"), **o
        ),
    ),
    "deepfm": Full(
        models.deepfm,
        lambda p, **o: models.DeepFMConfig(
            wide=p.group("wide", 1), deep=p.deep(), fm=p.group("fm"), deep_mlp=p.mlp("deep"), final=p.mlp("final"), **o
        ),
    ),
    "multi_tower": Full(
        models.multi_tower,
        lambda p, **o: models.MultiTowerConfig(
            towers=(
                models.Tower(p.group("one"), p.mlp("one")),
                models.Tower(p.group("two"), p.mlp("two")),
                models.Tower(p.deep(), p.mlp("deep")),
            ),
            final=p.mlp("final"),
            **o,
        ),
    ),
    "din": Full(
        models.din,
        lambda p, **o: models.DINConfig(
            towers=(models.Tower(p.group("one"), p.mlp("one")), models.Tower(p.group("two"), p.mlp("two"))),
            interests=(p.interest("attention"), p.interest("another")),
            final=p.mlp("final"),
            **o,
        ),
    ),
    "dlrm": Full(models.dlrm, lambda p, **o: models.DLRMConfig(**p.sparse_and_dense(), final=p.mlp("final"), **o)),
    "dcn": Full(
        models.dcn,
        lambda p, **o: models.DCNConfig(group=p.deep(), deep=p.mlp("deep"), final=p.mlp("final"), head_bias=True, **o),
    ),
    "dcn_v2": Full(
        models.dcn_v2,
        lambda p, **o: models.DCNv2Config(
            group=p.deep(), backbone=p.mlp("backbone"), low_rank=2, deep=p.mlp("deep"), final=p.mlp("final"), **o
        ),
        ("head", "cross"),
    ),
    "xdeepfm": Full(
        models.xdeepfm,
        lambda p, **o: models.XDeepFMConfig(
            cin_group=p.group("fm"),
            cin_layer_size=(2, 3),
            wide=p.group("wide", 1),
            deep=p.deep(),
            deep_mlp=p.mlp("deep"),
            final=p.mlp("final"),
            **o,
        ),
        ("head", "cin"),
    ),
    "masknet": Full(
        models.masknet,
        lambda p, **o: models.MaskNetConfig(
            group=p.deep(), blocks=(p.block("one"), p.block("two")), top_mlp=p.mlp("top"), head_bias=True, **o
        ),
    ),
    "wukong": Full(
        models.wukong,
        lambda p, **o: models.WuKongConfig(
            **p.sparse_and_dense(), layers=(p.layer("one"), p.layer("two")), final=p.mlp("final"), **o
        ),
    ),
    "rocket_launching": Full(
        models.rocket_launching,
        lambda p, **o: models.RocketLaunchingConfig(
            group=p.deep(), shared=p.mlp("shared"), booster=p.mlp("booster"), light=p.mlp("light"), **o
        ),
        ("booster.head", "light.head"),
    ),
}
WITH_CLASSES = [name for name, full in FULL.items() if full.outputs]


def everything(model: Model, *args: Any, **options: Any) -> tuple[dict[str, Tensor], Any]:
    """All outputs of a model by name, and its new state."""
    if model.outputs is not None:
        return model.outputs(*args, **options)
    logits, state = model.apply(*args, **options)
    return {"logits": logits}, state
