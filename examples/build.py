"""From options and fields to a model: one small function a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from options import Options

from funcrec import models
from funcrec.core.errors import ConfigError, fail
from funcrec.core.groups import Encoded, Encoder, Field, Group, Sequence
from funcrec.core.init import Constant, XavierNormal
from funcrec.core.model import Model
from funcrec.data import Fields
from funcrec.layers.din_attention import DINEncoder
from funcrec.layers.mask_block import MaskBlockConfig
from funcrec.layers.mlp import MLPConfig
from funcrec.layers.multi_window_din import MultiWindowDINEncoder
from funcrec.layers.self_attention import SelfAttentionEncoder
from funcrec.layers.sequence_pooling import PoolingEncoder
from funcrec.layers.simple_attention import SimpleAttention
from funcrec.layers.wukong_layer import WuKongLayerConfig


class Parts:
    """What the models are put together from: groups over all fields of the data, MLPs, initial laws."""

    def __init__(self, o: Options, fields: Fields) -> None:
        unknown = sorted(set(o.without or ()) - {*fields.rows, *fields.dense})
        if unknown:
            fail(ConfigError, "--without", got=unknown, expected=f"fields among {[*fields.rows, *fields.dense]}")
        self.o, self.fields = o, fields
        self.ids = [f for f in fields.rows if f not in fields.sequences and f not in o.without]
        self.dense = [f for f in fields.dense if f not in o.without]
        self.histories = [f for f in fields.sequences if f not in o.without]
        if self.histories and o.model != "din":
            fix = f"--model din, or --without {' '.join(self.histories)}"
            fail(ConfigError, f"--model {o.model}: histories {self.histories}", got="no encoder for them", fix=fix)
        self.published = o.data == "frappe"
        weight, bias = (XavierNormal(), Constant(0.0)) if self.published else (None, None)
        self.head = {"weight": weight, "bias_init": bias}

    def group(self, name: str, ids: list[str] | None = None, dense: bool = True) -> Group:
        return Group.of(name, self.ids if ids is None else ids, self.o.embedding_dim, self.dense if dense else [])

    @property
    def wide(self) -> Group:
        """A weight for each id."""
        return Group.of("wide", self.ids, 1)

    @property
    def numbers(self) -> Group | None:
        return Group.of("dense", [], 1, self.dense) if self.dense else None

    def mlp(self, hidden: tuple[int, ...] | None = None) -> MLPConfig:
        o = self.o
        return MLPConfig(hidden_units=hidden or o.hidden, dropout=o.dropout, use_bn=bool(o.batch_norm), **self.head)

    @property
    def bottom(self) -> MLPConfig | None:
        """Makes one more field of the raw numbers."""
        return MLPConfig(hidden_units=(64, self.o.embedding_dim)) if self.dense else None


def _lr(p: Parts) -> Model:
    return models.lr(models.LRConfig(wide=Group.of("wide", p.ids, 1, p.dense)))


def _fm(p: Parts) -> Model:
    wide = Group.of("wide", p.ids, 1, p.dense)
    return models.fm(models.FMConfig(wide=wide, fm=p.group("fm", dense=False)))


def _wide_and_deep(p: Parts) -> Model:
    config = models.WideAndDeepConfig(wide=p.wide, deep=p.group("deep"), deep_mlp=p.mlp(), **p.head)
    return models.wide_and_deep(config)


def _deepfm(p: Parts) -> Model:
    fm = p.group("fm", dense=False) if p.dense else None
    return models.deepfm(models.DeepFMConfig(wide=p.wide, deep=p.group("deep"), fm=fm, deep_mlp=p.mlp(), **p.head))


def _xdeepfm(p: Parts) -> Model:
    """The paper's form: linear part, CIN and MLP over shared embeddings, their logits added."""
    deep = p.group("deep")
    cin = p.group("cin", dense=False) if p.dense else deep
    config = models.XDeepFMConfig(
        cin_group=cin, cin_layer_size=p.o.cin, deep=deep, deep_mlp=p.mlp(), wide=p.wide, **p.head
    )
    return models.xdeepfm(config)


def _dlrm(p: Parts) -> Model:
    config = models.DLRMConfig(
        sparse=p.group("sparse", dense=False),
        dense=p.numbers,
        dense_mlp=p.bottom,
        interaction="cat" if p.published else "dot",
        final=p.mlp(),
        **p.head,
    )
    return models.dlrm(config)


def _wukong(p: Parts) -> Model:
    o = p.o
    inner = MLPConfig(hidden_units=o.wukong_hidden, dropout=o.dropout, **p.head)
    layer = WuKongLayerConfig(lcb=o.wukong_fields, fmb=o.wukong_fields, k=o.wukong_products, mlp=inner)
    config = models.WuKongConfig(
        sparse=p.group("sparse", dense=False),
        dense=p.numbers,
        dense_mlp=p.bottom,
        layers=(layer,) * o.wukong_layers,
        final=p.mlp(),
        **p.head,
    )
    return models.wukong(config)


