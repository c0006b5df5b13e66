"""One contract for every model: pure, independent across rows in evaluation, closed under the transforms."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict
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


@every_model
@settings(max_examples=5)
@given(seed=st.integers(0, 1000))
def test_forward_mode_is_the_directional_derivative_and_its_gradient_the_hvp(name, seed):
    model, params, state, emb, features = setup(name)
    f = scalar(model, state, features)
    v = tree.map_leaves(lambda x: normal(key(seed), x.shape, dtype=x.dtype), params)
    tangent = jvp(lambda p: f(p, emb), (params,), (v,))[1]
    gradient = grad(f)(params, emb)
    inner = sum((g * d).sum() for g, d in zip(tree.leaves(gradient), tree.leaves(v), strict=True))
    torch.testing.assert_close(tangent, inner)
    forward_over_reverse = jvp(lambda p: grad(f)(p, emb), (params,), (v,))[1]
    reverse_over_forward = grad(lambda p: jvp(lambda q: f(q, emb), (p,), (v,))[1])(params)
    for a, b in zip(tree.leaves(forward_over_reverse), tree.leaves(reverse_over_forward), strict=True):
        torch.testing.assert_close(a, b)


# torch.compile and torch.export take seconds a case: one case a factory, the last of its table.
ONE_A_FACTORY = {case.make.__name__: name for name, case in CASES.items()}
one_of_each = pytest.mark.parametrize("name", sorted(ONE_A_FACTORY.values()))


@one_of_each
def test_compiles_as_one_graph_with_its_gradient(name):
    model, params, state, emb, features = setup(name)
    f = lambda p, e: grad(scalar(model, state, features, key(2), True), argnums=(0, 1))(p, e)  # noqa: E731
    expected = f(params, emb)
    seen = torch.compile(f, fullgraph=True, backend="aot_eager")(params, emb)
    for a, b in zip(expected, seen, strict=True):
        for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True):
            torch.testing.assert_close(x, y)


class _Evaluated(torch.nn.Module):
    def __init__(self, model, params, state):
        super().__init__()
        self.model, self.tree, self.state = model, params, state

    def forward(self, emb, features):
        batch = next(iter(emb.values())).shape[0]
        f = TensorDict({name: TensorDict(part, [batch]) for name, part in features.items()}, [batch])
        return self.model.apply(self.tree, TensorDict(emb, [batch]), f, self.state)[0]


def plain(emb, features):
    """Nested dicts of the tensors that a model reads, which torch.export takes as they are."""
    return emb.to_dict(), features.exclude("label").to_dict()


@one_of_each
def test_exports_with_a_dynamic_batch(name):
    model, params, state, emb, features = setup(name)
    module = _Evaluated(model, params, state)
    arguments = plain(emb, features)
    dynamic = torch.utils._pytree.tree_map(lambda _: {0: torch.export.Dim.DYNAMIC}, arguments)
    program = torch.export.export(module, arguments, dynamic_shapes=dynamic)
    others = plain(*inputs(model, 7, seed=3))
    torch.testing.assert_close(program.module()(*others), module(*others))
