"""The law of the room: row-wise update == dense gradient on the touched rows; untouched rows are not touched."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from funcrec import optim
from funcrec.core.random import key, normal
from funcrec.embedding import EmbeddingGroup, EmbeddingSpec, Lookup, Table, dense_store, rowwise_store
from funcrec.embedding.lookup import gather
from funcrec.embedding.rows import add, densify, scale, squared_norm
from funcrec.optim import rowwise
from tests.embedding.strategies import problems

# rules whose row-wise step on touched rows is, row by row, an optimizer that leaves rows without gradient alone
SAME_ON_TOUCHED_ROWS = {
    "sgd": (rowwise.sgd(0.1), optim.sgd(0.1)),
    "adagrad": (rowwise.adagrad(0.1, eps=1e-8), optim.adagrad(0.1, eps=1e-8)),
}


def gradient_of(emb, i):
    return emb.apply(lambda x: normal(key(100 + i), x.shape, dtype=x.dtype))


def train(store, batches, k):
    tables = store.init(k)
    for i, ids in enumerate(batches):
        emb, touched = store.lookup(tables, ids)
        tables = store.update(tables, touched, gradient_of(emb, i))
    return tables


@pytest.mark.parametrize("name", SAME_ON_TOUCHED_ROWS)
@given(problems(batches=3))
def test_rowwise_and_dense_stores_agree(name, problem):
    spec, batches = problem
    rule, optimizer = SAME_ON_TOUCHED_ROWS[name]
    a = train(rowwise_store(spec, rule), batches, key(0))
    b = train(dense_store(spec, optimizer), batches, key(0))
    for stack in spec.stacks:
        torch.testing.assert_close(a["weights"][stack.name], b["weights"][stack.name])


ALL_RULES = {
    "sgd": rowwise.sgd(0.1),
    "adagrad": rowwise.adagrad(0.1),
    "rowwise_adagrad": rowwise.rowwise_adagrad(0.1, weight_decay=0.1, weight_decay_mode="l2"),
    "adam": rowwise.adam(0.1),
    "partial_rowwise_adam": rowwise.partial_rowwise_adam(0.1),
    "lamb": rowwise.lamb(0.1),
}


@pytest.mark.parametrize("name", ALL_RULES)
@given(problems(batches=2))
def test_only_touched_rows_change(name, problem):
    spec, batches = problem
    store = rowwise_store(spec, ALL_RULES[name])
    before = store.init(key(0))["weights"].clone()
    tables = train(store, batches, key(0))
    for stack in spec.stacks:
        hit = torch.zeros(stack.rows, dtype=torch.bool)
        for ids in batches:
            touched = gather(spec, before, ids)[1]
            if stack.name in touched:
                t = touched[stack.name]
                for rows in (t.single, t.bagged and t.bagged[0], *(s.rows for s in t.steps)):
                    if rows is not None:
                        hit[rows.reshape(-1)] = True
        assert torch.equal(tables["weights"][stack.name][~hit], before[stack.name][~hit])
        for slot in tables["slots"][stack.name].values():
            assert torch.equal(slot[~hit], torch.zeros_like(slot[~hit])), "an untouched row does not age"


@pytest.mark.parametrize("name", ALL_RULES)
@given(problems(batches=1))
def test_order_of_occurrences_does_not_matter(name, problem):
    """Duplicates are summed before the step: reversing the batch gives the same tables."""
    spec, (ids,) = problem
    store = rowwise_store(spec, ALL_RULES[name])
    flipped = {}
    for f, x in ids.items():
        order = torch.arange(len(x)).flip(0)
        flipped[f] = x[order] if isinstance(x, torch.Tensor) else x.select(order)
    results = []
    for batch, reverse in ((ids, False), (flipped, True)):
        tables = store.init(key(0))
        emb, touched = store.lookup(tables, batch)
        d = gradient_of(emb, 0)
        results.append(store.update(tables, touched, d.flip(0) if reverse else d))
    for stack in spec.stacks:
        torch.testing.assert_close(results[0]["weights"][stack.name], results[1]["weights"][stack.name])


@given(problems(batches=3), st.sampled_from(["dense", "rowwise"]))
def test_accumulated_gradient_is_the_sum(problem, kind):
    spec, batches = problem
    store = rowwise_store(spec, rowwise.sgd(1.0)) if kind == "rowwise" else dense_store(spec, optim.sgd(1.0))
    tables = store.init(key(0))
    parts = []
    for i, ids in enumerate(batches):
        emb, touched = store.lookup(tables, ids)
        parts.append(store.gradient(tables, touched, gradient_of(emb, i)))
    total = add(parts)
    halved = scale(total, 0.5)
    for stack in spec.stacks:
        if stack.lookups:
            expected = sum(densify(p[stack.name], stack.rows) for p in parts)
            torch.testing.assert_close(densify(total[stack.name], stack.rows), expected)
            torch.testing.assert_close(densify(halved[stack.name], stack.rows), expected / 2)
    norm = sum(densify(g, tables["weights"][n].shape[0]).square().sum() for n, g in total.items())
    torch.testing.assert_close(squared_norm(total), norm)


@given(problems(batches=1), st.booleans())
def test_l2_is_the_gradient_of_the_penalty_over_whole_tables(problem, by_table):
    spec, (ids,) = problem
    l2 = {t.name: 0.1 * (i + 1) for i, t in enumerate(spec.tables)} if by_table else 0.3
    store = dense_store(spec, optim.sgd(1.0), l2=l2)
    tables = store.init(key(0))
    weights = tables["weights"].clone()
    emb, touched = store.lookup(tables, ids)
    d_emb = gradient_of(emb, 0)

    def objective(w):
        data = sum((gather(spec, w, ids)[0][g.name] * d_emb[g.name]).sum() for g in spec.every_group)
        factor = {t.name: l2[t.name] if isinstance(l2, dict) else l2 for t in spec.tables}
        return data + sum(0.5 * factor[t.name] * spec.table(w, t.name).square().sum() for t in spec.tables)

    expected = torch.func.grad(objective)(weights)
    tables = store.update(tables, touched, d_emb)
    for stack in spec.stacks:
        torch.testing.assert_close(tables["weights"][stack.name], weights[stack.name] - expected[stack.name])


def one_table(rows, dim, dtype=torch.float32):
    lookup = Lookup(feature="f", table="t")
    table = Table(name="t", rows=rows, dim=dim, dtype=dtype)
    return EmbeddingSpec(tables=(table,), groups=(EmbeddingGroup(name="g", lookups=(lookup,)),))


def one_step(store, tables, ids, value):
    emb, touched = store.lookup(tables, {"f": torch.tensor(ids, dtype=torch.int64)})
    return store.update(tables, touched, emb.float().apply(lambda x: torch.full_like(x, value)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_tables_step_in_float32_and_round_once(dtype):
    rule = rowwise.rowwise_adagrad(0.1)
    half, full = rowwise_store(one_table(4, 3, dtype), rule), rowwise_store(one_table(4, 3), rule)
    tables, reference = half.init(key(0)), full.init(key(0))
    (name,) = tables["weights"].keys()
    reference["weights"]["dim3"].copy_(tables["weights"][name])
    stepped = one_step(half, tables, [1, 1, 3], 1.0)["weights"][name]
    assert torch.equal(stepped, one_step(full, reference, [1, 1, 3], 1.0)["weights"]["dim3"].to(dtype))


def test_gradient_clip_of_the_rule_acts_on_pooled_outputs_before_aggregation():
    """Two rows of one id with gradient 10 and max_gradient 0.5: the table moves by lr · 1.0 (two clamped halves)."""
    store = rowwise_store(one_table(2, 1), rowwise.sgd(0.1, max_gradient=0.5))
    tables = store.init(key(0))
    before = tables["weights"]["dim1"].clone()
    after = one_step(store, tables, [1, 1], 10.0)["weights"]["dim1"]
    torch.testing.assert_close(after, before - torch.tensor([[0.0], [0.1]]))


@pytest.mark.parametrize("name", ALL_RULES)
def test_steps_of_float64_tables_are_the_rules_to_float64(name):
    """The store hands the rule its step and learning rate as tensors: nothing may fall back to float32 on the way."""
    rule, ids, w = ALL_RULES[name], torch.tensor([0, 2]), normal(key(1), (3, 4), dtype=torch.float64)
    store = rowwise_store(one_table(3, 4, torch.float64), rule)
    tables = store.init(key(0))
    tables["weights"]["dim4_float64"].copy_(w)
    slots = {n: torch.full((3, *s.shape), s.fill, dtype=torch.float64) for n, s in rule.slots(4).items()}
    for i in range(4):
        emb, touched = store.lookup(tables, {"f": ids})
        d_emb = gradient_of(emb, i)
        tables = store.update(tables, touched, d_emb)
        rows, new = rule.update(w[ids], d_emb["g"][:, 0], {n: s[ids] for n, s in slots.items()}, i + 1, 0.1)
        w, slots = w.index_copy(0, ids, rows), {n: s.index_copy(0, ids, new[n]) for n, s in slots.items()}
    torch.testing.assert_close(tables["weights"]["dim4_float64"], w, rtol=1e-12, atol=1e-14)


def test_schedule_and_scale_reach_the_rows():
    store = rowwise_store(one_table(2, 1), rowwise.sgd(lambda k: 1.0 / (1 + k)))
    tables = store.init(key(0))
    start = tables["weights"]["dim1"].clone()
    for i in range(3):
        tables = optim.set_scale(tables, 0.25) if i == 2 else tables
        tables = one_step(store, tables, [0], 1.0)
    moved = start - tables["weights"]["dim1"]
    torch.testing.assert_close(moved, torch.tensor([[1.0 + 0.5 + 0.25 / 3], [0.0]]))


def test_a_compiled_update_is_the_eager_one_for_any_number_of_rows():
    batches = [[0, 3, 3, 1], [2], [], [1, 0, 1, 0, 3, 2, 2]]
    for name in ("rowwise_adagrad", "adam"):
        results = []
        for compile in (False, True):
            store = rowwise_store(one_table(4, 3), ALL_RULES[name], compile=compile)
            tables = store.init(key(0))
            for i, ids in enumerate(batches):
                tables = optim.set_scale(tables, 1.0 / (1 + i))
                tables = one_step(store, tables, ids, 0.5)
            results.append(tables)
        torch.testing.assert_close(results[0]["weights"]["dim3"], results[1]["weights"]["dim3"])
        torch.testing.assert_close(results[0]["slots"], results[1]["slots"])
