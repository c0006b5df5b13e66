"""What every config checks and every option reaches: classes, groups, shapes, initial laws."""

from __future__ import annotations

import itertools
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from funcrec import models
from funcrec.core import tree
from funcrec.core.errors import ConfigError, ShapeError
from funcrec.core.groups import Encoded, Field, Group, Sequence
from funcrec.core.init import Constant
from funcrec.core.random import key
from funcrec.embedding import spec_for
from funcrec.layers.linear_number import LinearNumber
from funcrec.layers.sequence_pooling import PoolingEncoder
from tests.models.cases import DEEP, IDS, MLP, WIDE, inputs, weights
from tests.models.cases_full import FULL, WITH_CLASSES, Parts
from tests.models.table import CASES


@pytest.mark.parametrize("name", WITH_CLASSES)
@given(classes=st.integers(-3, 0) | st.just(1.5))
def test_the_number_of_classes_is_checked_by_the_config(name, classes):
    with pytest.raises(ConfigError, match=rf"n_classes: got {classes}, expected a positive integer; 1 for one logit"):
        FULL[name].config(Parts(), n_classes=classes)


@pytest.mark.parametrize("name", WITH_CLASSES)
def test_initial_laws_reach_the_output_layers_and_nothing_else(name):
    """Under ``weight`` and ``bias_init`` just the leaves of the documented layers change, each to its own law."""
    make, config, outputs = FULL[name]
    usual = make(config(Parts())).init(key(0))[0]
    laws = {"weight": Constant(0.25), "bias_init": Constant(0.5)}
    for given_laws in ({"weight": laws["weight"]}, {"bias_init": laws["bias_init"]}, laws):
        params = make(config(Parts(), **given_laws)).init(key(0))[0]
        for path, x, before in zip(tree.paths(params), tree.leaves(params), tree.leaves(usual), strict=True):
            law = "bias_init" if path.endswith("bias") else "weight"
            if path.startswith(tuple(f"{layer}." for layer in outputs)) and law in given_laws:
                assert bool((x == laws[law].value).all()), path
            else:
                assert torch.equal(x, before), path
    assert {o for o in outputs if any(p.startswith(f"{o}.") for p in tree.paths(usual))} == set(outputs)


def test_initial_laws_reach_both_output_layers_of_xdeepfm():
    config = models.XDeepFMConfig(cin_group=WIDE, cin_layer_size=(2,), deep=DEEP, deep_mlp=MLP, weight=Constant(0.25))
    params, _ = models.xdeepfm(config).init(key(0))
    assert all((params[part, "weight"] == 0.25).all() for part in ("head", "cin_head"))


def slots(config) -> list[str]:
    """The fields of a config that hold a group."""
    return [f.name for f in fields(config) if isinstance(getattr(config, f.name), Group)]


SEVERAL = [name for name in FULL if len(slots(FULL[name].config(Parts()))) > 1]


@pytest.mark.parametrize("name", SEVERAL)
def test_two_different_groups_of_one_name_are_refused(name):
    config = FULL[name].config(Parts())
    assert [g.name for g in FULL[name].make(config).groups] == list(
        dict.fromkeys(getattr(config, s).name for s in slots(config))
    )
    for one, two in itertools.combinations(slots(config), 2):
        other = replace(getattr(config, two), name=getattr(config, one).name)
        with pytest.raises(ConfigError, match=r"different groups of one name: got \[.*; rename one of them"):
            replace(config, **{two: other})


