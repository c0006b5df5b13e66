"""The training step against plain autograd and torch.optim, and its laws: accumulation, clipping, precision."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from funcrec import optim
from funcrec.core import tree
from funcrec.core.batch import Batch
from funcrec.core.errors import ConfigError, NonFiniteError
from funcrec.core.random import key
from funcrec.embedding import rows
from funcrec.layers.mlp import MLPConfig
from funcrec.losses import bce
from funcrec.train import make_step
from funcrec.train.precision import BACKOFF, FIRST_SCALE
from tests.train.tiny import STORES, data, float64, rows_of, step


def all_weights(ts):
    return [*tree.leaves(ts.params), *tree.leaves(ts.tables["weights"])]


@pytest.mark.parametrize("store", [("dense", "sgd"), ("dense", "adagrad"), ("rowwise", "sgd"), ("rowwise", "adagrad")])
@given(weighted=st.booleans(), cuts=st.lists(st.integers(1, 39), min_size=0, max_size=3, unique=True))
@settings(max_examples=8)
def test_micro_batches_of_any_size_equal_one_batch(store, weighted, cuts):
    optimizers = {"sgd": optim.sgd(0.1), "adagrad": optim.adagrad(0.1)}
    with float64():
        s, whole = step(store, optimizers[store[1]], max_norm=0.5), data(40, weighted=weighted)
        edges = [0, *sorted(cuts), 40]
        parts = [rows_of(whole, a, b) for a, b in itertools.pairwise(edges)]
        one, many = s.init(key(0)), s.init(key(0))
        for _ in range(3):
            one, info = s.train(one, whole)
            many, summed = s.train(many, parts)
            assert summed["loss"] == pytest.approx(info["loss"], rel=1e-12)
            assert summed["grad_norm"] == pytest.approx(info["grad_norm"], rel=1e-12)
    for a, b in zip(all_weights(one), all_weights(many), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("store", [("dense", "adagrad"), ("rowwise", "adagrad")])
def test_four_times_1024_equals_4096(store):
    with float64():
        s, whole = step(store, optim.adagrad(0.1)), data(4096)
        one, _ = s.train(s.init(key(0)), whole)
        four, _ = s.train(s.init(key(0)), [rows_of(whole, i, i + 1024) for i in range(0, 4096, 1024)])
    for a, b in zip(all_weights(one), all_weights(four), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("max_norm", [None, 0.05])
def test_ten_steps_equal_torch_optim_over_everything(max_norm):
    """Dense weights and whole tables as one list of torch parameters, L2 in the loss, one clip over all of them."""
    with float64():
        s = step(("dense", "adam"), optim.adam(0.01), MLPConfig(hidden_units=(6, 4), use_bn=True), max_norm=max_norm)
        ts = s.init(key(0))
        names = tree.paths(ts.params)
        params = [x.clone().requires_grad_() for x in tree.leaves(ts.params)]
        tables = ts.tables["weights"].apply(lambda x: x.clone().requires_grad_())
        state = ts.state
        torch_adam = torch.optim.Adam([*params, *tree.leaves(tables)], lr=0.01)
        for i in range(10):
            batch = data(20, seed=i)
            emb, _ = s.store.lookup({"weights": tables}, batch.ids)
            logits, state = s.model.apply(tree.unflatten(names, params), emb, batch.features, state, train=True)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 0], batch.features["label"])
            loss = loss + sum(0.01 / 2 * w.square().sum() for w in tree.leaves(tables))
            torch_adam.zero_grad()
            loss.backward()
            everything = [*params, *tree.leaves(tables)]
            norm = torch.nn.utils.clip_grad_norm_(everything, max_norm or float("inf"))
            torch_adam.step()
            state = tree.map_leaves(torch.Tensor.detach, state)
            ts, info = s.train(ts, batch)
            if max_norm:
                assert info["grad_norm"] == pytest.approx(float(norm), rel=1e-10)
    for a, b in zip(all_weights(ts), everything, strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=1e-9, atol=1e-11)
    for a, b in zip(tree.leaves(ts.state), tree.leaves(state), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("store", STORES)
def test_the_loss_goes_down(store):
    s, batch = step(store, dtype=torch.float32), data(200, dtype=torch.float32)
    ts, losses = s.init(key(0)), []
    for _ in range(30):
        ts, info = s.train(ts, batch)
        losses.append(info["loss"])
    assert losses[-1] < losses[0] - 0.01
    assert int(ts.step) == 30


def test_prediction_is_deterministic_and_keyless_with_dropout():
    s = step(mlp=MLPConfig(hidden_units=(6,), dropout=0.5), dtype=torch.float32)
    ts, batch = s.init(key(0)), data(10, dtype=torch.float32)
    assert torch.equal(s.predict(ts, batch), s.predict(ts, batch))
    losses = set()
    for _ in range(4):
        ts, info = s.train(ts._replace(params=ts.params.clone(), tables=s.init(key(0)).tables), batch)
        losses.add(info["loss"])
    assert len(losses) == 4, "each step drops other units"


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_follows_float32_and_keeps_weights_in_float32(precision):
    full, mixed = (
        step(("rowwise", "sgd"), optim.sgd(0.1), dtype=torch.float32, precision=p) for p in ("fp32", precision)
    )
    a, b = full.init(key(0)), mixed.init(key(0))
    start = [x.clone() for x in all_weights(a)]
    for i in range(5):
        batch = data(64, seed=i, dtype=torch.float32)
        a, b = full.train(a, batch)[0], mixed.train(b, batch)[0]
    assert all(x.dtype == torch.float32 for x in all_weights(b))
    for x, y, x0 in zip(all_weights(a), all_weights(b), start, strict=True):
        moved = (x - x0).norm()
        assert float((x - y).norm()) < 0.05 * float(moved) + 1e-6, "an unscaled update would differ by the loss scale"


def test_an_fp16_overflow_skips_the_step_for_tables_too():
    s = step(("rowwise", "sgd"), optim.sgd(0.1), dtype=torch.float32, precision="fp16")
    ts = s.init(key(0))
    ts = ts._replace(loss_scale=ts.loss_scale | {"scale": torch.tensor(1e38)})
    before = [x.clone() for x in all_weights(ts)]
    ts, info = s.train(ts, data(64, dtype=torch.float32))
    assert info["skipped"]
    assert all(torch.equal(x, y) for x, y in zip(all_weights(ts), before, strict=True))
    assert float(ts.loss_scale["scale"]) == pytest.approx(1e38 * BACKOFF)
    ts, info = s.train(s.init(key(0)), data(64, dtype=torch.float32))
    assert not info["skipped"]
    assert float(ts.loss_scale["scale"]) == FIRST_SCALE


def poisoned(where):
    s, batch = step(dtype=torch.float32), data(8, dtype=torch.float32)
    ts = s.init(key(0))
    if where == "batch.dense.x":
        batch = Batch(batch.ids, batch.features.clone())
        batch.features["dense", "x"][3] = float("nan")
    elif where == "params.deep.1.linear.weight":
        ts.params["deep"]["1"]["linear"]["weight"][0, 0] = float("inf")
    else:
        ts.tables["weights"]["dim3"].fill_(float("nan"))
    return s, ts, batch


@pytest.mark.parametrize("where", ["batch.dense.x", "params.deep.1.linear.weight", "emb.deep"])
def test_a_loss_that_turns_nan_stops_and_names_the_first_bad_tensor(where):
    s, ts, batch = poisoned(where)
    before = [x.clone() for x in all_weights(ts)]
    with pytest.raises(NonFiniteError, match=rf"step 0: .*first bad tensor: {where.replace('.', '[.]')} \("):
        s.train(ts, batch)
    for x, y in zip(all_weights(ts), before, strict=True):
        torch.testing.assert_close(x, y, equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("max_norm", [None, 0.05])
@pytest.mark.parametrize("store", [("dense", "adam"), ("rowwise", "adagrad")])
def test_without_the_check_the_same_numbers_come_out(store, max_norm, precision):
    batches = [data(30, seed=i, dtype=torch.float32) for i in range(4)]
    results = []
    for check in (True, False):
        s = step(store, dtype=torch.float32, max_norm=max_norm, precision=precision, check_finite=check)
        ts, seen = s.init(key(0)), []
        for batch in [*batches, [rows_of(batches[0], 0, 11), rows_of(batches[0], 11, 30)]]:
            ts, info = s.train(ts, batch)
            seen += [info["loss"], info.get("grad_norm", 0.0)]
        assert all(isinstance(x, float if check else (float, torch.Tensor)) for x in seen)
        results.append((all_weights(ts), [float(x) for x in seen]))
    (checked, said), (free, also) = results
    assert said == also
    assert all(torch.equal(a, b) for a, b in zip(checked, free, strict=True))


class HostReads(TorchDispatchMode):
    """Lists the dtype of every tensor that the host asks for its number: what waits for a GPU."""

    def __init__(self):
        super().__init__()
        self.dtypes = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._local_scalar_dense.default:
            self.dtypes.append(args[0].dtype)
        return function(*args, **(kwargs or {}))


def test_the_host_reads_losses_and_norms_only_to_check_them():
    batch, reads = data(30, dtype=torch.float32), {}
    for check, max_norm in itertools.product((True, False), (None, 0.05)):
        s = step(dtype=torch.float32, check_finite=check, max_norm=max_norm)
        ts = s.init(key(0))
        with HostReads() as mode:
            s.train(ts, batch)
        reads[check, max_norm] = mode.dtypes
    assert torch.float32 in reads[True, None], "the loss"
    assert torch.float32 not in reads[False, None], "what is left are counters and rates, kept on the CPU"
    assert len(reads[True, None]) == len(reads[False, None]) + 1
    assert reads[False, 0.05] == reads[False, None]
    assert len(reads[True, 0.05]) > len(reads[True, None]), "the norm"


@pytest.mark.parametrize("where", ["batch.dense.x", "params.deep.1.linear.weight", "emb.deep"])
def test_without_the_check_a_nan_shows_in_the_loss_and_spreads(where):
    s, ts, batch = poisoned(where)
    free = make_step(s.model, s.store, optim.adam(0.01), bce, check_finite=False)
    ts, info = free.train(ts, batch)
    assert not torch.isfinite(info["loss"])
    assert not any(torch.isfinite(x).any() for x in tree.leaves(ts.params["head"]))


def test_weights_of_zero_leave_no_gradient_in_one_batch_or_several():
    s, batch = step(dtype=torch.float32), data(8, weighted=True, dtype=torch.float32)
    batch.features["weight"].zero_()
    ts = s.init(key(0))
    before = [x.clone() for x in tree.leaves(ts.params)]
    for batches in (batch, [rows_of(batch, 0, 3), rows_of(batch, 3, 8)]):
        ts, info = s.train(ts, batches)
        assert info["loss"] == 0.0
    assert all(torch.equal(x, y) for x, y in zip(tree.leaves(ts.params), before, strict=True))


def test_a_gradient_of_tables_that_overflows_is_named():
    s, batch = step(dtype=torch.float32), data(8, dtype=torch.float32)
    ts = s.init(key(0))

    def overflowing(tables, gradient):
        return rows.scale(s.store.regularize(tables, gradient), float("inf"))

    store = s.store._replace(regularize=overflowing)
    broken = make_step(s.model, store, optim.adam(0.01), bce, max_norm=1.0)
    with pytest.raises(NonFiniteError, match=r"a gradient is not finite.*gradient of tables[.]dim"):
        broken.train(ts, batch)


def test_compiled_step_equals_the_eager_one():
    batch = data(32, dtype=torch.float32)
    mlp = MLPConfig(hidden_units=(6, 4), use_bn=True, dropout=0.3)
    results = []
    for compile in (False, True):
        s = step(("rowwise", "adagrad"), mlp=mlp, dtype=torch.float32, compile=compile, compile_rows=32)
        ts = s.init(key(0))
        for b in (batch, batch, rows_of(batch, 0, 7)):
            ts, _ = s.train(ts, b)
        results.append(all_weights(ts))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_bad_options_are_named():
    with pytest.raises(ConfigError, match="precision: got 'fp8'"):
        step(precision="fp8")
    with pytest.raises(ConfigError, match="max_norm: got 0"):
        step(max_norm=0)
    with pytest.raises(ConfigError, match="check_finite: got False under fp16"):
        step(precision="fp16", check_finite=False)
