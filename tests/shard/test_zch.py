"""A managed store over ranks is the managed local store on everybody's rows: ids, slots and fresh rows alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from funcrec.core.errors import CheckpointError, ConfigError
from funcrec.core.init import Normal, RowCountUniform
from funcrec.core.ragged import Ids, Ragged
from funcrec.core.random import key
from funcrec.embedding import (
    EmbeddingGroup,
    EmbeddingSpec,
    Lookup,
    SequenceGroup,
    Table,
    ZchConfig,
    managed,
    rowwise_store,
)
from funcrec.embedding.rows import add, scale
from funcrec.shard import everyones_ids, sharded_store
from funcrec.shard.blocks import local_blocks
from funcrec.shard.checkpoint import load, save, tensors_of
from funcrec.shard.replicated import replicated_store
from funcrec.train.replicas import no_ids
from tests.shard import sharded
from tests.shard.processes import Ranks
from tests.shard.sharded import RULES, gradient_of, make_plan

CONFIGS = {"item": ZchConfig(policy="distance_lfu", interval=3), "user": ZchConfig(policy="lru", interval=2, admit=2)}
KINDS = ("row_wise", "table_wise", "column_wise", "data_parallel")
STEPS = 12


def make_spec(rows: int = 9) -> EmbeddingSpec:
    """``item`` is read by bags and histories, ``user`` by single ids, beside a table that is not managed."""
    tables = (
        Table(name="item", rows=rows, dim=8, init=RowCountUniform()),
        Table(name="user", rows=6, dim=8, init=Normal(0.5)),
        Table(name="plain", rows=8, dim=16, init=Normal(0.5)),
    )
    a, u, p = (Lookup(feature=f, table=t) for f, t in (("a", "item"), ("u", "user"), ("p", "plain")))
    past = SequenceGroup(name="past", lookups=(Lookup(feature="h", table="item"),))
    return EmbeddingSpec(tables=tables, groups=(EmbeddingGroup(name="deep", lookups=(a, u, p)),), sequences=(past,))


SPEC = make_spec()


def make_ids(seed: int, n: int) -> Ids:
    """Raw ids, far apart, of which others are frequent later on."""
    if not n:
        return no_ids(SPEC, torch.device("cpu"))
    g = torch.Generator().manual_seed(seed)
    draw = lambda high, size: torch.randint(0, high, (size,), generator=g)  # noqa: E731
    bags, steps = draw(3, n), draw(4, n)
    far = lambda size: (draw(4, size) * draw(4, size) + seed // 1000 - 9) * (2**62 // 16)  # noqa: E731
    return {
        "a": Ragged.from_lengths(far(int(bags.sum())), bags),
        "h": Ragged.from_lengths(far(int(steps.sum())), steps),
        "u": far(n),
        "p": draw(8, n),
    }


def whole(parts: list[Ids]) -> Ids:
    """Everybody's rows; those of ranks without any are ragged whatever the others' are."""
    return sharded.whole([p for p in parts if len(p["p"])])


def store_of(rule: str, world: int | None, kind: str, group: Any) -> Any:
    """The local store for a world of None."""
    if world is None:
        return managed(rowwise_store(SPEC, RULES[rule]), CONFIGS)
    if kind == "replicated":
        return managed(replicated_store(rowwise_store(SPEC, RULES[rule]), group), CONFIGS, gather=everyones_ids(group))
    plan = make_plan(SPEC, RULES[rule], world, dict.fromkeys(("item", "user", "plain"), kind), 4)
    return managed(sharded_store(SPEC, RULES[rule], plan, group=group), CONFIGS, gather=everyones_ids(group))


def step(store: Any, tables: Any, micro: list[Ids], number: int) -> Any:
    gradients = []
    for ids in micro:
        emb, touched = store.lookup(tables, ids)
        gradients.append(store.gradient(tables, touched, gradient_of(emb, number)))
    return store.apply(tables, store.regularize(tables, scale(add(gradients), 1 / len(micro))))


def compare(rank, world, group, kind, rule, sizes, micro, path):
    """Twelve steps beside a local store on everybody's rows; what a checkpoint says of the tables."""
    ours, local = store_of(rule, world, kind, group), store_of(rule, None, kind, group)
    tables, all_tables = ours.init(key(3)), local.init(key(3))
    changed = 0
    for number in range(STEPS):
        parts = [[make_ids(1000 * number + 10 * m + r, n) for r, n in enumerate(sizes)] for m in range(micro)]
        emb = ours.lookup(tables, parts[0][rank])[0]["deep"]
        start = sum(sizes[:rank])
        everybody = local.lookup(all_tables, whole(parts[0]))[0]["deep"]
        torch.testing.assert_close(emb, everybody[start : start + sizes[rank]], rtol=1e-6, atol=1e-6)
        before = dict(
            zip(all_tables["zch"]["item"]["slots"].tolist(), all_tables["zch"]["item"]["ids"].tolist(), strict=True)
        )
        tables = step(ours, tables, [p[rank] for p in parts], number)
        all_tables = step(local, all_tables, [whole(p) for p in parts], number)
        held = all_tables["zch"]["item"]
        changed += sum(before[s] != i for s, i in zip(held["slots"].tolist(), held["ids"].tolist(), strict=True))
        for name, m in tables["zch"].items():
            assert all(torch.equal(x, all_tables["zch"][name][n]) for n, x in m.items()), (name, number)
    save(path, tensors_of(SPEC, RULES[rule], tables), group)
    return changed, tensors_of(SPEC, RULES[rule], all_tables)


