"""The losses of a light net and its booster by name: what each moves, that they add up, and that they train."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import grad, jvp, vmap

from funcrec import optim
from funcrec.core import tree
from funcrec.core.errors import ConfigError, ShapeError
from funcrec.core.init import Normal
from funcrec.core.random import key, normal, randint, uniform
from funcrec.embedding import dense_store, rowwise_store, spec_for
from funcrec.layers.mlp import MLPConfig
from funcrec.losses import bce, focal, l2, softmax_cross_entropy
from funcrec.models.rocket_launching import RocketLaunchingConfig, rocket_launching
from funcrec.optim import rowwise
from funcrec.train import make_step
from funcrec.transform import SIMILARITIES, distillation, part_gradients, rocket_objective, rocket_parts, routing, total
from tests.models.cases import inputs, weights
from tests.models.cases_rocket import GROUP
from tests.train.tiny import ROWS, data

units = st.lists(st.sampled_from([2, 3]), min_size=1, max_size=3)
similarities = st.sampled_from([None, *SIMILARITIES])


def mlp(units, **options):
    return MLPConfig(hidden_units=tuple(units), activation="nn.Tanh", **options)


def build(light=(4, 3), booster=(6, 4, 3), shared=(5,), classes=1, batch=4, seed=0, weighted=True, **options):
    config = RocketLaunchingConfig(
        group=GROUP,
        shared=mlp(shared, **options) if shared else None,
        booster=mlp(booster, **options),
        light=mlp(light, **options),
        n_classes=classes,
    )
    model = rocket_launching(config)
    emb, features = inputs(model, batch, seed)
    label = randint(key(seed + 1), batch, 0, max(classes, 2))
    features["label"] = label if classes > 1 else label.double()
    if weighted:
        features["weight"] = uniform(key(seed + 2), (batch,), 0.1, 3.0, torch.float64)
    return model, (*weights(model), emb, features)


def ordered(args):
    """``(params, state, emb, features)`` in the order of an objective, with a key."""
    params, state, emb, features = args
    return params, emb, features, state, key(3)


def flat(*trees):
    return torch.cat([x.flatten() for t in trees for x in tree.leaves(t)])


@settings(max_examples=15)
@given(
    light=units,
    booster=units,
    shared=st.none() | units,
    classes=st.sampled_from([1, 3]),
    weighted=st.booleans(),
    similarity=similarities,
    temperature=st.none() | st.just(3.0),
    hints=st.booleans(),
    bn=st.booleans(),
)
def test_each_part_moves_what_it_should_and_they_add_up(
    light, booster, shared, classes, weighted, similarity, temperature, hints, bn
):
    if not set(light) & set(booster):
        similarity = None
    model, args = build(light, booster, shared, classes, weighted=weighted, use_bn=bn)
    loss = bce if classes == 1 else softmax_cross_entropy
    options = {"loss": loss, "similarity": similarity, "temperature": temperature, "hints": hints}
    parts = distillation(model, **options)
    args = ordered(args)
    values, (logits, state) = parts(*args)
    names = {f"{loss.__name__}_booster", f"{loss.__name__}_light"}
    names |= {f"similarity_{i}_{j}" for i, j in model.config.pairs.items()} if similarity else set()
    names |= {"soft_labels"} if temperature else set()
    names |= {"hint_l2_loss"} if hints else set()
    assert set(values) == names
    expected, moved = model.apply(args[0], args[1], args[2], args[3], train=True)
    torch.testing.assert_close(logits, expected)
    assert tree.paths(state) == tree.paths(moved)

    table = routing(parts, *args)
    trunk = {"shared"} if shared else set()
    for part, row in table.items():
        assert set(row) == {"booster", "light", "emb"} | trunk
        reached = {name for name, norm in row.items() if norm != 0}
        if part.endswith("_booster"):
            assert reached == {"booster", "emb"} | trunk, part
        else:
            assert reached <= {"light"}, part
            assert part.startswith("similarity") or reached == {"light"}, part

    whole, aux = rocket_objective(model, **options)(*args)
    torch.testing.assert_close(whole, sum(values.values()))
    assert torch.equal(aux[0], logits)
    d_total = grad(rocket_objective(model, **options), argnums=(0, 1), has_aux=True)(*args)[0]
    by_part = part_gradients(parts, *args)
    torch.testing.assert_close(flat(*d_total), sum(flat(*g) for g in by_part.values()))
    for part, gradient in by_part.items():
        alone = grad(lambda p, e, part=part: parts(p, e, *args[2:])[0][part], argnums=(0, 1))(*args[:2])
        torch.testing.assert_close(flat(*gradient), flat(*alone))
        for name in ("booster", "light"):
            assert table[part][name] == pytest.approx(float(flat(gradient[0][name]).norm()), abs=1e-15)
        assert table[part]["emb"] == pytest.approx(float(flat(gradient[1]).norm()), abs=1e-15)


def test_a_light_net_that_learns_what_is_shared_moves_it_with_every_part_but_never_the_booster():
    model, args = build()
    model = rocket_launching(replace(model.config, light_learns_shared=True))
    for part, row in routing(distillation(model, temperature=2.0), *ordered(args)).items():
        own = "booster" if part == "bce_booster" else "light"
        assert {name for name, norm in row.items() if norm != 0} == {own, "shared", "emb"}, part


@given(seed=st.integers(0, 1000), classes=st.sampled_from([1, 3]))
def test_the_parts_are_the_formulas(seed, classes):
    model, (params, state, emb, f) = build(classes=classes, seed=seed)
    out = model.outputs(params, emb, f, state, train=True)[0]
    w = f["weight"] / f["weight"].mean()
    loss = bce if classes == 1 else softmax_cross_entropy
    parts = rocket_parts(out, f["label"], f["weight"], loss={"ce": loss}, similarity="cosine", temperature=3.0)
    a, b = out["light"], out["booster"]
    s, t = (torch.cat([torch.zeros_like(z), z], 1) / 3 if classes == 1 else z / 3 for z in (a, b))
    one = lambda z, y: loss(z[None], y[None])  # noqa: E731
    expected = {
        "ce_booster": (w * vmap(one)(b, f["label"])).mean(),
        "ce_light": (w * vmap(one)(a, f["label"])).mean(),
        "similarity_0_1": -0.1 * (w * torch.cosine_similarity(out["light_0"], out["booster_1"])).mean(),
        "similarity_1_2": -0.1 * (w * torch.cosine_similarity(out["light_1"], out["booster_2"])).mean(),
        "soft_labels": 9 * (w[:, None] * t.softmax(1) * (t.log_softmax(1) - s.log_softmax(1))).sum() / 4,
        "hint_l2_loss": (w[:, None] * (a - b) ** 2).sum() / (4 * classes),
    }
    assert list(parts) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(parts[name], value)
    assert all(abs(float(parts[f"similarity_{i}_{j}"])) <= 0.1 + 1e-12 for i, j in model.config.pairs.items())


def test_evaluation_has_the_light_loss_only_and_several_losses_are_named():
    model, (params, state, emb, f) = build()
    losses: dict[str, Callable] = {"ce": bce, "focal": partial(focal, gamma=1.0)}
    evaluated = model.outputs(params, emb, f, state)[0]
    assert set(rocket_parts(evaluated, f["label"], loss=losses)) == {"ce_light", "focal_light"}
    assert set(rocket_parts(evaluated, f["label"], loss=partial(focal, gamma=1.0))) == {"focal_light"}
    trained = model.outputs(params, emb, f, state, train=True)[0]
    parts = rocket_parts(trained, f["label"], loss=losses, similarity=None, hints=False)
    assert set(parts) == {"ce_light", "focal_light", "ce_booster", "focal_booster"}


@given(light=units, booster=units)
def test_pairs_from_the_outputs_are_those_of_the_config(light, booster):
    model, (params, state, emb, f) = build(light, booster, shared=None)
    out = model.outputs(params, emb, f, state, train=True)[0]
    if model.config.pairs:
        parts = rocket_parts(out, f["label"])
        assert {n for n in parts if n[0] == "s"} == {f"similarity_{i}_{j}" for i, j in model.config.pairs.items()}
    else:
        with pytest.raises(ConfigError, match=r"set similarity=None"):
            rocket_parts(out, f["label"])


def test_layers_are_numbered_by_number_not_by_spelling():
    x = torch.ones(2, 3)
    out = {"light": x[:, :1], "booster": x[:, :1], "light_2": x, "light_10": x, "booster_11": x, "booster_9": 2 * x}
    parts = rocket_parts(out, torch.zeros(2), similarity="inner_product")
    assert [n for n in parts if n[0] == "s"] == ["similarity_2_9", "similarity_10_9"]
    assert float(parts["similarity_2_9"]) == pytest.approx(-0.6)
    assert "similarity_10_11" in rocket_parts(out, torch.zeros(2), pairs={10: 11})


def test_a_similarity_of_one_s_own():
    model, (params, state, emb, f) = build()
    out = model.outputs(params, emb, f, state, train=True)[0]
    mine = lambda s, t, w: (w[:, None] * (s - t.detach()).abs()).mean()  # noqa: E731
    parts = rocket_parts(out, f["label"], f["weight"], similarity=mine)
    torch.testing.assert_close(parts["similarity_0_1"], mine(out["light_0"], out["booster_1"], f["weight"]))


@given(a=st.floats(-2, 2), b=st.floats(0.1, 2))
def test_factors_scale_the_parts_and_zero_leaves_one_out(a, b):
    model, args = build()
    args = ordered(args)
    values = distillation(model)(*args)[0]
    objective = rocket_objective(model, factors={"hint_l2_loss": a, "bce_booster": 0.0, "bce_light": b})
    similarity = values["similarity_0_1"] + values["similarity_1_2"]
    torch.testing.assert_close(objective(*args)[0], a * values["hint_l2_loss"] + b * values["bce_light"] + similarity)

    def infinite(*args):
        return {"good": values["bce_light"], "bad": values["bce_light"] * torch.inf}, (None, None)

    assert float(total(infinite, {"bad": 0.0})(*args)[0]) == float(values["bce_light"])


@pytest.mark.parametrize("bn", [False, True])
def test_the_objective_goes_through_every_transform(bn):
    model, args = build(use_bn=bn)
    params, emb, f, state, k = ordered(args)
    objective = rocket_objective(model, temperature=2.0)
    value = lambda p, e: objective(p, e, f, state, k)[0]  # noqa: E731
    v = tree.map_leaves(lambda x: normal(key(7), x.shape, dtype=x.dtype), params)
    gradient, tangent = grad(value)(params, emb), jvp(lambda p: value(p, emb), (params,), (v,))[1]
    torch.testing.assert_close(tangent, (flat(gradient) * flat(v)).sum())
    forward = jvp(lambda p: grad(value)(p, emb), (params,), (v,))[1]
    twice = grad(lambda p: (flat(grad(value)(p, emb)) * flat(v)).sum())(params)
    torch.testing.assert_close(flat(forward), flat(twice))
    if not bn:  # torch's own batch norm has no right gradient of its jvp
        reverse = grad(lambda p: jvp(lambda q: value(q, emb), (p,), (v,))[1])(params)
        torch.testing.assert_close(flat(forward), flat(reverse))

    members = [weights(model, s)[0] for s in (1, 2)]
    together = vmap(lambda p: grad(value)(p, emb))(tree.stack(members))
    for i, p in enumerate(members):
        torch.testing.assert_close(flat(together[i]), flat(grad(value)(p, emb)))

    f_ = lambda p, e: grad(value, argnums=(0, 1))(p, e)  # noqa: E731
    compiled = torch.compile(f_, fullgraph=True, backend="aot_eager")(params, emb)
    torch.testing.assert_close(flat(*compiled), flat(*f_(params, emb)))


def test_per_example_gradients_of_the_parts_average_to_the_batch_s():
    model, args = build(weighted=False)
    params, emb, f, state, k = ordered(args)
    value = lambda p, e, f: rocket_objective(model, similarity="euclid")(p, e, f, state, k)[0]  # noqa: E731
    each = vmap(lambda e, f: grad(value)(params, e.unsqueeze(0), f.unsqueeze(0)))(emb, f)
    for a, b in zip(tree.leaves(each), tree.leaves(grad(value)(params, emb, f)), strict=True):
        torch.testing.assert_close(a.mean(0), b)


@pytest.mark.parametrize("store", ["dense", "rowwise"])
def test_a_training_step_moves_everything_and_serving_reads_the_light_net(store):
    config = RocketLaunchingConfig(
        group=type(GROUP).of("all", list(ROWS), 3, ["x"]),
        shared=mlp((5,), use_bn=True),
        booster=mlp((4,)),
        light=mlp((4,)),
    )
    model = rocket_launching(config)
    spec = spec_for(model.groups, ROWS, init=Normal(0.3))
    stores = {"dense": dense_store(spec, optim.sgd(0.1)), "rowwise": rowwise_store(spec, rowwise.sgd(0.1))}
    batch = data(64, dtype=torch.float32, weighted=True)
    step = make_step(model, stores[store], optim.adam(0.05), objective=rocket_objective(model, similarity="euclid"))
    start = step.init(key(0))
    kept = tree.map_leaves(torch.clone, start.params)
    tables = [x.clone() for x in tree.leaves(start.tables["weights"])]
    first, state = None, start
    for _ in range(30):
        state, info = step.train(state, batch)
        first = info["loss"] if first is None else first
    assert info["loss"] < first
    for path, a, b in zip(tree.paths(kept), tree.leaves(kept), tree.leaves(state.params), strict=True):
        assert not torch.equal(a, b), path
    assert any(not torch.equal(a, b) for a, b in zip(tables, tree.leaves(state.tables["weights"]), strict=True))
    poisoned: dict = dict(state.params.items()) | {
        "booster": tree.map_leaves(lambda x: x * torch.nan, state.params["booster"])
    }
    served = step.predict(state._replace(params=tree.tree(poisoned)), batch)
    assert torch.equal(served, step.predict(state, batch))
    assert bool(served.isfinite().all())


ERRORS = [
    ({"similarity": "cosin"}, r"similarity: got 'cosin', expected one of \['batch_euclid', 'cosine'"),
    ({"loss": lambda z, y, w: z.sum()}, r"loss without a name: got <lambda>"),
]


@pytest.mark.parametrize(("options", "message"), ERRORS)
def test_options_that_mean_nothing_are_refused_when_the_objective_is_made(options, message):
    model, _ = build()
    for make in (distillation, rocket_objective):
        with pytest.raises(ConfigError, match=message):
            make(model, **options)


def test_refusals_say_what_to_do():
    model, args = build()
    params, state, emb, f = args
    out = model.outputs(params, emb, f, state, train=True)[0]
    with pytest.raises(ConfigError, match="join it to a booster with distilled"):
        distillation(model._replace(outputs=None))
    with pytest.raises(ConfigError, match=r"factors of no part: got \['hint'\], expected names among \['bce_booster'"):
        rocket_objective(model, factors={"hint": 1.0})(*ordered(args))
    nothing = rocket_objective(model, factors=dict.fromkeys(distillation(model)(*ordered(args))[0], 0.0))
    with pytest.raises(ConfigError, match="at least one part"):
        nothing(*ordered(args))
    with pytest.raises(ConfigError, match=r'outputs: got \[\'booster\'\], expected "light"'):
        rocket_parts({"booster": out["booster"]}, f["label"])
    with pytest.raises(ConfigError, match=r"similarity of hidden layers \{0: 7\}"):
        rocket_parts(out, f["label"], pairs={0: 7})
    with pytest.raises(ShapeError, match="cosine_similarity: student and teacher"):
        rocket_parts(out, f["label"], pairs={0: 2})
    with pytest.raises(ShapeError, match="l2: logits and labels"):
        rocket_parts(out, f["label"][1:], loss=l2)
