"""The fused update of rows == sum the duplicates, then the rule: every rule, any pattern of duplicates, any dtype."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from funcrec.core.errors import ConfigError
from funcrec.core.random import fold_in, key, normal, uniform
from funcrec.embedding import EmbeddingGroup, EmbeddingSpec, Lookup, Table, rowwise_store
from funcrec.embedding.rows import RowGrad, sum_duplicates
from funcrec.kernels import registry
from funcrec.optim import rowwise
from funcrec.optim.schedules import linear_decay
from tests.embedding.strategies import problems
from tests.kernels.interpreter import interpreting

DECAY: Any = {"eps": 1e-4, "weight_decay": 0.1}
RULES = {
    "sgd": rowwise.sgd(0.1),
    "adagrad": rowwise.adagrad(0.1, eps=1e-4, initial_accumulator=0.1),
    "rowwise_adagrad": rowwise.rowwise_adagrad(0.1, eps=1e-4),
    "rowwise_adagrad_l2": rowwise.rowwise_adagrad(0.1, weight_decay_mode="l2", **DECAY),
    "rowwise_adagrad_decouple": rowwise.rowwise_adagrad(0.1, weight_decay_mode="decouple", **DECAY),
    "adam": rowwise.adam(0.1, betas=(0.8, 0.99), **DECAY),
    "partial_rowwise_adam": rowwise.partial_rowwise_adam(0.1, betas=(0.8, 0.99), **DECAY),
}
each_rule = pytest.mark.parametrize("name", RULES)
RATIO = {torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels run on the GPU, not in the interpreter")
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@contextmanager
def interpreter(**plan: int) -> Iterator[None]:
    """Kernels in Triton's interpreter, in tiles so small that a run of equal ids crosses many of them."""
    with interpreting(), pytest.MonkeyPatch.context() as patch:
        from funcrec.kernels.gpu import rows

        patch.setattr(rows, "PLANS", (rows.Plan(**{"per_thread": 1, "tiles": 2, "parts": 8, **plan}),))
        yield


class Problem(NamedTuple):
    """A table, what a rule keeps of its rows, and a gradient of some of them."""

    weight: Tensor
    slots: dict[str, Tensor]
    g: RowGrad

    def to(self, device: str) -> Problem:
        rows, values, source, factors = (x if x is None else x.to(device) for x in self.g[:4])
        slots = {n: s.to(device) for n, s in self.slots.items()}
        assert values is not None
        return Problem(self.weight.to(device), slots, RowGrad(rows, values, source, factors, self.g.unique))


def problem(rule, ids: list[int], rows: int, dim: int, dtype: torch.dtype, pointers: bool, seed: int = 0) -> Problem:
    k, n = key(seed), len(ids)
    slots = {s: uniform(fold_in(k, s), (rows, *x.shape), 0.0, 1.0) for s, x in rule.slots(dim).items()}
    g = RowGrad(torch.tensor(ids, dtype=torch.int32), normal(fold_in(k, "g"), (n, dim)).to(dtype))
    if pointers:  # each id points at one of three gradients, with a factor
        source = torch.arange(n) * 5 % 3
        g = g._replace(values=normal(fold_in(k, "g"), (3, dim)), source=source, factors=uniform(k, n, 0.5, 2.0))
    return Problem(normal(fold_in(k, "w"), (rows, dim)).to(dtype), slots, g)


def expected(rule, p: Problem) -> tuple[Tensor, dict[str, Tensor]]:
    """The step in float64, rounded at the end."""
    rows, values = sum_duplicates(p.g._replace(values=p.g.values.double()))[:2]
    assert rows is not None
    at = rows.long()
    w, new = rule.update(p.weight[at].double(), values, {n: s[at].double() for n, s in p.slots.items()}, 3, 0.1)
    slots = {n: s.index_copy(0, at, new[n].to(s.dtype)) for n, s in p.slots.items()}
    return p.weight.index_copy(0, at, w.to(p.weight.dtype)), slots


def fused(rule, p: Problem) -> tuple[Tensor, dict[str, Tensor]]:
    weight, slots = p.weight.clone(), {n: s.clone() for n, s in p.slots.items()}
    number, lr = torch.tensor(3.0, dtype=torch.float64), torch.tensor(0.1, dtype=torch.float64)
    assert p.g.rows is not None
    registry.rows.update(rule.name, rule.constants, weight, slots, p.g.rows, *p.g[1:], number, lr)
    return weight, slots


