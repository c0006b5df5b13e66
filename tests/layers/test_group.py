"""A group vector is the concatenation of its fields in their listed order; anything else is refused by name."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import ConfigError, ShapeError
from funcrec.core.groups import Field, Group
from funcrec.layers.group import group_stack, group_vector
from tests.layers.cases import noise

fields = st.lists(st.tuples(st.integers(1, 3), st.booleans()), min_size=1, max_size=6).map(
    lambda spec: tuple(Field(f"f{i}", dim, dense=dense) for i, (dim, dense) in enumerate(spec))
)


def inputs(group: Group, rows: int = 4) -> tuple[dict[str, Tensor], TensorDict, TensorDict]:
    """A value for each field, and the same values laid out as a store and a reader lay them out."""
    values = {f.name: noise(i, rows, f.dim) for i, f in enumerate(group.fields)}
    emb = TensorDict({}, batch_size=[rows])
    if group.embedded:
        parts = [values[f.name] for f in group.embedded]
        emb[group.name] = torch.stack(parts, 1) if group.stacked_dim else torch.cat(parts, 1)
    dense = {f.name: values[f.name] for f in group.dense}
    return values, emb, TensorDict({"dense": dense} if dense else {}, batch_size=[rows])


@settings(max_examples=40, deadline=None)
@given(fields)
def test_fields_are_concatenated_in_listed_order(listed: tuple[Field, ...]) -> None:
    group = Group("g", listed)
    values, emb, batch = inputs(group)
    got = group_vector(group, emb, batch)
    assert got.shape == (4, group.width)
    assert torch.equal(got, torch.cat([values[f.name] for f in listed], dim=1))


def test_the_stack_keeps_the_fields_apart() -> None:
    group = Group.of("g", ["a", "b", "c"], 2)
    values, emb, _ = inputs(group)
    assert torch.equal(group_stack(group, emb), torch.stack([values[n] for n in "abc"], dim=1))


def test_only_stackable_groups_are_stacked() -> None:
    for group in (Group.of("g", ["a"], 2, dense=["raw"]), Group("g", (Field("a", 2), Field("b", 3)))):
        with pytest.raises(ConfigError, match="group 'g'"):
            group_stack(group, inputs(group)[1])


MIXED = Group("deep", (Field("a", 2), Field("b", 2), Field("age", 1, dense=True), Field("c", 2)))


@pytest.mark.parametrize("wrong", [(4, 2, 2), (4, 3, 3), (4, 6), (4,)])
def test_embeddings_of_another_shape(wrong: tuple[int, ...]) -> None:
    _, _, batch = inputs(MIXED)
    emb = TensorDict({"deep": torch.zeros(wrong)}, batch_size=[4])
    with pytest.raises(ShapeError, match=r"group 'deep'.*'a', 'b', 'c'.*expected \[B, 3, 2\]") as error:
        group_vector(MIXED, emb, batch)
    assert str(wrong) in str(error.value)


@pytest.mark.parametrize("wrong", [(4, 2), (4,), (3, 1), (4, 1, 1)])
def test_dense_fields_of_another_shape(wrong: tuple[int, ...]) -> None:
    _, emb, _ = inputs(MIXED)
    batch = TensorDict({"dense": {"age": torch.zeros(wrong)}}, batch_size=[])
    with pytest.raises(ShapeError, match=r"group 'deep': dense field 'age'.*expected \[4, 1\]") as error:
        group_vector(MIXED, emb, batch)
    assert str(wrong) in str(error.value)


def test_missing_entries() -> None:
    _, emb, batch = inputs(MIXED)
    with pytest.raises(ShapeError, match="group 'deep': embedding of fields"):
        group_vector(MIXED, TensorDict({"wide": emb["deep"]}, batch_size=[4]), batch)
    for poor in (TensorDict({}, batch_size=[4]), TensorDict({"dense": {"height": noise(1, 4, 1)}}, batch_size=[4])):
        with pytest.raises(ShapeError, match="dense field 'age'"):
            group_vector(MIXED, emb, poor)
