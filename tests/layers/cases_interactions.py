"""Entries of the layer contract for the interaction layers: CIN, MaskBlock, WuKong, SENet."""

from __future__ import annotations

from typing import Any

from funcrec.core.random import key
from funcrec.layers.cin import cin, init_cin
from funcrec.layers.fm_block import fm_block, init_fm_block
from funcrec.layers.linear_compress import init_linear_compress, linear_compress
from funcrec.layers.mask_block import MaskBlockConfig, init_mask_block, mask_block
from funcrec.layers.mask_net import init_mask_net, mask_net
from funcrec.layers.mlp import MLPConfig
from funcrec.layers.senet import init_senet, senet
from funcrec.layers.wukong_layer import WuKongLayerConfig, init_wukong_layer, wukong_layer
from tests.layers.cases import F64, Case, jitter, noise

LINEAR = MLPConfig(hidden_units=(3,), activation="nn.Tanh")
BN = MLPConfig(hidden_units=(3, 2), activation="Dice", use_bn=True)
BLOCK = MaskBlockConfig(hidden_dim=3, reduction_ratio=0.7)
DROPPED = MaskBlockConfig(hidden_dim=2, aggregation_dim=3, dropout=0.4, bias=False)


def _cin(name: str, n_fields: int, *sizes: int) -> Case:
    return Case(name, cin, jitter(init_cin(key(0), n_fields, sizes, dtype=F64)), noise(1, 3, n_fields, 2))


def _mask_net(name: str, parallel: bool, **options: Any) -> Case:
    blocks = (BLOCK, DROPPED)
    params = jitter(init_mask_net(key(0), 4, blocks, parallel=parallel, dtype=F64, **options))
    f = lambda p, x: mask_net(p, x, blocks, parallel=parallel, key=key(2), train=True)  # noqa: E731
    return Case(name, f, params, noise(1, 3, 4), False)


def _fm_block(name: str, norm: bool) -> Case:
    params, state = init_fm_block(key(0), 2, 3, 2, 2, LINEAR, norm=norm, dtype=F64)
    return Case(name, lambda p, x: fm_block(p, x, state, LINEAR, 2)[0], jitter(params), noise(1, 3, 3, 2))


def _wukong_layer(name: str, config: WuKongLayerConfig, train: bool) -> Case:
    params, state = init_wukong_layer(key(0), 2, 3, config, dtype=F64)
    f = lambda p, x: wukong_layer(p, x, state, config, train=train)[0]  # noqa: E731
    return Case(name, f, jitter(params), noise(1, 5, 3, 2), not train)


CASES = [
    _cin("cin_one_layer", 3, 2),
    _cin("cin_products_first", 2, 3, 2),
    _cin("cin_weights_first", 3, 3, 2, 1, 4),
    Case(
        "mask_block",
        lambda p, x: mask_block(p, x[:, :3], x[:, 3:], BLOCK),
        jitter(init_mask_block(key(0), 3, 2, BLOCK, dtype=F64)),
        noise(1, 3, 5),
    ),
    _mask_net("mask_net_parallel", True),
    _mask_net("mask_net_serial", False, input_norm=None),
    _mask_net("mask_net_field_norm", True, input_norm="field", n_fields=2),
    Case("linear_compress", linear_compress, init_linear_compress(key(0), 3, 2, dtype=F64), noise(1, 3, 3, 2)),
    _fm_block("fm_block", norm=True),
    _fm_block("fm_block_without_norm", norm=False),
    _wukong_layer("wukong_residual_matrix", WuKongLayerConfig(lcb=2, fmb=2, k=2, mlp=LINEAR), train=False),
    _wukong_layer("wukong_batch_statistics", WuKongLayerConfig(lcb=1, fmb=2, k=2, mlp=BN), train=True),
    Case("senet", lambda p, x: senet(p, x, (1, 3, 2)), jitter(init_senet(key(0), 3, dtype=F64)), noise(1, 3, 6)),
]


def _calls() -> dict[str, tuple[Any, ...]]:
    fm_params, fm_state = init_fm_block(key(0), 2, 3, 4, 5, LINEAR, dtype=F64)
    config = WuKongLayerConfig(lcb=4, fmb=1, k=2, mlp=LINEAR)
    wukong_params, wukong_state = init_wukong_layer(key(0), 2, 3, config, dtype=F64)
    x, flat = noise(1, 6, 3, 2), noise(1, 6, 8)
    norm = init_mask_net(key(0), 8, (BLOCK,), input_norm="field", n_fields=2, dtype=F64)
    return {
        "cin.cin": (init_cin(key(0), 3, (4, 5), dtype=F64), x),
        "mask_block.mask_block": (init_mask_block(key(0), 8, 5, BLOCK, dtype=F64), flat, noise(2, 6, 5), BLOCK),
        "mask_net.mask_net": (norm, flat, (BLOCK,)),
        "linear_compress.linear_compress": (init_linear_compress(key(0), 3, 4, dtype=F64), x),
        "fm_block.fm_block": (fm_params, x, fm_state, LINEAR, 4),
        "wukong_layer.wukong_layer": (wukong_params, x, wukong_state, config),
        "senet.senet": (init_senet(key(0), 3, dtype=F64), flat, (1, 2, 5)),
    }


CALLS = _calls()