ONE, FOUR = Group.of("g", IDS, 1), Group.of("g", IDS, 4)
SHARING: dict[str, Any] = {
    "fm": models.FMConfig(wide=ONE, fm=ONE),
    "deepfm": models.DeepFMConfig(wide=FOUR, deep=FOUR, fm=FOUR, deep_mlp=MLP, final=MLP),
    "wide_and_deep": models.WideAndDeepConfig(wide=FOUR, deep=FOUR, deep_mlp=MLP),
    "xdeepfm": models.XDeepFMConfig(cin_group=FOUR, cin_layer_size=(2,), deep=FOUR, deep_mlp=MLP, wide=FOUR),
    "dlrm": models.DLRMConfig(sparse=FOUR, dense=FOUR, dense_mlp=replace(MLP, hidden_units=(4,)), final=MLP),
    "wukong": models.WuKongConfig(
        sparse=FOUR,
        dense=FOUR,
        dense_mlp=replace(MLP, hidden_units=(4,)),
        layers=FULL["wukong"].config(Parts()).layers,
        final=MLP,
    ),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_one_group_in_several_places_is_read_once(name):
    """It has one entry in the groups and the spec, and the logits of copies that hold the same vectors."""
    config = SHARING[name]
    shared = FULL[name].make(config)
    assert shared.groups == (getattr(config, slots(config)[0]),)
    assert [g.name for g in spec_for(shared.groups, dict.fromkeys(IDS, 5)).groups] == ["g"]
    copies = {s: replace(getattr(config, s), name=s) for s in slots(config)}
    apart = FULL[name].make(replace(config, **copies))
    params, state = weights(shared)
    emb, features = inputs(shared, 3)
    several = type(emb)(dict.fromkeys(copies, emb["g"]), emb.batch_size)
    expected = apart.apply(params, several, features, state)[0]
    torch.testing.assert_close(shared.apply(params, emb, features, state)[0], expected)


HISTORY = Encoded(Sequence("clicks", (), (Field("h", 2),)), PoolingEncoder())
NOT_LOOKED_UP = {
    "dense feature ['x'] should not be configured in wide group": Group.of("wide", IDS, 2, ["x"]),
    "dense feature ['n'] should not be configured in wide group": Group(
        "wide", (*WIDE.fields, Field("n", 2, dense=True, number=LinearNumber()))
    ),
    "histories in the wide group: got ['clicks']": Group("wide", WIDE.fields, (HISTORY,)),
}


@pytest.mark.parametrize("text", NOT_LOOKED_UP)
@pytest.mark.parametrize("name", ["wide_and_deep", "deepfm", "xdeepfm"])
def test_the_wide_part_reads_looked_up_ids_only(name, text):
    config = FULL[name].config(Parts())
    with pytest.raises(ConfigError) as caught:
        replace(config, wide=NOT_LOOKED_UP[text])
    assert text in str(caught.value)


def spoiled(x: torch.Tensor):
    """A tensor in shapes that a model must not take for its own; of one row and one column, too."""
    yield from (x[..., :-1], torch.cat([x, x], -1), x.unsqueeze(-1), x.flatten(1).repeat(1, 2), x.sum(-1))
    if x.dim() == 3:
        yield from (x[:, :1], torch.cat([x, x], 1), x.transpose(1, 2)[:, :, :-1])


@pytest.mark.parametrize("name", CASES)
def test_embeddings_and_raw_numbers_of_another_shape_are_named(name):
    model = CASES[name].model()
    params, state = weights(model)
    emb, features = inputs(model, 3)
    sequences = {s.name: s for g in model.groups for s in g.sequences}
    for group, x in emb.items():
        kind = f"sequence {group!r}" if group in sequences else f"group {group!r}"
        # Any number of steps will do for a history, and other rows than B are another matter.
        wrong = [y for y in spoiled(x) if y.shape[1:] != x.shape[1:]]
        wrong = [y for y in wrong if not (group in sequences and y.dim() == 3 and y.shape[2] == x.shape[2])]
        for bad in (*(emb.clone().set(group, y) for y in wrong), emb.exclude(group)):
            with pytest.raises(ShapeError, match=kind):
                model.apply(params, bad, features, state)
    for field, x in features["dense"].items():
        for bad in (torch.cat([x, x], 1), x[:, :0], x[:, 0]):
            other = features.clone()
            other["dense", field] = bad
            with pytest.raises(ShapeError, match=f"dense field {field!r}"):
                model.apply(params, emb, other, state)
        with pytest.raises(ShapeError, match=f"dense field {field!r}"):
            model.apply(params, emb, features.exclude(("dense", field)), state)
