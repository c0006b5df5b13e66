"""From a model message and its groups to a model of this library: one function a model."""

from __future__ import annotations

from collections.abc import Callable

from funcrec.core.errors import ConfigError, fail
from funcrec.core.groups import Encoded
from funcrec.core.model import Model
from funcrec.interop.easyrec.messages import shortest
from funcrec.interop.easyrec.mlps import mlp_config, optional_mlp
from funcrec.interop.easyrec.parts import Parts
from funcrec.layers.din_attention import DINEncoder
from funcrec.layers.mask_block import MaskBlockConfig
from funcrec.layers.wukong_layer import WuKongLayerConfig
from funcrec.models.dcn import DCNConfig, dcn
from funcrec.models.dcn_v2 import DCNv2Config, dcn_v2
from funcrec.models.deepfm import DeepFMConfig, deepfm
from funcrec.models.din import DINConfig, din
from funcrec.models.dlrm import DLRMConfig, dlrm
from funcrec.models.masknet import MaskNetConfig, masknet
from funcrec.models.multi_tower import MultiTowerConfig, Tower, multi_tower
from funcrec.models.rocket_launching import RocketLaunchingConfig, rocket_launching
from funcrec.models.wide_and_deep import WideAndDeepConfig, wide_and_deep
from funcrec.models.wukong import WuKongConfig, wukong
from funcrec.models.xdeepfm import XDeepFMConfig, xdeepfm


def _wide_and_deep(p: Parts) -> Model:
    return wide_and_deep(
        WideAndDeepConfig(
            wide=p.group("wide"),
            deep=p.group("deep"),
            deep_mlp=mlp_config(p.config, "deep", p.kind),
            final=optional_mlp(p.config, "final", p.kind),
            n_classes=p.n_classes,
        )
    )


def _deepfm(p: Parts) -> Model:
    return deepfm(
        DeepFMConfig(
            wide=p.group("wide"),
            deep=p.group("deep"),
            fm=p.group("fm") if "fm" in p.groups.order else None,
            deep_mlp=mlp_config(p.config, "deep", p.kind),
            final=optional_mlp(p.config, "final", p.kind),
            n_classes=p.n_classes,
        )
    )


def _towers(p: Parts) -> tuple[Tower, ...]:
    names = [t.input for t in p.config.towers]
    repeated = sorted({n for n in names if names.count(n) > 1})
    if repeated:
        fix = "weights are kept by group name: give each tower a group of its own"
        fail(ConfigError, f"{p.kind}: several towers on one group", got=repeated, fix=fix)
    return tuple(Tower(p.group(t.input), mlp_config(t, "mlp", f"{p.kind} tower {t.input!r}")) for t in p.config.towers)


def _multi_tower(p: Parts) -> Model:
    final = mlp_config(p.config, "final", p.kind)
    return multi_tower(MultiTowerConfig(towers=_towers(p), final=final, n_classes=p.n_classes))


def _multi_tower_din(p: Parts) -> Model:
    interests = []
    for i, tower in enumerate(p.config.din_towers):
        where = f"{p.kind} din_towers[{i}]"
        if tower.input not in p.groups.sequences:
            seen = f"SEQUENCE groups {list(p.groups.sequences)}"
            fix = "set its group_type: SEQUENCE"
            fail(ConfigError, f"{where}: no SEQUENCE group {tower.input!r}", got=seen, fix=fix)
        attention = DINEncoder(attn_mlp=mlp_config(tower, "attn_mlp", where), padding_in_statistics=True)
        interests.append(Encoded(p.groups.sequences[tower.input], attention))
        _ = interests[-1].dim
    if not interests:
        return _multi_tower(p)
    final = mlp_config(p.config, "final", p.kind)
    return din(DINConfig(towers=_towers(p), interests=tuple(interests), final=final, n_classes=p.n_classes))


def _rocket_launching(p: Parts) -> Model:
    return rocket_launching(
        RocketLaunchingConfig(
            group=p.first(),
            shared=optional_mlp(p.config, "share_mlp", p.kind),
            booster=mlp_config(p.config, "booster_mlp", p.kind),
            light=mlp_config(p.config, "light_mlp", p.kind),
            n_classes=p.n_classes,
        )
    )


