"""Any model as the booster of any other: who reads what, who learns what, and a teacher that stays as it is."""

import pytest
import torch
from torch.func import grad

from funcrec import models
from funcrec.core import tree
from funcrec.core.errors import ConfigError
from funcrec.core.groups import Encoded, Field, Group, Sequence
from funcrec.core.model import Model
from funcrec.core.random import fold_in, key
from funcrec.layers.mlp import MLPConfig
from funcrec.layers.sequence_pooling import PoolingEncoder
from funcrec.layers.simple_attention import SimpleAttention
from funcrec.losses import bce, softmax_cross_entropy
from funcrec.models.rocket_launching import rocket_launching
from funcrec.transform import distillation, distilled, frozen, part_gradients, rocket_objective, routing
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
@pytest.mark.parametrize("name", sorted(MODELS))
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


def test_features_are_compared_pair_by_pair_in_their_order():
    """Two of one width, crosswise: the rule of the first equal width would pair both with the first."""
    options = {"group": Group.of("g", ["a"], 3), "booster": MLP, "light": MLPConfig(hidden_units=(4, 4))}
    rocket = rocket_launching(models_config(**options))
    model = distilled(rocket, rocket, features=[("light_0", "booster"), ("light_1", "booster_0")])
    args = setup(model)
    with pytest.raises(ValueError, match="student and teacher"):
        distillation(model)(*args)  # widths 4 and 1
    model = distilled(rocket, rocket, features=[("light_1", "light_0"), ("light_0", "booster_0")])
    params, emb, f, state, k = args
    out, _ = outputs(model, params, emb, f, state, key=k, train=True)
    assert [n for n in out if "_" in n] == ["light_0", "light_1", "booster_0", "booster_1"]
    parts = distillation(model, similarity=lambda s, t, w: (s - t.detach()).abs().sum())
    values = parts(*args)[0]
    assert {n for n in values if n[0] == "s"} == {"similarity_0_0", "similarity_1_1"}
    by_hand = outputs(rocket, params["light"], emb, f, state["light"], train=True)[0]
    teacher = outputs(rocket, params["booster"], emb, f, state["booster"], train=True)[0]
    torch.testing.assert_close(values["similarity_0_0"], (by_hand["light_1"] - teacher["light_0"]).abs().sum())
    torch.testing.assert_close(values["similarity_1_1"], (by_hand["light_0"] - teacher["booster_0"]).abs().sum())
    for part, columns in reached(routing(parts, *args)).items():
        assert columns == ({"booster"} if part == "bce_booster" else {"light"}), part  # a rocket's logits stop at emb


def models_config(**options):
    return type(ROCKET.config)(**options)


def test_pairs_of_pairs():
    """A pair may be the light side of another: its own booster is then left out."""
    inner = distilled(SMALL, LARGE)
    model = distilled(inner, other(1))
    params, emb, f, state, k = setup(model)
    assert torch.equal(model.apply(params, emb, f, state)[0], inner.apply(params["light"], emb, f, state["light"])[0])
    table = routing(distillation(model, similarity=None), params, emb, f, state, k)
    assert table["hint_l2_loss"]["light"] > 0


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
    teacher = rocket_launching(ROCKETS["rocket_dropout"][1])
    params, state = weights(teacher)
    emb, f = inputs(teacher, 4)
    model = frozen(teacher, params, state)
    empty = model.init(key(0))
    expected = teacher.apply(params, emb, f, state)[0]
    assert torch.equal(model.apply(empty[0], emb, f, empty[1], train=True)[0], expected)
    assert torch.equal(outputs(model, empty[0], emb, f, empty[1], train=True)[0]["light"], expected)
    assert frozen(SMALL, *weights(SMALL)).outputs is None


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
    with pytest.raises(ConfigError, match=r"features: got \['light', 'booster'\] without outputs"):
        distilled(SMALL, LARGE, features=[("a", "b")])
    wrong = distilled(ROCKET, ROCKET, features=[("light_9", "booster_1")])
    with pytest.raises(ConfigError, match=r"outputs of the light model: got \['light', .*expected \['light_9'\]"):
        outputs(wrong, *(lambda p, e, f, s, k: (p, e, f, s))(*setup(wrong)), train=True)
    with pytest.raises(ConfigError, match="set similarity=None"):
        rocket_objective(distilled(SMALL, LARGE))(*setup(distilled(SMALL, LARGE)))
