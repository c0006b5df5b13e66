"""Laws of DIN's attention: the slow loop, what must not matter, the jagged form, the statistics of its norms."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensordict import TensorDict
from torch import Tensor
from torch.func import grad, hessian, vmap

from funcrec.core.errors import ConfigError, KeyMissingError, ShapeError
from funcrec.core.ragged import Ragged
from funcrec.core.random import fold_in, key, permutation
from funcrec.core.tree import leaves, map_leaves, paths
from funcrec.layers.din_attention import DINEncoder, din_attention, din_attention_weights
from funcrec.layers.din_jagged import din_attention_jagged, din_attention_weights_jagged
from funcrec.layers.linear import linear
from funcrec.layers.mlp import MLPConfig, mlp
from tests.layers.cases import F64, jitter, noise, positive

MLPS = {
    "relu": MLPConfig(hidden_units=(4, 3)),
    "no_bias": MLPConfig(hidden_units=(3,), activation="nn.Tanh", bias=False),
    "ln": MLPConfig(hidden_units=(3,), use_ln=True, activation="nn.PReLU"),
    "bn_dice": MLPConfig(hidden_units=(4, 2), use_bn=True, activation="Dice"),
}
each_mlp = pytest.mark.parametrize("name", MLPS)
lengths_lists = st.lists(st.integers(0, 4), min_size=1, max_size=5)
configs = st.builds(
    lambda name, softmax, cut: DINEncoder(attn_mlp=MLPS[name], softmax=softmax, max_seq_length=cut),
    st.sampled_from(sorted(MLPS)),
    st.booleans(),
    st.sampled_from([0, 1, 3, 9]),
)


def made(config: DINEncoder, query_dim: int = 3, dim: int = 3) -> tuple[TensorDict, TensorDict]:
    params, state = config.init(key(0), query_dim, dim, F64)
    return jitter(params), positive(jitter(state))


def history(lengths: list[int], steps: int = 4, dim: int = 3, padding: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """(query, keys, lengths); the real steps are the same for every ``steps`` and ``padding``."""
    keys = torch.full((len(lengths), steps, dim), padding, dtype=F64)
    for b, n in enumerate(lengths):
        keys[b, :n] = noise(b + 1, 4, dim)[:n]
    return noise(99, len(lengths), dim), keys, torch.tensor(lengths)


def ragged(keys: Tensor, lengths: Tensor) -> Ragged:
    return Ragged.from_lengths(keys[torch.arange(keys.shape[1]) < lengths[:, None]], lengths)


def shuffled(keys: Tensor, lengths: list[int], seed: int) -> tuple[Tensor, Tensor]:
    """The real steps of each row in another order, and that order; padding stays where it is."""
    order = torch.arange(keys.shape[1]).repeat(len(lengths), 1)
    for b, n in enumerate(lengths):
        order[b, :n] = permutation(fold_in(key(seed), b), n) if n else order[b, :0]
    return keys.take_along_dim(order[..., None], 1), order


def joined(query: Tensor, step: Tensor) -> Tensor:
    return torch.cat([query, step, query - step, query * step], dim=-1)


def slow(params: TensorDict, query: Tensor, keys: Tensor, lengths: Tensor, state: TensorDict, config: DINEncoder):
    out = []
    for q, history_, n in zip(query, keys, lengths.tolist(), strict=True):
        y = torch.zeros_like(history_[0])
        cut = min(n, config.max_seq_length or n)
        if cut:
            hidden = [mlp(params["mlp"], joined(q, k), state["mlp"], config.attn_mlp)[0] for k in history_[:cut]]
            weights = torch.cat([linear(params["linear"], h) for h in hidden])
            weights = weights.softmax(0) if config.softmax else weights
            y = sum(w * k for w, k in zip(weights, history_, strict=False))
        out.append(y)
    return torch.stack(out)


@given(lengths_lists, configs)
def test_both_forms_are_the_loop(lengths: list[int], config: DINEncoder) -> None:
    params, state = made(config)
    query, keys, n = history(lengths)
    expected = slow(params, query, keys, n, state, config)
    y, kept = din_attention(params, query, keys, n, state, config)
    torch.testing.assert_close(y, expected)
    assert kept is state
    torch.testing.assert_close(din_attention_jagged(params, query, ragged(keys, n), state, config)[0], expected)


@given(lengths_lists, st.integers(4, 7), configs, st.booleans())
def test_padding_does_not_matter(lengths: list[int], steps: int, config: DINEncoder, train: bool) -> None:
    """Neither its content nor how much of it there is: not for the output, its gradients, or the statistics."""
    params, state = made(config)

    def results(query: Tensor, keys: Tensor, n: Tensor) -> tuple[list[Tensor], Tensor]:
        def loss(p: TensorDict, x: Tensor) -> tuple[Tensor, tuple[Tensor, TensorDict]]:
            y, new = din_attention(p, query, x, n, state, config, train=train)
            return (y * noise(5, *y.shape)).sum(), (y, new)

        (d_params, d_keys), (y, new) = grad(loss, argnums=(0, 1), has_aux=True)(params, keys)
        return [y, *leaves(new), *leaves(d_params), d_keys[:, :4]], d_keys

    got, d_keys = results(*history(lengths, steps, padding=torch.nan))
    torch.testing.assert_close(got, results(*history(lengths))[0])
    assert (d_keys[torch.arange(steps) >= torch.tensor(lengths)[:, None]] == 0).all()


@given(lengths_lists, configs, st.booleans())
def test_jagged_is_padded(lengths: list[int], config: DINEncoder, train: bool) -> None:
    """Outputs, weights, new statistics and gradients, batch norms in training included."""
    params, state = made(config)
    query, keys, n = history(lengths)
    rows, real = ragged(keys, n), torch.arange(4) < n[:, None]
    y, new = din_attention(params, query, keys, n, state, config, train=train)
    z, moved = din_attention_jagged(params, query, rows, state, config, train=train)
    torch.testing.assert_close([z, *leaves(moved)], [y, *leaves(new)])
    weights, _ = din_attention_weights(params, query, keys, n, state, config, train=train)
    flat, _ = din_attention_weights_jagged(params, query, rows, state, config, train=train)
    steps = weights.shape[1]
    kept = torch.arange(len(flat)) - rows.offsets[rows.segments()] < steps
    torch.testing.assert_close(flat[kept], weights[real[:, :steps]])
    assert (flat[~kept] == 0).all()

    def padded_loss(p: TensorDict, q: Tensor, v: Tensor) -> Tensor:
        x = torch.zeros_like(keys).masked_scatter(real[..., None], v)
        return din_attention(p, q, x, n, state, config, train=train)[0].sin().sum()

    def jagged_loss(p: TensorDict, q: Tensor, v: Tensor) -> Tensor:
        return din_attention_jagged(p, q, Ragged(v, rows.offsets), state, config, train=train)[0].sin().sum()

    a, b = (grad(f, argnums=(0, 1, 2))(params, query, rows.values) for f in (padded_loss, jagged_loss))
    torch.testing.assert_close([*leaves(a[0]), *a[1:]], [*leaves(b[0]), *b[1:]])


@each_mlp
@given(lengths=lengths_lists, seed=st.integers(0, 99), softmax=st.booleans(), train=st.booleans())
def test_the_order_of_the_steps_does_not_matter(
    name: str, lengths: list[int], seed: int, softmax: bool, train: bool
) -> None:
    """Of the real ones, in either form: the weights move with them, and nothing else changes."""
    config = DINEncoder(attn_mlp=MLPS[name], softmax=softmax)
    params, state = made(config)
    query, keys, n = history(lengths)
    mixed, order = shuffled(keys, lengths, seed)
    y, new = din_attention(params, query, keys, n, state, config, train=train)
    z, moved = din_attention(params, query, mixed, n, state, config, train=train)
    torch.testing.assert_close([z, *leaves(moved)], [y, *leaves(new)])
    z, moved = din_attention_jagged(params, query, ragged(mixed, n), state, config, train=train)
    torch.testing.assert_close([z, *leaves(moved)], [y, *leaves(new)])
    weights, _ = din_attention_weights(params, query, keys, n, state, config, train=train)
    permuted, _ = din_attention_weights(params, query, mixed, n, state, config, train=train)
    torch.testing.assert_close(permuted, weights.take_along_dim(order, 1))


@each_mlp
@given(real=st.lists(st.booleans(), min_size=1, max_size=5), steps=st.integers(1, 3), train=st.booleans())
def test_one_step_is_returned_and_no_step_is_zero(name: str, real: list[bool], steps: int, train: bool) -> None:
    """Whatever the scores: what the softmax has one choice of has the weight 1."""
    config = DINEncoder(attn_mlp=MLPS[name])
    params, state = made(config)
    query, keys, n = history([int(one) for one in real], 4)
    expected = keys[:, 0] * n[:, None]
    y, _ = din_attention(params, query, keys[:, :steps], n, state, config, train=train)
    torch.testing.assert_close(y, expected)
    assert (y[n == 0] == 0).all()
    single = Ragged.from_lengths(keys[n > 0, 0], n)
    torch.testing.assert_close(din_attention_jagged(params, query, single, state, config, train=train)[0], expected)


@given(lengths_lists, st.integers(1, 3), st.booleans(), st.booleans(), st.sampled_from([torch.nan, torch.inf, 1e300]))
def test_what_is_cut_has_no_effect_in_either_form(
    lengths: list[int], cut: int, softmax: bool, train: bool, poison: float
) -> None:
    """Outputs, statistics and every gradient are those of histories that end at the cut; a cut step itself has none."""
    config = DINEncoder(attn_mlp=MLPS["bn_dice"], softmax=softmax, max_seq_length=cut)
    params, state = made(config)
    query, keys, n = history(lengths)
    past = torch.arange(4) >= cut
    bad = torch.where(past[:, None], poison, keys)
    real = torch.arange(4) < n[:, None]

    def results(form: str, x: Tensor, m: Tensor) -> tuple[list[Tensor], Tensor]:
        def loss(p: TensorDict, q: Tensor, v: Tensor) -> tuple[Tensor, tuple[Tensor, TensorDict]]:
            if form == "padded":
                y, new = din_attention(p, q, v, m, state, config, train=train)
            else:
                y, new = din_attention_jagged(p, q, ragged(v, m), state, config, train=train)
            return y.sin().sum(), (y, new)

        (d_params, d_query, d_keys), (y, new) = grad(loss, argnums=(0, 1, 2), has_aux=True)(params, query, x)
        return [y, *leaves(new), *leaves(d_params), d_query], d_keys

    expected, d_expected = results("padded", keys[:, :cut], n.clamp(max=cut))
    for form in ("padded", "jagged"):
        got, d_keys = results(form, bad, n)
        torch.testing.assert_close(got, expected)
        torch.testing.assert_close(d_keys[:, :cut], d_expected)
        assert (d_keys[past & real] == 0).all()


@given(lengths_lists, st.integers(0, 3), st.sampled_from([1e5, 1e8]), st.integers(0, 99))
def test_the_gradient_of_a_step_that_would_score_far_higher_but_is_cut(
    lengths: list[int], cut: int, scale: float, seed: int
) -> None:
    """A history so loud that its steps score far below an empty one: both forms agree, and nothing overflows."""
    config = DINEncoder(attn_mlp=MLPConfig(hidden_units=(3,), activation=None), max_seq_length=cut)
    params, state = config.init(key(seed), 3, 3, F64)
    query, keys, n = history(lengths)
    rows, real = ragged(scale * keys, n), torch.arange(4) < n[:, None]

    def padded(p: TensorDict, v: Tensor) -> Tensor:
        x = torch.zeros_like(keys).masked_scatter(real[..., None], v)
        return (din_attention(p, query, x, n, state, config)[0] / scale).sin().sum()

    def jagged(p: TensorDict, v: Tensor) -> Tensor:
        return (din_attention_jagged(p, query, Ragged(v, rows.offsets), state, config)[0] / scale).sin().sum()

    a, b = (grad(f, argnums=(0, 1))(params, rows.values) for f in (padded, jagged))
    assert all(x.isfinite().all() for x in (*leaves(b[0]), b[1]))
    torch.testing.assert_close([*leaves(b[0]), b[1]], [*leaves(a[0]), a[1]])


@given(lengths_lists, st.sampled_from([-1e6, -1e5, 1e6]), st.sampled_from([0, 2]))
def test_a_level_that_all_scores_share_does_not_matter(lengths: list[int], level: float, cut: int) -> None:
    """However far below zero: padding is below it still, and the largest score of a row is one of its own."""
    config = DINEncoder(attn_mlp=MLPS["no_bias"], max_seq_length=cut)
    params, state = made(config)
    query, keys, n = history(lengths)
    lifted = params.clone()
    lifted["linear", "bias"] = params["linear", "bias"] + level
    weights, _ = din_attention_weights(params, query, keys, n, state, config)
    shifted, _ = din_attention_weights(lifted, query, keys, n, state, config)
    torch.testing.assert_close(shifted, weights, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(shifted.sum(1), (n > 0).to(F64))
    flat, _ = din_attention_weights_jagged(lifted, query, ragged(keys, n), state, config)
    mask = torch.arange(weights.shape[1]) < n[:, None]
    torch.testing.assert_close(flat[flat > 0], weights[mask], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_long_history_in_half_precision_is_summed_in_single(dtype: torch.dtype) -> None:
    """So many equal steps overflow the sum of a float16 softmax, and stop that of a bfloat16 one."""
    config = DINEncoder(attn_mlp=MLPS["relu"])
    params, state = made(config)
    steps = 70_000
    query, keys, n = noise(1, 2, 3), noise(2, 2, 1, 3).expand(2, steps, 3), torch.tensor([steps, 3])
    low = map_leaves(lambda x: x.to(dtype), params)
    rows = ragged(keys.to(dtype), n)
    weights, _ = din_attention_weights_jagged(low, query.to(dtype), rows, state, config)
    torch.testing.assert_close(weights[:steps].float().sum(), torch.tensor(1.0), rtol=0.01, atol=0)
    y, _ = din_attention_jagged(low, query.to(dtype), rows, state, config)
    assert y.dtype == dtype
    torch.testing.assert_close(y.to(F64), keys[:, 0], rtol=0.02, atol=0.01)


@given(lengths_lists, configs)
def test_weights_sum_to_one_over_real_steps(lengths: list[int], config: DINEncoder) -> None:
    config = replace(config, softmax=True)
    params, state = made(config)
    query, keys, n = history(lengths)
    weights, _ = din_attention_weights(params, query, keys, n, state, config)
    torch.testing.assert_close(weights.sum(1), (n > 0).to(F64))
    assert (weights >= 0).all()
    assert (weights[torch.arange(weights.shape[1]) >= n[:, None]] == 0).all()
    flat, _ = din_attention_weights_jagged(params, query, ragged(keys, n), state, config)
    assert (flat >= 0).all()
    torch.testing.assert_close(flat.sum(), (n > 0).sum().to(F64))


def test_without_softmax_the_weights_are_the_scores() -> None:
    """They keep how strong an interest is: twice the head, twice the output."""
    config = DINEncoder(attn_mlp=MLPS["relu"], softmax=False)
    params, state = made(config)
    query, keys, n = history([3, 1])
    y, _ = din_attention(params, query, keys, n, state, config)
    doubled = params.clone()
    doubled["linear"] = map_leaves(lambda x: 2 * x, params["linear"])
    torch.testing.assert_close(din_attention(doubled, query, keys, n, state, config)[0], 2 * y)


def test_a_softmax_does_not_see_the_bias_that_all_scores_share() -> None:
    for softmax in (True, False):
        config = DINEncoder(attn_mlp=MLPS["relu"], softmax=softmax)
        params, state = made(config)
        query, keys, n = history([3, 2])
        d = grad(lambda p: din_attention(p, query, keys, n, state, config)[0].sin().sum())(params)  # noqa: B023
        assert bool(d["linear", "bias"].abs() < 1e-14) is softmax


@pytest.mark.parametrize("padded", [False, True])
@given(lengths=st.lists(st.integers(0, 4), min_size=2, max_size=5).filter(lambda n: sum(n) > 1))
def test_batch_statistics_are_those_of_the_real_steps_or_of_all(padded: bool, lengths: list[int]) -> None:
    """In training: the concatenated input of the steps that count, through the MLP as one batch of rows."""
    config = DINEncoder(attn_mlp=MLPS["bn_dice"], padding_in_statistics=padded)
    params, state = made(config)
    query, keys, n = history(lengths)
    real = torch.arange(4) < n[:, None]
    rows = joined(query[:, None].expand_as(keys), keys)
    counted = torch.ones_like(real) if padded else real
    hidden, moved = mlp(params["mlp"], rows[counted], state["mlp"], config.attn_mlp, train=True)
    scores = torch.full(real.shape, -torch.inf, dtype=F64)
    scores[counted] = linear(params["linear"], hidden)[:, 0]
    weights = scores.masked_fill(~real, -torch.inf).softmax(1).nan_to_num(0.0)
    y, new = din_attention(params, query, keys, n, state, config, train=True)
    torch.testing.assert_close(y, torch.einsum("bt,btd->bd", weights, keys))
    assert paths(new["mlp"]) == paths(moved)
    torch.testing.assert_close(leaves(new["mlp"]), leaves(moved))


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("steps", [0, 2])
def test_batches_without_any_history_leave_the_statistics_alone(padded: bool, steps: int) -> None:
    config = DINEncoder(attn_mlp=MLPS["bn_dice"], padding_in_statistics=padded)
    params, state = made(config)
    keys, n = torch.zeros(3, steps, 3, dtype=F64), torch.zeros(3, dtype=torch.int64)
    y, new = din_attention(params, noise(1, 3, 3), keys, n, state, config, train=True)
    assert torch.equal(y, torch.zeros(3, 3, dtype=F64))
    if not (padded and steps):
        torch.testing.assert_close(leaves(new), leaves(state), rtol=0, atol=0)
    assert all(x.isfinite().all() for x in leaves(new))


@given(st.integers(1, 5))
def test_truncation_is_cutting(cut: int) -> None:
    config = DINEncoder(attn_mlp=MLPS["relu"], max_seq_length=cut)
    params, state = made(config)
    query, keys, n = history([4, 2, 0, 1])
    expected, _ = din_attention(
        params, query, keys[:, :cut], n.clamp(max=cut), state, replace(config, max_seq_length=0)
    )
    torch.testing.assert_close(din_attention(params, query, keys, n, state, config)[0], expected)


@pytest.mark.parametrize("query_dim", [1, 2])
def test_a_short_query_is_padded_on_its_right(query_dim: int) -> None:
    config = DINEncoder(attn_mlp=MLPS["relu"])
    params, state = made(config, query_dim)
    query, keys, n = history([4, 2])
    wide = torch.cat([query[:, :query_dim], torch.zeros(2, 3 - query_dim, dtype=F64)], dim=1)
    expected = din_attention(params, wide, keys, n, state, config)[0]
    torch.testing.assert_close(din_attention(params, query[:, :query_dim], keys, n, state, config)[0], expected)
    torch.testing.assert_close(
        din_attention_jagged(params, query[:, :query_dim], ragged(keys, n), state, config)[0], expected
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", ["relu", "bn_dice"])
def test_low_precision_stays_finite_and_close(dtype: torch.dtype, name: str) -> None:
    config = DINEncoder(attn_mlp=MLPS[name])
    params, state = made(config)
    query, keys, n = history([4, 0, 1, 2])
    low = map_leaves(lambda x: x.to(dtype), params)

    def loss(p: TensorDict, x: Tensor) -> Tensor:
        return din_attention(p, query.to(dtype), x, n, state.float(), config, train=True)[0].float().square().sum()

    y, _ = din_attention(low, query.to(dtype), keys.to(dtype), n, state.float(), config)
    assert y.dtype == dtype
    expected = din_attention(params, query, keys, n, state, config)[0]
    torch.testing.assert_close(y.to(F64), expected, rtol=0.05, atol=0.05)
    d_params, d_keys = grad(loss, argnums=(0, 1))(low, keys.to(dtype))
    assert all(x.isfinite().all() for x in (*leaves(d_params), d_keys))
    z, _ = din_attention_jagged(low, query.to(dtype), ragged(keys.to(dtype), n), state.float(), config)
    assert z.dtype == dtype
    torch.testing.assert_close(z.to(F64), expected, rtol=0.05, atol=0.05)


def test_large_scores_do_not_overflow() -> None:
    config = DINEncoder(attn_mlp=MLPConfig(hidden_units=(3,), activation=None))
    params, state = made(config)
    query, keys, n = history([4, 2])
    loud = map_leaves(lambda x: 1e4 * x, params)
    for y in (
        din_attention(loud, query, keys, n, state, config)[0],
        din_attention_jagged(loud, query, ragged(keys, n), state, config)[0],
    ):
        assert y.isfinite().all()
        chosen = din_attention_weights(loud, query, keys, n, state, config)[0].argmax(1)
        torch.testing.assert_close(y, keys[torch.arange(2), chosen])


def test_rows_by_vmap_are_the_batch_and_curvature_is_finite() -> None:
    config = DINEncoder(attn_mlp=MLPS["no_bias"])
    params, state = made(config)
    query, keys, n = history([4, 0, 1])
    one = lambda q, k, m: din_attention(params, q[None], k[None], m[None], state, config)[0][0]  # noqa: E731
    torch.testing.assert_close(vmap(one)(query, keys, n), din_attention(params, query, keys, n, state, config)[0])
    assert vmap(hessian(lambda q, k, m: one(q, k, m).sin().sum(), argnums=1))(query, keys, n).isfinite().all()


def test_dropout_needs_a_key() -> None:
    config = DINEncoder(attn_mlp=MLPConfig(hidden_units=(30,), dropout=0.5))
    params, state = made(config)
    arguments = (params, *history([4, 2]), state, config)
    with pytest.raises(KeyMissingError):
        din_attention(*arguments, train=True)
    a, b = (din_attention(*arguments, key=key(s), train=True)[0] for s in (0, 1))
    assert not torch.equal(a, b)
    assert torch.equal(a, din_attention(*arguments, key=key(0), train=True)[0])


def test_errors_name_what_is_wrong() -> None:
    config = DINEncoder(attn_mlp=MLPS["relu"])
    for call in (config.output_dim, lambda q, k: config.init(key(0), q, k)):
        with pytest.raises(ConfigError, match=r"query of 4 .*steps of 3; query_dim > sequence_dim not supported yet\."):
            call(4, 3)
        with pytest.raises(ConfigError, match=r"query_dim: got 0, expected a query.*pooling, self-attention"):
            call(0, 3)
    assert config.output_dim(2, 3) == 3
    with pytest.raises(ConfigError, match="DINEncoder: max_seq_length: got -1"):
        DINEncoder(attn_mlp=MLPS["relu"], max_seq_length=-1)
    params, state = made(config)
    query, keys, n = history([4, 2])
    with pytest.raises(ShapeError, match=r"history: got keys \(2, 3\), lengths \(2,\), expected keys \[B, T, D\]"):
        din_attention(params, query, keys[:, 0], n, state, config)
    with pytest.raises(ShapeError, match=r"lengths \(1,\)"):
        din_attention(params, query, keys, n[:1], state, config)
    with pytest.raises(ShapeError, match="got steps of 2 components, expected 3 components a step"):
        din_attention(params, query[:, :2], keys[..., :2], n, state, config)


@pytest.mark.parametrize("shape", [(1, 3), (2, 4), (2, 0), (3,), (3, 3), (2, 1, 3)])
def test_a_query_is_neither_cut_nor_broadcast(shape: tuple[int, ...]) -> None:
    config = DINEncoder(attn_mlp=MLPS["relu"])
    params, state = made(config)
    _, keys, n = history([4, 2])
    query = torch.zeros(shape, dtype=F64)
    text = r"attention: query: got \(.*expected \[2, 1 to 3\]"
    with pytest.raises(ShapeError, match=text):
        din_attention(params, query, keys, n, state, config)
    with pytest.raises(ShapeError, match=text):
        din_attention_jagged(params, query, ragged(keys, n), state, config)


def test_errors_of_the_jagged_form() -> None:
    config = DINEncoder(attn_mlp=MLPS["bn_dice"])
    params, state = made(config)
    query, keys, n = history([4, 2])
    rows = ragged(keys, n)
    weighted = Ragged(rows.values, rows.offsets, torch.ones(6))
    for wrong in (weighted, Ragged(rows.values[:, 0], rows.offsets)):
        with pytest.raises(ShapeError, match=r"jagged attention: .*expected values \[nnz, D\] without weights"):
            din_attention_jagged(params, query, wrong, state, config)
    padded = replace(config, padding_in_statistics=True)
    din_attention_jagged(params, query, rows, state, padded)
    with pytest.raises(
        ConfigError, match="padding_in_statistics=True, but no padding; set padding_in_statistics=False"
    ):
        din_attention_jagged(params, query, rows, state, padded, train=True)
