"""The lookup against a loop over bags, and its transpose against autograd."""

import pytest
import torch
from hypothesis import given

from funcrec.core.errors import ConfigError, DataError, ShapeError
from funcrec.core.groups import Encoded, Field, Group, Sequence
from funcrec.core.ragged import Nested, Ragged
from funcrec.core.random import key, normal
from funcrec.embedding import EmbeddingGroup, EmbeddingSpec, Lookup, SequenceGroup, Table, spec_for
from funcrec.embedding.lookup import gather, scatter
from funcrec.embedding.ranges import in_range
from funcrec.embedding.rows import densify, squared_norm, sum_duplicates, summands
from funcrec.embedding.store import init_weights
from tests.embedding.strategies import problems


def slow_bag(table, bag, pooling):
    ids, weights = bag
    w = torch.ones(len(ids), dtype=torch.float64) if weights is None else weights
    total = sum((table[i] * wi for i, wi in zip(ids, w, strict=True)), torch.zeros(table.shape[1]))
    return total / w.sum() if pooling == "mean" and len(w) else total


def row_of(x, b):
    """The ids and weights of one row."""
    s = slice(int(x.offsets[b]), int(x.offsets[b + 1]))
    return x.values[s], None if x.weights is None else x.weights[s]


def slow_lookup(spec, weights, ids, group):
    """One bag at a time."""
    out = []
    for lk in group.lookups:
        table, x = spec.table(weights, lk.table), ids[lk.feature]
        if isinstance(x, Ragged):
            rows = [slow_bag(table, row_of(x, b), lk.pooling) for b in range(len(x))]
        else:
            rows = [table[i] for i in x]
        out.append(torch.stack(rows).double())
    return torch.stack(out, 1) if len({x.shape[1] for x in out}) == 1 else torch.cat(out, 1)


def slow_history(spec, weights, ids, sequence):
    """One step at a time."""
    lengths = ids[sequence.lookups[0].feature].lengths
    t = int(lengths.max()) if sequence.pad_to is None else sequence.pad_to
    out = []
    for lk in sequence.lookups:
        table, x = spec.table(weights, lk.table), ids[lk.feature]
        padded = torch.zeros(len(lengths), t, table.shape[1], dtype=torch.float64)
        for b in range(len(lengths)):
            for step in range(int(lengths[b])):
                at = int(x.offsets[b]) + step
                padded[b, step] = (
                    slow_bag(table, row_of(x.bags, at), lk.pooling) if isinstance(x, Nested) else table[x.values[at]]
                )
        out.append(padded)
    return torch.cat(out, 2)


def random_like(emb, seed=1):
    return emb.apply(lambda x: normal(key(seed), x.shape, dtype=x.dtype))


@given(problems())
def test_lookup_is_the_loop_over_bags(problem):
    spec, (ids,) = problem
    weights = init_weights(spec, key(0))
    emb, _ = gather(spec, weights, ids)
    for group in spec.groups:
        torch.testing.assert_close(emb[group.name], slow_lookup(spec, weights, ids, group))
    for sequence in spec.sequences:
        torch.testing.assert_close(emb[sequence.name], slow_history(spec, weights, ids, sequence))


@given(problems())
def test_scatter_is_the_adjoint_and_the_gradient(problem):
    spec, (ids,) = problem
    weights = init_weights(spec, key(0))
    emb, touched = gather(spec, weights, ids)
    d_emb = random_like(emb)

    def inner(w):
        return sum((gather(spec, w, ids)[0][g.name] * d_emb[g.name]).sum() for g in spec.every_group)

    autograd = torch.func.grad(inner)(weights)
    sparse = {n: sum_duplicates(g) for n, g in scatter(spec, touched, d_emb).items()}
    for stack in spec.stacks:
        if stack.name in sparse:
            torch.testing.assert_close(densify(sparse[stack.name], stack.rows), autograd[stack.name])
            rows = sparse[stack.name].rows
            assert rows is not None
            assert torch.equal(rows, rows.unique()), "each row once, ascending"
    total = sum((densify(g, weights[n].shape[0]) * weights[n]).sum() for n, g in sparse.items())
    torch.testing.assert_close(total, inner(weights))
    expected = sum(g.square().sum() for g in autograd.values())
    torch.testing.assert_close(squared_norm(sparse), expected)


