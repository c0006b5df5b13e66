"""MultiTower and DIN written out; the order of their parts; what they refuse."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import grad

from funcrec.core import tree
from funcrec.core.errors import ConfigError
from funcrec.core.groups import Encoded, Field, Group, Sequence
from funcrec.core.random import key
from funcrec.layers.din_attention import DINEncoder, din_attention
from funcrec.layers.linear import linear
from funcrec.layers.mlp import MLPConfig, mlp, mlp_parameter_count
from funcrec.layers.sequence_pooling import PoolingEncoder
from funcrec.models.din import INTERESTS, DINConfig, din
from funcrec.models.multi_tower import MultiTowerConfig, Tower, multi_tower
from tests.models.cases import MLP, inputs, weights
from tests.models.cases_towers import ATTENTION, CASES, CLICKS, DIN, ITEM, USER

LN = MLPConfig(hidden_units=(4,), use_ln=True)
FINAL = MLPConfig(hidden_units=(3,), activation="nn.Tanh")


@given(st.permutations([Tower(USER, MLP), Tower(ITEM, LN), Tower(Group.of("raw", ["z"], 2, ["w"]))]))
def test_multi_tower_is_its_formula_in_the_order_of_its_towers(towers: list[Tower]) -> None:
    model = multi_tower(MultiTowerConfig(towers=tuple(towers), final=FINAL, n_classes=2))
    params, state = weights(model)
    emb, features = inputs(model, 4)
    dense = features["dense"]
    vectors = {
        "user": torch.cat([emb["user"][:, :3], dense["age"], emb["user"][:, 3:]], dim=1),
        "item": emb["item"].flatten(1),
        "raw": torch.cat([emb["raw"].flatten(1), dense["w"]], dim=1),
    }
    parts = []
    for tower in towers:
        x, name = vectors[tower.group.name], tower.group.name
        parts.append(mlp(params["towers", name], x, state["towers", name], tower.mlp)[0] if tower.mlp else x)
    hidden, _ = mlp(params["final"], torch.cat(parts, dim=1), state["final"], FINAL)
    torch.testing.assert_close(model.apply(params, emb, features, state)[0], linear(params["head"], hidden))


def test_din_is_towers_then_interests() -> None:
    dice = DINEncoder(attn_mlp=MLPConfig(hidden_units=(4,), activation="Dice", use_bn=True))
    carts = Sequence("cart", (Field("item", 2),), (Field("cart_item", 2), Field("ts", 1, dense=True)))
    config = DINConfig(
        towers=(Tower(USER, MLP), Tower(ITEM)),
        interests=(Encoded(CLICKS, DIN), Encoded(carts, dice), Encoded(CLICKS, PoolingEncoder())),
        final=FINAL,
    )
    model = din(config)
    assert model.config is config
    params, state = weights(model)
    emb, features = inputs(model, 4)
    n = features["length"]
    user = torch.cat([emb["user"][:, :3], features["dense", "age"], emb["user"][:, 3:]], dim=1)
    encoders, held = params["inputs", "encoders", "interests"], state["inputs", "encoders", "interests"]
    cart = torch.cat([emb["cart"], features["sequence", "ts"]], dim=-1)
    cart_query = emb["cart_query"].flatten(1)
    parts = [
        mlp(params["towers", "user"], user, state["towers", "user"], MLP)[0],
        emb["item"].flatten(1),
        din_attention(encoders["0"], emb["click_query"], emb["click"].flatten(2), n["click"], held["0"], DIN)[0],
        din_attention(encoders["1"], cart_query, cart, n["cart"], held["1"], dice)[0],
        emb["click"].sum(1) / n["click"][:, None].clamp(min=1),
    ]
    hidden, _ = mlp(params["final"], torch.cat(parts, dim=1), state["final"], FINAL)
    torch.testing.assert_close(model.apply(params, emb, features, state)[0], linear(params["head"], hidden))


def test_parameter_counts() -> None:
    model = multi_tower(MultiTowerConfig(towers=(Tower(USER, MLP), Tower(ITEM)), final=FINAL, n_classes=2))
    final_in = MLP.output_dim + ITEM.width
    expected = mlp_parameter_count(USER.width, MLP) + mlp_parameter_count(final_in, FINAL) + 2 * (FINAL.output_dim + 1)
    assert tree.count(model.init(key(0))[0]) == expected
    with_interest = din(DINConfig(interests=(Encoded(CLICKS, DIN),), final=FINAL))
    attention = mlp_parameter_count(4 * CLICKS.key_dim, ATTENTION) + ATTENTION.output_dim + 1
    expected = attention + mlp_parameter_count(CLICKS.key_dim, FINAL) + FINAL.output_dim + 1
    assert tree.count(with_interest.init(key(0))[0]) == expected


def test_attention_is_compared_with_pooling_by_swapping_the_encoder() -> None:
    """Same interface, same other parameters, and only attention looks at the query."""
    attended = DINConfig(towers=(Tower(USER, MLP),), interests=(Encoded(CLICKS, DIN),), final=FINAL)
    pooled = replace(attended, interests=(Encoded(CLICKS, PoolingEncoder()),))
    a, b = din(attended).init(key(0))[0], din(pooled).init(key(0))[0]
    for name in ("final", "head", "towers"):
        for x, y in zip(tree.leaves(a[name]), tree.leaves(b[name]), strict=True):
            assert torch.equal(x, y)
    for config, looks in ((attended, True), (pooled, False)):
        model = din(config)
        params, state = weights(model)
        emb, features = inputs(model, 4)
        d = grad(lambda e: model.apply(params, e, features, state)[0].sum())(emb)  # noqa: B023
        assert bool((d["click_query"] != 0).any()) is looks


@given(st.lists(st.sampled_from(["interests", "interests_", "interests__", "user"]), unique=True))
def test_the_interests_give_way_to_any_group_of_that_name(names: list[str]) -> None:
    """Groups are the caller's to name: the model is that of towers on groups called otherwise."""

    def model(names: list[str]):
        towers = tuple(Tower(Group(n, USER.fields), MLP) for n in names)
        return din(DINConfig(towers=towers, interests=(Encoded(CLICKS, DIN),), final=FINAL))

    given_names, other = model(names), model([f"group{i}" for i in range(len(names))])
    params, state = weights(given_names)
    emb, features = inputs(given_names, 3)
    name = given_names.config.interests_name
    assert name not in names
    assert other.config.interests_name == INTERESTS == "interests"
    assert name == INTERESTS or INTERESTS in names
    assert set(params["inputs", "encoders"].keys()) == {name}

    def renamed(t):
        to = {n: f"group{i}" for i, n in enumerate(names)} | {name: INTERESTS}
        return tree.tree({to.get(k, k): renamed(v) if isinstance(v, type(t)) else v for k, v in t.items()})

    seen = type(emb)(dict(renamed(emb).items()), emb.batch_size)
    expected = given_names.apply(params, emb, features, state)[0]
    torch.testing.assert_close(other.apply(renamed(params), seen, features, renamed(state))[0], expected)


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if any(g.sequences for g in c.model().groups)])
def test_padding_and_its_length_do_not_reach_the_logits(name: str) -> None:
    model = CASES[name].model()
    params, state = weights(model)
    emb, features = inputs(model, 4)
    expected, _ = model.apply(params, emb, features, state)
    longer, more = emb.clone(), features.clone()
    for s in {s.name: s for g in model.groups for s in g.sequences}.values():
        junk = torch.full((4, 2, emb[s.name].shape[2]), torch.nan, dtype=torch.float64)
        longer[s.name] = torch.cat([emb[s.name], junk], dim=1)
        for f in (f.name for f in s.keys if f.dense):
            more["sequence", f] = torch.cat([features["sequence", f], junk[..., :1]], dim=1)
    torch.testing.assert_close(model.apply(params, longer, more, state)[0], expected)


def test_errors_are_sentences() -> None:
    twice = (Tower(USER, MLP), Tower(ITEM), Tower(USER, LN))
    text = r"several towers on one group: got \['user'\]; parameters are kept by group name: give each tower a group"
    with pytest.raises(ConfigError, match="MultiTower: " + text):
        MultiTowerConfig(towers=twice, final=FINAL)
    with pytest.raises(ConfigError, match="DIN: " + text):
        DINConfig(towers=twice, interests=(Encoded(CLICKS, DIN),), final=FINAL)
    with pytest.raises(ConfigError, match="MultiTower: towers: got none, expected at least one"):
        MultiTowerConfig(towers=(), final=FINAL)
    with pytest.raises(ConfigError, match=r"DIN: interests: got none.*use MultiTower"):
        DINConfig(towers=(Tower(USER),), interests=(), final=FINAL)
    short = Sequence("s", (Field("q", 4),), (Field("k", 2),))
    with pytest.raises(ConfigError, match=r"query_dim > sequence_dim not supported yet\."):
        din(DINConfig(interests=(Encoded(short, DIN),), final=FINAL))
