"""A group vector is its fields in their listed order, then its encodings; anything else is refused by name."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import ConfigError, KeyMissingError, ShapeError
from funcrec.core.groups import Encoded, Field, Group, Sequence
from funcrec.core.random import child, key
from funcrec.core.tree import leaves, paths, tree
from funcrec.layers.autodis import AutoDis
from funcrec.layers.din_attention import DINEncoder
from funcrec.layers.inputs import group_vector, init_inputs, inputs, sequence_keys, sequence_query, stacked
from funcrec.layers.linear_number import LinearNumber
from funcrec.layers.mlp import MLPConfig
from funcrec.layers.sequence_pooling import PoolingEncoder
from funcrec.layers.variational_dropout import variational_dropout
from tests.layers.cases import F64, noise

fields = st.lists(st.tuples(st.integers(1, 3), st.booleans()), min_size=1, max_size=6).map(
    lambda spec: tuple(Field(f"f{i}", dim, dense=dense) for i, (dim, dense) in enumerate(spec))
)


def laid_out(group: Group, rows: int = 4) -> tuple[dict[str, Tensor], TensorDict, TensorDict]:
    """A value for each field, and the same values laid out as a store and a reader lay them out."""
    values = {f.name: noise(i, rows, f.width if f.dense else f.dim) for i, f in enumerate(group.fields)}
    emb = TensorDict({}, batch_size=[rows])
    if group.embedded:
        parts = [values[f.name] for f in group.embedded]
        emb[group.name] = torch.stack(parts, 1) if len(group.embedded_shape) == 2 else torch.cat(parts, 1)
    dense = {f.name: values[f.name] for f in group.dense}
    return values, emb, TensorDict({"dense": dense} if dense else {}, batch_size=[rows])


def features(**parts: Any) -> TensorDict:
    return TensorDict(parts, batch_size=[])


@settings(max_examples=40, deadline=None)
@given(fields)
def test_fields_are_concatenated_in_listed_order(listed: tuple[Field, ...]) -> None:
    group = Group("g", listed)
    values, emb, batch = laid_out(group)
    got = group_vector(group, emb, batch)
    assert got.shape == (4, group.width)
    assert torch.equal(got, torch.cat([values[f.name] for f in listed], dim=1))
    params, state = init_inputs(key(0), [group])
    assert paths(params) == paths(state) == ()
    vectors, kept = inputs(params, [group], emb, batch, state)
    assert torch.equal(vectors["g"], got)
    assert kept is state


def test_the_stack_keeps_the_fields_apart() -> None:
    group = Group.of("g", ["a", "b", "c"], 2)
    values, emb, batch = laid_out(group)
    expected = torch.stack([values[n] for n in "abc"], dim=1)
    assert torch.equal(stacked(group, group_vector(group, emb, batch)), expected)


def test_only_stackable_groups_are_stacked() -> None:
    for group in (Group.of("g", ["a"], 2, dense=["raw"]), Group("g", (Field("a", 2), Field("b", 3)))):
        with pytest.raises(ConfigError, match="group 'g'"):
            stacked(group, noise(1, 4, group.width))


AGE = Field("age", 2, dense=True, number=AutoDis(num_channels=3))
PAIR = Field("pair", 2, dense=True, number=LinearNumber(), width=3)
CLICKS = Sequence("click", (Field("item", 2), AGE), (Field("h_item", 2), Field("ts", 1, dense=True), Field("cate", 2)))
DIN = DINEncoder(attn_mlp=MLPConfig(hidden_units=(3,), use_bn=True, activation="Dice"))
FULL = Group("full", (Field("a", 2), AGE, Field("b", 2)), (Encoded(CLICKS, DIN), Encoded(CLICKS, PoolingEncoder())))
OTHER = Group("other", (PAIR, AGE), (Encoded(CLICKS, DIN),), variational=True)
LENGTHS = torch.tensor([3, 0, 1, 2])


def full(rows: int = 4) -> tuple[TensorDict, TensorDict]:
    emb = {"full": noise(1, rows, 2, 2), "click": noise(2, rows, 3, 4), "click_query": noise(3, rows, 1, 2)}
    dense = {"age": noise(4, rows, 1), "pair": noise(5, rows, 3)}
    batch = features(dense=dense, sequence={"ts": noise(6, rows, 3, 1)}, length={"click": LENGTHS[:rows]})
    return TensorDict(emb, [rows]), batch


def test_encodings_come_after_all_fields_and_learned_numbers_in_their_place() -> None:
    groups = (FULL, OTHER)
    params, state = init_inputs(key(0), groups, F64)
    emb, batch = full()
    vectors, kept = inputs(params, groups, emb, batch, state)
    assert paths(kept) == paths(state)
    age = AGE.number.apply(params["numbers", "age"], batch["dense", "age"])  # type: ignore[union-attr]
    pair = PAIR.number.apply(params["numbers", "pair"], batch["dense", "pair"])  # type: ignore[union-attr]
    query = torch.cat([emb["click_query"][:, 0], age], dim=1)
    keys = torch.cat([emb["click"][..., :2], batch["sequence", "ts"], emb["click"][..., 2:]], dim=-1)
    assert torch.equal(sequence_query(CLICKS, emb, batch, params["numbers"]), query)
    assert torch.equal(sequence_keys(CLICKS, emb, batch)[0], keys)

    def encoded(group: str, i: str, encoder: Any) -> Tensor:
        own, held = params["encoders", group, i], state["encoders", group, i]
        return encoder.apply(own, query, keys, LENGTHS, held)[0]

    expected = [
        emb["full"][:, 0],
        age,
        emb["full"][:, 1],
        encoded("full", "0", DIN),
        encoded("full", "1", PoolingEncoder()),
    ]
    torch.testing.assert_close(vectors["full"], torch.cat(expected, dim=1))
    other = torch.cat([pair, age, encoded("other", "0", DIN)], dim=1)
    kept_part = variational_dropout(params["variational", "other"], other, [2, 2, 5])
    torch.testing.assert_close(vectors["other"], kept_part)
    assert {g.name: v.shape[1] for g, v in zip(groups, vectors.values(), strict=True)} == {"full": 16, "other": 9}
    assert list(FULL.dims) == ["a", "age", "b", "full_seq_encoder_0", "full_seq_encoder_1"]


def test_a_number_embedding_is_shared_between_groups_and_queries() -> None:
    """One set of parameters a field; each encoder, and each group's rates, are its own."""
    params, state = init_inputs(key(0), (FULL, OTHER), F64)
    assert sorted(params["numbers"].keys()) == ["age", "pair"]
    assert sorted(params["variational"].keys()) == ["other"]
    assert params["variational", "other", "logits"].shape == (3,)
    first, second = params["encoders", "full", "0"], params["encoders", "other", "0"]
    assert paths(first) == paths(second)
    assert not torch.equal(first["mlp", "0", "linear", "weight"], second["mlp", "0", "linear", "weight"])
    emb, batch = full()
    moved = params.clone()
    moved["numbers", "age", "meta"] = moved["numbers", "age", "meta"] + 1
    before, after = (inputs(p, (FULL, OTHER), emb, batch, state)[0] for p in (params, moved))
    changed = {n: (before[n] != after[n]).any(0) for n in before}
    assert changed["full"].tolist()[:11] == [False] * 2 + [True] * 2 + [False] * 2 + [True] * 5
    assert not changed["full"][11:].any(), "pooling has no query"
    assert changed["other"].tolist() == [False] * 2 + [True] * 7


