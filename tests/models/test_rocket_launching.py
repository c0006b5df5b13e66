"""RocketLaunching: the two nets written out, what serving may touch, what the gradient may reach, what state moves."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import grad, vmap

from funcrec.core import tree
from funcrec.core.errors import KeyMissingError
from funcrec.core.groups import Group
from funcrec.core.matching import matching_layers
from funcrec.core.random import key
from funcrec.layers.mlp import MLPConfig, mlp_parameter_count
from funcrec.models.rocket_launching import RocketLaunchingConfig, rocket_launching
from tests.models.cases import inputs, weights
from tests.models.cases_rocket import CASES, GROUP, REACHED

every_case = pytest.mark.parametrize("name", CASES)
units = st.lists(st.sampled_from([2, 3, 4]), min_size=1, max_size=4)


def tanh(*hidden, **options):
    return MLPConfig(hidden_units=hidden, activation="nn.Tanh", **options)


def setup(config, batch=4, seed=0):
    model = rocket_launching(config)
    return model, *weights(model), *inputs(model, batch, seed)


def layers(params, x):
    """The outputs of all layers of a tanh MLP."""
    hidden = []
    for i in range(len(list(params.keys()))):
        x = torch.tanh(x @ params[str(i)]["linear"]["weight"].T + params[str(i)]["linear"]["bias"])
        hidden.append(x)
    return hidden


def head(params, x):
    return x @ params["head"]["weight"].T + params["head"]["bias"]


@given(light=units, booster=units, shared=st.none() | units, classes=st.integers(1, 3), batch=st.integers(1, 3))
def test_both_nets_and_the_hidden_layers_are_the_formula(light, booster, shared, classes, batch):
    config = RocketLaunchingConfig(
        group=GROUP,
        shared=shared and tanh(*shared),
        booster=tanh(*booster),
        light=tanh(*light),
        n_classes=classes,
    )
    model, params, state, emb, f = setup(config, batch)
    h = torch.cat([f["dense"]["x"], emb["all"], f["dense"]["y"]], 1)
    h = layers(params["shared"], h)[-1] if shared else h
    small, large = layers(params["light"]["mlp"], h), layers(params["booster"]["mlp"], h)
    served = head(params["light"], small[-1])
    torch.testing.assert_close(model.apply(params, emb, f, state)[0], served)
    evaluated = model.outputs(params, emb, f, state)[0]
    assert list(evaluated) == ["light"]
    torch.testing.assert_close(evaluated["light"], served)

    expected = {"light": served, "booster": head(params["booster"], large[-1])}
    for i, a in enumerate(small):
        for j, b in enumerate(large):
            if a.shape == b.shape:
                expected |= {f"light_{i}": a, f"booster_{j}": b}
                break
    out = model.outputs(params, emb, f, state, train=True)[0]
    assert sorted(out) == sorted(expected)
    for name, value in expected.items():
        torch.testing.assert_close(out[name], value)


@given(light=st.lists(st.integers(1, 4), max_size=6), booster=st.lists(st.integers(1, 4), max_size=6))
def test_a_light_layer_is_matched_with_the_first_booster_layer_of_its_width(light, booster):
    slow = {}
    for i in reversed(range(len(light))):
        for j in reversed(range(len(booster))):
            if light[i] == booster[j]:
                slow[i] = j
    assert matching_layers(light, booster) == slow
    assert list(matching_layers(light, booster)) == sorted(slow)


def test_the_number_of_parameters():
    shared, booster, light = tanh(5), tanh(7, 4, use_bn=True), tanh(4, 2, use_ln=True)
    config = RocketLaunchingConfig(group=GROUP, shared=shared, booster=booster, light=light, n_classes=3)
    params, _ = rocket_launching(config).init(key(0))
    nets = {"booster": mlp_parameter_count(5, booster) + 4 * 3 + 3, "light": mlp_parameter_count(5, light) + 2 * 3 + 3}
    assert {name: tree.count(params[name]) for name in nets} == nets
    assert tree.count(params) == sum(nets.values()) + mlp_parameter_count(GROUP.width, shared)


def test_the_two_nets_start_differently():
    config = RocketLaunchingConfig(group=GROUP, booster=tanh(3), light=tanh(3))
    params, _ = rocket_launching(config).init(key(0))
    for a, b in zip(tree.leaves(params["booster"]), tree.leaves(params["light"]), strict=True):
        assert not torch.equal(a, b)


@every_case
@pytest.mark.parametrize("train", [False, True])
def test_the_light_net_reads_nothing_of_the_booster(name, train):
    model, params, state, emb, f = setup(CASES[name][1])
    poison = lambda t: tree.tree(dict(t.items()) | {"booster": tree.map_leaves(lambda x: x * torch.nan, t["booster"])})  # noqa: E731
    without = lambda t: tree.tree({n: v for n, v in t.items() if n != "booster"})  # noqa: E731
    run = lambda p, s: model.apply(p, emb, f, s, key=key(1), train=train)  # noqa: E731
    logits, moved = run(params, state)
    assert bool(logits.isfinite().all())
    assert torch.equal(run(poison(params), poison(state))[0], logits)
    alone, kept = run(without(params), without(state))
    assert torch.equal(alone, logits)
    for a, b in zip(tree.leaves(kept), tree.leaves(without(moved)), strict=True):
        assert torch.equal(a, b)
    if not train:
        assert torch.equal(model.outputs(poison(params), emb, f, state)[0]["light"], logits)
        assert torch.equal(model.outputs(without(params), emb, f, without(state))[0]["light"], logits)


@every_case
def test_apply_and_outputs_agree_on_the_light_net(name):
    model, params, state, emb, f = setup(CASES[name][1])
    logits, moved = model.apply(params, emb, f, state, key=key(1), train=True)
    out, all_moved = model.outputs(params, emb, f, state, key=key(1), train=True)
    assert torch.equal(out["light"], logits)
    assert tree.paths(moved) == tree.paths(all_moved) == tree.paths(state)
    for path, a, b in zip(tree.paths(moved), tree.leaves(moved), tree.leaves(all_moved), strict=True):
        assert torch.equal(a, b) or path.startswith("booster.")


def test_running_statistics_of_the_booster_move_in_outputs_only():
    model, params, state, emb, f = setup(CASES["rocket_bn"][1])
    changed = lambda new: {  # noqa: E731
        path.split(".")[0]
        for path, a, b in zip(tree.paths(new), tree.leaves(new), tree.leaves(state), strict=True)
        if not torch.equal(a, b)
    }
    assert changed(model.apply(params, emb, f, state, train=True)[1]) == {"shared", "light"}
    assert changed(model.outputs(params, emb, f, state, train=True)[1]) == {"shared", "light", "booster"}
    assert changed(model.apply(params, emb, f, state)[1]) == changed(model.outputs(params, emb, f, state)[1]) == set()


def test_dropout_needs_a_key_and_differs_between_the_nets():
    drop = tanh(50, dropout=0.5)
    model, params, state, emb, f = setup(RocketLaunchingConfig(group=GROUP, booster=drop, light=drop))
    with pytest.raises(KeyMissingError):
        model.outputs(params, emb, f, state, train=True)
    out, _ = model.outputs(params, emb, f, state, key=key(0), train=True)
    assert not torch.equal(out["light_0"] == 0, out["booster_0"] == 0)


@every_case
@pytest.mark.parametrize("train", [False, True])
def test_the_gradient_of_the_light_net_stops_at_its_input_unless_it_learns_what_is_shared(name, train):
    model, params, state, emb, f = setup(CASES[name][1])
    light = lambda p, e: torch.sin(model.apply(p, e, f, state, key=key(1), train=train)[0]).sum()  # noqa: E731
    d_params, d_emb = grad(light, argnums=(0, 1))(params, emb)
    for path, g in [*zip(tree.paths(d_params), tree.leaves(d_params), strict=True), *d_emb.items()]:
        assert bool((g != 0).any()) == (path.split(".")[0] in REACHED[name]), path


@every_case
def test_derivatives_to_second_order(name):
    """Of the light logits in the light net, of the booster's in everything else."""
    model, params, state, emb, f = setup(CASES[name][1], 3)
    for net in ("light", "booster"):
        moved = [p for p in tree.paths(params) if (p.split(".")[0] == "light") == (net == "light")]
        start = dict(zip(tree.paths(params), tree.leaves(params), strict=True))

        def logits(e, *xs, net=net, moved=moved, start=start):
            p = start | dict(zip(moved, xs, strict=True))
            p = tree.unflatten(list(p), p.values())
            return model.outputs(p, emb.replace({"all": e}), f, state, key=key(3), train=True)[0][net]

        e = emb["all"].clone().requires_grad_(net == "booster")
        xs = [e, *(start[p].clone().requires_grad_() for p in moved)]
        assert torch.autograd.gradcheck(logits, xs, fast_mode=True)
        assert torch.autograd.gradgradcheck(logits, xs, fast_mode=True)


@every_case
def test_an_ensemble_by_vmap_is_the_loop(name):
    model, _, _, emb, f = setup(CASES[name][1])
    members = [weights(model, s) for s in (1, 2)]
    params, state = tree.stack([m[0] for m in members]), tree.stack([m[1] for m in members])
    run = lambda p, s: model.outputs(p, emb, f, s, key=key(2), train=True)[0]  # noqa: E731
    together = vmap(run)(params, state)
    for i, member in enumerate(members):
        for name_, value in run(*member).items():
            torch.testing.assert_close(together[name_][i], value)


def test_one_field_one_row_width_one():
    config = RocketLaunchingConfig(group=Group.of("g", ["a"], 1), booster=tanh(1), light=tanh(1))
    model, params, state, emb, f = setup(config, 1)
    assert model.apply(params, emb, f, state)[0].shape == (1, 1)
    assert set(model.outputs(params, emb, f, state, train=True)[0]) == {"light", "booster", "light_0", "booster_0"}
