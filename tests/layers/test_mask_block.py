"""Laws of the MaskBlock and of blocks in parallel and in a chain."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import ConfigError, KeyMissingError, ShapeError
from funcrec.core.init import Constant
from funcrec.core.random import key
from funcrec.core.tree import count, paths, tree
from funcrec.layers.mask_block import MaskBlockConfig, init_mask_block, mask_block
from funcrec.layers.mask_net import block_inputs, init_mask_net, mask_net
from funcrec.layers.norm import layer_norm
from tests.layers.cases import F64, jitter, noise

widths = st.integers(1, 5)


def slow_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    centred = x - x.sum() / len(x)
    return weight * centred / torch.sqrt((centred**2).sum() / len(x) + 1e-5) + bias


def slow_block(p, x: Tensor, m: Tensor) -> Tensor:
    """The definition for one row."""
    hidden = (p["aggregate", "weight"] @ m + p["aggregate", "bias"]).clamp(min=0)
    mask = p["project", "weight"] @ hidden + p["project", "bias"]
    y = p["hidden", "weight"] @ (mask * x)
    y = y + p["hidden", "bias"] if "bias" in p["hidden"].keys() else y
    y = slow_norm(y, p["norm", "weight"], p["norm", "bias"]) if "norm" in p.keys() else y
    return y.clamp(min=0)


@given(widths, widths, widths, st.integers(1, 4), st.booleans(), st.booleans())
def test_a_block_is_its_formula_row_by_row(n: int, m: int, h: int, a: int, bias: bool, norm: bool) -> None:
    config = MaskBlockConfig(hidden_dim=h, aggregation_dim=a, bias=bias, norm=norm)
    params = jitter(init_mask_block(key(0), n, m, config, dtype=F64))
    x, mask_input = noise(1, 3, n), noise(2, 3, m)
    expected = torch.stack([slow_block(params, *row) for row in zip(x, mask_input, strict=True)])
    torch.testing.assert_close(mask_block(params, x, mask_input, config), expected)


@given(widths, st.floats(1, 1e3))
def test_the_scale_of_what_is_normalized_does_not_matter(n: int, t: float) -> None:
    """Up to eps, which large inputs make negligible."""
    config = MaskBlockConfig(hidden_dim=4, bias=False)
    params = jitter(init_mask_block(key(0), n, 2, config, dtype=F64))
    x, mask_input = 1e4 * noise(1, 3, n), noise(2, 3, 2)
    y = mask_block(params, x, mask_input, config)
    torch.testing.assert_close(mask_block(params, t * x, mask_input, config), y, rtol=1e-6, atol=1e-6)
    unnormalized = MaskBlockConfig(hidden_dim=4, bias=False, norm=False)
    torch.testing.assert_close(
        mask_block(params.exclude("norm"), t * x, mask_input, unnormalized),
        t * mask_block(params.exclude("norm"), x, mask_input, unnormalized),
    )


@given(widths, widths)
def test_zero_mask_weights_leave_only_biases(n: int, h: int) -> None:
    config = MaskBlockConfig(hidden_dim=h)
    p = jitter(init_mask_block(key(0), n, 2, config, dtype=F64))
    x = noise(1, 3, n)
    zero = torch.zeros_like(p["project", "weight"])
    fixed = tree({**p, "project": {"bias": p["project", "bias"], "weight": zero}})
    constant = mask_block(fixed, x, noise(2, 3, 2), config)
    gated = (x * p["project", "bias"]) @ p["hidden", "weight"].T + p["hidden", "bias"]
    expected = torch.stack([slow_norm(y, p["norm", "weight"], p["norm", "bias"]) for y in gated]).clamp(min=0)
    torch.testing.assert_close(constant, expected)
    closed = tree({**p, "project": {"bias": 0 * p["project", "bias"], "weight": zero}})
    bias = slow_norm(p["hidden", "bias"], p["norm", "weight"], p["norm", "bias"]).clamp(min=0)
    torch.testing.assert_close(mask_block(closed, x, noise(2, 3, 2), config), bias.expand(3, h))


BLOCKS = (
    MaskBlockConfig(hidden_dim=4, reduction_ratio=2.0),
    MaskBlockConfig(hidden_dim=3),
    MaskBlockConfig(hidden_dim=5),
)
nets = st.fixed_dictionaries(
    {
        "fields": st.tuples(st.integers(1, 4), st.integers(1, 3)),
        "blocks": st.lists(
            st.builds(
                lambda h, a, norm: MaskBlockConfig(hidden_dim=h, aggregation_dim=a, norm=norm),
                widths,
                widths,
                st.booleans(),
            ),
            min_size=1,
            max_size=4,
        ),
        "rows": st.integers(1, 4),
        "input_norm": st.sampled_from(["vector", "field", None]),
    }
)


def built(net: dict[str, Any], parallel: bool) -> tuple[TensorDict, Tensor, Tensor]:
    """Parameters, x, and x as the blocks read it."""
    (f, d), blocks = net["fields"], net["blocks"]
    norm = net["input_norm"]
    made = init_mask_net(key(0), f * d, blocks, parallel=parallel, input_norm=norm, n_fields=f, dtype=F64)
    params, x = jitter(made), noise(1, net["rows"], f * d)
    return params, x, normalized(params, x)


@given(nets)
def test_parallel_blocks_are_single_blocks_side_by_side(net: dict[str, Any]) -> None:
    params, x, y = built(net, parallel=True)
    blocks = [mask_block(params["blocks", str(i)], y, x, block) for i, block in enumerate(net["blocks"])]
    torch.testing.assert_close(mask_net(params, x, net["blocks"]), torch.cat(blocks, dim=1))


@given(nets)
def test_serial_blocks_are_a_chain_with_the_raw_vector_as_mask_input(net: dict[str, Any]) -> None:
    params, x, y = built(net, parallel=False)
    for i, block in enumerate(net["blocks"]):
        y = mask_block(params["blocks", str(i)], y, x, block)
    torch.testing.assert_close(mask_net(params, x, net["blocks"], parallel=False), y)


@pytest.mark.parametrize("input_norm", ["vector", "field"])
def test_bfloat16_is_normalized_in_single(input_norm) -> None:
    """What a large offset leaves of a bfloat16 would be lost in a mean of bfloat16."""
    norm = init_mask_net(key(0), 30, BLOCKS[:1], input_norm=input_norm, n_fields=3)["norm"]
    x = (100.0 + noise(1, 8, 30)).bfloat16().reshape(8, *norm["weight"].shape)
    y = layer_norm(norm, x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, layer_norm(norm, x.float()).bfloat16(), rtol=0, atol=0)


def normalized(params, x: Tensor) -> Tensor:
    """The three input norms, row by row and field by field."""
    if "norm" not in params.keys():
        return x
    weight, bias = params["norm", "weight"], params["norm", "bias"]
    if weight.dim() == 1:
        return torch.stack([slow_norm(row, weight, bias) for row in x])
    n, d = weight.shape
    parts = [torch.stack([slow_norm(row, weight[f], bias[f]) for row in x[:, f * d : (f + 1) * d]]) for f in range(n)]
    return torch.cat(parts, dim=1)


def test_the_widths_of_the_mask_generator_follow_the_blocks_own_input() -> None:
    block = MaskBlockConfig(hidden_dim=7, reduction_ratio=2.0)
    for parallel, expected in ((True, [24, 24, 24]), (False, [24, 14, 14])):
        params = init_mask_net(key(0), 12, (block,) * 3, parallel=parallel)
        assert [params["blocks", str(i), "aggregate", "weight"].shape[0] for i in range(3)] == expected
        assert all(params["blocks", str(i), "aggregate", "weight"].shape[1] == 12 for i in range(3))
    assert block_inputs(12, (block,) * 3, parallel=False) == (12, 7, 7)


def test_the_width_is_the_one_that_was_asked_for() -> None:
    assert MaskBlockConfig(hidden_dim=1).aggregation(12) == 12
    assert MaskBlockConfig(hidden_dim=1, aggregation_dim=3).aggregation(12) == 3
    assert MaskBlockConfig(hidden_dim=1, reduction_ratio=0.0, aggregation_dim=3).aggregation(12) == 3
    assert MaskBlockConfig(hidden_dim=1, reduction_ratio=0.3).aggregation(9) == 2, "truncated, not rounded"


@given(widths, widths, st.integers(1, 4), st.booleans(), st.booleans())
def test_parameter_count(n: int, h: int, a: int, bias: bool, norm: bool) -> None:
    block = MaskBlockConfig(hidden_dim=h, aggregation_dim=a, bias=bias, norm=norm)
    one = (n * a + a) + (a * n + n) + (n * h + bias * h) + norm * 2 * h
    assert count(init_mask_net(key(0), n, (block,) * 2)) == 2 * one + 2 * n
    assert count(init_mask_net(key(0), n, (block,) * 2, input_norm=None)) == 2 * one


def test_trees_and_initial_laws() -> None:
    block = MaskBlockConfig(hidden_dim=50, aggregation_dim=25)
    params = init_mask_net(key(0), 100, (block,) * 2)
    leaves = [f"{part}.{leaf}" for part in ("aggregate", "hidden", "norm", "project") for leaf in ("bias", "weight")]
    assert paths(params) == (*(f"blocks.{i}.{leaf}" for i in range(2) for leaf in leaves), "norm.bias", "norm.weight")
    for name, fan_in in (("aggregate", 100), ("hidden", 100), ("project", 25)):
        weight, bound = params["blocks", "0", name, "weight"], 1 / math.sqrt(fan_in)
        assert 0.95 * bound < weight.abs().max() <= bound
        assert not torch.equal(weight, params["blocks", "1", name, "weight"])
    constant = init_mask_block(
        key(0), 3, 3, MaskBlockConfig(hidden_dim=2, weight=Constant(2.0), bias_init=Constant(3.0))
    )
    for name in ("aggregate", "hidden", "project"):
        assert (constant[name, "weight"] == 2).all()
        assert (constant[name, "bias"] == 3).all()
    per_field = init_mask_net(key(0), 6, (block,), input_norm="field", n_fields=3)
    assert per_field["norm", "weight"].shape == (3, 2)


def test_dropout_is_on_the_outputs_and_differs_between_blocks() -> None:
    block = MaskBlockConfig(hidden_dim=200, dropout=0.25)
    one = jitter(init_mask_block(key(0), 4, 4, block, dtype=F64))
    params = tree({"blocks": {"0": one, "1": one}})
    x = noise(1, 3, 4)
    whole = mask_net(params, x, (block,) * 2)
    dropped = mask_net(params, x, (block,) * 2, key=key(5), train=True)
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], whole[kept] / 0.75)
    left, right = (dropped.chunk(2, dim=1)[i][whole.chunk(2, dim=1)[0] > 0] for i in (0, 1))
    assert 0.6 < (left != 0).double().mean() < 0.9
    assert not torch.equal(left, right)
    with pytest.raises(KeyMissingError):
        mask_net(params, x, (block,) * 2, train=True)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"hidden_dim": 0}, "hidden_dim: got 0, expected a positive integer"),
        ({"reduction_ratio": 0}, "Either aggregation_dim or reduction_ratio must be provided."),
        ({"reduction_ratio": 0.0, "aggregation_dim": 0}, "Either aggregation_dim or reduction_ratio must be provided."),
        (
            {"reduction_ratio": 2.0, "aggregation_dim": 3},
            "got aggregation_dim=3, reduction_ratio=2.0; give one of them",
        ),
        ({"aggregation_dim": 0}, "aggregation_dim: got 0, expected a positive integer"),
        ({"aggregation_dim": -2}, "aggregation_dim: got -2, expected a positive integer"),
        ({"dropout": 1.0}, "dropout rate: got 1.0"),
    ],
)
def test_config_errors_say_what_is_wrong(options: dict, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        MaskBlockConfig(**{"hidden_dim": 4, **options})
    assert text in str(caught.value)


@pytest.mark.parametrize("ratio", [0.1, -1.0])
def test_a_ratio_must_leave_a_width(ratio: float) -> None:
    with pytest.raises(ConfigError, match="expected at least 1; raise reduction_ratio"):
        init_mask_block(key(0), 3, 3, MaskBlockConfig(hidden_dim=4, reduction_ratio=ratio))


def test_impossible_nets_and_other_shapes_are_refused() -> None:
    with pytest.raises(ConfigError, match="blocks: got none"):
        init_mask_net(key(0), 6, ())
    with pytest.raises(ConfigError, match="n_fields: got 4, expected a divisor of the input width 6"):
        init_mask_net(key(0), 6, BLOCKS, input_norm="field", n_fields=4)
    with pytest.raises(ConfigError, match="input_norm: got 'batch'"):
        init_mask_net(key(0), 6, BLOCKS, input_norm="batch")  # type: ignore[arg-type]
    params = init_mask_block(key(0), 3, 2, BLOCKS[0])
    with pytest.raises(ShapeError, match=r"got \(2, 1\) and \(2, 2\), expected \[b, 3\] and \[b, 2\]"):
        mask_block(params, torch.zeros(2, 1), torch.zeros(2, 2), BLOCKS[0])
    with pytest.raises(ShapeError, match=r"mask_input"):
        mask_block(params, torch.zeros(2, 3), torch.zeros(2, 1), BLOCKS[0])
    with pytest.raises(ShapeError, match=r"got \(2, 3\) and \(1, 2\)"):
        mask_block(params, torch.zeros(2, 3), torch.zeros(1, 2), BLOCKS[0])
    norm = init_mask_net(key(0), 6, BLOCKS, input_norm="field", n_fields=3)["norm"]
    with pytest.raises(ShapeError, match=r"layer_norm: input: got \(2, 6\), expected \[\.\.\., 3, 2\]"):
        layer_norm(norm, torch.zeros(2, 6))


@pytest.mark.parametrize("parallel", [False, True])
def test_a_net_runs_the_blocks_that_it_was_made_of(parallel: bool) -> None:
    """Not fewer, not more, not in another order, and not in a chain instead of side by side."""
    x, params = torch.zeros(2, 6), init_mask_net(key(0), 6, BLOCKS, parallel=parallel, input_norm="field", n_fields=3)
    mask_net(params, x, BLOCKS, parallel=parallel)
    for blocks in (BLOCKS[:2], (*BLOCKS, BLOCKS[0]), BLOCKS[::-1], ()):
        with pytest.raises(ShapeError, match=r"mask_net: \(output, input\) of each block: got .*init_mask_net"):
            mask_net(params, x, blocks, parallel=parallel)
    with pytest.raises(ShapeError, match=r"mask_net: \(output, input\) of each block"):
        mask_net(params, x, BLOCKS, parallel=not parallel)
    with pytest.raises(ShapeError, match=r"mask_net: input: got \(2, 5\), expected \[b, 6\]"):
        mask_net(params, torch.zeros(2, 5), BLOCKS, parallel=parallel)