def test_a_group_alone_and_among_others_has_the_same_parameters() -> None:
    alone, both = (init_inputs(key(0), groups, F64)[0] for groups in ([FULL], [OTHER, FULL]))
    for path in paths(alone):
        assert torch.equal(alone[tuple(path.split("."))], both[tuple(path.split("."))])


def test_training_moves_statistics_and_draws_with_the_key() -> None:
    groups = (FULL, OTHER)
    params, state = init_inputs(key(0), groups, F64)
    emb, batch = full()
    before = [v.clone() for v in leaves(state)]
    with pytest.raises(KeyMissingError, match="variational dropout"):
        inputs(params, groups, emb, batch, state, train=True)
    a, new = inputs(params, groups, emb, batch, state, key=key(1), train=True)
    b, _ = inputs(params, groups, emb, batch, state, key=key(2), train=True)
    assert paths(new) == paths(state)
    assert all(not torch.equal(x, y) for x, y in zip(leaves(new), leaves(state), strict=True))
    assert all(torch.equal(x, y) for x, y in zip(leaves(state), before, strict=True))
    assert torch.equal(a["full"], b["full"])
    assert not torch.equal(a["other"], b["other"])
    plain = (FULL, Group("other", OTHER.fields, OTHER.encoded))
    undropped = inputs(params, plain, emb, batch, state, key=key(1), train=True)[0]["other"]
    at = child(key(1), "variational other")
    expected = variational_dropout(params["variational", "other"], undropped, [2, 2, 5], key=at, train=True)
    assert torch.equal(a["other"], expected)


