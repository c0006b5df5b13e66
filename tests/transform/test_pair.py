"""Any model as the booster of any other: who reads what, who learns what, and a teacher that stays as it is."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.func import grad, jvp

from funcrec import models
from funcrec.core import tree
from funcrec.core.errors import ConfigError
from funcrec.core.groups import Encoded, Field, Group, Sequence
from funcrec.core.model import Model
from funcrec.core.random import child, fold_in, key
from funcrec.layers.inputs import inputs as group_vectors
from funcrec.layers.mlp import MLPConfig, mlp, mlp_hidden
from funcrec.layers.sequence_pooling import PoolingEncoder
from funcrec.layers.simple_attention import SimpleAttention
from funcrec.losses import bce, softmax_cross_entropy
from funcrec.models.rocket_launching import rocket_launching
from funcrec.transform import (
    distillation,
    distilled,
    frozen,
    part_gradients,
    rocket_objective,
    routing,
    with_features,
)
from tests.models.cases import inputs, weights
from tests.models.cases_rocket import CASES as ROCKETS
from tests.models.table import CASES

MODELS = {name: case.model() for name, case in CASES.items()}
MLP = MLPConfig(hidden_units=(4,), activation="nn.Tanh")
DEEP = Group.of("deep", ["a", "b", "c"], 4)
SMALL = models.dcn_v2(models.DCNv2Config(group=DEEP, cross_num=1, low_rank=2))
LARGE = models.deepfm(models.DeepFMConfig(wide=Group.of("wide", ["a", "b", "c"], 2), deep=DEEP, deep_mlp=MLP))


def other(classes: int) -> Model:
    """A model that shares no group with any case."""
    group = Group.of("of_its_own", ["a", "b"], 3)
    return models.dcn_v2(models.DCNv2Config(group=group, cross_num=1, low_rank=2, deep=MLP, n_classes=classes))


def setup(model, batch=4, seed=0):
    params, state = weights(model)
    emb, features = inputs(model, batch, seed)
    classes = model.config.n_classes
    label = torch.arange(batch) % max(classes, 2)
    return params, emb, features.set("label", label if classes > 1 else label.double()), state, key(5)


def same(t, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(tree.leaves(t), tree.leaves(other), strict=True))


def outputs(model, *args, **options):
    return model.outputs(*args, **options)


def loss_of(model):
    return softmax_cross_entropy if model.config.n_classes > 1 else bce


def reached(table):
    return {part: {name for name, norm in row.items() if norm != 0} for part, row in table.items()}


@pytest.mark.parametrize("side", ["light", "booster"])
@pytest.mark.parametrize("name", sorted(set(MODELS) - set(ROCKETS)))
def test_any_model_is_either_side(name, side):
    one = MODELS[name]
    two = other(getattr(one.config, "n_classes", 1))
    model = distilled(one, two) if side == "light" else distilled(two, one)
    light, booster = (one, two) if side == "light" else (two, one)
    params, emb, f, state, k = setup(model)
    assert set(params.keys()) == {"booster", "light"}
    assert {g.name for g in model.groups} == {g.name for g in (*light.groups, *booster.groups)}

    # serving is the light model, and reads nothing of the booster
    alone, _ = light.apply(params["light"], emb, f, state["light"])
    only = lambda t: tree.tree({"light": t["light"]})  # noqa: E731
    assert torch.equal(model.apply(params, emb, f, state)[0], alone)
    served, kept = model.apply(
        only(params), emb.select(*(n for n in emb.keys() if n not in _reads(booster, light))), f, only(state)
    )
    assert torch.equal(served, alone)
    assert tree.paths(kept) == tree.paths(only(state))
    assert list(outputs(model, only(params), emb, f, only(state))[0]) == ["light"]

    # training: both, each as it would be alone with its key
    out, moved = outputs(model, params, emb, f, state, key=k, train=True)
    assert set(out) == {"light", "booster"}
    assert tree.paths(moved) == tree.paths(state)
    logits, light_moved = model.apply(params, emb, f, state, key=k, train=True)
    assert torch.equal(out["light"], logits)
    assert same(moved["light"], light_moved["light"])
    assert same(light_moved["booster"], state["booster"])
    logits, booster_moved = booster.apply(
        params["booster"], emb, f, state["booster"], key=fold_in(k, "booster"), train=True
    )
    assert torch.equal(out["booster"], logits)
    assert same(moved["booster"], booster_moved)

    parts = distillation(model, loss=loss_of(model), similarity=None, temperature=2.0)
    ce = loss_of(model).__name__
    table = reached(routing(parts, params, emb, f, state, k))
    assert set(table) == {f"{ce}_booster", f"{ce}_light", "soft_labels", "hint_l2_loss"}
    for part, columns in table.items():
        mine = "booster" if part == f"{ce}_booster" else "light"
        assert mine in columns, part
        assert not columns & ({"light", "booster"} - {mine}), part


def _reads(model, but):
    """Names in emb that ``model`` reads and ``but`` does not."""

    def names(m):
        histories = [s.name for g in m.groups for s in g.sequences]
        return {g.name for g in m.groups} | {*histories} | {f"{name}_query" for name in histories}

    return names(model) - names(but)


@pytest.mark.parametrize("learns", [False, True])
def test_shared_embeddings_follow_the_booster_unless_asked_otherwise(learns):
    for light, booster, own in ((SMALL, LARGE, set()), (LARGE, SMALL, {"wide"})):
        model = distilled(light, booster, light_learns_shared=learns)
        parts = distillation(model, similarity=None)
        for part, (_, d_emb) in part_gradients(parts, *setup(model)).items():
            moved = {name for name, g in d_emb.items() if bool((g != 0).any())}
            if part == "bce_booster":
                assert moved == {g.name for g in booster.groups}
            else:
                assert moved == own | ({"deep"} if learns else set()), part


def test_histories_and_queries_are_shared_by_name_too():
    past = Sequence("past", (Field("a", 3),), (Field("b", 3),))
    reader = lambda name: models.dcn_v2(  # noqa: E731
        models.DCNv2Config(group=Group(name, (Field("a", 3),), (Encoded(past, SimpleAttention()),)), low_rank=2)
    )
    model = distilled(reader("small"), reader("large"))
    for part, (_, d_emb) in part_gradients(distillation(model, similarity=None), *setup(model)).items():
        moved = {name for name, g in d_emb.items() if bool((g != 0).any())}
        assert moved == ({"large", "past", "past_query"} if part == "bce_booster" else {"small"}), part
    other_past = Group("large", (), (Encoded(Sequence("past", (), (Field("c", 3),)), PoolingEncoder()),))
    with pytest.raises(ConfigError, match="group 'past': got Sequence"):
        distilled(reader("small"), models.dcn_v2(models.DCNv2Config(group=other_past, low_rank=2)))


def test_two_models_of_one_config_are_two_models():
    model = distilled(SMALL, SMALL)
    params, _ = model.init(key(0))
    a, b = (tree.leaves(params[side]) for side in ("light", "booster"))
    assert any(not torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert model.groups == SMALL.groups


ROCKET = rocket_launching(ROCKETS["rocket"][1])


def deep_net(name: str, units: tuple[int, ...], dropout: float = 0.0) -> Model:
    """A model whose hidden layers have names, ``h0`` and so on, of the group ``name``."""
    net = MLPConfig(hidden_units=units, activation="nn.Tanh", dropout=dropout)
    model = models.dcn_v2(models.DCNv2Config(group=Group.of(name, ["a", "b"], 3), cross_num=1, low_rank=2, deep=net))

    def hidden(params, emb, batch, state, *, key=None, train=False):
        x, _ = group_vectors(params["inputs"], model.groups, emb, batch, state["inputs"])
        return mlp_hidden(params["deep"], x[name], state["deep"], net, key=child(key, "deep"), train=train)[0]

    return with_features(model, [f"h{i}" for i in range(len(units))], hidden)


def test_features_are_what_the_function_says_and_logits_what_the_model_says():
    """In training too, with the dropout of the model: the deep part of the joined vector is its last hidden layer."""
    model = deep_net("deep", (4, 3), dropout=0.5)
    params, state = weights(model)
    emb, f = inputs(model, 4)
    trained: dict[str, Any] = {"key": key(3), "train": True}
    for options in ({}, trained):
        out, moved = outputs(model, params, emb, f, state, **options)
        logits, expected = model.apply(params, emb, f, state, **options)
        assert list(out) == ["logits", "h0", "h1"]
        assert torch.equal(out["logits"], logits)
        assert tree.paths(moved) == tree.paths(expected)
        only = params.clone()
        only["head", "weight"] = torch.cat([torch.zeros(1, 6), torch.ones(1, 3)], dim=1).double()
        torch.testing.assert_close(model.apply(only, emb, f, state, **options)[0][:, 0], out["h1"].sum(1))
    assert model.config.features == ("h0", "h1")


def test_features_are_compared_pair_by_pair_in_their_order():
    """Of any two models; crosswise: the rule of the first equal width would pair both with the first."""
    light, booster = deep_net("small", (4, 4)), deep_net("large", (6, 4, 4))
    model = distilled(light, booster, features=[("h0", "h0"), ("h1", "logits")])
    with pytest.raises(ValueError, match="student and teacher"):
        distillation(model)(*setup(model))  # widths 4 and 6
    model = distilled(light, booster, features=[("h1", "h1"), ("h0", "h2")])
    params, emb, f, state, k = args = setup(model)
    out, _ = outputs(model, params, emb, f, state, key=k, train=True)
    assert [n for n in out if "_" in n] == ["light_0", "light_1", "booster_0", "booster_1"]
    parts = distillation(model, similarity=lambda s, t, w: (s - t.detach()).abs().sum())
    values = parts(*args)[0]
    assert {n for n in values if n[0] == "s"} == {"similarity_0_0", "similarity_1_1"}
    by_hand = outputs(light, params["light"], emb, f, state["light"], train=True)[0]
    teacher = outputs(booster, params["booster"], emb, f, state["booster"], train=True)[0]
    torch.testing.assert_close(values["similarity_0_0"], (by_hand["h1"] - teacher["h1"]).abs().sum())
    torch.testing.assert_close(values["similarity_1_1"], (by_hand["h0"] - teacher["h2"]).abs().sum())
    for part, columns in reached(routing(parts, *args)).items():
        assert columns == ({"booster", "emb"} if part == "bce_booster" else {"light", "emb"}), part


def test_hidden_layers_of_a_frozen_teacher_are_compared():
    """Of a model, and of the trunk of a pair, whose own outputs are its logits in evaluation."""
    light, teacher = deep_net("small", (5,)), rocket_launching(ROCKETS["rocket_bn"][1])
    config = teacher.config

    def trunk(params, emb, batch, state, *, key=None, train=False):
        x, _ = group_vectors(params.get("inputs", None), teacher.groups, emb, batch, state["inputs"])
        h, _ = mlp(params["shared"], x[config.group.name], state["shared"], config.shared, train=train)
        return [h]

    for booster, name in ((deep_net("large", (6, 5)), "h1"), (with_features(teacher, ["trunk"], trunk), "trunk")):
        single = config.n_classes == 1 or name == "h1"
        small = light if single else with_features(other(3), ["h0"], lambda *args, **_: [args[1]["of_its_own"][:, 0]])
        params_t, state_t = weights(booster, seed=9)
        fixed = frozen(booster, params_t, state_t)
        pairs = [("h0", name)] if single else [("h0", "logits")]
        model = distilled(small, fixed, features=pairs, light_learns_shared=True)
        params, emb, f, state, k = setup(model)
        told = outputs(booster, params_t, emb, f, state_t)[0]
        out = outputs(model, params, emb, f, state, key=k, train=True)[0]
        assert torch.equal(outputs(fixed, *(tree.tree(),), emb, f, tree.tree(), train=True)[0][name], told[name])
        assert torch.equal(out["booster_0"], told[pairs[0][1]])
        parts = distillation(model, loss=loss_of(model))
        assert routing(parts, params, emb, f, state, k)["similarity_0_0"]["emb"] > 0


@pytest.mark.parametrize("name", ["h0", "h1", "logits"])
def test_nothing_is_learned_through_a_frozen_model(name):
    """Neither the embeddings nor the weights that it was made from, by either mode of differentiation."""
    teacher = deep_net("large", (4, 3))
    params, state = weights(teacher)
    emb, f = inputs(teacher, 4)

    def value(p, e, served=False):
        model = frozen(teacher, p, state)
        empty = tree.tree()
        y = model.apply(empty, e, f, empty)[0] if served else outputs(model, empty, e, f, empty, train=True)[0][name]
        return y.sin().sum() + 0 * sum(x.sum() for t in (p, e) for x in tree.leaves(t))

    for served in (False, True):
        g = grad(lambda p, e, served=served: value(p, e, served), argnums=(0, 1))(params, emb)
        assert all(bool((x == 0).all()) for t in g for x in tree.leaves(t))
        assert float(jvp(lambda e, served=served: value(params, e, served), (emb,), (emb,))[1]) == 0


@pytest.mark.parametrize("pair", [ROCKET, distilled(SMALL, LARGE), with_features(ROCKET, ["x"], lambda *a, **k: [a])])
def test_a_pair_inside_a_pair_is_refused_unless_it_is_frozen(pair):
    """No loss would move its own booster, nor the embeddings that its light net stops at."""
    for sides in ((SMALL, pair), (pair, SMALL)):
        with pytest.raises(ConfigError, match=r"distilled: the (light|booster) model: got .*frozen\(model, params"):
            distilled(*sides)
    model = distilled(other(1), frozen(pair, *weights(pair)))
    args = setup(model)
    table = reached(routing(distillation(model, similarity=None), *args))
    assert table["hint_l2_loss"] == table["bce_light"] == {"light", "emb"}
    assert table["bce_booster"] == set()


def test_models_are_distilled_in_a_chain():
    """A teaches B, the pair teaches C: every weight of every model has a loss that moves it, in its turn."""
    assistant = distilled(SMALL, LARGE)
    params, state = weights(assistant)
    model = distilled(other(1), frozen(assistant, params, state))
    params_c, emb, f, state_c, k = setup(model)
    out, _ = outputs(model, params_c, emb, f, state_c, key=k, train=True)
    torch.testing.assert_close(out["booster"], SMALL.apply(params["light"], emb, f, state["light"])[0])
    for m, args in ((assistant, setup(assistant)), (model, setup(model))):
        d, _ = grad(rocket_objective(m, similarity=None), has_aux=True)(*args)
        assert all(bool((x != 0).any()) for x in tree.leaves(d))


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_frozen_teacher_teaches_and_does_not_move(name):
    teacher = MODELS[name]
    params_t, state_t = weights(teacher, seed=9)
    before = [x.clone() for t in (params_t, state_t) for x in tree.leaves(t)]
    light = other(getattr(teacher.config, "n_classes", 1))
    model = distilled(light, frozen(teacher, params_t, state_t))
    params, emb, f, state, k = setup(model)
    assert not tree.paths(params["booster"])
    assert not tree.paths(state["booster"])
    out, moved = outputs(model, params, emb, f, state, key=k, train=True)
    torch.testing.assert_close(out["booster"], teacher.apply(params_t, emb, f, state_t)[0])
    assert tree.paths(moved) == tree.paths(state)

    ce = loss_of(model).__name__
    parts = distillation(model, loss=loss_of(model), similarity=None, temperature=3.0)
    table = reached(routing(parts, params, emb, f, state, k))
    assert table == {
        f"{ce}_booster": set(),
        f"{ce}_light": {"light", "emb"},
        "soft_labels": {"light", "emb"},
        "hint_l2_loss": {"light", "emb"},
    }
    objective = rocket_objective(model, loss_of(model), similarity=None, factors={f"{ce}_booster": 0.0})
    d_emb = grad(objective, argnums=(0, 1), has_aux=True)(params, emb, f, state, k)[0][1]
    assert {n for n, g in d_emb.items() if bool((g != 0).any())} == {"of_its_own"}
    after = [x for t in (params_t, state_t) for x in tree.leaves(t)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_frozen_model_is_in_evaluation_and_keeps_its_outputs():
    for teacher in (rocket_launching(ROCKETS["rocket_dropout"][1]), deep_net("large", (4,), dropout=0.5)):
        params, state = weights(teacher)
        emb, f = inputs(teacher, 4)
        model = frozen(teacher, params, state)
        empty = model.init(key(0))
        expected = teacher.apply(params, emb, f, state)[0]
        assert torch.equal(model.apply(empty[0], emb, f, empty[1], train=True)[0], expected)
    assert torch.equal(outputs(model, empty[0], emb, f, empty[1], train=True)[0]["logits"], expected)
    assert frozen(SMALL, *weights(SMALL)).outputs is None
    assert frozen(ROCKET, *weights(ROCKET)).outputs is None, "a pair serves its logits alone"


def test_a_pair_compiles_with_its_gradient():
    model = distilled(SMALL, frozen(LARGE, *weights(LARGE)), light_learns_shared=True)
    params, emb, f, state, k = setup(model)
    objective = rocket_objective(model, similarity=None, temperature=2.0)
    run = lambda p, e: grad(lambda p, e: objective(p, e, f, state, k)[0], argnums=(0, 1))(p, e)  # noqa: E731
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")(params, emb)
    for a, b in zip(compiled, run(params, emb), strict=True):
        for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True):
            torch.testing.assert_close(x, y)


def test_pairs_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match=r"n_classes: got \{'light': 1, 'booster': 3\}"):
        distilled(SMALL, other(3))
    clash = models.dcn_v2(models.DCNv2Config(group=Group.of("deep", ["a"], 2)))
    with pytest.raises(ConfigError, match=r"group 'deep': got .*rename one of them"):
        distilled(SMALL, clash)
    net = deep_net("deep_too", (4,))
    for light, booster, features, text in (
        (
            SMALL,
            LARGE,
            [("h0", "h0")],
            r"light model: got \['h0'\] of a model with no outputs; name them",
        ),
        (net, LARGE, [("h0", "h0")], r"features of the booster model: got \['h0'\] of a model with no outputs"),
        (net, frozen(ROCKET, *weights(ROCKET)), [("h0", "booster_0")], r"the booster model: .*with_features\(model"),
        (net, net, [("h0", "logits"), ("h1", "h0")], r"\['h0', 'h1'\] of a model with outputs \"logits\" and \['h0'\]"),
        (net, frozen(net, *weights(net)), [("h0", "h7")], r"booster model: got \['h7'\] of a model with outputs"),
    ):
        with pytest.raises(ConfigError, match=text):
            distilled(light, booster, features=features)
    hand_made = net._replace(config=SMALL.config)  # outputs whose names nobody has told
    wrong = distilled(hand_made, net, features=[("h9", "h0")])
    with pytest.raises(ConfigError, match=r"outputs of the light model: got \['logits', .*expected \['h9'\]"):
        distillation(wrong)(*setup(wrong))
    with pytest.raises(ConfigError, match="set similarity=None"):
        rocket_objective(distilled(SMALL, LARGE))
    rocket = rocket_launching(replace(ROCKET.config, light=MLPConfig(hidden_units=(7,))))
    with pytest.raises(ConfigError, match="of hidden layers of RocketLaunchingConfig: got none"):
        distillation(rocket)


def test_features_that_are_none_are_refused():
    for names in ((), ("a", "a"), ("a", "logits")):
        with pytest.raises(ConfigError, match="with_features: names"):
            with_features(SMALL, names, lambda *args, **options: [])
    params, state = weights(SMALL)
    emb, f = inputs(SMALL, 4)
    for found, seen in (([], "0 features"), (torch.zeros(1, 4), "a tensor")):
        model = with_features(SMALL, ["a"], lambda *args, found=found, **options: found)
        with pytest.raises(ConfigError, match=rf"with_features: features: got {seen}, expected a sequence"):
            outputs(model, params, emb, f, state)
