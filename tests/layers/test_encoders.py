"""Laws that all encoders of histories share, and the slow loops of those other than DIN."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensordict import TensorDict
from torch import Tensor, nn
from torch.func import grad, jvp, vmap

from funcrec.core.errors import ConfigError, KeyMissingError, ShapeError
from funcrec.core.groups import Encoder
from funcrec.core.random import key
from funcrec.core.tree import leaves, map_leaves, paths
from funcrec.layers.din_attention import DINEncoder
from funcrec.layers.history import masked_softmax
from funcrec.layers.linear import linear
from funcrec.layers.mlp import MLPConfig, mlp
from funcrec.layers.multi_window_din import MultiWindowDINEncoder
from funcrec.layers.self_attention import SelfAttentionEncoder
from funcrec.layers.sequence_pooling import PoolingEncoder
from funcrec.layers.simple_attention import SimpleAttention, simple_attention
from tests.layers.cases import F64, jitter, noise, positive
from tests.layers.test_din import history, lengths_lists, shuffled

MLP = MLPConfig(hidden_units=(4, 2), activation="nn.Tanh")
DICE = MLPConfig(hidden_units=(4,), activation="Dice", use_bn=True)
ENCODERS: dict[str, Any] = {
    "din": DINEncoder(attn_mlp=MLP),
    "din_dice": DINEncoder(attn_mlp=DICE, softmax=False),
    "simple": SimpleAttention(),
    "mean": PoolingEncoder(),
    "sum": PoolingEncoder(pooling="sum"),
    "self": SelfAttentionEncoder(dim=6, num_heads=2),
    "windows": MultiWindowDINEncoder(windows_len=(1, 2, 4), attn_mlp=MLP),
    "windows_dice": MultiWindowDINEncoder(windows_len=(3,), attn_mlp=DICE),
}
UNTRUNCATED = SelfAttentionEncoder(dim=6, num_heads=2, max_seq_length=2, divide_by_untruncated=True)
each_encoder = pytest.mark.parametrize("name", ENCODERS)


def made(encoder: Encoder) -> tuple[TensorDict, TensorDict]:
    params, state = encoder.init(key(0), 3, 3, F64)
    return jitter(params), positive(jitter(state))


def encode(encoder: Encoder, lengths: list[int], train: bool = False, **layout: Any) -> tuple[Tensor, TensorDict]:
    params, state = made(encoder)
    return encoder.apply(params, *history(lengths, **layout), state, train=train)


@each_encoder
@given(lengths=lengths_lists, steps=st.integers(4, 8), train=st.booleans())
def test_padding_does_not_matter(name: str, lengths: list[int], steps: int, train: bool) -> None:
    """Neither its content nor its amount, for outputs and statistics alike; and the promised shape is kept."""
    encoder = ENCODERS[name]
    y, new = encode(encoder, lengths, train)
    assert y.shape == (len(lengths), encoder.output_dim(3, 3))
    z, moved = encode(encoder, lengths, train, steps=steps, padding=torch.nan)
    assert paths(new) == paths(moved)
    torch.testing.assert_close([z, *leaves(moved)], [y, *leaves(new)])


@each_encoder
def test_empty_histories_are_zero_and_their_derivatives_finite(name: str) -> None:
    """Also of the second order, also where no row has a history, and where there is no step at all."""
    encoder = ENCODERS[name]
    params, state = made(encoder)
    for lengths, steps in (([0, 3, 1], 4), ([0, 0, 0], 4), ([0, 0, 0], 0), ([1, 0, 1], 1)):
        query, keys, n = history(lengths, max(steps, 0))

        def loss(p: TensorDict, q: Tensor, x: Tensor, n: Tensor = n, train: bool = True) -> Tensor:
            return encoder.apply(p, q, x, n, state, train=train)[0].sin().sum()

        y = encoder.apply(params, query, keys, n, state, train=True)[0]
        summary = y[:, : y.shape[1] - 3] if isinstance(encoder, MultiWindowDINEncoder) else y
        assert (summary[n == 0] == 0).all()
        gradient = grad(loss, argnums=(0, 1, 2))
        first = gradient(params, query, keys)
        direction = (map_leaves(torch.ones_like, params), torch.ones_like(query), torch.ones_like(keys))
        forward = jvp(loss, (params, query, keys), direction)[1]
        curved = jvp(gradient, (params, query, keys), direction)[1]
        twice = grad(lambda x, q=query, g=gradient: g(params, q, x)[2].square().sum())(keys)
        for part in (first, curved):
            assert all(v.isfinite().all() for v in (*leaves(part[0]), *part[1:]))
        assert forward.isfinite()
        assert twice.isfinite().all()
        torch.testing.assert_close(
            forward, sum((g.sum() for g in (*leaves(first[0]), *first[1:])), torch.zeros((), dtype=F64))
        )


@each_encoder
def test_rows_by_vmap_are_the_batch_in_evaluation(name: str) -> None:
    encoder = ENCODERS[name]
    params, state = made(encoder)
    rows = history([4, 0, 1, 3])
    one = lambda q, k, n: encoder.apply(params, q[None], k[None], n[None], state)[0][0]  # noqa: E731
    torch.testing.assert_close(vmap(one)(*rows), encoder.apply(params, *rows, state)[0])


@pytest.mark.parametrize("name", [n for n in ENCODERS if not n.startswith("windows")])
@given(lengths=lengths_lists, seed=st.integers(0, 99), train=st.booleans())
def test_the_order_of_the_real_steps_does_not_matter(name: str, lengths: list[int], seed: int, train: bool) -> None:
    encoder = ENCODERS[name]
    params, state = made(encoder)
    query, keys, n = history(lengths, padding=torch.nan)
    y, new = encoder.apply(params, query, keys, n, state, train=train)
    z, moved = encoder.apply(params, query, shuffled(keys, lengths, seed)[0], n, state, train=train)
    torch.testing.assert_close([z, *leaves(moved)], [y, *leaves(new)])


@each_encoder
@given(lengths=lengths_lists, extra=st.integers(0, 5), train=st.booleans())
def test_a_length_past_the_steps_counts_those_that_are_there(
    name: str, lengths: list[int], extra: int, train: bool
) -> None:
    encoder = ENCODERS[name]
    params, state = made(encoder)
    query, keys, n = history(lengths)
    beyond = torch.where(n == 4, n + extra, n)
    for each in (encoder, UNTRUNCATED) if name == "self" else (encoder,):
        y, new = each.apply(params, query, keys, n, state, train=train)
        z, moved = each.apply(params, query, keys, beyond, state, train=train)
        torch.testing.assert_close([z, *leaves(moved)], [y, *leaves(new)])


@pytest.mark.parametrize("name", ["din", "simple", "windows"])
@pytest.mark.parametrize("shape", [(1, 3), (2, 4), (3,), (3, 3), (2, 1, 3)])
def test_a_query_of_another_shape_is_refused(name: str, shape: tuple[int, ...]) -> None:
    """It would broadcast, or be cut."""
    encoder = ENCODERS[name]
    params, state = made(encoder)
    _, keys, n = history([4, 2])
    with pytest.raises(ShapeError, match=r"attention: query: got \(.*expected "):
        encoder.apply(params, torch.zeros(shape, dtype=F64), keys, n, state)


def test_the_dot_product_needs_a_query_as_wide_as_a_step() -> None:
    _, keys, n = history([4, 2])
    with pytest.raises(ShapeError, match=r"simple_attention: query: got \(2, 1\), expected one for each row, \(2, 3\)"):
        simple_attention(torch.zeros(2, 1, dtype=F64), keys, n)


@given(
    mask=st.lists(st.booleans(), min_size=1, max_size=5),
    level=st.sampled_from([0.0, -1e4, -1e6, 1e6]),
    dtype=st.sampled_from([torch.float16, torch.float32, F64]),
)
def test_a_masked_softmax_is_the_softmax_of_what_is_left(mask: list[bool], level: float, dtype: torch.dtype) -> None:
    """Wherever the scores are: what is masked lies below all of them."""
    kept = torch.tensor(mask)
    scores = (
        (noise(1, len(mask)) + level).clamp(min=torch.finfo(dtype).min / 2, max=torch.finfo(dtype).max / 2).to(dtype)
    )
    weights = masked_softmax(scores, kept)
    assert weights.dtype == dtype
    assert (weights[~kept] == 0).all()
    torch.testing.assert_close(weights[kept], scores[kept].softmax(0))
    assert bool(kept.any()) is bool((weights.sum() - 1).abs() < 0.01)


def test_multi_window_starts_with_the_slope_of_torch_nns_prelu() -> None:
    params, _ = ENCODERS["windows"].init(key(0), 3, 3)
    torch.testing.assert_close(params["prelu", "weight"], nn.PReLU().weight.detach(), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["din", "simple", "mean", "self"])
@given(cut=st.integers(1, 5))
def test_truncation_is_cutting(name: str, cut: int) -> None:
    encoder = ENCODERS[name]
    params, state = made(encoder)
    query, keys, n = history([4, 2, 0, 1])
    expected, _ = encoder.apply(params, query, keys[:, :cut], n.clamp(max=cut), state)
    y, _ = replace(encoder, max_seq_length=cut).apply(params, query, keys, n, state)
    torch.testing.assert_close(y, expected)


@each_encoder
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_finite_and_close(name: str, dtype: torch.dtype) -> None:
    encoder = ENCODERS[name]
    params, state = made(encoder)
    query, keys, n = history([4, 0, 2])
    low = map_leaves(lambda v: v.to(dtype), params)
    loss = lambda p, x: encoder.apply(p, query.to(dtype), x, n, state.float(), train=True)[0].float().sin().sum()  # noqa: E731
    d_params, d_keys = grad(loss, argnums=(0, 1))(low, keys.to(dtype))
    assert all(v.isfinite().all() for v in (*leaves(d_params), d_keys))
    y, _ = encoder.apply(low, query.to(dtype), keys.to(dtype), n, state.float())
    assert y.dtype == dtype
    torch.testing.assert_close(y.to(F64), encoder.apply(params, query, keys, n, state)[0], rtol=0.1, atol=0.1)


@given(lengths_lists)
def test_simple_attention_is_the_loop(lengths: list[int]) -> None:
    query, keys, n = history(lengths)
    y, _ = encode(ENCODERS["simple"], lengths)
    for b, m in enumerate(n.tolist()):
        weights = torch.tensor([float(query[b] @ k) for k in keys[b, :m]], dtype=F64).softmax(0)
        expected = sum((w * k for w, k in zip(weights, keys[b], strict=False)), torch.zeros(3, dtype=F64))
        torch.testing.assert_close(y[b], expected)


@given(lengths_lists, st.sampled_from([0, 1, 3]))
def test_pooling_is_the_loop(lengths: list[int], cut: int) -> None:
    _, keys, n = history(lengths)
    for kind in ("mean", "sum"):
        y, _ = encode(PoolingEncoder(pooling=kind, max_seq_length=cut), lengths)
        for b, m in enumerate(n.tolist()):
            steps = keys[b, : min(m, cut or m)]
            total = steps.sum(0)
            torch.testing.assert_close(y[b], total / max(len(steps), 1) if kind == "mean" else total)


def attention_module(params: TensorDict, dim: int, heads: int) -> nn.MultiheadAttention:
    module = nn.MultiheadAttention(dim, heads, batch_first=True, dtype=F64)
    weights = {
        "in_proj_weight": params["in_proj", "weight"],
        "in_proj_bias": params["in_proj", "bias"],
        "out_proj.weight": params["out_proj", "weight"],
        "out_proj.bias": params["out_proj", "bias"],
    }
    module.load_state_dict(weights)
    return module.eval()


@given(lengths_lists, st.sampled_from([1, 2, 3, 6]), st.sampled_from([0, 2]), st.booleans())
def test_self_attention_is_torch_nns_over_each_row_alone(
    lengths: list[int], heads: int, cut: int, untruncated: bool
) -> None:
    encoder = SelfAttentionEncoder(dim=6, num_heads=heads, max_seq_length=cut, divide_by_untruncated=untruncated)
    params, _ = made(encoder)
    module = attention_module(params, 6, heads)
    _, keys, n = history(lengths)
    y, _ = encode(encoder, lengths)
    for b, m in enumerate(n.tolist()):
        steps = keys[b, : min(m, cut or m)]
        expected = torch.zeros(6, dtype=F64)
        if m:
            q, k, v = (linear(params[name], steps)[None] for name in ("query", "key", "value"))
            expected = module(q, k, v)[0][0].sum(0) / (m if untruncated else len(steps))
        torch.testing.assert_close(y[b], expected)


def test_self_attention_starts_as_torch_nns_does() -> None:
    params, _ = SelfAttentionEncoder(dim=64, num_heads=4).init(key(0), 0, 16)
    assert params["in_proj", "weight"].shape == (192, 64)
    bounds = {"in_proj": (6 / 256) ** 0.5, "out_proj": 1 / 8, "query": 1 / 4, "key": 1 / 4, "value": 1 / 4}
    for name, bound in bounds.items():
        largest = float(params[name, "weight"].abs().max())
        assert 0.95 * bound < largest <= bound
        assert bool((params[name, "bias"] == 0).all()) is name.endswith("proj")
    assert not torch.equal(params["query", "weight"], params["key", "weight"])


def test_self_attention_drops_weights_with_a_key() -> None:
    encoder = SelfAttentionEncoder(dim=6, num_heads=2, dropout=0.5)
    params, state = made(encoder)
    rows = history([4, 4])
    with pytest.raises(KeyMissingError):
        encoder.apply(params, *rows, state, train=True)
    drawn = torch.stack([encoder.apply(params, *rows, state, key=key(s), train=True)[0] for s in range(2000)])
    exact = encoder.apply(params, *rows, state)[0]
    assert not torch.equal(drawn[0], drawn[1])
    # The output is linear in the weights, so its mean is the output of the mean weights.
    assert ((drawn.mean(0) - exact).abs() < 6 * drawn.std(0) / 2000**0.5).all()


@given(
    lengths_lists,
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
    st.sampled_from([MLP, DICE, MLPConfig(hidden_units=(3,), use_ln=True)]),
    st.integers(1, 3),
)
def test_multi_window_is_the_loop(lengths: list[int], windows: list[int], net: MLPConfig, query_dim: int) -> None:
    """Windows that reach past the history, and steps past the last window."""
    encoder = MultiWindowDINEncoder(windows_len=tuple(windows), attn_mlp=net)
    params, state = encoder.init(key(0), query_dim, 3, F64)
    params, state = jitter(params), positive(jitter(state))
    query, keys, n = history(lengths)
    query = query[:, :query_dim]
    y, _ = encoder.apply(params, query, keys, n, state)
    assert y.shape == (len(lengths), encoder.output_dim(query_dim, 3))
    for b, m in enumerate(n.tolist()):
        q = torch.cat([query[b], torch.zeros(3 - query_dim, dtype=F64)])
        parts, start = [], 0
        for length in windows:
            steps = keys[b, start : min(start + length, m)]
            total = torch.zeros(3, dtype=F64)
            for k in steps:
                hidden, _ = mlp(params["mlp"], torch.cat([k, q * k, q]), state["mlp"], net)
                score = linear(params["linear"], hidden)
                total = total + (score if score > 0 else params["prelu", "weight"] * score) * k
            parts.append(total / max(len(steps), 1))
            start += length
        torch.testing.assert_close(y[b], torch.cat([*parts, q]))


def test_multi_window_counts_padding_in_statistics_on_request() -> None:
    """Then a longer padding moves them; steps past the last window count as well."""
    plain = MultiWindowDINEncoder(windows_len=(2,), attn_mlp=DICE)
    params, state = made(plain)
    query, keys, n = history([4, 2, 1])
    rows = torch.cat([keys, query[:, None] * keys, query[:, None].expand_as(keys)], dim=-1)
    for padded in (False, True):
        counted = torch.ones(3, 4, dtype=torch.bool) if padded else torch.arange(4) < n[:, None]
        moved = mlp(params["mlp"], rows[counted], state["mlp"], DICE, train=True)[1]
        encoder = replace(plain, padding_in_statistics=padded)
        new = encoder.apply(params, query, keys, n, state, train=True)[1]
        torch.testing.assert_close(leaves(new["mlp"]), leaves(moved))


def test_configs_refuse_what_they_cannot_do() -> None:
    with pytest.raises(
        ConfigError, match=r"SimpleAttention: query_dim: got 2, expected that of a step, 3; .*DINEncoder"
    ):
        SimpleAttention().output_dim(2, 3)
    with pytest.raises(ConfigError, match="SimpleAttention: query_dim"):
        SimpleAttention().init(key(0), 4, 3)
    with pytest.raises(ConfigError, match=r"only sum\|mean pooling type supported now: got 'max'"):
        PoolingEncoder(pooling="max")  # type: ignore[arg-type]
    for dim, heads in ((6, 4), (0, 1), (6, 0)):
        with pytest.raises(ConfigError, match=f"must be divisible by num_heads: got dim {dim}, num_heads {heads}"):
            SelfAttentionEncoder(dim=dim, num_heads=heads)
    with pytest.raises(ConfigError, match="dropout rate: got 1"):
        SelfAttentionEncoder(dropout=1.0)
    for encoder in (SimpleAttention, PoolingEncoder, SelfAttentionEncoder):
        with pytest.raises(ConfigError, match=f"{encoder.__name__}: max_seq_length: got -2"):
            encoder(max_seq_length=-2)
    for windows in ((), (2, 0)):
        with pytest.raises(ConfigError, match=r"windows_len: got .*expected one positive number of steps a window"):
            MultiWindowDINEncoder(windows_len=windows, attn_mlp=MLP)
    wide = MultiWindowDINEncoder(windows_len=(1,), attn_mlp=MLP)
    for call in (wide.output_dim, lambda q, k: wide.init(key(0), q, k)):
        with pytest.raises(ConfigError, match=r"query_dim > sequence_dim not supported yet\."):
            call(4, 3)
    params, state = made(wide)
    query, keys, n = history([2, 1])
    with pytest.raises(ShapeError, match="got steps of 4 components, expected 3 components a step"):
        wide.apply(params, query, torch.cat([keys, keys[..., :1]], dim=-1), n, state)
    with pytest.raises(ShapeError, match=r"lengths \(1,\)"):
        wide.apply(params, query, keys, n[:1], state)
