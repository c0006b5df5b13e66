"""One contract for every model: pure, independent across rows in evaluation, closed under the transforms.

``test_contract_state.py`` holds the part of it about running statistics and checkpoints, ``test_contract_compiled.py``
what takes seconds a model: torch.compile and torch.export.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import grad, jvp, vmap

from funcrec.core import tree
from funcrec.core.errors import KeyMissingError
from funcrec.core.random import key, normal, split
from tests.models.cases import inputs, weights
from tests.models.table import CASES, REACHED

# A bias that all scores of a softmax share changes none of its weights.
WITHOUT_SLOPE = {"din_softmax": ("interests.0.linear.bias", "interests.1.key.bias")}
every_model = pytest.mark.parametrize("name", CASES)


def setup(name, batch=4, seed=0):
    model = CASES[name].model()
    return model, *weights(model), *inputs(model, batch, seed)


def scalar(model, state, features, k=None, train=False):
    """A smooth scalar of the logits."""

    def f(params, emb):
        logits, _ = model.apply(params, emb, features, state, key=k, train=train)
        return torch.sin(logits).sum()

    return f


@every_model
@given(batch=st.integers(2, 5))
def test_shapes_and_purity(name, batch):
    model, params, state, emb, features = setup(name, batch)
    before = [x.clone() for t in (params, state, emb, features) for x in tree.leaves(t)]
    for train in (False, True):
        logits, new = model.apply(params, emb, features, state, key=key(0), train=train)
        classes = getattr(model.config, "n_classes", 1)
        assert logits.shape == (batch, classes)
        assert logits.dtype == torch.float64
        assert tree.paths(new) == tree.paths(state)
    after = [x for t in (params, state, emb, features) for x in tree.leaves(t)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True)), "an input was written to"


@every_model
def test_initial_parameters_are_floats_and_a_function_of_the_key(name):
    model = CASES[name].model()
    a, b, c = (model.init(key(s))[0] for s in (0, 0, 1))
    assert tree.paths(a) == tuple(sorted(tree.paths(a)))
    assert all(x.is_floating_point() for x in tree.leaves(a))
    assert all(torch.equal(x, y) for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True))
    same = [x for x, y in zip(tree.leaves(a), tree.leaves(c), strict=True) if torch.equal(x, y)]
    assert all(bool((x == x.flatten()[0]).all()) for x in same), "only constants may ignore the key"


@every_model
def test_evaluation_is_independent_across_rows(name):
    model, params, state, emb, features = setup(name, 5)
    whole, _ = model.apply(params, emb, features, state)
    for b in range(5):
        alone, _ = model.apply(params, emb[b : b + 1], features[b : b + 1], state)
        torch.testing.assert_close(alone[0], whole[b])


@every_model
def test_train_equals_evaluation_where_nothing_is_stochastic(name):
    model, params, state, emb, features = setup(name)
    if CASES[name].stochastic:
        with pytest.raises(KeyMissingError):
            model.apply(params, emb, features, state, train=True)
        a, b = (model.apply(params, emb, features, state, key=key(s), train=True)[0] for s in (0, 1))
        again = model.apply(params, emb, features, state, key=key(0), train=True)[0]
        assert torch.equal(a, again)
        assert not torch.equal(a, b)
    elif not tree.paths(state):
        evaluated = model.apply(params, emb, features, state)[0]
        assert torch.equal(evaluated, model.apply(params, emb, features, state, train=True)[0])


@every_model
def test_gradient_is_right_to_second_order(name):
    model, params, state, emb, features = setup(name, 3)
    names, leaves = tree.paths(params), tree.leaves(params)
    groups = sorted(emb.keys())

    def logits(*xs):
        p = tree.unflatten(names, xs[: len(names)])
        e = emb.replace(dict(zip(groups, xs[len(names) :], strict=True)))
        return model.apply(p, e, features, state, key=key(3), train=True)[0]

    # Finite differences see through a stopped gradient: only what the gradient reaches is compared.
    reached = REACHED.get(name)
    tops = [n.split(".")[0] for n in names] + groups
    xs = [
        x.clone().requires_grad_(reached is None or top in reached)
        for top, x in zip(tops, [*leaves, *(emb[g] for g in groups)], strict=True)
    ]
    assert torch.autograd.gradcheck(logits, xs, fast_mode=True)
    assert torch.autograd.gradgradcheck(logits, xs, fast_mode=True)


@every_model
def test_every_parameter_has_a_gradient(name):
    model, params, state, emb, features = setup(name)
    d_params, d_emb = grad(scalar(model, state, features, key(5), True), argnums=(0, 1))(params, emb)
    reached = REACHED.get(name)
    for path, g in [*zip(tree.paths(d_params), tree.leaves(d_params), strict=True), *d_emb.items()]:
        if path.endswith(WITHOUT_SLOPE.get(name, ())):
            continue
        learns = reached is None or path.split(".")[0] in reached
        assert bool((g != 0).any()) == learns, f"{path} {'does not learn' if learns else 'should not learn'}"


@every_model
def test_per_row_gradients_sum_to_the_batch_gradient(name):
    model, params, state, emb, features = setup(name)
    one = lambda e, f: grad(scalar(model, state, f.unsqueeze(0)))(params, e.unsqueeze(0))  # noqa: E731
    rows = vmap(one)(emb, features)
    whole = grad(scalar(model, state, features))(params, emb)
    for a, b in zip(tree.leaves(rows), tree.leaves(whole), strict=True):
        torch.testing.assert_close(a.sum(0), b)


@every_model
def test_ensemble_by_vmap_is_the_loop(name):
    model, _, _, emb, features = setup(name)
    members = [weights(model, s) for s in (1, 2, 3)]
    keys = split(key(9), 3)
    params, state = tree.stack([m[0] for m in members]), tree.stack([m[1] for m in members])
    f = lambda p, s, k: model.apply(p, emb, features, s, key=k, train=True)  # noqa: E731
    together, new = vmap(f)(params, state, keys)
    for i, (p, s) in enumerate(members):
        alone, alone_new = f(p, s, keys[i])
        torch.testing.assert_close(together[i], alone)
        for a, b in zip(tree.leaves(new[i]), tree.leaves(alone_new), strict=True):
            torch.testing.assert_close(a, b)

    def gradients(p, s, k):
        return grad(scalar(model, s, features, k, True), argnums=(0, 1))(p, emb)

    stacked = vmap(gradients)(params, state, keys)
    for i, (p, s) in enumerate(members):
        for a, b in zip(stacked, gradients(p, s, keys[i]), strict=True):
            for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True):
                torch.testing.assert_close(x[i], y)


@every_model
@settings(max_examples=5)
@given(seed=st.integers(0, 1000))
def test_forward_mode_is_the_directional_derivative_and_its_gradient_the_hvp(name, seed):
    """By finite differences, too, along what the gradient reaches: they see through a stopped one."""
    model, params, state, emb, features = setup(name)
    f = scalar(model, state, features)
    draw = lambda x: normal(key(seed), x.shape, dtype=x.dtype)  # noqa: E731
    v, w = tree.map_leaves(draw, params), emb.apply(draw)
    d_params, d_emb = grad(f, argnums=(0, 1))(params, emb)
    pairs = [*zip(tree.leaves(d_params), tree.leaves(v), strict=True), *((d_emb[g], w[g]) for g in emb.keys())]
    tangent = jvp(f, (params, emb), (v, w))[1]
    torch.testing.assert_close(tangent, sum((g * d).sum() for g, d in pairs))

    learns = lambda path: path.split(".")[0] in REACHED.get(name, (path.split(".")[0],))  # noqa: E731
    steps = [d if learns(n) else 0 * d for n, d in zip(tree.paths(v), tree.leaves(v), strict=True)]
    ahead = {g: w[g] * learns(g) for g in emb.keys()}

    def moved(h):
        p = tree.unflatten(tree.paths(params), [x + h * d for x, d in zip(tree.leaves(params), steps, strict=True)])
        return f(p, emb.replace({g: emb[g] + h * d for g, d in ahead.items()}))

    torch.testing.assert_close((moved(1e-6) - moved(-1e-6)) / 2e-6, tangent, rtol=1e-5, atol=1e-7)

    forward_over_reverse = jvp(lambda p: grad(f)(p, emb), (params,), (v,))[1]
    reverse_over_forward = grad(lambda p: jvp(lambda q: f(q, emb), (p,), (v,))[1])(params)
    for a, b in zip(tree.leaves(forward_over_reverse), tree.leaves(reverse_over_forward), strict=True):
        torch.testing.assert_close(a, b)
