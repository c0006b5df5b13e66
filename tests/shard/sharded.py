"""What the ranks do in the tests of the sharded store: ten steps beside a local store that sees everybody's rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.init import Uniform
from funcrec.core.ragged import Ids, Nested, Ragged, concat_ids
from funcrec.core.random import key
from funcrec.embedding import EmbeddingGroup, EmbeddingSpec, Lookup, SequenceGroup, Table, rowwise_store
from funcrec.embedding.rows import add, scale
from funcrec.optim import rowwise
from funcrec.optim.rowwise import RowRule
from funcrec.shard import Constraint, Plan, plan
from funcrec.shard.blocks import local_blocks
from funcrec.shard.store import sharded_store

RULES = {
    "sgd": rowwise.sgd(0.1),
    "adagrad": rowwise.adagrad(0.1),
    "rowwise_adagrad": rowwise.rowwise_adagrad(0.1, initial_accumulator=0.05),
    "decaying": rowwise.sgd(lambda k: 0.1 / (1 + k)),
    "adam": rowwise.adam(0.02),  # not on CPUs
    "partial_rowwise_adam": rowwise.partial_rowwise_adam(0.02),
}


def make_spec(histories: bool, dtype: torch.dtype = torch.float32, single: bool = False) -> EmbeddingSpec:
    """Shared tables, two dims, means (not for ``single`` ids), one feature in two groups; with histories that share a
    pooled table."""
    init = Uniform(-0.5, 0.5)
    sizes = {"a": (13, 8), "b": (8, 8), "c": (10, 16)}
    tables = [Table(name=n, rows=r, dim=d, init=init, dtype=dtype) for n, (r, d) in sizes.items()]
    x, y = Lookup(feature="x", table="a"), Lookup(feature="y", table="b", pooling="sum" if single else "mean")
    wide = EmbeddingGroup(name="wide", lookups=(x, y))
    others = (Lookup(feature="x", table="c"), Lookup(feature="z", table="a"))
    deep = EmbeddingGroup(name="deep", lookups=(y, *others))
    keys = (Lookup(feature="h", table="a"), Lookup(feature="g", table="c", pooling="mean"))
    past = SequenceGroup(name="past", lookups=keys)
    return EmbeddingSpec(tables=tuple(tables), groups=(wide, deep), sequences=(past,) if histories else ())


def make_ids(seed: int, n: int, histories: bool, weighted: bool, single: bool = False) -> Ids:
    """One id a row, bags of none to three ids (not if ``single``), histories of ids and of bags."""
    g = torch.Generator().manual_seed(seed)
    draw = lambda high, *shape: torch.randint(0, high, shape, generator=g)  # noqa: E731
    lengths = draw(4, n)
    nnz = int(lengths.sum())
    weights = torch.rand(nnz, generator=g) + 0.1 if weighted else None
    ids: dict[str, Any] = {"x": draw(9, n), "y": Ragged.from_lengths(draw(6, nnz), lengths, weights), "z": draw(13, n)}
    if single:
        ids["y"] = draw(6, n)
    if histories:
        steps = draw(4, n)
        total = int(steps.sum())
        bags = draw(3, total)
        ids["h"] = Ragged.from_lengths(draw(13, total), steps)
        ids["g"] = Nested.from_lengths(Ragged.from_lengths(draw(9, int(bags.sum())), bags), steps)
    return ids


def gradient_of(emb: TensorDict, seed: int) -> TensorDict:
    """Some function of the vectors themselves, so that an error grows from step to step."""
    return emb.apply(lambda x: torch.sin(3 * x.float() + seed).to(x.dtype))  # type: ignore[return-value]


def whole(parts: Sequence[Ids]) -> Ids:
    return {name: concat_ids([p[name] for p in parts]) for name in parts[0]}


def make_plan(
    spec: EmbeddingSpec, rule: RowRule, world: int, kinds: Mapping[str, str], batch: int, device: str = "cpu"
) -> Plan:
    halves = {t.name: t.dim // 2 for t in spec.tables}
    limits = {
        t: Constraint(sharding=(k,), columns=halves[t] if k in ("column_wise", "grid") else None)
        for t, k in kinds.items()
    }
    if device == "cpu" and {"table_row_wise", "grid"} & set(kinds.values()):  # of two hosts, by torchrec's own account
        topology = f"2x{world // 2}xcpu"
    else:
        topology = f"{world}x{device}"
    return plan(spec, topology, batch=batch, rule=rule, constraints=limits)


def compare(
    rank: int,
    world: int,
    group: dist.ProcessGroup,
    kinds: Mapping[str, str],
    rule: str,
    histories: bool,
    sizes: Sequence[int],
    weighted: bool,
    micro: int,
    dtype: torch.dtype,
    single: bool,
    steps: int = 10,
    device: str = "cpu",
) -> dict[str, float]:
    """The largest difference of vectors and of tables from those of the local store, by name."""
    spec, rows = make_spec(histories, dtype, single), RULES[rule]
    where = make_plan(spec, rows, world, kinds, max(sizes), "cpu" if device == "cpu" else "H100")
    ours = sharded_store(spec, rows, where, group=group)
    # One id a row in all bags that are exchanged goes the direct way.
    pooled = {t: kinds[t] for t in ("b" if histories else "abc") if kinds[t] != "data_parallel"}
    direct = bool(pooled) and set(pooled.values()) <= {"table_wise", "column_wise"} and len(set(sizes)) == 1
    direct = direct and (single or "b" not in pooled)
    local = rowwise_store(spec, rows)
    tables, all_tables = ours.init(key(3, device)), local.init(key(3, device))
    worst: dict[str, float] = {}

    def seen(name: str, a: Tensor, b: Tensor) -> None:
        assert a.shape == b.shape, (name, a.shape, b.shape)
        assert a.dtype == b.dtype
        error = float(((a - b).abs() / b.abs().clamp(min=1)).max()) if a.numel() else 0.0
        worst[name] = max(worst.get(name, 0.0), error)

    for step in range(steps):
        gradients, local_gradients = [], []
        for m in range(micro):
            parts: list[Any] = [
                {n: x.to(device) for n, x in make_ids(1000 * step + 10 * m + r, s, histories, weighted, single).items()}
                for r, s in enumerate(sizes)
            ]
            emb, touched = ours.lookup(tables, parts[rank])
            assert (touched.ids.arrived().direct is not None) == direct
            everybody, all_touched = local.lookup(all_tables, whole(parts))
            start = sum(sizes[:rank])
            for name in emb.keys():
                mine = everybody[name][start : start + sizes[rank]]
                mine = mine[:, : emb[name].shape[1]] if name == "past" else mine  # padded to the longest of all ranks
                seen(f"emb.{name}", emb[name], mine)
            gradients.append(ours.gradient(tables, touched, gradient_of(emb, step)))
            local_gradients.append(local.gradient(all_tables, all_touched, gradient_of(everybody, step)))
        half = lambda gs: scale(add(gs), 0.5)  # noqa: E731
        tables = ours.apply(tables, half(gradients))
        all_tables = local.apply(all_tables, half(local_gradients))
    for module in tables["modules"].values():
        for b in local_blocks(module, rows):
            stack = spec.stack_of[b.table]
            source = all_tables["weights"][stack.name] if b.slot is None else all_tables["slots"][stack.name][b.slot]
            first = stack.offsets[b.table] + b.row
            block = source[first : first + b.values.shape[0]]
            if block.dim() == 2:
                block = block[:, b.column : b.column + b.values.shape[1]]
            seen(f"{b.slot or 'weight'}.{b.table}", b.values, block)
    copied = tuple(t for t in spec.tables if where[t.name].kind == "data_parallel")
    copies = EmbeddingSpec(tables=copied, groups=())
    for t in copied:
        mine = copies.table(tables["replicated"]["weights"], t.name)
        seen(f"weight.{t.name}", mine, spec.table(all_tables["weights"], t.name))
    return worst