@given(problems())
def test_forward_mode_and_stacked_tables(problem):
    spec, (ids,) = problem
    weights, tangent = init_weights(spec, key(0)), init_weights(spec, key(7))

    def look(w):
        return gather(spec, w, ids)[0]

    moved = torch.func.jvp(look, (weights,), (tangent,))[1]
    straight = look(tangent)  # the lookup is linear in the tables
    stacked = torch.vmap(look)(torch.stack([weights, tangent]))
    for g in spec.every_group:
        torch.testing.assert_close(moved[g.name], straight[g.name])
        torch.testing.assert_close(stacked[g.name][1], straight[g.name])


def one_table(pooling="sum"):
    lookup = Lookup(feature="f", table="t", pooling=pooling)
    return EmbeddingSpec(
        tables=(Table(name="t", rows=4, dim=2), Table(name="after", rows=9, dim=2)),
        groups=(EmbeddingGroup(name="g", lookups=(lookup,)),),
    )


@pytest.mark.parametrize("bad", [-1, 4])
@pytest.mark.parametrize("ragged", [False, True])
def test_an_id_outside_its_own_table_raises_though_the_stack_has_that_row(bad, ragged):
    spec, ids = one_table(), torch.tensor([0, 3, bad])
    x = Ragged(ids, torch.tensor([0, 2, 3])) if ragged else ids
    with pytest.raises(DataError, match=rf"feature 'f': id out of range of table 't': got {bad}, expected 0 to 3"):
        gather(spec, init_weights(spec, key(0)), {"f": x})


def test_bad_ids_are_named():
    spec = one_table()
    weights = init_weights(spec, key(0))
    with pytest.raises(DataError, match="ids of feature 'f'"):
        gather(spec, weights, {"e": torch.tensor([0])})
    with pytest.raises(ShapeError, match=r"expected int64 \[B\]"):
        gather(spec, weights, {"f": torch.tensor([0.5])})
    with pytest.raises(ShapeError, match=r"expected int64 \[B\]"):
        gather(spec, weights, {"f": torch.tensor([[0]])})


def test_empty_bags_give_zero_for_both_poolings():
    empty = Ragged(torch.zeros(0, dtype=torch.int64), torch.zeros(4, dtype=torch.int64))
    for pooling in ("sum", "mean"):
        spec = one_table(pooling)
        emb, touched = gather(spec, init_weights(spec, key(0)), {"f": empty})
        assert torch.equal(emb["g"], torch.zeros(3, 1, 2))
        assert summands(scatter(spec, touched, emb)["dim2"]).shape == (0, 2)


@pytest.mark.parametrize("weights", [[2.0, -2.0], [0.0, 0.0]])
def test_a_step_whose_weights_sum_to_nothing_has_no_mean(weights):
    """It is 0 and so is its gradient, as a bag of its own is; the steps beside it keep theirs."""
    lookup = Lookup(feature="h", table="t", pooling="mean")
    spec = EmbeddingSpec(
        tables=(Table(name="t", rows=4, dim=2),),
        groups=(EmbeddingGroup(name="g", lookups=(Lookup(feature="f", table="t", pooling="mean"),)),),
        sequences=(SequenceGroup(name="s", lookups=(lookup,)),),
    )
    bags = ragged([0, 1], [2, 3], [], weights=torch.tensor([*weights, 1.0, 3.0]))
    tables = init_weights(spec, key(0))
    history = Nested.from_lengths(bags, torch.tensor([3]))
    emb, touched = gather(spec, tables, {"h": history, "f": bags.select(torch.tensor([0]))})
    expected = torch.zeros(1, 3, 2)
    expected[0, 1] = 0.25 * spec.table(tables, "t")[2] + 0.75 * spec.table(tables, "t")[3]
    torch.testing.assert_close(emb["s"], expected)
    assert torch.equal(emb["g"], torch.zeros(1, 1, 2))
    (gradient,) = scatter(spec, touched, emb * 0 + 1).values()
    dense = densify(sum_duplicates(gradient), 4)
    torch.testing.assert_close(dense, torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.25, 0.25], [0.75, 0.75]]))


