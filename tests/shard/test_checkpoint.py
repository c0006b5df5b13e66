"""Checkpoints: written by some ranks, read by others, under another sharding or none; training goes on as it was."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from funcrec.core.errors import CheckpointError
from funcrec.core.random import key
from funcrec.embedding import rowwise_store
from funcrec.shard import Constraint, plan
from funcrec.shard.checkpoint import as_named, last_whole, load, save, tensors_of
from funcrec.shard.restate import restated
from funcrec.shard.store import sharded_store
from tests.shard.processes import Ranks
from tests.shard.sharded import RULES, gradient_of, make_ids, make_plan, make_spec, whole

ROWS = 8  # of the global batch, dealt to the ranks in turn
SPEC = make_spec(histories=True)
FOURS = "columns by fours"  # two shards of tables of 8 columns, four of those of 16


def store_of(rule: str, world: int | None, kinds: Any, group: dist.ProcessGroup | None) -> Any:
    """The local store for a world of None."""
    rows = RULES[rule]
    if world is None:
        return rowwise_store(SPEC, rows)
    if kinds == FOURS:
        own = Constraint(sharding=("column_wise",), columns=4)
        return sharded_store(SPEC, rows, plan(SPEC, f"{world}xcpu", batch=ROWS, rule=rows, default=own), group=group)
    return sharded_store(SPEC, rows, make_plan(SPEC, rows, world, kinds, ROWS), group=group)


def steps(store: Any, tables: Any, numbers: range, rank: int, world: int) -> Any:
    """Steps with these numbers: of the same global batches, whatever the world."""
    for n in numbers:
        parts = [make_ids(100 * n + i, 1, True, False) for i in range(ROWS)]
        emb, touched = store.lookup(tables, whole(parts[rank::world]))
        tables = store.update(tables, touched, gradient_of(emb, n))
    return tables


def whole_tables(path: Path, rule: str, group: Any) -> dict[str, torch.Tensor]:
    """What a checkpoint holds, read into a local store."""
    tables = rowwise_store(SPEC, RULES[rule]).init(key(99))
    named = tensors_of(SPEC, RULES[rule], tables)
    load(path, named)
    return {name: x.clone() for name, x in named.items()}


def train_and_save(rank, world, group, path, rule, kinds, numbers, start):
    store = store_of(rule, world, kinds, group)
    tables = store.init(key(5 if start is None else 6))
    if start is not None:
        load(start, tensors_of(SPEC, RULES[rule], tables), group)
    tables = steps(store, tables, numbers, rank, world)
    save(path, tensors_of(SPEC, RULES[rule], tables), group)


def train_locally(rule: str, numbers: range, tables: Any = None) -> tuple[Any, dict[str, torch.Tensor]]:
    store = rowwise_store(SPEC, RULES[rule])
    tables = steps(store, store.init(key(5)) if tables is None else tables, numbers, 0, 1)
    return tables, {n: x.clone() for n, x in tensors_of(SPEC, RULES[rule], tables).items()}


def close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], bound: float = 2e-6) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=bound, atol=bound)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ((4, "row_wise"), (2, "table_wise")),
        ((4, "table_wise"), (1, "row_wise")),
        ((2, "data_parallel"), (4, "row_wise")),
        ((2, "row_wise"), (2, "data_parallel")),
    ],
    ids=str,
)
@pytest.mark.parametrize("rule", ["rowwise_adagrad", "adagrad", "decaying"])
def test_other_ranks_and_shardings_go_on(ranks: Ranks, tmp_path: Path, rule: str, first: Any, then: Any) -> None:
    a, b = tmp_path / "step-3", tmp_path / "step-5"
    ranks.run(first[0], train_and_save, a, rule, dict.fromkeys("abc", first[1]), range(3), None)
    tables, wanted = train_locally(rule, range(3))
    close(whole_tables(a, rule, None), wanted)  # a local store reads what ranks wrote
    ranks.run(then[0], train_and_save, b, rule, dict.fromkeys("abc", then[1]), range(3, 5), a)
    close(whole_tables(b, rule, None), train_locally(rule, range(3, 5), tables)[1])
    assert last_whole(tmp_path) == b


def test_columns_reshard_where_the_rule_is_by_element(ranks: Ranks, tmp_path: Path) -> None:
    a, b = tmp_path / "step-3", tmp_path / "step-5"
    ranks.run(2, train_and_save, a, "adagrad", dict.fromkeys("abc", "column_wise"), range(3), None)
    tables, wanted = train_locally("adagrad", range(3))
    close(whole_tables(a, "adagrad", None), wanted)
    ranks.run(4, train_and_save, b, "adagrad", dict.fromkeys("abc", "row_wise"), range(3, 5), a)
    close(whole_tables(b, "adagrad", None), train_locally("adagrad", range(3, 5), tables)[1])


Cuts = st.sets(st.integers(1, 11), max_size=4)


@given(Cuts, Cuts, st.integers(0, 10**6))
def test_means_over_columns_are_exact_where_they_can_be_and_keep_the_mean_of_a_row(held, wanted, seed) -> None:
    values = torch.rand(5, 12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    shards = lambda cuts: tuple(pairwise([0, *sorted(cuts), 12]))  # noqa: E731
    means = torch.stack([values[:, a:b].mean(1) for a, b in shards(held)])
    total = torch.zeros(5, dtype=torch.float64)
    for a, b in shards(wanted):
        found = restated(means, shards(held), (a, b))
        total += found * (b - a)
        if {a, b} <= {0, *held, 12}:
            torch.testing.assert_close(found, values[:, a:b].mean(1))
        elif whole := [i for i, (c, d) in enumerate(shards(held)) if c <= a and b <= d]:
            torch.testing.assert_close(found, means[whole[0]])
    torch.testing.assert_close(total / 12, values.mean(1))


def shards_of_columns(path: Path, fours: bool = False) -> dict[str, torch.Tensor]:
    """The row-wise statistics of a checkpoint, ``[column shards, rows]``."""
    shards = {t.name: t.dim // 4 if fours else 2 for t in SPEC.tables}
    sums = {f"tables.{t.name}.sum": torch.zeros(shards[t.name] * t.rows) for t in SPEC.tables}
    load(path, sums)
    return {f"tables.{t}.sum": sums[f"tables.{t}.sum"].view(n, -1) for t, n in shards.items()}


def test_row_wise_statistics_of_columns_are_those_of_rows_elsewhere(ranks: Ranks, tmp_path: Path) -> None:
    """One step from equal tables: both have the same gradients then, the shards means over half of the columns each."""
    rule, columns = "rowwise_adagrad", dict.fromkeys("abc", "column_wise")
    of_columns, of_rows, of_columns_again, of_fours, back = (tmp_path / f"step-{i}" for i in range(5))
    ranks.run(2, train_and_save, of_columns, rule, columns, range(1), None)
    wanted = {n: x for n, x in train_locally(rule, range(1))[1].items() if n.endswith(".sum")}
    halves = shards_of_columns(of_columns)
    assert any(not torch.allclose(x[0], x[1], rtol=0.1) for x in halves.values())
    read = whole_tables(of_columns, rule, None)
    close({n: read[n] for n in wanted}, wanted)  # by a local store
    ranks.run(2, train_and_save, of_rows, rule, dict.fromkeys("abc", "row_wise"), range(0), of_columns)
    close(whole_tables(of_rows, rule, None), read)
    ranks.run(2, train_and_save, of_columns_again, rule, columns, range(0), of_rows)
    for name, x in shards_of_columns(of_columns_again).items():
        close({"": x}, {"": wanted[name].expand(2, -1)})
    ranks.run(4, train_and_save, of_fours, rule, FOURS, range(0), of_columns)
    finer = {n: x.repeat_interleave(2 if n == "tables.c.sum" else 1, dim=0) for n, x in halves.items()}
    close(shards_of_columns(of_fours, fours=True), finer)
    ranks.run(2, train_and_save, back, rule, columns, range(0), of_fours)
    close(shards_of_columns(back), halves)


def test_ranks_read_what_a_local_store_wrote(ranks: Ranks, tmp_path: Path) -> None:
    tables, named = train_locally("rowwise_adagrad", range(3))
    save(tmp_path / "step-3", named)
    b = tmp_path / "step-5"
    ranks.run(
        2, train_and_save, b, "rowwise_adagrad", dict.fromkeys("abc", "row_wise"), range(3, 5), tmp_path / "step-3"
    )
    close(whole_tables(b, "rowwise_adagrad", None), train_locally("rowwise_adagrad", range(3, 5), tables)[1])


def test_a_broken_save_is_no_checkpoint_and_errors_name_what_is_wrong(tmp_path: Path) -> None:
    named = {"x": torch.arange(3.0), **as_named("p", {"a": [torch.ones(2)]})}
    save(tmp_path / "step-1", named)
    (tmp_path / ".step-2.part").mkdir()
    (tmp_path / "step-3").mkdir()
    assert last_whole(tmp_path) == tmp_path / "step-1"
    with pytest.raises(CheckpointError, match="already"):
        save(tmp_path / "step-1", named)
    with pytest.raises(CheckpointError, match=r"'y' is missing.*'p.a.0', 'x'"):
        load(tmp_path / "step-1", {"y": torch.zeros(3)})
    with pytest.raises(CheckpointError, match=r"'x': got \(3,\), expected \(2,\)"):
        load(tmp_path / "step-1", {"x": torch.zeros(2)})
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load(tmp_path / "step-3", named)
    read = {"x": torch.zeros(3), "p.a.0": torch.zeros(2)}
    load(tmp_path / "step-1", read)
    assert torch.equal(read["x"], named["x"])
    assert torch.equal(read["p.a.0"], torch.ones(2))