def check(rule, p: Problem) -> None:
    (weight, slots), (w, s) = fused(rule, p), expected(rule, p)
    torch.testing.assert_close(weight, w, rtol=2 * RATIO[w.dtype], atol=2e-6)
    for n in s:
        torch.testing.assert_close(slots[n], s[n], rtol=1e-5, atol=1e-6)
    assert p.g.rows is not None
    untouched = torch.ones(len(weight), dtype=torch.bool, device=weight.device)
    untouched[p.g.rows.long()] = False
    assert torch.equal(weight[untouched], p.weight[untouched])


def ids_in(rows: int) -> st.SearchStrategy[list[int]]:
    """Few ids of many, many of few, one hot among others, all equal, all distinct, none."""
    some = st.lists(st.integers(0, rows - 1), max_size=40)
    hot = st.builds(lambda x, n: [*x, *[rows // 2] * n], some, st.integers(1, 60)).flatmap(st.permutations)
    equal = st.builds(lambda r, n: [r] * n, st.integers(0, rows - 1), st.integers(1, 70))
    return some | hot | equal | st.permutations(range(rows)) | st.just([])


@NO_GPU
@each_rule
@settings(max_examples=40)
@given(st.data())
def test_the_fused_step_is_the_rules(name, data) -> None:
    rule = RULES[name]
    rows, dim = data.draw(st.sampled_from([1, 3, 50])), data.draw(st.sampled_from([1, 3, 8]))
    ids = data.draw(ids_in(rows))
    dtype, pointers = data.draw(st.sampled_from(list(RATIO))), data.draw(st.booleans())
    with interpreter():
        check(rule, problem(rule, ids, rows, dim, dtype, pointers))


@NO_GPU
def test_unique_rows_need_no_order() -> None:
    for name in ("rowwise_adagrad", "adam"):
        p = problem(RULES[name], [7, 2, 9, 0, 4, 11, 3], 12, 5, torch.float32, True)
        with interpreter():
            check(RULES[name], p._replace(g=p.g._replace(unique=True)))


@NO_GPU
@pytest.mark.filterwarnings("ignore:dynamo_pgo force disabled:UserWarning")
@pytest.mark.parametrize("name", ["rowwise_adagrad", "adam"])
def test_a_compiled_program_holds_the_update(name) -> None:
    """It is one op that writes its arguments: what is read of them after it is new."""
    rule, p = RULES[name], problem(RULES[name], [7, 2, 7, 0, 4, 2, 3], 12, 5, torch.float32, True)

    def program(p: Problem) -> tuple[Tensor, dict[str, Tensor]]:
        weight, slots = fused(rule, p)
        return weight + 1.0, slots

    torch._dynamo.reset()
    with interpreter():
        got = torch.compile(program, fullgraph=True, backend="aot_eager")(p)
        torch.testing.assert_close(got, program(p), rtol=0, atol=0)


@NO_GPU
@each_rule
@settings(max_examples=10)
@given(problems(dtype=torch.float32, batches=2))
def test_stores_with_and_without_kernels_agree(name, problem) -> None:
    """Shared tables, bags, weights and histories: what the summands point at, and the pooling of bags."""
    spec, batches = problem
    results: list[Any] = []
    with interpreter():
        for impl in ("reference", "triton"):
            store = rowwise_store(spec, RULES[name], impl=impl)
            tables = store.init(key(0))
            with registry.recording() as decisions:
                for i, ids in enumerate(batches):
                    emb, touched = store.lookup(tables, ids)
                    d_emb: Any = emb.apply(lambda x, i=i: normal(key(100 + i), x.shape, dtype=x.dtype))
                    tables = store.update(tables, touched, d_emb)
            assert {d.impl for d in decisions} == {impl}
            results.append(tables)
    for part in ("weights", "slots"):
        for stack in spec.stacks:
            torch.testing.assert_close(results[1][part][stack.name], results[0][part][stack.name], rtol=1e-4, atol=1e-5)


def one_table(rows: int = 4, dim: int = 3) -> EmbeddingSpec:
    group = EmbeddingGroup(name="g", lookups=(Lookup(feature="f", table="t"),))
    return EmbeddingSpec(tables=(Table(name="t", rows=rows, dim=dim),), groups=(group,))


def steps(store, batches: list[list[int]], device: str = "cpu"):
    tables = store.init(key(0, device))
    for i, ids in enumerate(batches):
        tables["scale"].fill_(1.0 / (1 + i))  # of the learning rate: another one in every step
        emb, touched = store.lookup(tables, {"f": torch.tensor(ids, device=device)})
        tables = store.update(tables, touched, emb.apply(lambda x: 0.5 + torch.zeros_like(x)))
    return tables


@NO_GPU
def test_a_rule_that_no_kernel_knows_takes_its_own_function() -> None:
    mine = RULES["sgd"]._replace(update=lambda w, g, slots, step, lr: (w + 1.0, slots), constants=None)
    with interpreter():
        for rule in (rowwise.lamb(0.1), mine):
            auto = steps(rowwise_store(one_table(), rule), [[0, 2, 2]])
            reference = steps(rowwise_store(one_table(), rule, impl="reference"), [[0, 2, 2]])
            assert torch.equal(auto["weights"]["dim3"], reference["weights"]["dim3"])
            with pytest.raises(ConfigError, match=r"rule '(lamb|sgd)', none of"):
                steps(rowwise_store(one_table(), rule, impl="triton"), [[0, 2, 2]])
    with pytest.raises(ConfigError, match="impl: got 'cuda'"):
        rowwise_store(one_table(), mine, impl="cuda")  # type: ignore[arg-type]


@each_rule
def test_a_count_on_the_device_is_the_count_on_the_host(name) -> None:
    batches = [[0, 3, 3], [1, 0, 2], [3, 3, 3]]
    ordinary = steps(rowwise_store(one_table(), RULES[name]), batches)
    capturable = steps(rowwise_store(one_table(), RULES[name], capturable=True), batches)
    assert int(capturable["step"]) == 3
    torch.testing.assert_close(ordinary["weights"]["dim3"], capturable["weights"]["dim3"])
    torch.testing.assert_close(ordinary["slots"], capturable["slots"])


def test_a_schedule_cannot_be_captured() -> None:
    with pytest.raises(ConfigError, match="capturable: learning rate: got a schedule"):
        rowwise_store(one_table(), rowwise.sgd(linear_decay(0.1, 10)), capturable=True)


@GPU
@pytest.mark.gpu
@pytest.mark.parametrize("dtype", RATIO, ids=str)
@each_rule
def test_on_the_gpu_with_a_hot_id_and_twice_the_same(name, dtype) -> None:
    """Half of 20,000 ids are one; every plan; the second run gives the same bits."""
    from funcrec.kernels.gpu import rows

    rule, ids = RULES[name], torch.randint(0, 3001, (20011,), generator=torch.Generator().manual_seed(0))
    ids[::2] = 1234
    for dim in (1, 16, 33, 128, 200):
        p = problem(rule, ids.tolist(), 3001, dim, dtype, pointers=dim == 33).to("cuda")
        for plan in rows.PLANS:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(rows, "PLANS", (plan,))
                (w, s), (again, s_again) = fused(rule, p), fused(rule, p)
            assert torch.equal(w, again)
            assert all(torch.equal(s[n], s_again[n]) for n in s)
            e, e_slots = expected(rule, p)
            assert (w.double() - e.double()).norm() < 2 * RATIO[dtype] * e.double().norm(), (dim, plan)
            for n in s:
                torch.testing.assert_close(s[n], e_slots[n], rtol=1e-4, atol=1e-4)


@GPU
@pytest.mark.gpu
@each_rule
def test_a_captured_step_is_the_eager_one(name) -> None:
    """Lookup and update in one CUDA graph, replayed on new ids: no wait for the host, no shape of the ids."""
    batches = [
        torch.tensor(x, device="cuda") for x in ([0, 3, 3, 1], [2, 2, 2, 2], [1, 0, 3, 0], [0, 1, 2, 3], [3, 3, 0, 0])
    ]
    rule = RULES[name]
    eager = rowwise_store(one_table(), rule, impl="reference")
    tables = steps(eager, [b.tolist() for b in batches], "cuda")
    store = rowwise_store(one_table(), rule, capturable=True)
    held, ids = store.init(key(0, "cuda")), batches[0].clone()

    def step() -> None:
        emb, touched = store.lookup(held, {"f": ids})
        d_emb: Any = emb.apply(lambda x: 0.5 + torch.zeros_like(x))
        store.update(held, touched, d_emb)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()  # the first batch, which also compiles
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    for i, batch in enumerate(batches[1:], start=1):
        ids.copy_(batch)
        held["scale"].fill_(1.0 / (1 + i))  # as `steps` does
        graph.replay()
    assert int(held["step"]) == len(batches)
    torch.testing.assert_close(held["weights"]["dim3"], tables["weights"]["dim3"], rtol=1e-5, atol=1e-6)
