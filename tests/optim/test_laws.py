"""Laws of every optimizer value: purity, donation, plain states, stacking, layouts, torch.func, errors."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from funcrec.core.errors import ConfigError, ShapeError
from funcrec.optim import (
    Optimizer,
    adadelta,
    adagrad,
    adam,
    adamw,
    apply_updates,
    chain,
    lamb,
    rmsprop,
    set_scale,
    sgd,
)
from tests.optim.cases import ALL, COMPOSED, PATHS, RULES, SHAPES, close, draw, tensors, trajectory


@pytest.mark.parametrize("name", ALL)
def test_update_and_step_write_nothing(name: str) -> None:
    optimizer, leaves, grads = ALL[name](), draw(0), draw(1)
    state = optimizer.init(leaves, PATHS)
    _, state = optimizer.update(grads, state, leaves)
    before = copy.deepcopy((leaves, grads, tensors(state)))
    for f in (optimizer.update, optimizer.step):
        results, new = f(grads, state, leaves)
        close(tensors([leaves, grads, tensors(state)]), tensors(list(before)), tol=0.0)
        fresh = {t.data_ptr() for t in results if t.numel()}
        assert fresh.isdisjoint(t.data_ptr() for t in [*leaves, *grads, *tensors(state)])
        assert {t.data_ptr() for t in tensors(new) if t.numel()}.isdisjoint(g.data_ptr() for g in grads)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_donated_steps_give_the_same_numbers_in_the_same_memory(name: str, dtype: torch.dtype) -> None:
    optimizer, pure, donated = ALL[name](), draw(0, dtype=dtype), draw(0, dtype=dtype)
    memory = [w.data_ptr() for w in donated]
    s, d = optimizer.init(pure, PATHS), optimizer.init(donated, PATHS)
    tol = 2e-5 if dtype == torch.float32 else 1e-12
    for i in range(5):
        grads = draw(i + 1, dtype=dtype)
        kept = [g.clone() for g in grads]
        pure, s = optimizer.step(grads, s, pure)
        donated, d = optimizer.step(grads, d, donated, donate=True)
        close(donated, pure, tol)
        close(tensors(d), tensors(s), tol)
        close(grads, kept, tol=0.0)
    assert [w.data_ptr() for w in donated] == memory


@pytest.mark.parametrize("name", ALL)
def test_step_is_update_then_add(name: str) -> None:
    optimizer, leaves, grads = ALL[name](), draw(0), draw(1)
    state = optimizer.init(leaves, PATHS)
    updates, a = optimizer.update(grads, state, leaves)
    new, b = optimizer.step(grads, state, leaves)
    close(new, apply_updates(leaves, updates), tol=0.0)
    close(tensors(a), tensors(b), tol=0.0)


@pytest.mark.parametrize("name", ALL)
def test_a_saved_state_resumes_exactly(name: str) -> None:
    optimizer, leaves = ALL[name](), draw(0)
    state = optimizer.init(leaves, PATHS)
    leaves, state = optimizer.step(draw(1), state, leaves)
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    a, _ = optimizer.step(draw(2), state, leaves)
    b, _ = optimizer.step(draw(2), loaded, leaves)
    close(a, b, tol=0.0)


@pytest.mark.parametrize("donate", [False, True], ids=["pure", "donate"])
@pytest.mark.parametrize("name", ["lamb_members", *(n for n in RULES if n != "lamb")])
def test_stacked_members_equal_each_member_alone(name: str, donate: bool) -> None:
    def make(batch_dims: int) -> Optimizer:
        return lamb(0.05, weight_decay=0.1, batch_dims=batch_dims) if name == "lamb_members" else RULES[name]()

    members = [draw(seed) for seed in range(3)]
    stacked = [torch.stack(ws) for ws in zip(*members, strict=True)]
    together, state = stacked, make(1).init(stacked, PATHS)
    states = [make(0).init(m, PATHS) for m in members]
    for i in range(3):
        grads = [draw(10 * i + j + 50) for j in range(3)]
        column = [torch.stack(gs) for gs in zip(*grads, strict=True)]
        together, state = make(1).step(column, state, together, donate=donate)
        for j in range(3):
            members[j], states[j] = make(0).step(grads[j], states[j], members[j])
    close(together, [torch.stack(ws) for ws in zip(*members, strict=True)])


def test_lamb_without_batch_dims_ties_stacked_members() -> None:
    w, g = torch.tensor([[1.0], [100.0]]), torch.ones(2, 1)
    tied, _ = lamb(0.1).update([g], lamb(0.1).init([w], ["w"]), [w])
    own, _ = lamb(0.1, batch_dims=1).update([g], lamb(0.1).init([w], ["w"]), [w])
    assert tied[0][0] == tied[0][1]
    torch.testing.assert_close(own[0], -0.1 * w)


@pytest.mark.parametrize("name", ["momentum", "adam_l2", "adamw", "adagrad", "clipped"])
def test_gradients_of_any_layout_are_read_in_the_right_order(name: str) -> None:
    """Fused kernels walk memory; transposed, expanded and sliced gradients must not change the numbers."""
    leaves = draw(0, [(4, 3), (5, 1), (3, 2)])
    odd = [draw(1, [(3, 4)])[0].t(), draw(2, [(1, 1)])[0].expand(5, 1), draw(3, [(3, 5)])[0][:, ::3]]
    assert [g.is_contiguous() for g in odd] == [False, False, False]
    plain = [g.clone(memory_format=torch.contiguous_format) for g in odd]
    optimizer = ALL[name]()
    expected, _ = optimizer.step(plain, optimizer.init(leaves, PATHS[:3]), leaves)
    got, _ = optimizer.step(odd, optimizer.init(leaves, PATHS[:3]), leaves, donate=True)
    close(got, expected)


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam", "adamw", "adagrad"])
@pytest.mark.parametrize("odd", ["sliced leaf", "transposed slots", "two dtypes"])
def test_leaves_and_slots_of_any_layout_take_the_same_steps(name: str, odd: str) -> None:
    """What fused kernels would misread or refuse."""
    first, second = draw(0, [(6, 4), (3, 4)])
    leaves = [first[::2] if odd == "sliced leaf" else first[:3], second.float() if odd == "two dtypes" else second]
    optimizer, plain = RULES[name](), [w.clone(memory_format=torch.contiguous_format) for w in leaves]
    memory = [w.data_ptr() for w in leaves]
    s, d = optimizer.init(plain, PATHS[:2]), optimizer.init(leaves, PATHS[:2])
    for i in range(3):
        if odd == "transposed slots":
            d["slots"] = {n: [x.t().contiguous().t() for x in slot] for n, slot in d["slots"].items()}
        grads = [g.to(w.dtype) for g, w in zip(draw(i + 1, [(3, 4), (3, 4)]), plain, strict=True)]
        plain, s = optimizer.step(grads, s, plain)
        leaves, d = optimizer.step(grads, d, leaves, donate=True)
    close(leaves, plain, tol=1e-6)
    close(tensors(d), tensors(s), tol=1e-6)
    assert [w.data_ptr() for w in leaves] == memory


@pytest.mark.parametrize("name", RULES)
def test_updates_go_through_vmap_and_grad(name: str) -> None:
    """Two inner steps are differentiable, and mapped over tasks they equal the loop over tasks."""
    optimizer, (w, x) = RULES[name](), draw(0, [(4,), (3, 5, 4)])

    def after_two_steps(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        leaves, state = [w], optimizer.init([w], ["w"])
        for _ in range(2):
            g = torch.func.grad(lambda v: (x @ v).square().mean() + (x @ v).sum())(leaves[0])
            leaves, state = optimizer.step([g], state, leaves)
        return leaves[0].pow(3).sum()

    outer = torch.func.grad(after_two_steps)
    mapped = torch.vmap(outer, in_dims=(None, 0))(w, x)
    close([mapped], [torch.stack([outer(w, task) for task in x])])
    assert torch.autograd.gradcheck(lambda v: after_two_steps(v, x[0]), (w.clone().requires_grad_(),))


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(sorted(ALL)), st.floats(0.0, 3.0), st.booleans())
def test_scale_multiplies_every_learning_rate_wherever_it_is(name: str, scale: float, donate: bool) -> None:
    optimizer, leaves, grads = ALL[name](), draw(0), draw(1)
    state = optimizer.init(leaves, PATHS)
    updates, _ = optimizer.update(grads, state, leaves)
    scaled = set_scale(set_scale(state, 7.0), scale)
    expected = [w + scale * u for w, u in zip(leaves, updates, strict=True)]
    got, after = optimizer.step(grads, scaled, [w.clone() for w in leaves], donate=donate)
    close(got, expected)
    twice, _ = optimizer.update(grads, set_scale(after, 0.0), got)
    assert all(not u.any() for u in twice)


@pytest.mark.parametrize("name", [n for n in ALL if n not in COMPOSED])
@pytest.mark.parametrize("donate", [False, True])
def test_no_leaves_is_no_work(name: str, donate: bool) -> None:
    optimizer = ALL[name]()
    leaves, state = optimizer.step([], optimizer.init([], []), [], donate=donate)
    assert leaves == []
    assert int(state["step"]) == 1


def test_the_first_step_reads_the_schedule_at_zero() -> None:
    seen: list[int] = []

    def schedule(k: int) -> float:
        seen.append(k)
        return 0.1

    trajectory(adam(schedule), draw(0), 2)
    trajectory(adam(schedule), draw(0), 2, donate=True)
    assert seen == [0, 1, 0, 1]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("donate", [False, True])
def test_gradients_that_do_not_match_their_leaf_raise(name: str, donate: bool) -> None:
    optimizer, leaves = ALL[name](), draw(0)
    state = optimizer.init(leaves, PATHS)
    short = draw(1)[:-1]
    broadcastable = draw(1, [(4,), *SHAPES[1:]])
    wrong_dtype = [draw(1)[0].float(), *draw(1)[1:]]
    for bad in (short, broadcastable, wrong_dtype):
        with pytest.raises(ShapeError, match="gradient"):
            optimizer.step(bad, state, leaves, donate=donate)


def test_a_state_of_other_leaves_raises() -> None:
    optimizer = adam(0.1)
    state = optimizer.init(draw(0, [(4,)]), ["w"])
    for donate in (False, True):
        with pytest.raises(ShapeError, match="slots: got 1 tensors, expected 2"):
            optimizer.step(draw(1, [(4,), (4,)]), state, draw(0, [(4,), (4,)]), donate=donate)
        with pytest.raises(ShapeError, match=r"slot 0.*\(4,\).*\(3, 4\)"):
            optimizer.step(draw(1, [(3, 4)]), state, draw(0, [(3, 4)]), donate=donate)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sgd(-0.1), "sgd: learning_rate: got -0.1"),
        (lambda: sgd(float("nan")), "learning_rate: got nan"),
        (lambda: sgd(0.1, nesterov=True), "nesterov: got momentum 0.0"),
        (lambda: sgd(0.1, 0.9, dampening=0.1, nesterov=True), "dampening 0.1"),
        (lambda: adam(0.1, (1.0, 0.9)), "adam: beta1: got 1.0"),
        (lambda: adamw(0.1, eps=0.0), "adamw: eps: got 0.0"),
        (lambda: adagrad(0.1, initial_accumulator=-1.0), "initial_accumulator"),
        (lambda: lamb(0.1, weight_decay=float("inf")), "lamb: weight_decay: got inf"),
        (lambda: rmsprop(0.1, 1.0), "rmsprop: alpha: got 1.0"),
        (lambda: rmsprop(0.1, eps=0.0), "rmsprop: eps: got 0.0"),
        (lambda: adadelta(rho=-0.1), "adadelta: rho: got -0.1"),
        (lambda: adadelta(-1.0), "adadelta: learning_rate: got -1.0"),
        (lambda: chain(), "chain"),
        (lambda: chain(sgd(0.1), adam(0.1)), "put the optimizer last"),
        (lambda: set_scale({"mask": torch.ones(1)}, 1.0), "without any learning rate"),
        (lambda: set_scale({"scale": {"ids": torch.ones(1)}}, 1.0), "without any learning rate"),  # a table's name
        (lambda: set_scale(adam(0.1).init([], []), float("nan")), "scale: got nan"),
    ],
)
def test_bad_settings_raise_by_name(make, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