def _dcn(p: Parts) -> Model:
    config = models.DCNConfig(group=p.group("deep"), cross_num=p.o.cross_layers, deep=p.mlp(), head_bias=True, **p.head)
    return models.dcn(config)


def _dcn_v2(p: Parts) -> Model:
    rank = p.o.low_rank or None
    config = models.DCNv2Config(
        group=p.group("deep"), cross_num=p.o.cross_layers, low_rank=rank, deep=p.mlp(), **p.head
    )
    return models.dcn_v2(config)


def _masknet(p: Parts) -> Model:
    o = p.o
    block = MaskBlockConfig(
        hidden_dim=o.mask_hidden, reduction_ratio=o.reduction, dropout=o.dropout, bias=not p.published, **p.head
    )
    config = models.MaskNetConfig(
        group=p.group("deep"),
        blocks=(block,) * o.mask_blocks,
        input_norm=None if p.published else "vector",
        top_mlp=p.mlp(),
        head_bias=True,
        **p.head,
    )
    return models.masknet(config)


def _multi_tower(p: Parts) -> Model:
    users = [f for f in p.ids if f in p.o.user_fields]
    items = [f for f in p.ids if f not in p.o.user_fields]
    if not users or not items or len(users) < len(p.o.user_fields):
        expected = f"some, but not all, of {p.ids}"
        fail(ConfigError, "--user-fields", got=list(p.o.user_fields), expected=expected, fix="the rest is the item's")
    towers = (
        models.Tower(p.group("user", users, dense=False), p.mlp()),
        models.Tower(p.group("item", items), p.mlp()),
    )
    return models.multi_tower(models.MultiTowerConfig(towers=towers, final=p.mlp((p.o.hidden[-1],)), **p.head))


def encoder_of(o: Options) -> Encoder:
    """What makes one vector of a history."""
    scoring = MLPConfig(hidden_units=o.attention, activation=o.attention_activation)
    encoders: dict[str, Callable[[], Encoder]] = {
        "din": lambda: DINEncoder(attn_mlp=scoring, softmax=bool(o.softmax)),
        "mean": lambda: PoolingEncoder(pooling="mean"),
        "sum": lambda: PoolingEncoder(pooling="sum"),
        "simple": SimpleAttention,
        "self": lambda: SelfAttentionEncoder(dim=o.embedding_dim, num_heads=2),
        "multi_window": lambda: MultiWindowDINEncoder(windows_len=(5, 5, 10), attn_mlp=scoring),
    }
    return encoders[o.encoder]()


def _din(p: Parts) -> Model:
    if not p.histories:
        fail(ConfigError, f"--model din: data {p.o.data!r}", got="no sequence field", fix="mark one in the schema")
    alone = [f for f in p.histories if f not in p.fields.shares]
    if alone:
        fail(ConfigError, f"--model din: histories {alone}", got="no target", fix="say shares=<target> in the schema")
    dim = p.o.embedding_dim
    targets = [p.fields.shares[f] for f in p.histories]
    history = Sequence(p.histories[0], [Field(f, dim) for f in targets], [Field(f, dim) for f in p.histories])
    interest = Encoded(history, encoder_of(p.o))
    tower = models.Tower(p.group("deep"))
    return models.din(models.DINConfig(towers=(tower,), interests=(interest,), final=p.mlp(), **p.head))


def _rocket_launching(p: Parts) -> Model:
    o, group = p.o, p.group("deep")
    if not o.booster:  # the light net, from end to end, as a model of its own
        alone = models.MultiTowerConfig(towers=(models.Tower(group),), final=p.mlp((*o.shared, *o.light)), **p.head)
        return models.multi_tower(alone)
    shared = p.mlp(o.shared) if o.shared else None
    config = models.RocketLaunchingConfig(
        group=group,
        shared=shared,
        booster=p.mlp(),
        light=p.mlp(o.light) if o.light_dropout is None else replace(p.mlp(o.light), dropout=o.light_dropout),
        light_learns_shared=bool(o.light_learns_shared),
        **p.head,
    )
    return models.rocket_launching(config)


BUILDERS: dict[str, Callable[[Parts], Model]] = {
    "lr": _lr,
    "fm": _fm,
    "wide_and_deep": _wide_and_deep,
    "deepfm": _deepfm,
    "multi_tower": _multi_tower,
    "din": _din,
    "rocket_launching": _rocket_launching,
    "dlrm": _dlrm,
    "masknet": _masknet,
    "dcn": _dcn,
    "dcn_v2": _dcn_v2,
    "xdeepfm": _xdeepfm,
    "wukong": _wukong,
}


def build_model(o: Options, fields: Fields) -> Model:
    """The model over all id fields and all dense fields of the data."""
    return BUILDERS[o.model](Parts(o, fields))