def test_spec_for_shares_tables_except_private_ones():
    deep, wide = Group.of("deep", ["a", "b"], 4), Group.of("wide", ["a", "b"], 4)
    spec = spec_for([deep, wide, Group.of("fm", ["b"], 4)], {"a": 3, "b": 5}, private=("wide",))
    assert sorted((t.name, t.rows) for t in spec.tables) == [("a", 3), ("a_wide", 3), ("b", 5), ("b_wide", 5)]
    assert spec.parameters == 4 * 16
    emb, _ = gather(spec, init_weights(spec, key(0)), {"a": torch.tensor([2]), "b": torch.tensor([4])})
    assert torch.equal(emb["fm"][:, 0], emb["deep"][:, 1])
    assert not torch.equal(emb["wide"], emb["deep"])


def test_config_errors_name_the_table():
    with pytest.raises(ConfigError, match=r"can not share embedding.*private"):
        spec_for([Group.of("deep", ["a"], 4), Group.of("wide", ["a"], 1)], {"a": 3})
    with pytest.raises(ConfigError, match="number of rows of field: got 'a'"):
        spec_for([Group("g", (Field("a", 2),))], {"b": 3})
    with pytest.raises(ConfigError, match=r"private groups: got \['wied'\]"):
        spec_for([Group.of("deep", ["a"], 4)], {"a": 3}, private=("wied",))
    with pytest.raises(ConfigError, match="table: got 'nope'"):
        EmbeddingSpec(tables=(), groups=(EmbeddingGroup(name="g", lookups=(Lookup(feature="f", table="nope"),)),))
    with pytest.raises(ConfigError, match="positive rows and dim"):
        Table(name="t", rows=0, dim=2)
    with pytest.raises(ConfigError, match="repeated names"):
        EmbeddingSpec(tables=(Table(name="t", rows=1, dim=2),) * 2, groups=())


def test_initial_tables_do_not_depend_on_their_neighbours():
    a = Table(name="a", rows=5, dim=2)
    alone = EmbeddingSpec(tables=(a,), groups=())
    beside = EmbeddingSpec(tables=(Table(name="z", rows=7, dim=2), a), groups=())
    k = key(3)
    assert torch.equal(alone.table(init_weights(alone, k), "a"), beside.table(init_weights(beside, k), "a"))


def history_spec(pad_to=None):
    lookups = (Lookup(feature="h", table="t"), Lookup(feature="k", table="t"))
    sequence = SequenceGroup(name="s", lookups=lookups, pad_to=pad_to)
    return EmbeddingSpec(tables=(Table(name="t", rows=4, dim=2),), groups=(), sequences=(sequence,))


def ragged(*rows, weights=None):
    flat = torch.tensor([x for row in rows for x in row], dtype=torch.int64)
    return Ragged.from_lengths(flat, torch.tensor([len(row) for row in rows]), weights)


HISTORY_ERRORS: dict = {
    "sequence 's', feature 'h': got one id a row": (ShapeError, torch.tensor([0, 1]), ragged([0], [1]), None),
    "weighted ids": (ShapeError, ragged([0], [1], weights=torch.ones(2)), ragged([0], [1]), None),
    "feature 'k': lengths differ from those of 'h'": (DataError, ragged([0], [1, 2]), ragged([0, 1], [1]), None),
    "got a history of 3 steps, expected at most pad_to=2": (
        DataError,
        ragged([0], [1, 2, 3]),
        ragged([0], [1, 2, 3]),
        2,
    ),
    "id out of range of table 't': got 4": (DataError, ragged([0], [4]), ragged([0], [1]), None),
}