def test_equal_parts_draw_apart() -> None:
    """Two encoders of a group, and those of two groups: the same numbers, other units."""
    dropped = DINEncoder(attn_mlp=MLPConfig(hidden_units=(40,), dropout=0.5), softmax=False)
    past = Sequence("past", (Field("item", 2),), (Field("h_item", 2),))
    twins = (Encoded(past, dropped), Encoded(past, dropped))
    groups = tuple(Group(name, encoded=twins) for name in ("one", "two"))
    params, state = init_inputs(key(0), groups, F64)
    encoder = params["encoders", "one", "0"]
    same = tree({"encoders": {n: {"0": encoder, "1": encoder} for n in ("one", "two")}})
    emb = TensorDict({"past": noise(1, 3, 4, 2), "past_query": noise(2, 3, 1, 2)}, [3])
    batch = features(length={"past": torch.tensor([4, 3, 1])})
    whole, _ = inputs(same, groups, emb, batch, state)
    assert all(torch.equal(x, whole["one"][:, :2]) for v in whole.values() for x in v.chunk(2, dim=1))
    drawn, _ = inputs(same, groups, emb, batch, state, key=key(1), train=True)
    parts = [x for v in drawn.values() for x in v.chunk(2, dim=1)]
    assert not any(torch.equal(x, y) for x, y in combinations(parts, 2))


def test_the_rates_of_two_groups_draw_apart() -> None:
    groups = tuple(Group(name, (Field("a", 2), Field("b", 2)), variational=True) for name in ("one", "two"))
    rates = tree({"variational": {g.name: {"logits": torch.zeros(2, dtype=F64)} for g in groups}})
    emb = TensorDict({g.name: noise(1, 5, 2, 2) for g in groups}, [5])
    drawn, _ = inputs(rates, groups, emb, features(), tree(), key=key(1), train=True)
    assert not torch.equal(drawn["one"], drawn["two"])


def test_sequences_of_raw_numbers_or_without_a_query() -> None:
    raw = Sequence("raw", (), (Field("ts", 2, dense=True),))
    group = Group("g", encoded=(Encoded(raw, PoolingEncoder()),))
    params, state = init_inputs(key(0), [group], F64)
    batch = features(sequence={"ts": noise(1, 4, 3, 2)}, length={"raw": LENGTHS})
    emb = TensorDict({}, batch_size=[4])
    assert sequence_query(raw, emb, batch).shape == (4, 0)
    assert sequence_query(raw, emb, batch).dtype == F64
    y = inputs(params, [group], emb, batch, state)[0]["g"]
    torch.testing.assert_close(y, PoolingEncoder().apply(tree(), None, noise(1, 4, 3, 2), LENGTHS, tree())[0])


MIXED = Group("deep", (Field("a", 2), Field("b", 2), Field("age", 1, dense=True), Field("c", 2)))


@pytest.mark.parametrize("wrong", [(4, 2, 2), (4, 3, 3), (4, 6), (4,)])
def test_embeddings_of_another_shape(wrong: tuple[int, ...]) -> None:
    _, _, batch = laid_out(MIXED)
    emb = TensorDict({"deep": torch.zeros(wrong)}, batch_size=[4])
    with pytest.raises(ShapeError, match=r"group 'deep'.*'a', 'b', 'c'.*expected \[B, 3, 2\]") as error:
        group_vector(MIXED, emb, batch)
    assert str(wrong) in str(error.value)


@pytest.mark.parametrize("wrong", [(4, 2), (4,), (3, 1), (4, 1, 1)])
def test_dense_fields_of_another_shape(wrong: tuple[int, ...]) -> None:
    _, emb, _ = laid_out(MIXED)
    with pytest.raises(ShapeError, match=r"group 'deep': dense field 'age'.*expected \[4, 1\]") as error:
        group_vector(MIXED, emb, features(dense={"age": torch.zeros(wrong)}))
    assert str(wrong) in str(error.value)