def _sparse_and_dense(p: Parts) -> dict:
    """The groups of DLRM and WuKong: a group alone is the sparse one, whatever its name."""
    if len(p.groups.order) == 1:
        return {"sparse": p.first()}
    sparse = p.group("sparse")
    if "dense" not in p.groups.order:
        return {"sparse": sparse}
    return {"sparse": sparse, "dense": p.group("dense"), "dense_mlp": mlp_config(p.config, "dense_mlp", p.kind)}


def _dlrm(p: Parts) -> Model:
    final = mlp_config(p.config, "final", p.kind)
    groups = _sparse_and_dense(p)
    return dlrm(DLRMConfig(**groups, arch_with_sparse=p.config.arch_with_sparse, final=final, n_classes=p.n_classes))


def _wukong(p: Parts) -> Model:
    layers = tuple(
        WuKongLayerConfig(
            lcb=layer.lcb_feature_num,
            fmb=layer.fmb_feature_num,
            k=layer.compressed_feature_num,
            mlp=mlp_config(layer, "feature_num_mlp", f"{p.kind}.wukong_layers[{i}]"),
        )
        for i, layer in enumerate(p.config.wukong_layers)
    )
    final = mlp_config(p.config, "final", p.kind)
    return wukong(WuKongConfig(**_sparse_and_dense(p), layers=layers, final=final, n_classes=p.n_classes))


def _mask_net(p: Parts) -> Model:
    module = p.need("mask_net_module")
    where = f"{p.kind}.mask_net_module"
    c, ratio = module.mask_block, shortest(module.mask_block.reduction_ratio)
    if ratio:  # the original reads aggregation_dim only where the ratio is explicitly 0
        block = MaskBlockConfig(hidden_dim=c.hidden_dim, reduction_ratio=ratio)
    else:
        block = MaskBlockConfig(hidden_dim=c.hidden_dim, reduction_ratio=0.0, aggregation_dim=c.aggregation_dim or None)
    return masknet(
        MaskNetConfig(
            group=p.first(),
            blocks=(block,) * module.n_mask_blocks,
            parallel=module.use_parallel,
            top_mlp=mlp_config(module, "top_mlp", where),
            n_classes=p.n_classes,
        )
    )


def _dcn(p: Parts) -> Model:
    return dcn(
        DCNConfig(
            group=p.first(),
            cross_num=p.need("cross").cross_num,
            deep=mlp_config(p.config, "deep", p.kind),
            final=mlp_config(p.config, "final", p.kind),
            n_classes=p.n_classes,
        )
    )


def _dcn_v2(p: Parts) -> Model:
    cross = p.need("cross")
    return dcn_v2(
        DCNv2Config(
            group=p.first(),
            backbone=optional_mlp(p.config, "backbone", p.kind),
            cross_num=cross.cross_num,
            low_rank=cross.low_rank,
            deep=optional_mlp(p.config, "deep", p.kind),
            final=mlp_config(p.config, "final", p.kind),
            n_classes=p.n_classes,
        )
    )


def _xdeepfm(p: Parts) -> Model:
    return xdeepfm(
        XDeepFMConfig(
            cin_group=p.group("wide"),
            cin_layer_size=tuple(p.need("cin").cin_layer_size),
            deep=p.group("deep"),
            deep_mlp=mlp_config(p.config, "deep", p.kind),
            final=mlp_config(p.config, "final", p.kind),
            n_classes=p.n_classes,
        )
    )


MODELS: dict[str, Callable[[Parts], Model]] = {
    "dcn_v1": _dcn,
    "dcn_v2": _dcn_v2,
    "deepfm": _deepfm,
    "dlrm": _dlrm,
    "mask_net": _mask_net,
    "multi_tower": _multi_tower,
    "multi_tower_din": _multi_tower_din,
    "rocket_launching": _rocket_launching,
    "wide_and_deep": _wide_and_deep,
    "wukong": _wukong,
    "xdeepfm": _xdeepfm,
}