def read(path: Path, rule: str) -> Any:
    """A checkpoint as the tables of a local store."""
    tables = store_of(rule, None, "", None).init(key(99))
    load(path, tensors_of(SPEC, RULES[rule], tables))
    return tables


def close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, x in a.items():
        exact = name.startswith("tables.zch")
        torch.testing.assert_close(x, b[name], rtol=0 if exact else 1e-5, atol=0 if exact else 1e-6)


def check(found: list[Any], path: Path, rule: str) -> None:
    assert min(changed for changed, _ in found) > 12, "more than the eight slots once"
    close(tensors_of(SPEC, RULES[rule], read(path, rule)), found[0][1])


CASES = [(kind, rule, (3, 2), 1) for kind in KINDS for rule in ("adagrad", "rowwise_adagrad")]
CASES.remove(("column_wise", "rowwise_adagrad", (3, 2), 1))  # another optimizer: one statistic a row and column shard
CASES += [
    ("row_wise", "decaying", (4, 0), 2),
    ("table_wise", "adagrad", (0, 3), 2),
    ("replicated", "adagrad", (3, 0), 1),
]


@pytest.mark.parametrize(("kind", "rule", "sizes", "micro"), CASES)
def test_ranks_hold_the_map_and_the_rows_of_one_process(
    ranks: Ranks, tmp_path: Path, kind: str, rule: str, sizes: tuple[int, int], micro: int
) -> None:
    check(ranks.run(2, compare, kind, rule, sizes, micro, tmp_path / "step-1"), tmp_path / "step-1", rule)


def go_on(rank, world, group, kind, rule, start, path):
    store = store_of(rule, world if kind else None, kind, group)
    tables = store.init(key(7))
    load(start, tensors_of(SPEC, RULES[rule], tables), group)
    for number in range(STEPS, STEPS + 7):
        parts = [make_ids(1000 * number + r, 1) for r in range(4)]
        tables = step(store, tables, [whole(parts[rank::world])], number)
    save(path, tensors_of(SPEC, RULES[rule], tables), group)


def test_other_ranks_and_one_process_go_on_from_a_checkpoint(ranks: Ranks, tmp_path: Path) -> None:
    rule, start = "rowwise_adagrad", tmp_path / "step-1"
    ranks.run(2, compare, "row_wise", rule, (3, 2), 1, start)
    go_on(0, 1, None, None, rule, start, tmp_path / "alone")
    alone = tensors_of(SPEC, RULES[rule], read(tmp_path / "alone", rule))
    for world, kind in ((1, "row_wise"), (2, "table_wise"), (2, "row_wise")):
        path = tmp_path / f"{world} {kind}"
        ranks.run(world, go_on, kind, rule, start, path)
        close(tensors_of(SPEC, RULES[rule], read(path, rule)), alone)
    tables = managed(rowwise_store(make_spec(11), RULES[rule]), CONFIGS).init(key(0))
    with pytest.raises(CheckpointError, match=r"zch\.item\..*got \(8,\), expected \(10,\)"):
        load(start, tensors_of(make_spec(11), RULES[rule], tables))


def resets(rank, world, group, kind):
    """Rows of a trained table start afresh: the largest errors of these rows and of the others, by slot."""
    rule = RULES["rowwise_adagrad"]
    plan = make_plan(SPEC, rule, world, dict.fromkeys(("item", "user", "plain"), kind), 4)
    store = sharded_store(SPEC, rule, plan, group=group)
    ids = {"a": torch.arange(9), "u": torch.arange(9) % 6, "p": torch.arange(9) % 8}
    ids["h"] = Ragged.from_lengths(ids["a"], torch.ones(9, dtype=torch.int64))  # type: ignore[assignment]
    tables = store.init(key(rank))
    emb, touched = store.lookup(tables, ids)
    tables = store.update(tables, touched, gradient_of(emb, 0))
    blocks = lambda: [b for m in tables["modules"].values() for b in local_blocks(m, rule)]  # noqa: E731
    before = [b.values.clone() for b in blocks()]
    rows, values = torch.tensor([8, 1, 4]), torch.arange(24.0).reshape(3, 8)
    tables, seen = store.reset(tables, "item", rows, values), 0
    for b, old in zip(blocks(), before, strict=True):
        wanted, n = old.clone(), old.shape[0]
        if b.table == "item":
            first = b.row if kind == "row_wise" else 0
            for r, value in zip(rows.tolist(), values, strict=True):
                if first <= r < first + n:
                    seen += 1
                    wanted[r - first] = 0.05 if b.slot else value[b.column : b.column + b.values.shape[1]]
        assert torch.equal(b.values, wanted), (b.table, b.slot)
    return seen


@pytest.mark.parametrize("kind", ["row_wise", "table_wise", "column_wise"])
def test_each_rank_resets_the_rows_that_it_holds_and_no_others(ranks: Ranks, kind: str) -> None:
    """A weight and a statistic of three rows, of both column shards if there are two."""
    assert sum(ranks.run(2, resets, kind)) == (12 if kind == "column_wise" else 6)


def refused(rank, world, group):
    plan = make_plan(SPEC, RULES["sgd"], world, dict.fromkeys(("item", "user", "plain"), "row_wise"), 4)
    store = sharded_store(SPEC, RULES["sgd"], plan, group=group)
    with pytest.raises(ConfigError, match=r"gather: got None for 2 processes.*everyones_ids\(group\)"):
        managed(store, CONFIGS)


def test_a_store_of_many_processes_needs_everyones_ids(ranks: Ranks) -> None:
    ranks.run(2, refused)
