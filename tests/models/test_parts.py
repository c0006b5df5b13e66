"""What holds for every part of every model: it trains when the model trains, and it drops units of its own."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import grad

from funcrec import models
from funcrec.core import tree
from funcrec.core.errors import KeyMissingError
from funcrec.core.random import key
from tests.models.cases import inputs, weights
from tests.models.cases_full import FULL, WITH_CLASSES, Parts, everything

every_model = pytest.mark.parametrize("name", FULL)


def names_of(name: str) -> list[str]:
    parts = Parts()
    FULL[name].config(parts)
    return parts.names


def setup(name: str, parts: Parts, batch: int):
    model = FULL[name].make(FULL[name].config(parts))
    return model, *weights(model), *inputs(model, batch)


def test_the_table_has_every_model():
    factories = {n for n in models.__all__ if n.islower()}
    assert set(FULL) == factories
    assert {n for n in FULL if hasattr(FULL[n].config(Parts()), "n_classes")} == set(WITH_CLASSES)


@every_model
def test_running_statistics_of_every_part_move_in_training_and_stay_in_evaluation(name):
    parts = Parts(lambda part: {"use_bn": True})
    model, params, state, emb, features = setup(name, parts, 6)
    assert len(tree.leaves(state)) == 2 * len(parts.layers), "a mean and a variance a layer"
    for train in (False, True):
        _, new = everything(model, params, emb, features, state, train=train)
        assert tree.paths(new) == tree.paths(state)
        for path, old, moved in zip(tree.paths(state), tree.leaves(state), tree.leaves(new), strict=True):
            assert torch.equal(old, moved) != train, path


@pytest.mark.parametrize(("name", "part"), [(n, p) for n in FULL for p in names_of(n)])
def test_dropout_in_one_part_alone_needs_a_key_and_reaches_the_outputs(name, part):
    parts = Parts(lambda p: {"dropout": 0.5} if p == part else {})
    model, params, state, emb, features = setup(name, parts, 4)

    def run(**options):
        out, _ = everything(model, params, emb, features, state, **options)
        return torch.cat([out[n].flatten() for n in sorted(out)])

    evaluated = run()
    assert torch.equal(run(key=key(0)), evaluated)
    with pytest.raises(KeyMissingError):
        run(train=True)
    one, two, again = (run(key=key(s), train=True) for s in (0, 1, 0))
    assert torch.equal(one, again)
    assert not torch.equal(one, two)


@pytest.mark.parametrize("name", [n for n in FULL if names_of(n)])
@settings(max_examples=5)
@given(seed=st.integers(0, 10_000))
def test_parts_drop_units_of_their_own(name, seed):
    """Of one row, the bias of a unit has no gradient if and only if the unit was dropped.

    Two masks of 32 are never equal by chance. Masks of equal keys are equal: of the first step of a history too.
    """
    parts = Parts(lambda part: {"dropout": 0.5}, units=(32, 32))
    model, params, state, emb, features = setup(name, parts, 1)
    if "length" in features.keys():
        features["length"] = tree.map_leaves(torch.ones_like, features["length"])
    names = tree.paths(params)
    blocks = [n for n in names if "blocks" in n and n.endswith("norm.bias")]
    # Mask blocks end in a ReLU: where it is flat, nothing can be seen of the dropout above it.
    params = tree.unflatten(
        names, [x + 9.0 if n in blocks else x for n, x in zip(names, tree.leaves(params), strict=True)]
    )

    def total(p):
        out, _ = everything(model, p, emb, features, state, key=key(seed), train=True)
        return torch.stack([y.sin().sum() for y in out.values()]).sum()

    slopes = dict(zip(names, tree.leaves(grad(total)(params)), strict=True))
    kept = {n: g != 0 for n, g in slopes.items() if g.shape == (32,) and (n.endswith("linear.bias") or n in blocks)}
    assert len(kept) == parts.layers.count(32) + parts.blocks
    for (one, a), (two, b) in itertools.combinations(kept.items(), 2):
        assert not torch.equal(a, b), f"{one} and {two} drop the same units"
