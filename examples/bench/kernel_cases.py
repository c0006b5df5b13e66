"""The sizes at which the fast paths are measured, with the fewest operations and bytes that each size needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import naive
import torch
from torch import Tensor

from funcrec.core.impl import Impl
from funcrec.core.random import fold_in, key, normal, randint
from funcrec.core.tree import leaves, paths, unflatten
from funcrec.layers.cin import cin, init_cin
from funcrec.layers.cross import cross, init_cross
from funcrec.layers.cross_v2 import cross_v2, init_cross_v2
from funcrec.layers.din_attention import DINEncoder, din_attention
from funcrec.layers.dot import dot_interaction
from funcrec.layers.fm import fm
from funcrec.layers.mask_block import MaskBlockConfig
from funcrec.layers.mask_net import init_mask_net, mask_net
from funcrec.layers.mlp import MLPConfig
from funcrec.layers.wukong_layer import WuKongLayerConfig, init_wukong_layer, wukong_layer


@dataclass(frozen=True)
class Case:
    """``layer(impl)(*inputs, *params)`` and ``naive(*inputs, *params)``; ``fixed``: integer inputs, not differentiated.

    ``flops`` and ``numbers`` of the forward pass; ``numbers_both`` of forward and backward: elements read or written.
    """

    inputs: list[Tensor]
    params: list[Tensor]
    layer: Callable[[Impl], Callable[..., Tensor]]
    naive: Callable[..., Tensor]
    flops: float
    numbers: float
    numbers_both: float


Make = Callable[[torch.dtype, str], Case]


def _draw(name: str, *shape: int, device: str, std: float = 1.0) -> Tensor:
    return normal(fold_in(key(1, device), name), shape, std=std)


def dots(b: int, n: int, d: int) -> Make:
    def make(dtype: torch.dtype, device: str) -> Case:
        inputs = [_draw("x", b, n - 1, d, device=device).to(dtype), _draw("dense", b, d, device=device).to(dtype)]
        pairs = n * (n - 1) // 2
        read, written = b * n * d, b * (pairs + d)
        layer = lambda impl: lambda x, dense: dot_interaction(x, dense=dense, impl=impl)  # noqa: E731
        flops = 2 * b * pairs * d
        return Case(inputs, [], layer, naive.dots, flops, read + written, 3 * read + 2 * written)

    return make


def fms(b: int, n: int, d: int) -> Make:
    def make(dtype: torch.dtype, device: str) -> Case:
        read, written = b * n * d, b * d
        layer = lambda impl: lambda x: fm(x, impl=impl)  # noqa: E731
        inputs = [_draw("x", b, n, d, device=device).to(dtype)]
        return Case(inputs, [], layer, naive.fm, 3 * read, read + written, 3 * read + 2 * written)

    return make


def _tree_case(params: Any, call: Callable[[Any, Impl], Callable[..., Tensor]], dtype: torch.dtype, device: str):
    """Leaves of the parameters on the device, away from zero biases, and the layer as a function of them."""
    names = paths(params)
    values = [v.to(device) + _draw(str(i), *v.shape, device=device, std=0.02) for i, v in enumerate(leaves(params))]

    def layer(n_inputs: int) -> Callable[[Impl], Callable[..., Tensor]]:
        return lambda impl: lambda *v: call(unflatten(names, v[n_inputs:]), impl)(*v[:n_inputs])

    return [v.to(dtype) for v in values], layer, names


def cins(b: int, n: int, d: int, *sizes: int) -> Make:
    def make(dtype: torch.dtype, device: str) -> Case:
        params, layer, names = _tree_case(
            init_cin(key(0), n, sizes), lambda p, impl: lambda x: cin(p, x, impl=impl), dtype, device
        )
        at = [names.index(f"{k}.{part}") for k in range(len(sizes)) for part in ("weight", "bias")]
        macs = sum(o * h * n for h, o in zip((n, *sizes), sizes, strict=False))
        inputs = [_draw("x", b, n, d, device=device, std=0.5).to(dtype)]
        read = b * n * d
        form = lambda x, *v: naive.cin(x, *(v[i] for i in at))  # noqa: E731
        return Case(inputs, params, layer(1), form, 2.0 * b * d * macs, read, 3 * read)

    return make


def crosses(b: int, d: int, n_layers: int) -> Make:
    def make(dtype: torch.dtype, device: str) -> Case:
        params, layer, names = _tree_case(
            init_cross(key(0), d, n_layers), lambda p, impl: lambda x: cross(p, x, impl=impl), dtype, device
        )
        at = [names.index(f"{k}.{part}") for k in range(n_layers) for part in ("weight", "bias")]
        form = lambda x, *v: naive.cross(x, *(v[i] for i in at))  # noqa: E731
        inputs = [_draw("x", b, d, device=device).to(dtype)]
        return Case(inputs, params, layer(1), form, 5.0 * b * d * n_layers, 2 * b * d, 5 * b * d)

    return make


def crosses_v2(b: int, d: int, n_layers: int, rank: int) -> Make:
    def make(dtype: torch.dtype, device: str) -> Case:
        params, layer, names = _tree_case(
            init_cross_v2(key(0), d, n_layers, rank), lambda p, impl: lambda x: cross_v2(p, x), dtype, device
        )
        parts = ("u.weight", "v.weight", "v.bias")
        at = [names.index(f"{k}.{part}") for k in range(n_layers) for part in parts]
        form = lambda x, *v: naive.cross_v2(x, *(v[i] for i in at))  # noqa: E731
        inputs = [_draw("x", b, d, device=device).to(dtype)]
        return Case(inputs, params, layer(1), form, 4.0 * b * d * rank * n_layers, 2 * b * d, 5 * b * d)

    return make


def mask_nets(b: int, d: int, hidden: int, blocks: int) -> Make:
    def make(dtype: torch.dtype, device: str) -> Case:
        configs = (MaskBlockConfig(hidden_dim=hidden),) * blocks
        call = lambda p, impl: lambda x: mask_net(p, x, configs)  # noqa: E731
        params, layer, names = _tree_case(init_mask_net(key(0), d, configs), call, dtype, device)
        parts = [f"{a}.{c}" for a in ("aggregate", "project", "hidden", "norm") for c in ("weight", "bias")]
        of_blocks = [f"blocks.{k}.{part}" for k in range(blocks) for part in parts]
        at = [names.index(name) for name in ("norm.weight", "norm.bias", *of_blocks)]
        form = lambda x, *v: naive.mask_net(x, *(v[i] for i in at))  # noqa: E731
        inputs = [_draw("x", b, d, device=device).to(dtype)]
        numbers = b * (d + blocks * hidden)
        return Case(inputs, params, layer(1), form, 2.0 * b * blocks * d * (2 * d + hidden), numbers, 3 * numbers)

    return make


def wukongs(b: int, n: int, d: int, lcb: int, fmb: int, k: int, hidden: int) -> Make:
    def make(dtype: torch.dtype, device: str) -> Case:
        config = WuKongLayerConfig(lcb=lcb, fmb=fmb, k=k, mlp=MLPConfig(hidden_units=(hidden,)))
        raw, state = init_wukong_layer(key(0), d, n, config)
        call = lambda p, impl: lambda x: wukong_layer(p, x, state, config, impl=impl)[0]  # noqa: E731
        params, layer, names = _tree_case(raw, call, dtype, device)

        def form(x: Tensor, *v: Tensor) -> Tensor:
            p = dict(zip(names, v, strict=True))
            pair = lambda name: (p[f"{name}.weight"], p[f"{name}.bias"])  # noqa: E731
            return naive.wukong(
                x,
                p["fmb.compress.weight"],
                p["lcb.weight"],
                pair("fmb.norm"),
                pair("fmb.mlp.0.linear"),
                pair("fmb.out"),
                pair("norm"),
            )

        macs = n * d * (lcb + 2 * k) + n * k * hidden + hidden * fmb * d
        numbers = b * d * (n + lcb + fmb)
        inputs = [_draw("x", b, n, d, device=device).to(dtype)]
        return Case(inputs, params, layer(1), form, 2.0 * b * macs, numbers, 3 * numbers)

    return make


def dins(b: int, t: int, d: int, *units: int, softmax: bool = True) -> Make:
    def make(dtype: torch.dtype, device: str) -> Case:
        config = DINEncoder(attn_mlp=MLPConfig(hidden_units=units), softmax=softmax)
        raw, state = config.init(key(0), d, d)
        lengths = randint(key(5, device), b, 0, t + 1)
        call = lambda p, impl: (  # noqa: E731
            lambda q, k, n: din_attention(p, q, k, n, state, config, impl=impl)[0]
        )
        params, layer, names = _tree_case(raw, call, dtype, device)
        maps = [f"mlp.{i}.linear" for i in range(len(units))] + ["linear"]
        at = [names.index(f"{m}.{part}") for m in maps for part in ("weight", "bias")]
        form = lambda q, k, n, *v: naive.din(q, k, n, *(v[i] for i in at), softmax=softmax)  # noqa: E731
        steps = int(lengths.sum())
        first, second = units
        keys = _draw("k", b, t, d, device=device)
        inputs = [_draw("q", b, d, device=device).to(dtype), keys.to(dtype), lengths]
        flops = 2.0 * steps * (2 * d * first + first * second + second)
        return Case(inputs, params, layer(3), form, flops, steps * d + 2 * b * d, 3 * steps * d + 4 * b * d)

    return make


CASES: dict[str, tuple[Make, tuple[str, ...]]] = {
    "dot B65536 N27 D128": (dots(65536, 27, 128), ("tf32", "bf16")),
    "dot B8192 N27 D128": (dots(8192, 27, 128), ("tf32", "bf16")),
    "FM B65536 N39 D16": (fms(65536, 39, 16), ("fp32", "bf16")),
    "CIN 200x3 B4096 N39 D16": (cins(4096, 39, 16, 200, 200, 200), ("bf16", "tf32")),
    "CIN 128x2 B8192 N39 D16": (cins(8192, 39, 16, 128, 128), ("bf16", "tf32")),
    "DIN 80-40 B4096 T100 D64": (dins(4096, 100, 64, 80, 40), ("bf16", "tf32")),
    "DIN 80-40 B4096 T100 D64 no softmax": (dins(4096, 100, 64, 80, 40, softmax=False), ("bf16",)),
    "WuKong B4096 N128 D128": (wukongs(4096, 128, 128, 64, 64, 24, 512), ("bf16", "tf32")),
    "MaskNet x3 B8192 d624 h512": (mask_nets(8192, 624, 512, 3), ("bf16",)),
    "DCNv2 x3 B8192 d3456 r512": (crosses_v2(8192, 3456, 3, 512), ("bf16",)),
    "DCN x3 B8192 d3456": (crosses(8192, 3456, 3), ("bf16", "fp32")),
}
