"""The sharded store is the local row-wise store on everybody's rows."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from funcrec.core.errors import ConfigError
from funcrec.core.init import Uniform
from funcrec.core.random import key
from funcrec.embedding import EmbeddingGroup, EmbeddingSpec, Lookup, Table, rowwise_store
from funcrec.embedding.rows import add
from funcrec.shard import sharded_store
from tests.shard.processes import Ranks
from tests.shard.sharded import RULES, compare, gradient_of, make_ids, make_plan, make_spec

KINDS = ("table_wise", "row_wise", "column_wise", "data_parallel")
F32 = torch.float32
NAMES = ("sgd", "adagrad", "rowwise_adagrad")
# Each with bags, means and, unless "pooled", histories that share a pooled table.
CASES = [
    *((1, kind, rule, True) for kind in ("table_wise", "row_wise", "data_parallel") for rule in NAMES),
    *((2, kind, rule, histories) for kind in KINDS for rule in NAMES for histories in (False, True)),
    *((4, kind, rule, True) for kind in KINDS for rule in NAMES),
    (2, "row_wise", "decaying", True),
    (2, "data_parallel", "decaying", True),
]


def other_optimizer(kind: str, rule: str) -> bool:
    """Row-wise rules of column shards have a statistic of their own for each."""
    return kind == "column_wise" and rule == "rowwise_adagrad"


def check(found: list[dict[str, float]], bound: float = 1e-6) -> None:
    """Vectors and tables to ``bound``; sums of squares, which double a relative error, to five times of it."""
    assert {name.split(".")[1] for worst in found for name in worst} >= set("abc")
    for rank, worst in enumerate(found):
        wrong = {name: e for name, e in worst.items() if not e < bound * (5 if name.startswith("sum") else 1)}
        assert not wrong, f"rank {rank}: {wrong}"


@pytest.mark.parametrize(("world", "kind", "rule", "histories"), [c for c in CASES if not other_optimizer(c[1], c[2])])
def test_ten_steps_equal_those_of_one_process(ranks: Ranks, world: int, kind: str, rule: str, histories: bool) -> None:
    sizes = {1: (5,), 2: (4, 4), 4: (3, 3, 3, 3)}[world]
    kinds = dict.fromkeys("abc", kind)
    check(ranks.run(world, compare, kinds, rule, histories, sizes, False, 1, F32, False))
    if kind in ("table_wise", "column_wise") and (world == 2 or rule == "adagrad"):  # one id a row goes another way
        check(ranks.run(world, compare, kinds, rule, histories, sizes, False, 1, F32, True, 3))


kinds_of = st.fixed_dictionaries({t: st.sampled_from(KINDS) for t in "abc"})


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kinds=kinds_of,
    rule=st.sampled_from(["sgd", "adagrad"]),
    sizes=st.lists(st.integers(0, 5), min_size=2, max_size=2).filter(any) | st.just([4, 4]),
    histories=st.booleans(),
    weighted=st.booleans(),
    micro=st.integers(1, 2),
    single=st.booleans(),
)
def test_kinds_mix_and_batches_are_uneven(
    ranks: Ranks, kinds: Any, rule: str, sizes: Any, histories: bool, weighted: bool, micro: int, single: bool
) -> None:
    check(ranks.run(2, compare, kinds, rule, histories, sizes, weighted, micro, F32, single, 3))


def column_shards(rank, world, group):
    """Row-wise Adagrad of a table of two column shards, and of two tables of half the width."""
    rule = RULES["rowwise_adagrad"]
    spec_of = lambda *tables: EmbeddingSpec(  # noqa: E731
        tables=tables,
        groups=tuple(EmbeddingGroup(name=t.name, lookups=(Lookup(feature="x", table=t.name),)) for t in tables),
    )
    whole = spec_of(Table(name="a", rows=9, dim=8, init=Uniform(-0.5, 0.5)))
    halves = spec_of(*(Table(name=n, rows=9, dim=4) for n in ("left", "right")))
    store = sharded_store(whole, rule, make_plan(whole, rule, world, {"a": "column_wise"}, 4), group=group)
    local = rowwise_store(halves, rule)
    tables, apart = store.init(key(1)), local.init(key(2))
    start = rowwise_store(whole, rule).init(key(1))["weights"]["dim8"]
    apart["weights"]["dim4"].copy_(torch.cat([start[:, :4], start[:, 4:]]))
    errors = []
    for step in range(5):
        parts: list[Any] = [{"x": make_ids(10 * step + r, 4, False, False)["x"]} for r in range(world)]
        emb, touched = store.lookup(tables, parts[rank])
        both, all_touched = local.lookup(apart, {"x": torch.cat([p["x"] for p in parts])})
        mine = torch.cat([both["left"], both["right"]], dim=2)
        errors.append(float((emb["a"] - mine[4 * rank : 4 * rank + 4]).abs().max()))
        tables = store.update(tables, touched, gradient_of(emb, step))
        d = torch.sin(3 * mine + step)
        apart = local.update(apart, all_touched, both.replace({"left": d[:, :, :4], "right": d[:, :, 4:]}))
    return max(errors)


def counts(rank, world, group):
    rule, spec = RULES["adagrad"], make_spec(False)
    store = sharded_store(spec, rule, make_plan(spec, rule, world, dict.fromkeys("abc", "row_wise"), 4), group=group)
    tables, seen = store.init(key(1)), []
    for step in range(3):
        for _ in range(step):  # to evaluate, say
            with torch.no_grad():
                store.lookup(tables, make_ids(rank, 4, False, False))
        parts = [store.lookup(tables, make_ids(10 * step + rank, 4, False, False)) for _ in range(2)]
        gradients = [store.gradient(tables, touched, gradient_of(emb, step)) for emb, touched in parts]
        tables = store.apply(tables, add(gradients))
        seen.append({int(k.iter_cpu) for k in tables["kernels"]})
    return seen


def test_fbgemm_counts_our_steps_whatever_else_is_looked_up(ranks: Ranks) -> None:
    # On a GPU each pass adds one to what it found; on a CPU, whose rules do not ask, it adds none.
    assert ranks.run(2, counts) == [[{0}, {1}, {2}]] * 2


def by_host(rank, world, group):
    """Tables sharded by host, on two hosts as torchrec sees it: the launcher's environment says so."""
    kinds = {"a": "table_row_wise", "b": "grid", "c": "table_row_wise"}
    before = os.environ.get("LOCAL_WORLD_SIZE")
    try:
        os.environ["LOCAL_WORLD_SIZE"] = str(world)
        with pytest.raises(
            ConfigError, match=r"ranks a host, of tables .*'a', 'b', 'c'.*: got 2 in the plan, expected 4"
        ):
            compare(rank, world, group, kinds, "sgd", False, (3,) * world, False, 1, F32, False)
        os.environ["LOCAL_WORLD_SIZE"] = str(world // 2)
        return compare(rank, world, group, kinds, "adagrad", False, (3, 2, 3, 0), True, 1, F32, False, 4)
    finally:
        os.environ.pop("LOCAL_WORLD_SIZE")
        os.environ.update({} if before is None else {"LOCAL_WORLD_SIZE": before})


def test_tables_sharded_by_host(ranks: Ranks) -> None:
    check(ranks.run(4, by_host))


def test_row_wise_statistics_of_column_shards_are_one_a_shard(ranks: Ranks) -> None:
    assert max(ranks.run(2, column_shards)) < 1e-6


@pytest.mark.parametrize(("kind", "single"), [("table_wise", False), ("row_wise", False), ("table_wise", True)])
def test_half_precision_tables(ranks: Ranks, kind: str, single: bool) -> None:
    """FBGEMM rounds its sums in another order: within the spacing of numbers near 1."""
    sizes = (4, 4) if single else (4, 3)  # one id a row, and as many on each: the direct way
    kinds = dict.fromkeys("abc", kind)
    check(ranks.run(2, compare, kinds, "sgd", not single, sizes, False, 1, torch.float16, single, 3), 2e-3)
