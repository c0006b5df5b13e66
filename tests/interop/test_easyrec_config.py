"""Every option of every model goes from a config to a gradient and back to the original's names."""

import pytest
import torch
from torch.func import grad, jvp, vmap

from funcrec.core.random import key
from funcrec.core.tree import leaves, paths
from funcrec.interop.easyrec import parse

from .pipelines import PIPELINES, random_batch, random_variables

KEY = key(5)


@pytest.fixture(params=sorted(PIPELINES))
def system(request):
    return parse(PIPELINES[request.param])


def test_from_config_to_gradient_and_back(system):
    variables, batch = random_variables(system), random_batch(system)
    predictions, state = system.apply(variables, batch)
    assert paths(state) == paths(variables["state"])
    assert all(p.shape[0] == 7 and torch.isfinite(p).all() for p in predictions.values())

    def total(v):
        value, aux = system.losses(v, batch, key=KEY)
        return value, (value, aux)

    d, (value, (losses, trained, moved)) = grad(total, has_aux=True)(variables)
    assert torch.allclose(value, sum(losses.values()))
    assert value.dtype == torch.float64
    assert set(predictions) <= set(trained)
    assert paths(moved) == paths(variables["state"])
    assert paths(d) == paths(variables)
    assert all(torch.isfinite(x).all() for x in leaves(d))
    assert set(system.export_weights(d)) == set(system.export_weights(variables))


# Queries that their encoders do not use.
NO_QUERY = {"encoder_mean", "encoder_sum", "encoder_self"}


@pytest.mark.parametrize("name", sorted(PIPELINES))
def test_gradients_reach_everything_that_the_original_trains(name):
    system = parse(PIPELINES[name])
    reached = set()
    for seed in range(12):  # of one draw, all units of a ReLU may be off
        variables, batch = random_variables(system, seed), random_batch(system, rows=12, seed=seed)
        d = system.export_weights(grad(lambda v: system.losses(v, batch, key=KEY)[0])(variables))  # noqa: B023
        reached |= {k for k, x in d.items() if x.is_floating_point() and x.any()}
    looked_up = {lk.table for g in system.spec.every_group for lk in g.lookups}
    expected = {n.theirs for n in system.names if n.section == "table" and n.path[0] in looked_up}
    expected |= {n.theirs for n in system.names if n.section == "params" and n.path[0] != "unused"}
    expected |= {n.theirs for n in system.names if n.path[:2] == ("unused", "variational")}
    unread = {n.theirs for n in system.names if n.section in ("params", "table")} - expected
    # A softmax over steps ignores what is added to all of them.
    same_for_all = {k for k in expected if k.endswith(("linear.bias", "_key.bias", "_query.bias"))}
    moving = {n.theirs for n in system.names if n.section == "table" and "cate_emb" in n.theirs}
    expected -= moving if name in NO_QUERY else set()
    if name == "dcn_more_groups":  # a history that only running statistics see
        expected -= {n.theirs for n in system.names if n.section == "table" and n.path[0].startswith("seq")}
    assert expected - same_for_all <= reached
    assert not unread & reached


def test_weights_survive_the_round_trip(system):
    variables = random_variables(system, dtype=torch.float32)
    exported = dict(system.export_weights(variables))
    back = system.import_weights(exported)
    assert paths(back) == paths(variables)
    for a, b in zip(leaves(variables), leaves(back), strict=True):
        assert torch.equal(a, b)
        assert a.dtype == b.dtype
    again = system.export_weights(back)
    assert list(again) == list(exported)
    for name, x in exported.items():
        assert torch.equal(again[name], x)
        assert again[name].dtype == x.dtype


def test_directional_derivative_agrees_with_the_gradient(system):
    variables, batch = random_variables(system), random_batch(system)
    f = lambda v: system.losses(v, batch, train=False)[0]  # noqa: E731
    direction = random_variables(system, seed=1)
    slope = jvp(f, (variables,), (direction,))[1]
    d = grad(f)(variables)
    products = [(a * b).sum() for a, b in zip(leaves(d), leaves(direction), strict=True)]
    assert torch.allclose(slope, torch.stack(products).sum(), rtol=1e-9, atol=1e-12)


def test_an_ensemble_is_a_loop_over_its_members(system):
    members, batch = [random_variables(system, seed=s) for s in range(2)], random_batch(system)
    run = lambda v: system.apply(v, batch)[0]  # noqa: E731
    together = vmap(run)(torch.stack(members))
    for i, member in enumerate(members):
        for name, value in run(member).items():
            assert torch.allclose(together[name][i], value, atol=1e-12)


def test_training_counts_its_batches(system):
    variables, batch = random_variables(system), random_batch(system)
    _, (_, _, state) = system.losses(variables, batch, key=KEY)
    before = system.export_weights(variables)
    after = system.export_weights(variables.replace(state=state))
    for name in before:
        if name.endswith("num_batches_tracked"):
            assert after[name].dtype == torch.int64
            assert after[name] == before[name] + 1
        elif "running_" in name:
            assert not torch.equal(after[name], before[name])
        else:
            assert torch.equal(after[name], before[name])