def test_missing_entries() -> None:
    _, emb, batch = laid_out(MIXED)
    with pytest.raises(ShapeError, match=r"group 'deep': embedding of fields .*got none.*emb has \['wide'\]"):
        group_vector(MIXED, TensorDict({"wide": emb["deep"]}, batch_size=[4]), batch)
    for poor in (TensorDict({}, batch_size=[4]), TensorDict({"dense": {"height": noise(1, 4, 1)}}, batch_size=[4])):
        with pytest.raises(ShapeError, match="dense field 'age': got none"):
            group_vector(MIXED, emb, poor)
    with pytest.raises(ShapeError, match="group 'full': number embedding of field 'age': got no params"):
        group_vector(FULL, *full())


def without(batch: TensorDict, *path: str) -> TensorDict:
    kept = batch.to_dict()
    node = kept
    for name in path[:-1]:
        node = node[name]
    del node[path[-1]]
    return TensorDict(kept, batch_size=[])


def test_sequences_with_missing_or_misshapen_entries() -> None:
    emb, batch = full()
    with pytest.raises(ShapeError, match=r"sequence 'click': embedding of its keys: got none, expected \[B, T, 4\]"):
        sequence_keys(CLICKS, without(emb, "click"), batch)
    for wrong in (torch.zeros(4, 3, 3), torch.zeros(4, 12)):
        with pytest.raises(
            ShapeError, match=r"sequence 'click': embedding of its keys: got \(4, .*expected \[B, T, 4\]"
        ):
            sequence_keys(CLICKS, TensorDict({"click": wrong}, [4]), batch)
    for poor in (without(batch, "sequence"), without(batch, "sequence", "ts")):
        with pytest.raises(ShapeError, match=r"sequence 'click': raw numbers 'ts': got none, expected \[4, 3, 1\]"):
            sequence_keys(CLICKS, emb, poor)
    for shape in ((4, 2, 1), (4, 3, 2), (4, 3), (3, 3, 1)):
        wrong_raw = features(**{**batch.to_dict(), "sequence": {"ts": torch.zeros(shape)}})
        with pytest.raises(ShapeError, match=r"raw numbers 'ts': got \(.*expected \[4, 3, 1\]"):
            sequence_keys(CLICKS, emb, wrong_raw)
    raw = Sequence("raw", (), (Field("ts", 1, dense=True),))
    with pytest.raises(ShapeError, match=r"sequence 'raw': raw numbers 'ts': got none, expected \[B, T, 1\]"):
        sequence_keys(raw, emb, without(batch, "sequence"))
    for poor in (without(batch, "length"), without(batch, "length", "click")):
        with pytest.raises(
            ShapeError, match=r"sequence 'click': lengths: got none, expected \[4\]; batch\[\"length\"\]"
        ):
            sequence_keys(CLICKS, emb, poor)
    for counted in (LENGTHS[:3], LENGTHS[:, None]):
        with pytest.raises(ShapeError, match=r"sequence 'click': lengths: got \(.*expected \[4\]"):
            sequence_keys(CLICKS, emb, features(**{**batch.to_dict(), "length": {"click": counted}}))
    params, _ = init_inputs(key(0), [FULL], F64)
    with pytest.raises(ShapeError, match=r"group 'click_query': embedding of fields \['item'\]"):
        sequence_query(CLICKS, without(emb, "click_query"), batch, params["numbers"])


def test_one_field_has_one_number_embedding() -> None:
    other = Field("age", 2, dense=True, number=LinearNumber())
    with pytest.raises(
        ConfigError, match=r"field 'age': number embedding: got \[.*AutoDis.*LinearNumber.*expected one"
    ):
        init_inputs(key(0), [FULL, Group("g", (other,))])
    queried = Sequence("s", (other,), (Field("h", 2),))
    with pytest.raises(ConfigError, match="field 'age': number embedding"):
        init_inputs(key(0), [FULL, Group("g", encoded=(Encoded(queried, DIN),))])


def test_parameters_have_the_asked_dtype() -> None:
    for dtype in (torch.float32, F64):
        trees = init_inputs(key(0), [FULL, OTHER], dtype)
        assert {v.dtype for t in trees for v in leaves(t)} == {dtype}
    assert all(v.dtype == torch.float32 for v in leaves(init_inputs(key(0), [FULL])[0]))