@pytest.mark.parametrize("text", HISTORY_ERRORS)
def test_histories_that_cannot_be_looked_up_are_named(text):
    error, h, k, pad_to = HISTORY_ERRORS[text]
    spec = history_spec(pad_to)
    with pytest.raises(error) as caught:
        gather(spec, init_weights(spec, key(0)), {"h": h, "k": k})
    assert text in str(caught.value)


def test_a_batch_without_any_step_has_empty_histories():
    spec = history_spec()
    emb, touched = gather(spec, init_weights(spec, key(0)), {"h": ragged([], []), "k": ragged([], [])})
    assert emb["s"].shape == (2, 0, 4)
    (gradient,) = scatter(spec, touched, emb).values()
    assert summands(gradient).shape == (0, 2)


def test_a_history_shares_the_table_of_its_target():
    history = Sequence("hist", (Field("item", 3),), (Field("hist", 3), Field("ts", 1, dense=True)))
    deep = Group("deep", (Field("item", 3), Field("user", 2)), (Encoded(history, encoder=None),))  # type: ignore[arg-type]
    spec = spec_for((deep,), {"item": 5, "hist": 5, "user": 2}, tables={"hist": "item"}, pad_to=4)
    assert [t.name for t in spec.tables] == ["item", "user"]
    assert [g.name for g in spec.every_group] == ["deep", "hist_query", "hist"]
    ids = {"item": torch.tensor([1, 2]), "user": torch.tensor([0, 1]), "hist": ragged([2, 1], [])}
    weights = init_weights(spec, key(0))
    emb, _ = gather(spec, weights, ids)
    assert emb["hist"].shape == (2, 4, 3)
    assert torch.equal(emb["hist"][0, :2], spec.table(weights, "item")[[2, 1]])
    with pytest.raises(ConfigError, match=r"tables: fields: got \['other'\]"):
        spec_for((deep,), {"item": 5, "hist": 5, "user": 2}, tables={"other": "item"})
    with pytest.raises(ConfigError, match=r"table 'item' can not share embedding: got 6 rows, dim 3"):
        spec_for((deep,), {"item": 5, "hist": 6, "user": 2}, tables={"hist": "item"})


def test_a_bag_a_step_is_not_pooled_over_steps():
    nested = Nested.from_lengths(ragged([0, 1], [2]), torch.tensor([1, 1]))
    with pytest.raises(ShapeError, match=r"features \['f'\]: got a bag of ids a step"):
        gather(one_table(), init_weights(one_table(), key(0)), {"f": nested})


def test_the_range_of_an_id_by_its_remainder():
    ids, bounds = torch.arange(-25, 26), torch.tensor([1, 2, 7])
    assert torch.equal(in_range(ids.unsqueeze(1), bounds), (ids.unsqueeze(1) >= 0) & (ids.unsqueeze(1) < bounds))
    assert torch.equal(in_range(ids, 7), (ids >= 0) & (ids < 7))


def test_values_are_not_looked_at_if_so_asked():
    """The same vectors; an id outside its table reads its neighbour's row, where the check would have raised."""
    tables = (Table(name="t", rows=4, dim=2), Table(name="u", rows=3, dim=2))
    lookups = (Lookup(feature="f", table="t"), Lookup(feature="h", table="t"))
    spec = EmbeddingSpec(tables=tables, groups=(EmbeddingGroup(name="g", lookups=lookups),))
    weights = init_weights(spec, key(0))
    ids = {"f": torch.tensor([0, 3]), "h": ragged([1, 2], [])}
    assert torch.equal(gather(spec, weights, ids, check_ids=False)[0]["g"], gather(spec, weights, ids)[0]["g"])
    for bad in ({**ids, "f": torch.tensor([0, 4])}, {**ids, "h": ragged([], [4])}):
        with pytest.raises(DataError, match="id out of range of table 't': got 4"):
            gather(spec, weights, bad)
        emb, _ = gather(spec, weights, bad, check_ids=False)
        assert torch.equal(emb["g"][1, 0 if bad["f"][1] == 4 else 1], spec.table(weights, "u")[0])
